"""Forced alignment: the most probable path that writes a given text, for a clip or for hours.

The states of a text are blank, token, blank, …, token, blank. One pass over all steps keeps every state's best score at
the start of each block of steps, and no way back. The way back is found block by block from the end: a path moves by at
most one token a step, so of a block only the few states around its end are computed again, now with their moves. The
path is exact, the time that of one pass, and the memory grows with (steps times tokens) to the power of 2/3.

Axes: s steps, v vocabulary, u tokens of the text, k states, j blanks and the token behind each: blank j is state 2j,
token j state 2j + 1.

Source: Graves et al. 2006, section 4.1 (the states); Grice, Hughey and Speck 1997 (paths by checkpoints).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID
from asr.decode.types import Floats, Ints, LogProbs, Moves, Span, check_log_probs
from asr.decode.viterbi import states_of

Backend = Literal["auto", "numpy", "numba"]
#: steps times tokens that are done as one block: 2 bytes each
_ONE_BLOCK = 1 << 22
#: log-probabilities that are checked at once: the check needs several times their memory
_CHECKED_AT_ONCE = 1 << 22
#: where a token comes from, in the order in which ties are broken: itself, the state before it, the token before it, or
#: (the delimiter) the blank after it
_MOVES = np.array([0, -1, -2, 1], np.int8)


@dataclass(frozen=True)
class Alignment:
    """The most probable path that writes a text.

    ``log_prob`` is the path's, a natural log. A span goes from its token's first step to its last, and has the
    log-probability of the strongest; ``mean_log_prob_u`` is the mean over the token's steps.

    Shapes: (s,) the token at each step, the blank among them; (u,).
    """

    path_s: Ints
    spans: tuple[Span, ...]
    log_prob: float
    mean_log_prob_u: Floats


class _Text(NamedTuple):
    """The states of a text: what each token is, and what it costs to come to it from the token before it, and back."""

    label_j: Ints
    skip_j: Floats
    back_j: Floats
    #: the blanks from which a path may come before its first step; with a delimiter, which may be left out, two
    starts: int
    #: the states in which it may end: the last two; with a delimiter the last four
    ends: int


def force_align(
    log_probs_sv: LogProbs, tokens_u: Sequence[int], *, delimiter: int = -1, backend: Backend = "auto"
) -> Alignment:
    """The most probable path that writes the tokens, and where each of them is on it.

    Among paths that are equally probable it is the one that stays longest where it is, seen from the end (and that ends
    in the last token, not in the blank after it).

    Args:
        delimiter: a token (the space) that paths may have more often than the text: at both ends, and doubled with
            blanks between. -1: none.
        backend: ``numba`` (the same as ``auto``) is compiled, ``numpy`` is plain; their paths are the same.

    Raises:
        ValueError: the input is not log-probabilities; a token is not in the vocabulary, or impossible in every step;
            the steps are too few; or no path of positive probability writes the tokens.

    >>> log_probs_sv = np.log(np.array([[0.2, 0.6, 0.2], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]], np.float32))
    >>> force_align(log_probs_sv, [1, 2], backend="numpy").path_s.tolist()
    [1, 0, 2]
    """
    if backend not in ("auto", "numpy", "numba"):
        raise ValueError(f"unknown backend {backend!r} (auto, numpy, numba)")
    tokens_u = np.asarray(tokens_u, np.int64).tolist()
    _check(log_probs_sv, tokens_u)
    labels_k = states_of(tokens_u, delimiter)
    if not len(log_probs_sv):
        return Alignment(np.zeros(0, np.int32), (), 0.0, np.zeros(0))
    state_s, log_prob = _best_path(log_probs_sv, text_of(labels_k, delimiter), _pass_of(backend))
    if log_prob == -math.inf:
        raise ValueError("no path of positive probability writes the text")
    lead = 1 if delimiter >= 0 else 0
    spans, mean_u = _spans(log_probs_sv, labels_k, state_s, slice(2 * lead + 1, 2 * (lead + len(tokens_u)), 2))
    return Alignment(labels_k[state_s], spans, log_prob, mean_u)


def min_steps(tokens_u: Sequence[int]) -> int:
    """The fewest steps in which the tokens can be written: one each, and a blank between equal neighbours.

    >>> min_steps([8, 5, 12, 12, 15])
    6
    """
    return len(tokens_u) + sum(a == b for a, b in itertools.pairwise(tokens_u))


def _check(log_probs_sv: LogProbs, tokens_u: Sequence[int]) -> None:
    """Refuses what cannot be aligned, and says which and why."""
    rows = max(1, _CHECKED_AT_ONCE // max(1, log_probs_sv.size // max(1, len(log_probs_sv))))
    for first in range(0, max(1, len(log_probs_sv)), rows):
        try:
            check_log_probs(log_probs_sv[first : first + rows])
        except ValueError:
            check_log_probs(log_probs_sv)  # names the step
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


def text_of(labels_k: Ints, delimiter: int) -> _Text:
    label_j = labels_k[1::2].copy()
    skip_j, back_j = np.full(len(label_j), -np.inf), np.full(len(label_j), -np.inf)
    skip_j[1:][label_j[1:] != label_j[:-1]] = 0.0
    if delimiter >= 0:
        back_j[label_j == delimiter] = 0.0
    starts = 1 if delimiter < 0 else 2
    return _Text(label_j, skip_j, back_j, starts, min(2 * starts, len(labels_k)))


def _best_path(
    log_probs_sv: LogProbs, text: _Text, advance: Callable[..., None]
) -> tuple[npt.NDArray[np.int64], float]:
    """The state at each step of the most probable path, and its log-probability; -inf: there is none."""
    steps, tokens = len(log_probs_sv), len(text.label_j)
    size = _block_steps(steps, tokens)
    starts = range(0, steps, size)
    # Before the first step: as if in the first blank (and in that after the delimiter, which may be left out).
    blank_j, token_j = np.full(tokens + 2, -np.inf), np.full(tokens + 1, -np.inf)
    blank_j[: text.starts] = 0.0
    # Of step s only the tokens that can be reached by then, and from which the end can still be reached.
    low, high = tokens - text.ends // 2 - (steps - 1), text.starts - 1
    kept, no_moves_sj = [(blank_j.copy(), token_j.copy())], np.empty((0, 0), np.int8)
    for start in starts[:-1]:
        block_sv = log_probs_sv[start : start + size]
        advance(block_sv, *text[:3], blank_j, token_j, low + start, high + start, no_moves_sj, no_moves_sj)
        kept.append((blank_j.copy(), token_j.copy()))
    state_s = np.empty(steps, np.int64)
    state, log_prob = -1, 0.0
    for start in reversed(starts):
        block_sv = log_probs_sv[start : start + size]
        state, best, path = _way_back(block_sv, text, *kept.pop(), state, advance)
        if start == starts[-1]:
            log_prob = best
            if best == -math.inf:
                break
        state_s[start : start + size] = path
    return state_s, log_prob


def _block_steps(steps: int, tokens: int) -> int:
    """How many steps are a block: the scores that are kept and the moves of a block take the least memory then."""
    cells = steps * (tokens + 1)
    return steps if cells <= _ONE_BLOCK else math.ceil((4 * cells) ** (1 / 3))


def _way_back(
    log_probs_sv: LogProbs, text: _Text, blank_j: Floats, token_j: Floats, state: int, advance: Callable[..., None]
) -> tuple[int, float, list[int]]:
    """The best path through a block to a state at its end (-1: to the best of the text's ends).

    What comes back is the state before the block, the log-probability at its end, and the state at each step.
    """
    steps, tokens = len(log_probs_sv), len(text.label_j)
    top = tokens if state < 0 else state // 2
    # A path comes from at most one token a step before; to a delimiter it may come from the blank after it.
    first, last = max(0, top - steps - 2), min(top + 1, tokens)
    window = slice(first, last)
    blank_j, token_j = blank_j[first : last + 2].copy(), token_j[first : last + 1].copy()
    moves_2sj = np.empty((2, steps, last - first + 1), np.int8)
    advance(
        log_probs_sv, text.label_j[window], text.skip_j[window], text.back_j[window], blank_j, token_j, -steps, last,
        moves_2sj[0], moves_2sj[1],
    )  # fmt: skip
    best_k = np.full(2 * (last - first) + 1, -np.inf)
    best_k[::2], best_k[1::2] = blank_j[: last - first + 1], token_j[1:]
    place = state - 2 * first
    if state < 0:
        place = len(best_k) - text.ends + int(best_k[-text.ends :].argmax())
    best = float(best_k[place])
    path = []
    for step in range(steps - 1, -1, -1):
        path.append(place + 2 * first)
        place += int(moves_2sj[place & 1, step, place >> 1])
    return place + 2 * first, best, path[::-1]


def _spans(
    log_probs_sv: LogProbs, labels_k: Ints, state_s: npt.NDArray[np.int64], own: slice
) -> tuple[tuple[Span, ...], Floats]:
    """The spans of the states ``own``, and the mean log-probability of each."""
    step_s = np.arange(len(state_s))
    first_k, last_k, peak_k = np.zeros_like(labels_k), np.zeros_like(labels_k), np.full(len(labels_k), -np.inf)
    first_k[state_s[::-1]] = step_s[::-1]  # what is assigned last stays
    last_k[state_s] = step_s
    log_prob_s = log_probs_sv[step_s, labels_k[state_s]].astype(np.float64)
    np.maximum.at(peak_k, state_s, log_prob_s)
    sum_k, count_k = np.bincount(state_s, log_prob_s, len(labels_k)), np.bincount(state_s, minlength=len(labels_k))
    columns = (each_k[own].tolist() for each_k in (labels_k, first_k, last_k + 1, peak_k))
    return tuple(map(Span._make, zip(*columns, strict=True))), sum_k[own] / count_k[own]


def _pass_of(backend: Backend) -> Callable[..., None]:
    if backend == "numpy":
        return _advance
    from asr.alignment.compiled.forced import advance  # numba takes a while to load

    return advance


def _advance(
    log_probs_sv: LogProbs, label_j: Ints, skip_j: Floats, back_j: Floats, blank_j: Floats, token_j: Floats,
    low: int, high: int, blank_moves_sj: Moves, token_moves_sj: Moves,
) -> None:  # fmt: skip
    """Takes the scores of all states through the steps, in place.

    Blank j is at ``blank_j[j]``, with one more at the end; token j at ``token_j[j + 1]``, so that there is one before
    each. Looked at are ``low`` to ``high``, both one more with each step. Where the arrays of moves have rows, they are
    filled in.
    """
    tokens = len(label_j)
    for step, log_probs_v in enumerate(log_probs_sv):
        first, end = max(0, low + step), min(high + step, tokens) + 1
        last = min(end, tokens)
        came_4j = np.stack([
            token_j[first + 1 : last + 1],
            blank_j[first:last],
            token_j[first:last] + skip_j[first:last],
            blank_j[first + 1 : last + 1] + back_j[first:last],
        ])  # fmt: skip
        stay_j, before_j = blank_j[first:end], token_j[first:end]
        if len(blank_moves_sj):
            token_moves_sj[step, first:last] = _MOVES[came_4j.argmax(axis=0)]
            blank_moves_sj[step, first:end] = -1 * (before_j > stay_j)
        blank_j[first:end] = np.maximum(stay_j, before_j) + np.float64(log_probs_v[BLANK_ID])
        token_j[first + 1 : last + 1] = came_4j.max(axis=0) + log_probs_v[label_j[first:last]].astype(np.float64)
