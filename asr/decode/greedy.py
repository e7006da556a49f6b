"""Greedy (best path) decoding: the most probable token at each step, repeats merged, blanks removed.

Axes: s steps, v vocabulary.

Source: Graves et al. 2006, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer
from asr.decode.types import Floats, Hypothesis, LogProbs, Longs, Span, SpanColumns, TimedWord, check_log_probs

#: when each step of an utterance begins, and when it ends, in seconds
Clock = tuple[Floats, Floats]


def greedy(log_probs_sv: LogProbs, tokenizer: Tokenizer) -> Hypothesis:
    """Return the text of the most probable path, with that path's log-probability and the span of each token.

    Ties go to the lower token id. Zero steps give the empty text with log-probability 0.

    Raises:
        ValueError: the input is not log-probabilities over the tokenizer's vocabulary.
    """
    check_log_probs(log_probs_sv, tokenizer.vocabulary_size)
    return of_path(*best_path(log_probs_sv), tokenizer)


def best_path(log_probs_sv: LogProbs) -> tuple[Longs, LogProbs]:
    """Return the most probable token of each step, and its log-probability. Shapes: (s, v) -> (s,), (s,)."""
    path_s = log_probs_sv.argmax(axis=1)
    return path_s, np.take_along_axis(log_probs_sv, path_s[:, None], axis=1)[:, 0]


def of_path(path_s: Longs, best_s: LogProbs, tokenizer: Tokenizer) -> Hypothesis:
    """Return the text of a path, given the log-probability of each of its steps. Shapes: (s,), (s,)."""
    if not len(path_s):
        return Hypothesis("", 0.0, ())
    # runs of one token; those of the blank are left out
    starts = np.flatnonzero(np.concatenate([[True], path_s[1:] != path_s[:-1]]))
    ends = np.append(starts[1:], len(path_s))
    peaks = np.maximum.reduceat(best_s, starts)
    spoken = np.flatnonzero(path_s[starts] != BLANK_ID)
    spans = SpanColumns(
        token_u=path_s[starts[spoken]].astype(np.int32),
        start_u=starts[spoken].astype(np.int32),
        end_u=ends[spoken].astype(np.int32),
        log_prob_u=peaks[spoken].astype(np.float64),
    )
    log_prob = float(best_s.sum(dtype=np.float64))
    return Hypothesis.of_columns(tokenizer.decode(spans.token_u.tolist()), log_prob, 0.0, spans)


def words_with_times(hypothesis: Hypothesis, tokenizer: Tokenizer, clock: Clock | float) -> list[TimedWord]:
    """Return the words of a hypothesis with start and end in seconds: from a word's first token to the end of its last.

    A CTC model emits a token as a spike somewhere inside the sound: the times are good to about a tenth of a second.
    A word's confidence is the product of its tokens' probabilities at their strongest steps: the acoustic model's own
    probability that every token is right. Where the hypothesis states the share of the beam that agrees on the word, it
    is the geometric mean of the two: the sound knows nothing of the language model's doubts, and the beam nothing of
    what it has pruned.

    Args:
        clock: when each step begins and ends in seconds, shapes (s,), (s,); or the length of a step.
    """
    words = [_timed_word(pieces, clock) for pieces in spans_by_word(hypothesis.spans, tokenizer)]
    if hypothesis.word_shares is None:
        return words
    shared = []
    for word, share in zip(words, hypothesis.word_shares, strict=True):
        confidence = share if word.confidence is None else math.sqrt(word.confidence * share)
        shared.append(replace(word, confidence=round(confidence, 4)))
    return shared


def spans_by_word(spans: Sequence[Span], tokenizer: Tokenizer) -> list[list[tuple[str, Span]]]:
    """Return the letters that each token writes, with its span, in a list per word; the spaces are left out."""
    words: list[list[tuple[str, Span]]] = [[]]
    for span in spans:
        piece = tokenizer.symbols[span.token - 1].replace(WORD_START, " ")
        if piece.startswith(" ") and words[-1]:
            words.append([])
        if piece != " ":
            words[-1].append((piece.removeprefix(" "), span))
    return [word for word in words if word]


def _timed_word(pieces: Sequence[tuple[str, Span]], clock: Clock | float) -> TimedWord:
    spans = [span for _, span in pieces]
    first, last = spans[0].start, spans[-1].end
    if isinstance(clock, float):
        start_s, end_s = first * clock, last * clock
    else:
        start_s, end_s = float(clock[0][first]), float(clock[1][last - 1])

    log_probs = [span.log_prob for span in spans if span.log_prob is not None]
    confidence = None
    if len(log_probs) == len(spans):
        confidence = round(min(math.exp(sum(log_probs)), 1.0), 4)  # a row may sum to a little more than 1
    return TimedWord("".join(piece for piece, _ in pieces), round(start_s, 3), round(end_s, 3), confidence)
