"""The words and the characters of an aligned text, with their times.

Axes: s steps, v vocabulary, u tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from asr.alignment.forced import force_align
from asr.alignment.unmatched import Stretch
from asr.data.tokenizer import Tokenizer
from asr.decode.greedy import Clock, spans_by_word
from asr.decode.types import Floats, Ints, LogProbs, Span, TimedWord
from asr.errors import DataError
from asr.transcript import Segment, segments_of


class TextPath(NamedTuple):
    """Hold the best path of a text, and the letters that each of its tokens writes, by words.

    Shapes: (s,) the token at each step, the blank among them; (u,).
    """

    path_s: Ints
    log_prob: float
    log_prob_u: Floats
    pieces: list[list[tuple[str, Span]]]


def align_parts(
    log_probs_sv: LogProbs,
    words: Sequence[Sequence[int]],
    parts: Sequence[Stretch],
    tokenizer: Tokenizer,
    delimiter: int,
) -> TextPath:
    """Align words part by part; outside of the parts, the path is the model's own: no other is more probable."""
    path_s = np.zeros(0, np.int32)
    if len(log_probs_sv):
        path_s = log_probs_sv.argmax(axis=1).astype(np.int32)

    alignments, pieces = [], []

    for part in parts:
        tokens_u: list[int] = []
        for word in words[part.words]:
            tokens_u += [delimiter, *word] if tokens_u and delimiter >= 0 else word
        try:
            alignment = force_align(log_probs_sv[part.steps], tokens_u, delimiter=delimiter)
        except ValueError as error:
            raise DataError(f"the text cannot be aligned: {error}") from error
        alignments.append(alignment)

        path_s[part.steps] = alignment.path_s
        first = part.steps.start
        spans = [span._replace(start=span.start + first, end=span.end + first) for span in alignment.spans]
        pieces += spans_by_word(spans, tokenizer)

    return TextPath(
        path_s,
        sum(alignment.log_prob for alignment in alignments),
        np.concatenate([alignment.mean_log_prob_u for alignment in alignments]),
        pieces,
    )


def timed_segments(
    words: Sequence[tuple[str, int]], pieces: Sequence[list[tuple[str, Span]]], clock: Clock, duration_s: float
) -> tuple[Segment, ...]:
    """Return words with their times as segments, with the characters of each.

    Args:
        words: each as its author wrote it, and how many words it is to the model.
        pieces: what each token writes, by words of the model.
    """
    rest = iter(pieces)
    timed, characters = [], []

    for word, size in words:
        own = [piece for group in itertools.islice(rest, size) for piece in group]
        start_s, end_s = _times(own[0][1], own[-1][1], clock, duration_s)
        mean = sum(_log_prob(span) for _, span in own) / len(own)
        timed.append(TimedWord(word, round(start_s, 3), round(end_s, 3), _probability(mean)))
        characters.append([c for piece, span in own for c in _characters(piece, span, clock, duration_s)])

    assert next(rest, None) is None

    inside = iter(characters)
    return tuple(
        replace(segment, characters=tuple(itertools.chain(*itertools.islice(inside, len(segment.words)))))
        for segment in segments_of(timed)
    )


def _characters(piece: str, span: Span, clock: Clock, duration_s: float) -> list[TimedWord]:
    """The characters that a token writes: they share its time evenly."""
    start_s, end_s = _times(span, span, clock, duration_s)
    edges = [start_s + (end_s - start_s) * i / len(piece) for i in range(len(piece) + 1)]
    probability = _probability(_log_prob(span))
    return [
        TimedWord(c, round(low, 3), round(high, 3), probability)
        for c, low, high in zip(piece, edges[:-1], edges[1:], strict=True)
    ]


def _times(first: Span, last: Span, clock: Clock, duration_s: float) -> tuple[float, float]:
    # The last step may reach beyond the last sample by part of a step.
    return min(float(clock[0][first.start]), duration_s), min(float(clock[1][last.end - 1]), duration_s)


def _log_prob(span: Span) -> float:
    assert span.log_prob is not None
    return span.log_prob


def _probability(log_prob: float) -> float:
    return round(min(math.exp(log_prob), 1.0), 4)
