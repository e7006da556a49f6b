"""What the compiled spectra need to know: sizes, and tables that follow from them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.model.cpu.packed import LANES

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

#: frames that are computed together
BLOCK = LANES
#: factors of a transform, in the order in which they are taken out
_RADICES = (5, 3, 4, 2)


class Plan(NamedTuple):
    """All that decides what is made of a wave."""

    hop: int
    fft: int
    #: padded with zeros to a multiple of 16
    window: Floats
    #: one for each pass
    radices: Longs
    #: of all passes: real and imaginary parts
    turns: Floats
    #: where each frequency of the complex transform is
    places: Longs
    #: by which the halves of a spectrum are brought together: real and imaginary parts
    joints: Floats
    #: the first bin of each filter, the number of its bins, and the weights of all
    starts: Longs
    counts: Longs
    weights: Floats
    #: added to what a filter gives; the least that the logarithm is taken of
    added: float
    floor: float
    #: coefficients x filters; empty: the logarithms themselves are the features
    cosines: Floats


def room_of(plan: Plan) -> int:
    """Return how many values ``log_spectra`` needs for what it computes on the way."""
    rows = max(plan.fft, len(plan.window)) + plan.fft // 2 + 1 + len(plan.starts) + len(plan.cosines)
    return rows * LANES + (BLOCK - 1) * plan.hop + len(plan.window)


def can_transform(fft: int) -> bool:
    """Check whether there is a plan for an FFT of this size: even, without factors above 5."""
    return fft % 2 == 0 and _radices(fft // 2) is not None


def make_plan(
    window_n: Floats,
    hop: int,
    fft: int,
    filters_fm: Floats | None,
    added: float,
    floor: float,
    cosines_mc: Floats | None,
) -> Plan:
    """Make the plan for an FFT whose size ``can_transform`` takes.

    Args:
        filters_fm: None: the bins of the spectrum as they are.
    """
    half = fft // 2
    radices = _radices(half)
    assert radices is not None
    turns = np.concatenate([_turns(half, radices[:i], radix) for i, radix in enumerate(radices)])
    padded_n = np.zeros(-(-len(window_n) // LANES) * LANES, np.float32)
    padded_n[: len(window_n)] = window_n
    starts, counts, weights = _bands(half + 1, filters_fm)
    return Plan(
        hop=hop,
        fft=fft,
        window=padded_n,
        radices=np.array(radices),
        turns=_parts(turns),
        places=_places(half, radices),
        joints=_parts(np.exp(-1j * math.tau * np.arange(half // 2 + 1) / fft)),
        starts=starts,
        counts=counts,
        weights=weights,
        added=added,
        floor=floor,
        cosines=np.zeros((0, 0), np.float32) if cosines_mc is None else np.ascontiguousarray(cosines_mc.T),
    )


def _radices(size: int) -> list[int] | None:
    """Return the factors of a transform; None if it has others than these."""
    found = []
    for radix in _RADICES:
        while size % radix == 0:
            found.append(radix)
            size //= radix
    return found if size == 1 else None


def _turns(size: int, before: list[int], radix: int) -> npt.NDArray[np.complex128]:
    """Return what a pass multiplies by: for each place in a part, one for each part but the first."""
    length = size // math.prod(before)
    angles = np.outer(np.arange(length // radix), np.arange(1, radix)) * (math.tau / length)
    turns: npt.NDArray[np.complex128] = np.exp(-1j * angles.ravel())
    return turns


def _places(size: int, radices: list[int]) -> Longs:
    """Return where the passes leave each frequency."""
    left = np.arange(size)
    places = np.zeros(size, np.int64)
    for radix in radices:
        size //= radix
        places += left % radix * size
        left //= radix
    return places


def _bands(bins: int, filters_fm: Floats | None) -> tuple[Longs, Longs, Floats]:
    """Return the first bin of each filter, the number of its bins, and the weights of all; None: one for each bin."""
    if filters_fm is None:
        return np.arange(bins), np.ones(bins, np.int64), np.ones(bins, np.float32)
    used = [np.flatnonzero(filter_f) for filter_f in filters_fm.T]
    ends = [(int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0) for own in used]
    weights = np.concatenate([filters_fm[start:end, m] for m, (start, end) in enumerate(ends)])
    starts, counts = (np.array(values, np.int64) for values in zip(*((a, b - a) for a, b in ends), strict=True))
    return starts, counts, weights


def _parts(values: npt.NDArray[np.complex128]) -> Floats:
    """Return real and imaginary parts in turn."""
    return np.stack([values.real, values.imag], axis=-1).astype(np.float32).ravel()
