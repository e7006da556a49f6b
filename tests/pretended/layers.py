"""Kernels of whole layers, computed on the CPU: recurrent ones of cuDNN, and the CTC loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

import asr.ctc
from tests.pretended.record import RecurrentCall, pretended, where
from tests.pretended.tensors import CudaTensor


def recurrent(cell: str) -> Callable[..., Any]:
    """Return what stands for torch._VF.gru, lstm or rnn_tanh, which ask CUDA's driver before they dispatch."""
    real = getattr(torch._VF, cell)

    def call(x: Tensor, state: Any, weights: Any, *options: Any) -> Any:
        if not isinstance(x, CudaTensor):
            return real(x, state, weights, *options)
        states = list(state) if isinstance(state, tuple) else [state]
        is_one_chunk = _is_one_chunk(weights)
        if torch.is_autocast_enabled("cuda"):
            x, *states = (t.to(torch.float16) for t in (x, *states))
            weights, is_one_chunk = [w.to(torch.float16) for w in weights], False
        if {t.dtype for t in (x, *states, *weights)} != {x.dtype}:
            raise RuntimeError(f"Input and parameter tensors are not the same dtype, at {where()}")
        is_contiguous = all(t.is_contiguous() for t in (x, *states))
        if not all(t.is_contiguous() for t in states):
            raise RuntimeError(f"rnn: hx is not contiguous, at {where()}")
        pretended().recurrent_calls.append(RecurrentCall(cell, x.dtype, is_contiguous, is_one_chunk, where()))
        tensors = [x, *states, *weights]
        pretended().check_streams(tensors, [])
        out = _Recurrence.apply(real, len(states), options, *tensors)
        pretended().track(tensors, out)
        return out

    return call


class _Recurrence(torch.autograd.Function):
    """A recurrent kernel: torch's own of the CPU in float32, from and to the dtype of CUDA's."""

    @staticmethod
    def forward(ctx: Any, kernel: Any, num_states: int, options: Any, *tensors: CudaTensor) -> tuple[Tensor, ...]:
        leaves = [t.held.detach().float().requires_grad_() for t in tensors]
        x, *states = leaves[: 1 + num_states]
        with torch.enable_grad(), _disable_current_modes():
            out = kernel(x, tuple(states) if num_states > 1 else states[0], leaves[1 + num_states :], *options)
        ctx.leaves, ctx.out = leaves, out
        _note_math(tensors[0].dtype)
        return tuple(CudaTensor(o.detach().to(tensors[0].dtype)) for o in out)

    @staticmethod
    def backward(ctx: Any, *grads: CudaTensor) -> tuple[Tensor | None, ...]:
        _note_math(grads[0].dtype)
        with torch.enable_grad(), _disable_current_modes():
            found = torch.autograd.grad(ctx.out, ctx.leaves, [g.held.float() for g in grads], allow_unused=True)
        return None, None, None, *(g if g is None else CudaTensor(g.to(grads[0].dtype)) for g in found)


def _note_math(dtype: torch.dtype) -> None:
    """Note whether torch allows a recurrent kernel tensor cores: it asks for TF32 with every dtype but float16."""
    allowed = dtype == torch.float16 or torch.backends.cudnn.rnn.fp32_precision == "tf32"
    pretended().recurrent_math.add((dtype, allowed))


def _is_one_chunk(weights: Sequence[Tensor]) -> bool:
    """Check that weights lie as cuDNN wants them: from the start of one storage all matrices, then all biases."""
    storage = weights[0].untyped_storage()
    place = 0
    for weight in [*(w for w in weights if w.dim() == 2), *(w for w in weights if w.dim() == 1)]:
        if weight.data_ptr() != storage.data_ptr() + place * weight.element_size() or not weight.is_contiguous():
            return False
        place += weight.numel()
    return place * weights[0].element_size() <= storage.nbytes()


class Ctc(torch.autograd.Function):
    """The CTC loss of a GPU, computed by torch on the CPU: Triton's interpreter takes seconds for a batch."""

    MOST_LABELS = 8191

    @staticmethod
    def forward(ctx: Any, log_probs_bsv: CudaTensor, *lengths_and_targets: Tensor) -> CudaTensor:
        held_bsv = log_probs_bsv.held.detach().requires_grad_()
        with torch.enable_grad(), _disable_current_modes():
            losses_b = asr.ctc.ctc_loss(held_bsv, *lengths_and_targets)
            (ctx.grad_bsv,) = torch.autograd.grad(losses_b.sum(), held_bsv)
        return CudaTensor(losses_b.detach())

    @staticmethod
    def backward(ctx: Any, grad_b: CudaTensor) -> tuple[Tensor | None, ...]:
        return CudaTensor(ctx.grad_bsv * grad_b.held[:, None, None]), None, None, None

    @staticmethod
    def ctc_loss(log_probs_bsv: CudaTensor, *lengths_and_targets: Tensor) -> Tensor:
        devices = [t.device.type for t in (log_probs_bsv, *lengths_and_targets)]
        assert devices == ["cuda", "cpu", "cpu", "cpu"], devices
        losses_b: Tensor = Ctc.apply(log_probs_bsv.float(), *lengths_and_targets)
        return losses_b
