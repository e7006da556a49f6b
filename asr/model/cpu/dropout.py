"""Dropout whose random numbers cost little on CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """In training, set each value to zero with probability ``p``, and scale the rest so that the mean is kept.

    On CPU one random byte decides about a value, and eight come from one draw of torch's generator: torch's own dropout
    draws one number per value on one core, which was a tenth of a training step. ``p`` is rounded to a 256th there.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of an input of any shape."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(255, round(256 * self.p))
        if not dropped:
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        # Not scaled before: 256 / (256 - dropped) in bfloat16 is off by up to a 256th, and with it every mean.
        return (x * kept.to(x.dtype)).mul_(256 / (256 - dropped))
