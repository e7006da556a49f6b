"""Cutting long recordings at pauses, by the energy in a few bands over its local floor; streaming, without a model.

Axes: n samples, c cells of 10 ms, b frequency bands. Levels are in dB, relative to full scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from asr.data.audio import Wave

Levels = npt.NDArray[np.float32]
Marks = npt.NDArray[np.bool_]

#: levels are measured a cell at a time, and cells in groups of fixed size: results cannot depend on the blocks
_CELLS_PER_S, _GROUP = 100, 100
#: band borders: above hum and rumble, up to the last fricatives
_BORDERS_HZ = (150.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
#: the floor of a cell is measured over so many groups before and after its own
_AROUND = 4
_FLOOR_QUANTILE, _LOUD_QUANTILE = 0.1, 0.95
#: what is so far below the loud parts is silence, whatever the floor is
_RANGE_DB = 45.0
#: below it: digital silence, which says nothing about the noise of the room
_ZERO_DB = -95.0
#: a cell is quiet when its bands are above their floors (root mean square) by less than this share of what the loud
#: cells around it are, within these limits: white noise by itself stays below 4 dB
_QUIET_SHARE, _QUIET_QUANTILE, _QUIET_DB = 0.25, 0.9, (4.0, 9.0)
#: a burst of so many cells, with quiet around it, is a click: a syllable is longer
_CLICK, _CLICK_ROOM = 5, 30
#: pauses are weighed up to this length, which counts as much as being at the end of the reach
_FULL_PAUSE_S, _LATE = 0.6, 1.0
#: an overlap is looked for from this share of the reach on
_LATE_REACH = 0.6
#: no piece is cut shorter than this, or a quarter of the longest
_SHORTEST_S = 1.0


@dataclass(frozen=True)
class Piece:
    """A part of a recording to run the network on.

    ``wave_n`` starts at sample ``start_n`` of the recording; samples ``keep_from_n`` to ``keep_to_n`` of the recording
    count, what is before and after is context that is shared at an overlap. Kept parts of consecutive pieces never
    overlap; between them lies at most silence. ``ends``: in a pause, in an overlap, or at the recording's end;
    ``length_s``: of that pause, or of the audio shared with the next piece; 0 at the end.
    """

    wave_n: Wave
    start_n: int
    keep_from_n: int
    keep_to_n: int
    ends: Literal["pause", "overlap", "end"]
    length_s: float


def cut(
    blocks: Iterable[Wave],
    rate_hz: int,
    longest_s: float,
    *,
    pause_s: float = 0.2,
    silence_s: float = 0.5,
    margin_s: float = 0.15,
    overlap_s: float = 2.0,
) -> Iterator[Piece]:
    """A recording as pieces of at most ``longest_s``, cut in pauses; a short one is one piece, as it is.

    The result depends on the samples, not on the blocks. About ``longest_s`` and ten seconds more are held in memory.

    Args:
        pause_s: the shortest pause that is cut in. Where there is none in reach, two pieces share ``overlap_s``
            seconds, or a fifth of ``longest_s`` if that is less, and their kept parts meet at the quietest place there.
        silence_s: a longer silence always ends a piece; ``margin_s`` at either end of it is given and the rest is not.
            So pieces begin and end like the utterances that networks are trained on, with little silence.

    >>> said_n = np.sin(np.arange(16000, dtype=np.float32)) * np.sin(np.linspace(0, 3.14, 16000, dtype=np.float32))
    >>> still_n = np.zeros(8000, np.float32)
    >>> [(round(p.keep_to_n / 16000, 1), p.ends) for p in cut([said_n, still_n, said_n], 16000, longest_s=2)]
    [(1.2, 'pause'), (2.5, 'end')]
    """
    if rate_hz < 1000 or not 0.5 <= longest_s < math.inf:
        raise ValueError(f"pieces of {longest_s} s at {rate_hz} Hz; at least 0.5 s and 1000 Hz are wanted")
    return _Cutter(_Sound(blocks, rate_hz), longest_s, pause_s, silence_s, margin_s, overlap_s).pieces()


class _Cutter:
    """One walk through a recording. Places and lengths are cells, unless the name says samples (n) or seconds."""

    def __init__(
        self, sound: _Sound, longest_s: float, pause_s: float, silence_s: float, margin_s: float, overlap_s: float
    ) -> None:
        self._sound = sound
        self._per_s = per_s = sound.rate_hz / sound.hop
        self._longest_n = math.floor(longest_s * sound.rate_hz + 1e-6)
        self._longest = self._longest_n // sound.hop
        self._shortest = round(min(_SHORTEST_S, longest_s / 4) * per_s)
        self._pause = max(2, round(pause_s * per_s))
        self._full_pause = max(self._pause, round(_FULL_PAUSE_S * per_s))
        self._silence = round(max(silence_s, 2 * pause_s) * per_s)
        self._margin = min(round(margin_s * per_s), self._silence // 3)
        self._half_overlap = round(min(overlap_s, longest_s / 5) * per_s / 2)
        #: where the next piece starts, and from where on it counts
        self._start = self._keep = 0

    def pieces(self) -> Iterator[Piece]:
        # A silence that begins within reach must be seen to be long.
        ahead = self._longest + self._silence + _CLICK + _CLICK_ROOM
        while True:
            activity_c, quiet_c = self._sound.between(self._start, self._start + ahead)
            ending = len(activity_c) < ahead
            left_n = self._sound.total_n - self._start * self._sound.hop
            if ending and left_n <= self._longest_n and not self._start:
                if left_n:
                    yield self._piece(len(quiet_c), "end")
                return
            silence = self._long_silence(quiet_c)
            if silence is not None:
                place = self._start + silence
                before = None
                if silence > self._margin or self._keep > self._start:
                    before = self._piece(min(silence + self._margin, self._longest), "end")
                after = self._sound.end_of_quiet(place, self._margin)
                if before is not None and after is not None:
                    before = replace(before, ends="pause", length_s=(after - place) / self._per_s)
                if before is not None:
                    yield before
                if after is None:
                    return
                self._go_on(after - self._margin)
            elif ending and left_n <= self._longest_n:
                yield self._piece(len(quiet_c), "end")
                return
            elif (pause := self._best_pause(quiet_c, len(quiet_c) if ending else None)) is not None:
                stop, length = pause
                if not length:  # only quiet is left
                    yield self._piece(stop, "end")
                    return
                yield self._piece(stop, "pause", length / self._per_s)
                self._go_on(self._start + stop)
            else:
                half = self._half_overlap
                stop = self._quietest(activity_c)
                shared_s = 2 * half / self._per_s
                yield self._piece(stop + half, "overlap", shared_s, stop)
                self._go_on(self._start + stop - half, self._start + stop)

    def _piece(
        self, stop: int, ends: Literal["pause", "overlap", "end"], length_s: float = 0.0, keep_to: int | None = None
    ) -> Piece:
        """The next piece, ``stop`` cells long, of which what is after ``keep_to`` does not count."""
        hop, last_n = self._sound.hop, self._sound.total_n
        start_n, stop_n = self._start * hop, min((self._start + stop) * hop, last_n)
        keep_to_n = stop_n if keep_to is None else (self._start + keep_to) * hop
        wave_n = self._sound.samples(start_n, stop_n)
        return Piece(wave_n, start_n, self._keep * hop, keep_to_n, ends, length_s)

    def _go_on(self, start: int, keep: int | None = None) -> None:
        self._start, self._keep = start, start if keep is None else keep
        self._sound.forget(start)

    def _long_silence(self, quiet_c: Marks) -> int | None:
        """Where the first silence that is too long starts, if that is within reach."""
        for start, stop in _runs(_without_clicks(quiet_c)):
            if stop - start >= self._silence and start < self._longest:
                return start
        return None

    def _best_pause(self, quiet_c: Marks, end: int | None) -> tuple[int, int] | None:
        """Where to cut in the best pause within reach, and how long that is: 0 when it lasts to the recording's end."""
        best, best_score = None, -math.inf
        for start, stop in _runs(quiet_c):
            middle = min((start + stop) // 2, self._longest)
            # A pause that goes on beyond the reach is cut at its border, if that is well inside it.
            if stop - start < self._pause or middle - start < self._pause // 2 or middle < self._shortest:
                continue
            score = min(1.0, (stop - start) / self._full_pause) + _LATE * middle / self._longest
            if score > best_score:
                best, best_score = (middle, stop - start), score
                if stop == end:
                    best = min(stop, self._longest), 0
        return best

    def _quietest(self, activity_c: Levels) -> int:
        """The quietest place late within reach, for an overlap."""
        first, last = round(_LATE_REACH * self._longest), self._longest - self._half_overlap
        around = max(1, min(5, self._half_overlap))
        total = np.concatenate([[0.0], np.cumsum(activity_c, dtype=np.float64)])
        mean = total[first + around : last + around] - total[first - around : last - around]
        return first + int(np.argmin(mean))


class _Sound:
    """The samples of a recording and their activity, read as far as they are asked for and forgotten when told so."""

    def __init__(self, blocks: Iterable[Wave], rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.hop = max(1, round(rate_hz / _CELLS_PER_S))
        self._size = _GROUP * self.hop
        self._chunks = _of_size(blocks, self._size)
        #: samples read so far; all of them once the end was met
        self.total_n = 0
        self._ended = False
        #: groups of samples, the first of which has number ``_first``
        self._waves: deque[Wave] = deque()
        self._first = 0
        self._levels = _Levels(rate_hz, self.hop)
        self._activity: deque[Levels] = deque()

    def between(self, start: int, stop: int) -> tuple[Levels, Marks]:
        """The activity of cells, and which are quiet (at most 1); fewer only at the recording's end."""
        while not self._ended and (self._first + len(self._activity)) * _GROUP < stop:
            self._read()
        skip = self._first * _GROUP
        here = list(self._activity)[(start - skip) // _GROUP : -(-(stop - skip) // _GROUP)]
        offset = (start - skip) % _GROUP
        activity_c = np.concatenate([np.zeros(0, np.float32), *here])[offset : offset + stop - start]
        return activity_c, activity_c <= 1

    def samples(self, start_n: int, stop_n: int) -> Wave:
        """Samples that were read and not forgotten."""
        skip_n = self._first * self._size
        here = list(self._waves)[(start_n - skip_n) // self._size : -(-(stop_n - skip_n) // self._size)]
        offset = (start_n - skip_n) % self._size
        return np.concatenate([np.zeros(0, np.float32), *here])[offset : offset + stop_n - start_n]

    def forget(self, cell: int) -> None:
        """What is before a cell will not be asked for again."""
        while self._activity and (self._first + 1) * _GROUP <= cell:
            self._waves.popleft()
            self._activity.popleft()
            self._first += 1

    def end_of_quiet(self, cell: int, margin: int) -> int | None:
        """Where the quiet around a cell ends, clicks passed over; None when it lasts to the recording's end."""
        step = 10 * _CELLS_PER_S
        while True:
            _, quiet_c = self.between(cell, cell + step)
            loud = np.flatnonzero(~_without_clicks(quiet_c))
            if not len(loud) and len(quiet_c) < step:
                return None
            first = int(loud[0]) if len(loud) else step
            # Close to the end of what is seen it may yet be a click: it is looked at again with more after it.
            if len(quiet_c) < step or first < step - 2 * _CLICK_ROOM:
                return cell + first
            cell += first - _CLICK_ROOM
            self.forget(cell - margin)

    def _read(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._ended = True
            self._activity.extend(self._levels.finish())
            return
        self.total_n += len(chunk)
        self._waves.append(chunk)
        self._activity.extend(self._levels.take(chunk))


class _Levels:
    """How far the bands of each cell are above their local floors, group by group.

    A group is done when ``_AROUND`` more have come, so that the floor is that of the time around it.
    """

    def __init__(self, rate_hz: int, hop: int) -> None:
        self._hop = hop
        length = 3 * hop  # a cell and its neighbours, weighed by a Hann window
        self._window_n = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
        hz = np.fft.rfftfreq(length, 1 / rate_hz)
        top_hz = min(_BORDERS_HZ[-1], rate_hz / 2 + 1)
        borders = [*(b for b in _BORDERS_HZ if b < 0.9 * top_hz), top_hz]
        bands = [(hz >= low) & (hz < high) for low, high in pairwise(borders)]
        # By Parseval's theorem the mean square of the samples: both sides of the spectrum, the window's power.
        scale = 2 / (length * float(np.sum(self._window_n**2)))
        self._bands_fb = (scale * np.stack(bands, axis=1)).astype(np.float32)
        self._before_n: Wave = np.zeros(0, np.float32)
        self._wave_n: Wave = np.zeros(0, np.float32)
        #: levels of the groups around the next one, which has index ``_next`` in them
        self._groups: list[Levels] = []
        self._next = 0

    def take(self, wave_n: Wave) -> list[Levels]:
        """Takes a group of samples; activity that is certain now, a group each. Shapes: (n,) -> times (c,)."""
        if len(self._wave_n):
            self._groups.append(self._level(wave_n[: self._hop]))
        self._before_n, self._wave_n = self._wave_n[-self._hop :], wave_n
        return [self._of_next()] if len(self._groups) > self._next + _AROUND else []

    def finish(self) -> list[Levels]:
        """The activity of the groups that are left."""
        if len(self._wave_n):
            self._groups.append(self._level(self._wave_n[:0]))
        return [self._of_next() for _ in range(len(self._groups) - self._next)]

    def _level(self, after_n: Wave) -> Levels:
        """The levels of the last group that was taken. Shapes: (n,) -> (c, b)."""
        hop, wave_n = self._hop, self._wave_n
        cells = -(-len(wave_n) // hop)
        before_n = self._before_n if len(self._before_n) else np.full(hop, wave_n[0])
        missing = cells * hop + hop - len(wave_n) - len(after_n)
        last = after_n[-1] if len(after_n) else wave_n[-1]
        all_n = np.concatenate([before_n, wave_n, after_n, np.full(missing, last)])
        np.clip(all_n, -8, 8, out=all_n)  # float files may hold anything; squares must stay finite
        frames_cn = sliding_window_view(all_n, 3 * hop)[::hop]
        spectrum_cf = np.fft.rfft(frames_cn * self._window_n, axis=1)
        power_cb = (spectrum_cf.real**2 + spectrum_cf.imag**2) @ self._bands_fb
        levels_cb: Levels = 10 * np.log10(power_cb + np.float32(1e-10))
        return levels_cb

    def _of_next(self) -> Levels:
        around = self._groups[max(0, self._next - _AROUND) : self._next + _AROUND + 1]
        activity_c = _activity(self._groups[self._next], np.concatenate(around))
        if self._next == _AROUND:
            self._groups.pop(0)
        else:
            self._next += 1
        return activity_c


def _activity(levels_cb: Levels, around_cb: Levels) -> Levels:
    """How far cells are above the floor of the time around, in units of what is still quiet. Shapes: (c, b) -> (c,)."""
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


def _runs(marks_c: Marks) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of true marks.

    >>> list(_runs(np.array([1, 1, 0, 1], bool)))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks_c, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _without_clicks(quiet_c: Marks) -> Marks:
    """Quiet, with the bursts marked as quiet that are too short for speech and have quiet around them."""
    runs = list(_runs(quiet_c))
    out = quiet_c.copy()
    for (start, stop), (next_start, next_stop) in pairwise(runs):
        # At the borders of what is seen the quiet may be longer.
        before = stop - start >= _CLICK_ROOM or not start
        after = next_stop - next_start >= _CLICK_ROOM or next_stop == len(quiet_c)
        if next_start - stop <= _CLICK and before and after:
            out[stop:next_start] = True
    return out


def _of_size(blocks: Iterable[Wave], size: int) -> Iterator[Wave]:
    """The samples of all blocks in arrays of one size, the last one shorter."""
    held: list[Wave] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= size:
            all_n = np.concatenate(held)
            whole = count - count % size
            yield from np.split(all_n[:whole], whole // size)
            held, count = [all_n[whole:]], count - whole
    if count:
        yield np.concatenate(held)
