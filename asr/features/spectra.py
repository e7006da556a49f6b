"""Power spectra of frames, of which log-mel features of every kind are made.

Axes: n samples, t frames, f bins of the FFT, m mel filters. Frame ``i`` is centred on sample ``i * hop``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.extractor import Floats
from asr.limits import check_spectrum

Doubles = npt.NDArray[np.float64]

#: frames that are computed at a time: some MB, whatever the length of a recording
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


def power_spectrum(wave_n: Floats, window_n: Floats, hop: int, fft: int, frames: int) -> Floats:
    """Compute the power spectrum of each frame; the signal is zero outside itself. Shapes: (n,) -> (t, f)."""
    power_tf = np.empty((frames, fft // 2 + 1), np.float32)
    if not frames:
        return power_tf

    # The window lies in the middle of the FFT's samples.
    before = fft // 2 - (fft - len(window_n)) // 2
    after = max(0, (frames - 1) * hop + len(window_n) - before - len(wave_n))
    padded_n = np.pad(wave_n, (before, after))
    frames_tn = np.lib.stride_tricks.sliding_window_view(padded_n, len(window_n))[::hop]
    for start in range(0, frames, _BLOCK):
        # Where the window stands in the FFT's samples changes phases alone.
        spectra_tf = np.fft.rfft(frames_tn[start : min(start + _BLOCK, frames)] * window_n, fft)
        power_tf[start : start + _BLOCK] = np.square(spectra_tf.real) + np.square(spectra_tf.imag)
    return power_tf
