"""Rows: the valid steps of a batch's utterances, one utterance after the other, without padding.

Whatever looks at one step at a time works on rows: padding then costs nothing, enters no statistic, and cannot be seen.
Attention and convolutions look along an utterance, and get a padded batch, which is zero beyond each utterance.

Axes: b batch, s steps, r rows, h units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asr.model.conv import step_mask
from asr.runtime import to_device


class Rows:
    """The places of a batch's rows in its padded form."""

    def __init__(self, num_steps_b: Tensor, steps: int, device: torch.device) -> None:
        """Take the lengths of utterances, on the CPU, padded to this many steps, and the device of the values."""
        inside_bs = step_mask(num_steps_b, steps)
        #: on the CPU
        self.num_steps_b = num_steps_b
        self.batch = len(num_steps_b)
        self.steps = steps
        self.is_padded = not bool(inside_bs.all())
        #: on the device, true inside each utterance
        self.inside_bs = to_device(inside_bs, device)
        self._places_r = to_device(inside_bs.flatten().nonzero()[:, 0], device)

    def taken(self, x_bsh: Tensor) -> Tensor:
        """Return the rows of a padded batch. Shapes: (b, s, h) -> (r, h)."""
        if not self.is_padded:
            return x_bsh.flatten(0, 1)
        rows_rh: Tensor = _Taken.apply(x_bsh, self._places_r)
        return rows_rh

    def padded(self, rows_rh: Tensor) -> Tensor:
        """Return the padded batch of rows, zero in the padding. Shapes: (r, h) -> (b, s, h)."""
        if not self.is_padded:
            return rows_rh.view(self.batch, self.steps, -1)
        x_bsh: Tensor = _Padded.apply(rows_rh, self._places_r, self.batch, self.steps)
        return x_bsh


# Both are the other's backward pass: torch's own backward pass of an index adds up values that are all zero but one.


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_bsh: Tensor, places_r: Tensor) -> Tensor:
        ctx.save_for_backward(places_r)
        ctx.shape = x_bsh.shape
        return x_bsh.flatten(0, 1).index_select(0, places_r)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (places_r,) = ctx.saved_tensors
        return _spread(grads[0], places_r, ctx.shape[0], ctx.shape[1]), None


class _Padded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_rh: Tensor, places_r: Tensor, batch: int, steps: int) -> Tensor:
        ctx.save_for_backward(places_r)
        return _spread(rows_rh, places_r, batch, steps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (places_r,) = ctx.saved_tensors
        return grads[0].flatten(0, 1).index_select(0, places_r), None, None, None


def _spread(rows_rh: Tensor, places_r: Tensor, batch: int, steps: int) -> Tensor:
    """Shapes: (r, h), (r,) -> (b, s, h)."""
    all_rh = rows_rh.new_zeros(batch * steps, rows_rh.shape[1])
    return all_rh.index_copy_(0, places_r, rows_rh).view(batch, steps, -1)
