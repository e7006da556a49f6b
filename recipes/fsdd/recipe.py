"""Free Spoken Digit Dataset: 3,000 recordings of single English digits by six speakers, 8 kHz."""

from __future__ import annotations

import re

from asr.corpora.corpus import corpus_folder
from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request, split_by
from asr.data.manifest import Utterance
from asr.download.remote import Remote
from asr.files import visible

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<index>[0-9]+)")


def prepare(request: Request) -> Corpus:
    """Return ``train``, ``dev`` and ``test``, by the number of the recording."""
    folder = corpus_folder(RECIPE, request, "recordings/*.wav", lambda name: name.endswith((".wav", "README.md")))
    rows = []
    dropped = {}
    for path in visible(folder, "recordings/*.wav"):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            dropped[path.stem] = "its name is not digit_speaker_number"
            continue
        rows.append(Row(path.stem, path, WORDS[int(match["digit"])], match["speaker"]))

    return Corpus(split_by(measure(rows, request.out, dropped), split_of), dropped)


def split_of(utterance: Utterance) -> str:
    """Return the split: the README makes 0 to 4 the test set and the rest the training set, of which 5 to 9 are dev."""
    index = int(utterance.id.rpartition("_")[2])
    if index < 5:
        return "test"
    return "dev" if index < 10 else "train"


RECIPE = Recipe(
    name="fsdd",
    title="Free Spoken Digit Dataset",
    hours=0.36,
    sample_rate_hz=8000,
    licence="CC BY-SA 4.0",
    homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    prepare=prepare,
    archive="the repository as .tar.gz (16 MB), from the homepage",
    # v1.0.10 is the release with all six speakers; GitHub publishes no checksum of such archives
    files=(Remote("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"),),
)
