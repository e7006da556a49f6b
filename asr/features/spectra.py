"""Spectra of frames, of which log-mel features of every kind are made.

Axes: n samples, t frames, f bins of the FFT, m mel filters. Frame ``i`` is centred on sample ``i * hop``.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.compiled.plan import BLOCK, Plan, can_transform, make_plan, room_of
from asr.features.extractor import Floats
from asr.limits import check_spectrum
from asr.native import Flat, Native

Doubles = npt.NDArray[np.float64]

_log_spectra = Native("asr.features.compiled.spectra", "log_spectra")
#: of a line of the processor's cache
_LINE_BYTES = 64
#: frames that numpy computes at a time: some MB, whatever the length of a recording
_BLOCK = 1024


class FrameSizes(NamedTuple):
    """The sizes of frames, in samples."""

    window: int
    hop: int
    fft: int


def frame_sizes(cfg: FeatureConfig, sample_rate_hz: int) -> FrameSizes:
    """Return the sizes of frames.

    Raises:
        ConfigError: they do not fit together, or take more memory than any features need.
    """
    window, hop = round(cfg.window_s * sample_rate_hz), round(cfg.hop_s * sample_rate_hz)
    fft = cfg.fft_samples or 2 ** math.ceil(math.log2(max(2, window)))
    if fft % 2:
        # Half of it lies on either side of a frame's centre: with an odd one a last frame would be missing.
        raise ConfigError(f"features: fft_samples must be even, got {fft}", key="features.fft_samples")
    if hop < 1 or window < 2 or fft < window:
        raise ConfigError(
            f"features: a window of {window} and a hop of {hop} samples do not fit an FFT of {fft}", key="features"
        )
    check_spectrum(fft, hop, sample_rate_hz)
    return FrameSizes(window, hop, fft)


def cosine_window(size: int, middle: float, *, is_periodic: bool = True) -> Floats:
    """Make a window of one period of a cosine: Hann's (``middle`` 0.5) or Hamming's (0.54). Shapes: (size,)."""
    period = size if is_periodic else size - 1
    return np.asarray(middle - (1 - middle) * np.cos(2 * math.pi / period * np.arange(size)), np.float32)


def triangles(corners_hz: Doubles, bins_hz: Doubles) -> tuple[Doubles, Doubles]:
    """Make triangles of height 1, each from a corner over the next to the one after; also return their widths in Hz.

    Shapes: (m + 2,), (f,) -> (f, m), (m,).
    """
    widths_hz = np.diff(corners_hz)
    away_hz = corners_hz[None, :] - bins_hz[:, None]
    rising_fm = away_hz[:, :-2] / -widths_hz[:-1]
    falling_fm = away_hz[:, 2:] / widths_hz[1:]
    return np.minimum(rising_fm, falling_fm).clip(min=0), corners_hz[2:] - corners_hz[:-2]


class LogSpectra:
    """Computes the logarithms of spectra, or of what filters let through of them, or their cosine transforms.

    FFTs of even sizes without factors above 5 are compiled (``asr.features.compiled``): a frame then depends on nothing
    but its samples, to the last bit. The others go through numpy.
    """

    def __init__(
        self,
        window_n: Floats,
        hop: int,
        fft: int,
        filters_fm: Floats | None,
        *,
        added: float = 0.0,
        floor: float,
        cosines_mc: Floats | None = None,
    ) -> None:
        """Take what decides the spectra.

        Args:
            filters_fm: None: the bins themselves.
            added: to what a filter lets through, before the logarithm.
            floor: the least that the logarithm is taken of.
            cosines_mc: of the transform of the logarithms; None: there is none.
        """
        self.window_n = window_n
        self.hop = hop
        self.fft = fft
        self.filters_fm = filters_fm
        self.cosines_mc = cosines_mc
        self._added = added
        self._floor = max(floor, float(np.finfo(np.float32).tiny))

    def __call__(self, wave_n: Floats, frames: int) -> Floats:
        """Compute so many frames of a wave, which is zero outside itself. Shapes: (n,) -> (t, bins)."""
        return self._frames(wave_n, -self.before, frames)

    @property
    def before(self) -> int:
        """Return how many samples of the first window lie before the first sample of the wave.

        The window is in the middle of the FFT's samples, and the middle of the first frame is the first sample.
        """
        return self.fft // 2 - (self.fft - len(self.window_n)) // 2

    @property
    def is_exact(self) -> bool:
        """Return true if a frame depends on nothing but its samples, to the last bit."""
        return self._plan is not None

    def samples_of(self, frames: int) -> int:
        """Return how many samples there are from the first window's first to the last window's last."""
        return (frames - 1) * self.hop + len(self.window_n) if frames else 0

    def of_windows(self, samples_n: Floats, frames: int) -> Floats:
        """Compute so many frames of samples, the first of which is the first of a window. Shapes: (n,) -> (t, bins)."""
        return self._frames(samples_n, 0, frames)

    def _frames(self, samples_n: Floats, first: int, frames: int) -> Floats:
        """Compute so many frames of samples that are zero outside themselves.

        Args:
            first: where the first window begins; it may be negative.
        """
        if not frames:
            return np.zeros((0, self._num_bins), np.float32)
        if self._plan is not None:
            return self._compiled(*self._plan, samples_n, first, frames)
        before = max(-first, 0)
        padded_n = np.zeros(max(before + len(samples_n), self.samples_of(frames)), np.float32)
        padded_n[before : before + len(samples_n)] = samples_n
        return self._through_numpy(padded_n, frames)

    @property
    def _num_bins(self) -> int:
        last = self.filters_fm if self.cosines_mc is None else self.cosines_mc
        return self.fft // 2 + 1 if last is None else int(last.shape[1])

    @cached_property
    def _plan(self) -> tuple[Plan, Flat] | None:
        """Return what the compiled code needs; None: it has no transform of this size."""
        if not can_transform(self.fft):
            return None
        tables = self.filters_fm, self._added, self._floor, self.cosines_mc
        plan = make_plan(self.window_n, self.hop, self.fft, *tables)
        return plan, Flat(plan)

    def _compiled(self, plan: Plan, flat: Flat, samples_n: Floats, first: int, frames: int) -> Floats:
        samples_n = np.ascontiguousarray(samples_n, np.float32)
        # It computes blocks of frames: the last ones may reach beyond the end.
        features_tf = np.empty((-(-frames // BLOCK) * BLOCK, self._num_bins), np.float32)
        _log_spectra(flat, samples_n, first, frames, features_tf.reshape(-1), _room(room_of(plan)))
        return features_tf[:frames]

    def _through_numpy(self, samples_n: Floats, frames: int) -> Floats:
        features_tf = np.empty((frames, self._num_bins), np.float32)
        frames_tn = np.lib.stride_tricks.sliding_window_view(samples_n, len(self.window_n))[:: self.hop]
        for start in range(0, frames, _BLOCK):
            block_tn = frames_tn[start : min(start + _BLOCK, frames)]
            spectra_tf = np.fft.rfft(block_tn * self.window_n, self.fft)
            power_tf = np.square(spectra_tf.real) + np.square(spectra_tf.imag)
            energies_tf = power_tf if self.filters_fm is None else power_tf @ self.filters_fm
            logs_tf = np.log(np.maximum(energies_tf + self._added, self._floor))
            features_tf[start : start + _BLOCK] = logs_tf if self.cosines_mc is None else logs_tf @ self.cosines_mc
        return features_tf


def _room(size: int) -> Floats:
    """Make room for values, the first of which is where a line of the cache begins."""
    values = np.empty(size + _LINE_BYTES // 4, np.float32)
    first = -values.ctypes.data % _LINE_BYTES // values.itemsize
    return values[first : first + size]
