"""Cut long recordings at pauses; streaming, without a model.

Axes: n samples, c cells of 10 ms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from asr.recordings.levels import CELLS_PER_S, GROUP, Levels, cell_samples, groups_with_activity
from asr.sound.recording import Wave

Marks = npt.NDArray[np.bool_]

#: the shortest pause that is cut in
_PAUSE_S = 0.2
#: pauses are weighed up to this length, which counts as much as being at the end of the reach
_FULL_PAUSE_S, _LATE = 0.6, 1.0
#: a longer silence always ends a piece; this much at either end of it is given, and the rest is not
_SILENCE_S, _MARGIN_S = 0.5, 0.15
#: what two pieces share where there is no pause, or a fifth of the longest piece if that is less
_OVERLAP_S = 2.0
#: an overlap is looked for from this share of the reach on
_LATE_REACH = 0.6
#: no piece is cut shorter than this, or a quarter of the longest
_SHORTEST_S = 1.0
#: a burst of this many cells, with quiet around it, is a click: a syllable is longer
_CLICK, _CLICK_ROOM = 5, 30


@dataclass(frozen=True)
class Piece:
    """Hold a part of a recording to run the network on: samples ``start_n`` to ``stop_n`` of it.

    Samples ``keep_from_n`` to ``keep_to_n`` count; the samples before and after are context that is shared at an
    overlap. Kept parts of consecutive pieces never overlap; between them lies at most silence. ``ends``: in a pause, in
    an overlap, or at the recording's end; ``length_s``: of that pause, or of the audio shared with the next piece; 0 at
    the end.
    """

    wave_n: Wave
    start_n: int
    stop_n: int
    keep_from_n: int
    keep_to_n: int
    ends: Literal["pause", "overlap", "end"]
    length_s: float

    def without_samples(self) -> Piece:
        """Return the piece for use after its features are made, when its samples need no more memory."""
        return replace(self, wave_n=np.zeros(0, np.float32))


def cut(blocks: Iterable[Wave], rate_hz: int, longest_s: float) -> Iterator[Piece]:
    """Yield a recording as pieces of at most ``longest_s``, cut in pauses; a short one is one piece, as it is.

    The result depends on the samples, not on the blocks. About ``longest_s`` and ten seconds more are held in memory.
    Where there is no pause in reach, two pieces share some audio, and their kept parts meet at the quietest place.
    Long silence is left out, so pieces begin and end like the utterances that networks are trained on.

    >>> said_n = np.sin(np.arange(16000, dtype=np.float32)) * np.sin(np.linspace(0, 3.14, 16000, dtype=np.float32))
    >>> still_n = np.zeros(8000, np.float32)
    >>> [(round(p.keep_to_n / 16000, 1), p.ends) for p in cut([said_n, still_n, said_n], 16000, longest_s=2)]
    [(1.2, 'pause'), (2.5, 'end')]
    """
    if rate_hz < 1000 or not 0.5 <= longest_s < math.inf:
        raise ValueError(f"pieces of {longest_s} s at {rate_hz} Hz; at least 0.5 s and 1000 Hz are wanted")
    return _Cutter(_Sound(blocks, rate_hz), rate_hz, longest_s).pieces()


class _Cutter:
    """Walk through a recording once. Places and lengths are cells, unless the name says samples (n) or seconds."""

    def __init__(self, sound: _Sound, rate_hz: int, longest_s: float) -> None:
        self._sound = sound
        self._per_s = per_s = rate_hz / sound.hop
        self._longest_n = math.floor(longest_s * rate_hz + 1e-6)
        self._longest = self._longest_n // sound.hop
        self._shortest = round(min(_SHORTEST_S, longest_s / 4) * per_s)
        self._pause = round(_PAUSE_S * per_s)
        self._full_pause = round(_FULL_PAUSE_S * per_s)
        self._silence = round(_SILENCE_S * per_s)
        self._margin = round(_MARGIN_S * per_s)
        self._half_overlap = round(min(_OVERLAP_S, longest_s / 5) * per_s / 2)
        #: where the next piece starts, and from where on it counts
        self._start = self._keep = 0

    def pieces(self) -> Iterator[Piece]:
        # A silence that begins within reach must be seen to be long.
        ahead = self._longest + self._silence + _CLICK + _CLICK_ROOM
        while True:
            activity_c, quiet_c = self._sound.between(self._start, self._start + ahead)
            ending = len(activity_c) < ahead
            left_n = self._sound.total_n - self._start * self._sound.hop
            is_last = ending and left_n <= self._longest_n
            if is_last and not self._start:
                if left_n:
                    yield self._piece(len(quiet_c), "end")
                return

            silence = self._long_silence(quiet_c)
            if silence is not None:
                place = self._start + silence
                piece = None
                if silence > self._margin or self._keep > self._start:
                    piece = self._piece(min(silence + self._margin, self._longest), "end")
                after = self._sound.end_of_quiet(place, self._margin)
                if piece is not None and after is not None:
                    piece = replace(piece, ends="pause", length_s=(after - place) / self._per_s)
                if piece is not None:
                    yield piece
                if after is None:
                    return
                self._go_on(after - self._margin)
                continue

            if is_last:
                yield self._piece(len(quiet_c), "end")
                return

            pause = self._best_pause(quiet_c, len(quiet_c) if ending else None)
            if pause is not None:
                stop, length = pause
                if not length:  # only quiet is left
                    yield self._piece(stop, "end")
                    return
                yield self._piece(stop, "pause", length / self._per_s)
                self._go_on(self._start + stop)
                continue

            half = self._half_overlap
            stop = self._quietest(activity_c)
            yield self._piece(stop + half, "overlap", 2 * half / self._per_s, keep_to=stop)
            self._go_on(self._start + stop - half, self._start + stop)

    def _piece(
        self, stop: int, ends: Literal["pause", "overlap", "end"], length_s: float = 0.0, keep_to: int | None = None
    ) -> Piece:
        """Return the next piece, ``stop`` cells long; the part after ``keep_to`` does not count."""
        hop = self._sound.hop
        start_n = self._start * hop
        stop_n = min((self._start + stop) * hop, self._sound.total_n)
        keep_to_n = stop_n if keep_to is None else (self._start + keep_to) * hop
        return Piece(self._sound.samples(start_n, stop_n), start_n, stop_n, self._keep * hop, keep_to_n, ends, length_s)

    def _go_on(self, start: int, keep: int | None = None) -> None:
        self._start = start
        self._keep = start if keep is None else keep
        self._sound.forget(start)

    def _long_silence(self, quiet_c: Marks) -> int | None:
        """Return where the first silence that is too long starts, if that is within reach."""
        for start, stop in _runs(without_clicks(quiet_c)):
            if stop - start >= self._silence and start < self._longest:
                return start
        return None

    def _best_pause(self, quiet_c: Marks, end: int | None) -> tuple[int, int] | None:
        """Return where to cut in the best pause within reach, and its length: 0 if it lasts to the recording's end."""
        best = None
        best_score = -math.inf
        for start, stop in _runs(quiet_c):
            middle = min((start + stop) // 2, self._longest)
            # A pause that goes on beyond the reach is cut at its border, if that is well inside it.
            if stop - start < self._pause or middle - start < self._pause // 2 or middle < self._shortest:
                continue
            score = min(1.0, (stop - start) / self._full_pause) + _LATE * middle / self._longest
            if score > best_score:
                best_score = score
                best = (min(stop, self._longest), 0) if stop == end else (middle, stop - start)
        return best

    def _quietest(self, activity_c: Levels) -> int:
        """Return the quietest place late within reach, for an overlap."""
        first = round(_LATE_REACH * self._longest)
        last = self._longest - self._half_overlap
        around = max(1, min(5, self._half_overlap))
        total = np.concatenate([[0.0], np.cumsum(activity_c, dtype=np.float64)])
        mean = total[first + around : last + around] - total[first - around : last - around]
        return first + int(np.argmin(mean))


class _Sound:
    """Hold the samples of a recording and their activity, from where they were forgotten to where they were needed."""

    def __init__(self, blocks: Iterable[Wave], rate_hz: int) -> None:
        self.hop = cell_samples(rate_hz)
        self._ahead = groups_with_activity(blocks, rate_hz)
        #: samples read so far; all of them once the end was met
        self.total_n = 0
        #: groups of cells, the first of which has number ``_first``
        self._waves: list[Wave] = []
        self._activity: list[Levels] = []
        self._first = 0

    def between(self, start: int, stop: int) -> tuple[Levels, Marks]:
        """Return the activity of cells, and which are quiet; fewer only at the recording's end."""
        while (self._first + len(self._activity)) * GROUP < stop and (group := next(self._ahead, None)):
            wave_n, activity_c = group
            self.total_n += len(wave_n)
            self._waves.append(wave_n)
            self._activity.append(activity_c)
        activity_c = _slice(self._activity, GROUP, start - self._first * GROUP, stop - self._first * GROUP)
        return activity_c, activity_c <= 1

    def samples(self, start_n: int, stop_n: int) -> Wave:
        """Return samples that were read and not forgotten."""
        size = GROUP * self.hop
        return _slice(self._waves, size, start_n - self._first * size, stop_n - self._first * size)

    def forget(self, cell: int) -> None:
        """Drop what is before a cell."""
        groups = min(max(0, cell // GROUP - self._first), len(self._waves))
        del self._waves[:groups], self._activity[:groups]
        self._first += groups

    def end_of_quiet(self, cell: int, margin: int) -> int | None:
        """Return where the quiet around a cell ends, clicks passed over; None if it lasts to the recording's end."""
        step = 10 * CELLS_PER_S
        while True:
            _, quiet_c = self.between(cell, cell + step)
            loud = np.flatnonzero(~without_clicks(quiet_c))
            if not len(loud) and len(quiet_c) < step:
                return None
            first = int(loud[0]) if len(loud) else step
            # Close to the end of what is seen it may yet be a click: it is looked at again with more after it.
            if len(quiet_c) < step or first < step - 2 * _CLICK_ROOM:
                return cell + first
            cell += first - _CLICK_ROOM
            self.forget(cell - margin)


def _slice(groups: list[Wave], size: int, start: int, stop: int) -> Wave:
    """Return the values from ``start`` to ``stop`` of arrays that follow each other, each of one size."""
    first = start // size
    needed = groups[first : -(-stop // size)]
    return np.concatenate([np.zeros(0, np.float32), *needed])[start - first * size : stop - first * size]


def _runs(marks_c: Marks) -> Iterator[tuple[int, int]]:
    """Yield start and end of each stretch of true marks.

    >>> list(_runs(np.array([1, 1, 0, 1], bool)))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks_c, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def without_clicks(quiet_c: Marks) -> Marks:
    """Return the quiet, with the bursts marked as quiet that are too short for speech and have quiet around them."""
    out = quiet_c.copy()
    for (start, stop), (next_start, next_stop) in pairwise(_runs(quiet_c)):
        # At the borders of what is seen the quiet may be longer.
        before = stop - start >= _CLICK_ROOM or not start
        after = next_stop - next_start >= _CLICK_ROOM or next_stop == len(quiet_c)
        if next_start - stop <= _CLICK and before and after:
            out[stop:next_start] = True
    return out
