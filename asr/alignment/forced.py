"""Forced alignment: the most probable path that writes a given text, for a clip or for hours.

Axes: s steps, v vocabulary, u tokens of the text, k states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.alignment.best_path import best_path, text_states
from asr.data.targets import min_steps
from asr.decode.types import Floats, Ints, LogProbs, Longs, Span, check_log_probs
from asr.decode.viterbi import states_of


@dataclass(frozen=True)
class ForcedAlignment:
    """Hold the most probable path that writes a text.

    ``log_prob`` is the path's, a natural log. A span goes from its token's first step to its last, and has the
    log-probability of the strongest; ``mean_log_prob_u`` is the mean over the token's steps.

    Shapes: (s,) the token at each step, the blank among them; (u,).
    """

    path_s: Ints
    spans: tuple[Span, ...]
    log_prob: float
    mean_log_prob_u: Floats


def force_align(log_probs_sv: LogProbs, tokens_u: Sequence[int], *, delimiter: int = -1) -> ForcedAlignment:
    """Find the most probable path that writes the tokens, and where each of them is on it.

    Among paths that are equally probable it is the one that stays longest where it is, seen from the end (and that ends
    in the last token, not in the blank after it).

    Args:
        delimiter: a token (the space) that paths may have more often than the text: at both ends, and doubled with
            blanks between. -1: none.

    Raises:
        ValueError: the input is not log-probabilities; a token is not in the vocabulary, or impossible in every step;
            the steps are too few; or no path of positive probability writes the tokens.

    >>> log_probs_sv = np.log(np.array([[0.2, 0.6, 0.2], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]], np.float32))
    >>> force_align(log_probs_sv, [1, 2]).path_s.tolist()
    [1, 0, 2]
    """
    tokens_u = np.asarray(tokens_u, np.int64).tolist()
    _check(log_probs_sv, tokens_u)
    if not len(log_probs_sv):
        return ForcedAlignment(np.zeros(0, np.int32), (), 0.0, np.zeros(0))

    labels_k = states_of(tokens_u, delimiter)
    state_s, _, log_prob = best_path(log_probs_sv, text_states(labels_k, delimiter))
    if log_prob == -math.inf:
        raise ValueError("no path of positive probability writes the text")
    first = 1 if delimiter < 0 else 3
    spans, mean_u = _spans(log_probs_sv, labels_k, state_s, slice(first, first + 2 * len(tokens_u) - 1, 2))
    return ForcedAlignment(labels_k[state_s], spans, log_prob, mean_u)


def _check(log_probs_sv: LogProbs, tokens_u: Sequence[int]) -> None:
    """Refuse what cannot be aligned, and say which and why."""
    check_log_probs(log_probs_sv)
    steps, vocabulary_size = log_probs_sv.shape
    bad = [token for token in tokens_u if not 1 <= token < vocabulary_size]
    if bad:
        raise ValueError(f"tokens must be in 1..{vocabulary_size - 1} (0 is the blank), got {bad[:5]}")
    needed = min_steps(tokens_u)
    if needed > steps:
        raise ValueError(
            f"{len(tokens_u):,} tokens need at least {needed:,} steps (one each, and a blank between equal "
            f"neighbours), got {steps:,}"
        )

    for token in sorted(set(tokens_u)):
        if log_probs_sv[:, token].max() == -math.inf:
            place = tokens_u.index(token)
            raise ValueError(f"token {token} (the text's token {place + 1:,}) is impossible in every step")


def _spans(log_probs_sv: LogProbs, labels_k: Ints, state_s: Longs, own: slice) -> tuple[tuple[Span, ...], Floats]:
    """Return the spans of the states ``own``, and the mean log-probability of each."""
    step_s = np.arange(len(state_s))
    log_prob_s = log_probs_sv[step_s, labels_k[state_s]].astype(np.float64)
    first_k, last_k = np.zeros_like(labels_k), np.zeros_like(labels_k)
    first_k[state_s[::-1]] = step_s[::-1]  # what is assigned last stays
    last_k[state_s] = step_s
    peak_k = np.full(len(labels_k), -np.inf)
    np.maximum.at(peak_k, state_s, log_prob_s)
    sum_k = np.bincount(state_s, log_prob_s, len(labels_k))
    count_k = np.bincount(state_s, minlength=len(labels_k))

    columns = (each_k[own].tolist() for each_k in (labels_k, first_k, last_k + 1, peak_k))
    spans = tuple(Span(*row) for row in zip(*columns, strict=True))
    return spans, sum_k[own] / count_k[own]
