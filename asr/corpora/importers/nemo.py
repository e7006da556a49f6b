"""NeMo manifests: JSON Lines with audio_filepath, text, duration and offset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from asr.corpora.importers.importer import Found
from asr.corpora.measure import Row
from asr.corpora.paths import ids_of, local_path, located
from asr.data.lines import numbered, stripped_lines
from asr.data.manifest import AT_MOST, is_seconds
from asr.errors import DataError, nearest

SPECIFICATION = "https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html"
_FIELDS = ("audio_filepath", "text", "duration", "offset", "speaker")


def read(path: Path, options: Mapping[str, str]) -> dict[str, Found]:
    """Read a NeMo manifest into one that is named like it.

    Ids are the audio's names, with the offset in milliseconds if there is one.

    Raises:
        DataError: the file cannot be read, or a line is not valid; path and line are named.
    """
    entries = [_entry(path, number, line) for number, line in stripped_lines(path)]
    if not entries:
        raise DataError("the manifest has no utterances", path)

    paths = [local_path(entry["audio_filepath"]) for entry in entries]
    names = []
    for name, entry in zip(ids_of(paths), entries, strict=True):
        offset_s = entry.get("offset")
        names.append(f"{name}-{round(1000 * offset_s):07d}" if offset_s else name)

    rows = []
    for id_, file, entry in zip(numbered(names), located(paths, path.parent, path), entries, strict=True):
        row = Row(
            id=id_,
            audio=file,
            text=entry.get("text") or "",
            speaker="" if entry.get("speaker") is None else str(entry["speaker"]),
            offset_s=entry.get("offset") or 0.0,
            duration_s=entry.get("duration"),
            meta={key: value for key, value in entry.items() if key not in _FIELDS} or None,
        )
        rows.append(row)

    return {path.stem: Found(rows, {}, path)}


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line, parse_constant=_no_number)
        json.dumps(entry, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"not valid JSON ({where}); expected one object per line", path, number) from error

    if not isinstance(entry, dict):
        raise DataError(f"a line must be a JSON object, got {type(entry).__name__}", path, number)

    problem = ""
    name = entry.get("audio_filepath")
    offset_s = entry.get("offset")
    duration_s = entry.get("duration")
    if "audio_filepath" not in entry:
        problem = f"'audio_filepath' is missing{nearest('audio_filepath', entry)}"
    elif not isinstance(name, str) or not name:
        problem = f"'audio_filepath' must be a path, got {name!r}"
    elif not isinstance(entry.get("text"), str | None):
        problem = f"'text' must be a string, got {entry['text']!r}"
    elif offset_s is not None and not is_seconds(offset_s):
        problem = f"'offset' must be a number of seconds, finite and not negative, got {offset_s!r}{AT_MOST}"
    elif duration_s is not None and not (is_seconds(duration_s) and duration_s):
        problem = f"'duration' must be a number of seconds, finite and positive, got {duration_s!r}{AT_MOST}"

    if problem:
        raise DataError(problem, path, number)
    return entry


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
