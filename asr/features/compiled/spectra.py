"""Logarithms of the spectra of frames, 16 frames at a time; and the normalisation of features.

Every frame is computed by the same operations in the same order, so its values depend on nothing but its samples.

The transform of real samples is one of half as many complex numbers, of which a row of samples is the real part and the
next row the imaginary one. Its passes work in place, from the whole to ever smaller blocks, and leave the frequencies
in the order of reversed digits (Gentleman and Sande 1966); the powers are then taken from where they are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.features.compiled.lanes import log, to_frames, to_lanes
from asr.features.compiled.plan import Plan
from asr.jit import inlined, native, part
from asr.model.cpu.packed import LANES
from asr.model.cpu.vectors import Vector, clamp, filled, fma, load, store

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: of the cosines and sines of a third and a fifth of a turn
_SIN_3 = math.sin(math.tau / 3)
_COS_5, _COS_5_2 = math.cos(math.tau / 5), math.cos(2 * math.tau / 5)
_SIN_5, _SIN_5_2 = math.sin(math.tau / 5), math.sin(2 * math.tau / 5)


@native
def log_spectra(plan: Plan, wave_n: Floats, first: int, frames: int, out: Floats, room: Floats) -> None:
    """Compute features of frames of a wave, which is zero outside itself.

    Args:
        first: where the window of the first frame begins; it may be negative.
        out: has room for a multiple of 16 frames.
        room: for ``plan.room_of`` values.
    """
    # rows of 16 values: the samples of an FFT or a window, the bins of a spectrum, the filters, the coefficients
    filters, ceps = len(plan.starts), len(plan.cosines)
    bins = ceps if ceps else filters
    power_at = max(plan.fft, len(plan.window)) * LANES
    logs_at = power_at + (plan.fft // 2 + 1) * LANES
    ceps_at = logs_at + filters * LANES
    x, power, logs, mixed = room[:power_at], room[power_at:logs_at], room[logs_at:ceps_at], room[ceps_at:]
    # and the samples of 16 frames that are not all inside the wave
    edge = room[ceps_at + ceps * LANES :]
    span = (LANES - 1) * plan.hop + len(plan.window)

    for t in range(0, frames, LANES):
        start = first + t * plan.hop
        if start >= 0 and start + span <= len(wave_n):
            _weighted(plan, wave_n, start, x)
        else:
            for i in range(span):
                edge[i] = wave_n[start + i] if 0 <= start + i < len(wave_n) else 0.0
            _weighted(plan, edge, 0, x)
        _transform(plan, x)
        _powers(plan, x, power)
        _logarithms(plan, power, logs)
        if ceps:
            _mix(plan.cosines, logs, mixed)
            _write(mixed, bins, out, t * bins)
        else:
            _write(logs, bins, out, t * bins)


@part
def _weighted(plan: Plan, wave_n: Floats, start: int, x: Floats) -> None:
    """Copy the samples of 16 frames, weighted by the window, to rows; zeros follow."""
    for i in range(0, len(plan.window), LANES):
        to_lanes(wave_n, start + i, plan.hop, plan.window, i, x, i * LANES)
    for i in range(len(plan.window), plan.fft):
        store(x, i * LANES, filled(0.0))


@part
def _transform(plan: Plan, x: Floats) -> None:
    """Transform rows in place: the first pass over all, and then one part of it after the other, in the cache."""
    half = plan.fft // 2
    part = half // plan.radices[0]
    first = (plan.radices[0] - 1) * part
    none: Any = np.int64(0)  # a 0 as it is would be a type of its own, and compiled once more
    _pass(plan.radices[0], x, none, half, half, plan.turns, none)
    for start in range(0, half, part):
        length, turn = part, first
        for i in range(1, len(plan.radices)):
            radix = plan.radices[i]
            _pass(radix, x, start, part, length, plan.turns, turn)
            length //= radix
            turn += (radix - 1) * length


@part
def _pass(radix: int, x: Floats, start: int, size: int, length: int, turns: Floats, turn: int) -> None:
    """Do one pass over blocks of a length, from a start."""
    part = length // radix
    for j in range(part):
        w = 2 * (turn + j * (radix - 1))
        for i in range(start + j, start + size, length):
            if radix == 4:
                _four(x, i, part, turns, w)
            elif radix == 2:
                _two(x, i, part, turns, w)
            elif radix == 3:
                _three(x, i, part, turns, w)
            else:
                _five(x, i, part, turns, w)


@inlined
def _two(x: Floats, i: int, part: int, turns: Floats, w: int) -> None:
    a_re, a_im = _get(x, i)
    b_re, b_im = _get(x, i + part)
    _put(x, i, a_re + b_re, a_im + b_im)
    _put_turned(x, i + part, a_re - b_re, a_im - b_im, turns, w)


@inlined
def _three(x: Floats, i: int, part: int, turns: Floats, w: int) -> None:
    a_re, a_im = _get(x, i)
    b_re, b_im = _get(x, i + part)
    c_re, c_im = _get(x, i + 2 * part)
    both_re, both_im = b_re + c_re, b_im + c_im
    mean_re, mean_im = fma(both_re, filled(-0.5), a_re), fma(both_im, filled(-0.5), a_im)
    side_re, side_im = (b_re - c_re) * filled(_SIN_3), (b_im - c_im) * filled(_SIN_3)
    _put(x, i, a_re + both_re, a_im + both_im)
    _put_turned(x, i + part, mean_re + side_im, mean_im - side_re, turns, w)
    _put_turned(x, i + 2 * part, mean_re - side_im, mean_im + side_re, turns, w + 2)


@inlined
def _four(x: Floats, i: int, part: int, turns: Floats, w: int) -> None:
    a_re, a_im = _get(x, i)
    b_re, b_im = _get(x, i + part)
    c_re, c_im = _get(x, i + 2 * part)
    d_re, d_im = _get(x, i + 3 * part)
    even_re, even_im = a_re + c_re, a_im + c_im
    odd_re, odd_im = b_re + d_re, b_im + d_im
    over_re, over_im = a_re - c_re, a_im - c_im
    side_re, side_im = b_re - d_re, b_im - d_im
    _put(x, i, even_re + odd_re, even_im + odd_im)
    _put_turned(x, i + part, over_re + side_im, over_im - side_re, turns, w)
    _put_turned(x, i + 2 * part, even_re - odd_re, even_im - odd_im, turns, w + 2)
    _put_turned(x, i + 3 * part, over_re - side_im, over_im + side_re, turns, w + 4)


@inlined
def _five(x: Floats, i: int, part: int, turns: Floats, w: int) -> None:
    a_re, a_im = _get(x, i)
    b_re, b_im = _get(x, i + part)
    c_re, c_im = _get(x, i + 2 * part)
    d_re, d_im = _get(x, i + 3 * part)
    e_re, e_im = _get(x, i + 4 * part)
    near_re, near_im = b_re + e_re, b_im + e_im
    far_re, far_im = c_re + d_re, c_im + d_im
    near_side_re, near_side_im = b_re - e_re, b_im - e_im
    far_side_re, far_side_im = c_re - d_re, c_im - d_im

    cos, cos_2, sin, sin_2 = filled(_COS_5), filled(_COS_5_2), filled(_SIN_5), filled(_SIN_5_2)
    one_re, one_im = fma(far_re, cos_2, fma(near_re, cos, a_re)), fma(far_im, cos_2, fma(near_im, cos, a_im))
    two_re, two_im = fma(far_re, cos, fma(near_re, cos_2, a_re)), fma(far_im, cos, fma(near_im, cos_2, a_im))
    one_side_re, one_side_im = fma(far_side_re, sin_2, near_side_re * sin), fma(far_side_im, sin_2, near_side_im * sin)
    two_side_re, two_side_im = near_side_re * sin_2 - far_side_re * sin, near_side_im * sin_2 - far_side_im * sin
    _put(x, i, a_re + near_re + far_re, a_im + near_im + far_im)
    _put_turned(x, i + part, one_re + one_side_im, one_im - one_side_re, turns, w)
    _put_turned(x, i + 2 * part, two_re + two_side_im, two_im - two_side_re, turns, w + 2)
    _put_turned(x, i + 3 * part, two_re - two_side_im, two_im + two_side_re, turns, w + 4)
    _put_turned(x, i + 4 * part, one_re - one_side_im, one_im + one_side_re, turns, w + 6)


@inlined
def _get(x: Floats, i: int) -> tuple[Vector, Vector]:
    """Return the real and the imaginary part of a complex number of 16 frames."""
    return load(x, i * 2 * LANES), load(x, i * 2 * LANES + LANES)


@inlined
def _put(x: Floats, i: int, re: Vector, im: Vector) -> None:
    store(x, i * 2 * LANES, re)
    store(x, i * 2 * LANES + LANES, im)


@inlined
def _put_turned(x: Floats, i: int, re: Vector, im: Vector, turns: Floats, w: int) -> None:
    """Put the product of a complex number and a turn."""
    cos, sin = filled(turns[w]), filled(turns[w + 1])
    _put(x, i, re * cos - im * sin, fma(re, sin, im * cos))


@part
def _powers(plan: Plan, x: Floats, power: Floats) -> None:
    """Compute the powers of the transform of real rows from that of half as many complex ones."""
    half = plan.fft // 2
    re, im = _get(x, 0)
    store(power, 0, (re + im) * (re + im))
    store(power, half * LANES, (re - im) * (re - im))
    for k in range(1, half // 2 + 1):
        a_re, a_im = _get(x, plan.places[k])
        b_re, b_im = _get(x, plan.places[half - k])
        # Twice the transforms of the even samples and of the odd ones; the latter are then turned.
        even_re, even_im = a_re + b_re, a_im - b_im
        odd_re, odd_im = a_im + b_im, b_re - a_re
        cos, sin = filled(plan.joints[2 * k]), filled(plan.joints[2 * k + 1])
        turned_re, turned_im = odd_re * cos - odd_im * sin, fma(odd_re, sin, odd_im * cos)
        store(power, k * LANES, _square(even_re + turned_re, even_im + turned_im))
        store(power, (half - k) * LANES, _square(even_re - turned_re, even_im - turned_im))


@inlined
def _square(re: Vector, im: Vector) -> Vector:
    """Return the square of half a complex number's size."""
    return fma(re, re, im * im) * filled(0.25)


