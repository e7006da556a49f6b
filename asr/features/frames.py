"""Acoustic features: linear spectrogram, log-mel and MFCC, one frame formula for all.

Axes: b batch, n samples, t frames, f bins. Frame ``i`` is centred on sample ``i * hop``; the signal is taken as zero
outside itself. So padding a wave with zeros changes nothing but the number of frames, and a batch gives what each
utterance gives alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.extractor import NormalizedExtractor, mask
from asr.features.spectra import frame_sizes, power_spectrum


class FeatureExtractor(NormalizedExtractor):
    """Turns waves into normalised spectra, log-mel bins or cepstra."""

    window: Tensor
    mel_fb: Tensor
    dct: Tensor

    def __init__(self, cfg: FeatureConfig, sample_rate_hz: int) -> None:
        """Check that the settings fit together, and make window and filters.

        Raises:
            ConfigError: they do not fit together, or not the sample rate.
        """
        super().__init__(cfg, sample_rate_hz)
        window, self.hop, self.fft = frame_sizes(cfg, sample_rate_hz)
        high_hz = cfg.high_hz or sample_rate_hz / 2
        if not cfg.low_hz < high_hz <= sample_rate_hz / 2:
            raise ConfigError(
                f"features: need low_hz < high_hz <= {sample_rate_hz / 2:g} (half the sample rate), "
                f"got {cfg.low_hz:g} and {high_hz:g}",
                key="features.high_hz",
            )

        # The buffers of window and filters are not saved: they follow from the config.
        window_fn = torch.hann_window if cfg.window == "hann" else torch.hamming_window
        self.register_buffer("window", window_fn(window), persistent=False)
        bins = self.fft // 2 + 1
        if cfg.kind != "spectrogram":
            self.register_buffer("mel_fb", self._mel_filters(high_hz), persistent=False)
            bins = cfg.num_mels
        if cfg.kind == "mfcc":
            if cfg.num_ceps > cfg.num_mels:
                raise ConfigError(
                    f"features: num_ceps {cfg.num_ceps} is more than num_mels {cfg.num_mels}", key="features.num_ceps"
                )
            self.register_buffer("dct", cosines(cfg.num_ceps, cfg.num_mels), persistent=False)
            bins = cfg.num_ceps
        bins *= (1 + cfg.deltas) * (1 + 2 * cfg.context_frames)
        self.add_statistics(bins)

    def _mel_filters(self, high_hz: float) -> Tensor:
        """Make the mel filters; none may be empty."""
        cfg = self.cfg
        mel_fb = mel_filters(self.fft // 2 + 1, cfg.low_hz, high_hz, cfg.num_mels, self.sample_rate_hz)
        empty = int((mel_fb.sum(0) == 0).sum())
        if empty:
            raise ConfigError(
                f"features: {empty} of {cfg.num_mels} mel filters lie between FFT bins and are always empty; "
                f"use fewer num_mels or a longer fft_samples than {self.fft}",
                key="features.num_mels",
            )
        return mel_fb

    def num_frames(self, num_samples_b: Tensor) -> Tensor:
        """Count the frames of each wave: one at sample 0 and one every hop up to its end. Shapes: (b,) -> (b,)."""
        return torch.where(num_samples_b > 0, 1 + num_samples_b // self.hop, 0)

    def raw(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute features before normalisation. Shapes: (b, n), (b,) -> (b, t, f), (b,)."""
        cfg = self.cfg
        num_frames_b = self.num_frames(num_samples_b)
        if not num_frames_b.any():  # torch has no spectrogram of nothing
            return waves_bn.new_zeros(len(waves_bn), 0, self.num_bins), num_frames_b

        # A wave alone has no padding, and needs no masks of ones.
        padded = len(waves_bn) > 1 or int(num_samples_b[0]) < waves_bn.shape[1]
        inside_bn: Tensor | float = 1.0
        if padded:
            inside_bn = inside = mask(num_samples_b, waves_bn.shape[1])
            # Masked by filling, not by a product: padding may hold inf or nan.
            waves_bn = waves_bn.masked_fill(inside == 0, 0.0)
        if cfg.dither and generator is not None:
            noise = torch.randn(waves_bn.shape, generator=generator, dtype=waves_bn.dtype)
            waves_bn = waves_bn + cfg.dither * noise.to(waves_bn.device) * inside_bn
        if cfg.preemphasis:
            previous_bn = torch.cat([waves_bn[:, :1], waves_bn[:, :-1]], dim=1)
            waves_bn = (waves_bn - cfg.preemphasis * previous_bn) * inside_bn

        power_btf = power_spectrum(waves_bn, self.window, self.hop, self.fft)
        if cfg.kind != "spectrogram":
            power_btf = power_btf @ self.mel_fb
        features_btf = power_btf.clamp(min=cfg.power_floor).log()
        if cfg.kind == "mfcc":
            features_btf = features_btf @ self.dct

        features_btf = features_btf[:, : int(num_frames_b.max())]
        if cfg.deltas or cfg.context_frames:
            features_btf = _with_neighbours(features_btf, num_frames_b, cfg.deltas, cfg.context_frames)
        if padded:
            features_btf = features_btf * mask(num_frames_b, features_btf.shape[1])[:, :, None]
        return features_btf, num_frames_b


