"""Sequence-wise batch norm of a recurrent layer's input: statistics over the valid steps of the whole batch.

Axes: b batch, s steps, i inputs, g gates.

Source: Laurent et al. 2015, "Batch normalized recurrent neural networks", equation 8; Deep Speech 2, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: share of the newest batch in the running statistics
MOMENTUM = 0.1
EPS = 1e-5


class InputNorm(nn.Module):
    """Norm of the input projection, BN(W x), folded into the projection itself.

    BN(W x) = W' x + shift with W' = diag(scale) W and shift = -scale * mean(W x): the recurrent layer's own fused
    kernel then does the normalised projection, and in use the norm costs nothing. The layer's bias is the norm's.
    """

    running_mean_g: Tensor
    running_var_g: Tensor

    def __init__(self, gates: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(gates))
        self.register_buffer("running_mean_g", torch.zeros(gates))
        self.register_buffer("running_var_g", torch.ones(gates))

    def fold(self, w_gi: Tensor, x_bsi: Tensor, num_valid: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised projection, (w_gi, shift_g).

        Args:
            x_bsi: the layer's input; padding must be zero, so that it adds nothing to the sums.
            num_valid: steps in the batch that are not padding.
        """
        if self.training:
            # The product may run in bf16 (autocast); sums over it are float32.
            projected_rg = F.linear(x_bsi, w_gi).flatten(0, 1).float()
            mean_g = projected_rg.sum(0) / num_valid
            var_g = (projected_rg.square().sum(0) / num_valid - mean_g.square()).clamp(min=0)
            with torch.no_grad():
                self.running_mean_g.lerp_(mean_g, MOMENTUM)
                self.running_var_g.lerp_(var_g, MOMENTUM)
        else:
            mean_g, var_g = self.running_mean_g, self.running_var_g
        scale_g = self.weight_g * (var_g + EPS).rsqrt()
        return scale_g[:, None] * w_gi, -scale_g * mean_g
