"""The layers of wav2vec 2.0: attention and a feed-forward part, with norms behind both or in front of both.

Axes: b batch, s steps, h units, a attention heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config.networks import Wav2Vec2Config, Wav2Vec2Shape
from asr.model.cpu.dropout import Dropout
from asr.model.wav2vec2.attention import Attention, GatedAttention
from asr.model.wav2vec2.convolutions import PositionalConvolution


class Adapter(nn.Module):
    """Change a layer's output for one language (MMS).

    Source: Houlsby et al. 2019; ``transformers``, ``Wav2Vec2AttnAdapterLayer``.
    """

    def __init__(self, size: int, inside: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)  # its eps is not that of the config
        self.linear_1 = nn.Linear(size, inside)
        self.linear_2 = nn.Linear(inside, size)

    def forward(self, values_bsh: Tensor) -> Tensor:
        """Return what is to be added. Shapes: (b, s, h) -> (b, s, h)."""
        change_bsh: Tensor = self.linear_2(self.linear_1(self.norm(values_bsh)).relu())
        return change_bsh


class FeedForward(nn.Module):
    """Two products, with GELU in between."""

    def __init__(self, shape: Wav2Vec2Shape, dropout: float) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.intermediate_dropout = Dropout(dropout)
        self.output_dense = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, values_bsh: Tensor) -> Tensor:
        """Shapes: (b, s, h) -> (b, s, h)."""
        inner = self.intermediate_dropout(F.gelu(self.intermediate_dense(values_bsh)))
        out_bsh: Tensor = self.output_dense(inner)
        return out_bsh


class Layer(nn.Module):
    """A layer of the transformer."""

    def __init__(self, shape: Wav2Vec2Shape, cfg: Wav2Vec2Config, dropout: Dropout, *, is_first: bool) -> None:
        super().__init__()
        self.attention = (
            GatedAttention(shape, cfg.attention_dropout, is_first=is_first)
            if shape.family == "wavlm"
            else Attention(shape, cfg.attention_dropout)
        )
        self.layer_norm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.feed_forward = FeedForward(shape, cfg.activation_dropout)
        self.final_layer_norm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.adapter_layer: Adapter | None = None
        if shape.adapter_attn_dim is not None:
            self.adapter_layer = Adapter(shape.hidden_size, shape.adapter_attn_dim)
        self.norms_first = shape.do_stable_layer_norm
        self.dropout = dropout

    def forward(self, values_bsh: Tensor, inside_b11s: Tensor | None, distances_1ass: Tensor | None) -> Tensor:
        """Shapes: (b, s, h), (b, 1, 1, s) bool, (1, a, s, s) -> (b, s, h)."""
        seen_bsh = self.layer_norm(values_bsh) if self.norms_first else values_bsh
        values_bsh = values_bsh + self.dropout(self.attention(seen_bsh, inside_b11s, distances_1ass))
        if self.norms_first:
            values_bsh = values_bsh + self.dropout(self.feed_forward(self.final_layer_norm(values_bsh)))
        else:
            values_bsh = self.layer_norm(values_bsh)
            values_bsh = self.final_layer_norm(values_bsh + self.dropout(self.feed_forward(values_bsh)))
        if self.adapter_layer is not None:
            values_bsh = values_bsh + self.adapter_layer(values_bsh)
        return values_bsh


class Transformer(nn.Module):
    """A positional convolution, layers, and a norm in front of them or behind them."""

    def __init__(self, shape: Wav2Vec2Shape, cfg: Wav2Vec2Config, dropout: Dropout) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConvolution(shape)
        self.layer_norm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.dropout = dropout
        self.layers = nn.ModuleList(Layer(shape, cfg, dropout, is_first=i == 0) for i in range(shape.num_hidden_layers))
        self.norms_first = shape.do_stable_layer_norm
        self.layer_drop = cfg.layer_drop

    def forward(self, values_bsh: Tensor, inside_bs: Tensor | None, run: Callable[..., Tensor]) -> Tensor:
        """Run the layers. Shapes: (b, s, h), (b, s) bool -> (b, s, h).

        Args:
            inside_bs: which steps are the utterance's own, where values of others are zero; None: all.
            run: calls a layer with the arguments that follow it.
        """
        values_bsh = values_bsh + self.pos_conv_embed(values_bsh)
        if not self.norms_first:
            values_bsh = self.layer_norm(values_bsh)
        values_bsh = self.dropout(values_bsh)

        inside_b11s = None if inside_bs is None else inside_bs[:, None, None]
        first = self.layers[0].attention
        distances_1ass = first.distances(values_bsh.shape[1]) if isinstance(first, GatedAttention) else None
        for layer in self.layers:
            if self.training and self.layer_drop and torch.rand(()) < self.layer_drop:
                values_bsh = values_bsh + _nothing_of(layer)
            else:
                values_bsh = run(layer, values_bsh, inside_b11s, distances_1ass)
        return self.layer_norm(values_bsh) if self.norms_first else values_bsh


def _nothing_of(layer: nn.Module) -> Tensor | float:
    """Return a zero that depends on each weight of a layer: all processes wait for a gradient of each."""
    return sum((0.0 * weight.flatten()[0] for weight in layer.parameters() if weight.requires_grad), 0.0)
