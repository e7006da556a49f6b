"""What all texts of a beam agree on: the text with the fewest expected word errors, and a confusion network.

The probability of a text is its share of the beam: the softmax of the scores.

Source: Stolcke, König and Weintraub 1997, "Explicit word error minimization in N-best list rescoring"; Xu, Povey, Mangu
and Zhu 2011, "Minimum Bayes Risk decoding and system combination based on a recursion for edit distance" (the network,
here from a list of texts, and around a text that is one of them).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from asr.decode.types import Floats, WordSlot

#: texts of less than this share of the beam change nothing that anybody would see
_LEAST_SHARE = 1e-4


def shares_of(scores: Sequence[float]) -> Floats:
    """Return the share of each text: the softmax of the scores. Shapes: (n,)."""
    values = np.asarray(scores, np.float64)
    if not len(values) or values.max() == -math.inf:
        return np.full(len(values), 1.0 / max(len(values), 1))
    weights = np.exp(values - values.max())
    shares: Floats = weights / weights.sum()
    return shares


def least_risk(texts: Sequence[str], shares: Floats) -> int:
    """Return which text has the fewest expected word errors; of equal ones, the first.

    >>> least_risk(["a b c", "a x c", "a x d"], np.array([0.4, 0.3, 0.3]))
    1
    """
    from rapidfuzz.distance import Levenshtein

    counted = [i for i, share in enumerate(shares) if share >= _LEAST_SHARE]
    words = {i: _words(texts[i]) for i in counted}
    risks = [sum(shares[j] * Levenshtein.distance(words[i], words[j]) for j in counted) for i in counted]
    return counted[int(np.argmin(np.round(risks, 12)))] if counted else 0


def confusion_network(text: str, texts: Sequence[str], shares: Floats) -> tuple[WordSlot, ...]:
    """Return the words that the texts have in the places of one text's words, and between these.

    Each text is aligned to ``text`` with the fewest errors; the shares in a slot sum to 1, and "" stands for no word.

    >>> confusion_network("a c", ["a c", "b c", "a x c"], np.array([0.5, 0.25, 0.25]))[0]
    WordSlot(place=0, between=False, words=(('a', 0.75), ('b', 0.25)))
    """
    from rapidfuzz.distance import Levenshtein

    pivot = _words(text)
    # by the place of the word, 0 for what comes before it, and how many words came in between so far; or 1, 0
    found: dict[tuple[int, int, int], dict[str, float]] = {(i, 1, 0): defaultdict(float) for i in range(len(pivot))}
    total = 0.0

    for other, share in zip(texts, shares.tolist(), strict=True):
        if share < _LEAST_SHARE and other != text:
            continue
        total += share
        said = _words(other)
        before: dict[int, int] = defaultdict(int)
        for step in Levenshtein.opcodes(pivot, said):
            first = step.src_start
            if step.tag == "insert":
                for word in said[step.dest_start : step.dest_end]:
                    found.setdefault((first, 0, before[first]), defaultdict(float))[word] += share
                    before[first] += 1
                continue
            for k in range(step.src_end - first):
                found[first + k, 1, 0][said[step.dest_start + k] if step.tag != "delete" else ""] += share

    slots = []
    for place, is_word, number in sorted(found):
        words = {word: share / total for word, share in found[place, is_word, number].items()}
        missing = 1.0 - sum(words.values())
        if not is_word and missing > 0.0:
            words[""] = missing
        ranked = sorted(words.items(), key=lambda item: -item[1])
        rounded = tuple((word, round(min(share, 1.0), 4)) for word, share in ranked)
        slots.append(WordSlot(place, not is_word, rounded))
    return tuple(slots)


def _words(text: str) -> list[str]:
    """Split as ``words_with_times`` does: other white space is a letter."""
    return [word for word in text.split(" ") if word]
