"""Measurements of decoders with their settings, and which of two decoders is faster at the same error rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from asr.scoring.wer import Score, score


@dataclass
class Point:
    """Hold a decoder with settings, its seconds per utterance in each round, and its texts."""

    decoder: str
    settings: dict[str, Any]
    with_lm: bool
    kind: str = "sweep"
    seconds: list[float] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    score: Score | None = None

    @property
    def rate(self) -> float:
        """Utterances per second: the median over rounds."""
        return 1 / median(self.seconds)

    @property
    def wer(self) -> float:
        """Word error rate, as a fraction."""
        assert self.score is not None and self.score.wer.rate is not None
        return self.score.wer.rate

    def count_errors(self, references: Sequence[str]) -> None:
        self.score = score((str(i), references[i], text) for i, text in sorted(self.texts.items()))

    def to_json(self) -> dict[str, Any]:
        settings = {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in self.settings.items()}
        found = self.score
        return {
            "decoder": self.decoder,
            "settings": settings,
            "with_lm": self.with_lm,
            "kind": self.kind,
            "utterances_per_s": round(self.rate, 3),
            "seconds_per_utterance_by_round": self.seconds,
            "wer": found.wer.to_json() if found else None,
        }


def speed_ratio(ours: Point, theirs: Point) -> float:
    """Return how many times faster ours is: the median over rounds, each on the same utterances, one after the other.

    >>> speed_ratio(Point("a", {}, True, seconds=[1.0, 2.0, 1.0]), Point("b", {}, True, seconds=[4.0, 8.0, 5.0]))
    4.0
    """
    return median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))


def front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other beats, fastest first: no other is both as accurate and faster, or the reverse."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.rate, p.wer)):
        if not kept or point.wer < kept[-1].wer:
            kept.append(point)
    return kept


class Comparison(NamedTuple):
    """Hold a point of another decoder, and the fastest of ours that makes no more errors; None if there is none."""

    theirs: Point
    ours: Point | None
    ratio: float | None


def compare(ours: Sequence[Point], theirs: Sequence[Point]) -> list[Comparison]:
    """Find for every error rate on the others' front our fastest point with no more errors."""
    rows = []
    for point in front(theirs):
        able = [mine for mine in ours if mine.wer <= point.wer]
        best = max(able, key=lambda p: p.rate, default=None)
        rows.append(Comparison(point, best, speed_ratio(best, point) if best else None))
    return rows
