"""Forced alignment: the most probable path that writes a given text, for a clip or for hours.

Axes: s steps, v vocabulary, u tokens of the text, k states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.alignment.best_path import best_path, text_states
from asr.alignment.compiled.best_path import spans_of_path
from asr.data.targets import min_steps
from asr.decode.types import Floats, Ints, LogProbs, Span, check_log_probs
from asr.decode.viterbi import states_of


@dataclass(frozen=True)
class ForcedAlignment:
    """Hold the most probable path that writes a text, and where each token is on it.

    ``log_prob`` is the path's. A token is at the steps from ``start_u`` to ``end_u``, the end not included;
    ``peak_log_prob_u`` is its log-probability at the strongest of them, ``mean_log_prob_u`` the mean over all.
    Log-probabilities are natural.

    Shapes: (s,) the token at each step, the blank among them; the others (u,).
    """

    path_s: Ints
    log_prob: float
    token_u: Ints
    start_u: Ints
    end_u: Ints
    peak_log_prob_u: Floats
    mean_log_prob_u: Floats

    @property
    def spans(self) -> tuple[Span, ...]:
        """Return the tokens with their steps and ``peak_log_prob_u``."""
        columns = self.token_u, self.start_u, self.end_u, self.peak_log_prob_u
        return tuple(Span(*row) for row in zip(*(each_u.tolist() for each_u in columns), strict=True))


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
    _check(log_probs_sv, np.asarray(tokens_u, np.int64).tolist())
    token_u = np.array(tokens_u, np.int32)
    size = len(token_u)
    columns = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size), np.empty(size)
    if not len(log_probs_sv):
        return ForcedAlignment(np.zeros(0, np.int32), 0.0, token_u, *columns)

    labels_k = states_of(token_u.tolist(), delimiter)
    path_s, _, log_prob = best_path(log_probs_sv, text_states(labels_k, delimiter))
    if log_prob == -math.inf:
        raise ValueError("no path of positive probability writes the text")
    spans_of_path(log_probs_sv, labels_k, path_s, 1 if delimiter < 0 else 3, *columns)
    return ForcedAlignment(path_s, log_prob, token_u, *columns)


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
