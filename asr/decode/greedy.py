"""Greedy (best path) decoding: the most probable token at each step, repeats merged, blanks removed.

Axes: s steps, v vocabulary.

Source: Graves et al. 2006, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer
from asr.decode.types import Hypothesis, LogProbs, Span, SpanColumns, TimedWord, check_log_probs

#: when each step of an utterance begins, and when it ends, in seconds
Clock = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def greedy(log_probs_sv: LogProbs, tokenizer: Tokenizer) -> Hypothesis:
    """The text of the single most probable path, with that path's log-probability and the span of each token.

    Ties go to the lower token id. Zero steps give the empty text with log-probability 0.

    Raises:
        ValueError: the input is not log-probabilities over the tokenizer's vocabulary.
    """
    check_log_probs(log_probs_sv)
    if log_probs_sv.shape[1] != tokenizer.vocabulary_size:
        raise ValueError(
            f"log_probs has {log_probs_sv.shape[1]} tokens, the tokenizer {tokenizer.vocabulary_size} (blank included)"
        )
    if not len(log_probs_sv):
        return Hypothesis("", 0.0, ())
    path_s = log_probs_sv.argmax(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], path_s[1:] != path_s[:-1]]))
    ends = np.append(starts[1:], len(path_s))
    best_s = np.take_along_axis(log_probs_sv, path_s[:, None], axis=1)[:, 0]
    peaks = np.maximum.reduceat(best_s, starts)
    spoken = np.flatnonzero(path_s[starts] != BLANK_ID)
    columns = (
        path_s[starts].astype(np.int32),
        starts.astype(np.int32),
        ends.astype(np.int32),
        peaks.astype(np.float64),
    )
    spans = SpanColumns(*(column[spoken] for column in columns))  # type: ignore[arg-type]
    log_prob = float(best_s.sum(dtype=np.float64))
    return Hypothesis.of_columns(tokenizer.decode(spans.token_u.tolist()), log_prob, 0.0, spans)


def words_with_times(hypothesis: Hypothesis, tokenizer: Tokenizer, clock: Clock | float) -> list[TimedWord]:
    """The words of a hypothesis with start and end in seconds: from a word's first token to the end of its last.

    ``clock``: when each step begins and ends in seconds, shapes (s,), (s,); or a step's length, from 0.

    A CTC model emits a token as a spike somewhere inside the sound: the times are good to about a tenth of a second.
    A word's confidence is the product of its tokens' probabilities at their strongest steps: the acoustic model's own
    probability that every token is right. Where the hypothesis states the share of the beam that agrees on the word, it
    is the geometric mean of the two: the sound knows nothing of the language model's doubts, the beam nothing of what
    it has pruned.
    """
    words: list[TimedWord] = []
    letters: list[str] = []
    spans: list[Span] = []
    for span in hypothesis.spans:
        piece = tokenizer.symbols[span.token - 1].replace(WORD_START, " ")
        if piece.startswith(" ") and letters:
            words.append(_word(letters, spans, clock))
            letters, spans = [], []
        if piece != " ":
            letters.append(piece.removeprefix(" "))
            spans.append(span)
    if letters:
        words.append(_word(letters, spans, clock))
    if hypothesis.word_shares is not None:
        shared = zip(words, hypothesis.word_shares, strict=True)
        words = [replace(word, confidence=_mean(word.confidence, share)) for word, share in shared]
    return words


def _mean(confidence: float | None, share: float) -> float:
    return round(share if confidence is None else math.sqrt(confidence * share), 4)


def _word(letters: Sequence[str], spans: Sequence[Span], clock: Clock | float) -> TimedWord:
    first, last = spans[0].start, spans[-1].end
    if isinstance(clock, float):
        start_s, end_s = first * clock, last * clock
    else:
        start_s, end_s = float(clock[0][first]), float(clock[1][last - 1])
    log_probs = [span.log_prob for span in spans if span.log_prob is not None]
    # a row may sum to a little more than 1, a probability not
    confidence = round(min(math.exp(sum(log_probs)), 1.0), 4) if len(log_probs) == len(spans) else None
    return TimedWord("".join(letters), round(start_s, 3), round(end_s, 3), confidence)
