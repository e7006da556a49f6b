"""Power spectra of frames, of which log-mel features of every kind are made.

Axes: b batch, n samples, t frames, f bins of the FFT. Frame ``i`` is centred on sample ``i * hop``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.limits import check_spectrum


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


def power_spectrum(waves_bn: Tensor, window_n: Tensor, hop: int, fft: int) -> Tensor:
    """Compute the power spectrum of each frame; the signal is zero outside itself. Shapes: (b, n) -> (b, t, f)."""
    spectra_bft = torch.stft(
        waves_bn,
        n_fft=fft,
        hop_length=hop,
        win_length=len(window_n),
        window=window_n,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    # Not from the absolute value, whose root would only be squared again.
    squares_btf2 = torch.view_as_real(spectra_bft.transpose(1, 2)).square()
    return squares_btf2[..., 0] + squares_btf2[..., 1]
