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

from asr.alignment.best_path import best_path, text_states
from asr.alignment.compiled.best_path import TextStates
from asr.decode.types import LogProbs
from asr.decode.viterbi import states_of

#: cost of a gap, and of each character of the text that it leaves out, in nats; ``docs/alignment.md`` has the choice
GAP_COST, CHARACTER_COST = 20.0, 4.0


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
    state_s, place_s, _ = best_path(log_probs_sv, text)

    edges = np.flatnonzero(np.diff(state_s < 0, prepend=False, append=False))
    gaps = []
    for start, end in edges.reshape(-1, 2).tolist():
        done = np.searchsorted(2 * text.first_i + 1, state_s[start - 1], side="right") if start else 0
        gaps.append(Gap(start, end, int(done), int(place_s[end - 1])))
    return gaps


def _states(words_w: Sequence[Sequence[int]], letters_v: Sequence[int], delimiter: int) -> TextStates:
    """Return the states of a text with a gap before each word and after the last."""
    between = [] if delimiter < 0 else [delimiter]
    tokens: list[int] = []
    first, last = [], []

    for word in words_w:
        tokens += between if tokens else []
        first.append(len(between) + len(tokens))
        tokens += word
        last.append(len(between) + len(tokens) - 1)

    text = text_states(states_of(tokens, delimiter), delimiter)
    letters = [sum(letters_v[token] for token in word) for word in words_w]
    return text._replace(
        first_i=np.array(first, np.int32),
        # from the end of a word to the blank before the next; before the first word a gap begins with the audio
        entrance_i=np.array([0, *last], np.int32),
        entrance_end_i=np.array([0, *first[1:], len(text.label_j)], np.int32),
        word_cost_i=np.array([math.inf, *(CHARACTER_COST * n for n in letters)], np.float64),
        gap_cost=GAP_COST,
    )
