"""A Conformer of one utterance, as its papers write it: no batch, no padding, no fused products.

Gulati et al. 2020, "Conformer", section 2; Dai et al. 2019, "Transformer-XL", section 3.3, where R is a code of the
distance i - j; Rekesh et al. 2023, "Fast Conformer", section 3.1; Dong et al. 2018, "Speech-Transformer". Weights come
by name, as Hugging Face's Parakeet names them. In use: the batch norm takes its running statistics.

Axes: t frames, f bins, s steps, h units, d units of a head, v vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def log_probs(weights: Weights, features_tf: Tensor, heads: int, norm: str = "batch", scale: bool = True) -> Tensor:
    """Shapes: (t, f) -> (s, v)."""
    subsampling = part(weights, "encoder.subsampling")
    x = features_tf[None, None]
    x = F.conv2d(x, subsampling["layers.0.weight"], subsampling["layers.0.bias"], stride=2, padding=1).relu()
    place = 2
    while f"layers.{place}.weight" in subsampling:
        one, two = part(subsampling, f"layers.{place}"), part(subsampling, f"layers.{place + 1}")
        if two:  # of each channel, then over channels
            x = F.conv2d(x, one["weight"], one["bias"], stride=2, padding=1, groups=x.shape[1])
            x = F.conv2d(x, two["weight"], two["bias"])
        else:
            x = F.conv2d(x, one["weight"], one["bias"], stride=2, padding=1)
        x = x.relu()
        place += 3 if two else 2
    x_sh = linear(part(subsampling, "linear"), x[0].permute(1, 0, 2).flatten(1))
    if scale:
        x_sh = x_sh * math.sqrt(x_sh.shape[1])

    number = 0
    while any(name.startswith(f"encoder.layers.{number}.") for name in weights):
        x_sh = layer(part(weights, f"encoder.layers.{number}"), x_sh, heads, norm)
        number += 1
    return linear(part(weights, "output"), x_sh).log_softmax(-1)


def layer(w: Weights, x_sh: Tensor, heads: int, norm: str = "batch") -> Tensor:
    """Shapes: (s, h) -> (s, h)."""
    x_sh = x_sh + feed_forward(part(w, "feed_forward1"), normed(part(w, "norm_feed_forward1"), x_sh)) / 2
    x_sh = x_sh + attention(part(w, "self_attn"), normed(part(w, "norm_self_att"), x_sh), heads)
    x_sh = x_sh + convolution(part(w, "conv"), normed(part(w, "norm_conv"), x_sh), norm)
    x_sh = x_sh + feed_forward(part(w, "feed_forward2"), normed(part(w, "norm_feed_forward2"), x_sh)) / 2
    return normed(part(w, "norm_out"), x_sh)


def feed_forward(w: Weights, x_sh: Tensor) -> Tensor:
    inner = linear(part(w, "linear1"), x_sh)
    return linear(part(w, "linear2"), inner * inner.sigmoid())


def attention(w: Weights, x_sh: Tensor, heads: int) -> Tensor:
    steps, hidden = x_sh.shape
    size = hidden // heads
    q, k, v = (linear(part(w, name), x_sh).view(steps, heads, size) for name in ("q_proj", "k_proj", "v_proj"))
    seen = []
    for head in range(heads):
        rows = []
        for i in range(steps):
            codes = torch.stack([code(i - j, hidden).to(x_sh.dtype) for j in range(steps)])
            r = linear(part(w, "relative_k_proj"), codes).view(steps, heads, size)[:, head]
            content = k[:, head] @ (q[i, head] + w["bias_u"][head])
            distance = r @ (q[i, head] + w["bias_v"][head])
            rows.append(((content + distance) / math.sqrt(size)).softmax(0) @ v[:, head])
        seen.append(torch.stack(rows))
    return linear(part(w, "o_proj"), torch.cat(seen, dim=1))


def code(distance: int, hidden: int) -> Tensor:
    """Sines and cosines in turn, from fast to slow. Shapes: -> (h,)."""
    angles = [distance / 10000 ** (2 * (i // 2) / hidden) for i in range(hidden)]
    return torch.tensor([math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(angles)], dtype=torch.float64)


def convolution(w: Weights, x_sh: Tensor, norm: str) -> Tensor:
    value, gate = F.conv1d(x_sh.T, w["pointwise_conv1.weight"], w.get("pointwise_conv1.bias")).chunk(2)
    x_hs = value * gate.sigmoid()
    taps = w["depthwise_conv.weight"]
    x_hs = F.conv1d(x_hs, taps, w.get("depthwise_conv.bias"), padding=taps.shape[2] // 2, groups=len(taps))
    if norm == "batch":
        x_hs = (x_hs - w["norm.running_mean"][:, None]) / (w["norm.running_var"][:, None] + 1e-5).sqrt()
        x_hs = x_hs * w["norm.weight"][:, None] + w["norm.bias"][:, None]
    else:
        x_hs = normed(part(w, "norm"), x_hs.T).T
    return F.conv1d(x_hs * x_hs.sigmoid(), w["pointwise_conv2.weight"], w.get("pointwise_conv2.bias")).T


def normed(w: Weights, x_sh: Tensor) -> Tensor:
    mean = x_sh.mean(1, keepdim=True)
    var = ((x_sh - mean) ** 2).mean(1, keepdim=True)
    return (x_sh - mean) / (var + 1e-5).sqrt() * w["weight"] + w["bias"]


def linear(w: Weights, x: Tensor) -> Tensor:
    return F.linear(x, w["weight"], w.get("bias"))


def part(weights: Weights, name: str) -> Weights:
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
