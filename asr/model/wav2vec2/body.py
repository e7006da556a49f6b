"""wav2vec 2.0, HuBERT and WavLM without an output layer: samples to values of steps, exact under padding.

The names of its weights are those of Hugging Face's models behind the name of the family.

Axes: b batch, n samples, s steps, h units.

Source: Baevski et al. 2020, "wav2vec 2.0"; Hsu et al. 2021, "HuBERT"; Chen et al. 2022, "WavLM"; ``transformers``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config.networks import Wav2Vec2Config, Wav2Vec2Shape
from asr.model.conv import step_mask
from asr.model.cpu.dropout import Dropout
from asr.model.recompute import computed_twice
from asr.model.steps import unpadded_steps
from asr.model.trainable import count
from asr.model.wav2vec2.convolutions import SampleConvolutions
from asr.model.wav2vec2.masks import draw_spans
from asr.model.wav2vec2.transformer import Transformer
from asr.runtime import to_device

#: spans of steps that each utterance has masked, at least (fairseq's audio_finetuning; ``mask_time_min_masks``)
_LEAST_SPANS = 2


class Projection(nn.Module):
    """From the vectors of the convolutions to those of the layers."""

    def __init__(self, shape: Wav2Vec2Shape) -> None:
        super().__init__()
        inputs = shape.convs[-1].channels
        self.layer_norm: nn.Module = nn.Identity()
        if shape.feat_proj_layer_norm:
            self.layer_norm = nn.LayerNorm(inputs, shape.layer_norm_eps)
        self.projection = nn.Linear(inputs, shape.hidden_size)

    def forward(self, values_bsh: Tensor) -> Tensor:
        """Shapes: (b, s, h) -> (b, s, h')."""
        out_bsh: Tensor = self.projection(self.layer_norm(values_bsh))
        return out_bsh


class Wav2Vec2Body(nn.Module):
    """Samples to values of steps; what an utterance gets does not depend on its padding.

    In training, spans of steps are replaced by ``masked_spec_embed`` and spans of channels by zeros.
    """

    def __init__(self, shape: Wav2Vec2Shape, cfg: Wav2Vec2Config = Wav2Vec2Config(), dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.cfg = shape, cfg
        self.dropout = Dropout(dropout)
        self.is_checkpointed = False
        self.feature_extractor = SampleConvolutions(shape)
        self.feature_projection = Projection(shape)
        self.masked_spec_embed = nn.Parameter(torch.rand(shape.hidden_size))
        self.encoder = Transformer(shape, cfg, self.dropout)

    @property
    def stride(self) -> int:
        """Samples per step."""
        return math.prod(conv.stride for conv in self.shape.convs)

    @property
    def least_samples(self) -> int:
        """Samples that one step sees."""
        least = 1
        for conv in reversed(self.shape.convs):
            least = (least - 1) * conv.stride + conv.kernel
        return least

    def num_steps(self, num_samples_b: Tensor) -> Tensor:
        """Count the steps of utterances. Shapes: (b,) -> (b,)."""
        return unpadded_steps([(conv.kernel, conv.stride) for conv in self.shape.convs], num_samples_b)

    def forward(self, waves_bn: Tensor, num_samples_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and the number of valid steps; beyond them the values mean nothing.

        Shapes: (b, n), (b,) int64 on the CPU -> (b, s, h), (b,).
        """
        num_steps_b = self.num_steps(num_samples_b)
        waves_bn = self._fitting(waves_bn, num_samples_b)
        # An utterance without any step has one of silence: norm and attention need something to look at, and other
        # processes wait for a gradient of each weight.
        heard_b = num_samples_b.clamp(min=self.least_samples)
        values_bhs = self.feature_extractor(waves_bn, heard_b, self._run)

        values_bsh = self.dropout(self.feature_projection(values_bhs.transpose(1, 2)))
        if self.training:
            values_bsh = self._masked(values_bsh, num_steps_b)
        steps = values_bsh.shape[1]
        inside_bs = None
        if bool((num_steps_b < steps).any()):
            inside_bs = step_mask(num_steps_b.clamp(min=1), steps, values_bsh.device)
            values_bsh = values_bsh.masked_fill(~inside_bs[:, :, None], 0.0)
        return self.encoder(values_bsh, inside_bs, self._run), num_steps_b

    def _fitting(self, waves_bn: Tensor, num_samples_b: Tensor) -> Tensor:
        """Return the samples with zeros as padding, and enough of it for one step. Shapes: (b, n) -> (b, n')."""
        longest = int(num_samples_b.max())
        waves_bn = waves_bn[:, :longest]
        if bool((num_samples_b < longest).any()):
            # Masked by filling, not by a product: padding may hold inf or nan.
            waves_bn = waves_bn.masked_fill(~step_mask(num_samples_b, longest, waves_bn.device), 0.0)
        return F.pad(waves_bn, (0, max(0, self.least_samples - longest)))

    def _masked(self, values_bsh: Tensor, num_steps_b: Tensor) -> Tensor:
        """Replace spans of steps and of channels. Shapes: (b, s, h), (b,) -> (b, s, h)."""
        cfg = self.cfg
        batch, steps, width = values_bsh.shape
        least = _LEAST_SPANS if cfg.mask_time_probability else 0
        steps_bs = draw_spans(num_steps_b, steps, cfg.mask_time_probability, cfg.mask_time_steps, least)
        # Also without any mask, as all processes wait for a gradient of each weight.
        embed_h = self.masked_spec_embed.to(values_bsh.dtype)
        values_bsh = torch.where(to_device(steps_bs, values_bsh.device)[:, :, None], embed_h, values_bsh)
        if cfg.mask_channel_probability:
            widths_b = torch.full((batch,), width)
            channels_bh = draw_spans(widths_b, width, cfg.mask_channel_probability, cfg.mask_channel_width)
            values_bsh = values_bsh.masked_fill(to_device(channels_bh, values_bsh.device)[:, None], 0.0)
        return values_bsh

    def _run(self, layer: nn.Module, *args: Tensor | None) -> Tensor:
        """Call a layer; if it is checkpointed, the backward pass computes its inside again."""
        call: Callable[..., Tensor] = layer
        if self.is_checkpointed and self.training:
            return computed_twice(layer, call, *args, draws=True)
        return call(*args)

    def part_rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (part, shape, parameters) of each part in order, for people."""
        shape = self.shape
        for i, conv in enumerate(shape.convs):
            text = f"{conv.channels} channels, kernel {conv.kernel}, stride {conv.stride}"
            yield f"conv {i + 1}", text, count(self.feature_extractor.conv_layers[i])
        projection = count(self.feature_projection) + self.masked_spec_embed.numel()
        yield "projection", f"{shape.hidden_size} units", projection

        encoder = self.encoder
        position = count(encoder.pos_conv_embed) + count(encoder.layer_norm)
        yield "position", f"convolution of {shape.num_conv_pos_embeddings} steps", position
        text = f"{shape.hidden_size} units, {shape.num_attention_heads} heads, {shape.intermediate_size} inside"
        for i, layer in enumerate(encoder.layers, start=1):
            yield f"transformer {i}", text, count(layer)
