"""Attention of wav2vec 2.0, and that of WavLM, which weights steps by their distance, too.

Axes: b batch, s steps, h units, a attention heads, d units of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config.networks import Wav2Vec2Shape


class Attention(nn.Module):
    """Each step takes from every other step of its utterance what it asks for, in several heads."""

    def __init__(self, shape: Wav2Vec2Shape, dropout: float = 0.0) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads = shape.num_attention_heads
        self.dropout = dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, values_bsh: Tensor, inside_b11s: Tensor | None, distances_1ass: Tensor | None) -> Tensor:
        """Attend. Shapes: (b, s, h), (b, 1, 1, s) bool, (1, a, s, s) -> (b, s, h).

        Args:
            inside_b11s: which steps are the utterance's own; None: all.
            distances_1ass: WavLM's weight of each distance; None elsewhere.
        """
        mask = inside_b11s
        if distances_1ass is not None:
            mask = self.weights(values_bsh, distances_1ass)
            if inside_b11s is not None:
                mask = mask.masked_fill(~inside_b11s, -math.inf)
        queries, keys, values = (self._in_heads(part(values_bsh)) for part in (self.q_proj, self.k_proj, self.v_proj))
        if mask is not None and mask.is_floating_point():
            mask = mask.to(queries.dtype)
        dropout = self.dropout if self.training else 0.0
        seen_basd = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        out_bsh: Tensor = self.out_proj(seen_basd.transpose(1, 2).flatten(2))
        return out_bsh

    def _in_heads(self, values_bsh: Tensor) -> Tensor:
        """Shapes: (b, s, h) -> (b, a, s, d)."""
        batch, steps, width = values_bsh.shape
        return values_bsh.view(batch, steps, self.heads, width // self.heads).transpose(1, 2)

    def weights(self, values_bsh: Tensor, distances_1ass: Tensor) -> Tensor:
        """Weight distances by what a step holds. Shapes: (b, s, h), (1, a, s, s) -> (b, a, s, s)."""
        raise NotImplementedError


class GatedAttention(Attention):
    """Attention with a bias by distance, which each layer weights by what a step holds (WavLM).

    Source: Chen et al. 2022, "WavLM", section III-B.
    """

    def __init__(self, shape: Wav2Vec2Shape, dropout: float = 0.0, *, is_first: bool) -> None:
        super().__init__(shape, dropout)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(shape.hidden_size // self.heads, 8)
        self._buckets, self._most_distant = shape.num_buckets, shape.max_bucket_distance
        if is_first:  # the other layers take what the first one computes
            self.rel_attn_embed = nn.Embedding(shape.num_buckets, self.heads)

    def weights(self, values_bsh: Tensor, distances_1ass: Tensor) -> Tensor:
        gates_basf: Tensor = self.gru_rel_pos_linear(self._in_heads(values_bsh))
        gates_bas2 = gates_basf.view(*gates_basf.shape[:3], 2, 4).sum(-1).sigmoid()
        first_bas1, second_bas1 = gates_bas2.chunk(2, dim=-1)
        weight_bas1: Tensor = first_bas1 * (second_bas1 * self.gru_rel_pos_const - 1.0) + 2.0
        return weight_bas1 * distances_1ass

    def distances(self, steps: int) -> Tensor:
        """Return the weight of each distance for each head; in the first layer. Shapes: () -> (1, a, s, s)."""
        places_s = torch.arange(steps, device=self.rel_attn_embed.weight.device)
        weights_ssa: Tensor = self.rel_attn_embed(self._bucket(places_s[None, :] - places_s[:, None]))
        return weights_ssa.permute(2, 0, 1)[None]

    def _bucket(self, distance_ss: Tensor) -> Tensor:
        """Return which distances share a weight: near ones have their own, far ones ever fewer. (T5's, both ways.)"""
        each_way = self._buckets // 2
        exact = each_way // 2
        size_ss = distance_ss.abs()
        share_ss = torch.log(size_ss.float() / exact) / math.log(self._most_distant / exact)
        far_ss = (exact + share_ss * (each_way - exact)).long().clamp(max=each_way - 1)
        return torch.where(size_ss < exact, size_ss, far_ss) + (distance_ss > 0) * each_way
