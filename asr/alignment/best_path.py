"""The most probable path of a text through the steps, with or without gaps between its words.

The states of a text are blank, token, blank, …, token, blank. One pass over all steps keeps the best score of every
state at the start of each block of steps, and no way back. The way back is found block by block from the end: each
block is computed again, now with its moves. The path is exact, and memory grows with the tokens times the root of the
steps.

Without gaps, a path moves by at most one token per step. So the pass looks only at the states that can be reached from
the start and from which the end can be reached; the way back only at the few states around the end of a block.

Axes: s steps, v vocabulary, k states, j blanks and the token behind each, i places between words.

Source: Graves et al. 2006, section 4.1 (the states); Grice, Hughey and Speck 1997 (paths by checkpoints).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from asr.alignment.compiled.best_path import ENTERED, FROM_GAP, GOES_ON, LEAVES_OUT, Scores, TextStates, advance
from asr.decode.types import Ints, LogProbs, Longs, Moves

#: steps times states that are done as one block: a byte each
_ONE_BLOCK = 1 << 23


class BestPath(NamedTuple):
    """The most probable path: at each step its state, or -1 in a gap, and its place there.

    The place is the one after the words that the gap leaves out in this step. Shapes: (s,), (s,).
    """

    state_s: Longs
    place_s: Longs
    #: -inf: there is no path
    log_prob: float


def text_states(labels_k: Ints, delimiter: int) -> TextStates:
    """Return the states of a text without gaps.

    Args:
        labels_k: the token of each state, as ``asr.decode.viterbi.states_of`` has them.
        delimiter: the token of the space, of which paths may have more than the text; -1: none.
    """
    label_j = labels_k[1::2].copy()
    skip_j = np.full(len(label_j), -np.inf)
    skip_j[1:][label_j[1:] != label_j[:-1]] = 0.0
    starts = 1 if delimiter < 0 else 2  # the delimiters at both ends may be left out
    nothing = np.zeros(0, np.int32)
    return TextStates(
        label_j=label_j,
        skip_j=skip_j,
        back_j=np.where((label_j == delimiter) & (delimiter >= 0), 0.0, -np.inf),
        starts=starts,
        ends=min(2 * starts, len(labels_k)),
        first_i=nothing,
        entrance_i=nothing,
        entrance_end_i=nothing,
        word_cost_i=np.zeros(0),
        gap_cost=0.0,
    )


def best_path(log_probs_sv: LogProbs, text: TextStates) -> BestPath:
    """Find the most probable path of a text; there is at least one step."""
    steps = len(log_probs_sv)
    tokens = len(text.label_j)
    places = len(text.entrance_i)
    rows = _block_steps(steps, 2 * tokens + 1 + places)
    blocks = [slice(start, min(start + rows, steps)) for start in range(0, steps, rows)]
    scores = Scores(np.full(tokens + 2, -np.inf), np.full(tokens + 1, -np.inf), np.full(places, -np.inf))
    scores.blank_j[: text.starts] = 0.0  # before the first step: as if in a blank
    scores.gap_i[:1] = -text.gap_cost

    # the pass: the scores before each block
    window_s2 = _window(steps, text)
    no_moves = np.empty((2, 0, 0), np.int8)
    kept = [_copy(scores)]
    for block in blocks[:-1]:
        advance(log_probs_sv[block], text, scores, window_s2[block], no_moves, no_moves[0])
        kept.append(_copy(scores))

    # the way back
    state_s, place_s = np.empty(steps, np.int64), np.empty(steps, np.int64)
    state = place = -1
    log_prob = -math.inf

    for block in reversed(blocks):
        scores = kept.pop()
        rows = block.stop - block.start
        window_2 = window_s2[block].copy()
        if not places and block.stop < steps:  # to a delimiter a path may come from the blank behind it
            np.clip(window_2, state // 2 - rows - 2, state // 2 + 2, out=window_2)
        moves = np.empty((2, rows, tokens + 1), np.int8)
        gap_moves = np.empty((rows, places), np.int8)
        advance(log_probs_sv[block], text, scores, window_2, moves, gap_moves)
        if block.stop == steps:
            state, place, log_prob = _end(scores, text.ends)
            if log_prob == -math.inf:
                break
        for step in range(rows - 1, -1, -1):
            state_s[block.start + step], place_s[block.start + step] = state, place
            state, place = _before(state, place, moves[:, step], gap_moves[step], text)

    return BestPath(state_s, place_s, log_prob)


def _block_steps(steps: int, states: int) -> int:
    """Return how many steps are a block: the scores that are kept and a block's moves take the least memory then."""
    return steps if steps * states <= _ONE_BLOCK else math.ceil(math.sqrt(8 * steps))


def _window(steps: int, text: TextStates) -> Longs:
    """Return the first blank and the one behind the last that a path can be in, or beside, at each step.

    Shapes: (s, 2).
    """
    tokens = len(text.label_j)
    if len(text.entrance_i):
        return np.tile(np.array([0, tokens + 1]), (steps, 1))
    step_s = np.arange(steps)
    first_s = tokens - text.ends // 2 - (steps - 1) + step_s
    last_s = text.starts - 1 + step_s
    return np.stack([np.maximum(first_s, 0), np.minimum(last_s, tokens) + 1], axis=1)


def _copy(scores: Scores) -> Scores:
    return Scores(*(each.copy() for each in scores))


def _end(scores: Scores, ends: int) -> tuple[int, int, float]:
    """Return the end of the best path: its state, or -1 and its place in a gap; and its log-probability."""
    score_k = np.empty(2 * len(scores.token_j) - 1)
    score_k[::2], score_k[1::2] = scores.blank_j[:-1], scores.token_j[1:]
    best = len(score_k) - ends + int(score_k[-ends:].argmax())
    if len(scores.gap_i) and scores.gap_i[-1] > score_k[best]:
        return -1, len(scores.gap_i) - 1, float(scores.gap_i[-1])
    return best, -1, float(score_k[best])


def _before(state: int, place: int, moves_2j: Moves, gap_moves_i: Moves, text: TextStates) -> tuple[int, int]:
    """Return the best path one step earlier: its state, or -1 and its place in a gap."""
    if state >= 0:
        move = int(moves_2j[state & 1, state >> 1])
        if move != FROM_GAP:
            return state + move, -1
        return -1, int(np.searchsorted(text.first_i, state // 2))

    while gap_moves_i[place] == LEAVES_OUT:
        place -= 1
    move = int(gap_moves_i[place])
    if move == GOES_ON:
        return -1, place
    return 2 * int(text.entrance_i[place]) + 1 + move - ENTERED, -1
