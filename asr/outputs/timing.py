"""Give words and segments times in whole milliseconds, in order and without overlap, for all formats.

Rounding, seams and decoders leave words that touch, overlap by some milliseconds or have no length; some readers of
subtitles, of Whisper's JSON and of TextGrids refuse them. In whole milliseconds nothing rounds to 60 seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asr.decode.types import TimedWord
from asr.errors import UNSAFE
from asr.transcript import Transcript

_HALVES = re.compile("[\ud800-\udfff]")
#: written, but neither seen nor heard: the byte order mark, and marks of the direction of writing
_UNSEEN = re.compile("[\ufeff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Word(NamedTuple):
    """Hold a word on one line, with the times that are written."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float | None = None


@dataclass(frozen=True)
class TimedSegment:
    """Hold a segment with the times that are written."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...]
    log_prob: float | None = None
    no_speech_prob: float | None = None


def to_ms(seconds: float) -> int:
    """Return seconds in whole milliseconds, to the nearest, not below 0."""
    return max(0, round(seconds * 1000)) if math.isfinite(seconds) else 0


def stamp(ms: int, mark: str) -> str:
    """Return a time as ``HH:MM:SS`` and milliseconds after the mark; hours may have more than two digits.

    >>> stamp(to_ms(59.9996), ","), stamp(360_000_000, ".")
    ('00:01:00,000', '100:00:00.000')
    """
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{ms:03d}"


def clean_line(text: str) -> str:
    """Return a text on one line: any white space is a space, control and half characters are U+FFFD.

    Marks of the direction of writing are left out, as ``text.normalize`` does; each script has its own direction.
    """
    return UNSAFE.sub("\ufffd", " ".join(_UNSEEN.sub("", text).split()))


def whole_characters(text: str) -> str:
    """Return a text that UTF-8 can encode: half characters (of file names that are not UTF-8) are U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def in_order(words: Iterable[TimedWord]) -> list[Word]:
    """Return words in order: none starts before the one before it, and none ends after the next one starts."""
    done: list[Word] = []
    for word in words:
        start = to_ms(word.start_s)
        if done:
            start = max(start, done[-1].start_ms)
            done[-1] = done[-1]._replace(end_ms=min(done[-1].end_ms, start))
        confidence = word.confidence
        if confidence is not None and not math.isfinite(confidence):
            confidence = None
        done.append(Word(word.word, start, max(start, to_ms(word.end_s)), confidence))
    return done


def segments(transcript: Transcript) -> list[TimedSegment]:
    """Return the segments in order, none over another, each from its first word or before to its last or after."""
    # A segment without words has a place in time, too.
    words_of = [
        segment.words or (TimedWord(segment.text, segment.start_s, segment.end_s),) for segment in transcript.segments
    ]
    words = in_order(word for words in words_of for word in words)

    done: list[TimedSegment] = []
    first = before = 0
    for segment, given in zip(transcript.segments, words_of, strict=True):
        own = words[first : first + len(given)]
        first += len(given)
        start = max(before, min(to_ms(segment.start_s), own[0].start_ms))
        end = to_ms(segment.end_s)
        if first < len(words):
            end = min(end, words[first].start_ms)
        before = end = max(end, own[-1].end_ms)
        timed = tuple(own) if segment.words else ()
        done.append(TimedSegment(segment.text, start, end, timed, segment.log_prob, segment.no_speech_prob))
    return done


def spoken(items: Sequence[Word]) -> list[Word]:
    """Return the words that show something, on one line each."""
    lines = [word._replace(text=clean_line(word.text)) for word in items]
    return [word for word in lines if word.text]
