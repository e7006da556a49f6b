"""Networks: a convolutional front-end, an encoder, one linear output; here what all share, and Deep Speech 2.

Axes: b batch, t frames, s steps, f bins, i inputs, h units, v vocabulary.

Source: Amodei et al. 2015, "Deep Speech 2: End-to-End Speech Recognition in English and Mandarin", section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from asr.config import ModelConfig
from asr.model.conv import ConvFrontEnd, step_mask
from asr.model.cpu.dropout import Dropout
from asr.model.padded import PaddedNetwork
from asr.model.recurrent import Lookahead, RecurrentLayer, reversal
from asr.runtime import to_device


class Network(PaddedNetwork):
    """Features to log-probabilities over the vocabulary, blank first; padding never changes a result.

    A kind of network makes its layers in ``add_layers`` and runs them in ``encode``.
    """

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.bins = bins
        self.vocabulary_size = vocabulary_size
        self.front_end = ConvFrontEnd(cfg.conv, bins, cfg.relu_clip, cfg.norm)
        size = self.add_layers(self.front_end.output_size)
        self.dropout = Dropout(cfg.dropout)
        self.output = nn.Linear(size, vocabulary_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def add_layers(self, inputs: int) -> int:
        """Build the encoder for this many inputs per step; return its output size."""
        raise NotImplementedError

    def encode(self, x_bsi: Tensor, num_steps_b: Tensor) -> tuple[Tensor, Tensor]:
        """Run the encoder on the front-end's output. Shapes: (b, s, i), (b,) -> (b, s', h), (b,).

        The lengths are on the CPU.
        """
        raise NotImplementedError

    def layer_rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (part, shape, parameters) of each layer of the encoder, for ``describe``."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Frames per step."""
        return math.prod(self.cfg.time_strides)

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Count the output steps of utterances, exactly as many as ``forward`` gives. Shapes: (b,) -> (b,)."""
        return steps_after(self.cfg.time_strides, num_frames_b)

    def set_dropout(self, p: float) -> None:
        """Set the share of values that is dropped from now on, in training."""
        self.dropout.p = p

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

        x_bsi, num_steps_b = features_btf, num_frames_b
        if self.cfg.conv:
            x_bsi, num_steps_b = self.front_end(features_btf, num_frames_b)
        x_bsh, num_steps_b = self.encode(x_bsi, num_steps_b)
        logits_bsv = self.output(self.dropout(x_bsh))
        return logits_bsv.float().log_softmax(-1), num_steps_b


class DeepSpeech2(Network):
    """The paper's network, each of its choices a config field: recurrent layers, and a lookahead in one direction."""

    def add_layers(self, inputs: int) -> int:
        cfg = self.cfg
        assert cfg.encoder == "recurrent", "asr.model.build.build_network makes the network that a config asks for"
        self.layers = nn.ModuleList()
        for _ in range(cfg.layers):
            layer = RecurrentLayer(
                cfg.cell, inputs, cfg.hidden, bidirectional=cfg.bidirectional, merge=cfg.merge, norm=cfg.norm
            )
            self.layers.append(layer)
            inputs = layer.output_size
        self.lookahead = Lookahead(inputs, cfg.lookahead_steps) if cfg.lookahead_steps else None
        return inputs

    def encode(self, x_bsi: Tensor, num_steps_b: Tensor) -> tuple[Tensor, Tensor]:
        num_on_device_b = to_device(num_steps_b, x_bsi.device)
        mask_bs = step_mask(num_on_device_b, x_bsi.shape[1])
        reversal_bs = reversal(num_on_device_b, x_bsi.shape[1])
        for i, layer in enumerate(self.layers):
            out_bsh = layer(self.dropout(x_bsi), mask_bs, reversal_bs)
            # From the second layer on input and output have one size. What is added is the input without dropout.
            x_bsi = x_bsi + out_bsh if self.cfg.residual and i else out_bsh
        if self.lookahead is not None:
            x_bsi = self.lookahead(x_bsi)
        return x_bsi, num_steps_b

    def layer_rows(self) -> Iterator[tuple[str, str, int]]:
        cfg = self.cfg
        ways = f"bidirectional, {cfg.merge}" if cfg.bidirectional else "one direction"
        for i, layer in enumerate(self.layers, start=1):
            yield f"{cfg.cell} {i}", f"{cfg.hidden} units, {ways}{added(cfg, i)}", count(layer)
        if self.lookahead is not None:
            yield "lookahead", f"{cfg.lookahead_steps} steps", count(self.lookahead)


def describe(network: Network) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of each part of the network, in order, for people."""
    rows = []
    front_end = network.front_end
    for i, layer in enumerate(network.cfg.conv):
        kernel_t, kernel_f = layer.kernel_tf
        stride_t, stride_f = layer.stride_tf
        kernel = f"kernel {kernel_t} x {kernel_f} (time x bins), stride {stride_t} x {stride_f}"
        parameters = count(front_end.convs[i]) + count(front_end.norms[i])
        rows.append((f"conv {i + 1}", f"{layer.channels} channels, {kernel}", parameters))
    rows.extend(network.layer_rows())
    rows.append(("output", f"{network.vocabulary_size} tokens, blank first", count(network.output)))
    return rows


def steps_after(time_strides: tuple[int, ...], num_frames_b: Tensor) -> Tensor:
    """Count the output steps of "same"-padded layers with these strides, each giving ceil(length / stride).

    Shapes: (b,) -> (b,).
    """
    for stride in time_strides:
        num_frames_b = (num_frames_b + stride - 1) // stride
    return num_frames_b


def added(cfg: ModelConfig, number: int) -> str:
    """Describe the residual connection of a layer; layers are numbered from 1."""
    return ", residual" if cfg.residual and number > 1 else ""


def count(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(p.numel() for p in module.parameters())
