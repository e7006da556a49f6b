"""Confidence of words after a beam search: the share of the probability in its beam that agrees on a word."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np


def word_shares(text: str, texts: Sequence[str], scores: Sequence[float]) -> tuple[float, ...]:
    """Return, for each word of a text, the share of the probability of all texts that has the word too.

    The probabilities are the softmax of the scores.

    A text has a word when the word stands in it between the same neighbours: in what both texts begin and end with, or
    in a stretch that ``difflib`` matches in between.

    >>> word_shares("the cat sat", ["the cat sat", "the cats sat", "cat sat"], [-1.0, -1.0, -1.0])
    (0.6667, 0.6667, 1.0)
    """
    weights = np.exp(np.asarray(scores, np.float64) - max(scores))
    words = _words(text)
    agreed = np.zeros(len(words))
    for other, weight in zip(texts, weights / weights.sum(), strict=True):
        for start, end in _common(words, _words(other)):
            agreed[start:end] += weight
    return tuple(round(min(float(share), 1.0), 4) for share in agreed)


def _common(words: Sequence[str], others: Sequence[str]) -> list[tuple[int, int]]:
    """Return the stretches of ``words`` that are in ``others`` too, in order."""
    shorter = min(len(words), len(others))
    lead = 0
    while lead < shorter and words[lead] == others[lead]:
        lead += 1
    tail = 0
    while tail < shorter - lead and words[-1 - tail] == others[-1 - tail]:
        tail += 1

    middle, other_middle = words[lead : len(words) - tail], others[lead : len(others) - tail]
    stretches = [(0, lead), (len(words) - tail, len(words))]
    if middle and other_middle:
        blocks = SequenceMatcher(None, middle, other_middle, autojunk=False).get_matching_blocks()
        stretches += [(lead + block.a, lead + block.a + block.size) for block in blocks]
    return stretches


def _words(text: str) -> list[str]:
    """Split as ``words_with_times`` does: other white space is a letter."""
    return [word for word in text.split(" ") if word]
