"""wav2vec 2.0 and its kin in use on a CPU that multiplies bfloat16: the same answers but for rounding, twice as fast.

Products take bfloat16 and sum in float32; norms, softmax, positions and what runs through from layer to layer are
float32. Values lie channels last, so that convolutions are products of rows. Every utterance goes through alone.

Axes: n samples, s steps (of any convolution), c channels, k samples of a window, h units, a attention heads, d units of
a head, v tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from asr.model.contract import AnyNetwork, Floats, NetworkForUse
from asr.model.wav2vec2.attention import Attention, GatedAttention
from asr.model.wav2vec2.body import Wav2Vec2Body
from asr.model.wav2vec2.convolutions import PositionalConvolution, TimeNorm

_HALF = torch.bfloat16
#: steps of the first convolution at a time: 2 MiB of float32 for 512 channels, which stay in the processor's cache
_STEPS = 1024


class _WithBody(AnyNetwork, Protocol):
    """A network that is a body and what makes log-probabilities of its values."""

    body: Wav2Vec2Body
    vocabulary_size: int

    def answers(self, values_bsh: Tensor) -> Tensor: ...


class FastNetwork(NetworkForUse):
    """A network for use only (``asr.model.contract``); it does not follow the original's weights later on."""

    source: _WithBody
    precision = "bf16"

    def __init__(self, network: _WithBody) -> None:
        self.source = network.eval()
        self.cfg = network.cfg
        self.vocabulary_size = network.vocabulary_size
        body = network.body
        encoder = body.encoder
        first: Any
        first, *others = body.feature_extractor.conv_layers
        with torch.no_grad():
            self._first = _GroupNormed(first) if isinstance(first.layer_norm, TimeNorm) else _LayerNormed(first)
            self._convs = [_Conv(layer) for layer in others]
            self._projection = _Linear(body.feature_projection.projection)
            self._position = _Position(encoder.pos_conv_embed)
            self._layers = [_Layer(layer) for layer in encoder.layers]
        self._projection_norm = body.feature_projection.layer_norm
        self._norm, self._norms_first = encoder.layer_norm, encoder.norms_first
        attention = encoder.layers[0].attention
        self._distances = attention.distances if isinstance(attention, GatedAttention) else None

    @torch.inference_mode()
    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute the log-probabilities of utterances. Shapes: b times (n, 1) -> b times (s, v)."""
        return [self._one(torch.from_numpy(features_nf)[:, 0].contiguous()).numpy() for features_nf in features]

    def _one(self, wave_n: Tensor) -> Tensor:
        """Compute the log-probabilities of an utterance. Shapes: (n,) -> (s, v)."""
        steps = int(self.source.body.num_steps(torch.tensor([len(wave_n)])))
        if not steps:
            return wave_n.new_zeros(0, self.vocabulary_size)
        values_sc = self._first(wave_n)
        for conv in self._convs:
            values_sc = conv(values_sc)

        values_sh = self._projection(self._projection_norm(values_sc.float())).float()
        values_sh = values_sh + self._position(values_sh)
        if not self._norms_first:
            values_sh = self._norm(values_sh)
        distances_1ass = self._distances(steps) if self._distances else None
        for layer in self._layers:
            values_sh = layer(values_sh, distances_1ass)
        if self._norms_first:
            values_sh = self._norm(values_sh)
        return self.source.answers(values_sh[None])[0]


class _Linear:
    """One product, or several of the same input at once."""

    def __init__(self, *parts: Any) -> None:
        self.weight = torch.cat([part.weight for part in parts]).to(_HALF)
        self.bias = torch.cat([part.bias for part in parts]).to(_HALF)

    def __call__(self, values_sh: Tensor) -> Tensor:
        return functional.linear(values_sh.to(_HALF), self.weight, self.bias)


def _windows(wave_n: Tensor, conv: Any) -> Tensor:
    """Return the samples that each step of the first convolution sees. Shapes: (n,) -> (s, k)."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    return wave_n.unfold(0, kernel, stride)


class _GroupNormed:
    """The first convolution with a norm over time, which is folded into its weights for each utterance.

    Mean and variance of a channel over all steps follow from those of the samples in the windows, of which there are
    ten: the norm needs no pass over the outputs.
    """

    def __init__(self, layer: Any) -> None:
        self._conv, self._norm = layer.conv, layer.layer_norm
        self._weight_ck = layer.conv.weight[:, 0]

    def __call__(self, wave_n: Tensor) -> Tensor:
        windows_sk = _windows(wave_n, self._conv)
        mean_k = windows_sk.double().mean(0)
        centred_sk = windows_sk - mean_k
        covariance_kk = centred_sk.T @ centred_sk / len(windows_sk)
        weight_ck = self._weight_ck.double()
        variance_c = ((weight_ck @ covariance_kk) * weight_ck).sum(1).clamp(min=0)
        scale_c = self._norm.weight / (variance_c + self._norm.eps).sqrt()
        # A bias of the convolution is in the mean as well, and goes.
        bias_c = self._norm.bias - scale_c * (weight_ck @ mean_k)
        weight_ck = scale_c[:, None] * weight_ck
        return _in_parts(windows_sk, lambda part_sk: functional.linear(part_sk, weight_ck.float(), bias_c.float()))


