"""The configuration of a run.

It is read from YAML, ``--set a.b=c`` changes single values, and the resolved whole is saved with the run and the model.
An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asr.config.messages import all_keys as all_keys
from asr.config.networks import ConformerConfig as ConformerConfig
from asr.config.networks import ConvConfig as ConvConfig
from asr.config.networks import MlpConfig as MlpConfig
from asr.config.networks import ModelConfig as ModelConfig
from asr.config.networks import SampleConvConfig as SampleConvConfig
from asr.config.networks import TdnnConfig as TdnnConfig
from asr.config.networks import Wav2Vec2Config as Wav2Vec2Config
from asr.config.networks import Wav2Vec2Shape as Wav2Vec2Shape
from asr.config.reading import flat as flat
from asr.config.reading import load as load
from asr.config.reading import override as override
from asr.config.reading import parse as parse
from asr.config.reading import split_setting as split_setting
from asr.config.reading import to_yaml as to_yaml
from asr.config.sound import AudioConfig as AudioConfig
from asr.config.sound import FeatureConfig as FeatureConfig
from asr.config.sound import TextConfig as TextConfig
from asr.config.stage import Stage as Stage

if TYPE_CHECKING:
    from asr.config.stages import AugmentConfig as AugmentConfig
    from asr.config.stages import BatchConfig as BatchConfig
    from asr.config.stages import JoinedConfig as JoinedConfig
    from asr.config.stages import NoiseConfig as NoiseConfig
    from asr.config.stages import OptimConfig as OptimConfig
    from asr.config.stages import ReverbConfig as ReverbConfig
    from asr.config.stages import RunConfig as RunConfig
    from asr.config.stages import SpecAugmentConfig as SpecAugmentConfig
    from asr.config.stages import TrainConfig as TrainConfig


def __getattr__(name: str) -> Any:
    # The stages of training, on first use: they take as long to load as all the others, and use needs none of them.
    if not name[:1].isupper():
        raise AttributeError(f"module 'asr.config' has no attribute '{name}'")
    return getattr(import_module("asr.config.stages"), name)
