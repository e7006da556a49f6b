"""Batch norms on a GPU: over a masked batch, and of a projection that is never computed.

Rows of valid steps are not gathered here, as on a CPU: their number would be read back from the GPU, which stops the
program until the GPU has done all its work.

Axes: b batch, s steps, f bins, c channels, r rows (s x b), i inputs, g gates of one or two directions.

Source: Ioffe & Szegedy 2015, "Batch normalization", section 3; Laurent et al. 2015, "Batch normalized recurrent neural
networks", equation 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.model.norm import InputNorm, Reduce, RowNorm, mean_and_var


def normalize_steps(norm: nn.Module, x_bsfc: Tensor, mask_bs: Tensor, relu_clip: float) -> Tensor:
    """Apply a norm and a clipped ReLU to the valid steps, and set the others to zero. Shapes: (b, s, f, c), (b, s).

    Args:
        norm: a ``RowNorm``, or ``nn.Identity``.
    """
    mask_bs11 = mask_bs[:, :, None, None]
    # A convolution of one channel writes channels first, and what follows is faster with channels last.
    x_bsfc = x_bsfc.contiguous()
    if not isinstance(norm, RowNorm):
        return F.hardtanh(x_bsfc, 0.0, relu_clip) * mask_bs11.to(x_bsfc.dtype)
    if not norm.training:
        rows_rc = norm(x_bsfc.reshape(-1, x_bsfc.shape[3]))
        return F.hardtanh(rows_rc, 0.0, relu_clip).view_as(x_bsfc) * mask_bs11.to(rows_rc.dtype)

    out_bsfc, mean_c, var_c, count = _NormedSteps.apply(
        x_bsfc, norm.weight, norm.bias, mask_bs11, norm.eps, relu_clip, norm.reduce
    )
    norm.remember(mean_c, var_c, count)
    return out_bsfc  # type: ignore[no-any-return]


class _NormedSteps(torch.autograd.Function):
    """clip(BN(x)) of the valid steps, and the statistics. Nothing but the input is kept for the backward pass.

    With d = dL/d(BN(x)), which is zero in the padding and where the output was clipped, and sums over n valid rows:

        dL/dx = weight / std (d - sum(d) / n - x^ sum(d x^) / n)
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_bsfc: Tensor,
        weight_c: Tensor,
        bias_c: Tensor,
        mask_bs11: Tensor,
        eps: float,
        clip: float,
        reduce: Reduce | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the output, mean and variance of the channels, and the number of values that they are of."""
        mask = mask_bs11.to(_wide(x_bsfc))
        wide_bsfc = x_bsfc.to(mask.dtype) * mask
        count = mask.sum() * x_bsfc.shape[2]
        sum_c = wide_bsfc.sum((0, 1, 2))
        if reduce is not None:
            sum_c, count = reduce(torch.cat([sum_c, count[None]])).tensor_split([-1])
            count = count[0]
        mean_c = sum_c / count
        # In two sweeps: a difference of large squares would lose digits.
        squares_c = ((wide_bsfc - mean_c) * mask).square_().sum((0, 1, 2))
        var_c = (squares_c if reduce is None else reduce(squares_c)) / count

        inverse_std_c = (var_c + eps).rsqrt()
        scale_c = weight_c * inverse_std_c
        out_bsfc = torch.addcmul(bias_c - scale_c * mean_c, wide_bsfc, scale_c).clamp_(0.0, clip).mul_(mask)

        ctx.clip = clip
        ctx.reduce = reduce
        ctx.save_for_backward(x_bsfc, weight_c, bias_c, mask_bs11, mean_c, inverse_std_c, count)
        ctx.mark_non_differentiable(mean_c, var_c, count)
        return out_bsfc.to(x_bsfc.dtype), mean_c, var_c, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_bsfc, weight_c, bias_c, mask_bs11, mean_c, inverse_std_c, count = ctx.saved_tensors
        hat_bsfc = (x_bsfc.to(mean_c.dtype) - mean_c) * inverse_std_c
        before_bsfc = torch.addcmul(bias_c, hat_bsfc, weight_c)
        is_open = (before_bsfc > 0) & (before_bsfc < ctx.clip) & mask_bs11
        # By ``where``, not by a product: padding may hold anything.
        grad_bsfc = torch.where(is_open, grads[0].to(mean_c.dtype), 0.0)
        hat_bsfc = torch.where(mask_bs11, hat_bsfc, 0.0)

        sum_c = grad_bsfc.sum((0, 1, 2))
        sum_hat_c = (grad_bsfc * hat_bsfc).sum((0, 1, 2))
        # This process's own sums: the weights' gradients of all processes are added up later.
        at_bias_c, at_weight_c = sum_c, sum_hat_c
        if ctx.reduce is not None:
            sum_c, sum_hat_c = ctx.reduce(torch.cat([sum_c, sum_hat_c])).chunk(2)

        at_x_bsfc = grad_bsfc.sub_(sum_c / count).addcmul_(hat_bsfc, sum_hat_c / count, value=-1)
        at_x_bsfc = at_x_bsfc.mul_(weight_c * inverse_std_c).mul_(mask_bs11)
        return at_x_bsfc.to(x_bsfc.dtype), at_weight_c, at_bias_c, None, None, None, None


def projection_norms(
    norms: Sequence[InputNorm], x_sbi: Tensor, weights: Sequence[Tensor], num_valid: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return (scale_g, shift_g) of each direction's norm of W x in training, as ``InputNorm.fold`` does.

    The sums over W x follow from those over the input, sum(W x) = W sum(x) and sum((W x)^2) = diag(W sum(x x') W'), and
    both directions read the same steps. So one product of (i, r) by (r, i) replaces one of (r, i) by (i, g) in each
    direction, and nothing of size (r, g) is kept for the backward pass.

    Args:
        x_sbi: the input; padding must be zero.
        weights: (g, i) of each direction.
    """
    sum_i, gram_ii = _InputSums.apply(x_sbi.flatten(0, 1))
    w_gi = torch.cat(list(weights)).to(gram_ii.dtype)
    sum_g = w_gi @ sum_i
    squares_g = ((w_gi @ gram_ii) * w_gi).sum(1)
    mean_g, var_g, _ = mean_and_var(sum_g, squares_g, num_valid, norms[0].reduce)

    folded = []
    for norm, mean, var in zip(norms, mean_g.chunk(len(norms)), var_g.chunk(len(norms)), strict=True):
        norm.remember(mean.detach(), var.detach())
        folded.append(norm.scale_and_shift(mean, var))
    return folded


class _InputSums(torch.autograd.Function):
    """The sums of x and of x x' over rows, in float32 at least. Shapes: (r, i) -> (i,), (i, i)."""

    @staticmethod
    def forward(ctx: Any, x_ri: Tensor) -> tuple[Tensor, Tensor]:
        """Add up in float32: rounded to bfloat16, the variance would have two digits."""
        ctx.save_for_backward(x_ri)
        wide = _wide(x_ri)
        sum_i = x_ri.sum(0, dtype=wide)
        if x_ri.dtype == wide:
            return sum_i, x_ri.T @ x_ri
        return sum_i, torch.mm(x_ri.T, x_ri, out_dtype=wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x_ri,) = ctx.saved_tensors
        at_sum_i, at_gram_ii = grads
        both_ii = (at_gram_ii + at_gram_ii.T).to(x_ri.dtype)
        return torch.addmm(at_sum_i.to(x_ri.dtype), x_ri, both_ii)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
