"""Compare word confidences with how often words are right: of the words with 0.9, are nine in ten right?

Units: confidences and rates are fractions from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from asr.scoring.wer import align

#: bins are narrow where most words are: a good model gives most words more than 0.9
EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
#: confidences are clipped by this much: one wrong word with 1 would make the cross entropy infinite
_CLIP = 1e-3


@dataclass(frozen=True)
class Bin:
    """Hold the words whose confidence is above ``low`` and at most ``high``: their mean confidence, how many are right.

    ``correct_low`` and ``correct_high`` are Wilson's 95 % interval of ``correct``.
    """

    low: float
    high: float
    words: int
    confidence: float
    correct: float
    correct_low: float
    correct_high: float


@dataclass(frozen=True)
class Reliability:
    """Hold a reliability table.

    ``ece``: expected calibration error, the mean distance of confidence and correctness over words. ``nce``: normalised
    cross entropy, 1 for an oracle, 0 for the mean of all words each time; None if all words are right, or all wrong.
    """

    bins: tuple[Bin, ...]
    words: int
    confidence: float
    correct: float
    ece: float
    nce: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the bins and the summary under their own names."""
        return asdict(self)


def outcomes(reference: str, hypothesis: str, confidences: Sequence[float]) -> list[tuple[float, bool]]:
    """Return for each word of a hypothesis its confidence, and whether it is right.

    >>> outcomes("a b c", "a x c d", [0.9, 0.4, 0.8, 0.2])
    [(0.9, True), (0.4, False), (0.8, True), (0.2, False)]
    """
    right = [operation == "equal" for operation, _, word in align(reference, hypothesis) if word is not None]
    return list(zip(confidences, right, strict=True))


def reliability(rows: Sequence[tuple[float, bool]]) -> Reliability | None:
    """Return the reliability of (confidence, right) words; ``None`` if there are no words.

    Source: normalised cross entropy as in NIST's SCTK (doc/sc_stats); Guo et al. 2017, On Calibration of Modern Neural
    Networks, for the calibration error.
    """
    if not rows:
        return None
    bins = []
    for low, high in pairwise(EDGES):
        # The lowest bin includes its lower edge.
        inside = [row for row in rows if low < row[0] <= high or row[0] == low == 0]
        if inside:
            confidence, correct = _means(inside)
            bins.append(Bin(low, high, len(inside), confidence, correct, *_wilson(correct, len(inside))))

    confidence, correct = _means(rows)
    ece = sum(b.words * abs(b.confidence - b.correct) for b in bins) / len(rows)
    return Reliability(tuple(bins), len(rows), confidence, correct, ece, _nce(rows, correct))


def format_reliability(table: Reliability) -> str:
    """Format the table as lines for people."""
    lines = ["confidence       words    mean   right  [95 %]"]
    for b in table.bins:
        interval = f"[{b.correct_low:.3f}, {b.correct_high:.3f}]"
        lines.append(f"{b.low:.2f} to {b.high:.2f} {b.words:>9,}   {b.confidence:.3f}   {b.correct:.3f}  {interval}")
    lines.append(f"all          {table.words:>9,}   {table.confidence:.3f}   {table.correct:.3f}")
    nce = "undefined" if table.nce is None else f"{table.nce:.3f}"
    lines.append(f"calibration error {table.ece:.3f}, normalised cross entropy {nce}")
    return "\n".join(lines)


def _means(rows: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """Return the mean confidence, and the share of right words."""
    return sum(confidence for confidence, _ in rows) / len(rows), sum(right for _, right in rows) / len(rows)


def _nce(rows: Sequence[tuple[float, bool]], correct: float) -> float | None:
    if correct in (0.0, 1.0):
        return None  # nothing to tell apart
    entropy = -(correct * math.log(correct) + (1 - correct) * math.log(1 - correct))
    clipped = [(min(max(confidence, _CLIP), 1 - _CLIP), right) for confidence, right in rows]
    cross = -sum(math.log(c if right else 1 - c) for c, right in clipped) / len(rows)
    return (entropy - cross) / entropy


def _wilson(rate: float, count: int) -> tuple[float, float]:
    z = 1.959964  # 97.5 % of a normal distribution
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
