"""Files of transcripts by utterance id: manifests, hypothesis files, tables, lines of ``id text``, NIST's formats.

Files of one recording, as subtitles and Whisper's documents, have its text under the file's name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.lines import numbered_lines, unique_ids
from asr.errors import DataError
from asr.scoring import nist, recordings
from asr.scoring.columns import HYPOTHESIS_COLUMNS, ID_COLUMNS, PATH_COLUMNS, REFERENCE_COLUMNS, read_table
from asr.scoring.kinds import OF_ONE_RECORDING, Kind, kind_of
from asr.scoring.nist import CtmWord
from asr.scoring.stm import Stretch, read_stm


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an utterance beside its text; empty or None: not known."""

    speaker: str = ""
    duration_s: float | None = None
    meta: Mapping[str, Any] | None = None

    def over(self, other: Facts) -> Facts:
        """Both, field by field; where they differ, this one's."""
        meta = {**(other.meta or {}), **(self.meta or {})}
        duration_s = other.duration_s if self.duration_s is None else self.duration_s
        return Facts(self.speaker or other.speaker, duration_s, meta or None)

    def to_json(self) -> dict[str, Any]:
        """What is known, under the names of a manifest."""
        row = {"speaker": self.speaker, "duration_s": self.duration_s, "meta": self.meta}
        return {name: value for name, value in row.items() if value or value == 0}


