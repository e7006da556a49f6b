"""LibriSpeech's language models, vocabulary and text: from 14,500 public domain books of Project Gutenberg."""

from __future__ import annotations

import shutil

from asr.corpora.recipe import Corpus, Recipe, Request
from asr.corpora.sources import check_room, chosen_files, obtain
from asr.download.remote import openslr
from asr.files import open_atomic

# OpenSLR 11 publishes no checksums; a gzip file's own is checked instead. Bytes: Kaldi's
# egs/librispeech/s5/local/download_lm.sh, whose versions differ in the lexicon's. MD5 of the text: the recipe of CAT
# (thu-spmi), and others that computed the same.
_FILES = (
    ("3-gram.pruned.3e-7", "3-gram.pruned.3e-7.arpa.gz", 13_654_242, ""),
    ("3-gram.pruned.1e-7", "3-gram.pruned.1e-7.arpa.gz", 34_094_057, ""),
    ("3-gram", "3-gram.arpa.gz", 759_636_181, ""),
    ("4-gram", "4-gram.arpa.gz", 1_355_172_078, ""),
    ("vocabulary", "librispeech-vocab.txt", 1_737_588, ""),
    ("lexicon", "librispeech-lexicon.txt", 0, ""),
    ("text", "librispeech-lm-norm.txt.gz", 0, "c83c64c726a1aedfe65f80aa311de402"),
)


def prepare(request: Request) -> Corpus:
    """Put the files into ``request.out``: there is no speech, so there are no manifests."""
    files = chosen_files(RECIPE, request)
    check_room(request, files, unpacked=False, folder="")
    paths = {}
    for file in files:
        found = obtain(RECIPE, request, file, folder="")
        path = request.out / file.name
        paths[file.subset] = path
        if found != path:  # from --archive or the mirror's folder
            with found.open("rb") as source, open_atomic(path, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)

    return Corpus({}, files=paths)


RECIPE = Recipe(
    name="librispeech-lm",
    title="LibriSpeech language models",
    hours=0,
    sample_rate_hz=16000,
    licence="public domain",
    homepage="https://www.openslr.org/11",
    prepare=prepare,
    archive="3-gram.pruned.1e-7.arpa.gz and so on from the homepage",
    files=tuple(openslr(f"/resources/11/{name}", size, md5, subset) for subset, name, size, md5 in _FILES),
    default_subsets=("3-gram.pruned.1e-7", "vocabulary"),
    speech=False,
)
