"""Find out the kind of a file of texts by its name and first lines, so that only text is scored as text."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from asr.data.lines import numbered_lines, whole_text
from asr.errors import DataError

Kind = Literal["folder", "trn", "ctm", "stm", "rows", "document", "table", "srt", "vtt", "times", "labels", "plain"]

#: the columns of a table that has ids, and of one that has times and no ids, as Whisper writes it
ID_COLUMNS = ("id", "utt_id", "utterance_id", "uttid", "utt", "key", "segment_id", "name", "file", "filename")
PATH_COLUMNS = ("file_name", "path", "audio", "audio_path", "audio_file", "audio_filepath", "wav", "wav_filename")
TIMES_COLUMNS = ["start", "end", "text"]
REFERENCE_COLUMNS = ("reference", "ref", "text", "sentence", "transcript", "transcription")
HYPOTHESIS_COLUMNS = ("hypothesis", "hyp", "prediction", "pred", "pred_text", *REFERENCE_COLUMNS[2:])

#: number of lines that are looked at
_LOOKED_AT = 50
_TIME = r"\d+\.\d+"
_CUE = re.compile(r"\d+:\d\d.*-->\s*\d+:\d\d")
#: kinds that every line shows
_LINES: dict[Kind, re.Pattern[str]] = {
    "labels": re.compile(rf"{_TIME}\t{_TIME}\t.*", re.DOTALL),
    "ctm": re.compile(rf"\S+\s+\S+\s+{_TIME}\s+{_TIME}\s+\S+(\s+(-?[\d.]+|NA))?\s*"),
    "stm": re.compile(rf"\S+\s+\S+\s+\S+\s+{_TIME}\s+{_TIME}(\s.*)?", re.DOTALL),
    "trn": re.compile(r".*\([^()\s]+\)\s*", re.DOTALL),
}
#: kinds that are not read, by the beginning of the first line
_REFUSED = {
    "a Praat TextGrid": re.compile(r'File type = "ooTextFile'),
    "XML (ELAN, TTML, …)": re.compile(r"<\?xml|<!DOCTYPE|<tt[ >]|<Trans[ >]|<html", re.IGNORECASE),
    "SubStation subtitles (ASS)": re.compile(r"\[Script Info\]"),
    "an HTK label file (MLF)": re.compile(r"#!MLF!#"),
    "RTTM": re.compile(r"(SPEAKER|LEXEME|SPKR-INFO)\s+\S+\s+\S+\s"),
    "SubViewer subtitles (SBV)": re.compile(r"\d+:\d\d:\d\d\.\d+,\d+:\d\d:\d\d\.\d+\s*$"),
    "text with times in brackets (as in LRC files and on Whisper's screen)": re.compile(r"\[\d+:\d\d"),
    "rich text (RTF)": re.compile(r"\{\\rtf"),
    "a Git LFS pointer (git lfs pull fetches the file)": re.compile(r"version https://git-lfs"),
}


def kind_of(path: Path) -> Kind:
    """Return the kind of the file or folder.

    Raises:
        DataError: it cannot be read, or is of a known kind that is not read; the kind is named.
    """
    if path.is_dir():
        return "folder"
    suffix = path.suffix.lower()
    # NIST's formats go by their name; all others by what they hold.
    if suffix in (".trn", ".ctm", ".stm"):
        return suffix[1:]  # type: ignore[return-value]
    lines = [line for _, line in itertools.islice(numbered_lines(path), _LOOKED_AT)]
    if not lines:
        return suffix[1:] if suffix in (".srt", ".vtt") else "plain"  # type: ignore[return-value]

    for what, pattern in _REFUSED.items():
        if pattern.match(lines[0]):
            raise DataError(f"{what} is not read; give lines of 'id text', .trn, .ctm, .stm, JSON, SRT or VTT", path)

    # The first lines tell documents, subtitles and tables.
    if lines[0].lstrip()[:1] in ("{", "["):
        return _json_kind(path, lines)
    if lines[0].startswith("WEBVTT"):
        return "vtt"
    if any(_CUE.match(line) for line in lines[:3]):
        return "srt"
    if header := header_of(lines[0]):
        return "times" if header[0] == TIMES_COLUMNS else "table"
    if suffix == ".csv":
        columns = f"an id ({', '.join(ID_COLUMNS[:3])}, …, path) and a text ({', '.join(REFERENCE_COLUMNS)})"
        raise DataError(f"a CSV file without a header line that names {columns}; got {lines[0].strip()[:60]!r}", path)

    # Every line must fit: a sentence may happen to look like one line of a ctm.
    content = [line for line in lines if not line.startswith(";;")] or lines
    for kind, pattern in _LINES.items():
        if all(map(pattern.fullmatch, content)):
            return kind
    return "plain"


def header_of(line: str) -> tuple[list[str], str] | None:
    """Return the columns in lower case and the delimiter, from the first line; None if it names no text, or no id."""
    for delimiter in "\t,;|":
        names = [name.strip().strip('"').lower() for name in line.strip().split(delimiter)]
        has_text = not {*HYPOTHESIS_COLUMNS, *REFERENCE_COLUMNS}.isdisjoint(names)
        has_id = not {*ID_COLUMNS, *PATH_COLUMNS}.isdisjoint(names)
        if has_text and (has_id or names == TIMES_COLUMNS):
            return names, delimiter
    return None


def _json_kind(path: Path, lines: Sequence[str]) -> Kind:
    """Tell JSON Lines from one document; text that only begins with a bracket is plain."""
    first = _loaded(lines[0])
    if isinstance(first, dict) and (len(lines) > 1 or "id" in first):
        return "rows"
    if _loaded(whole_text(path)) is not None:
        return "document"
    return "rows" if lines[0].lstrip().startswith("{") else "plain"


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
