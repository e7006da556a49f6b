"""Bootstrap intervals of error rates: over speakers where they are known, else over utterances.

Utterances of one speaker share a voice, a microphone and an accent: their errors go together, and an interval that
draws utterances as if they were independent is too narrow. Drawing whole speakers keeps what goes together together.

Axes: k kinds of numbers, n utterances, m units that are drawn (speakers or utterances), r resamples.
Source: Bisani & Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004. Drawing
whole groups: Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (hierarchical data).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Ints = NDArray[np.int64]

Unit = Literal["speaker", "utterance"]
Ends = tuple[float | None, float | None]

LEVEL = 0.95
RESAMPLES = 10_000
#: With fewer, the draws say little of how speakers differ (and the interval is far too narrow): utterances are drawn.
FEWEST_SPEAKERS = 5

# Drawn indices held at a time: 8 MB, and as much again for a gather.
_BLOCK = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """What the ends of an interval are: its level, and what was drawn how often."""

    unit: Unit
    units: int
    level: float = LEVEL
    resamples: int = RESAMPLES

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def drawn(self) -> str:
        """``"10 speakers"``."""
        return f"{self.units:,} {self.unit}{'' if self.units == 1 else 's'}"


def unit_of(speakers: Sequence[str]) -> Interval:
    """What to draw for utterances of these speakers (empty: not known).

    Speakers, when every utterance has one and there are at least ``FEWEST_SPEAKERS``; else utterances.
    """
    distinct = set(speakers)
    if "" not in distinct and len(distinct) >= FEWEST_SPEAKERS:
        return Interval("speaker", len(distinct))
    return Interval("utterance", len(speakers))


def pooled(values_kn: ArrayLike, speakers: Sequence[str]) -> Ints:
    """Sums over each speaker's utterances, speakers in their order of appearance. Shapes: (k, n) -> (k, m)."""
    import numpy as np

    values = np.asarray(values_kn, dtype=np.int64)
    index_of = {name: i for i, name in enumerate(dict.fromkeys(speakers))}
    out = np.zeros((len(values), len(index_of)), dtype=np.int64)
    index_n = np.array([index_of[name] for name in speakers], dtype=np.int64)
    for kind, sums in zip(values, out, strict=True):
        np.add.at(sums, index_n, kind)
    return out


def resampled_sums(values_km: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Ints:
    """Sums over m units drawn with replacement, the same draws for every kind. Shapes: (k, m) -> (k, r).

    Indices are drawn and gathered in blocks: under 50 MB, half a second for 10,000 units. They depend on the seed and
    the number of units only.
    """
    import numpy as np

    values = np.asarray(values_km, dtype=np.int64)
    units = values.shape[1]
    out = np.zeros((len(values), resamples), dtype=np.int64)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(1, units))
    for start in range(0, resamples if units else 0, block):
        drawn = generator.integers(0, units, size=(min(block, resamples - start), units))
        for kind, sums in zip(values, out, strict=True):
            sums[start : start + len(drawn)] = kind.take(drawn).sum(axis=1)
    return out


def percentile_ends(values_r: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The ends between which the middle ``level`` of the values lies."""
    import numpy as np

    low, high = np.quantile(values_r, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_intervals(
    rates: Iterable[tuple[ArrayLike, ArrayLike]],
    speakers: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Ends]:
    """The percentile bootstrap interval of each rate, given as (errors, lengths), all on the same resamples.

    Drawn are whole speakers where ``speakers`` names one for each utterance (``unit_of`` says when that is sound), else
    utterances. One unit gives (rate, rate): resampling it tells nothing. Where a rate has no reference length at all
    its ends are 0 without errors, else None; a resample that happens to have none, with some elsewhere, is left out.

    Shapes: errors and lengths hold one whole number for each of n utterances.
    Raises:
        ValueError: shapes differ, a number is negative, or ``resamples`` or ``level`` is out of range.
    """
    import numpy as np

    pairs = [(np.asarray(errors, dtype=np.int64), np.asarray(lengths, dtype=np.int64)) for errors, lengths in rates]
    for errors, lengths in pairs:
        if errors.ndim != 1 or errors.shape != lengths.shape or (errors < 0).any() or (lengths < 0).any():
            raise ValueError(f"errors and lengths must be equally many, none negative, got {errors} and {lengths}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples must be at least 1 and level inside (0, 1), got {resamples} and {level}")
    values = np.array([each for pair in pairs for each in pair])
    if speakers is not None:
        if len(speakers) != values.shape[1]:
            raise ValueError(f"speakers must be one an utterance, got {len(speakers)} for {values.shape[1]}")
        values = pooled(values, speakers)
    sums = resampled_sums(values, resamples, seed)
    ends: list[Ends] = []
    for (errors, lengths), errors_r, lengths_r in zip(pairs, sums[::2], sums[1::2], strict=True):
        if not lengths.any():
            ends.append((None, None) if errors.any() else (0.0, 0.0))
            continue
        defined = lengths_r > 0
        if defined.any():
            ends.append(percentile_ends(errors_r[defined] / lengths_r[defined], level))
        else:  # few resamples of a set that is nearly all empty references
            ends.append((None, None))
    return ends


def bootstrap_interval(
    errors_n: ArrayLike, lengths_n: ArrayLike, speakers: Sequence[str] | None = None, **options: Any
) -> Ends:
    """The interval of one rate, as ``bootstrap_intervals``.

    >>> bootstrap_interval([2], [8])
    (0.25, 0.25)
    """
    return bootstrap_intervals([(errors_n, lengths_n)], speakers, **options)[0]
