"""Words and segments in whole milliseconds, in order and without overlap: the clock that every format shares.

Rounding, seams and decoders leave words that touch, overlap by some milliseconds or have no length; readers of
subtitles, of Whisper's JSON and of TextGrids refuse some of that. In whole milliseconds nothing rounds to 60 seconds.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asr.decode.types import TimedWord
from asr.transcript import Transcript

_HALVES = re.compile("[\ud800-\udfff]")


class Word(NamedTuple):
    """A word on one line, with the times that are written."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float | None = None


@dataclass(frozen=True)
class Timed:
    """A segment with the times that are written."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...]
    log_prob: float | None = None
    no_speech_prob: float | None = None


def to_ms(seconds: float) -> int:
    """Seconds in whole milliseconds, to the nearest, not below 0."""
    return max(0, round(seconds * 1000)) if math.isfinite(seconds) else 0


def stamp(ms: int, mark: str) -> str:
    """A time as ``HH:MM:SS`` and milliseconds after the mark; hours grow beyond two digits.

    >>> stamp(to_ms(59.9996), ","), stamp(360_000_000, ".")
    ('00:01:00,000', '100:00:00.000')
    """
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{ms:03d}"


def one_line(text: str) -> str:
    """A text on one line: white space is one space, a control or half character U+FFFD, a byte order mark nothing."""
    words = " ".join(text.replace("\ufeff", "").split())
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in words)


def whole_characters(text: str) -> str:
    """A text that can be written as UTF-8: half characters (of file names that are not UTF-8) are U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def in_order(words: Iterable[TimedWord]) -> list[Word]:
    """Words whose times never go back: none starts before the one before it, and none ends after the next starts."""
    done: list[Word] = []
    for word in words:
        start = to_ms(word.start_s)
        if done:
            start = max(start, done[-1].start_ms)
            done[-1] = done[-1]._replace(end_ms=min(done[-1].end_ms, start))
        sure = word.confidence if word.confidence is not None and math.isfinite(word.confidence) else None
        done.append(Word(word.word, start, max(start, to_ms(word.end_s)), sure))
    return done


def segments(transcript: Transcript) -> list[Timed]:
    """The segments in order, none over another, each from its first word or before to its last or after."""
    given = transcript.segments
    # A segment without words has a place in time, too.
    stand_in = [s.words or (TimedWord(s.text, s.start_s, s.end_s),) for s in given]
    words = in_order(word for each in stand_in for word in each)
    done: list[Timed] = []
    first, before = 0, 0
    for segment, each in zip(given, stand_in, strict=True):
        mine, first = words[first : first + len(each)], first + len(each)
        start = max(before, min(to_ms(segment.start_s), mine[0].start_ms))
        end = to_ms(segment.end_s) if first == len(words) else min(to_ms(segment.end_s), words[first].start_ms)
        end = max(end, mine[-1].end_ms)
        done.append(
            Timed(
                segment.text, start, end, tuple(mine) if segment.words else (), segment.log_prob, segment.no_speech_prob
            )
        )
        before = end
    return done


def spoken(items: Sequence[Word]) -> list[Word]:
    """The words that show something, on one line each."""
    lines = [word._replace(text=one_line(word.text)) for word in items]
    return [word for word in lines if word.text]
