"""Acoustic features: linear spectrogram, log-mel and MFCC, one frame formula for all.

Axes: n samples, t frames, f bins, m mel filters, c coefficients. Frame ``i`` is centred on sample ``i * hop``; the
signal is taken as zero outside itself.
"""

from __future__ import annotations

import math

import numpy as np

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.extractor import Floats, Longs, NormalizedExtractor
from asr.features.spectra import LogSpectra, cosine_window, frame_sizes, triangles


class FeatureExtractor(NormalizedExtractor):
    """Turns waves into normalised spectra, log-mel bins or cepstra."""

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

        self.window_n = cosine_window(window, 0.5 if cfg.window == "hann" else 0.54)
        #: filters of the spectrum's bins, and the cosine transform of their logarithms, where there are any
        self.mel_fm: Floats | None = None
        self.dct_mc: Floats | None = None
        bins = self.fft // 2 + 1
        if cfg.kind != "spectrogram":
            self.mel_fm = self._mel_filters(high_hz)
            bins = cfg.num_mels
        if cfg.kind == "mfcc":
            if cfg.num_ceps > cfg.num_mels:
                raise ConfigError(
                    f"features: num_ceps {cfg.num_ceps} is more than num_mels {cfg.num_mels}", key="features.num_ceps"
                )
            self.dct_mc = cosines(cfg.num_ceps, cfg.num_mels)
            bins = cfg.num_ceps
        sizes = self.window_n, self.hop, self.fft
        self.spectra = LogSpectra(*sizes, self.mel_fm, floor=cfg.power_floor, cosines_mc=self.dct_mc)
        bins *= (1 + cfg.deltas) * (1 + 2 * cfg.context_frames)
        self.add_statistics(bins)

    def _mel_filters(self, high_hz: float) -> Floats:
        """Make the mel filters; none may be empty."""
        cfg = self.cfg
        mel_fm = mel_filters(self.fft // 2 + 1, cfg.low_hz, high_hz, cfg.num_mels, self.sample_rate_hz)
        empty = int((mel_fm.sum(0) == 0).sum())
        if empty:
            raise ConfigError(
                f"features: {empty} of {cfg.num_mels} mel filters lie between FFT bins and are always empty; "
                f"use fewer num_mels or a longer fft_samples than {self.fft}",
                key="features.num_mels",
            )
        return mel_fm

    def num_frames(self, num_samples: Longs | int) -> Longs:
        """Count the frames of each wave: one at sample 0 and one every hop up to its end. Shapes: (b,) -> (b,)."""
        num_samples_b = np.asarray(num_samples)
        return np.where(num_samples_b > 0, 1 + num_samples_b // self.hop, 0)

    def raw(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Compute features before normalisation. Shapes: (n,) -> (t, f)."""
        wave_n = self.with_dither(wave_n, dither)
        if self.cfg.preemphasis and len(wave_n):
            wave_n = self.emphasized(wave_n, wave_n[0])
        spectra_tf = self.spectra(wave_n, int(self.num_frames(len(wave_n))))
        if not self.reach:
            return spectra_tf
        if not len(spectra_tf):
            return np.zeros((0, self.num_bins), np.float32)
        # Beyond an end the end frame is repeated.
        return self.neighbourhoods(np.pad(spectra_tf, ((self.reach, self.reach), (0, 0)), mode="edge"))

    def emphasized(self, wave_n: Floats, before: np.float32) -> Floats:
        """Take from each sample a part of the one before it; ``before`` is before the first. Shapes: (n,) -> (n,)."""
        previous_n = np.concatenate([[before], wave_n[:-1]])
        return np.asarray(wave_n - np.float32(self.cfg.preemphasis) * previous_n, np.float32)

    @property
    def reach(self) -> int:
        """Return how many frames on either side a frame takes values from."""
        return 2 * self.cfg.deltas + self.cfg.context_frames

    def neighbourhoods(self, spectra_tf: Floats) -> Floats:
        """Append derivatives and neighbouring frames; ``reach`` frames at either end are only seen by others.

        Shapes: (t + 2 reach, bins) -> (t, f).
        """
        context = self.cfg.context_frames
        parts = [spectra_tf]
        for _ in range(self.cfg.deltas):
            parts = [*(part_tf[2:-2] for part_tf in parts), _slopes(parts[-1])]
        full_tf = np.concatenate(parts, axis=1)
        length = len(spectra_tf) - 2 * self.reach
        return np.concatenate([full_tf[i : i + length] for i in range(2 * context + 1)], axis=1)


def _slopes(features_tf: Floats) -> Floats:
    """Compute the slope of each value over five frames, of a line fitted to them. Shapes: (t, f) -> (t - 4, f).

    Source: Young et al., The HTK Book, section 5.9.
    """
    near_tf = features_tf[3:-1] - features_tf[1:-3]
    far_tf = features_tf[4:] - features_tf[:-4]
    return np.asarray((near_tf + 2 * far_tf) / 10, np.float32)


def mel_filters(num_bins: int, low_hz: float, high_hz: float, num_mels: int, sample_rate_hz: int) -> Floats:
    """Make triangles of equal width on HTK's mel scale, of height 1. Shapes: (bins of the FFT, mels).

    Source: Young et al., The HTK Book, section 5.6. The numbers of ``torchaudio.functional.melscale_fbanks``.
    """
    low_mel, high_mel = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    corners_hz = 700.0 * (10.0 ** (np.linspace(low_mel, high_mel, num_mels + 2) / 2595.0) - 1.0)
    triangles_fm, _ = triangles(corners_hz, np.linspace(0, sample_rate_hz // 2, num_bins))
    return np.asarray(triangles_fm, np.float32)


def cosines(num_ceps: int, num_mels: int) -> Floats:
    """Make the matrix of the orthonormal discrete cosine transform, type 2. Shapes: (mels, coefficients)."""
    at_m1 = np.arange(num_mels)[:, None] + 0.5
    dct_mc = np.cos(math.pi / num_mels * at_m1 * np.arange(num_ceps)) * math.sqrt(2.0 / num_mels)
    dct_mc[:, 0] /= math.sqrt(2.0)
    return np.asarray(dct_mc, np.float32)
