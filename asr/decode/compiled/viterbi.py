"""``asr.decode.viterbi``, compiled: the same path, with the same choice where two are alike.

Where token pruning leaves few tokens in a step, few states of the text can be reached: only the window of those that
can is looked at and remembered.

Axes: s steps, v vocabulary, u tokens of the text, k states of the text (blank, token, blank, ..., token, blank),
j blanks and the token behind each, m moves remembered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.scores import best_token, only_blank
from asr.decode.types import Flags, Floats, Ints, LogProbs, Longs, Moves
from asr.jit import compiled

#: cells beside the window that the next step reads
_GUARD = 2


class _Back(NamedTuple):
    """The way back: for each step the window's first place, and where its moves begin."""

    low_s: Ints
    start_s: Longs
    blank_moves_m: Moves
    token_moves_m: Moves


@compiled
def _new_back(steps: int, moves: int) -> _Back:
    return _Back(
        np.empty(steps, np.int32), np.empty(steps, np.int64), np.empty(moves, np.int8), np.empty(moves, np.int8)
    )


@compiled
def find_spans(own_sv: LogProbs, labels_k: Ints, delimiter: int, floor: float) -> tuple[Ints, Ints, Floats]:
    """First step, step after the last, and best log-probability of each token of the text; none where no path is.

    Shapes: u tokens, all three; the optional delimiters at the ends of ``labels_k`` are none.
    """
    log_probs_sv = borrowed(own_sv)
    steps, states = len(log_probs_sv), len(labels_k)
    lead = 1 if delimiter >= 0 else 0
    tokens = (states - 1) // 2 - 2 * lead
    first_u, last_u, peak_u = np.full(tokens, -1, np.int32), np.zeros(tokens, np.int32), np.full(tokens, -math.inf)
    if steps == 0 or tokens == 0:
        return first_u, last_u, peak_u
    blank_s = np.empty(steps, np.bool_)
    for step in range(steps):
        blank_s[step] = only_blank(log_probs_sv[step], floor)
    cells = _new_cells(labels_k, delimiter, log_probs_sv.shape[1])
    back, state, moves = _new_back(steps, 8 * steps), -1, 0
    for attempt in range(2):  # with all tokens where pruning leaves no path
        if state < 0:
            for step in range(steps if attempt > 0 else 0):
                blank_s[step] = False
            state, moves = _best_end(log_probs_sv, labels_k, floor, blank_s, cells, back)
            while moves > 0:
                back = _new_back(steps, moves)
                state, moves = _best_end(log_probs_sv, labels_k, floor, blank_s, cells, back)
            floor = -math.inf
    if state < 0:
        return first_u[:0], last_u[:0], peak_u[:0]
    for step in range(steps - 1, -1, -1):
        place = (state - 1) // 2 - lead
        if state % 2 == 1 and 0 <= place < tokens:
            first_u[place] = step
            if last_u[place] == 0:
                last_u[place] = step + 1
            peak_u[place] = max(peak_u[place], float(log_probs_sv[step, labels_k[state]]))
        if step > 0 and not (blank_s[step] and blank_s[step - 1]):
            move = back.start_s[step] + state // 2 - back.low_s[step]
            state += back.token_moves_m[move] if state % 2 == 1 else back.blank_moves_m[move]
    return first_u, last_u, peak_u


@compiled
def _set_possible(log_probs_v: LogProbs, floor: float, possible_v: Floats) -> None:
    """Fills in the log-probabilities with -inf below the floor, the best excepted."""
    for token in range(len(log_probs_v)):
        possible_v[token] = log_probs_v[token] if log_probs_v[token] >= floor else -math.inf
    best = best_token(log_probs_v, floor)
    if best >= 0:
        possible_v[best] = log_probs_v[best]


class _Cells(NamedTuple):
    """The memory of one pass. Token j and blank j are at place j + _GUARD of the first two, which are two each."""

    blank_2j: Floats
    token_2j: Floats
    #: what it costs to come to token j from the token before it, or from the blank behind it
    skip_j: Floats
    back_j: Floats
    emit_j: Floats
    label_j: Ints
    possible_v: Floats


@compiled
def _new_cells(labels_k: Ints, delimiter: int, vocabulary_size: int) -> _Cells:
    tokens = len(labels_k) // 2
    skip_j, back_j = np.full(tokens + 1, -math.inf), np.full(tokens + 1, -math.inf)
    label_j = np.zeros(tokens + 1, np.int32)
    for j in range(tokens):
        label_j[j] = labels_k[2 * j + 1]
        if j > 0 and label_j[j] != label_j[j - 1]:
            skip_j[j] = 0.0
        if label_j[j] == delimiter:
            back_j[j] = 0.0
    cells = tokens + 1 + 2 * _GUARD
    return _Cells(
        np.full((2, cells), -math.inf), np.full((2, cells), -math.inf), skip_j, back_j, np.full(tokens + 1, -math.inf),
        label_j, np.empty(vocabulary_size),
    )  # fmt: skip


