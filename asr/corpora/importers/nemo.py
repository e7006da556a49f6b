"""NeMo manifests: JSON Lines with audio_filepath, text, duration and offset.

Source: https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from asr.corpora.importers.rows import (
    OPTIONS,
    Found,
    Row,
    ids_of,
    local_path,
    located,
    numbered,
    read_lines,
    write_rows,
)
from asr.corpora.recipe import Prepared, Recipe, Request
from asr.data.manifest import LONGEST_S
from asr.errors import DataError, nearest

_FIELDS = ("audio_filepath", "text", "duration", "offset", "speaker")


def prepare(request: Request) -> Prepared:
    """One manifest, named like the file."""
    assert request.source is not None  # asr.corpora.recipe.perform asks for one
    return write_rows(request, {request.source.stem: read(request.source)})


def read(path: Path) -> Found:
    """The utterances of a NeMo manifest; ids are the audio's names, with the offset in milliseconds where there is one.

    Raises:
        DataError: the file cannot be read, or a line is not valid; path and line are named.
    """
    entries = [_entry(path, number, line) for number, line in read_lines(path)]
    if not entries:
        raise DataError("the manifest has no utterances", path)
    paths = [local_path(entry["audio_filepath"]) for entry in entries]
    ids = [
        f"{name}-{round(1000 * entry['offset']):07d}" if entry.get("offset") else name
        for name, entry in zip(ids_of(paths), entries, strict=True)
    ]
    rows = []
    for id_, file, entry in zip(numbered(ids), located(paths, path.parent, path), entries, strict=True):
        meta = {key: value for key, value in entry.items() if key not in _FIELDS} or None
        speaker = "" if entry.get("speaker") is None else str(entry["speaker"])
        offset_s, duration_s = entry.get("offset") or 0.0, entry.get("duration")
        rows.append(Row(id_, file, entry.get("text") or "", speaker, offset_s, duration_s, meta))
    return Found(rows, {}, path)


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line, parse_constant=_no_number)
        json.dumps(entry, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"not valid JSON ({where}); expected one object a line", path, number) from error
    if not isinstance(entry, dict):
        raise DataError(f"a line must be a JSON object, got {type(entry).__name__}", path, number)
    name = entry.get("audio_filepath")
    if not isinstance(name, str) or not name:
        problem = f"must be a path, got {name!r}" if "audio_filepath" in entry else "is missing"
        raise DataError(f"'audio_filepath' {problem}{nearest('audio_filepath', entry)}", path, number)
    if not isinstance(entry.get("text"), str | None):
        raise DataError(f"'text' must be a string, got {entry['text']!r}", path, number)
    for key, lowest in (("offset", "not negative"), ("duration", "positive")):
        value = entry.get(key)
        if value is None:
            continue
        number_like = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_S
        if not number_like or (key == "duration" and value == 0):
            raise DataError(f"'{key}' must be a number of seconds, finite and {lowest}, got {value!r}", path, number)
    return entry


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


NEMO = Recipe(
    name="nemo",
    title="NeMo manifest",
    hours=0,
    sample_rate_hz=0,
    licence="that of the data",
    homepage="https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html",
    prepare=prepare,
    options=OPTIONS,
    source="FILE",
)
