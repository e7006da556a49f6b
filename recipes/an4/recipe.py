"""CMU AN4: 948 training and 130 test utterances of spelled names, addresses, dates and commands (1991)."""

from __future__ import annotations

import re
from pathlib import Path

from asr.corpora.corpus import corpus_folder
from asr.corpora.importers.rows import read_lines, reference
from asr.corpora.recipe import Prepared, Recipe, Request, held_out_speakers, write_splits
from asr.data import audio
from asr.data.manifest import Utterance
from asr.download.remote import Remote
from asr.errors import DataError

DEV_FRACTION = 0.1
_LINE = re.compile(r"^(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*$")


def prepare(request: Request) -> Prepared:
    """Manifests ``train``, ``dev`` (10 % of the training speakers) and ``test`` (the official one) from the archive."""
    folder = corpus_folder(
        RECIPE,
        request,
        "etc/an4_train.transcription",
        lambda name: name.endswith((".sph", ".transcription", ".fileids", "LICENSE")),
    )
    dropped: dict[str, str] = {}
    train = _split(folder, request.out, "train", dropped)
    held_out = held_out_speakers((u.speaker for u in train), DEV_FRACTION, salt="an4")
    return write_splits(
        request.out,
        {
            "train": [u for u in train if u.speaker not in held_out],
            "dev": [u for u in train if u.speaker in held_out],
            "test": _split(folder, request.out, "test", dropped),
        },
        dropped,
    )


def _split(folder: Path, out: Path, split: str, dropped: dict[str, str]) -> list[Utterance]:
    etc = folder / "etc"
    texts = {}
    for number, line in read_lines(etc / f"an4_{split}.transcription"):
        match = _LINE.match(line)
        if match is None:
            raise DataError("expected 'TEXT (utterance-id)'", etc / f"an4_{split}.transcription", number)
        texts[match["id"]] = " ".join(match["text"].replace("<s>", " ").replace("</s>", " ").split())
    rows = []
    names = [name for _, name in read_lines(etc / f"an4_{split}.fileids")]
    for id_ in sorted(texts.keys() - {Path(name).name for name in names}):
        dropped[id_] = f"not listed in an4_{split}.fileids"
    for name in names:
        id_ = Path(name).name
        path = folder / "wav" / f"{name}.sph"
        if not texts.get(id_):
            dropped[id_] = "no transcript"
            continue
        try:
            header = audio.info(path)
        except DataError as error:
            dropped[id_] = str(error)
            continue
        if header.num_samples == 0:
            dropped[id_] = "no samples"
            continue
        # an4_clstk/fash/an251-fash-b: corpus, speaker, prompt-speaker-form
        speaker = Path(name).parent.name
        rows.append(Utterance(id_, reference(path, out), round(header.duration_s, 4), texts[id_], speaker))
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
    # CMU publishes no checksum. Its host is often down; NVIDIA keeps the copy that NeMo's tutorials fetch.
    files=(
        Remote(
            "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
            copies=("https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",),
        ),
    ),
)
