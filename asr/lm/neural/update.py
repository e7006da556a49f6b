"""One update of a neural language model: forward pass and loss of a window, backward pass, optimiser.

Axes: t steps of a window, b streams, s numbers of a state, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asr.errors import TrainingError
from asr.lm.neural.config import RnnTrainConfig
from asr.lm.neural.network import RnnNetwork
from asr.lm.neural.text import NO_TARGET, Ints
from asr.runtime import LateNumbers, Machine, autocast, stable_seed, to_device
from asr.training.optim import gradient_scaler, is_overflow, scale_of


class UpdateResult(NamedTuple):
    """The outcome of an update."""

    loss_nats: float
    #: before clipping; not finite: float16 had not the range for the gradient, and no weight has changed
    grad_norm: float


class PendingUpdate(NamedTuple):
    """An update that a GPU may still be computing; read after the next one has begun, the GPU never waits for it."""

    targets: int
    #: waits for the result; raises a TrainingError if the gradient is not finite
    result: Callable[[], UpdateResult]


class RnnLearner:
    """A network, the optimiser that changes it, and the states of the streams that it is trained on."""

    def __init__(self, network: RnnNetwork, cfg: RnnTrainConfig, machine: Machine, num_streams: int) -> None:
        self.network = network
        self.cfg = cfg
        self.machine = machine
        self.optimizer = torch.optim.AdamW(
            network.parameters(), cfg.lr, (0.9, 0.99), weight_decay=cfg.weight_decay, fused=True
        )
        self.scaler = gradient_scaler(machine)
        #: after the last window; every stream of an epoch begins with a reset, so it does not matter at an epoch's end
        self.states_bs = torch.zeros(num_streams, network.state_size, device=machine.device)

    def update(self, inputs_tb: Ints, targets_tb: Ints, step: int, lr: float) -> PendingUpdate:
        """Make one update on a window; ``step`` counts the updates before it. Shapes: (t, b) both."""
        # The masks of dropout depend on the step alone, so that no state of the generator need be saved.
        torch.manual_seed(stable_seed(self.cfg.seed, "dropout", step))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, targets, self.states_bs = window_loss(
            self.network, inputs_tb, targets_tb, self.states_bs, self.machine.precision
        )
        if not targets:  # nothing but resets: the streams' tail
            return PendingUpdate(0, lambda: UpdateResult(0.0, 0.0))

        # Divided by the size of the whole window: one with few targets, at the streams' end, counts little.
        self.scaler.scale(loss / targets_tb.size).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        clip = self.cfg.clip_norm or math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        numbers = LateNumbers(torch.stack([loss.detach(), grad_norm, scale_of(self.scaler, grad_norm)]))

        def result() -> UpdateResult:
            loss_nats, norm, scale = numbers.read()
            if not math.isfinite(norm) and not is_overflow(self.scaler, loss_nats, scale):
                raise not_finite(step + 1, "the gradient is not finite", lr)
            return UpdateResult(loss_nats, norm)

        return PendingUpdate(targets, result)


def not_finite(step: int, what: str, lr: float) -> TrainingError:
    """Return the error of a training that has failed at an update."""
    return TrainingError(
        f"update {step}: {what} at learning rate {lr:.2e}; the model saved before is whole: lower lr (--set lr=0.001)"
    )


def window_loss(
    network: RnnNetwork, inputs_tb: Ints, targets_tb: Ints, states_bs: Tensor, precision: str
) -> tuple[Tensor, int, Tensor]:
    """Return the loss summed over a window in nats, the number of its targets, and the states after it, detached.

    Shapes: (t, b), (t, b), (b, s).
    """
    device = states_bs.device
    inputs = to_device(torch.from_numpy(np.ascontiguousarray(inputs_tb)), device)
    targets = to_device(torch.from_numpy(np.ascontiguousarray(targets_tb)), device)
    with autocast(precision, device):
        logits_tbv, after_bs = network(inputs, states_bs)
    loss = F.cross_entropy(logits_tbv.float().flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
    return loss, int((targets_tb != NO_TARGET).sum()), after_bs.detach()
