"""LibriSpeech: 960 hours of read English, by 2,484 readers of LibriVox's public domain audio books (2015)."""

from __future__ import annotations

from asr.corpora import librispeech
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.download.remote import openslr

PATH = "/resources/12/{subset}.tar.gz"

# Bytes: sizes_new in Kaldi's egs/librispeech/s5/local/download_and_untar.sh, and tensorflow_datasets' librispeech.
# MD5: https://www.openslr.org/resources/12/md5sum.txt, also in Lhotse and in PaddleSpeech's librispeech.py.
_FILES = (
    ("train-clean-100", 6_387_309_499, "2a93770f6d5c6c964bc36631d331a522"),
    ("train-clean-360", 23_049_477_885, "c0e676e450a7ff2f54aeade5171606fa"),
    ("train-other-500", 30_593_501_606, "d1a0fd59409feb2c614ce4d30c387708"),
    ("dev-clean", 337_926_286, "42e2234ba48799c1f50f24a7926300a1"),
    ("dev-other", 314_305_928, "c8d0bcc9cca99d4f8b62fcc847357931"),
    ("test-clean", 346_663_984, "32fa31d27d2e1cad72775fee3f4849a9"),
    ("test-other", 328_757_843, "fb5a50374b501bb3bac4815ee91d3135"),
)

#: how many utterances there are; also in the dataset card of Hugging Face's librispeech_asr
UTTERANCES = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}


def prepare(request: Request) -> Corpus:
    """Return each subset; ``train`` (all training subsets), ``dev`` and ``test`` (the clean ones)."""
    return librispeech.prepare(RECIPE, request, PATH)


RECIPE = Recipe(
    name="librispeech",
    title="LibriSpeech",
    hours=982,
    sample_rate_hz=16000,
    licence="CC BY 4.0",
    homepage="https://www.openslr.org/12",
    prepare=prepare,
    archive="train-clean-100.tar.gz and so on from the homepage, or a folder with LibriSpeech/<subset>",
    files=tuple(openslr(PATH.format(subset=subset), size, md5, subset) for subset, size, md5 in _FILES),
    default_subsets=("train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other"),
    normalization="librispeech",
    utterances=UTTERANCES,
)