NOTHING_KNOWN = Facts()
#: the fields of JSON rows that texts are in, of references and of hypotheses
REFERENCES, HYPOTHESES = ("reference", "text"), ("hypothesis", "text")
#: what is looked for in a folder, the richest first
FOLDER_SUFFIXES = (".jsonl", ".json", ".ctm", ".trn", ".vtt", ".srt", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class Transcripts:
    """The texts in a file by id, in its order, and what else its rows say.

    ``field``: which one of JSON rows the texts are from; empty in other formats.
    ``only_words``: the format has words, not utterances, so an utterance without words is not in it.
    ``words``, ``stretches``: what a ctm and an stm file have beside the texts. ``of_one``: the text of one recording,
    whose id is but the file's name.
    """

    path: Path
    texts: dict[str, str]
    facts: dict[str, Facts] = dataclasses.field(default_factory=dict)
    field: str = ""
    only_words: bool = False
    kind: Kind = "plain"
    words: Mapping[str, Sequence[CtmWord]] | None = None
    stretches: Mapping[str, Sequence[Stretch]] | None = None
    of_one: bool = False

    def complete(self, ids: Iterable[str]) -> list[str]:
        """The ids that are missing here; in a format of words they are none, and get an empty text."""
        missing = [id_ for id_ in ids if id_ not in self.texts]
        if not self.only_words:
            return missing
        self.texts.update(dict.fromkeys(missing, ""))
        return []

    def silent_line(self, ids: Iterable[str]) -> str:
        """One line about the ids that ``complete`` gives an empty text; empty where there are none."""
        silent = [id_ for id_ in ids if id_ not in self.texts] if self.only_words else []
        some = ", ".join(silent[:5]) + (", …" if len(silent) > 5 else "")
        return f"{self.path}: no words of {len(silent):,} of the ids, which count as empty: {some}" if silent else ""


def read_texts(path: str | Path, prefer: Sequence[str] = HYPOTHESES) -> dict[str, str]:
    """The text of each id in a file, in the file's order, as ``read``."""
    return read(path, prefer).texts


def read(path: str | Path, prefer: Sequence[str] = HYPOTHESES) -> Transcripts:
    """The transcripts in a file, or in the files of a folder, each of which is a recording.

    What it is, ``asr.scoring.kinds`` says: by the names ``.trn``, ``.ctm`` and ``.stm``, else by what it holds. Plain
    lines are ``id text`` as Kaldi has them, where the text may be empty. All JSON rows must have the same one of the
    preferred fields: to fall back to ``text`` row by row would score references against themselves.

    Raises:
        DataError: the file cannot be read, has no utterances, is of a kind that is not read, or a row is not valid;
            path and line are named.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "folder":
        return _read_folder(path, prefer)
    if kind == "trn":
        return Transcripts(path, nist.read_trn(path), kind=kind)
    if kind == "ctm":
        words = nist.read_ctm(path)
        texts = {id_: " ".join(w.word for w in each) for id_, each in words.items()}
        return Transcripts(path, texts, only_words=True, kind=kind, words=words)
    if kind == "stm":
        return _read_stm(path)
    if kind == "table":
        return _read_table(path, prefer)
    if kind == "document":
        texts, of_one = recordings.read_document(path)
        return Transcripts(path, texts, kind=kind, of_one=of_one)
    if kind in OF_ONE_RECORDING:
        cues = kind in ("srt", "vtt")
        text = recordings.read_cues(path) if cues else recordings.read_labels(path, header=kind == "times")
        return Transcripts(path, {path.stem: text}, kind=kind, of_one=True)
    return _read_rows(path, prefer) if kind == "rows" else _read_plain(path)


def read_lines(path: Path) -> list[str]:
    """The lines of a plain file, each a text by itself; blank ones are texts too, but at the file's end.

    Raises:
        DataError: it cannot be read, or has none.
    """
    lines: list[str] = []
    for number, line in numbered_lines(path):
        lines += [""] * (number - 1 - len(lines))
        lines.append(" ".join(line.split()))
    if not lines:
        raise DataError("the file has no utterances", path)
    return lines


def _read_plain(path: Path) -> Transcripts:
    texts: dict[str, str] = {}
    new = unique_ids(path, "ids must be unique; texts without ids are paired with --pair lines")
    for number, line in numbered_lines(path):
        # Only space and tab: other white space, such as U+00A0, may be part of an id.
        id_, text = (*re.split(r"[ \t]+", line.strip(" \t\r\n"), maxsplit=1), "")[:2]
        new(id_, number)
        texts[id_] = text
    if not texts:
        raise DataError("the file has no utterances", path)
    return Transcripts(path, texts)


def _read_rows(path: Path, prefer: Sequence[str]) -> Transcripts:
    texts: dict[str, str] = {}
    facts: dict[str, Facts] = {}
    new = unique_ids(path)
    fieldname: str | None = None
    for number, line in numbered_lines(path):
        row = _json_object(line, path, number)
        fieldname = _text_field(row, prefer, fieldname, path, number)
        id_ = row["id"]
        known = _facts(row, path, number)
        if known != NOTHING_KNOWN:
            facts[id_] = known
        new(id_, number)
        texts[id_] = row[fieldname]
    return Transcripts(path, texts, facts, fieldname or "", kind="rows")


def _read_stm(path: Path) -> Transcripts:
    stretches = read_stm(path)
    scored = [stretch for each in stretches.values() for stretch in each if not stretch.ignored]
    if not scored:
        raise DataError("no part of it is to be scored", path)
    facts = {
        one.id: Facts(one.speaker, one.end_s - one.start_s, {"labels": one.labels} if one.labels else None)
        for one in scored
    }
    return Transcripts(path, {one.id: one.text for one in scored}, facts, kind="stm", stretches=stretches)


def _read_table(path: Path, prefer: Sequence[str]) -> Transcripts:
    names, records = read_table(path)
    wanted = HYPOTHESIS_COLUMNS if prefer == HYPOTHESES else REFERENCE_COLUMNS
    at_text = next((names.index(name) for name in wanted if name in names), None)
    at_id = next(names.index(name) for name in (*ID_COLUMNS, *PATH_COLUMNS) if name in names)
    if at_text is None:
        raise DataError(f"has no column {' or '.join(wanted)} (columns: {', '.join(names)})", path, 1)
    texts: dict[str, str] = {}
    new = unique_ids(path)
    for number, record in records:
        id_ = record[at_id].strip()
        if names[at_id] in PATH_COLUMNS:
            id_ = recordings.without_suffix(id_.rpartition("/")[2])
        if not id_:
            raise DataError(f"no id in column '{names[at_id]}'", path, number)
        new(id_, number)
        texts[id_] = record[at_text]
    if not texts:
        raise DataError("has a header line, but no rows", path)
    return Transcripts(path, texts, kind="table")


def _read_folder(folder: Path, prefer: Sequence[str]) -> Transcripts:
    """The files of a folder in the format that most of them have, as ``asr transcribe -o DIR`` writes them."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not _is_hidden(file, folder)]
    count = Counter(suffix for file in files if (suffix := file.suffix.lower()) in FOLDER_SUFFIXES)
    if not count:
        raise DataError(f"the folder holds no transcripts ({', '.join(FOLDER_SUFFIXES)})", folder)
    chosen = max(FOLDER_SUFFIXES, key=lambda suffix: count[suffix])  # of equally many: the first
    texts: dict[str, str] = {}
    facts: dict[str, Facts] = {}
    for file in (file for file in files if file.suffix.lower() == chosen):
        if chosen == ".txt":
            one = Transcripts(file, {file.stem: " ".join(line for _, line in numbered_lines(file))}, of_one=True)
        else:
            one = read(file, prefer)
        parent = "" if file.parent == folder else f"{file.parent.relative_to(folder).as_posix()}/"
        for id_, text in one.texts.items():
            id_ = f"{parent}{id_}" if one.of_one else id_
            if id_ in texts:
                raise DataError(f"'{id_}' is in two of the folder's files; ids must be unique", file)
            texts[id_] = " ".join(text.split())
            facts[id_] = one.facts.get(id_, NOTHING_KNOWN)
    return Transcripts(folder, texts, {id_: one for id_, one in facts.items() if one != NOTHING_KNOWN}, kind="folder")


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits and deep nesting
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"not valid JSON ({where})", path, number) from error
    if not isinstance(row, dict):
        raise DataError(f"a row must be a JSON object, got {type(row).__name__}", path, number)
    if not isinstance(row.get("id"), str) or not row["id"]:
        raise DataError(f"'id' must be a non-empty string, got {row.get('id', 'none')!r}", path, number)
    return row


