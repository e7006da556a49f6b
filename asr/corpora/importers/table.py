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
from asr.data.manifest import AT_MOST, is_seconds
from asr.errors import ConfigError, DataError, nearest, os_reason
from asr.files import read_small
from asr.limits import WHOLE_FILE

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
    used = set(columns.values())

    # ids that the table gives stay, and made ones make way
    paths = [local_path(record[columns["audio_path"]]) for record in records.values()]
    given = [record.get("id", "") for record in records.values()]
    unnamed = [name for name, own in zip(ids_of(paths), given, strict=True) if not own]
    made = iter(numbered(unnamed, taken=given))

    rows = []
    for file, (line, record) in zip(located(paths, path.parent, path), records.items(), strict=True):
        row = Row(
            id=record.get("id") or next(made),
            audio=file,
            text=record[columns["text"]],
            speaker=record.get(columns["speaker"], ""),
            offset_s=_seconds(record, "offset_s", path, line) or 0.0,
            duration_s=_seconds(record, "duration_s", path, line) if "offset_s" in record else None,
            meta={name: value for name, value in record.items() if name and value and name not in used} or None,
        )
        rows.append(row)

    return {path.stem: Found(rows, dropped, path)}


def _columns(table: Table, options: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the columns that have a meaning, by what they mean."""
    columns = {}
    for meaning, option in (("audio_path", "audio_column"), ("text", "text_column"), ("speaker", "speaker_column")):
        columns[meaning] = options.get(option) or meaning
        if meaning != "speaker" or options.get(option):
            table.check_column(columns[meaning], f"--{option.replace('_', '-')}")
    if columns["audio_path"] == columns["text"]:
        raise ConfigError(f"column '{columns['text']}' cannot be both the audio's path and the text")

    for name in filter(None, table.header):
        table.check_column(name)  # two of one name are an error
    columns |= {name: name for name in ("id", "offset_s")}
    # a duration without a place where it begins is what somebody knew of the file
    if "offset_s" in table.header:
        columns["duration_s"] = "duration_s"
    return columns


def _usable(table: Table, columns: Mapping[str, str]) -> tuple[dict[int, dict[str, str]], dict[str, str]]:
    """Return the rows that have an audio path, by their lines; and why others are left out."""
    audio = columns["audio_path"]
    found, dropped = table.rows(audio, columns["text"])
    if not table.records:
        raise DataError("has a header line, but no rows", table.path)
    if not found:
        where, why = next(iter(dropped.items()))
        raise DataError(f"no row fits the header ({len(dropped):,} left out; the first: {where}: {why})", table.path)

    new_id = unique_ids(table.path)
    for line, record in list(found.items()):
        if record.get("id"):
            new_id(record["id"], line)
        if not record[audio]:
            dropped[f"{table.path.name}:{line}"] = f"no audio path in column '{audio}'"
            del found[line]
    if not found:
        raise DataError(f"no row has an audio path in column '{audio}'", table.path)
    return found, dropped


def _seconds(record: Mapping[str, str], name: str, path: Path, line: int) -> float | None:
    """Return the time in a column, or None if it is empty or not there."""
    text = record.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan

    if not is_seconds(value) or (name == "duration_s" and not value):
        kind = "positive" if name == "duration_s" else "not negative"
        raise DataError(f"'{name}' must be a number of seconds, finite and {kind}, got '{text}'{AT_MOST}", path, line)
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

    def check_column(self, name: str, option: str = "") -> None:
        """Check that there is one column of a name.

        Raises:
            DataError: it is not there, or there are two; the columns are listed.
        """
        count = self.header.count(name)
        if count > 1:
            raise DataError(f"has {count} columns '{name}': which one is meant?", self.path, 1)
        if not count:
            remedy = f"{nearest(name, self.header)}{f'; name it with {option}' if option else ''}"
            raise DataError(f"has no column '{name}'{remedy} (columns: {', '.join(self.header)})", self.path)

    def rows(self, audio: str, text: str) -> tuple[dict[int, dict[str, str]], dict[str, str]]:
        """Return the rows whose text is surely theirs, by line; and why others are left out, by place.

        Args:
            audio, text: names of the columns.
        """
        kept: dict[int, dict[str, str]] = {}
        dropped: dict[str, str] = {}
        at_audio = self.header.index(audio)
        at_text = self.header.index(text)
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
                kept[record.line] = dict(zip(self.header, record.fields, strict=True))

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
    """Return the lines of a table, without their ends."""
    try:
        content = read_small(path, WHOLE_FILE)
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
