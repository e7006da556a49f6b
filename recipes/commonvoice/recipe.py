"""Mozilla Common Voice, scripted speech: any language, any release, from the archive that one has downloaded."""

from __future__ import annotations

from pathlib import Path

from asr.corpora.corpus import corpus_folder
from asr.corpora.importers.rows import Row, measure
from asr.corpora.importers.table import column, read_table
from asr.errors import DataError
from asr.manifest import Utterance
from asr.prepare import Prepared, Recipe, Request, write_splits

SPLITS = ("train", "dev", "test")
#: column of the tables -> key in ``meta``; releases before 7 have accent, those since have accents
META = {"age": "age", "gender": "gender", "accent": "accent", "accents": "accent", "variant": "variant"}


def prepare(request: Request) -> Prepared:
    """Manifests ``train``, ``dev`` and ``test``, as the release has them; the language is the folder's name."""
    folder = corpus_folder(
        RECIPE, request, "train.tsv", lambda name: name.endswith((".mp3", *(f"/{split}.tsv" for split in SPLITS)))
    )
    splits: dict[str, list[Utterance]] = {}
    dropped: dict[str, str] = {}
    for name in SPLITS:
        lost: dict[str, str] = {}
        splits[name] = measure(_rows(folder, name), request.out, lost)
        if not splits[name]:
            raise DataError(
                "no clip can be used; small languages have empty splits: take validated.tsv with 'asr prepare csv' and "
                f"--dev ({next(iter(lost.values()), 'no rows')})",
                folder / f"{name}.tsv",
            )
        dropped |= lost
    return write_splits(request.out, splits, dropped)


def _rows(folder: Path, split: str) -> list[Row]:
    table = folder / f"{split}.tsv"
    header, records = read_table(table)
    at = {name: column(header, name, table) for name in ("client_id", "path", "sentence")}
    meta_at = {header.index(name): key for name, key in META.items() if name in header}
    rows = []
    for _, record in records:
        clip = record[at["path"]]
        clip = clip if clip.endswith(".mp3") else f"{clip}.mp3"  # releases before 2 have no suffix
        meta = {"language": folder.name} | {key: record[i] for i, key in meta_at.items() if record[i]}
        rows.append(
            Row(Path(clip).stem, folder / "clips" / clip, record[at["sentence"]], record[at["client_id"]], meta=meta)
        )
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
