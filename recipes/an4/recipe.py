"""CMU AN4: 948 training and 130 test utterances of spelled names, addresses, dates and commands (1991)."""

from __future__ import annotations

import re
from pathlib import Path

from asr.corpora.corpus import corpus_folder
from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request, held_out_speakers
from asr.data.lines import stripped_lines
from asr.download.remote import Remote
from asr.errors import DataError

DEV_FRACTION = 0.1
_LINE = re.compile(r"^(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*$")


def prepare(request: Request) -> Corpus:
    """Return ``train``, ``dev`` (10 % of the training speakers) and ``test`` (the official one) from the archive."""
    folder = corpus_folder(
        RECIPE,
        request,
        "etc/an4_train.transcription",
        lambda name: name.endswith((".sph", ".transcription", ".fileids", "LICENSE")),
    )
    dropped: dict[str, str] = {}
    train = measure(_rows(folder, "train", dropped), request.out, dropped)
    test = measure(_rows(folder, "test", dropped), request.out, dropped)

    held_out = held_out_speakers((u.speaker for u in train), DEV_FRACTION, salt="an4")
    splits = {
        "train": [u for u in train if u.speaker not in held_out],
        "dev": [u for u in train if u.speaker in held_out],
        "test": test,
    }
    return Corpus(splits, dropped)


def _rows(folder: Path, split: str, dropped: dict[str, str]) -> list[Row]:
    table = folder / "etc" / f"an4_{split}.transcription"
    texts = {}
    for number, line in stripped_lines(table):
        match = _LINE.match(line)
        if match is None:
            raise DataError("expected 'TEXT (utterance-id)'", table, number)
        texts[match["id"]] = " ".join(match["text"].replace("<s>", " ").replace("</s>", " ").split())

    # an4_clstk/fash/an251-fash-b: corpus, speaker, prompt-speaker-form
    names = {Path(name).name: name for _, name in stripped_lines(folder / "etc" / f"an4_{split}.fileids")}
    for id_ in sorted(texts.keys() - names.keys()):
        dropped[id_] = f"not listed in an4_{split}.fileids"
    rows = []

    for id_, name in names.items():
        if texts.get(id_):
            rows.append(Row(id_, folder / "wav" / f"{name}.sph", texts[id_], Path(name).parent.name))
        else:
            dropped[id_] = "no transcript"

    return rows


RECIPE = Recipe(
    name="an4",
    title="CMU AN4 (Census)",
    hours=0.8,
    sample_rate_hz=16000,
    licence="CMU, free for any use with notice (an4/LICENSE)",
    homepage="http://www.speech.cs.cmu.edu/databases/an4/",
    prepare=prepare,
    archive="an4_sphere.tar.gz (64 MB) from the homepage",
    # CMU publishes no checksum. Its host has no https and is often down: the copy of NeMo's tutorials is tried first.
    files=(
        Remote(
            "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
            copies=("https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",),
        ),
    ),
)
