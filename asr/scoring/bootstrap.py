"""Bootstrap intervals of error rates: over speakers if they are known, else over utterances.

Utterances of one speaker share a voice, a microphone and an accent: their errors go together, and an interval that
resamples utterances as if they were independent is too narrow. Resampling whole speakers keeps the errors together.

Axes: k kinds of numbers, n utterances, m resampled units (speakers or utterances), r resamples.
Source: Bisani & Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004. Whole
groups: Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (hierarchical data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from asr.scoring.quantiles import ideal_ends

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Ints = NDArray[np.int64]

Ends = tuple[float | None, float | None]

LEVEL = 0.95
RESAMPLES = 10_000
#: with fewer, resamples say little of how speakers differ (the interval is far too narrow): utterances are resampled
FEWEST_SPEAKERS = 5

#: from so many utterances on, the ends of an interval are computed instead of drawn where that is possible
COMPUTED_FROM = 10_000

#: drawn indices that are held at a time: 8 MB, and as much again for a gather
_BLOCK = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Describe an interval: its level, and what was resampled how often."""

    unit: Literal["speaker", "utterance"]
    units: int
    level: float = LEVEL
    resamples: int = RESAMPLES

    @property
    def drawn(self) -> str:
        """``"10 speakers"``."""
        return f"{self.units:,} {self.unit}{'' if self.units == 1 else 's'}"

    @property
    def description(self) -> str:
        """``"95 % percentile bootstrap over 10 speakers"``."""
        return f"{100 * self.level:g} % percentile bootstrap over {self.drawn}"


def unit_of(speakers: Sequence[str]) -> Interval:
    """Choose what to resample for utterances of these speakers (empty: not known).

    Speakers if every utterance has one and there are at least ``FEWEST_SPEAKERS``; else utterances.
    """
    distinct = set(speakers)
    if "" not in distinct and len(distinct) >= FEWEST_SPEAKERS:
        return Interval("speaker", len(distinct))
    return Interval("utterance", len(speakers))


def resampled_sums(
    values_kn: ArrayLike, speakers: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Ints:
    """Sum over utterances, or over whole speakers, drawn with replacement; the same draws for every kind.

    Indices are drawn and gathered in blocks: under 50 MB, half a second for 10,000 units. They depend only on the seed
    and the number of units.

    Shapes: (k, n) -> (k, r).
    """
    import numpy as np

    values = np.asarray(values_kn, dtype=np.int64)
    if speakers is not None:
        values = pooled(values, speakers)
    units = values.shape[1]
    sums_kr = np.zeros((len(values), resamples), dtype=np.int64)
    if not units:
        return sums_kr

    # All indices at once would take 800 MB for 10,000 units.
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // units)
    for start in range(0, resamples, block):
        # The same draw for every kind: differences between kinds are paired.
        drawn = generator.integers(0, units, size=(min(block, resamples - start), units))
        for kind, sums in zip(values, sums_kr, strict=True):
            sums[start : start + len(drawn)] = kind.take(drawn).sum(axis=1)
    return sums_kr


def pooled(values_kn: Ints, speakers: Sequence[str]) -> Ints:
    """Sum over each speaker's utterances, speakers in their order of appearance. Shapes: (k, n) -> (k, m)."""
    import numpy as np

    index_of = {name: i for i, name in enumerate(dict.fromkeys(speakers))}
    index_n = [index_of[name] for name in speakers]
    sums_km = np.zeros((len(values_kn), len(index_of)), dtype=np.int64)
    for kind, sums in zip(values_kn, sums_km, strict=True):
        np.add.at(sums, index_n, kind)
    return sums_km


def percentile_ends(errors_r: Ints, lengths_r: Ints) -> Ends:
    """Return the ends between which the middle 95 % of the resampled rates lie.

    A resample that happens to have no reference length is left out; if all are left out, the ends are None.
    """
    import numpy as np

    defined = lengths_r > 0
    if not defined.any():
        return None, None
    rates = errors_r[defined] / lengths_r[defined]
    low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap_interval(
    errors_n: ArrayLike,
    lengths_n: ArrayLike,
    speakers: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ends:
    """Return the percentile bootstrap interval of an error rate; rates of the same units see the same resamples.

    From ``COMPUTED_FROM`` units on the ends are those of infinitely many resamples, computed without a draw
    (``asr.scoring.quantiles``). One unit gives (rate, rate): resampling it tells nothing. The ends of a rate without
    any reference length are 0 without errors, else None.

    >>> bootstrap_interval([2], [8])
    (0.25, 0.25)

    Args:
        speakers: the speaker of each utterance, to resample whole speakers (``unit_of`` tells when that is sound);
            None resamples utterances.

    Shapes: errors and lengths hold one whole number for each of n utterances.
    """
    import numpy as np

    values_kn = np.array([errors_n, lengths_n], dtype=np.int64)
    if not values_kn.any():
        return 0.0, 0.0
    if speakers is not None:
        values_kn = pooled(values_kn, speakers)
    if values_kn.shape[1] >= COMPUTED_FROM and (ends := ideal_ends(values_kn[0], values_kn[1], (1 - LEVEL) / 2)):
        return ends
    errors_r, lengths_r = resampled_sums(values_kn, None, resamples, seed)
    return percentile_ends(errors_r, lengths_r)
