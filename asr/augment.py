"""Augmentation of training features; every function takes a Generator and leaves its input alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asr.config import SpecAugmentConfig

Features = npt.NDArray[np.float32]


def spec_augment(
    features_tf: Features, cfg: SpecAugmentConfig, hop_s: float, generator: np.random.Generator
) -> Features:
    """Features with random bands of bins and stretches of frames set to zero, the mean of normalised features.

    Shapes: (t, f) -> (t, f).

    Source: Park et al. 2019, "SpecAugment", section 2 (without time warping).
    """
    frames, bins = features_tf.shape
    out = features_tf.copy()
    for _ in range(cfg.freq_masks):
        width = int(generator.integers(0, min(cfg.freq_width_bins, bins) + 1))
        start = int(generator.integers(0, bins - width + 1))
        out[:, start : start + width] = 0.0
    widest = min(round(cfg.time_width_s / hop_s), int(cfg.time_width_fraction * frames))
    for _ in range(cfg.time_masks):
        width = int(generator.integers(0, widest + 1))
        start = int(generator.integers(0, frames - width + 1))
        out[start : start + width] = 0.0
    return out
