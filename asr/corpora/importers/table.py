"""Tables with a header line: CSV, TSV and what spreadsheets save."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from asr.corpora.importers.rows import OPTIONS, Found, Row, ids_of, local_path, located, numbered, write_rows
from asr.corpora.recipe import Prepared, Recipe, Request
from asr.data.lines import unique_ids
from asr.data.manifest import LONGEST_S
from asr.errors import ConfigError, DataError, nearest, os_reason

DELIMITERS = ",\t;|"
AUDIO, TEXT, SPEAKER, ID = "audio_path", "text", "speaker", "id"
OFFSET, DURATION = "offset_s", "duration_s"
#: the first line by which Excel knows a table's delimiter; saved again, it has empty fields behind it
_SEP = re.compile(r'"?sep=(?P<delimiter>[^"\w\s]|\t)"?(?P=delimiter)*\s*', re.IGNORECASE)

#: of a file's name: nearly all have one, and hardly any word
_SUFFIX = re.compile(r"\.\w{2,5}$")


def prepare(request: Request) -> Prepared:
    """One manifest, named like the file."""
    assert request.source is not None  # asr.corpora.recipe.perform asks for one
    given = request.options
    found = read(
        request.source, given.get("audio_column", ""), given.get("text_column", ""), given.get("speaker_column", "")
    )
    return write_rows(request, {request.source.stem: found})


def read(path: Path, audio_column: str = "", text_column: str = "", speaker_column: str = "") -> Found:
    """The utterances of a table; columns that are not asked for go into ``meta``.

    A column ``offset_s``, and with it ``duration_s``, say which part of its file a row is.

    Args:
        audio_column: of the audio's path; empty: ``audio_path``.
        text_column: empty: ``text``.
        speaker_column: empty: ``speaker``, where there is one.

    Raises:
        ConfigError: audio and text are of one column.
        DataError: the file cannot be read, has no such column, no row that fits the header, or a time that is no
            number; the line is named.
    """
    table = read_table(path)
    header = table.header
    at_audio = column(header, audio_column or AUDIO, path, "--audio-column")
    at_text = column(header, text_column or TEXT, path, "--text-column")
    if at_audio == at_text:
        raise ConfigError(f"column '{header[at_text]}' cannot be both the audio's path and the text")
    if speaker_column or SPEAKER in header:
        at_speaker = column(header, speaker_column or SPEAKER, path, "--speaker-column")
    else:
        at_speaker = None
    at_id = column(header, ID, path) if ID in header else None
    at_offset = column(header, OFFSET, path) if OFFSET in header else None
    # without a place where it begins it is no part, but what somebody knew of the file
    at_duration = column(header, DURATION, path) if DURATION in header and at_offset is not None else None
    used = {at_audio, at_text, at_speaker, at_id, at_offset, at_duration}
    for name in (name for i, name in enumerate(header) if name and i not in used):
        column(header, name, path)  # into meta: two of one name are an error
    new_id = unique_ids(path)
    kept = []
    rows_found, dropped = table.rows(at_audio, at_text)
    for number, record in rows_found:
        if at_id is not None and record[at_id]:
            new_id(record[at_id], number)
        if record[at_audio]:
            kept.append((number, record))
        else:
            dropped[f"{path.name}:{number}"] = f"no audio path in column '{header[at_audio]}'"
    if not table.records:
        raise DataError("has a header line, but no rows", path)
    if not rows_found:
        where, why = next(iter(dropped.items()))
        raise DataError(f"no row fits the header ({len(dropped):,} left out; the first: {where}: {why})", path)
    if not kept:
        raise DataError(f"no row has an audio path in column '{header[at_audio]}'", path)
    paths = [local_path(record[at_audio]) for _, record in kept]
    given = [record[at_id] if at_id is not None else "" for _, record in kept]  # no two alike: new_id has seen to it
    made = iter(numbered((name for name, own in zip(ids_of(paths), given, strict=True) if not own), taken=given))
    ids = [own or next(made) for own in given]
    rows = []
    for id_, file, (number, record) in zip(ids, located(paths, path.parent, path), kept, strict=True):
        meta = {header[i]: value for i, value in enumerate(record) if i not in used and value and header[i]}
        speaker = "" if at_speaker is None else record[at_speaker]
        offset_s = 0.0 if at_offset is None else _seconds(record[at_offset], OFFSET, path, number)
        duration_s = None if at_duration is None else _seconds(record[at_duration], DURATION, path, number)
        rows.append(Row(id_, file, record[at_text], speaker, offset_s or 0.0, duration_s, meta or None))
    return Found(rows, dropped, path)


def _seconds(text: str, name: str, path: Path, line: int) -> float | None:
    """The time in a field; None when it is empty.

    Raises:
        DataError: it is no time.
    """
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST_S or (name == DURATION and not value):
        kind = "positive" if name == DURATION else "not negative"
        raise DataError(f"'{name}' must be a number of seconds, finite and {kind}, got '{text}'", path, line)
    return value


def column(header: Sequence[str], name: str, path: Path, option: str = "") -> int:
    """Where a column is.

    Raises:
        DataError: it is not there, or there are two; what there is is listed.
    """
    if header.count(name) > 1:
        raise DataError(f"has {header.count(name)} columns '{name}': which one is meant?", path, 1)
    if name in header:
        return header.index(name)
    remedy = f"; name it with {option}" if option else ""
    raise DataError(f"has no column '{name}'{nearest(name, header)}{remedy} (columns: {', '.join(header)})", path)


class Record(NamedTuple):
    """A row of a table: its fields, and its first and last line, from 1."""

    line: int
    last_line: int
    fields: list[str]


@dataclass(frozen=True)
class Table:
    """A table as it stands in its file: rows that fit the header, and rows that do not."""

    path: Path
    header: list[str]
    records: list[Record]
    lines: list[str]
    delimiter: str

    def rows(self, at_audio: int, at_text: int) -> tuple[list[tuple[int, list[str]]], dict[str, str]]:
        """The rows whose text is surely theirs, with their lines; and why others are left out, by ``file:line``."""
        kept: list[tuple[int, list[str]]] = []
        dropped: dict[str, str] = {}
        cut = self._cut(at_audio, at_text)
        for record in self.records:
            count = len(record.fields)
            if count != len(self.header):
                mark = "tab" if self.delimiter == "\t" else f"'{self.delimiter}' without quotes"
                fields = f"{count} field{'s' if count > 1 else ''}, the header names {len(self.header)}"
                why = f"{fields}: is a line feed or a {mark} in a text?"
            elif record.line in cut:
                why = f"its text may be cut: line {cut[record.line]} beside it is no row; is a line feed in the text?"
            elif inner := self._swallowed(record, at_audio):
                why = f"line {inner} is inside its quotes, but looks like a row; is a quote not closed?"
            else:
                kept.append((record.line, record.fields))
                continue
            dropped[f"{self.path.name}:{record.line}"] = why
        return kept, dropped

    def _cut(self, at_audio: int, at_text: int) -> dict[int, int]:
        """Rows of as many fields as the header that may hold half a text: line -> that of the other half.

        A line feed in a field makes two rows of one. In general both have too few fields. Where the text is the last
        column, the first of them has all its fields, and where it is the first column, the second one.
        """
        width = len(self.header)
        cut = {}
        for one, next_one in itertools.pairwise(self.records):
            if at_text == width - 1:
                whole, other, fields = one, next_one, next_one.fields[at_audio:]
            elif at_text == 0:  # the other's fields are counted from its end
                whole, other, fields = next_one, one, one.fields[::-1][width - 1 - at_audio :]
            else:
                continue
            if len(whole.fields) == width and not self._has_audio(fields, whole.fields[at_audio], len(other.fields)):
                cut[whole.line] = other.line
        return cut

    def _has_audio(self, fields: list[str], like: str, count: int) -> bool:
        """Whether the first of the fields may be an audio path: then they are of a row of its own, good or bad."""
        if fields and _SUFFIX.search(like):
            return not fields[0] or bool(_SUFFIX.search(fields[0]))
        return count == len(self.header)

    def _swallowed(self, record: Record, at_audio: int) -> int:
        """A line inside a row's quotes that looks like a row of its own, with another audio file; or 0.

        A text that begins with a quote which nobody closes goes on to the next quote, some rows below.
        """
        if record.last_line > record.line:
            for number in range(record.line, record.last_line + 1):
                fields = [field.strip(' "') for field in self.lines[number - 1].split(self.delimiter)]
                is_other = len(fields) == len(self.header) and fields[at_audio] != record.fields[at_audio]
                if is_other and _SUFFIX.search(fields[at_audio]):
                    return number
        return 0


def read_table(path: Path) -> Table:
    """A table with a header line.

    Excel's first line ``sep=;`` names the delimiter; without it the one that makes the most columns is taken.

    Raises:
        DataError: the file cannot be read, has no header line, is no UTF-8, or a quote is not closed.
    """
    lines = _lines(path)
    named = _SEP.fullmatch(lines[0])
    first = 1 if named else 0  # the header's place
    if not any(line.strip() for line in lines[first : first + 1]):
        raise DataError("has no header line that names the columns", path)
    records: list[Record] = []
    number = first + 1
    try:
        fields_by = {d: next(csv.reader(lines[first : first + 1], delimiter=d), []) for d in DELIMITERS}
        delimiter = named["delimiter"] if named else max(DELIMITERS, key=lambda d: len(fields_by[d]))
        # Tab-separated files are written without quoting more often than with: a quote in one is a character.
        dialect = _Plain if delimiter == "\t" else _Quoted
        reader = csv.reader((line + "\n" for line in lines[first:]), dialect, delimiter=delimiter)
        for record in reader:
            last_line = first + reader.line_num
            fields = [field.strip() for field in record]
            if any(fields):
                records.append(Record(number, last_line, fields))
            number = last_line + 1
    except csv.Error as error:
        problem = f"not a table that can be read ({error}); is a quote not closed, or not doubled?"
        raise DataError(problem, path, number) from error
    if not records:
        raise DataError("has no header line that names the columns", path)
    return Table(path, records[0].fields, records[1:], lines, delimiter)


def _lines(path: Path) -> list[str]:
    """The lines of a table, without their ends.

    Raises:
        DataError: the file cannot be read, or is no UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the table: {os_reason(error)}", path) from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise DataError("UTF-16 text; save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')", path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"not UTF-8 text ({error.reason}); save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')", path, line
        ) from error
    if "\n" in text:  # then a carriage return ends no line; inside one it is a space
        return [line.removesuffix("\r").replace("\r", " ") for line in text.split("\n")]
    return text.split("\r")


class _Quoted(csv.excel):
    strict = True


class _Plain(csv.excel):
    quoting = csv.QUOTE_NONE


CSV = Recipe(
    name="csv",
    title="Table with a header line (CSV, TSV)",
    hours=0,
    sample_rate_hz=0,
    licence="that of the data",
    homepage="https://www.rfc-editor.org/rfc/rfc4180",
    prepare=prepare,
    options=(*OPTIONS, "audio_column", "text_column", "speaker_column"),
    source="FILE",
)
