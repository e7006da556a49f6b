"""The pass of ``asr.alignment.best_path`` over the steps, compiled.

Axes: s steps, v vocabulary, j blanks and the token behind each, i places between words (before each, and after the
last).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.viterbi import move_blanks, move_tokens
from asr.decode.types import Floats, Ints, LogProbs, Longs, Moves
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
    #: what it costs to come to a token from the token before it, and from the blank behind it: 0 or infinity
    skip_j: Floats
    back_j: Floats
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
    """The best log-probability of a path into each state and gap; changed in place.

    Blank j is at ``blank_j[j]``, with one more at the end; token j at ``token_j[j + 1]``, so that there is one before
    each.
    """

    blank_j: Floats
    token_j: Floats
    gap_i: Floats


@compiled
def advance(
    own_sv: LogProbs,
    text: TextStates,
    scores: Scores,
    window_s2: Longs,
    moves_2sj: npt.NDArray[np.int8],
    gap_moves_si: Moves,
) -> None:
    """Take all scores through the steps; fill in the moves where these have rows.

    Shapes: (s, 2) the first blank, and the one behind the last, that are looked at in each step.
    """
    log_probs_sv = borrowed(own_sv)
    keeps = len(gap_moves_si) > 0
    tokens, places = len(text.label_j), len(scores.gap_i)
    labels_j = text.label_j.astype(np.uint32)  # never an index from the end: that is a question less for each
    old_blank_j = scores.blank_j.copy()
    old_token_j = scores.token_j.copy()
    old_i = scores.gap_i.copy()
    new_blank_j = old_blank_j.copy()
    new_token_j = old_token_j.copy()
    new_i = old_i.copy()
    emit_j = np.empty(tokens)
    blank_moves_j, token_moves_j = np.empty(tokens + 1, np.int8), np.empty(tokens + 1, np.int8)

    for step in range(len(log_probs_sv)):
        log_probs_v = log_probs_sv[step]
        blank = np.float64(log_probs_v[0])
        first, end = window_s2[step, 0], window_s2[step, 1]
        last = min(end, tokens)
        if keeps:
            blank_moves_j, token_moves_j = moves_2sj[0, step], moves_2sj[1, step]

        for j in range(first, last):
            emit_j[j] = log_probs_v[labels_j[j]]
        move_blanks(
            old_blank_j[first:end], old_token_j[first:end], blank, new_blank_j[first:end], blank_moves_j[first:end]
        )
        move_tokens(
            old_blank_j[first : last + 1],
            old_token_j[first : last + 1],
            text.skip_j[first:last],
            text.back_j[first:last],
            emit_j[first:last],
            new_token_j[first + 1 : last + 1],
            token_moves_j[first:last],
        )

        # out of a gap, into the blank before the next word or its first token
        for i in range(places - 1):
            word_j = text.first_i[i]
            if old_i[i] + blank > new_blank_j[word_j]:
                new_blank_j[word_j] = old_i[i] + blank
                blank_moves_j[word_j] = FROM_GAP
            if old_i[i] + emit_j[word_j] > new_token_j[word_j + 1]:
                new_token_j[word_j + 1] = old_i[i] + emit_j[word_j]
                token_moves_j[word_j] = FROM_GAP

        # into a gap, or on in it; a gap takes any sound as the model hears it
        heard = np.float64(log_probs_v.max())
        before = -math.inf
        for i in range(places):
            best, move = old_i[i], GOES_ON
            for n in range(text.entrance_end_i[i] - text.entrance_i[i]):
                j = text.entrance_i[i] + n + 1
                if old_token_j[j] - text.gap_cost >= best:  # of equal paths the one with the shortest gap
                    best, move = old_token_j[j] - text.gap_cost, ENTERED + 2 * n
                if old_blank_j[j] - text.gap_cost >= best:
                    best, move = old_blank_j[j] - text.gap_cost, ENTERED + 2 * n + 1
            best += heard
            if before - text.word_cost_i[i] > best:
                best, move = before - text.word_cost_i[i], LEAVES_OUT
            new_i[i] = before = best
            if keeps:
                gap_moves_si[step, i] = move

        old_blank_j, new_blank_j = new_blank_j, old_blank_j
        old_token_j, new_token_j = new_token_j, old_token_j
        old_i, new_i = new_i, old_i

    scores.blank_j[:] = old_blank_j
    scores.token_j[:] = old_token_j
    scores.gap_i[:] = old_i
