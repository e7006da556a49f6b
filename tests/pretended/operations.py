"""Operations that only CUDA has, computed on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def wide_product(name: str) -> Callable[..., Tensor]:
    """Return mm, bmm, addmm or baddbmm with ``out_dtype``: products of narrow numbers, added up in float32."""
    narrow = getattr(torch, name)

    def product(*args: Any) -> Tensor:
        *tensors, out_dtype = args
        assert out_dtype in (torch.float32, tensors[0].dtype), "CUDA has float32 and the dtype of the arguments"
        wide: Tensor = narrow(*(t.to(out_dtype) for t in tensors))
        return wide

    return product


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return torch._log_softmax(x.float() if half_to_float else x, dim, False)


def _flatten_weights(weights: list[Tensor], *_: Any) -> Tensor:
    """Move the weights of a torch.nn.RNN into one chunk."""
    in_order = [*(w for w in weights if w.dim() == 2), *(w for w in weights if w.dim() == 1)]
    chunk = torch.cat([w.detach().flatten() for w in in_order])
    for weight, part in zip(in_order, chunk.split([w.numel() for w in in_order]), strict=True):
        weight.set_(part.view(weight.shape))
    return chunk


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, *options: Any) -> tuple[Tensor, ...]:
    return *torch.native_batch_norm(x, weight, bias, mean, var, *options), x.new_empty(0, dtype=torch.uint8)


def _batch_norm_backward(x: Tensor, grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *statistics, eps, _ = rest
    out: tuple[Tensor, ...] = torch.ops.aten.native_batch_norm_backward(grad, x, *statistics, True, eps, [True] * 3)
    return out


STAND_INS: dict[str, Callable[..., Any]] = {
    "cudnn_batch_norm": _batch_norm,
    "cudnn_batch_norm_backward": _batch_norm_backward,
    "_log_softmax": _log_softmax,
    "_cudnn_rnn_flatten_weight": _flatten_weights,
}
