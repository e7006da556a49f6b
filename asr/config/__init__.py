"""The configuration of a run.

YAML comes in, ``--set a.b=c`` changes single values, and the resolved whole is saved with the run and the model. An
unknown key is an error that names the nearest one.
"""

from __future__ import annotations

from asr.config.messages import all_keys
from asr.config.reading import load, override, parse, to_yaml
from asr.config.stages import (
    AudioConfig,
    AugmentConfig,
    BatchConfig,
    ConvConfig,
    FeatureConfig,
    MlpConfig,
    ModelConfig,
    NoiseConfig,
    OptimConfig,
    ReverbConfig,
    RunConfig,
    SpecAugmentConfig,
    Stage,
    TdnnConfig,
    TextConfig,
    TrainConfig,
)

__all__ = [
    "AudioConfig",
    "AugmentConfig",
    "BatchConfig",
    "ConvConfig",
    "FeatureConfig",
    "MlpConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimConfig",
    "ReverbConfig",
    "RunConfig",
    "SpecAugmentConfig",
    "Stage",
    "TdnnConfig",
    "TextConfig",
    "TrainConfig",
    "all_keys",
    "load",
    "override",
    "parse",
    "to_yaml",
]
