"""Greedy (best path) decoding: the most probable token at each step, repeats merged, blanks removed.

Axes: s steps, v vocabulary.

Source: Graves et al. 2006, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr.decode.types import WORD_START, Hypothesis, LogProbs, Span, TimedWord, check_log_probs
from asr.text import BLANK_ID, Tokenizer


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
    spans = tuple(
        Span(int(path_s[start]), int(start), int(end))
        for start, end in zip(starts, ends, strict=True)
        if path_s[start] != BLANK_ID
    )
    log_prob = float(log_probs_sv.max(axis=1).sum(dtype=np.float64))
    return Hypothesis(tokenizer.decode([span.token for span in spans]), log_prob, spans)


def words_with_times(hypothesis: Hypothesis, tokenizer: Tokenizer, step_s: float) -> list[TimedWord]:
    """The words of a hypothesis with start and end in seconds: from a word's first token to the end of its last.

    A CTC model emits a token as a spike somewhere inside the sound: the times are good to about a tenth of a second.
    A word has the confidence that the hypothesis states, or else, where the decoder gives its tokens' log-probabilities
    (beam search does), their product: the acoustic model's own probability that every token of the word is right.
    """
    words: list[TimedWord] = []
    letters: list[str] = []
    spans: list[Span] = []
    for span in hypothesis.spans:
        piece = tokenizer.symbols[span.token - 1].replace(WORD_START, " ")
        if piece.startswith(" ") and letters:
            words.append(_word(letters, spans, step_s))
            letters, spans = [], []
        if piece != " ":
            letters.append(piece.removeprefix(" "))
            spans.append(span)
    if letters:
        words.append(_word(letters, spans, step_s))
    if hypothesis.word_confidences is not None:
        stated = zip(words, hypothesis.word_confidences, strict=True)
        words = [replace(word, confidence=round(confidence, 4)) for word, confidence in stated]
    return words


def _word(letters: Sequence[str], spans: Sequence[Span], step_s: float) -> TimedWord:
    start_s, end_s = round(spans[0].start * step_s, 3), round(spans[-1].end * step_s, 3)
    log_probs = [span.log_prob for span in spans if span.log_prob is not None]
    confidence = round(math.exp(sum(log_probs)), 4) if len(log_probs) == len(spans) else None
    return TimedWord("".join(letters), start_s, end_s, confidence)
