"""TED-LIUM 3, legacy distribution: 2,351 TED talks for training, 19 more for dev and test (2018)."""

from __future__ import annotations

import re
from pathlib import Path

from asr.corpora.corpus import corpus_folder
from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.data.lines import stripped_lines
from asr.data.manifest import Utterance, is_seconds
from asr.download.remote import openslr
from asr.errors import DataError
from asr.files import visible

#: legacy/train holds links to all talks of data/, so those are read; dev and test are those of releases 1 and 2
FOLDERS = {"train": "data", "dev": "legacy/dev", "test": "legacy/test"}
IGNORED = "ignore_time_segment_in_scoring"
#: {NOISE}, [NOISE], <sil>, pronunciation variants as in the(2), and at a line's end the segment's name in parentheses
_MARKS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|<sil>|\([0-9]\)|\([^() ]*\)$")


def prepare(request: Request) -> Corpus:
    """Return ``train``, ``dev`` and ``test`` of the legacy distribution; an utterance is a part of a talk's file."""
    folder = corpus_folder(
        RECIPE,
        request,
        "legacy/dev",
        lambda name: name.endswith((".stm", ".sph")) and any(f"/{part}/" in name for part in FOLDERS.values()),
    )
    splits: dict[str, list[Utterance]] = {}
    dropped: dict[str, str] = {}
    excluded: dict[str, str] = {}

    for split, part in FOLDERS.items():
        rows: list[Row] = []
        for path in visible(folder / part / "stm", "*.stm"):
            rows += _talk(path, split, dropped, excluded)
        splits[split] = measure(rows, request.out, dropped)

    return Corpus(splits, dropped, excluded)


def _talk(path: Path, split: str, dropped: dict[str, str], excluded: dict[str, str]) -> list[Row]:
    """Return the segments of one talk; ``excluded`` gets those that are not for training or scoring.

    Source: NIST's STM format: talk, channel, speaker, begin and end in seconds, label, text.
    """
    rows = []
    for number, line in stripped_lines(path):
        if line.startswith(";;"):
            continue
        try:
            talk, _, speaker, begin, end, label, *rest = line.split(None, 6)
            begin_s, end_s = float(begin), float(end)
            # a line of words, the rest of a text with a line feed in it
            if not (label.startswith("<") and is_seconds(begin_s) and is_seconds(end_s)):
                raise ValueError
        except ValueError as error:
            raise DataError("expected 'talk channel speaker begin end <label> text'", path, number) from error
        text = "".join(rest)
        id_ = f"{talk}-{round(100 * begin_s):07d}-{round(100 * end_s):07d}"
        if text.strip() == IGNORED:
            excluded[id_] = f"marked {IGNORED}"
        elif split == "train" and "<unk>" in text:
            excluded[id_] = "holds <unk>, a word that nobody wrote down"
        elif not spoken(text):
            excluded[id_] = "holds no word"
        elif end_s <= begin_s:
            dropped[id_] = f"ends at {end_s:g} s, but starts at {begin_s:g} s"
        else:
            gender = {"male": "m", "female": "f"}.get(label.strip("<>").rpartition(",")[2])
            meta = {"talk": talk} | ({"gender": gender} if gender else {})
            sph = path.parent.parent / "sph" / f"{talk}.sph"
            rows.append(Row(id_, sph, spoken(text), speaker, begin_s, round(end_s - begin_s, 4), meta))

    return rows


def spoken(text: str) -> str:
    """Return the words of a segment: without marks of noise, and with "it 's" as one word.

    Source: egs/tedlium/s5_r3/local/prepare_data.sh and join_suffix.py of Kaldi.

    >>> spoken("{NOISE} it 's the(2) <sil> first of [UH] us (JoeSmith_2010-3)")
    "it's the first of us"
    """
    words = _MARKS.sub("", text.replace("<unk>", " ")).split()
    return " ".join(words).replace(" '", "'")


RECIPE = Recipe(
    name="tedlium3",
    title="TED-LIUM 3 (legacy distribution)",
    hours=456,
    sample_rate_hz=16000,
    licence="CC BY-NC-ND 3.0: no commercial use, no changed copies",
    homepage="https://www.openslr.org/51",
    prepare=prepare,
    archive="TEDLIUM_release-3.tgz (about 54 GB) from the homepage",
    # OpenSLR publishes no checksum of it (torchaudio has SHA-256 ad1e454d…eccdb)
    files=(openslr("/resources/51/TEDLIUM_release-3.tgz"),),
)
