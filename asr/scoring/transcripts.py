"""Read texts by utterance id from manifests, hypothesis files, tables, lines of ``id text`` and NIST's formats.

A file of one recording, such as subtitles or a document of Whisper, has one text, whose id is the file's name.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.lines import numbered_lines, unique_ids
from asr.data.manifest import AT_MOST, is_seconds
from asr.errors import DataError
from asr.files import visible
from asr.scoring import nist, recordings
from asr.scoring.info import NO_INFO, UtteranceInfo
from asr.scoring.kinds import HYPOTHESIS_COLUMNS, ID_COLUMNS, PATH_COLUMNS, REFERENCE_COLUMNS, Kind, header_of, kind_of
from asr.scoring.nist import CtmWord
from asr.scoring.stm import StmSegment, read_stm

#: the fields of JSON rows that texts are in, of references and of hypotheses
REFERENCES, HYPOTHESES = ("reference", "text"), ("hypothesis", "text")
#: what is looked for in a folder, the richest first
FOLDER_SUFFIXES = (".jsonl", ".json", ".ctm", ".trn", ".vtt", ".srt", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class Transcripts:
    """Hold the texts in a file by id, in its order, and what else its rows say.

    ``field``: the field of JSON rows that the texts are from; empty in other formats. ``of_one``: the text of one
    recording, whose id is only the file's name. ``words``, ``segments``: what ctm and stm files have beside the texts.
    """

    path: Path
    texts: dict[str, str]
    kind: Kind = "plain"
    info: dict[str, UtteranceInfo] = dataclasses.field(default_factory=dict)
    field: str = ""
    of_one: bool = False
    words: Mapping[str, Sequence[CtmWord]] | None = None
    segments: Mapping[str, Sequence[StmSegment]] | None = None

    def add_silent(self, ids: Iterable[str], warn: Callable[[str], None]) -> None:
        """Add an empty text for each id that a ctm file lacks: it has words, not utterances."""
        silent = [id_ for id_ in ids if id_ not in self.texts]
        if self.kind == "ctm" and silent:
            some = ", ".join(silent[:5]) + (", …" if len(silent) > 5 else "")
            warn(f"{self.path}: no words of {len(silent):,} of the ids, which count as empty: {some}")
            self.texts.update(dict.fromkeys(silent, ""))


def read(path: str | Path, prefer: Sequence[str] = HYPOTHESES) -> Transcripts:
    """Read the transcripts in a file, or in the files of a folder, each of which is a recording.

    ``asr.scoring.kinds`` finds out what the file is. Plain lines are ``id text`` as in Kaldi's files, and the text may
    be empty. All JSON rows must have the same one of the preferred fields: falling back to ``text`` row by row would
    score references against themselves.

    Raises:
        DataError: the file cannot be read, has no utterances, is of a kind that is not read, or a row is not valid;
            path and line are named.
    """
    path = Path(path)
    kind = kind_of(path)
    match kind:
        case "folder":
            return _read_folder(path, prefer)
        case "trn":
            return Transcripts(path, nist.read_trn(path), kind)
        case "ctm":
            words = nist.read_ctm(path)
            texts = {id_: " ".join(word.word for word in each) for id_, each in words.items()}
            return Transcripts(path, texts, kind, words=words)
        case "stm":
            return _read_stm(path)
        case "table":
            return _read_table(path, prefer)
        case "rows":
            return _read_rows(path, prefer)
        case "document":
            texts, of_one = recordings.read_document(path)
            return Transcripts(path, texts, kind, of_one=of_one)
        case "srt" | "vtt":
            return Transcripts(path, {path.stem: recordings.read_cues(path)}, kind, of_one=True)
        case "times" | "labels":
            text = recordings.read_labels(path, header=kind == "times")
            return Transcripts(path, {path.stem: text}, kind, of_one=True)
        case "plain":
            return _read_plain(path)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a plain file, each a text by itself; blank lines are texts too, except at the file's end."""
    # Blank lines are not among the numbered ones.
    lines: list[str] = []
    for number, line in numbered_lines(path):
        lines += [""] * (number - 1 - len(lines))
        lines.append(" ".join(line.split()))
    if not lines:
        raise DataError("the file has no utterances", path)
    return lines


def _read_plain(path: Path) -> Transcripts:
    texts: dict[str, str] = {}
    check_new = unique_ids(path, "ids must be unique; texts without ids are paired with --pair lines")
    for number, line in numbered_lines(path):
        # Only space and tab: other white space, such as U+00A0, may be part of an id.
        id_, *rest = re.split(r"[ \t]+", line.strip(" \t\r\n"), maxsplit=1)
        check_new(id_, number)
        texts[id_] = "".join(rest)

    if not texts:
        raise DataError("the file has no utterances", path)
    return Transcripts(path, texts)


def _read_rows(path: Path, prefer: Sequence[str]) -> Transcripts:
    texts: dict[str, str] = {}
    info: dict[str, UtteranceInfo] = {}
    check_new = unique_ids(path)
    fieldname = ""
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits and deep nesting
            where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"not valid JSON ({where})", path, number) from error

        # The first row decides for all: see ``read``.
        if not fieldname and isinstance(row, dict):
            fieldname = next((name for name in prefer if name in row), "")
        if problem := _problem(row, prefer, fieldname):
            raise DataError(problem, path, number)

        id_ = row["id"]
        check_new(id_, number)
        texts[id_] = row[fieldname]

        duration_s = row.get("duration_s")
        known = UtteranceInfo(
            speaker=row.get("speaker") or "",
            duration_s=None if duration_s is None else float(duration_s),
            meta=row.get("meta") or None,
        )
        if known != NO_INFO:
            info[id_] = known
    return Transcripts(path, texts, "rows", info, fieldname)


