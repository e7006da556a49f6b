"""Align what fits: find the most probable path of a text that may leave out words and parts of the audio.

Between any two words, and at both ends, there is a gap: a state that takes any sound as the model hears it, and from
which words can be left out. A gap has a cost, so that words stay together and a misheard word is still aligned. Each
character that is left out has a cost too, so that the text is used where it fits.

Axes: s steps, v vocabulary, u tokens, w words, j blanks and the token after each, i places between words.

Source: Graves et al. 2006, section 4.1 (the states of the text); Kürzinger et al. 2020, "CTC-Segmentation of Large
Corpora for German End-to-end Speech Recognition" (audio left out at the ends; here both sides, at any place).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.alignment.compiled.gaps import ENTERED, FROM_GAP, GOES_ON, LEAVES_OUT, Scores, States, advance
from asr.alignment.forced import text_of
from asr.decode.types import LogProbs, Moves
from asr.decode.viterbi import states_of

#: cost of a gap, and of each character of the text that it leaves out, in nats; ``docs/alignment.md`` has the choice
GAP_COST, CHARACTER_COST = 20.0, 4.0
#: steps times states per block: a byte each
_ONE_BLOCK = 1 << 24


@dataclass(frozen=True)
class Gap:
    """Hold a part of the audio, from step ``start`` to ``end``, and the words that belong nowhere else.

    The words are ``first_word`` to ``end_word``; there may be none. Both ends are excluded.
    """

    start: int
    end: int
    first_word: int
    end_word: int


def find_gaps(
    log_probs_sv: LogProbs, words_w: Sequence[Sequence[int]], letters_v: Sequence[int], *, delimiter: int = -1
) -> list[Gap]:
    """Find where a text and the audio do not belong together, in order; none where they fit.

    Args:
        words_w: the tokens of each word, none of them empty.
        letters_v: number of characters that each token writes.
        delimiter: the token of the space, which stands between words; -1: none.
    """
    if not len(log_probs_sv) or not words_w:
        return []
    text = _states(words_w, letters_v, delimiter)
    state_s, place_s = _best_path(log_probs_sv, text, starts=1 if delimiter < 0 else 2)

    edges = np.flatnonzero(np.diff(state_s < 0, prepend=False, append=False))
    gaps = []
    for start, end in edges.reshape(-1, 2).tolist():
        done = np.searchsorted(2 * text.first_i + 1, state_s[start - 1], side="right") if start else 0
        gaps.append(Gap(start, end, int(done), int(place_s[end - 1])))
    return gaps


def _states(words_w: Sequence[Sequence[int]], letters_v: Sequence[int], delimiter: int) -> States:
    between = [] if delimiter < 0 else [delimiter]
    tokens: list[int] = []
    first, last = [], []
    for word in words_w:
        tokens += between if tokens else []
        first.append(len(between) + len(tokens))
        tokens += word
        last.append(len(between) + len(tokens) - 1)

    text = text_of(states_of(tokens, delimiter), delimiter)
    letters = [sum(letters_v[token] for token in word) for word in words_w]
    return States(
        label_j=text.label_j,
        skip_j=text.skip_j,
        back_j=text.back_j,
        first_i=np.array(first, np.int32),
        # from the end of a word to the blank before the next; before the first word a gap begins with the audio
        entrance_i=np.array([0, *last], np.int32),
        entrance_end_i=np.array([0, *first[1:], len(text.label_j)], np.int32),
        word_cost_i=np.array([math.inf, *(CHARACTER_COST * n for n in letters)], np.float64),
        gap_cost=GAP_COST,
    )


def _best_path(
    log_probs_sv: LogProbs, text: States, starts: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the best path: at each step its state, or -1 in a gap, and its place there.

    Shapes: (s,), (s,). The place is the one after the words that the gap leaves out in this step.
    """
    steps, tokens, places = len(log_probs_sv), len(text.label_j), len(text.entrance_i)
    states = 2 * tokens + 1
    size = steps if steps * (states + places) <= _ONE_BLOCK else math.ceil(math.sqrt(8 * steps))
    blocks = [slice(start, min(start + size, steps)) for start in range(0, steps, size)]
    scores = Scores(np.full(tokens + 2, -np.inf), np.full(tokens + 1, -np.inf), np.full(places, -np.inf))
    scores.blank_j[:starts] = 0.0  # as if in the first blank, and in that after the space, which may be left out
    scores.gap_i[0] = -text.gap_cost

    no_moves = np.empty((0, 0), np.int8)
    kept = [_copy(scores)]
    for block in blocks[:-1]:
        advance(log_probs_sv[block], text, scores, no_moves, no_moves)
        kept.append(_copy(scores))

    state_s, place_s = np.empty(steps, np.int64), np.empty(steps, np.int64)
    state = place = -1
    for block in reversed(blocks):
        rows, scores = block.stop - block.start, kept.pop()
        state_moves, gap_moves = np.empty((rows, states), np.int8), np.empty((rows, places), np.int8)
        advance(log_probs_sv[block], text, scores, state_moves, gap_moves)
        if block.stop == steps:
            state, place = _end(scores, starts)
        for step in range(rows - 1, -1, -1):
            state_s[block.start + step], place_s[block.start + step] = state, place
            state, place = _before(state, place, state_moves[step], gap_moves[step], text)
    return state_s, place_s


def _copy(scores: Scores) -> Scores:
    return Scores(*(each.copy() for each in scores))


def _end(scores: Scores, starts: int) -> tuple[int, int]:
    """Return the end of the best path: its state, or -1 and its place in a gap."""
    score_k = np.empty(2 * len(scores.token_j) - 1)
    score_k[::2], score_k[1::2] = scores.blank_j[:-1], scores.token_j[1:]
    ends = score_k[-2 * starts :]
    if scores.gap_i[-1] > ends.max():
        return -1, len(scores.gap_i) - 1
    return len(score_k) - len(ends) + int(ends.argmax()), -1


def _before(state: int, place: int, state_moves_k: Moves, gap_moves_i: Moves, text: States) -> tuple[int, int]:
    """Return the best path one step earlier: its state, or -1 and its place in a gap."""
    if state >= 0:
        move = int(state_moves_k[state])
        if move != FROM_GAP:
            return state + move, -1
        return -1, int(np.searchsorted(text.first_i, state // 2))
    while gap_moves_i[place] == LEAVES_OUT:
        place -= 1
    move = int(gap_moves_i[place])
    if move == GOES_ON:
        return -1, place
    return 2 * int(text.entrance_i[place]) + 1 + move - ENTERED, -1
