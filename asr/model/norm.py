"""Sequence-wise batch norm of a recurrent layer's input: statistics over the valid steps of the whole batch.

Axes: b batch, s steps, i inputs, g gates.

Source: Laurent et al. 2015, "Batch normalized recurrent neural networks", equation 8; Deep Speech 2, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: share of the newest batch in the running statistics
MOMENTUM = 0.1
EPS = 1e-5


class InputNorm(nn.Module):
    """Norm of the input projection, BN(W x), as a scale and a shift of each gate.

    BN(W x) = scale W x + shift, and scale goes into the rows of W: the recurrent layer's own fused kernel then does the
    normalised projection, and in use the norm costs nothing. The layer's bias is the norm's.
    """

    running_mean_g: Tensor
    running_var_g: Tensor

    def __init__(self, gates: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(gates))
        self.register_buffer("running_mean_g", torch.zeros(gates))
        self.register_buffer("running_var_g", torch.ones(gates))

    def forward(self, projected_sbg: Tensor | None, num_valid: Tensor) -> tuple[Tensor, Tensor]:
        """(scale_g, shift_g), by the batch's statistics in training, by the running ones in use.

        Args:
            projected_sbg: W x, in training; padding must be zero, so that it adds nothing to the sums.
            num_valid: steps in the batch that are not padding.
        """
        if self.training:
            assert projected_sbg is not None  # the caller projects in training
            mean_g = projected_sbg.sum((0, 1), dtype=torch.float32) / num_valid
            square_g = torch.linalg.vector_norm(projected_sbg, dim=(0, 1), dtype=torch.float32).square() / num_valid
            var_g = (square_g - mean_g.square()).clamp(min=0)
            with torch.no_grad():
                self.running_mean_g.lerp_(mean_g, MOMENTUM)
                self.running_var_g.lerp_(var_g, MOMENTUM)
        else:
            mean_g, var_g = self.running_mean_g, self.running_var_g
        scale_g = self.weight_g * (var_g + EPS).rsqrt()
        return scale_g, -scale_g * mean_g
