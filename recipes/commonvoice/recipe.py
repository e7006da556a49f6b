"""Mozilla Common Voice, scripted speech: any language, any release, from the archive that one has downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asr.corpora.corpus import corpus_folder
from asr.corpora.importers.table import read_table
from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.data.manifest import Utterance
from asr.errors import DataError, command

SPLITS = ("train", "dev", "test")
#: of the archive: the splits, and the table of all clips that people agreed on
TABLES = (*SPLITS, "validated")
#: column of the tables -> key in ``meta``; releases before 7 have accent, those since have accents
META = {"age": "age", "gender": "gender", "accent": "accent", "accents": "accent", "variant": "variant"}


def prepare(request: Request) -> Corpus:
    """Return ``train``, ``dev`` and ``test``, as the release has them; the language is the folder's name."""
    folder = corpus_folder(
        RECIPE, request, "train.tsv", lambda name: name.endswith((".mp3", *(f"/{table}.tsv" for table in TABLES)))
    )
    splits: dict[str, list[Utterance]] = {}
    dropped: dict[str, str] = {}

    for name in SPLITS:
        lost: dict[str, str] = {}
        splits[name] = measure(_rows(folder, name, lost), request.out, lost)
        if not splits[name]:
            raise DataError(_nothing_left(folder, lost), folder / f"{name}.tsv")
        dropped |= lost

    return Corpus(splits, dropped)


def _nothing_left(folder: Path, lost: Mapping[str, str]) -> str:
    """Describe why a split is empty, and what to do about one without rows, which small languages have."""
    if lost:
        return f"no clip can be used ({len(lost):,} left out; the first: {': '.join(next(iter(lost.items())))})"
    every_clip = folder / "validated.tsv"
    if not every_clip.is_file():
        return "has no rows, as the language is small, and validated.tsv, which has all clips, is not beside it"

    columns = ("--audio-column", "path", "--text-column", "sentence", "--speaker-column", "client_id")
    rest = ("--dev", "0.1", "--normalization", RECIPE.normalization, "--out", "DIR")
    advice = command("prepare", "csv", every_clip, *columns, *rest)
    return f"has no rows, as the language is small; all its clips: {advice}"


def _rows(folder: Path, split: str, dropped: dict[str, str]) -> list[Row]:
    """Return the clips of a split; rows that do not fit the header go to ``dropped``, with the reason."""
    table = read_table(folder / f"{split}.tsv")
    for name in ("client_id", "path", "sentence"):
        table.check_column(name)
    found, lost = table.rows("path", "sentence")
    dropped |= lost

    rows = []
    for record in found.values():
        clip = record["path"]
        clip = clip if clip.endswith(".mp3") else f"{clip}.mp3"  # releases before 2 have no suffix
        meta = {"language": folder.name} | {key: record[name] for name, key in META.items() if record.get(name)}
        rows.append(Row(Path(clip).stem, folder / "clips" / clip, record["sentence"], record["client_id"], meta=meta))
    return rows


RECIPE = Recipe(
    name="commonvoice",
    title="Mozilla Common Voice (one language)",
    hours=0,
    sample_rate_hz=48000,
    licence="CC0 1.0; do not try to find out who a speaker is",
    homepage="https://commonvoice.mozilla.org/datasets",
    prepare=prepare,
    archive="cv-corpus-…-LANGUAGE.tar.gz from the homepage (or Mozilla Data Collective), after you agree to its terms",
    normalization="lower-nopunct",
)
