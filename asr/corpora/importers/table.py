"""Tables with a header line: CSV, TSV and what spreadsheets save."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from asr.corpora.importers.importer import Found
from asr.corpora.measure import Row
from asr.corpora.paths import ids_of, local_path, located
from asr.data.lines import numbered, unique_ids
from asr.data.manifest import is_seconds
from asr.errors import ConfigError, DataError, nearest, os_reason

DELIMITERS = ",\t;|"
#: the first line by which Excel knows a table's delimiter; saved again, it has empty fields behind it
_SEP = re.compile(r'"?sep=(?P<delimiter>[^"\w\s]|\t)"?(?P=delimiter)*\s*', re.IGNORECASE)
#: of a file's name: nearly all have one, and hardly any word
_SUFFIX = re.compile(r"\.\w{2,5}$")


def read(path: Path, options: Mapping[str, str]) -> dict[str, Found]:
    """Read a table into one manifest that is named like it.

    The options ``audio_column``, ``text_column`` and ``speaker_column`` name columns; other columns go into ``meta``. A
    column ``offset_s``, and with it ``duration_s``, say which part of its file a row is.

    Raises:
        ConfigError: audio and text are of one column.
        DataError: the file cannot be read, has no such column, no row that fits the header, or a time that is no
            number; the line is named.
    """
    table = read_table(path)
    columns = _columns(table, options)
    records, dropped = _usable(table, columns)

    # ids that the table gives stay, and made ones make way
    paths = [local_path(fields[columns["audio_path"]]) for _, fields in records]
    given = [fields[columns["id"]] if "id" in columns else "" for _, fields in records]
    unnamed = [name for name, own in zip(ids_of(paths), given, strict=True) if not own]
    made = iter(numbered(unnamed, taken=given))

    rows = []
    files = located(paths, path.parent, path)
    for own, file, (line, fields) in zip(given, files, records, strict=True):
        values = {name: fields[i] for name, i in columns.items()}
        others = {name: fields[i] for i, name in enumerate(table.header) if name and i not in columns.values()}
        row = Row(
            id=own or next(made),
            audio=file,
            text=values["text"],
            speaker=values.get("speaker", ""),
            offset_s=_seconds(values, "offset_s", path, line) or 0.0,
            duration_s=_seconds(values, "duration_s", path, line),
            meta={name: value for name, value in others.items() if value} or None,
        )
        rows.append(row)

    return {path.stem: Found(rows, dropped, path)}


def _columns(table: Table, options: Mapping[str, str]) -> dict[str, int]:
    """Return the places of the columns that have a meaning, by what they mean."""
    columns = {}
    for name in ("audio_path", "text", "speaker"):
        option = f"{name.removesuffix('_path')}_column"
        if name != "speaker" or options.get(option) or name in table.header:
            columns[name] = table.column(options.get(option) or name, f"--{option.replace('_', '-')}")

    if columns["audio_path"] == columns["text"]:
        column = table.header[columns["text"]]
        raise ConfigError(f"column '{column}' cannot be both the audio's path and the text")

    for name in ("id", "offset_s"):
        if name in table.header:
            columns[name] = table.column(name)

    # a duration without a place where it begins is what somebody knew of the file
    if "offset_s" in columns and "duration_s" in table.header:
        columns["duration_s"] = table.column("duration_s")
    for name in filter(None, table.header):
        table.column(name)  # two of one name are an error
    return columns


def _usable(table: Table, columns: Mapping[str, int]) -> tuple[list[tuple[int, list[str]]], dict[str, str]]:
    """Return the rows that have an audio path, with their lines; and why others are left out."""
    audio = table.header[columns["audio_path"]]
    found, dropped = table.rows(columns["audio_path"], columns["text"])
    if not table.records:
        raise DataError("has a header line, but no rows", table.path)
    if not found:
        where, why = next(iter(dropped.items()))
        raise DataError(f"no row fits the header ({len(dropped):,} left out; the first: {where}: {why})", table.path)

    new_id = unique_ids(table.path)
    records = []
    for line, fields in found:
        if "id" in columns and fields[columns["id"]]:
            new_id(fields[columns["id"]], line)
        if fields[columns["audio_path"]]:
            records.append((line, fields))
        else:
            dropped[f"{table.path.name}:{line}"] = f"no audio path in column '{audio}'"

    if not records:
        raise DataError(f"no row has an audio path in column '{audio}'", table.path)
    return records, dropped


def _seconds(values: Mapping[str, str], name: str, path: Path, line: int) -> float | None:
    """Return the time in a column, or None if it is empty or not there."""
    text = values.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan

    if not is_seconds(value) or (name == "duration_s" and not value):
        kind = "positive" if name == "duration_s" else "not negative"
        raise DataError(f"'{name}' must be a number of seconds, finite and {kind}, got '{text}'", path, line)
    return value


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

    def column(self, name: str, option: str = "") -> int:
        """Return the place of a column.

        Raises:
            DataError: it is not there, or there are two; the columns are listed.
        """
        count = self.header.count(name)
        if count > 1:
            raise DataError(f"has {count} columns '{name}': which one is meant?", self.path, 1)
        if count:
            return self.header.index(name)
        remedy = f"{nearest(name, self.header)}{f'; name it with {option}' if option else ''}"
        raise DataError(f"has no column '{name}'{remedy} (columns: {', '.join(self.header)})", self.path)

    def rows(self, at_audio: int, at_text: int) -> tuple[list[tuple[int, list[str]]], dict[str, str]]:
        """Return the rows whose text is surely theirs, with their lines; and why others are left out, by place."""
        kept: list[tuple[int, list[str]]] = []
        dropped: dict[str, str] = {}
        cut = self._cut(at_audio, at_text)
        for record in self.records:
            count = len(record.fields)
            why = ""
            if count != len(self.header):
                mark = "tab" if self.delimiter == "\t" else f"'{self.delimiter}' without quotes"
                fields = f"{count} field{'s' if count > 1 else ''}, the header names {len(self.header)}"
                why = f"{fields}: is a line feed or a {mark} in a text?"
            elif record.line in cut:
                why = f"its text may be cut: line {cut[record.line]} beside it is no row; is a line feed in the text?"
            elif inner := self._swallowed(record, at_audio):
                why = f"line {inner} is inside its quotes, but looks like a row; is a quote not closed?"

            if why:
                dropped[f"{self.path.name}:{record.line}"] = why
            else:
                kept.append((record.line, record.fields))

        return kept, dropped

    def _cut(self, at_audio: int, at_text: int) -> dict[int, int]:
        """Find rows with all their fields that may hold half a text; return the line of the other half by their line.

        A line feed in a field makes two rows of one. Usually both have too few fields. If the text is the last column,
        the first of them has all its fields, and if it is the first column, the second one.
        """
        width = len(self.header)
        cut = {}
        for one, next_one in itertools.pairwise(self.records):
            if at_text == width - 1:
                whole, other = one, next_one
                others_audio = other.fields[at_audio : at_audio + 1]
            elif at_text == 0:
                whole, other = next_one, one
                from_end = width - at_audio  # the fields before the line feed are missing
                others_audio = other.fields[-from_end:][:1] if len(other.fields) >= from_end else []
            else:
                continue
            if len(whole.fields) != width:
                continue

            # with an audio path, or with all fields, the other is a row of its own, good or bad
            if others_audio and _SUFFIX.search(whole.fields[at_audio]):
                is_row = not others_audio[0] or bool(_SUFFIX.search(others_audio[0]))
            else:
                is_row = len(other.fields) == width
            if not is_row:
                cut[whole.line] = other.line

        return cut

    def _swallowed(self, record: Record, at_audio: int) -> int:
        """Find a line inside a row's quotes that looks like a row with another audio file; 0: there is none.

        A text that begins with a quote which nobody closes goes on to the next quote, some rows below.
        """
        if record.last_line == record.line:
            return 0
        for number in range(record.line, record.last_line + 1):
            fields = [field.strip(' "') for field in self.lines[number - 1].split(self.delimiter)]
            is_other = len(fields) == len(self.header) and fields[at_audio] != record.fields[at_audio]
            if is_other and _SUFFIX.search(fields[at_audio]):
                return number
        return 0


def read_table(path: Path) -> Table:
    """Read a table with a header line.

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
        if named:
            delimiter = named["delimiter"]
        else:
            delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader(lines[:1], delimiter=d), [])))
        # Tab-separated files are written without quoting more often than with: a quote in one is a character.
        content = (line + "\n" for line in lines[first:])
        if delimiter == "\t":
            reader = csv.reader(content, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(content, delimiter=delimiter, strict=True)
        for row in reader:
            last_line = first + reader.line_num
            fields = [field.strip() for field in row]
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
    """Return the lines of a table, without their ends.

    Raises:
        DataError: the file cannot be read, or is no UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the table: {os_reason(error)}", path) from error

    remedy = "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise DataError(f"UTF-16 text; {remedy}", path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"not UTF-8 text ({error.reason}); {remedy}", path, line) from error

    if "\n" in text:  # then a carriage return ends no line; inside one it is a space
        return [line.removesuffix("\r").replace("\r", " ") for line in text.split("\n")]
    return text.split("\r")
