"""Augmentation of training features: masks and warped frequencies. The input of a function is not changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr.config import FeatureConfig, SpecAugmentConfig

Features = npt.NDArray[np.float32]


def spec_augment(
    features_tf: Features,
    cfg: SpecAugmentConfig,
    hop_s: float,
    generator: np.random.Generator,
    *,
    bins: int = 0,
    context: int = 0,
    fill_f: Features | None = None,
) -> Features:
    """Mask random bands of bins and stretches of frames.

    A band is masked in derivatives and neighbouring frames too, and a frame wherever it is stacked as a neighbour.
    (Derivatives beside a masked stretch still contain a little of it.)

    Args:
        bins: values of a frame before derivatives and neighbours; 0: there are neither.
        context: neighbouring frames on each side (``features.context_frames``).
        fill_f: replaces masked values; default 0, the mean of normalised features.

    Shapes: (t, f) -> (t, f).

    Source: Park et al. 2019, "SpecAugment", section 2 (without time warping).
    """
    frames, values = features_tf.shape
    bins = bins or values
    neighbours = 2 * context + 1
    masked_tf = np.zeros((frames, neighbours, values // bins // neighbours, bins), np.bool_)

    for _ in range(cfg.freq_masks):
        width = int(generator.integers(0, min(cfg.freq_width_bins, bins) + 1))
        start = int(generator.integers(0, bins - width + 1))
        masked_tf[..., start : start + width] = True

    widest = min(round(cfg.time_width_s / hop_s), int(cfg.time_width_fraction * frames))
    for _ in range(cfg.time_masks):
        width = int(generator.integers(0, widest + 1))
        start = int(generator.integers(0, frames - width + 1))
        for place in range(neighbours):
            # the frame that is stacked there; beyond an end, the last one at that end
            frame_t = np.clip(np.arange(frames) + place - context, 0, frames - 1)
            masked_tf[(start <= frame_t) & (frame_t < start + width), place] = True

    fill: Features | float = 0.0 if fill_f is None else fill_f
    return np.where(masked_tf.reshape(frames, values), fill, features_tf).astype(np.float32, copy=False)


def bin_centres_hz(cfg: FeatureConfig, sample_rate_hz: int, bins: int) -> npt.NDArray[np.float64]:
    """Return the centre frequency of each bin, linear (spectrogram) or on the mel scale (log_mel). Shapes: (f,)."""
    high_hz = cfg.high_hz or sample_rate_hz / 2
    if cfg.kind == "spectrogram":
        return np.linspace(0, sample_rate_hz / 2, bins)
    edges_mel = np.linspace(_mel(cfg.low_hz), _mel(high_hz), bins + 2)
    return 700 * (10 ** (edges_mel[1:-1] / 2595) - 1)


def warp_frequencies(features_tf: Features, factor: float, centres_f: npt.NDArray[np.float64]) -> Features:
    """Stretch the frequencies as a vocal tract does that is ``factor`` times as long: f gets the value of f * factor.

    Values between bins are interpolated; beyond the last bin the last one is taken. Shapes: (t, f) -> (t, f).

    Source: Jaitly & Hinton 2013, "Vocal tract length perturbation (VTLP) improves speech recognition", on features.
    """
    at_f = np.interp(centres_f * factor, centres_f, np.arange(len(centres_f)))
    low_f = np.minimum(at_f.astype(np.int64), len(centres_f) - 2)
    share_f = (at_f - low_f).astype(np.float32)
    out_tf: Features = features_tf[:, low_f] * (1 - share_f) + features_tf[:, low_f + 1] * share_f
    return out_tf


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))
