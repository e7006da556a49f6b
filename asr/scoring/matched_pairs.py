"""The NIST matched-pairs test (MAPSSWE): do two systems make differently many errors on the same speech?

Errors of neighbouring words go together, so words are no independent trials. Where both systems get two words in a row
right they have, as it were, started afresh: the stretches between such places, segments, are taken as independent. The
test asks whether the mean difference of the errors in a segment is 0, by a normal approximation.

Words are aligned with sclite's costs (``asr.scoring.sclite``): segments, mean and z are those of NIST's ``sc_stats``.

Source: Gillick & Cox, Some statistical issues in the comparison of speech recognition algorithms, ICASSP 1989,
section 3; Pallett, Fisher & Fiscus, Tools for the analysis of benchmark speech recognition tests, ICASSP 1990.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asr.errors import DataError
from asr.scoring.sclite import Aligned

#: correct words in a row, in both systems, that bound a segment (NIST's own number)
BOUNDARY_WORDS = 2
#: from here on Gillick & Cox call the normal approximation sound
ENOUGH_SEGMENTS = 50


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """The test's result. ``mean``: of the difference of errors in a segment, first system less second.

    ``z`` and the two-sided ``p`` are None where the test is not defined: no two segments, or all with one difference
    that is not 0.
    """

    segments: int
    mean: float | None
    z: float | None
    p: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def matched_pairs(first: Sequence[Aligned], second: Sequence[Aligned]) -> MatchedPairs:
    """The test on the alignments of two systems, utterance by utterance, to the same references.

    Raises:
        DataError: the reference words of an utterance are not the same in both.
    """
    pairs = [segment for a, b in zip(first, second, strict=True) for segment in segments(a, b)]
    return z_test([a - b for a, b in pairs])


def segments(first: Aligned, second: Aligned) -> Iterator[tuple[int, int]]:
    """The errors (first, second) of each segment of an utterance; each has at least one.

    Raises:
        DataError: the reference words of the two are not the same.
    """
    a, b = _errors_by_place(first), _errors_by_place(second)
    if len(a) != len(b):
        raise DataError(
            f"the references have {len(a) // 2} and {len(b) // 2} words; the test wants the same references"
        )
    errors_a = errors_b = correct = 0
    for place, (here_a, here_b) in enumerate(zip(a, b, strict=True)):
        is_word = place % 2 == 1
        if here_a or here_b:
            errors_a, errors_b, correct = errors_a + here_a, errors_b + here_b, 0
        elif is_word:
            correct += 1
        if correct == BOUNDARY_WORDS and (errors_a or errors_b):
            yield errors_a, errors_b
            errors_a = errors_b = 0
    if errors_a or errors_b:
        yield errors_a, errors_b


def z_test(differences: Iterable[int]) -> MatchedPairs:
    """Whether the mean of the differences is 0: z = mean / (s / sqrt(n)), s with n - 1, p from the normal distribution.

    >>> z_test([1, 1, 0, 2]).z
    2.449489742783178
    """
    values = list(differences)
    n = len(values)
    if not n:
        return MatchedPairs(0, None, None, None)
    mean = sum(values) / n
    if not any(values):  # as many errors in every segment: nothing speaks for a difference
        return MatchedPairs(n, 0.0, 0.0, 1.0)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    if not variance:
        return MatchedPairs(n, mean, None, None)
    z = mean / math.sqrt(variance / n)
    return MatchedPairs(n, mean, z, math.erfc(abs(z) / math.sqrt(2)))


def _errors_by_place(aligned: Aligned) -> list[int]:
    """The errors at each place: before the first word, the first word, between it and the second, …, after the last."""
    places = [0]
    for kind, _, _ in aligned:
        if kind == "insert":
            places[-1] += 1
        else:
            places += [int(kind != "equal"), 0]
    return places
