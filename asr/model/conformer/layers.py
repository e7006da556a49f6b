"""A Conformer's layer: half a feed-forward part, attention, convolution, the other half, each added to its input.

Axes: r rows (valid steps of a batch), h units, p distances, b batch, s steps, i inputs, o outputs.

Source: Gulati et al. 2020, "Conformer: convolution-augmented transformer for speech recognition", section 2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from asr.config import ConformerConfig
from asr.model.conformer.attention import RelativeAttention
from asr.model.conformer.rows import Rows
from asr.model.cpu.by_channel import convolve_by_channel
from asr.model.cpu.dropout import Dropout
from asr.model.norm import RowNorm


class FeedForward(nn.Module):
    """Two products with a smooth switch in between."""

    def __init__(self, hidden: int, inner: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(hidden, inner, bias=bias)
        self.linear2 = nn.Linear(inner, hidden, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x_rh: Tensor) -> Tensor:
        """Compute each row. Shapes: (r, h) -> (r, h)."""
        out_rh: Tensor = self.linear2(self.dropout(F.silu(self.linear1(x_rh))))
        return out_rh


class Pointwise(nn.Conv1d):
    """A linear layer of rows, stored as a convolution of one tap, as published models have it."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x_ri: Tensor) -> Tensor:
        """Compute each row. Shapes: (r, i) -> (r, o)."""
        return F.linear(x_ri, self.weight.flatten(1), self.bias)


class Convolution(nn.Module):
    """A gate, a convolution of each channel alone over its neighbours in time, a norm, and a product."""

    def __init__(self, hidden: int, kernel: int, norm: str, bias: bool) -> None:
        super().__init__()
        self.pointwise_conv1 = Pointwise(hidden, 2 * hidden, bias)
        self.depthwise_conv = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=bias)
        self.norm = RowNorm(hidden) if norm == "batch" else nn.LayerNorm(hidden)
        self.pointwise_conv2 = Pointwise(hidden, hidden, bias)

    def forward(self, x_rh: Tensor, rows: Rows) -> Tensor:
        """Compute each row from those of its utterance. Shapes: (r, h) -> (r, h)."""
        x_rh = F.glu(self.pointwise_conv1(x_rh), dim=-1)
        x_bs1h = convolve_by_channel(self.depthwise_conv, rows.padded(x_rh)[:, :, None])
        x_rh = rows.taken(x_bs1h[:, :, 0])
        out_rh: Tensor = self.pointwise_conv2(F.silu(self.norm(x_rh)))
        return out_rh


class ConformerLayer(nn.Module):
    """One layer, on rows; only attention and the convolution see a padded batch."""

    def __init__(self, cfg: ConformerConfig, hidden: int, dropout: float) -> None:
        super().__init__()
        inner = cfg.feed_forward * hidden
        self.feed_forward1 = FeedForward(hidden, inner, dropout, cfg.bias)
        self.self_attn = RelativeAttention(hidden, cfg.heads, dropout, cfg.bias)
        self.conv = Convolution(hidden, cfg.kernel, cfg.norm, cfg.bias)
        self.feed_forward2 = FeedForward(hidden, inner, dropout, cfg.bias)
        self.norm_feed_forward1 = nn.LayerNorm(hidden)
        self.norm_self_att = nn.LayerNorm(hidden)
        self.norm_conv = nn.LayerNorm(hidden)
        self.norm_feed_forward2 = nn.LayerNorm(hidden)
        self.norm_out = nn.LayerNorm(hidden)
        self.dropout = Dropout(dropout)

    def forward(self, x_rh: Tensor, positions_ph: Tensor, rows: Rows) -> Tensor:
        """Compute each row from those of its utterance. Shapes: (r, h), (p, h) -> (r, h)."""
        x_rh = x_rh + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(x_rh)))

        outside_bs = ~rows.inside_bs if rows.is_padded else None
        seen_bsh = self.self_attn(rows.padded(self.norm_self_att(x_rh)), positions_ph, outside_bs)
        x_rh = x_rh + self.dropout(self.self_attn.o_proj(rows.taken(seen_bsh)))

        x_rh = x_rh + self.dropout(self.conv(self.norm_conv(x_rh), rows))
        x_rh = x_rh + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(x_rh)))
        out_rh: Tensor = self.norm_out(x_rh)
        return out_rh
