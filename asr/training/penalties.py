"""Terms that training adds to the CTC loss.

Axes: b batch, s steps, v vocabulary.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from asr.model.conv import step_mask


def consistency_loss(first_bsv: Tensor, second_bsv: Tensor, num_steps_b: Tensor) -> Tensor:
    """Return how far two outputs for the same utterances are apart, summed over their steps, in nats.

    (KL(p || q) + KL(q || p)) / 2 per step. In each term the other output counts as given, so each output is drawn
    towards the other. Shapes: (b, s, v) log-probabilities twice, (b,) -> (b,).

    Source: Yao et al. 2024, "CR-CTC: Consistency regularization on CTC for improved speech recognition", equation 4.
    """
    first_bsv, second_bsv = first_bsv.float(), second_bsv.float()
    to_second_bsv = F.kl_div(first_bsv, second_bsv.detach(), reduction="none", log_target=True)
    to_first_bsv = F.kl_div(second_bsv, first_bsv.detach(), reduction="none", log_target=True)
    return _over_steps((to_second_bsv + to_first_bsv).sum(2) / 2, num_steps_b)


def confidence_penalty(log_probs_bsv: Tensor, num_steps_b: Tensor) -> Tensor:
    """Return how far each utterance's distributions are from uniform: KL(p || uniform), summed over its steps, in nats.

    Label smoothing for CTC: added to the loss with a small weight, it keeps the network from being too sure.
    Between 0 and ln(v) per step. Shapes: (b, s, v), (b,) -> (b,).

    Source: Kim et al. 2018, "Improved training for online end-to-end speech recognition systems", section 2.2.
    """
    log_probs_bsv = log_probs_bsv.float()
    away_bs = (log_probs_bsv.exp() * log_probs_bsv).sum(2) + math.log(log_probs_bsv.shape[2])
    return _over_steps(away_bs, num_steps_b)


def _over_steps(values_bs: Tensor, num_steps_b: Tensor) -> Tensor:
    """Return the sum over each utterance's own steps, padding left out. Shapes: (b, s), (b,) -> (b,)."""
    inside_bs = step_mask(num_steps_b, values_bs.shape[1], values_bs.device)
    return values_bs.masked_fill(~inside_bs, 0.0).sum(1)
