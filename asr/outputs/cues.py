"""Divide words into subtitle cues: which are on the screen together, in how many lines, and for how long.

A cue ends where a segment does and before a pause; within those bounds the words are divided so that cues are few, of
like length, and end at pauses and sentence ends.

Source: Netflix Timed Text Style Guide, general requirements (a cue stays 5/6 s to 7 s; here 1 s where there is room).
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asr.outputs.layout import Layout
from asr.outputs.timing import TimedSegment, Word, clean_line, segments, spoken, to_ms
from asr.transcript import Transcript

#: words further apart are never in one cue
PAUSE_MS = 800
#: no cue stays longer
LONGEST_MS = 7000
#: no cue stays shorter, if the next one and the end of the recording leave room
SHORTEST_MS = 1000

# The costs of a division, in cues: one that is too short to read costs another cue; a full stop or a pause at its end
# saves half of one, so that there are no more cues for its sake.
_SHORT, _SENTENCE, _CLAUSE = 1.0, 0.5, 0.25


class CuePart(NamedTuple):
    """Hold what is not divided between lines: a word, or a character of a long word in a script without spaces.

    ``joined``: it follows the part before without a space.
    """

    text: str
    start_ms: int
    end_ms: int
    joined: bool = False


Line = tuple[CuePart, ...]


@dataclass(frozen=True)
class Cue:
    """Hold the lines that are shown from ``start_ms`` to ``end_ms``, top line first."""

    start_ms: int
    end_ms: int
    lines: tuple[Line, ...]


def cues(transcript: Transcript, layout: Layout) -> list[Cue]:
    """Return the cues in order: each begins before it ends, and none before the one before it has ended."""
    groups: list[Sequence[CuePart]] = []
    for segment in segments(transcript):
        for run in _runs(_parts(segment, layout.max_line_width)):
            groups += _divide(run, layout)

    starts: list[int] = []
    for group in groups:
        starts.append(max(group[0].start_ms, starts[-1] + 1) if starts else group[0].start_ms)

    done = []
    for i, (group, start) in enumerate(zip(groups, starts, strict=True)):
        end = max(group[-1].end_ms, min(start + SHORTEST_MS, to_ms(transcript.duration_s)))
        if i + 1 < len(starts):
            end = min(end, starts[i + 1])
        end = max(min(end, start + LONGEST_MS), start + 1)
        done.append(Cue(start, end, tuple(balanced(group, layout))))
    return done


def written(line: Sequence[CuePart]) -> str:
    """Return a line as it is read."""
    return "".join(part.text if part.joined or i == 0 else f" {part.text}" for i, part in enumerate(line))


def columns(text: str) -> int:
    """Return the width of a text: 2 for wide characters (Chinese, Japanese, Korean), 0 for marks on others, else 1.

    >>> columns("abc"), columns("你好")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def balanced(parts: Sequence[CuePart], layout: Layout) -> list[Line]:
    """Return the parts in as few lines as they need, with the longest line as short as possible."""
    width = layout.max_line_width
    count = len(_wrapped(parts, width))
    # The number of lines falls as the width grows: find the narrowest width that needs no more lines.
    narrowest = bisect_left(range(1, width), True, key=lambda width: len(_wrapped(parts, width)) <= count) + 1
    return [tuple(line) for line in _wrapped(parts, narrowest)]


def _parts(segment: TimedSegment, width: int) -> list[CuePart]:
    """Return the words of a segment; those too wide or too long for a cue in their characters."""
    words = spoken(segment.words)
    if not segment.words and clean_line(segment.text):  # words have no times: each has a share by its length
        texts = clean_line(segment.text).split(" ")
        words = [Word(*part[:3]) for part in _shared(texts, segment.start_ms, segment.end_ms)]

    parts: list[CuePart] = []
    for word in words:
        texts = [word.text]
        if columns(word.text) > width or word.end_ms - word.start_ms > LONGEST_MS:
            texts = _characters(word.text)
        parts += _shared(texts, word.start_ms, word.end_ms)
    return parts


