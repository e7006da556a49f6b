"""Sequence-wise batch norm of a recurrent layer's input: statistics over the valid steps of the whole batch.

Axes: b batch, s steps, i inputs, g gates.

Source: Laurent et al. 2015, "Batch normalized recurrent neural networks", equation 8; Deep Speech 2, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: share of the newest batch in the running statistics
MOMENTUM = 0.1
EPS = 1e-5
#: adds up a vector over the processes of a run, gradient included: ``reduce`` of the norms of a network that several
#: processes train, so that the statistics are those of the whole batch (``asr.training.distributed.synchronise``)
Reduce = Callable[[Tensor], Tensor]


class InputNorm(nn.Module):
    """Norm of the input projection, BN(W x), as a scale and a shift of each gate.

    BN(W x) = scale W x + shift, and scale goes into the rows of W: the recurrent layer's own fused kernel then does the
    normalised projection, and in use the norm costs nothing. The layer's bias is the norm's.
    """

    running_mean_g: Tensor
    running_var_g: Tensor

    def __init__(self, gates: int) -> None:
        super().__init__()
        self.reduce: Reduce | None = None
        self.weight_g = nn.Parameter(torch.ones(gates))
        self.register_buffer("running_mean_g", torch.zeros(gates))
        self.register_buffer("running_var_g", torch.ones(gates))

    def fold(self, x_sbi: Tensor, w_gi: Tensor, num_valid: Tensor) -> tuple[Tensor, Tensor]:
        """(scale_g, shift_g), by the batch's statistics in training, by the running ones in use.

        Args:
            x_sbi: the layer's input; padding must be zero, so that it adds nothing to the sums.
            num_valid: steps in the batch that are not padding.
        """
        mean_g, var_g = self.running_mean_g, self.running_var_g
        if self.training:
            mean_g, var_g, _ = _moments(F.linear(x_sbi, w_gi).float(), num_valid, self.reduce)
            self.remember(mean_g, var_g)
        scale_g = self.weight_g * (var_g + EPS).rsqrt()
        return scale_g, -scale_g * mean_g

    def gates(self, x_sbi: Tensor, w_gi: Tensor, bias_g: Tensor, num_valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(scale_g, shift_g, gates_sbg) in training, with gates = scale W x + shift + bias carrying the gradient."""
        inputs = (x_sbi, w_gi, self.weight_g, bias_g, num_valid, self.reduce)
        gates_sbg, mean_g, var_g = _NormedProjection.apply(*inputs)
        self.remember(mean_g, var_g)
        scale_g = self.weight_g * (var_g + EPS).rsqrt()
        return scale_g, -scale_g * mean_g, gates_sbg

    @torch.no_grad()
    def remember(self, mean_g: Tensor, var_g: Tensor) -> None:
        """Takes a batch's statistics into the running ones."""
        self.running_mean_g.lerp_(mean_g, MOMENTUM)
        self.running_var_g.lerp_(var_g, MOMENTUM)


def _moments(projected_sbg: Tensor, num_valid: Tensor, reduce: Reduce | None) -> tuple[Tensor, Tensor, Tensor]:
    """(mean_g, var_g, num_valid), of all processes together where there are several."""
    sum_g = projected_sbg.sum((0, 1))
    squares_g = torch.linalg.vector_norm(projected_sbg, dim=(0, 1)).square()
    if reduce is not None:
        sum_g, squares_g, num_valid = reduced(reduce, sum_g, squares_g, num_valid.to(sum_g)[None])
        num_valid = num_valid[0]
    mean_g, square_g = sum_g / num_valid, squares_g / num_valid
    return mean_g, (square_g - mean_g.square()).clamp(min=0), num_valid


def reduced(reduce: Reduce, *vectors: Tensor) -> tuple[Tensor, ...]:
    """All of them in one message."""
    return torch.split(reduce(torch.cat(vectors)), [len(v) for v in vectors])


class _NormedProjection(torch.autograd.Function):
    """BN(W x) and its statistics, with the backward pass in as few sweeps over (s, b, g) as it takes.

    With d = dL/dgates, z = W x, x^ = (z - mean) / std, sums over the n valid steps (Ioffe & Szegedy 2015, section 3):

        dL/dz = scale (d - sum(d) / n - x^ sum(d x^) / n)
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_sbi: Tensor,
        w_gi: Tensor,
        weight_g: Tensor,
        bias_g: Tensor,
        num_valid: Tensor,
        reduce: Reduce | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        narrow_sbg = F.linear(x_sbi, w_gi)
        wide = torch.promote_types(narrow_sbg.dtype, torch.float32)
        projected_sbg = narrow_sbg.to(wide)
        mean_g, var_g, num_valid = _moments(projected_sbg, num_valid, reduce)
        ctx.reduce = reduce
        scale_g = weight_g * (var_g + EPS).rsqrt()
        gates_sbg = torch.addcmul(bias_g - scale_g * mean_g, projected_sbg, scale_g)
        ctx.save_for_backward(x_sbi, w_gi, weight_g, narrow_sbg, mean_g, var_g, num_valid)
        ctx.mark_non_differentiable(mean_g, var_g)
        return gates_sbg, mean_g, var_g

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_sbi, w_gi, weight_g, narrow_sbg, mean_g, var_g, num_valid = ctx.saved_tensors
        grad_sbg, projected_sbg = grads[0], narrow_sbg.to(grads[0].dtype)
        inverse_std_g = (var_g + EPS).rsqrt()
        sum_g = grad_sbg.sum((0, 1))
        # sum(d x^), from sum(d z)
        sum_hat_g = ((grad_sbg * projected_sbg).sum((0, 1)) - mean_g * sum_g) * inverse_std_g
        at_weight_g, at_bias_g = (
            sum_hat_g,
            sum_g,
        )  # this process's own: weights' gradients are added up later, all at once
        if ctx.reduce is not None:
            sum_g, sum_hat_g = reduced(ctx.reduce, sum_g, sum_hat_g)
        scale_g = weight_g * inverse_std_g
        slope_g = -scale_g * inverse_std_g * sum_hat_g / num_valid
        at_projected_sbg = torch.addcmul(-scale_g * sum_g / num_valid - slope_g * mean_g, projected_sbg, slope_g)
        at_projected_rg = at_projected_sbg.addcmul_(grad_sbg, scale_g).to(narrow_sbg.dtype).flatten(0, 1)
        rows_ri = x_sbi.flatten(0, 1).to(narrow_sbg.dtype)
        grad_x_sbi = (at_projected_rg @ w_gi.to(narrow_sbg.dtype)).view_as(x_sbi).to(x_sbi.dtype)
        grad_w_gi = (at_projected_rg.T @ rows_ri).to(w_gi.dtype)
        return grad_x_sbi, grad_w_gi, at_weight_g.to(weight_g.dtype), at_bias_g.to(weight_g.dtype), None, None
