"""Read tables of texts with a header line (CSV, TSV): the columns of the id and the text, and the rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from asr.data.lines import numbered_lines
from asr.errors import DataError

#: the columns of a table that has ids, and of one that has times and no ids, as Whisper writes it
ID_COLUMNS = ("id", "utt_id", "utterance_id", "uttid", "utt", "key", "segment_id", "name", "file", "filename")
PATH_COLUMNS = ("file_name", "path", "audio", "audio_path", "audio_file", "audio_filepath", "wav", "wav_filename")
TIMES_COLUMNS = ("start", "end", "text")
REFERENCE_COLUMNS = ("reference", "ref", "text", "sentence", "transcript", "transcription")
HYPOTHESIS_COLUMNS = ("hypothesis", "hyp", "prediction", "pred", "pred_text", *REFERENCE_COLUMNS[2:])


def header_of(line: str) -> tuple[list[str], str] | None:
    """Return the columns in lower case and the delimiter, from the first line; None if it names no text, or no id."""
    for delimiter in "\t,;|":
        names = [name.strip().strip('"').lower() for name in line.strip().split(delimiter)]
        has_text = any(name in names for name in HYPOTHESIS_COLUMNS + REFERENCE_COLUMNS)
        has_id = any(name in names for name in ID_COLUMNS + PATH_COLUMNS)
        if has_text and (has_id or tuple(names) == TIMES_COLUMNS):
            return names, delimiter
    return None


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read the columns, and the rows with the number of the line on which each begins.

    Raises:
        DataError: the file cannot be read, or a row's number of fields differs from the header's; the line is named.
    """
    lines = numbered_lines(path)
    found = header_of(next(lines)[1])
    assert found is not None  # asr.scoring.kinds has seen it
    names, delimiter = found
    return names, _rows(path, lines, len(names), delimiter)


def _rows(path: Path, lines: Iterator[tuple[int, str]], width: int, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    numbers = [1]

    def content() -> Iterator[str]:
        for number, line in lines:
            numbers.append(number)
            yield line

    # Tab-separated files are written without quoting more often than with: a quote in one is a character.
    dialect = _Plain if delimiter == "\t" else _Quoted
    try:
        for fields in csv.reader(content(), dialect, delimiter=delimiter):
            if len(fields) != width:
                why = f"is a '{delimiter}' or a line break in a text not quoted?"
                raise DataError(f"{len(fields)} fields, but the header names {width} columns; {why}", path, numbers[-1])
            yield numbers[-1], [" ".join(field.split()) for field in fields]
    except csv.Error as error:
        raise DataError(f"not a table that can be read ({error}); is a quote not closed?", path, numbers[-1]) from error


class _Quoted(csv.excel):
    strict = True


class _Plain(csv.excel):
    quoting = csv.QUOTE_NONE