def _shared(texts: Sequence[str], start_ms: int, end_ms: int) -> Iterator[CuePart]:
    """Yield texts that have a time together, each with a share by its length."""
    span = end_ms - start_ms
    total = sum(map(len, texts))
    before = 0
    for i, text in enumerate(texts):
        after = before + len(text)
        yield CuePart(text, start_ms + span * before // total, start_ms + span * after // total, i > 0)
        before = after


def _characters(word: str) -> list[str]:
    """Divide a word between its wide characters; narrow ones and punctuation stay with the one before."""
    parts: list[str] = []
    for c in word:
        wide = unicodedata.east_asian_width(c) in "WF"
        if not parts or (wide and not unicodedata.category(c).startswith("P")):
            parts.append(c)
        else:
            parts[-1] += c
    return parts


def _runs(parts: Sequence[CuePart]) -> Iterator[list[CuePart]]:
    """Yield parts without a long pause between them."""
    run: list[CuePart] = []
    for part in parts:
        if run and part.start_ms - run[-1].end_ms > PAUSE_MS:
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _divide(run: Sequence[CuePart], layout: Layout) -> Iterator[Sequence[CuePart]]:
    """Divide a run into cues that fit the screen and the time, at the least cost over all divisions."""
    room = layout.max_line_width * layout.max_line_count
    cost = [0.0] * (len(run) + 1)  # of the parts from here to the end
    ends = [0] * (len(run) + 1)
    for first in reversed(range(len(run))):
        best = math.inf
        filled = 0
        for end in _fitting(run, first, layout):
            filled += columns(run[end - 1].text) + (end - 1 > first and not run[end - 1].joined)
            here = 1.0 + max(0.0, 1 - filled / room) ** 2 + cost[end] + _ending(run, first, end)
            if here < best:
                best = here
                ends[first] = end
        cost[first] = best

    first = 0
    while first < len(run):
        yield run[first : ends[first]]
        first = ends[first]


def _fitting(run: Sequence[CuePart], first: int, layout: Layout) -> Iterator[int]:
    """Yield the ends of cues that begin with part ``first``: one part always, more while lines and time suffice."""
    lines = 1
    width = 0
    for end in range(first + 1, len(run) + 1):
        part = run[end - 1]
        more = columns(part.text)
        if width and width + (not part.joined) + more <= layout.max_line_width:
            width += (not part.joined) + more
        else:
            lines += width > 0
            width = more
        if end > first + 1 and (lines > layout.max_line_count or part.end_ms - run[first].start_ms > LONGEST_MS):
            return
        yield end


def _ending(run: Sequence[CuePart], first: int, end: int) -> float:
    """Return what it costs, or saves, to end a cue there."""
    if end == len(run):
        return 0.0
    next_ms = run[end].start_ms
    short = max(0.0, 1 - (next_ms - run[first].start_ms) / SHORTEST_MS) * _SHORT
    pause = max(0, next_ms - run[end - 1].end_ms) / PAUSE_MS * _SENTENCE

    last = run[end - 1].text.rstrip("\"')]”’»」』")[-1:]
    mark = 0.0
    if last and last in ".?!…。？！":
        mark = _SENTENCE
    elif last and last in ",;:，、；：":
        mark = _CLAUSE
    return short - max(pause, mark)


def _wrapped(parts: Sequence[CuePart], width: int) -> list[list[CuePart]]:
    """Return parts line by line, each line as full as the width allows; a wider part is a line by itself."""
    lines: list[list[CuePart]] = []
    used = 0
    for part in parts:
        more = columns(part.text)
        gap = 0 if part.joined else 1
        if lines and used + gap + more <= width:
            lines[-1].append(part)
            used += gap + more
        else:
            lines.append([part])
            used = more
    return lines
