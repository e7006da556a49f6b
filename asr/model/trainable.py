"""What training needs of a network.

Axes: b batch, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.config import AudioConfig, FeatureConfig, ModelConfig
from asr.features.extractor import Extractor
from asr.limits import check_attention
from asr.model.contract import AcousticModel
from asr.model.padded import PaddedNetwork
from asr.model.parts import output_part
from asr.model.steps import steps_of


class TrainableNetwork(PaddedNetwork):
    """Features to log-probabilities over the vocabulary, blank first; padding never changes a result.

    A kind of network ends in a linear layer ``output``, whose rows are the tokens.
    """

    output: nn.Linear

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.bins = bins
        self.vocabulary_size = vocabulary_size
        #: in training, recurrent layers start anew after so many steps; 0: never
        self.chunk_steps = 0

    @property
    def stride(self) -> int:
        """Frames per step."""
        return math.prod(self.cfg.time_strides)

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Count the output steps of utterances, exactly as many as ``forward`` gives. Shapes: (b,) -> (b,)."""
        return steps_of(self.cfg, num_frames_b)

    def set_dropout(self, p: float) -> None:
        """Set the share of values that is dropped from now on, in training."""
        raise NotImplementedError

    @property
    def has_checkpointing(self) -> bool:
        """Return true if the backward pass can compute a part of the network again, to save memory."""
        return True

    def set_checkpointing(self, on: bool) -> None:
        """Set whether the backward pass computes a part of the network again, instead of its values being kept."""
        raise NotImplementedError

    @contextmanager
    def all_layers(self) -> Iterator[None]:
        """Train without leaving out layers while the block runs, as the most memory is needed then."""
        yield

    def part_rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (part, shape, parameters) of each part but the output, in order, for people."""
        raise NotImplementedError

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and the number of valid steps; beyond them the values mean nothing.

        Shapes: (b, t, f), (b,) int64 -> (b, s, v) float32, (b,) int64. Lengths are on the CPU, given and returned:
        read back from a GPU, each would stop the program until the GPU has done all its work.

        Raises:
            ValueError: the features have another number of bins than the model was built for.
        """
        if features_btf.shape[2] != self.bins:
            raise ValueError(f"features_btf has {features_btf.shape[2]} bins, the model was built for {self.bins}")
        if not features_btf.shape[1]:  # torch has no convolution of nothing
            return features_btf.new_zeros(len(features_btf), 0, self.vocabulary_size), torch.zeros_like(num_frames_b)
        return self.log_probs(features_btf, num_frames_b)

    def log_probs(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what ``forward`` returns, of at least one frame."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainableModel(AcousticModel):
    """A model of this package's own making: it can be trained, and saved as a model folder."""

    network: TrainableNetwork
    extractor: Extractor

    @property
    def device(self) -> torch.device:
        """Return the device that the network computes on."""
        return self.network.device


@dataclass(frozen=True)
class ModelStages:
    """The stages of a config that say what a network computes from sound."""

    audio: AudioConfig
    features: FeatureConfig
    model: ModelConfig


def describe(network: TrainableNetwork) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of each part of the network, in order, for people."""
    return [*network.part_rows(), output_part(network.vocabulary_size, count(network.output))]


def check_attention_of(cfg: ModelConfig, frame_s: float) -> None:
    """Refuse a stranger's network whose attention takes more memory than any needs.

    Args:
        frame_s: seconds per frame.

    Raises:
        ConfigError: it does.
    """
    shape = cfg.wav2vec2.shape
    heads = {"conformer": cfg.conformer.heads, "wav2vec2": shape.num_attention_heads if shape else 0}
    check_attention(heads.get(cfg.encoder, 0), frame_s * math.prod(cfg.time_strides))


def count(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(p.numel() for p in module.parameters())
