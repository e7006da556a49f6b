"""Batch norms whose statistics are over the valid steps of the whole batch: of rows, and of a layer's projected input.

Axes: r rows, c channels, b batch, s steps, i inputs, g gates (or units, in layers without gates).

Source: Laurent et al. 2015, "Batch normalized recurrent neural networks", equation 8; Deep Speech 2, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.model.folded import EPS

#: share of the newest batch in the running statistics
MOMENTUM = 0.1
#: adds up a vector over the processes of a run, gradient included: ``reduce`` of the norms of a network that several
#: processes train, so that the statistics are those of the whole batch (``asr.training.distributed.synchronise``)
Reduce = Callable[[Tensor], Tensor]


class RowNorm(nn.BatchNorm1d):
    """torch's batch norm of rows; if several processes train, with the statistics of the rows of all of them."""

    reduce: Reduce | None = None

    def forward(self, rows_rc: Tensor) -> Tensor:
        """Normalise each column. Shapes: (r, c) -> (r, c)."""
        # torch's own refuses to train on a single row.
        if not self.training or (self.reduce is None and len(rows_rc) != 1):
            return super().forward(rows_rc)
        reduce = self.reduce or (lambda sums: sums)
        wide_rc = rows_rc.to(torch.promote_types(rows_rc.dtype, torch.float32))

        count = wide_rc.new_tensor([len(wide_rc)])
        sum_c, rows = torch.split(reduce(torch.cat([wide_rc.sum(0), count])), [self.num_features, 1])
        mean_c = sum_c / rows
        # In two sweeps: a difference of large squares would lose digits that torch's own norm keeps.
        var_c = reduce((wide_rc - mean_c).square().sum(0)) / rows

        self.remember(mean_c, var_c, rows)
        out_rc: Tensor = self.weight * (wide_rc - mean_c) * (var_c + self.eps).rsqrt() + self.bias
        return out_rc.to(rows_rc.dtype)

    @torch.no_grad()
    def remember(self, mean_c: Tensor, var_c: Tensor, rows: Tensor) -> None:
        """Take a batch's statistics into the running ones. Shapes: (c,), (c,), () or (1,)."""
        # as ConvFrontEnd makes it
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_c, self.momentum)
        self.running_var.lerp_(var_c * (rows / (rows - 1).clamp(min=1)), self.momentum)


class InputNorm(nn.Module):
    """The norm of a layer's projected input, BN(W x), as a scale and a shift of each gate.

    BN(W x) = scale W x + shift, and the scale goes into the rows of W: the recurrent layer's own kernel then does the
    normalised projection, and in use the norm costs nothing. The layer's bias is also the norm's.
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
        """Return (scale_g, shift_g), from the batch's statistics in training and from the running ones in use.

        Args:
            x_sbi: the layer's input; padding must be zero, so that it adds nothing to the sums.
            num_valid: number of steps in the batch that are not padding.
        """
        mean_g = self.running_mean_g
        var_g = self.running_var_g
        if self.training:
            mean_g, var_g, _ = _moments(F.linear(x_sbi, w_gi).float(), num_valid, self.reduce)
            self.remember(mean_g, var_g)
        return self.scale_and_shift(mean_g, var_g)

    def scale_and_shift(self, mean_g: Tensor, var_g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norm with these statistics as a scale and a shift of each gate."""
        scale_g = self.weight_g * (var_g + EPS).rsqrt()
        return scale_g, -scale_g * mean_g

    def normalized_projection(self, x_sbi: Tensor, w_gi: Tensor, bias_g: Tensor, num_valid: Tensor) -> Tensor:
        """Return BN(W x) + bias in training. Shapes: (s, b, i), (g, i), (g,), () -> (s, b, g)."""
        out_sbg, mean_g, var_g = _NormedProjection.apply(x_sbi, w_gi, self.weight_g, bias_g, num_valid, self.reduce)
        self.remember(mean_g, var_g)
        return out_sbg  # type: ignore[no-any-return]

    @torch.no_grad()
    def remember(self, mean_g: Tensor, var_g: Tensor) -> None:
        """Take a batch's statistics into the running ones."""
        self.running_mean_g.lerp_(mean_g, MOMENTUM)
        self.running_var_g.lerp_(var_g, MOMENTUM)