@compiled
def _best_end(
    own_sv: LogProbs, labels_k: Ints, floor: float, own_blank_s: Flags, own_cells: _Cells, own_back: _Back
) -> tuple[int, int]:
    """The state in which the best path ends, -1 when there is no path; fills in where each state came from.

    The second number is 0, or how many moves there should have been room for.
    """
    log_probs_sv, blank_s, cells, back = (
        borrowed(own_sv),
        borrowed(own_blank_s),
        borrowed(own_cells),
        borrowed(own_back),
    )
    skip_j, back_j, emit_j, label_j, possible_v = (
        cells.skip_j, cells.back_j, cells.emit_j, cells.label_j, cells.possible_v,
    )  # fmt: skip
    blank_moves_m, token_moves_m = back.blank_moves_m, back.token_moves_m
    steps, states, tokens = len(log_probs_sv), len(labels_k), len(labels_k) // 2
    ends = 2
    for j in range(tokens):
        if back_j[j] == 0.0:  # a delimiter: those at both ends may be left out
            ends = 4
    ends = min(ends, states)
    cells.blank_2j[:] = -math.inf
    cells.token_2j[:] = -math.inf
    blank_j, token_j = cells.blank_2j[0], cells.token_2j[0]
    next_blank_j, next_token_j = cells.blank_2j[1], cells.token_2j[1]
    filled = 0
    _set_possible(log_probs_sv[0], floor, possible_v)
    for state in range(ends):
        if state % 2 == 0:
            blank_j[state // 2 + _GUARD] = possible_v[0]
        else:
            token_j[state // 2 + _GUARD] = possible_v[labels_k[state]]
    first, last = 0, (ends - 1) // 2  # the window
    for step in range(1, steps):
        if blank_s[step] and blank_s[step - 1]:
            continue  # all stay, and all change by the same
        _set_possible(log_probs_sv[step], floor, possible_v)
        # a path goes on by one place, back by one to a delimiter, and must still reach the end in time
        low = max(first - 1, max(0, states - ends - 2 * (steps - 1 - step)) // 2)
        high = min(last + 1, tokens)
        if low > high:
            return -1, 0
        places = high - low + 1
        if filled + places > len(blank_moves_m):
            return -1, 2 * len(blank_moves_m) + places
        back.low_s[step], back.start_s[step] = low, filled
        for j in range(low, min(high + 1, tokens)):
            emit_j[j] = possible_v[label_j[j]]
        move_blanks(
            blank_j[low + _GUARD : high + 1 + _GUARD], token_j[low - 1 + _GUARD : high + _GUARD], possible_v[0],
            next_blank_j[low + _GUARD : high + 1 + _GUARD], blank_moves_m[filled : filled + places],
        )  # fmt: skip
        move_tokens(
            blank_j[low + _GUARD : high + 2 + _GUARD], token_j[low - 1 + _GUARD : high + 1 + _GUARD],
            skip_j[low : high + 1], back_j[low : high + 1], emit_j[low : high + 1],
            next_token_j[low + _GUARD : high + 1 + _GUARD], token_moves_m[filled : filled + places],
        )  # fmt: skip
        filled += places
        for beside in range(_GUARD):
            next_blank_j[low + beside] = next_token_j[low + beside] = -math.inf
            next_blank_j[high + 1 + _GUARD + beside] = next_token_j[high + 1 + _GUARD + beside] = -math.inf
        first, last = low, high
        while first <= last and next_blank_j[first + _GUARD] == -math.inf and next_token_j[first + _GUARD] == -math.inf:
            first += 1
        while first <= last and next_blank_j[last + _GUARD] == -math.inf and next_token_j[last + _GUARD] == -math.inf:
            last -= 1
        if first > last:
            return -1, 0
        blank_j, next_blank_j = next_blank_j, blank_j
        token_j, next_token_j = next_token_j, token_j
    end, best = -1, -math.inf
    for state in range(states - ends, states):
        place = state // 2
        if first <= place <= last:
            value = blank_j[place + _GUARD] if state % 2 == 0 else token_j[place + _GUARD]
            if value > best:
                end, best = state, value
    return end, 0


# Without branches, and with indices that start at 0, the next two run on several states at once.


@compiled
def move_blanks(blank_j: Floats, token_j: Floats, p_blank: float, next_j: Floats, moves_j: Moves) -> None:
    """Each blank comes from itself or from the token before it."""
    for j in range(len(next_j)):
        stay, other = blank_j[j], token_j[j]
        moves_j[j] = -1 if other > stay else 0
        next_j[j] = (other if other > stay else stay) + p_blank


@compiled
def move_tokens(
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
