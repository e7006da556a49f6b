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
from asr.decode.compiled.rows import best_token, only_blank
from asr.decode.types import Flags, Floats, Ints, LogProbs, Longs, Moves
from asr.jit import compiled, inlined

#: cells beside the window that the next step reads
_GUARD = 2


class _Memory(NamedTuple):
    """The memory of one pass. Token j and blank j are at place j + _GUARD of the first two, which are two each."""

    blank_2j: Floats
    token_2j: Floats
    #: what it costs to come to token j from the token before it, or from the blank behind it
    skip_j: Floats
    back_j: Floats
    emit_j: Floats
    label_j: Ints
    #: log-probabilities of the tokens that are possible in a step
    possible_v: Floats
    #: whether only the blank is possible in a step
    blank_s: Flags
    #: the way back: for each step the window's first place, and where its moves begin
    low_s: Ints
    start_s: Longs
    blank_moves_m: Moves
    token_moves_m: Moves


@compiled
def _new_memory(log_probs_sv: LogProbs, token_u: Ints, delimiter: int, floor: float, moves: int) -> _Memory:
    steps, vocabulary_size = log_probs_sv.shape
    lead = 1 if delimiter >= 0 else 0
    tokens = len(token_u) + 2 * lead
    skip_j, back_j = np.full(tokens + 1, -math.inf), np.full(tokens + 1, -math.inf)
    label_j = np.full(tokens + 1, delimiter, np.int32)

    for j in range(tokens):
        if lead <= j < tokens - lead:
            label_j[j] = token_u[j - lead]
        if j > 0 and label_j[j] != label_j[j - 1]:
            skip_j[j] = 0.0
        if label_j[j] == delimiter:
            back_j[j] = 0.0

    blank_s = np.empty(steps, np.bool_)
    for step in range(steps):
        blank_s[step] = only_blank(log_probs_sv[step], floor)
    cells = tokens + 1 + 2 * _GUARD
    return _Memory(
        blank_2j=np.full((2, cells), -math.inf),
        token_2j=np.full((2, cells), -math.inf),
        skip_j=skip_j,
        back_j=back_j,
        emit_j=np.full(tokens + 1, -math.inf),
        label_j=label_j,
        possible_v=np.empty(vocabulary_size),
        blank_s=blank_s,
        low_s=np.empty(steps, np.int32),
        start_s=np.empty(steps, np.int64),
        blank_moves_m=np.empty(moves, np.int8),
        token_moves_m=np.empty(moves, np.int8),
    )


@compiled
def find_spans(own_sv: LogProbs, token_u: Ints, delimiter: int, floor: float) -> tuple[Ints, Ints, Floats]:
    """Return first step, step after the last, and best log-probability of each token; nothing where no path is.

    The definition is ``asr.decode.viterbi.spans_of``. Shapes: u tokens, all three.
    """
    log_probs_sv = borrowed(own_sv)
    steps, tokens = len(log_probs_sv), len(token_u)
    lead = 1 if delimiter >= 0 else 0  # the delimiter before the text, which may be left out
    first_u, last_u, peak_u = np.full(tokens, -1, np.int32), np.zeros(tokens, np.int32), np.full(tokens, -math.inf)
    if steps == 0 or tokens == 0:
        return first_u, last_u, peak_u

    memory = _new_memory(log_probs_sv, token_u, delimiter, floor, 8 * steps)
    state = -1
    room = 8 * steps

    for _ in range(2):
        needed = room
        while needed > 0:
            if needed > room:
                room = needed
                memory = _new_memory(log_probs_sv, token_u, delimiter, floor, room)
            state, needed = _best_end(log_probs_sv, floor, memory)
        if state >= 0:
            break
        floor = -math.inf  # with all tokens, where pruning leaves no path
        memory.blank_s[:] = False

    if state < 0:
        return first_u[:0], last_u[:0], peak_u[:0]

    for step in range(steps - 1, -1, -1):
        place = (state - 1) // 2 - lead
        if state % 2 == 1 and 0 <= place < tokens:
            first_u[place] = step
            if last_u[place] == 0:
                last_u[place] = step + 1
            peak_u[place] = max(peak_u[place], float(log_probs_sv[step, token_u[place]]))
        if step > 0 and not (memory.blank_s[step] and memory.blank_s[step - 1]):
            move = memory.start_s[step] + state // 2 - memory.low_s[step]
            state += memory.token_moves_m[move] if state % 2 == 1 else memory.blank_moves_m[move]

    return first_u, last_u, peak_u


