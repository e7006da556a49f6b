"""Selection of the largest masses, without sorting all of them."""

from __future__ import annotations

from asr.decode.types import Floats, Longs
from asr.jit import compiled, inlined

#: up to so many masses that are kept, insertion is faster
_FEW = 25


@compiled
def least_kept(masses: Floats, bits: Longs, buckets: Longs, count: int, n: int, best: float) -> tuple[float, int]:
    """Return the n-th largest (from 1) of the first ``count`` masses, and how many as small are among the n largest.

    Few are kept in order as they come. Many are counted by exponent and first four bits of the mantissa, which needs no
    comparison that a processor could guess wrong; only one bucket is searched. ``bits`` is ``masses`` as integers. The
    masses are spent.
    """
    if n <= _FEW:
        return _least_of_few(masses, count, n)
    most = len(buckets) - 1
    masses[count] = best
    top = bits[count] >> 48
    buckets[:] = 0
    for i in range(count):
        buckets[min(top - (bits[i] >> 48), most)] += 1
    bucket, above = 0, 0
    while above + buckets[bucket] < n:
        above += buckets[bucket]
        bucket += 1
    inside = 0

    for i in range(count):
        here = min(top - (bits[i] >> 48), most) == bucket
        masses[inside] = masses[i]
        inside += here

    least = _nth_largest(masses, inside, n - above)
    for i in range(inside):
        above += masses[i] > least
    return least, n - above


@inlined
def _least_of_few(masses: Floats, count: int, n: int) -> tuple[float, int]:
    """``least_kept`` by insertion: the first n places hold the largest so far, in descending order."""
    for i in range(1, count):
        mass = masses[i]
        if i >= n and mass <= masses[n - 1]:
            continue
        place = min(i, n - 1)
        while place > 0 and masses[place - 1] < mass:
            masses[place] = masses[place - 1]
            place -= 1
        masses[place] = mass

    least = masses[n - 1]
    ties = 0
    for i in range(n):
        ties += masses[i] == least
    return least, ties


@compiled
def _nth_largest(values: Floats, count: int, n: int) -> float:
    """Return the n-th largest (from 1) of the first ``count`` values, which are reordered.

    Source: Hoare 1961, algorithm 65 (find).
    """
    low = 0
    high = count - 1
    place = n - 1

    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break

    return float(values[place])
