"""Ends of a bootstrap interval without a draw: quantiles of what all resamples of many utterances would give.

A resampled rate is at most t if the resampled errors less t times the resampled lengths are at most 0. That difference
is a sum of n independent draws, so its characteristic function is the n-th power of that of one draw, a sum over the
distinct (errors, length) pairs, and an integral over it gives the probability. The ends are where it is 2.5 and 97.5 %.

Axes: n utterances, d distinct pairs, u points of the integral.
Source: Gil-Pelaez, Note on the inversion theorem, Biometrika 38, 1951, equation 2; the ideal bootstrap: Efron &
Tibshirani, An Introduction to the Bootstrap, 1993, section 6.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

#: points of the integral up to 8 over the sum's deviation, where the function of a normal distribution is 1e-14; with
#: this step, sums that are 25 deviations apart are taken for one another
_STEP, _POINTS = 0.25, 32
#: the function is this small at the last quarter of the points, or the sum is too far from normal for them
_VANISHED = 1e-6
#: quantiles are found to this probability
_TOLERANCE = 1e-7
_MOST_TRIES = 30
#: of the normal distribution at its quantiles of 2.5 and 97.5 %
_DEVIATIONS, _DENSITY = 1.959964, 0.0584451


def ideal_ends(errors_n: Ints, lengths_n: Ints, tail: float) -> tuple[float, float] | None:
    """Return the rates that a resample is below, and above, with the probability of a tail (near 0.025).

    None if the points of the integral do not do, as where hardly an utterance has an error: then draw resamples.

    Shapes: errors and lengths hold one whole number, not negative, for each of n utterances.
    """
    import numpy as np

    total = int(lengths_n.sum())
    if not errors_n.any() or not total:
        return None
    width = int(lengths_n.max()) + 1
    codes_d, counts_d = np.unique(errors_n * width + lengths_n, return_counts=True)
    errors_d = (codes_d // width).astype(np.float64)
    lengths_d = (codes_d % width).astype(np.float64)
    n = len(errors_n)
    shares_d = counts_d / n

    rate = float(errors_n.sum()) / total
    deviation = float(np.sqrt(n * ((errors_d - rate * lengths_d) ** 2 @ shares_d))) / total
    if not deviation:
        return rate, rate

    ends = []
    for probability, side in ((tail, -1), (1 - tail, 1)):
        # The secant method, from the normal distribution's quantile.
        last, value = rate, 0.5 - probability
        guess = rate + side * _DEVIATIONS * deviation
        for _ in range(_MOST_TRIES):
            found = _probability(guess, errors_d, lengths_d, shares_d, n)
            if found is None:
                return None
            last_value, value = value, found - probability
            if abs(value) < _TOLERANCE:
                break
            slope = (value - last_value) / (guess - last) if guess != last else _DENSITY / deviation
            last, guess = guess, guess - value / slope
        else:
            return None
        ends.append(guess)
    return ends[0], ends[1]


def _probability(rate: float, errors_d: Floats, lengths_d: Floats, shares_d: Floats, n: int) -> float | None:
    """Return the probability that a resample's rate is at most this; None if it cannot be computed."""
    import numpy as np

    excess_d = errors_d - rate * lengths_d
    mean = float(excess_d @ shares_d)
    deviation = float(np.sqrt(n * ((excess_d - mean) ** 2 @ shares_d)))
    if not deviation:
        return None

    points_u = (np.arange(_POINTS) + 0.5) * (_STEP / deviation)
    sums_u = (np.exp(1j * np.outer(points_u, excess_d - mean)) @ shares_d) ** n
    if np.abs(sums_u[-_POINTS // 4 :]).max() > _VANISHED:
        return None
    values_u = (sums_u * np.exp(1j * points_u * (n * mean))).imag / points_u
    return 0.5 - float(values_u.sum()) * _STEP / deviation / np.pi