def _problem(row: Any, prefer: Sequence[str], fieldname: str) -> str:
    """Return what is wrong with a row whose text is in the field; empty if nothing is."""
    if not isinstance(row, dict):
        return f"a row must be a JSON object, got {type(row).__name__}"
    id_ = row.get("id", "none")
    if "id" not in row or not isinstance(id_, str) or not id_:
        return f"'id' must be a non-empty string, got {id_!r}"

    found = next((name for name in prefer if name in row), None)
    duration_s = row.get("duration_s")
    if found is None:
        problem = f"missing field {' or '.join(map(repr, prefer))}"
    elif found != fieldname:
        problem = f"has '{found}' where the rows before have '{fieldname}'; one field for all"
    elif not isinstance(row[found], str):
        problem = f"'{found}' must be a string, got {row[found]!r}"
    elif not isinstance(row.get("speaker") or "", str):
        problem = f"'speaker' must be a string, got {row['speaker']!r}"
    elif duration_s is not None and not is_seconds(duration_s):
        problem = f"'duration_s' must be a number of seconds, finite and not negative, got {duration_s!r}{AT_MOST}"
    elif not isinstance(row.get("meta") or {}, dict):
        problem = f"'meta' must be an object, got {row['meta']!r}"
    else:
        return ""
    return f"utt '{id_}': {problem}"


def _read_stm(path: Path) -> Transcripts:
    segments = read_stm(path)
    scored = [segment for each in segments.values() for segment in each if not segment.ignored]
    if not scored:
        raise DataError("no part of it is to be scored", path)

    info = {
        one.id: UtteranceInfo(one.speaker, one.end_s - one.start_s, {"labels": one.labels} if one.labels else None)
        for one in scored
    }
    return Transcripts(path, {one.id: one.text for one in scored}, "stm", info, segments=segments)


def _read_table(path: Path, prefer: Sequence[str]) -> Transcripts:
    lines = numbered_lines(path)
    header = header_of(next(lines)[1])
    assert header is not None  # kind_of has seen it
    names, delimiter = header

    wanted = HYPOTHESIS_COLUMNS if prefer == HYPOTHESES else REFERENCE_COLUMNS
    at_text = next((names.index(name) for name in wanted if name in names), None)
    at_id = next(names.index(name) for name in (*ID_COLUMNS, *PATH_COLUMNS) if name in names)
    if at_text is None:
        raise DataError(f"has no column {' or '.join(wanted)} (columns: {', '.join(names)})", path, 1)

    texts: dict[str, str] = {}
    check_new = unique_ids(path)
    for number, fields in _table_rows(path, lines, len(names), delimiter):
        id_ = fields[at_id]
        # A path names the utterance by the file's name.
        if names[at_id] in PATH_COLUMNS:
            id_ = recordings.without_suffix(id_.rpartition("/")[2])
        if not id_:
            raise DataError(f"no id in column '{names[at_id]}'", path, number)
        check_new(id_, number)
        texts[id_] = fields[at_text]

    if not texts:
        raise DataError("has a header line, but no rows", path)
    return Transcripts(path, texts, "table")


def _table_rows(
    path: Path, lines: Iterator[tuple[int, str]], width: int, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row, with the number of the line on which it ends."""
    number = 1

    def content() -> Iterator[str]:
        nonlocal number
        for number, line in lines:  # noqa: B007
            yield line

    # Tab-separated files are written without quoting more often than with: a quote in one is a character.
    quotechar = None if delimiter == "\t" else '"'
    try:
        for fields in csv.reader(content(), delimiter=delimiter, quotechar=quotechar, strict=True):
            if len(fields) != width:
                why = f"is a '{delimiter}' or a line break in a text not quoted?"
                raise DataError(f"{len(fields)} fields, but the header names {width} columns; {why}", path, number)
            yield number, [" ".join(field.split()) for field in fields]
    except csv.Error as error:
        raise DataError(f"not a table that can be read ({error}); is a quote not closed?", path, number) from error


def _read_folder(folder: Path, prefer: Sequence[str]) -> Transcripts:
    """Read the files of a folder in the format that most of them have, as ``asr transcribe -o DIR`` writes them."""
    files = [file for file in visible(folder, "**/*") if file.is_file()]
    count = Counter(file.suffix.lower() for file in files)
    # Files in other formats hold the same texts again.
    chosen = max(FOLDER_SUFFIXES, key=count.__getitem__)  # of equally many: the first
    if not count[chosen]:
        raise DataError(f"the folder holds no transcripts ({', '.join(FOLDER_SUFFIXES)})", folder)

    texts: dict[str, str] = {}
    info: dict[str, UtteranceInfo] = {}
    for file in files:
        if file.suffix.lower() != chosen:
            continue
        # Lines of a text file here are those of one recording, not of utterances.
        if chosen == ".txt":
            one = Transcripts(file, {file.stem: " ".join(line for _, line in numbered_lines(file))}, of_one=True)
        else:
            one = read(file, prefer)

        for id_, text in one.texts.items():
            name = (file.parent.relative_to(folder) / id_).as_posix() if one.of_one else id_
            if name in texts:
                raise DataError(f"'{name}' is in two of the folder's files; ids must be unique", file)

            texts[name] = " ".join(text.split())

            if id_ in one.info:
                info[name] = one.info[id_]
    return Transcripts(folder, texts, "folder", info)
