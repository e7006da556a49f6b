"""The pass of ``asr.alignment.best_path`` over the steps, compiled.

Axes: s steps, v vocabulary, j tokens of the text, p positions in it, i places between words (before each, and after the
last). Position p is blank p and the token before it, p - 1. No path ever goes back to an earlier position.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.viterbi import move_blanks, move_tokens
from asr.decode.types import Floats, Ints, LogProbs, Moves
from asr.jit import compiled

#: a state's move when its path comes out of the gap before its word; other moves are steps along the states
FROM_GAP = 100
#: a gap's moves: it goes on; its path left out the word before this place; ``ENTERED + n``: it began n states
#: behind the last token of the word before this place
GOES_ON, LEAVES_OUT, ENTERED = 0, -1, 1


class TextStates(NamedTuple):
    """The states of a text, and the gaps between its words; without places there are no gaps.

    Blank j is state 2j, token j state 2j + 1.
    """

    label_j: Ints
    #: the token to which a path may come back from the blank behind it; -1: none
    delimiter: int
    #: the blanks from which a path may come before its first step, and the last states, in which it may end
    starts: int
    ends: int
    #: the first token of the word behind each place but the last
    first_i: Ints
    #: the tokens from which, or from the blanks behind which, a path may come into the gap at each place: the last of
    #: the word before it, up to the first of the word behind it (excluded)
    entrance_i: Ints
    entrance_end_i: Ints
    #: what it costs to leave out the word before each place, and to begin a gap
    word_cost_i: Floats
    gap_cost: float


class Scores(NamedTuple):
    """The best log-probability of a path into each state of some positions, and into each gap.

    All other states are out of reach, or their paths too improbable to matter.
    """

    #: the first of the positions
    first: int
    blank_p: Floats
    token_p: Floats
    gap_i: Floats


@compiled
def advance(
    own_sv: LogProbs,
    heard_s: LogProbs,
    text: TextStates,
    own_scores: Scores,
    limit: float,
    beam: float,
    widest: int,
    lowest: int,
    highest: int,
    moves_2sp: Moves,
    gap_moves_si: Moves,
) -> Scores:
    """Take scores through the steps; fill in the moves where these have rows.

    Positions at either end of their range are dropped once their scores are below the limit. With gaps none is dropped:
    from any place a path can go on later.

    Args:
        heard_s: the greatest log-probability of each step. The limit is that before the first step, and falls with it.
        beam: positions are dropped, too, whose scores are so far below the best of the step; infinity: none are.
        widest: number of positions that a beam keeps.
        lowest, highest: only what can be at one of these positions after the last step is looked at.
        moves_2sp: of blanks and tokens; the last column is that of position ``highest``.
    """
    log_probs_sv, scores = borrowed(own_sv), borrowed(own_scores)
    steps, places = len(log_probs_sv), len(scores.gap_i)
    labels_j = text.label_j.view(np.uint32)  # never an index from the end: that is a question less for each
    keeps = moves_2sp.shape[1] > 0
    low, end = scores.first, min(scores.first + len(scores.blank_p), highest + 1)
    low = min(low, end)

    # Cell c is position c + base. The cells on either side of those in use are -inf.
    base = low - 1
    cells = (highest + 1 if places else min(end + steps, highest + 1)) - base
    old_blank_c, new_blank_c = np.full(cells, -math.inf), np.full(cells, -math.inf)
    old_token_c, new_token_c = np.full(cells, -math.inf), np.full(cells, -math.inf)
    old_blank_c[1 : end - base] = scores.blank_p[: end - low]
    old_token_c[1 : end - base] = scores.token_p[: end - low]
    old_i, new_i = scores.gap_i.copy(), scores.gap_i.copy()
    if places:
        end = highest + 1
    # what it costs to come to a token from the token before it, and from the blank behind it
    skip_c, back_c = np.full(cells, -math.inf), np.full(cells, -math.inf)
    for c in range(max(1, 1 - base), cells):
        j = c + base - 1
        if j > 0 and labels_j[j] != labels_j[j - 1]:
            skip_c[c] = 0.0
        if text.label_j[j] == text.delimiter:
            back_c[c] = 0.0
    emit_c = np.empty(cells)
    blank_moves_c, token_moves_c, gap_moves_i = (
        np.empty(cells, np.int8),
        np.empty(cells, np.int8),
        np.empty(places, np.int8),
    )
    column = base - (highest + 1 - moves_2sp.shape[2]) if keeps else 0  # of cell 0

    for step in range(steps):
        log_probs_v = log_probs_sv[step]
        blank, heard = np.float64(log_probs_v[0]), np.float64(heard_s[step])

        # the positions that can be reached, and from which the end can be
        if end <= highest:
            old_blank_c[end - base] = old_token_c[end - base] = -math.inf
            end += 1
        if lowest - (steps - step) > low:
            low = min(lowest - (steps - step), end)
            old_blank_c[low - 1 - base] = old_token_c[low - 1 - base] = -math.inf

        if low >= end:
            break

        first, last = low - base, end - base
        if keeps:
            blank_moves_c, token_moves_c = moves_2sp[0, step], moves_2sp[1, step]
            gap_moves_i = gap_moves_si[step]
        move_blanks(
            old_blank_c[first:last],
            old_token_c[first:last],
            blank,
            new_blank_c[first:last],
            blank_moves_c[first + column : last + column],
        )
        if low == 0:  # there is no token before the first blank
            new_token_c[first] = -math.inf
            first += 1
        for c in range(first, last):
            emit_c[c] = log_probs_v[labels_j[c + base - 1]]
        move_tokens(
            old_blank_c[first - 1 : last],
            old_token_c[first - 1 : last],
            skip_c[first:last],
            back_c[first:last],
            emit_c[first:last],
            new_token_c[first:last],
            token_moves_c[first + column : last + column],
        )

        if places:
            # out of a gap, into the blank before the next word or its first token
            for i in range(places - 1):
                c = text.first_i[i] - base
                if c < last and old_i[i] + blank > new_blank_c[c]:
                    new_blank_c[c] = old_i[i] + blank
                    blank_moves_c[c + column] = FROM_GAP
                if c + 1 < last and old_i[i] + emit_c[c + 1] > new_token_c[c + 1]:
                    new_token_c[c + 1] = old_i[i] + emit_c[c + 1]
                    token_moves_c[c + 1 + column] = FROM_GAP

            # into a gap, or on in it; a gap takes any sound as the model hears it
            before = -math.inf
            for i in range(places):
                best, move = old_i[i], GOES_ON
                for n in range(text.entrance_end_i[i] - text.entrance_i[i]):
                    c = text.entrance_i[i] + n + 1 - base
                    if c < last:
                        if old_token_c[c] - text.gap_cost >= best:  # of equal paths the one with the shortest gap
                            best, move = old_token_c[c] - text.gap_cost, ENTERED + 2 * n
                        if old_blank_c[c] - text.gap_cost >= best:
                            best, move = old_blank_c[c] - text.gap_cost, ENTERED + 2 * n + 1
                best += heard
                if before - text.word_cost_i[i] > best:
                    best, move = before - text.word_cost_i[i], LEAVES_OUT
                new_i[i] = before = best
                gap_moves_i[i] = move
        else:
            # what is too improbable is dropped
            limit += heard
            floor = limit
            if beam < math.inf:
                best = max(new_blank_c[low - base : last].max(), new_token_c[low - base : last].max())
                floor = max(floor, best - beam)
                while end - low > widest:
                    at_low = max(new_blank_c[low - base], new_token_c[low - base])
                    if at_low < max(new_blank_c[end - 1 - base], new_token_c[end - 1 - base]):
                        low += 1
                    else:
                        end -= 1
            while low < end and new_blank_c[low - base] < floor and new_token_c[low - base] < floor:
                low += 1
            while low < end and new_blank_c[end - 1 - base] < floor and new_token_c[end - 1 - base] < floor:
                end -= 1
            new_blank_c[low - 1 - base] = new_token_c[low - 1 - base] = -math.inf

        old_blank_c, new_blank_c = new_blank_c, old_blank_c
        old_token_c, new_token_c = new_token_c, old_token_c
        old_i, new_i = new_i, old_i

    first, last = low - base, end - base
    return Scores(low, old_blank_c[first:last].copy(), old_token_c[first:last].copy(), old_i)


@compiled
def walk_back(
    text: TextStates,
    state: int,
    place: int,
    moves_2sp: Moves,
    gap_moves_si: Moves,
    first: int,
    state_s: Ints,
    place_s: Ints,
) -> tuple[int, int]:
    """Fill in a path from its end; return where it is before the first step.

    Args:
        state, place: the end: a state, or -1 and a place.
        first: the position of the first column of the moves.
    """
    for step in range(len(state_s) - 1, -1, -1):
        state_s[step] = state
        if len(place_s):
            place_s[step] = place
        if state >= 0:
            move = int(moves_2sp[state & 1, step, (state + 1) // 2 - first])
            if move != FROM_GAP:
                state += move
            else:
                place = int(np.searchsorted(text.first_i, state // 2))
                state = -1
        else:
            while gap_moves_si[step, place] == LEAVES_OUT:
                place -= 1
            move = int(gap_moves_si[step, place])
            if move != GOES_ON:
                state = 2 * int(text.entrance_i[place]) + 1 + move - ENTERED
                place = -1
    return state, place


@compiled
def spans_of_path(
    own_sv: LogProbs,
    labels_k: Ints,
    path_s: Ints,
    first: int,
    start_u: Ints,
    end_u: Ints,
    peak_u: Floats,
    mean_u: Floats,
) -> None:
    """Find where the tokens of a text are on a path, and replace its states by their tokens.

    Args:
        labels_k: the token of each state.
        first: the state of the text's first token; every second one from there on is one of its tokens.
        start_u, end_u: filled in with the first step of each token, and the one behind its last.
        peak_u, mean_u: filled in with the greatest and the mean log-probability of each token on the path.
    """
    log_probs_sv = borrowed(own_sv)
    end_u[:] = -1
    for step in range(len(path_s)):
        state = path_s[step]
        path_s[step] = labels_k[state]
        u = (state - first) // 2
        if (state - first) % 2 or u < 0 or u >= len(start_u):
            continue
        log_prob = np.float64(log_probs_sv[step, path_s[step]])
        if end_u[u] < 0:
            start_u[u], peak_u[u], mean_u[u] = step, -math.inf, 0.0
        end_u[u] = step + 1
        peak_u[u] = max(peak_u[u], log_prob)
        mean_u[u] += log_prob
    for u in range(len(start_u)):
        mean_u[u] /= end_u[u] - start_u[u]
