"""Write Praat's TextGrid, in its long text format.

A tier is a row of intervals from 0 to the end, each beginning where the one before ends, none without length: silence
is an interval with an empty text, and a word of no length gets a millisecond.

Source: Praat manual, "TextGrid file formats".
"""

from __future__ import annotations

from collections.abc import Iterable

from asr.outputs.timing import Word, in_order, segments, spoken, to_ms
from asr.transcript import Transcript

Interval = tuple[int, int, str]


def textgrid(transcript: Transcript) -> str:
    """Write the tiers ``words``, ``characters`` (of alignments) and ``segments``."""
    found = segments(transcript)
    tiers = {"words": _placed(word for segment in found for word in spoken(segment.words))}
    characters = [each for segment in transcript.segments for each in segment.characters]
    if characters:
        tiers["characters"] = _placed(spoken(in_order(characters)))
    tiers["segments"] = _placed(spoken([Word(s.text, s.start_ms, s.end_ms) for s in found]))

    # At least a millisecond: Praat opens no grid without length.
    end = max(1, to_ms(transcript.duration_s), *(intervals[-1][1] for intervals in tiers.values() if intervals))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {_s(end)} "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for number, (name, intervals) in enumerate(tiers.items(), start=1):
        lines += [f"    item [{number}]:", *(f"        {line}" for line in _tier(name, _filled(intervals, end), end))]
    return "\n".join(lines) + "\n"


def _tier(name: str, intervals: list[Interval], end: int) -> Iterable[str]:
    yield 'class = "IntervalTier" '
    yield f'name = "{name}" '
    yield "xmin = 0 "
    yield f"xmax = {_s(end)} "
    yield f"intervals: size = {len(intervals)} "
    for number, (start_ms, end_ms, text) in enumerate(intervals, start=1):
        quoted = text.replace('"', '""')
        yield f"intervals [{number}]:"
        yield f"    xmin = {_s(start_ms)} "
        yield f"    xmax = {_s(end_ms)} "
        yield f'    text = "{quoted}" '


def _placed(words: Iterable[Word]) -> list[Interval]:
    """Return words as intervals of at least a millisecond, each after the one before."""
    placed: list[Interval] = []
    for word in words:
        start_ms = max(word.start_ms, placed[-1][1] if placed else 0)
        placed.append((start_ms, max(word.end_ms, start_ms + 1), word.text))
    return placed


def _filled(intervals: list[Interval], end: int) -> list[Interval]:
    """Return the intervals, and empty ones wherever nothing is said."""
    filled: list[Interval] = []
    at = 0
    for start_ms, end_ms, text in intervals:
        if start_ms > at:
            filled.append((at, start_ms, ""))
        filled.append((start_ms, end_ms, text))
        at = end_ms
    return filled if at >= end else [*filled, (at, end, "")]


def _s(ms: int) -> str:
    """Return seconds with no more digits than needed, never in scientific notation."""
    return f"{ms // 1000}.{ms % 1000:03d}".rstrip("0").rstrip(".")
