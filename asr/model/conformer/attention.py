"""Attention that knows how far apart two steps are.

Axes: b batch, s steps, h units, a attention heads, d units of a head, p distances from s - 1 down to 1 - s.

Source: Dai et al. 2019, "Transformer-XL: attentive language models beyond a fixed-length context", section 3.3 and
appendix B.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.model.cpu.dropout import Dropout

#: the longest wave of the position code, in steps, is 2 pi times this (Vaswani et al. 2017, section 3.5)
_LONGEST = 10000.0


def positions(steps: int, hidden: int, device: torch.device) -> Tensor:
    """Return the code of each distance between two of so many steps, the largest first. Shapes: -> (p, h).

    >>> positions(3, 4, torch.device("cpu"))[2].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    rates = 1.0 / _LONGEST ** (torch.arange(0, hidden, 2, dtype=torch.float32, device=device) / hidden)
    angles = torch.arange(steps - 1, -steps, -1, dtype=torch.float32, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :hidden]


class RelativeAttention(nn.Module):
    """Each head compares a step with what another holds and with how far away that one is."""

    def __init__(self, hidden: int, heads: int, dropout: float, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(hidden, hidden, bias=bias)
        self.k_proj = nn.Linear(hidden, hidden, bias=bias)
        self.v_proj = nn.Linear(hidden, hidden, bias=bias)
        self.o_proj = nn.Linear(hidden, hidden, bias=bias)
        self.relative_k_proj = nn.Linear(hidden, hidden, bias=False)
        #: what every step looks for, in what others hold and in their distance
        self.bias_u = nn.Parameter(torch.zeros(heads, hidden // heads))
        self.bias_v = nn.Parameter(torch.zeros(heads, hidden // heads))
        self.dropout = Dropout(dropout)

    def forward(self, x_bsh: Tensor, positions_ph: Tensor, outside_bs: Tensor | None) -> Tensor:
        """Return each step's mean over what the steps of its utterance hold, weighted by its interest.

        Shapes: (b, s, h), (p, h), (b, s) -> (b, s, h); ``o_proj`` is not applied.

        Args:
            outside_bs: true in the padding, of which nothing is seen; None: there is none.
        """
        batch, steps, hidden = x_bsh.shape
        q_absd, k_absd, v_absd = (
            self._by_head(project(x_bsh).view(batch, steps, self.heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scale = (hidden // self.heads) ** -0.5
        # The product with distances is one of each head for all utterances, so that they need no copies.
        at_v = (q_absd + self.bias_v[:, None, None]) * scale
        p_adp = self.relative_k_proj(positions_ph).view(len(positions_ph), self.heads, -1).permute(1, 2, 0)
        by_distance = torch.bmm(at_v.flatten(1, 2), p_adp.to(at_v.dtype))
        by_distance = _at_their_steps(by_distance.view(self.heads * batch, steps, -1))

        at_u = ((q_absd + self.bias_u[:, None, None]) * scale).flatten(0, 1)
        scores = torch.baddbmm(by_distance, at_u, k_absd.flatten(0, 1).transpose(1, 2))
        scores_abss = scores.view(self.heads, batch, steps, steps)
        if outside_bs is not None:
            # The least number, not -inf: an utterance without steps sees nothing at all, which must not be nan.
            scores_abss = scores_abss.masked_fill(outside_bs[:, None], torch.finfo(scores.dtype).min)
        weights_abss = self.dropout(F.softmax(scores_abss, dim=-1, dtype=torch.float32)).to(v_absd.dtype)
        seen_absd = torch.bmm(weights_abss.flatten(0, 1), v_absd.flatten(0, 1)).view_as(q_absd)
        return seen_absd.permute(1, 2, 0, 3).flatten(2)

    @staticmethod
    def _by_head(x_bsad: Tensor) -> Tensor:
        return x_bsad.permute(2, 0, 1, 3).contiguous()


def _at_their_steps(scores_nsp: Tensor) -> Tensor:
    """Return at (i, j) the score of query i for distance i - j. Shapes: (n, s, p) -> (n, s, s).

    Row i holds that of distance i - j at place s - 1 - i + j: a step further, the row begins one place earlier.

    >>> _at_their_steps(torch.tensor([[[1, 0, -1], [1, 0, -1]]])).tolist()
    [[[0, -1], [1, 0]]]
    """
    count, steps, distances = scores_nsp.shape
    return scores_nsp.as_strided((count, steps, steps), (steps * distances, distances - 1, 1), steps - 1)
