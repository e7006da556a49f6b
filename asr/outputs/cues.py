"""Words as subtitle cues: what is on the screen together, in how many lines, and for how long.

A cue ends where a segment does and before a pause; within those bounds the words are divided so that cues are few, of
like length, and end at pauses and sentence ends.

Source: Netflix Timed Text Style Guide, general requirements (a cue stays 5/6 s to 7 s; here 1 s where there is room).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asr.outputs.layout import Layout
from asr.outputs.timing import Timed, Word, one_line, segments, spoken, to_ms
from asr.transcript import Transcript

#: words further apart are never in one cue
PAUSE_MS = 800
#: no cue stays longer
LONGEST_MS = 7000
#: nor shorter, where the next one and the end of the recording leave room
SHORTEST_MS = 1000

# What a division costs, in cues: one that is too short to read costs another cue; a full stop or a pause at its end
# saves half of one, so cues do not become more for their sake.
_SHORT, _SENTENCE, _CLAUSE = 1.0, 0.5, 0.25


class Piece(NamedTuple):
    """What is not divided between lines: a word, or a character of a long word in a script without spaces.

    ``joined``: it follows the piece before without a space.
    """

    text: str
    start_ms: int
    end_ms: int
    joined: bool = False


Line = tuple[Piece, ...]


@dataclass(frozen=True)
class Cue:
    """What is shown from ``start_ms`` to ``end_ms``, top line first."""

    start_ms: int
    end_ms: int
    lines: tuple[Line, ...]


def cues(transcript: Transcript, layout: Layout) -> list[Cue]:
    """The cues in order: each begins before it ends, and none before the one before it has ended."""
    groups = [
        group
        for segment in segments(transcript)
        for run in _runs(_pieces(segment, layout.max_line_width))
        for group in _divide(run, layout)
    ]
    starts: list[int] = []
    for group in groups:
        starts.append(max(group[0].start_ms, starts[-1] + 1) if starts else group[0].start_ms)
    recorded = to_ms(transcript.duration_s)
    done = []
    for i, (group, start) in enumerate(zip(groups, starts, strict=True)):
        said = group[-1].end_ms
        end = max(said, min(start + SHORTEST_MS, recorded))
        if i + 1 < len(starts):
            end = min(end, starts[i + 1])
        end = max(min(end, start + LONGEST_MS), start + 1)
        done.append(Cue(start, end, tuple(balanced(group, layout))))
    return done


def written(line: Sequence[Piece]) -> str:
    """A line as it is read."""
    return "".join(piece.text if piece.joined or i == 0 else f" {piece.text}" for i, piece in enumerate(line))


def columns(text: str) -> int:
    """How wide a text is: 2 for wide characters (Chinese, Japanese, Korean), 0 for marks on others, else 1.

    >>> columns("abc"), columns("你好")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def balanced(pieces: Sequence[Piece], layout: Layout) -> list[Line]:
    """The pieces in as few lines as they need, the longest of them as short as it can be."""
    lines = _wrapped(pieces, layout.max_line_width)
    low, high = 1, layout.max_line_width
    while low < high:  # the narrowest width that needs no more lines
        middle = (low + high) // 2
        if len(narrower := _wrapped(pieces, middle)) <= len(lines):
            lines, high = narrower, middle
        else:
            low = middle + 1
    return [tuple(line) for line in lines]


def _pieces(segment: Timed, width: int) -> list[Piece]:
    words = spoken(segment.words)
    if not segment.words and one_line(segment.text):  # no times of words: shares by their length
        texts = one_line(segment.text).split(" ")
        words = [Word(*each[:3]) for each in _shared(texts, segment.start_ms, segment.end_ms)]
    pieces: list[Piece] = []
    for word in words:
        parts = [word.text]
        if columns(word.text) > width or word.end_ms - word.start_ms > LONGEST_MS:
            parts = _characters(word.text)
        pieces += _shared(parts, word.start_ms, word.end_ms)
    return pieces


def _shared(texts: Sequence[str], start_ms: int, end_ms: int) -> Iterator[Piece]:
    """Texts that have a time together, each with a share by its length."""
    total, before = sum(map(len, texts)), 0
    for i, text in enumerate(texts):
        after = before + len(text)
        span = end_ms - start_ms
        yield Piece(text, start_ms + span * before // total, start_ms + span * after // total, i > 0)
        before = after


def _characters(word: str) -> list[str]:
    """A word of wide characters as these; what is narrow between them, and punctuation, stays with the one before."""
    parts: list[str] = []
    for c in word:
        wide = unicodedata.east_asian_width(c) in "WF"
        if not parts or (wide and not unicodedata.category(c).startswith("P")):
            parts.append(c)
        else:
            parts[-1] += c
    return parts


def _runs(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces without a long pause between them."""
    run: list[Piece] = []
    for piece in pieces:
        if run and piece.start_ms - run[-1].end_ms > PAUSE_MS:
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _divide(run: Sequence[Piece], layout: Layout) -> Iterator[Sequence[Piece]]:
    """The run as cues that fit the screen and the time, at the least cost over all divisions."""
    room = layout.max_line_width * layout.max_line_count
    cost = [0.0] * (len(run) + 1)  # of the pieces from here to the end
    ends = [0] * (len(run) + 1)
    for first in reversed(range(len(run))):
        best = float("inf")
        filled = 0
        for end in _fitting(run, first, layout):
            filled += columns(run[end - 1].text) + (end - 1 > first and not run[end - 1].joined)
            here = 1.0 + max(0.0, 1 - filled / room) ** 2 + cost[end] + _ending(run, first, end)
            if here < best:
                best, ends[first] = here, end
        cost[first] = best
    first = 0
    while first < len(run):
        yield run[first : ends[first]]
        first = ends[first]


def _fitting(run: Sequence[Piece], first: int, layout: Layout) -> Iterator[int]:
    """The ends of cues that begin with piece ``first``: one piece always, more while lines and time suffice."""
    lines, width = 1, 0
    for end in range(first + 1, len(run) + 1):
        piece = run[end - 1]
        more = columns(piece.text)
        if width and width + (not piece.joined) + more <= layout.max_line_width:
            width += (not piece.joined) + more
        elif width:
            lines, width = lines + 1, more
        else:
            width = more
        if end > first + 1 and (lines > layout.max_line_count or piece.end_ms - run[first].start_ms > LONGEST_MS):
            return
        yield end


def _ending(run: Sequence[Piece], first: int, end: int) -> float:
    """What it costs, or saves, to end a cue there."""
    if end == len(run):
        return 0.0
    until = run[end].start_ms
    short = max(0.0, 1 - (until - run[first].start_ms) / SHORTEST_MS) * _SHORT
    pause = max(0, until - run[end - 1].end_ms) / PAUSE_MS * _SENTENCE
    last = run[end - 1].text.rstrip("\"')]”’»」』")[-1:]
    mark = _SENTENCE if last and last in ".?!…。？！" else _CLAUSE if last and last in ",;:，、；：" else 0.0
    return short - max(pause, mark)


def _wrapped(pieces: Sequence[Piece], width: int) -> list[list[Piece]]:
    """Pieces line by line, each line as full as the width allows; a wider piece is a line by itself."""
    lines: list[list[Piece]] = []
    used = 0
    for piece in pieces:
        more = columns(piece.text)
        gap = 0 if piece.joined else 1
        if lines and used + gap + more <= width:
            lines[-1].append(piece)
            used += gap + more
        else:
            lines.append([piece])
            used = more
    return lines