class _LayerNormed:
    """The first convolution with a norm over channels."""

    def __init__(self, layer: Any) -> None:
        self._conv, self._norm = layer.conv, layer.layer_norm
        self._weight_ck = layer.conv.weight[:, 0].contiguous()

    def __call__(self, wave_n: Tensor) -> Tensor:
        def convolved(part_sk: Tensor) -> Tensor:
            values_sc = functional.linear(part_sk, self._weight_ck, self._conv.bias)
            return functional.layer_norm(
                values_sc, values_sc.shape[1:], self._norm.weight, self._norm.bias, self._norm.eps
            )

        return _in_parts(_windows(wave_n, self._conv), convolved)


def _in_parts(windows_sk: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply work and GELU to some steps at a time, which stay in the processor's cache. Shapes: (s, k) -> (s, c)."""
    parts = [functional.gelu(work(part_sk).to(_HALF)) for part_sk in torch.split(windows_sk, _STEPS)]
    return torch.cat(parts)


class _Conv:
    """One of the other convolutions, with or without a norm over channels."""

    def __init__(self, layer: Any) -> None:
        self._weight = layer.conv.weight[:, :, None].to(_HALF).contiguous(memory_format=torch.channels_last)
        self._bias = None if layer.conv.bias is None else layer.conv.bias.to(_HALF)
        self._stride = (1, layer.conv.stride[0])
        self._norm = layer.layer_norm

    def __call__(self, values_sc: Tensor) -> Tensor:
        image = values_sc.T[None, :, None]
        values_sc = functional.conv2d(image, self._weight, self._bias, self._stride)[0, :, 0].T
        if self._norm is not None:
            norm = self._norm
            values_sc = functional.layer_norm(values_sc, values_sc.shape[1:], norm.weight, norm.bias, norm.eps)
        return functional.gelu(values_sc)


class _Position:
    """The convolution that tells the layers where a step is."""

    def __init__(self, position: PositionalConvolution) -> None:
        conv = position.conv
        self._weight = conv.weight[:, :, None].to(_HALF).contiguous(memory_format=torch.channels_last)
        self._bias = conv.bias.to(_HALF)
        self._padding, self._groups = (0, conv.padding[0]), conv.groups

    def __call__(self, values_sh: Tensor) -> Tensor:
        image = values_sh.to(_HALF).T[None, :, None]
        made = functional.conv2d(image, self._weight, self._bias, padding=self._padding, groups=self._groups)
        # With an even kernel there is a step too many.
        return functional.gelu(made[0, :, 0, : len(values_sh)].T)


class _Layer:
    """A layer of the transformer: attention and a feed-forward part, with norms in front of both or behind both."""

    def __init__(self, layer: Any) -> None:
        self._attention = _Attention(layer.attention)
        self._inner = _Linear(layer.feed_forward.intermediate_dense)
        self._outer = _Linear(layer.feed_forward.output_dense)
        self._norms_first = layer.norms_first
        self._norm, self._final_norm = layer.layer_norm, layer.final_layer_norm
        self._adapter = layer.adapter_layer

    def __call__(self, values_sh: Tensor, distances_1ass: Tensor | None) -> Tensor:
        seen_sh = self._norm(values_sh) if self._norms_first else values_sh
        values_sh = values_sh + self._attention(seen_sh, distances_1ass)
        if self._norms_first:
            values_sh = values_sh + self._fed_forward(self._final_norm(values_sh))
        else:
            values_sh = self._norm(values_sh)
            values_sh = self._final_norm(values_sh + self._fed_forward(values_sh))
        if self._adapter is not None:
            values_sh = values_sh + self._adapter(values_sh)
        return values_sh

    def _fed_forward(self, values_sh: Tensor) -> Tensor:
        return self._outer(functional.gelu(self._inner(values_sh)))


class _Attention:
    """Queries, keys and values are one product; scores and softmax are float32."""

    def __init__(self, attention: Attention) -> None:
        self._together = _Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = _Linear(attention.out_proj)
        self._exact = attention

    def __call__(self, values_sh: Tensor, distances_1ass: Tensor | None) -> Tensor:
        steps = len(values_sh)
        three = self._together(values_sh).float().view(steps, 3, self._exact.heads, -1)
        queries, keys, values = three.permute(1, 2, 0, 3)[:, None]
        mask = None if distances_1ass is None else self._exact.weights(values_sh[None], distances_1ass)
        seen_asd = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)[0]
        return self._out(seen_asd.transpose(0, 1).reshape(steps, -1))
