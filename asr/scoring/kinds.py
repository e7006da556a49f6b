"""Find out the kind of a file of texts by its name and first lines, so that only text is scored as text."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from asr.data.lines import numbered_lines
from asr.errors import DataError
from asr.scoring.columns import ID_COLUMNS, REFERENCE_COLUMNS, TIMES_COLUMNS, header_of

Kind = Literal["folder", "trn", "ctm", "stm", "rows", "document", "table", "srt", "vtt", "times", "labels", "plain"]
#: kinds of files that hold the text of one recording, which has the file's name as its id
OF_ONE_RECORDING = ("srt", "vtt", "times", "labels")
#: number of lines that are looked at
_LOOKED_AT = 50
_TIME = r"\d+\.\d+"
_CTM = re.compile(rf"\S+\s+\S+\s+{_TIME}\s+{_TIME}\s+\S+(\s+(-?[\d.]+|NA))?\s*")
_STM = re.compile(rf"\S+\s+\S+\s+\S+\s+{_TIME}\s+{_TIME}(\s.*)?", re.DOTALL)
_LABEL = re.compile(rf"{_TIME}\t{_TIME}\t.*", re.DOTALL)
_TRN = re.compile(r".*\([^()\s]+\)\s*", re.DOTALL)
_CUE = re.compile(r"\d+:\d\d.*-->\s*\d+:\d\d")
#: by the beginning of the first line: the kinds that are not read, and what to give instead
_REFUSED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r'File type = "ooTextFile'), "a Praat TextGrid"),
    (re.compile(r"<\?xml|<!DOCTYPE|<tt[ >]|<Trans[ >]|<html", re.IGNORECASE), "XML (ELAN, TTML, …)"),
    (re.compile(r"\[Script Info\]"), "SubStation subtitles (ASS)"),
    (re.compile(r"#!MLF!#"), "an HTK label file (MLF)"),
    (re.compile(r"(SPEAKER|LEXEME|SPKR-INFO)\s+\S+\s+\S+\s"), "RTTM"),
    (re.compile(r"\d+:\d\d:\d\d\.\d+,\d+:\d\d:\d\d\.\d+\s*$"), "SubViewer subtitles (SBV)"),
    (re.compile(r"\[\d+:\d\d"), "text with times in brackets (as LRC files and Whisper's screen have it)"),
    (re.compile(r"\{\\rtf"), "rich text (RTF)"),
    (re.compile(r"version https://git-lfs"), "a Git LFS pointer in the file's place: fetch it with git lfs pull"),
)  # fmt: skip


def kind_of(path: Path) -> Kind:
    """Return the kind of the file or folder.

    Raises:
        DataError: it cannot be read, or is of a known kind that is not read; the kind is named.
    """
    if path.is_dir():
        return "folder"
    suffix = path.suffix.lower()
    if suffix in (".trn", ".ctm", ".stm"):
        return suffix[1:]  # type: ignore[return-value]
    lines = [line for _, line in itertools.islice(numbered_lines(path), _LOOKED_AT)]
    if not lines:
        return suffix[1:] if suffix in (".srt", ".vtt") else "plain"  # type: ignore[return-value]
    for pattern, what in _REFUSED:
        if pattern.match(lines[0]):
            raise DataError(f"{what} is not read; give lines of 'id text', .trn, .ctm, .stm, JSON, SRT or VTT", path)
    if lines[0].lstrip()[:1] in ("{", "["):
        return _json_kind(path, lines)
    if lines[0].startswith("WEBVTT"):
        return "vtt"
    if any(_CUE.match(line) for line in lines[:3]):
        return "srt"
    if header := header_of(lines[0]):
        return "times" if tuple(header[0]) == TIMES_COLUMNS else "table"
    if suffix == ".csv":
        columns = f"an id ({', '.join(ID_COLUMNS[:3])}, …, path) and a text ({', '.join(REFERENCE_COLUMNS)})"
        raise DataError(f"a CSV file without a header line that names {columns}; got {lines[0].strip()[:60]!r}", path)
    said = [line for line in lines if not line.startswith(";;")] or lines
    patterns: tuple[tuple[Kind, re.Pattern[str]], ...] = (
        ("labels", _LABEL),
        ("ctm", _CTM),
        ("stm", _STM),
        ("trn", _TRN),
    )
    return next((kind for kind, pattern in patterns if all(map(pattern.fullmatch, said))), "plain")


def _json_kind(path: Path, lines: Sequence[str]) -> Kind:
    """Tell JSON Lines from one document; text that only begins with a bracket is plain."""
    first = _loaded(lines[0])
    if isinstance(first, dict) and (len(lines) > 1 or "id" in first):
        return "rows"
    if _loaded(path.read_text(encoding="utf-8-sig")) is not None:
        return "document"
    return "rows" if lines[0].lstrip().startswith("{") else "plain"


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
