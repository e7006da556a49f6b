"""The samples themselves as features: a frame is a sample, with one value.

Axes: b batch, n samples (the frames, too).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.extractor import Extractor, check_keys

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

    def num_frames(self, num_samples_b: Tensor) -> Tensor:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""
        return num_samples_b

    @torch.no_grad()
    def forward(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples and their number; what is beyond is zero. Shapes: (b, n), (b,) -> (b, n, 1), (b,).

        Args:
            generator: draws the dither; without one there is none, as in use.
        """
        if self.cfg.dither and generator is not None:
            noise_bn = torch.randn(waves_bn.shape, generator=generator, dtype=waves_bn.dtype)
            waves_bn = waves_bn + self.cfg.dither * noise_bn.to(waves_bn.device)
        eps = NORMALIZE_EPS if self.cfg.normalization == "utterance" else None
        return as_frames(waves_bn, num_samples_b, eps), num_samples_b


def as_frames(waves_bn: Tensor, num_samples_b: Tensor, eps: float | None) -> Tensor:
    """Copy samples, each utterance brought to mean 0 and variance 1 by itself; padding is zero.

    Args:
        eps: what is added to the variance; None: the samples stay as they are.

    Shapes: (b, n), (b,) -> (b, n, 1).
    """
    frames_bn = torch.zeros_like(waves_bn)
    for i, length in enumerate(num_samples_b.tolist()):
        wave_n = waves_bn[i, :length]
        if eps is not None and length:
            # each utterance by itself, never over the padding of a batch
            wave_n = nn.functional.layer_norm(wave_n, wave_n.shape, eps=eps)
        frames_bn[i, :length] = wave_n
    return frames_bn[:, :, None]


def describe_waves(*, is_normalized: bool) -> str:
    """Describe samples as input, for people."""
    samples = "each utterance to mean 0, variance 1" if is_normalized else "as they are"
    return f"none: the samples, {samples}"