@inlined
def _set_possible(log_probs_v: LogProbs, floor: float, possible_v: Floats) -> None:
    """Fill in the log-probabilities with -inf below the floor, the best excepted."""
    for token in range(len(log_probs_v)):
        possible_v[token] = log_probs_v[token] if log_probs_v[token] >= floor else -math.inf
    best = best_token(log_probs_v, floor)
    if best >= 0:
        possible_v[best] = log_probs_v[best]


@compiled
def _best_end(own_sv: LogProbs, floor: float, own_memory: _Memory) -> tuple[int, int]:
    """Return the state in which the best path ends, -1 when there is none; fill in where each state came from.

    The second number is 0, or how many moves there should have been room for.
    """
    log_probs_sv, memory = borrowed(own_sv), borrowed(own_memory)
    skip_j = memory.skip_j
    back_j = memory.back_j
    emit_j = memory.emit_j
    possible_v = memory.possible_v
    steps, tokens = len(log_probs_sv), len(skip_j) - 1
    states = 2 * tokens + 1
    ends = 2
    for j in range(tokens):
        if back_j[j] == 0.0:  # a delimiter: those at both ends may be left out
            ends = 4
    ends = min(ends, states)

    # the first step
    memory.blank_2j[:] = -math.inf
    memory.token_2j[:] = -math.inf
    blank_j, token_j = memory.blank_2j[0], memory.token_2j[0]
    next_blank_j, next_token_j = memory.blank_2j[1], memory.token_2j[1]
    _set_possible(log_probs_sv[0], floor, possible_v)

    for state in range(ends):
        if state % 2 == 0:
            blank_j[state // 2 + _GUARD] = possible_v[0]
        else:
            token_j[state // 2 + _GUARD] = possible_v[memory.label_j[state // 2]]

    first = 0  # the window
    last = (ends - 1) // 2
    filled = 0

    for step in range(1, steps):
        if memory.blank_s[step] and memory.blank_s[step - 1]:
            continue  # all stay, and all change by the same
        _set_possible(log_probs_sv[step], floor, possible_v)
        # a path goes on by one place, back by one to a delimiter, and must still reach the end in time
        low = max(first - 1, max(0, states - ends - 2 * (steps - 1 - step)) // 2)
        high = min(last + 1, tokens)
        if low > high:
            return -1, 0
        places = high - low + 1
        if filled + places > len(memory.blank_moves_m):
            return -1, 2 * len(memory.blank_moves_m) + places
        memory.low_s[step], memory.start_s[step] = low, filled
        for j in range(low, min(high + 1, tokens)):
            emit_j[j] = possible_v[memory.label_j[j]]

        at = low + _GUARD
        move_blanks(
            blank_j[at : at + places],
            token_j[at - 1 : at - 1 + places],
            possible_v[0],
            next_blank_j[at : at + places],
            memory.blank_moves_m[filled : filled + places],
        )
        move_tokens(
            blank_j[at : at + places + 1],
            token_j[at - 1 : at + places],
            skip_j[low : high + 1],
            back_j[low : high + 1],
            emit_j[low : high + 1],
            next_token_j[at : at + places],
            memory.token_moves_m[filled : filled + places],
        )
        filled += places

        # nothing outside the window can be reached; narrow it to what can
        for beside in range(_GUARD):
            next_blank_j[low + beside] = next_token_j[low + beside] = -math.inf
            next_blank_j[at + places + beside] = next_token_j[at + places + beside] = -math.inf
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
    """Let each blank come from itself or from the token before it."""
    for j in range(len(next_j)):
        stay, other = blank_j[j], token_j[j]
        moves_j[j] = -1 if other > stay else 0
        next_j[j] = (other if other > stay else stay) + p_blank


@compiled
def move_tokens(
    blank_j: Floats, token_j: Floats, skip_j: Floats, back_j: Floats, emit_j: Floats, next_j: Floats, moves_j: Moves
) -> None:
    """Let each token come from itself, the blank or the token before it, or, a delimiter, from the blank after it."""
    for j in range(len(next_j)):
        best = token_j[j + 1]
        move = 0
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
