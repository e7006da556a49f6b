"""The CTC loss.

Axes: b batch, s steps, v vocabulary, u targets.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.data.tokenizer import BLANK_ID
from asr.machine import is_out_of_memory
from asr.runtime import to_device

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