@part
def _logarithms(plan: Plan, power: Floats, logs: Floats) -> None:
    """Compute the logarithms of what the filters let through."""
    lowest, highest = filled(plan.floor), filled(np.inf)
    at = 0
    for m in range(len(plan.starts)):
        total = filled(plan.added)
        first = plan.starts[m]
        for i in range(plan.counts[m]):
            total = fma(load(power, (first + i) * LANES), filled(plan.weights[at + i]), total)
        at += plan.counts[m]
        store(logs, m * LANES, log(clamp(total, lowest, highest)))


@part
def _mix(weights: Floats, logs: Floats, out: Floats) -> None:
    for c in range(weights.shape[0]):
        total = filled(0.0)
        for m in range(weights.shape[1]):
            total = fma(load(logs, m * LANES), filled(weights[c, m]), total)
        store(out, c * LANES, total)


@part
def _write(rows: Floats, bins: int, out: Floats, at: int) -> None:
    """Write rows of 16 frames as frames."""
    whole = bins // LANES * LANES
    for m in range(0, whole, LANES):
        to_frames(rows, m * LANES, out, at + m, bins)
    for t in range(LANES):
        for m in range(whole, bins):
            out[at + t * bins + m] = rows[m * LANES + t]


@native
def standardize(
    features_tf: Floats, floor: float, spare: int, out_tf: Floats, sums_f: Doubles, mean_f: Floats, scale_f: Floats
) -> None:
    """Bring each bin to mean 0 and deviation 1 over the frames; the arrays of features may be the same.

    Args:
        floor: added to the deviation.
        spare: the sum of squares is divided by so many frames less than there are, though by one at least.
        sums_f, mean_f, scale_f: room.
    """
    frames, bins = features_tf.shape
    for f in range(bins):
        sums_f[f] = 0.0
    for t in range(frames):
        for f in range(bins):
            sums_f[f] += features_tf[t, f]
    for f in range(bins):
        mean_f[f] = np.float32(sums_f[f] / max(frames, 1))
        sums_f[f] = 0.0

    for t in range(frames):
        for f in range(bins):
            away = features_tf[t, f] - mean_f[f]
            sums_f[f] += away * away
    for f in range(bins):
        scale_f[f] = np.float32(np.sqrt(sums_f[f] / max(frames - spare, 1)) + floor)

    for t in range(frames):
        for f in range(bins):
            out_tf[t, f] = (features_tf[t, f] - mean_f[f]) / scale_f[f]
