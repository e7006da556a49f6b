"""speechocean762: 5,000 English sentences by 250 speakers of Mandarin, half of them children (2021)."""

from __future__ import annotations

from dataclasses import replace

from asr.corpora.corpus import corpus_folder
from asr.corpora.importers import kaldi
from asr.corpora.importers.importer import collect
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.download.remote import openslr

DEV_FRACTION = "0.1"


def prepare(request: Request) -> Corpus:
    """Return ``train``, ``dev`` (10 % of the training speakers) and ``test`` (the published one).

    ``meta`` has ``gender``, ``age`` and ``group``: a child is under 16. As nobody is 16 to 18, any border in between
    makes the same groups.
    """
    folder = corpus_folder(
        RECIPE, request, "train/wav.scp", lambda name: "/WAVE/" in name or "/train/" in name or "/test/" in name
    )
    found = {name: kaldi.read_directory(folder / name) for name in ("train", "test")}
    return collect(replace(request, options={"dev": DEV_FRACTION}), found)


RECIPE = Recipe(
    name="speechocean762",
    title="speechocean762",
    hours=5.6,
    sample_rate_hz=16000,
    licence="CC BY 4.0 (cite arXiv:2104.01378)",
    homepage="https://www.openslr.org/101",
    prepare=prepare,
    archive="speechocean762.tar.gz from the homepage",
    # OpenSLR publishes no checksum of it
    files=(openslr("/resources/101/speechocean762.tar.gz"),),
)
