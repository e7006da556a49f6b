"""The NIST matched-pairs test (MAPSSWE): do two systems make differently many errors on the same speech?

Errors of neighbouring words go together, so words are no independent trials. After two words in a row that both
systems get right, errors are taken as independent of those before: the stretches between such places are segments. The
test asks whether the mean difference of the errors per segment is 0, by a normal approximation.

Words are aligned with sclite's costs (``asr.scoring.sclite``): segments, mean and z are those of NIST's ``sc_stats``.

Source: Gillick & Cox, Some statistical issues in the comparison of speech recognition algorithms, ICASSP 1989,
section 3; Pallett, Fisher & Fiscus, Tools for the analysis of benchmark speech recognition tests, ICASSP 1990.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asr.scoring.sclite import WordAlignment

#: correct words in a row, in both systems, that bound a segment (NIST's own number)
BOUNDARY_WORDS = 2
#: from here on Gillick & Cox call the normal approximation sound
ENOUGH_SEGMENTS = 50


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """Hold the test's result. ``mean``: of the difference of errors per segment, first system less second.

    ``z`` and the two-sided ``p`` are None if the test is not defined: fewer than two segments, or the same difference,
    not 0, in all.
    """

    segments: int
    mean: float | None
    z: float | None
    p: float | None


def matched_pairs(first: Sequence[WordAlignment], second: Sequence[WordAlignment]) -> MatchedPairs:
    """Test the alignments of two systems, utterance by utterance, to the same references."""
    segments = [segment for a, b in zip(first, second, strict=True) for segment in error_segments(a, b)]
    return z_test([errors_a - errors_b for errors_a, errors_b in segments])


def error_segments(first: WordAlignment, second: WordAlignment) -> Iterator[tuple[int, int]]:
    """Yield the errors (first, second) of each segment of an utterance; each segment has at least one error."""
    errors_a = errors_b = correct = 0
    places = zip(_errors_by_place(first), _errors_by_place(second), strict=True)
    for place, (here_a, here_b) in enumerate(places):
        is_word = place % 2 == 1
        if here_a or here_b:
            errors_a += here_a
            errors_b += here_b
            correct = 0
        elif is_word:
            correct += 1

        # Words that both systems get right separate the errors before them from those after.
        if correct == BOUNDARY_WORDS and (errors_a or errors_b):
            yield errors_a, errors_b
            errors_a = errors_b = 0

    if errors_a or errors_b:
        yield errors_a, errors_b


def z_test(differences: Sequence[int]) -> MatchedPairs:
    """Test whether the mean of the differences is 0: z = mean / (s / sqrt(n)), s with n - 1, p from the normal.

    >>> z_test([1, 1, 0, 2]).z
    2.449489742783178
    """
    n = len(differences)
    if not n:
        return MatchedPairs(0, None, None, None)
    if not any(differences):  # as many errors in every segment: nothing speaks for a difference
        return MatchedPairs(n, 0.0, 0.0, 1.0)

    mean = sum(differences) / n
    # A single segment, or the same difference everywhere, has no spread to test against.
    variance = sum((value - mean) ** 2 for value in differences) / (n - 1) if n > 1 else 0.0
    if not variance:
        return MatchedPairs(n, mean, None, None)
    z = mean / math.sqrt(variance / n)
    return MatchedPairs(n, mean, z, math.erfc(abs(z) / math.sqrt(2)))


def _errors_by_place(aligned: WordAlignment) -> list[int]:
    """Count the errors before the first word, at it, between it and the second, …, after the last."""
    places = [0]
    for kind, _, _ in aligned:
        if kind == "insert":
            places[-1] += 1
        else:
            places += [int(kind != "equal"), 0]
    return places