def _with_neighbours(features_btf: Tensor, num_frames_b: Tensor, deltas: int, context: int) -> Tensor:
    """Append derivatives and neighbouring frames.

    Beyond an end the end frame is repeated before derivatives are taken, so padding changes nothing.
    """
    batch, length, _ = features_btf.shape
    reach = 4 * deltas + context
    at_t = torch.arange(-reach, length + reach, device=features_btf.device)
    index_bt = at_t[None, :].minimum(num_frames_b[:, None] - 1).clamp(min=0)
    padded_btf = features_btf.gather(1, index_bt[:, :, None].expand(batch, len(at_t), features_btf.shape[2]))

    parts = [padded_btf]
    for _ in range(deltas):
        parts.append(_deltas(parts[-1]))
    full_btf = torch.cat(parts, dim=2)

    start = reach - context
    shifted = [full_btf[:, start + i : start + i + length] for i in range(2 * context + 1)]
    return torch.cat(shifted, dim=2)


def _deltas(features_btf: Tensor) -> Tensor:
    """Compute the slope of each value over five frames (of a line fitted to them); the end frames are repeated.

    Source: Young et al., The HTK Book, section 5.9.
    """
    bins = features_btf.shape[2]
    padded_bft = F.pad(features_btf.transpose(1, 2), (2, 2), mode="replicate")
    weights = torch.arange(-2, 3, device=features_btf.device, dtype=features_btf.dtype).repeat(bins, 1, 1)
    return (F.conv1d(padded_bft, weights, groups=bins) / 10).transpose(1, 2)


def mel_filters(num_bins: int, low_hz: float, high_hz: float, num_mels: int, sample_rate_hz: int) -> Tensor:
    """Make triangles of equal width on HTK's mel scale, of height 1. Shapes: (bins of the FFT, mels).

    Source: Young et al., The HTK Book, section 5.6. The same numbers as ``torchaudio.functional.melscale_fbanks``.
    """
    low_mel, high_mel = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    corners_hz = 700.0 * (10.0 ** (torch.linspace(low_mel, high_mel, num_mels + 2) / 2595.0) - 1.0)
    widths_hz = corners_hz[1:] - corners_hz[:-1]
    away_hz = corners_hz[None, :] - torch.linspace(0, sample_rate_hz // 2, num_bins)[:, None]
    rising = away_hz[:, :-2] / -widths_hz[:-1]
    falling = away_hz[:, 2:] / widths_hz[1:]
    return torch.minimum(rising, falling, out=rising).clamp_(min=0)


def cosines(num_ceps: int, num_mels: int) -> Tensor:
    """Make the matrix of the orthonormal discrete cosine transform, type 2. Shapes: (mels, coefficients)."""
    at_m = torch.arange(float(num_mels))
    order_c1 = torch.arange(float(num_ceps))[:, None]
    dct_cm = torch.cos(math.pi / num_mels * (at_m + 0.5) * order_c1)
    dct_cm[0] *= 1.0 / math.sqrt(2.0)
    return (dct_cm * math.sqrt(2.0 / num_mels)).T
