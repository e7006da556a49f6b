"""Tables with a header line: CSV, TSV and what spreadsheets save."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from asr.corpora.importers.rows import OPTIONS, Found, Row, ids_of, located, numbered, write_rows
from asr.errors import ConfigError, DataError, nearest, os_reason
from asr.lines import unique_ids
from asr.manifest import LONGEST_S
from asr.prepare import Prepared, Recipe, Request

DELIMITERS = ",\t;|"
AUDIO, TEXT, SPEAKER, ID = "audio_path", "text", "speaker", "id"
OFFSET, DURATION = "offset_s", "duration_s"


def prepare(request: Request) -> Prepared:
    """One manifest, named like the file."""
    assert request.source is not None  # asr.prepare.perform asks for one
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
        DataError: the file cannot be read, has no such column, a row does not fit the header, or a time is no number;
            the line is named.
    """
    header, records = read_table(path)
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
    kept, dropped = [], {}
    for number, record in records:
        if at_id is not None and record[at_id]:
            new_id(record[at_id], number)
        if record[at_audio]:
            kept.append((number, record))
        else:
            dropped[f"{path.name}:{number}"] = f"no audio path in column '{header[at_audio]}'"
    if not records:
        raise DataError("has a header line, but no rows", path)
    if not kept:
        raise DataError(f"no row has an audio path in column '{header[at_audio]}'", path)
    paths = [record[at_audio] for _, record in kept]
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
    raise DataError(f"has no column '{name}' (columns: {', '.join(header)}){nearest(name, header)}{remedy}", path)


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and every row with its line number, filled up to the header's length.

    Raises:
        DataError: the file cannot be read, is no UTF-8, or a row has more fields than the header; the line is named.
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
        lines = [line.removesuffix("\r").replace("\r", " ") for line in text.split("\n")]
    else:
        lines = text.splitlines(keepends=True)
    if not text.strip() or not lines[0].strip():
        raise DataError("has no header line that names the columns", path)
    records: list[tuple[int, list[str]]] = []
    number = 1
    try:
        delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([lines[0]], delimiter=d), [])))
        # Tab-separated files are written without quoting more often than with: a quote in one is a character.
        dialect = _Plain if delimiter == "\t" else _Quoted
        reader = csv.reader((line + "\n" for line in lines), dialect, delimiter=delimiter)
        header = [name.strip() for name in next(reader)]
        number = reader.line_num + 1
        for record in reader:
            values = [value.strip() for value in record]
            if any(values):
                if any(values[len(header) :]):
                    raise DataError(
                        f"{len(values)} fields, but the header names {len(header)} columns; is a '{delimiter}' in a "
                        "text not quoted?",
                        path,
                        number,
                    )
                records.append((number, (values + [""] * len(header))[: len(header)]))
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"not a table that can be read ({error}); is a quote not closed, or not doubled?", path,
                        number) from error  # fmt: skip
    return header, records


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
