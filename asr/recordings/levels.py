"""Measure where a recording is quiet: the energy in a few bands over its local floor.

Axes: n samples, c cells of 10 ms, b frequency bands, f frequencies. Levels are in dB, relative to full scale.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from asr.sound.recording import Wave, in_blocks

Levels = npt.NDArray[np.float32]

#: levels are measured a cell at a time, and cells in groups of fixed size: results cannot depend on the blocks
CELLS_PER_S, GROUP = 100, 100
#: cells of live sound that are measured at a time
_LIVE_GROUP = 10
#: band borders: above hum and rumble, up to the last fricatives
_BORDERS_HZ = (150.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
#: the floor of a cell is measured over this many groups before and after its own
_AROUND = 4
_FLOOR_QUANTILE, _LOUD_QUANTILE = 0.1, 0.95
#: what is so far below the loud parts is silence, whatever the floor is
_RANGE_DB = 45.0
#: below it: digital silence, which says nothing about the noise of the room
_ZERO_DB = -95.0
#: a cell is quiet when its bands are above their floors (root mean square) by less than this share of what the loud
#: cells around it are, within these limits: white noise by itself stays below 4 dB
_QUIET_SHARE, _QUIET_QUANTILE, _QUIET_DB = 0.25, 0.9, (4.0, 9.0)


def cell_samples(rate_hz: int) -> int:
    """Return the samples per cell."""
    return max(1, round(rate_hz / CELLS_PER_S))


def groups_with_activity(blocks: Iterable[Wave], rate_hz: int) -> Iterator[tuple[Wave, Levels]]:
    """Yield a recording in groups of ``GROUP`` cells: the samples, and the activity of each cell, at most 1 if quiet.

    The activity of a group depends on the ``_AROUND`` groups before and after it. Shapes: (n,), (c,).
    """
    hop = cell_samples(rate_hz)
    filters = _filters(3 * hop, rate_hz)
    #: groups whose activity is not known yet
    waiting: deque[Wave] = deque()
    #: levels of those groups, and of the ones before them
    levels: list[Levels] = []

    def next_group() -> tuple[Wave, Levels]:
        i = len(levels) - len(waiting)
        around = levels[max(0, i - _AROUND) : i + _AROUND + 1]
        return waiting.popleft(), _activity(levels[i], np.concatenate(around))

    nothing_n: Wave = np.zeros(0, np.float32)
    before_n = nothing_n
    for wave_n, after_n in pairwise(chain(in_blocks(blocks, GROUP * hop), [nothing_n])):
        levels.append(_levels(_with_neighbours(before_n, wave_n, after_n, hop), hop, filters))
        del levels[: -(2 * _AROUND + 1)]

        before_n = wave_n[-hop:]
        waiting.append(wave_n)
        if len(waiting) > _AROUND:
            yield next_group()

    while waiting:
        yield next_group()


class LiveLevels:
    """Measure the activity of sound that is still coming in, in which the floor is known from the past only.

    The activity of a cell depends on the samples up to at most ``_LIVE_GROUP`` cells after it, however they come in.
    """

    def __init__(self, rate_hz: int) -> None:
        self._hop = cell_samples(rate_hz)
        self._filters = _filters(3 * self._hop, rate_hz)
        self._before_n: Wave = np.zeros(0, np.float32)
        self._coming_n: Wave = np.zeros(0, np.float32)
        self._past_cb: Levels = np.zeros((0, self._filters[1].shape[1]), np.float32)

    def feed(self, wave_n: Wave) -> Iterator[Levels]:
        """Yield the activity of the next cells, in groups of one size, once they can be measured. Shapes: (c,)."""
        self._coming_n = np.concatenate([self._coming_n, wave_n])
        size = _LIVE_GROUP * self._hop
        while len(self._coming_n) >= size + self._hop:
            group_n, self._coming_n = self._coming_n[:size], self._coming_n[size:]
            yield self._measure(group_n, self._coming_n)

    def end(self) -> Levels:
        """Return the activity of the cells that are left, the last of which may be short. Shapes: (c,)."""
        group_n, self._coming_n = self._coming_n, self._coming_n[:0]
        if not len(group_n):
            return np.zeros(0, np.float32)
        activity_c = self._measure(group_n, self._coming_n)
        self._before_n = self._coming_n
        return activity_c

    def _measure(self, group_n: Wave, after_n: Wave) -> Levels:
        levels_cb = _levels(_with_neighbours(self._before_n, group_n, after_n, self._hop), self._hop, self._filters)
        self._before_n = group_n[-self._hop :]
        self._past_cb = np.concatenate([self._past_cb, levels_cb])[-(2 * _AROUND + 1) * GROUP :]
        return _activity(levels_cb, self._past_cb)


def _filters(length: int, rate_hz: int) -> tuple[Wave, Levels]:
    """Return the window of a cell and its neighbours, and the bands' weights. Shapes: (n,), (f, b)."""
    window_n = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    hz = np.fft.rfftfreq(length, 1 / rate_hz)
    top_hz = min(_BORDERS_HZ[-1], rate_hz / 2 + 1)
    borders = [*(b for b in _BORDERS_HZ if b < 0.9 * top_hz), top_hz]
    bands = [(hz >= low) & (hz < high) for low, high in pairwise(borders)]
    # By Parseval's theorem the mean square of the samples: both sides of the spectrum, the window's power.
    scale = 2 / (length * float(np.sum(window_n**2)))
    return window_n, (scale * np.stack(bands, axis=1)).astype(np.float32)


