"""The Deep Speech 2 network, each of the paper's choices a config field.

Axes: b batch, t frames, s steps, f bins, h units, v vocabulary.

Source: Amodei et al. 2015, "Deep Speech 2: End-to-End Speech Recognition in English and Mandarin", section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from asr.config import ModelConfig
from asr.model.conv import ConvFrontEnd, step_mask
from asr.model.dropout import Dropout
from asr.model.recurrent import Lookahead, RecurrentLayer, reversal


class DeepSpeech2(nn.Module):
    """Features to log-probabilities over the vocabulary, blank first; padding never changes a result."""

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        super().__init__()
        self.cfg, self.bins, self.vocabulary_size = cfg, bins, vocabulary_size
        self.front_end = ConvFrontEnd(cfg.conv, bins, cfg.relu_clip, cfg.norm)
        size = self.front_end.output_size
        self.layers = nn.ModuleList()
        for _ in range(cfg.layers):
            layer = RecurrentLayer(
                cfg.cell, size, cfg.hidden, bidirectional=cfg.bidirectional, merge=cfg.merge, norm=cfg.norm
            )
            self.layers.append(layer)
            size = layer.output_size
        self.lookahead = Lookahead(size, cfg.lookahead_steps) if cfg.lookahead_steps else None
        self.dropout = Dropout(cfg.dropout)
        self.output = nn.Linear(size, vocabulary_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def stride(self) -> int:
        """Frames a step."""
        return math.prod(layer.stride_tf[0] for layer in self.cfg.conv)

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Output steps of utterances, by the formula that ``forward`` itself uses. Shapes: (b,) -> (b,)."""
        return self.front_end.num_steps(num_frames_b)

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
        x_bsh, num_steps_b = self.front_end(features_btf, num_frames_b)
        mask_bs = step_mask(num_steps_b, x_bsh.shape[1])
        reversal_bs = reversal(num_steps_b, x_bsh.shape[1])
        for layer in self.layers:
            x_bsh = layer(self.dropout(x_bsh), mask_bs, reversal_bs)
        if self.lookahead is not None:
            x_bsh = self.lookahead(x_bsh)
        logits_bsv = self.output(self.dropout(x_bsh))
        return logits_bsv.float().log_softmax(-1), num_steps_b


def describe(network: DeepSpeech2) -> list[tuple[str, str, int]]:
    """(part, shape, parameters) for each part of the network, in order, for people."""
    cfg = network.cfg
    rows = []
    for i, (layer, conv, norm) in enumerate(
        zip(cfg.conv, network.front_end.convs, network.front_end.norms, strict=True), start=1
    ):
        (kt, kf), (st, sf) = layer.kernel_tf, layer.stride_tf
        shape = f"{layer.channels} channels, kernel {kt} x {kf} (time x bins), stride {st} x {sf}"
        rows.append((f"conv {i}", shape, _count(conv) + _count(norm)))
    ways = ("bidirectional, " + cfg.merge) if cfg.bidirectional else "one direction"
    for i, recurrent in enumerate(network.layers, start=1):
        rows.append((f"{cfg.cell} {i}", f"{cfg.hidden} units, {ways}", _count(recurrent)))
    if network.lookahead is not None:
        rows.append(("lookahead", f"{cfg.lookahead_steps} steps", _count(network.lookahead)))
    rows.append(("output", f"{network.vocabulary_size} tokens, blank first", _count(network.output)))
    return rows


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
