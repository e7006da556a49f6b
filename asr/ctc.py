"""The CTC loss, and terms that are added to it.

Axes: b batch, s steps, v vocabulary, u targets.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.data.tokenizer import BLANK_ID
from asr.runtime import is_out_of_memory, to_device

log = logging.getLogger(__name__)

#: From this many steps on the loss is computed in float64. In float32 torch's loss is right, but the rounding of its
#: forward and backward sums grows with the steps, and is exponentiated in the gradient: 0.3 % of the gradient's norm at
#: 1,000 steps, 0.6 % at 3,000, 5 % at 6,000, 32 % at 12,000 (random outputs, 30 tokens). Below, float32 saves a third
#: to a half of the loss's time, and half of its memory.
LONG_STEPS = 1000


def ctc_loss(log_probs_bsv: Tensor, num_steps_b: Tensor, targets_bu: Tensor, num_targets_b: Tensor) -> Tensor:
    """Return -ln of the summed probability of all paths that write each utterance's labels, in nats.

    Shapes: (b, s, v) log-probabilities; (b,), (b, u), (b,) on the CPU -> (b,) float32.

    Infinite where ``min_steps`` exceeds the steps: callers sort such pairs out before; nothing is zeroed here.

    Source: Graves et al. 2006, equations 5-8.
    """
    device = log_probs_bsv.device
    if device.type == "cuda":
        kernels = _kernels(device)
        if kernels is not None and targets_bu.shape[1] <= kernels.MOST_LABELS:
            return kernels.ctc_loss(log_probs_bsv, num_steps_b, targets_bu, num_targets_b)  # type: ignore[no-any-return]
        targets_bu = to_device(targets_bu, device)

    computed_in = torch.float64 if log_probs_bsv.shape[1] >= LONG_STEPS else torch.float32
    loss_b = F.ctc_loss(
        log_probs_bsv.to(computed_in).transpose(0, 1),
        targets_bu,
        num_steps_b,
        num_targets_b,
        blank=BLANK_ID,
        reduction="none",
        zero_infinity=False,
    )
    return loss_b.float()


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    """Return the module of the loss on a GPU; None, with a warning, where its kernels do not run.

    Triton comes with torch for Linux. At its first launch it needs a C compiler and Python's headers too.
    """
    try:
        from asr.model.cuda import ctc

        ctc.try_out(device)
    except Exception as error:  # whatever a compiler on this machine may fail with
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        log.warning(
            "Triton compiles nothing here, so torch's own CTC loss is used: it waits for the GPU at each step, and two "
            "equal runs differ in their last digits. It needs a C compiler and Python's headers (%s)",
            reason,
        )
        return None
    return ctc


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
    num_steps_b = to_device(num_steps_b, values_bs.device)
    inside_bs = torch.arange(values_bs.shape[1], device=values_bs.device)[None, :] < num_steps_b[:, None]
    return values_bs.masked_fill(~inside_bs, 0.0).sum(1)