def _text_field(row: dict[str, Any], prefer: Sequence[str], before: str | None, path: Path, number: int) -> str:
    """The field that the text is in; ``before`` is the one that the rows before had."""
    who = f"utt '{row['id']}': "
    found = next((name for name in prefer if name in row), None)
    if found is None:
        raise DataError(f"{who}missing field {' or '.join(map(repr, prefer))}", path, number)
    if before is not None and found != before:
        raise DataError(f"{who}has '{found}' where the rows before have '{before}'; one field for all", path, number)
    if not isinstance(row[found], str):
        raise DataError(f"{who}'{found}' must be a string, got {row[found]!r}", path, number)
    return found


def _facts(row: dict[str, Any], path: Path, number: int) -> Facts:
    speaker, duration_s, meta = row.get("speaker") or "", row.get("duration_s"), row.get("meta") or None
    if not isinstance(speaker, str):
        wrong = f"'speaker' must be a string, got {speaker!r}"
    elif duration_s is not None and not _is_duration(duration_s):
        wrong = f"'duration_s' must be a number of seconds, finite and not negative, got {duration_s!r}"
    elif meta is not None and not isinstance(meta, dict):
        wrong = f"'meta' must be an object, got {meta!r}"
    else:
        return Facts(speaker, None if duration_s is None else float(duration_s), meta)
    raise DataError(f"utt '{row['id']}': {wrong}", path, number)


def _is_duration(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e300 and math.isfinite(value)
    )


def together(*sources: Mapping[str, Facts]) -> dict[str, Facts]:
    """What several files know of each utterance, field by field; the first that knows a field is right."""
    found: dict[str, Facts] = {}
    for source in sources:
        for id_, facts in source.items():
            found[id_] = found[id_].over(facts) if id_ in found else facts
    return found
