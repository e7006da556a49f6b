"""YesNo: sixty recordings of eight Hebrew words each, yes or no, by one man (made for Kaldi)."""

from __future__ import annotations

import re

from asr.corpora.corpus import corpus_folder
from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request, held_out_speakers, split_by
from asr.data.manifest import Utterance
from asr.download.remote import openslr
from asr.files import visible

#: KEN and LO are what is said; YES and NO what Kaldi's recipe, and so everybody, writes
WORDS = {"1": "YES", "0": "NO"}
DEV_FRACTION = 0.1


def prepare(request: Request) -> Corpus:
    """Return ``train`` and ``dev`` (together icefall's training set), and ``test`` (icefall's)."""
    folder = corpus_folder(RECIPE, request, "[01]_[01]_[01]_*.wav", lambda name: name.endswith((".wav", "README")))
    rows = []
    dropped = {}
    for path in visible(folder, "*.wav"):
        if re.fullmatch(r"[01](_[01]){7}", path.stem) is None:
            dropped[path.stem] = "its name is not eight times 0 or 1"
            continue
        rows.append(Row(path.stem, path, " ".join(WORDS[c] for c in path.stem.split("_")), "M"))

    # Sorted by name, every second recording is for testing. Kaldi takes the second half: then every recording that is
    # trained on begins with NO and every one that is tested with YES, and a network that sees the whole recording
    # learns that the first word is NO.
    trained_on = [row.id for row in rows[::2]]
    dev = held_out_speakers(trained_on, DEV_FRACTION, salt="yesno")  # utterances: there is one speaker

    def split_of(utterance: Utterance) -> str:
        if utterance.id not in trained_on:
            return "test"
        return "dev" if utterance.id in dev else "train"

    return Corpus(split_by(measure(rows, request.out, dropped), split_of), dropped)


RECIPE = Recipe(
    name="yesno",
    title="YesNo (Hebrew)",
    hours=0.1,
    sample_rate_hz=8000,
    licence="none stated; made to be used freely (README of the archive)",
    homepage="https://www.openslr.org/1",
    prepare=prepare,
    archive="waves_yesno.tar.gz (5 MB) from the homepage",
    # OpenSLR publishes no checksum of it (torchaudio has SHA-256 c3f49e0c…8e73)
    files=(openslr("/resources/1/waves_yesno.tar.gz"),),
)
