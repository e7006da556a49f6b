"""Mini LibriSpeech: 5 hours of LibriSpeech's train-clean-100 and 2 of dev-clean, for quick experiments."""

from __future__ import annotations

from asr.corpora import librispeech
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.download.remote import openslr

PATH = "/resources/31/{subset}.tar.gz"

# MD5: https://www.openslr.org/resources/31/md5sum.txt, also in PaddleSpeech's mini_librispeech.py; test-clean is
# LibriSpeech's own (https://www.openslr.org/resources/12/md5sum.txt). OpenSLR 31 publishes no test set.
_FILES = (
    ("train-clean-5", "/resources/31/train-clean-5.tar.gz", 332_954_390, "5df7d4e78065366204ca6845bb08f490"),
    ("dev-clean-2", "/resources/31/dev-clean-2.tar.gz", 126_046_265, "6d7ab67ac6a1d2c993d050e16d61080d"),
    ("test-clean", "/resources/12/test-clean.tar.gz", 346_663_984, "32fa31d27d2e1cad72775fee3f4849a9"),
)


def prepare(request: Request) -> Corpus:
    """Return each subset, and the same as ``train``, ``dev`` and ``test``."""
    return librispeech.prepare(RECIPE, request, PATH)


RECIPE = Recipe(
    name="mini_librispeech",
    title="Mini LibriSpeech",
    hours=12.4,
    sample_rate_hz=16000,
    licence="CC BY 4.0",
    homepage="https://www.openslr.org/31",
    prepare=prepare,
    archive="train-clean-5.tar.gz, dev-clean-2.tar.gz (homepage) and test-clean.tar.gz (https://www.openslr.org/12)",
    files=tuple(openslr(path, size, md5, subset) for subset, path, size, md5 in _FILES),
    normalization="librispeech",
    # as LibriSpeech has it; of the other two nobody publishes the number
    utterances={"test-clean": 2_620},
)
