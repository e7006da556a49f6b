"""How many steps a network makes of frames, or of samples: for tensors and for arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from asr.config import ModelConfig
from asr.model.contract import Longs

if TYPE_CHECKING:
    from torch import Tensor

Lengths = TypeVar("Lengths", "Tensor", Longs)


def steps_of(cfg: ModelConfig, num_frames_b: Lengths) -> Lengths:
    """Count the output steps of utterances. Shapes: (b,) -> (b,)."""
    if cfg.encoder == "wav2vec2" and cfg.wav2vec2.shape is not None:
        layers = [(conv.kernel, conv.stride) for conv in cfg.wav2vec2.shape.convs]
        return unpadded_steps(layers, num_frames_b)
    return steps_after(cfg.time_strides, num_frames_b)


def steps_after(time_strides: tuple[int, ...], num_frames_b: Lengths) -> Lengths:
    """Count the output steps of "same"-padded layers with these strides, each giving ceil(length / stride).

    Shapes: (b,) -> (b,).
    """
    for stride in time_strides:
        num_frames_b = (num_frames_b + stride - 1) // stride
    return num_frames_b


def unpadded_steps(layers: Sequence[tuple[int, int]], num_frames_b: Lengths) -> Lengths:
    """Count the outputs of unpadded convolutions, given as (kernel, stride). Shapes: (b,) -> (b,)."""
    for kernel, stride in layers:
        num_frames_b = ((num_frames_b - kernel) // stride + 1).clip(min=0)
    return num_frames_b