def _levels(extended_n: Wave, hop: int, filters: tuple[Wave, Levels]) -> Levels:
    """Return the levels of cells, given with a cell before and after them. Shapes: (n,) -> (c, b)."""
    window_n, bands_fb = filters
    frames_cn = sliding_window_view(extended_n, 3 * hop)[::hop]
    spectrum_cf = np.fft.rfft(frames_cn * window_n, axis=1)
    power_cb = (spectrum_cf.real**2 + spectrum_cf.imag**2) @ bands_fb
    levels_cb: Levels = 10 * np.log10(power_cb + np.float32(1e-10))
    return levels_cb


def _with_neighbours(before_n: Wave, wave_n: Wave, after_n: Wave, hop: int) -> Wave:
    """Return whole cells of samples with a cell before and after them; where there is none, a value is repeated."""
    cells = -(-len(wave_n) // hop)
    if not len(before_n):
        before_n = np.full(hop, wave_n[0])
    after_n = after_n[:hop]
    missing = cells * hop + hop - len(wave_n) - len(after_n)
    last = after_n[-1] if len(after_n) else wave_n[-1]
    extended_n = np.concatenate([before_n, wave_n, after_n, np.full(missing, last)])
    # Float files may hold anything; squares must stay finite.
    return np.clip(extended_n, -8, 8, out=extended_n)


def _activity(levels_cb: Levels, around_cb: Levels) -> Levels:
    """Return how far cells are above the floor around them; up to 1 is quiet. Shapes: (c, b) -> (c,)."""
    heard_cb = around_cb[(around_cb > _ZERO_DB).any(axis=1)]
    if not len(heard_cb):
        return np.zeros(len(levels_cb), np.float32)

    low, high = (round(q * (len(heard_cb) - 1)) for q in (_FLOOR_QUANTILE, _LOUD_QUANTILE))
    ordered_cb = np.partition(heard_cb, (low, high), axis=0)
    floor_b = np.maximum(np.maximum(ordered_cb[low], ordered_cb[high] - _RANGE_DB), _ZERO_DB)

    around_c = _above(heard_cb, floor_b)
    loud = round(_QUIET_QUANTILE * (len(around_c) - 1))
    quiet_db = np.clip(_QUIET_SHARE * np.partition(around_c, loud)[loud], *_QUIET_DB)
    activity_c: Levels = (_above(levels_cb, floor_b) / quiet_db).astype(np.float32)
    return activity_c


def _above(levels_cb: Levels, floor_b: Levels) -> Levels:
    above_c: Levels = np.sqrt(np.mean(np.maximum(levels_cb - floor_b, 0) ** 2, axis=1))
    return above_c