def reduced(reduce: Reduce, *vectors: Tensor) -> tuple[Tensor, ...]:
    """Add up several vectors over the processes of a run, in one message."""
    return torch.split(reduce(torch.cat(vectors)), [len(v) for v in vectors])


def _moments(projected_sbg: Tensor, num_valid: Tensor, reduce: Reduce | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return (mean_g, var_g, num_valid), over all processes together if there are several."""
    sum_g = projected_sbg.sum((0, 1))
    squares_g = torch.linalg.vector_norm(projected_sbg, dim=(0, 1)).square()
    return mean_and_var(sum_g, squares_g, num_valid, reduce)


def mean_and_var(
    sum_g: Tensor, squares_g: Tensor, num_valid: Tensor, reduce: Reduce | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (mean_g, var_g, num_valid) from this process's sums; over all processes, if there are several."""
    if reduce is not None:
        sum_g, squares_g, num_valid = reduced(reduce, sum_g, squares_g, num_valid.to(sum_g)[None])
        num_valid = num_valid[0]
    mean_g = sum_g / num_valid
    var_g = (squares_g / num_valid - mean_g.square()).clamp(min=0)
    return mean_g, var_g, num_valid


class _NormedProjection(torch.autograd.Function):
    """BN(W x) + bias and its statistics, with a backward pass of few sweeps over (s, b, g).

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
        """Return the normalised projection, and the projection's mean and variance. Shapes: (s, b, g), (g,), (g,)."""
        narrow_sbg = F.linear(x_sbi, w_gi)
        projected_sbg = narrow_sbg.to(torch.promote_types(narrow_sbg.dtype, torch.float32))
        mean_g, var_g, num_valid = _moments(projected_sbg, num_valid, reduce)
        scale_g = weight_g * (var_g + EPS).rsqrt()
        out_sbg = torch.addcmul(bias_g - scale_g * mean_g, projected_sbg, scale_g)

        ctx.reduce = reduce
        ctx.save_for_backward(x_sbi, w_gi, weight_g, narrow_sbg, mean_g, var_g, num_valid)
        ctx.mark_non_differentiable(mean_g, var_g)
        return out_sbg, mean_g, var_g

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_sbi, w_gi, weight_g, narrow_sbg, mean_g, var_g, num_valid = ctx.saved_tensors
        grad_sbg = grads[0]
        projected_sbg = narrow_sbg.to(grad_sbg.dtype)
        inverse_std_g = (var_g + EPS).rsqrt()

        sum_g = grad_sbg.sum((0, 1))
        # sum(d x^), from sum(d z)
        sum_hat_g = ((grad_sbg * projected_sbg).sum((0, 1)) - mean_g * sum_g) * inverse_std_g
        # This process's own sums: the weights' gradients of all processes are added up later.
        at_weight_g = sum_hat_g
        at_bias_g = sum_g
        if ctx.reduce is not None:
            sum_g, sum_hat_g = reduced(ctx.reduce, sum_g, sum_hat_g)

        scale_g = weight_g * inverse_std_g
        slope_g = -scale_g * inverse_std_g * sum_hat_g / num_valid
        at_projected_sbg = torch.addcmul(-scale_g * sum_g / num_valid - slope_g * mean_g, projected_sbg, slope_g)
        at_projected_rg = at_projected_sbg.addcmul_(grad_sbg, scale_g).to(narrow_sbg.dtype).flatten(0, 1)

        rows_ri = x_sbi.flatten(0, 1).to(narrow_sbg.dtype)
        at_x_sbi = (at_projected_rg @ w_gi.to(narrow_sbg.dtype)).view_as(x_sbi).to(x_sbi.dtype)
        at_w_gi = (at_projected_rg.T @ rows_ri).to(w_gi.dtype)
        return at_x_sbi, at_w_gi, at_weight_g.to(weight_g.dtype), at_bias_g.to(weight_g.dtype), None, None
