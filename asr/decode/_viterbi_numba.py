"""``asr.decode.viterbi``, compiled: the same path, with the same choice where two are alike.

Axes: s steps, v vocabulary, u tokens of the text, k states of the text (blank, token, blank, ..., token, blank).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from asr.decode._scores_numba import compiled, only_blank
from asr.decode.tables import Floats, Ints
from asr.decode.types import LogProbs

Moves = npt.NDArray[np.int8]


@compiled
def find_spans(log_probs_sv: LogProbs, labels_k: Ints, delimiter: int, floor: float) -> tuple[Ints, Ints, Floats]:
    """First step, step after the last, and best log-probability of each token of the text; none where no path is.

    Shapes: u tokens, all three; the optional delimiters at the ends of ``labels_k`` are none.
    """
    steps, states = len(log_probs_sv), len(labels_k)
    lead = 1 if delimiter >= 0 else 0
    tokens = (states - 1) // 2 - 2 * lead
    first_u, last_u, peak_u = np.full(tokens, -1, np.int32), np.zeros(tokens, np.int32), np.full(tokens, -math.inf)
    if steps == 0 or tokens == 0:
        return first_u, last_u, peak_u
    blank_moves_sj, token_moves_sj = (
        np.zeros((steps, states // 2 + 1), np.int8),
        np.zeros((steps, states // 2), np.int8),
    )
    state = _best_end(log_probs_sv, labels_k, delimiter, floor, blank_moves_sj, token_moves_sj)
    if state < 0:
        state = _best_end(log_probs_sv, labels_k, delimiter, -math.inf, blank_moves_sj, token_moves_sj)
    if state < 0:
        return first_u[:0], last_u[:0], peak_u[:0]
    for step in range(steps - 1, -1, -1):
        place = (state - 1) // 2 - lead
        if state % 2 == 1 and 0 <= place < tokens:
            first_u[place] = step
            if last_u[place] == 0:
                last_u[place] = step + 1
            peak_u[place] = max(peak_u[place], float(log_probs_sv[step, labels_k[state]]))
        state += token_moves_sj[step, state // 2] if state % 2 == 1 else blank_moves_sj[step, state // 2]
    return first_u, last_u, peak_u


@compiled
def _set_possible(log_probs_v: LogProbs, floor: float, possible_v: Floats) -> None:
    """Fills in the log-probabilities with -inf below the floor, the best excepted."""
    best = 0
    for token in range(len(log_probs_v)):
        possible_v[token] = log_probs_v[token] if log_probs_v[token] >= floor else -math.inf
        if log_probs_v[token] > log_probs_v[best]:
            best = token
    possible_v[best] = log_probs_v[best]


@compiled
def _best_end(
    log_probs_sv: LogProbs, labels_k: Ints, delimiter: int, floor: float, blank_moves_sj: Moves, token_moves_sj: Moves
) -> int:
    """The state in which the best path ends, -1 when there is no path; fills in where each state came from.

    Token j of the states is between blank j and blank j + 1; a move that a token does not have costs inf.
    """
    steps, states, tokens = len(log_probs_sv), len(labels_k), len(labels_k) // 2
    ends = min(2 if delimiter < 0 else 4, states)
    labels_j = labels_k[1::2].copy()
    skip_j, back_j = np.full(tokens, -math.inf), np.full(tokens, -math.inf)
    for j in range(tokens):
        if j > 0 and labels_j[j] != labels_j[j - 1]:
            skip_j[j] = 0.0
        if labels_j[j] == delimiter:
            back_j[j] = 0.0
    # token j is at place j + 1: the token before the first one is impossible
    blank_j, token_j = np.full(tokens + 1, -math.inf), np.full(tokens + 1, -math.inf)
    next_blank_j, next_token_j = blank_j.copy(), token_j.copy()
    possible_v, emit_j = np.empty(log_probs_sv.shape[1]), np.empty(tokens)
    _set_possible(log_probs_sv[0], floor, possible_v)
    was_blank = only_blank(log_probs_sv[0], floor)
    for state in range(ends):
        if state % 2 == 0:
            blank_j[state // 2] = possible_v[0]
        else:
            token_j[state // 2 + 1] = possible_v[labels_k[state]]
    for step in range(1, steps):
        before = was_blank
        was_blank = only_blank(log_probs_sv[step], floor)
        if before and was_blank:
            continue  # all stay, and all change by the same
        _set_possible(log_probs_sv[step], floor, possible_v)
        # only what a path can have reached by now, and from where it can reach the end in time
        low = max(0, states - ends - 2 * (steps - 1 - step)) // 2
        high = min(tokens, step + ends // 2)
        for j in range(low, high):
            emit_j[j] = possible_v[labels_j[j]]
        _move_blanks(
            blank_j[low : high + 1], token_j[low : high + 1], possible_v[0], next_blank_j[low : high + 1],
            blank_moves_sj[step, low : high + 1],
        )  # fmt: skip
        _move_tokens(
            blank_j[low : high + 1], token_j[low : high + 1], skip_j[low:high], back_j[low:high], emit_j[low:high],
            next_token_j[low + 1 : high + 1], token_moves_sj[step, low:high],
        )  # fmt: skip
        blank_j, next_blank_j = next_blank_j, blank_j
        token_j, next_token_j = next_token_j, token_j
    last, best = -1, -math.inf
    for state in range(states - ends, states):
        value = blank_j[state // 2] if state % 2 == 0 else token_j[state // 2 + 1]
        if value > best:
            last, best = state, value
    return last


# Without branches, and with indices that start at 0, the next two run on several states at once.


@compiled
def _move_blanks(blank_j: Floats, token_j: Floats, p_blank: float, next_j: Floats, moves_j: Moves) -> None:
    """Each blank comes from itself or from the token before it."""
    for j in range(len(next_j)):
        stay, other = blank_j[j], token_j[j]
        moves_j[j] = -1 if other > stay else 0
        next_j[j] = (other if other > stay else stay) + p_blank


@compiled
def _move_tokens(
    blank_j: Floats, token_j: Floats, skip_j: Floats, back_j: Floats, emit_j: Floats, next_j: Floats, moves_j: Moves
) -> None:
    """Each token comes from itself, the blank or the token before it, or, the delimiter, from the blank after it."""
    for j in range(len(next_j)):
        best, move = token_j[j + 1], 0
        other = blank_j[j]
        move = -1 if other > best else move
        best = other if other > best else best
        other = token_j[j] + skip_j[j]
        move = -2 if other > best else move
        best = other if other > best else best
        other = blank_j[j + 1] + back_j[j]
        move = 1 if other > best else move
        best = other if other > best else best
        moves_j[j] = move
        next_j[j] = best + emit_j[j]
