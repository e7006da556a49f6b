"""``asr.alignment.gaps``'s pass over the steps, compiled.

Axes: s steps, v vocabulary, j blanks and the token behind each, i places between words (before each, and after the
last).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.viterbi import _move_blanks, _move_tokens
from asr.decode.types import Floats, Ints, LogProbs, Moves
from asr.jit import compiled

#: a state's move when its path comes out of the gap before its word; other moves are steps along the states
FROM_GAP = 100
#: a gap's moves: it goes on; its path left out the word before this place; ``ENTERED + n``: it began n states
#: behind the last token of the word before this place
GOES_ON, LEAVES_OUT, ENTERED = 0, -1, 1


class States(NamedTuple):
    """The states of a text, as in ``asr.alignment.forced``, and the gaps between its words.

    Blank j is state 2j, token j state 2j + 1.
    """

    label_j: Ints
    skip_j: Floats
    back_j: Floats
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
def advance(own_sv: LogProbs, text: States, scores: Scores, state_moves_sk: Moves, gap_moves_si: Moves) -> None:
    """Takes all scores through the steps; fills in the moves where these have rows."""
    log_probs_sv = borrowed(own_sv)
    keeps, tokens, places = len(gap_moves_si) > 0, len(text.label_j), len(scores.gap_i)
    labels_j = text.label_j.astype(np.uint32)  # never an index from the end: that is a question less for each
    old_blank_j, old_token_j, old_i = scores.blank_j.copy(), scores.token_j.copy(), scores.gap_i.copy()
    new_blank_j, new_token_j, new_i = old_blank_j.copy(), old_token_j.copy(), old_i.copy()
    emit_j = np.empty(tokens)
    blank_moves_j, token_moves_j = np.empty(tokens + 1, np.int8), np.empty(tokens, np.int8)

    for step in range(len(log_probs_sv)):
        log_probs_v = log_probs_sv[step]
        blank = np.float64(log_probs_v[0])
        for j in range(tokens):
            emit_j[j] = log_probs_v[labels_j[j]]
        _move_blanks(
            old_blank_j[: tokens + 1], old_token_j[: tokens + 1], blank, new_blank_j[: tokens + 1], blank_moves_j
        )
        _move_tokens(
            old_blank_j[: tokens + 1],
            old_token_j[: tokens + 1],
            text.skip_j,
            text.back_j,
            emit_j,
            new_token_j[1 : tokens + 1],
            token_moves_j,
        )
        for i in range(places - 1):
            word_j = text.first_i[i]
            if old_i[i] + blank > new_blank_j[word_j]:
                new_blank_j[word_j] = old_i[i] + blank
                blank_moves_j[word_j] = FROM_GAP
            if old_i[i] + emit_j[word_j] > new_token_j[word_j + 1]:
                new_token_j[word_j + 1] = old_i[i] + emit_j[word_j]
                token_moves_j[word_j] = FROM_GAP
        if keeps:
            state_moves_sk[step, ::2] = blank_moves_j
            state_moves_sk[step, 1::2] = token_moves_j

        heard, before = np.float64(log_probs_v.max()), -math.inf
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

    scores.blank_j[:], scores.token_j[:], scores.gap_i[:] = old_blank_j, old_token_j, old_i
