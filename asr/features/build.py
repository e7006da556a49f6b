"""Build the features of the kind that a config names."""

from __future__ import annotations

from asr.config import FeatureConfig
from asr.features.extractor import Extractor
from asr.features.frames import FeatureExtractor
from asr.features.parakeet import ParakeetExtractor
from asr.features.samples import SampleExtractor

_KINDS: dict[str, type[Extractor]] = {
    "spectrogram": FeatureExtractor,
    "log_mel": FeatureExtractor,
    "mfcc": FeatureExtractor,
    "wave": SampleExtractor,
    "parakeet": ParakeetExtractor,
}


def build_extractor(cfg: FeatureConfig, sample_rate_hz: int) -> Extractor:
    """Build the extractor of the kind that ``cfg.kind`` names.

    Raises:
        ConfigError: the settings do not fit together, or not the sample rate.
    """
    if cfg.kind == "hf":
        from asr.features.hidden import HiddenExtractor  # it alone needs torch

        return HiddenExtractor(cfg, sample_rate_hz)
    return _KINDS[cfg.kind](cfg, sample_rate_hz)
