"""Which networks take a recording a piece at a time, and how far ahead they look."""

from __future__ import annotations

import math

from asr.config import ModelConfig


def why_not(cfg: ModelConfig) -> str:
    """Say why a network needs whole recordings; empty: it takes them a piece at a time."""
    if cfg.encoder != "recurrent" or not cfg.conv:
        return f"a network of model.encoder: {cfg.encoder} needs whole recordings"
    if cfg.bidirectional:
        return "model.bidirectional: true needs whole recordings"
    if any(conv.stride_tf[0] > conv.kernel_tf[0] for conv in cfg.conv):
        return "a convolution skips frames (its stride is longer than its kernel)"
    return ""


def frames_ahead(cfg: ModelConfig) -> int:
    """Return how many frames after a step's own the network sees before it says what the step is."""
    frames, stride = 0, 1
    for conv in cfg.conv:
        frames += conv.kernel_tf[0] // 2 * stride
        stride *= conv.stride_tf[0]
    return frames + cfg.lookahead_steps * math.prod(cfg.time_strides)
