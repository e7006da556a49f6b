"""A recurrent layer on a GPU: cuDNN's kernels in the dtype that was asked for, both directions at the same time.

A recurrent kernel waits for itself at every step and leaves most of the GPU idle, so the backward direction runs beside
the forward one, on a stream of its own, in the forward and in the backward pass.

Axes: b batch, s steps, i inputs, h units, n numbers of all weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from asr.model.cuda.norm import projection_norms


def run(directions: Sequence[Any], x_bsi: Tensor, mask_bs: Tensor, reversal_bs: Tensor, *, summed: bool) -> Tensor:
    """Run a layer, as ``RecurrentLayer.forward`` does. Shapes: (b, s, i), (b, s), (b, s) -> (b, s, h or 2 h).

    Args:
        directions: one or two of ``asr.model.recurrent.Direction``.
    """
    is_autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if is_autocast else x_bsi.dtype
    # Autocast would cast the kernels' tensors to float16, also where bfloat16 was asked for.
    with torch.autocast("cuda", enabled=False):
        x_sbi = x_bsi.to(dtype).transpose(0, 1).contiguous()
        weights = _weights(directions, x_sbi, mask_bs.sum())
        if len(directions) == 1:
            out_sbh: Tensor = directions[0].recur(x_sbi, one_chunk(weights[0], dtype))
        else:
            out_sbh = _both(directions, weights, x_sbi, _reversed_rows(reversal_bs), summed)
        return (out_sbh * mask_bs.T[:, :, None].to(dtype)).transpose(0, 1)


def _weights(directions: Sequence[Any], x_sbi: Tensor, num_valid: Tensor) -> list[list[Tensor]]:
    """Return the weights of each direction with its norm folded in."""
    norms = [direction.norm for direction in directions if direction.norm is not None]
    if not norms or not all(norm.training for norm in norms):
        return [direction.weights(x_sbi, num_valid) for direction in directions]
    folded = projection_norms(norms, x_sbi, [direction.w_input_gi for direction in directions], num_valid)
    return [direction.folded_weights(norm) for direction, norm in zip(directions, folded, strict=True)]


def one_chunk(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return recurrent weights as views of one piece of memory, in cuDNN's order. Others, torch copies at every call.

    Args:
        weights: input and recurrent weights, and their biases.
    """
    all_n = torch.cat([weight.flatten() for weight in weights]).to(dtype)
    parts = torch.split(all_n, [weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def _both(
    directions: Sequence[Any],
    weights: Sequence[Sequence[Tensor]],
    x_sbi: Tensor,
    reversed_r: Tensor,
    summed: bool,
) -> Tensor:
    """Run the second direction, which reads each utterance in reverse, beside the first one."""
    dtype = x_sbi.dtype
    first, second = (one_chunk(one, dtype) for one in weights)
    main, side = torch.cuda.current_stream(x_sbi.device), _side_stream(x_sbi.device)

    side.wait_stream(main)
    with torch.cuda.stream(side):
        # Memory of one stream that is used on the other must not be given away before the other is done with it. The
        # weights are one piece of memory.
        for used in (x_sbi, reversed_r, second[0]):
            used.record_stream(side)
        back_sbh = _flip(directions[1].recur(_flip(x_sbi, reversed_r), second), reversed_r)
    out_sbh = directions[0].recur(x_sbi, first)
    main.wait_stream(side)
    back_sbh.record_stream(main)

    return out_sbh + back_sbh if summed else torch.cat([out_sbh, back_sbh], dim=2)


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the second stream of a device: always the same, as torch keeps freed memory for each stream by itself."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _reversed_rows(reversal_bs: Tensor) -> Tensor:
    """Return, for rows of (s, b), the row of each one's mirror image in its utterance. Shapes: (b, s) -> (s * b,)."""
    utterance_b = torch.arange(len(reversal_bs), device=reversal_bs.device)
    return (reversal_bs.T * len(reversal_bs) + utterance_b).flatten()


def _flip(x_sbi: Tensor, reversed_r: Tensor) -> Tensor:
    """Reverse each utterance in time within its own length. Shapes: (s, b, i), (s * b,) -> (s, b, i)."""
    return _Flip.apply(x_sbi, reversed_r)  # type: ignore[no-any-return]


class _Flip(torch.autograd.Function):
    """A reversal is its own inverse; torch's gradient of a gather would add up, in no fixed order."""

    @staticmethod
    def forward(ctx: Any, x_sbi: Tensor, reversed_r: Tensor) -> Tensor:
        """Gather the rows."""
        ctx.save_for_backward(reversed_r)
        return x_sbi.flatten(0, 1).index_select(0, reversed_r).view(x_sbi.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (reversed_r,) = ctx.saved_tensors
        grad_sbi = grads[0]
        return grad_sbi.reshape(-1, grad_sbi.shape[2]).index_select(0, reversed_r).view(grad_sbi.shape), None
