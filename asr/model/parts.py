"""The parts of a network for people: what each is, and how many weights it has."""

from __future__ import annotations

from collections.abc import Iterator

from asr.config import ModelConfig
from asr.model.folded import count_parameters

#: the name of a part, its shape, and its weights
Part = tuple[str, str, int]


def parts_of(cfg: ModelConfig, bins: int, vocabulary_size: int) -> list[Part]:
    """List the parts of a recurrent network in order."""
    output = count_parameters(cfg, bins, vocabulary_size, "output.")
    return [*conv_parts(cfg, bins), *recurrent_parts(cfg, bins), output_part(vocabulary_size, output)]


def conv_parts(cfg: ModelConfig, bins: int) -> Iterator[Part]:
    """Yield the convolutions in front of a network's encoder."""
    for i, layer in enumerate(cfg.conv):
        kernel_t, kernel_f = layer.kernel_tf
        stride_t, stride_f = layer.stride_tf
        kernel = f"kernel {kernel_t} x {kernel_f} (time x bins), stride {stride_t} x {stride_f}"
        parameters = sum(count_parameters(cfg, bins, 0, f"front_end.{part}.{i}.") for part in ("convs", "norms"))
        yield f"conv {i + 1}", f"{layer.channels} channels, {kernel}", parameters


def recurrent_parts(cfg: ModelConfig, bins: int) -> Iterator[Part]:
    """Yield the recurrent layers, and the lookahead if there is one."""
    ways = f"bidirectional, {cfg.merge}" if cfg.bidirectional else "one direction"
    for i in range(cfg.layers):
        shape = f"{cfg.hidden} units, {ways}{added(cfg, i + 1)}"
        yield f"{cfg.cell} {i + 1}", shape, count_parameters(cfg, bins, 0, f"layers.{i}.")
    if cfg.lookahead_steps:
        yield "lookahead", f"{cfg.lookahead_steps} steps", count_parameters(cfg, bins, 0, "lookahead.")


def output_part(vocabulary_size: int, parameters: int) -> Part:
    """Return the layer that every network ends in."""
    return "output", f"{vocabulary_size} tokens, blank first", parameters


def added(cfg: ModelConfig, number: int) -> str:
    """Describe the residual connection of a layer; layers are numbered from 1."""
    return ", residual" if cfg.residual and number > 1 else ""
