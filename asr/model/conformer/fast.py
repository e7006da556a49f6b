"""A Conformer in use on a CPU that multiplies bfloat16: the same answers but for rounding.

Products with weights take bfloat16 and sum in float32; all else is float32. The weights are rounded once:
``torch.autocast`` would do it again for each utterance, which takes as long as the products.

Axes: r rows, i inputs, o outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from asr.model.conformer.layers import Pointwise
from asr.model.conformer.network import ConformerNetwork
from asr.model.conformer.subsampling import FullConvolution, PointwiseImage
from asr.model.contract import Floats, NetworkForUse


class FastConformer(NetworkForUse):
    """A network for use only (``asr.model.contract``); it does not follow the original's weights later on."""

    source: ConformerNetwork
    precision = "bf16"

    def __init__(self, network: ConformerNetwork) -> None:
        self.source = network.eval()
        self.cfg = network.cfg
        self.vocabulary_size = network.vocabulary_size
        self._narrow = copy.deepcopy(network)
        _round_products(self._narrow.encoder)

    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute the log-probabilities of utterances. Shapes: b times (t, f) -> b times (s, v)."""
        return self._narrow.each(features)


class _Product(nn.Module):
    """A product in bf16. Shapes: (..., i) -> (..., o)."""

    weight_oi: Tensor
    bias_o: Tensor | None

    def __init__(self, weight_oi: Tensor, bias_o: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight_oi", weight_oi.detach().bfloat16())
        self.register_buffer("bias_o", None if bias_o is None else bias_o.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight_oi, self.bias_o).float()


class _Convolution(nn.Module):
    """A convolution in bf16."""

    def __init__(self, conv: FullConvolution) -> None:
        super().__init__()
        self.conv = conv.bfloat16()

    def forward(self, x_btfc: Tensor) -> Tensor:
        out_btfc: Tensor = self.conv(x_btfc.bfloat16())
        return out_btfc.float()


def _round_products(module: nn.Module) -> None:
    """Replace all linear layers and full convolutions inside a module."""
    for name, part in list(module.named_children()):
        if isinstance(part, nn.Linear | Pointwise | PointwiseImage):
            setattr(module, name, _Product(part.weight.flatten(1), part.bias))
        elif isinstance(part, FullConvolution):
            setattr(module, name, _Convolution(part))
        else:
            _round_products(part)
