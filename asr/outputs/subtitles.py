"""Write subtitles: SubRip (``srt``) and WebVTT (``vtt``).

Source: W3C, WebVTT: The Web Video Text Tracks Format; SubRip has no specification, and this is what players agree on.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from asr.outputs.cues import Cue, CuePart, Line, cues, written
from asr.outputs.layout import Layout
from asr.outputs.timing import stamp
from asr.transcript import Transcript


def srt(transcript: Transcript, layout: Layout) -> str:
    """Write SubRip. It has no escapes: an arrow ``-->`` in a text becomes ``->``, as Whisper writes it."""
    shown = _shown(transcript, layout, lambda text: re.sub("-+->", "->", text))
    blocks = (
        f"{number}\n{stamp(start, ',')} --> {stamp(end, ',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(shown, start=1)
    )
    return "".join(blocks)


def vtt(transcript: Transcript, layout: Layout) -> str:
    """Write WebVTT, with ``&``, ``<`` and ``>`` as references."""
    shown = _shown(transcript, layout, lambda text: html.escape(text, quote=False))
    blocks = (f"\n{stamp(start, '.')} --> {stamp(end, '.')}\n{text}\n" for start, end, text in shown)
    return "".join(["WEBVTT\n", *blocks])


def _shown(transcript: Transcript, layout: Layout, escape: Callable[[str], str]) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and content of what is on the screen, escaped."""
    for cue in cues(transcript, layout):
        if layout.word_times:
            yield from _word_by_word(cue, escape)
        else:
            yield cue.start_ms, cue.end_ms, _text(cue.lines, escape)


def _word_by_word(cue: Cue, escape: Callable[[str], str]) -> Iterator[tuple[int, int, str]]:
    """Yield the cue once for each word, with that word underlined while it is said, and plain in between."""
    at = cue.start_ms
    for part in itertools.chain(*cue.lines):
        start = max(at, part.start_ms)
        end = min(part.end_ms, cue.end_ms)
        if start >= end:
            continue  # it takes no time
        if start > at:
            yield at, start, _text(cue.lines, escape)
        yield start, end, _text(cue.lines, escape, part)
        at = end
    if at < cue.end_ms:
        yield at, cue.end_ms, _text(cue.lines, escape)


def _text(lines: Sequence[Line], escape: Callable[[str], str], underlined: CuePart | None = None) -> str:
    def marked(part: CuePart) -> CuePart:
        text = escape(part.text)
        return part._replace(text=f"<u>{text}</u>" if part is underlined else text)

    return "\n".join(written([marked(part) for part in line]) for line in lines)
