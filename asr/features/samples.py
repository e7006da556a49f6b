"""The samples themselves as features: a frame is a sample, with one value.

Axes: n samples (the frames, too).
"""

from __future__ import annotations

import math

import numpy as np

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.extractor import Extractor, Floats, Longs, check_keys

#: what is added to the variance when an utterance is normalised (transformers, feature_extraction_wav2vec2.py)
NORMALIZE_EPS = 1e-7


class SampleExtractor(Extractor):
    """Turns waves into one value per sample, each utterance brought to mean 0 and variance 1 or left as it is."""

    hop = 1

    def __init__(self, cfg: FeatureConfig, sample_rate_hz: int) -> None:
        """Check that the settings go with waves.

        Raises:
            ConfigError: they do not.
        """
        super().__init__(cfg, sample_rate_hz)
        check_keys(cfg, {"normalization", "dither"})
        if cfg.normalization == "corpus":
            raise ConfigError(
                "features.normalization: corpus has no meaning for kind: wave; use utterance or none",
                key="features.normalization",
            )

    @property
    def num_bins(self) -> int:
        """Values per frame."""
        return 1

    def describe(self) -> str:
        """Describe the features in a few words, for people."""
        return describe_waves(is_normalized=self.cfg.normalization == "utterance")

    def num_frames(self, num_samples: Longs | int) -> Longs:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""
        return np.asarray(num_samples)

    def raw(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Return the samples. Shapes: (n,) -> (n, 1)."""
        return self.with_dither(wave_n, dither)[:, None]

    def normalize(self, features_tf: Floats) -> Floats:
        """Bring the samples to mean 0 and variance 1, if the config asks for it. Shapes: (n, 1) -> (n, 1)."""
        return standardized_wave(features_tf, NORMALIZE_EPS) if self.cfg.normalization == "utterance" else features_tf


def standardized_wave(wave: Floats, eps: float) -> Floats:
    """Bring the samples of an utterance to mean 0 and variance 1; shapes are kept.

    Args:
        eps: what is added to the variance.
    """
    if not wave.size:
        return wave
    centred = wave - np.float32(wave.mean(dtype=np.float64))
    variance = np.square(centred).mean(dtype=np.float64)
    centred *= np.float32(1 / math.sqrt(variance + eps))
    return centred


def describe_waves(*, is_normalized: bool) -> str:
    """Describe samples as input, for people."""
    samples = "each utterance to mean 0, variance 1" if is_normalized else "as they are"
    return f"none: the samples, {samples}"
