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
from asr.model.recurrent import Lookahead, RecurrentLayer, reversal


class Network(nn.Module):
    """Features to log-probabilities over the vocabulary, blank first; padding never changes a result.

    A kind of network makes its layers in ``add_layers`` and runs them in ``encode``.
    """

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        super().__init__()
        self.cfg, self.bins, self.vocabulary_size = cfg, bins, vocabulary_size
        self.front_end = ConvFrontEnd(cfg.conv, bins, cfg.relu_clip, cfg.norm)
        size = self.add_layers(self.front_end.output_size)
        self.dropout = Dropout(cfg.dropout)
        self.output = nn.Linear(size, vocabulary_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def add_layers(self, inputs: int) -> int:
        """Makes the encoder's layers for so many inputs a step; values a step that it gives."""
        raise NotImplementedError

    def encode(self, x_bsi: Tensor, num_steps_b: Tensor) -> tuple[Tensor, Tensor]:
        """The front-end's output through the encoder. Shapes: (b, s, i), (b,) -> (b, s', h), (b,)."""
        raise NotImplementedError

    def layer_rows(self) -> Iterator[tuple[str, str, int]]:
        """What ``describe`` says of the encoder's layers."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Frames a step."""
        return math.prod(self.cfg.time_strides)

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Output steps of utterances, exactly as many as ``forward`` gives. Shapes: (b,) -> (b,)."""
        return steps_after(self.cfg.time_strides, num_frames_b)

    def set_dropout(self, p: float) -> None:
        """Drops this share of the values from now on, in training."""
        self.dropout.p = p

    def forward(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and the number of valid steps; beyond them the values mean nothing.

        Shapes: (b, t, f), (b,) int64 -> (b, s, v) float32, (b,) int64.

        Raises:
            ValueError: the features have another number of bins than the model was built for.
        """
        if features_btf.shape[2] != self.bins:
            raise ValueError(f"features_btf has {features_btf.shape[2]} bins, the model was built for {self.bins}")
        if not features_btf.shape[1]:  # torch has no convolution of nothing
            return features_btf.new_zeros(len(features_btf), 0, self.vocabulary_size), torch.zeros_like(num_frames_b)
        x_bsh, num_steps_b = features_btf, num_frames_b
        if self.cfg.conv:
            x_bsh, num_steps_b = self.front_end(features_btf, num_frames_b)
        x_bsh, num_steps_b = self.encode(x_bsh, num_steps_b)
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
        mask_bs = step_mask(num_steps_b, x_bsi.shape[1])
        reversal_bs = reversal(num_steps_b, x_bsi.shape[1])
        for i, layer in enumerate(self.layers):
            out_bsh = layer(self.dropout(x_bsi), mask_bs, reversal_bs)
            # From the second layer on inputs and outputs have one size. Dropout is on the layer's way only.
            x_bsi = x_bsi + out_bsh if self.cfg.residual and i else out_bsh
        if self.lookahead is not None:
            x_bsi = self.lookahead(x_bsi)
        return x_bsi, num_steps_b

    def layer_rows(self) -> Iterator[tuple[str, str, int]]:
        cfg = self.cfg
        ways = ("bidirectional, " + cfg.merge) if cfg.bidirectional else "one direction"
        for i, layer in enumerate(self.layers, start=1):
            yield f"{cfg.cell} {i}", f"{cfg.hidden} units, {ways}{added(cfg, i)}", count(layer)
        if self.lookahead is not None:
            yield "lookahead", f"{cfg.lookahead_steps} steps", count(self.lookahead)


def describe(network: Network) -> list[tuple[str, str, int]]:
    """(part, shape, parameters) for each part of the network, in order, for people."""
    rows = []
    for i, (layer, conv, norm) in enumerate(
        zip(network.cfg.conv, network.front_end.convs, network.front_end.norms, strict=True), start=1
    ):
        (kt, kf), (st, sf) = layer.kernel_tf, layer.stride_tf
        shape = f"{layer.channels} channels, kernel {kt} x {kf} (time x bins), stride {st} x {sf}"
        rows.append((f"conv {i}", shape, count(conv) + count(norm)))
    rows.extend(network.layer_rows())
    rows.append(("output", f"{network.vocabulary_size} tokens, blank first", count(network.output)))
    return rows


def steps_after(time_strides: tuple[int, ...], num_frames_b: Tensor) -> Tensor:
    """Output steps of utterances: "same"-padded layers with these strides, each giving ceil(length / stride).

    Shapes: (b,) -> (b,).
    """
    for stride in time_strides:
        num_frames_b = (num_frames_b + stride - 1) // stride
    return num_frames_b


def added(cfg: ModelConfig, number: int) -> str:
    """What a layer's description says of its residual connection; layers are numbered from 1."""
    return ", residual" if cfg.residual and number > 1 else ""


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())
