"""Files of transcripts by utterance id: manifests, hypothesis files and plain lines of ``id text``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr.errors import DataError, os_reason


def read_texts(path: str | Path, prefer: Sequence[str] = ("hypothesis", "text")) -> dict[str, str]:
    """The text of each id in a file, in the file's order.

    The file is JSON Lines if its first character is ``{`` (a manifest, or what ``--hypotheses`` writes), else plain
    lines ``id text`` as Kaldi has them, where the text may be empty. All JSON rows must have the same one of the
    preferred fields: to fall back to ``text`` row by row would score references against themselves.

    Raises:
        DataError: the file cannot be read, has no utterances, or a row is not valid; path and line are named.
    """
    path = Path(path)
    texts: dict[str, str] = {}
    line_of_id: dict[str, int] = {}
    field: str | None = None
    is_json = False
    for number, line in _lines(path):
        if not texts:
            is_json = line.lstrip().startswith("{")
        if is_json:
            id_, text, field = _json_row(line, prefer, field, path, number)
        else:
            # Only space and tab: other white space, such as U+00A0, may be part of an id.
            id_, text = (*re.split(r"[ \t]+", line.strip(" \t\r\n"), maxsplit=1), "")[:2]
        first = line_of_id.setdefault(id_, number)
        if first != number:
            raise DataError(f"duplicate id '{id_}' (first on line {first}); ids must be unique", path, number)
        texts[id_] = text
    if not texts:
        raise DataError("the file has no utterances", path)
    return texts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if not line.isspace() and line:
                    yield number, line
    except OSError as error:
        raise DataError(f"cannot read the texts: {os_reason(error)}", path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start})", path, number) from error


def _json_row(line: str, prefer: Sequence[str], field: str | None, path: Path, number: int) -> tuple[str, str, str]:
    """Id, text and the field it came from; ``field`` is the one the rows before had."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits and deep nesting
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"not valid JSON ({where})", path, number) from error
    if not isinstance(row, dict):
        raise DataError(f"a row must be a JSON object, got {type(row).__name__}", path, number)
    if not isinstance(row.get("id"), str) or not row["id"]:
        raise DataError(f"'id' must be a non-empty string, got {row.get('id', 'none')!r}", path, number)
    who = f"utt '{row['id']}': "
    found = next((name for name in prefer if name in row), None)
    if found is None:
        raise DataError(f"{who}missing field {' or '.join(map(repr, prefer))}", path, number)
    if field is not None and found != field:
        raise DataError(f"{who}has '{found}' where the rows before have '{field}'; one field for all", path, number)
    if not isinstance(row[found], str):
        raise DataError(f"{who}'{found}' must be a string, got {row[found]!r}", path, number)
    return row["id"], row[found], found
