"""Read texts of whole recordings: subtitles, tables of times, JSON of Whisper and of ``asr transcribe``."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from asr.data.lines import numbered_lines, whole_text
from asr.errors import DataError
from asr.scoring.nist import utterance_id

#: marks of subtitles: italics, voices, colours, positions
_TAGS = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
#: a time inside a cue: rolling captions such as YouTube's show each line again above the next
_INSIDE = re.compile(r"<\d+:\d\d[\d:.]*>")
_TIMES = re.compile(r"\s*\d+:\d\d[\d:.,]*\s*-->")
#: blocks of WebVTT that are not spoken
_NOT_SPOKEN = ("WEBVTT", "NOTE", "STYLE", "REGION")
_AUDIO = re.compile(r"\.[a-zA-Z][a-zA-Z0-9]{1,4}")


def read_cues(path: Path) -> str:
    """Read the text of SRT or WebVTT subtitles; text shown again, underlined or in rolling lines, counts once."""
    cues = list(_cues(path))
    lines = [line for cue in cues for line in cue]

    if any(map(_INSIDE.search, lines)):
        bare = [text for text in map(_bare, lines) if text]
        texts = [text for before, text in zip(["", *bare], bare, strict=False) if text != before]
    else:
        texts = list(_shown_once(["\n".join(cue) for cue in cues]))
    return " ".join(" ".join(texts).split())


def read_labels(path: Path, *, header: bool) -> str:
    """Read the text of a table of start, end and text, separated by tabs or commas."""
    lines = list(numbered_lines(path))
    delimiter = "\t" if "\t" in lines[0][1] else ","

    texts = []
    for number, line in lines[1:] if header else lines:
        fields = line.rstrip("\r\n").split(delimiter, maxsplit=2)
        if len(fields) != 3:
            raise DataError(f"expected start, end and text, got {line.strip()[:60]!r}", path, number)
        texts.append(fields[2].strip('"') if delimiter == "," else fields[2])
    return " ".join(" ".join(texts).split())


def read_document(path: Path) -> tuple[dict[str, str], bool]:
    """Read the texts by id in a JSON document; also return true if it is of one recording, which the file names."""
    value: Any = json.loads(whole_text(path))
    # The document of several recordings, or a list of rows.
    several = value.get("transcripts", value.get("alignments")) if isinstance(value, dict) else value
    if isinstance(several, list) and all(isinstance(one, dict) for one in several):
        return _texts_of(several, path), False

    text = _text_of(value)
    if text is None:
        keys = f"keys: {', '.join(map(str, value))[:100]}" if isinstance(value, dict) else "a list"
        known = "Whisper's, those of asr transcribe and rows with 'id' are read"
        raise DataError(f"JSON without transcripts ({keys}); {known}", path)
    return {_id_of(value, path.stem): text}, True


def without_suffix(name: str) -> str:
    """Return a recording's name without the suffix of its format; an id that has a dot keeps it.

    >>> without_suffix("a/b.wav"), without_suffix("speaker.01")
    ('a/b', 'speaker.01')
    """
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if _AUDIO.fullmatch(suffix) else name


def _cues(path: Path) -> Iterator[list[str]]:
    """Yield the lines of each cue, with their marks."""
    cue: list[str] | None = None
    spoken = True  # the block is spoken
    may_be_name = False  # the line before may be the next cue's name or number
    before = -1
    for number, line in numbered_lines(path):
        text = line.strip()
        begins_block = number > before + 1
        if begins_block:
            spoken = not text.startswith(_NOT_SPOKEN)

        # A line before the times may be the number or name of the cue, not text of the last one.
        if _TIMES.match(text):
            if cue and may_be_name and not begins_block:
                cue.pop()
            if cue:
                yield cue
            cue = []
            spoken = True
        elif cue is not None and spoken:
            cue.append(text)

        may_be_name = begins_block or text.isdecimal()
        before = number
    if cue:
        yield cue


def _bare(line: str) -> str:
    return " ".join(html.unescape(_TAGS.sub("", line)).split())


def _shown_once(cues: Sequence[str]) -> Iterator[str]:
    """Yield the text of cues; a cue that is shown several times, with each word underlined in turn, counts once."""
    underlines = any("<u>" in cue for cue in cues)

    before = None
    at = -1
    for cue in cues:
        text = _bare(cue)
        place = cue.find("<u>")
        again = underlines and text == before and (place < 0 or place > at)
        if not again:
            yield text
            at = -1

        before = text
        if place >= 0:
            at = place


def _texts_of(documents: list[Any], path: Path) -> dict[str, str]:
    """Return the texts of several documents, each by its id or else by its recording's name."""
    named = [PurePosixPath(str(one.get("path", ""))) for one in documents]
    count = Counter(name.name for name in named)
    texts: dict[str, str] = {}
    for one, name in zip(documents, named, strict=True):
        text = _text_of(one)
        id_ = _id_of(one, without_suffix(str(name) if count[name.name] > 1 else name.name))

        if text is None:
            raise DataError(f"transcript {len(texts) + 1} has no 'text'", path)
        if not id_:
            raise DataError(f"transcript {len(texts) + 1} has neither 'id' nor 'path'", path)
        if id_ in texts:
            raise DataError(f"'{id_}' is there twice; ids must be unique", path)
        texts[id_] = text
    if not texts:
        raise DataError("the file has no utterances", path)
    return texts


def _id_of(document: dict[str, Any], name: str) -> str:
    own = document.get("id")
    if isinstance(own, str) and own:
        return own

    channel = document.get("channel")
    return utterance_id(name, channel if isinstance(channel, int) else None)


def _text_of(document: Any) -> str | None:
    """Return the text of one recording: as a whole, or of its segments one after the other."""
    if not isinstance(document, dict):
        return None
    if isinstance(document.get("text"), str):
        return " ".join(document["text"].split())

    parts = document.get("segments", document.get("transcription"))  # keys of WhisperX and of whisper.cpp
    if not isinstance(parts, list) or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        return None
    return " ".join(" ".join(part["text"] for part in parts).split())
