"""The loss of a batch and its gradients.

Axes: b batch, t frames, f bins, u targets, s steps, v vocabulary, r outputs (of a batch's views, and of layers before
the last), o outputs of an utterance.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from asr.batch import Batch
from asr.ctc import ctc_loss
from asr.runtime import Machine, autocast, to_device
from asr.training.penalties import confidence_penalty, consistency_loss

#: opens a context in which the time is counted for a phase of the step; ``nullcontext`` counts nothing
Timed = Callable[[str], AbstractContextManager[object]]


def gradients(
    network: nn.Module,
    batch: Batch,
    count: float,
    machine: Machine,
    *,
    scaler: torch.amp.GradScaler | None = None,
    timed: Timed = nullcontext,
    smoothing: float = 0.0,
    consistency: float = 0.0,
    inter_weight: float = 0.0,
) -> Tensor:
    """Add the gradients of the sum of a batch's losses divided by ``count``; return the losses. Shapes: (b,).

    Args:
        scaler: multiplies the gradients by its scale, if it is one that is enabled.
        smoothing: share of the confidence penalty in what is minimised; the losses returned do not contain it.
        consistency: weight of the disagreement between the two views of a batch that has them; the losses returned do
            not contain it. Loss and penalty are means of both views.
        inter_weight: share of the losses after layers before the last in what is minimised, if the network gives such
            outputs in training: behind the last layer's, in as many more batches. The losses returned are the last's.
    """
    device = machine.device
    features_btf = to_device(batch.features_btf, device)
    views = 1
    if batch.twin_btf is not None:
        views = 2
        features_btf = torch.cat([features_btf, to_device(batch.twin_btf, device)])
    num_frames_b = batch.num_frames_b.repeat(views)

    log_probs_rsv: Tensor
    with timed("forward"), autocast(machine.precision, device):
        log_probs_rsv, num_steps_r = network(features_btf, num_frames_b)
    if not batch.ids:
        # The other processes wait for a gradient of this one.
        with timed("backward"):
            _backward(log_probs_rsv.sum() * 0.0, scaler)
        return log_probs_rsv.new_zeros(0)

    outputs = len(num_steps_r) // len(batch.ids)
    targets_ru, num_targets_r = batch.targets_bu.repeat(outputs, 1), batch.num_targets_b.repeat(outputs)
    with timed("loss"):
        losses_ob = ctc_loss(log_probs_rsv, num_steps_r, targets_ru, num_targets_r).view(outputs, -1)
    losses_b = losses_ob[:views].mean(0)
    last = len(features_btf)
    total = _with_penalties(losses_b, log_probs_rsv[:last], num_steps_r[:last], smoothing, consistency)
    if outputs > views:
        total = (1 - inter_weight) * total + inter_weight * losses_ob[views:].mean(0).sum()

    with timed("backward"):
        _backward(total / count, scaler)
    return losses_b.detach()


def _with_penalties(
    losses_b: Tensor, log_probs_rsv: Tensor, num_steps_r: Tensor, smoothing: float, consistency: float
) -> Tensor:
    """Return what is minimised of the last layer's output, of one or two views. Shapes: (b,), (r, s, v), (r,) -> ()."""
    total = losses_b.sum()
    views = len(num_steps_r) // len(losses_b)
    if smoothing:
        penalty = confidence_penalty(log_probs_rsv, num_steps_r).sum() / views
        total = (1 - smoothing) * total + smoothing * penalty
    if views == 2:
        first_bsv, second_bsv = log_probs_rsv.chunk(2)
        total = total + consistency * consistency_loss(first_bsv, second_bsv, num_steps_r[: len(losses_b)]).sum()
    return total


def _backward(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    # Also without utterances: a scaler that has scaled nothing yet refuses the rest of the step.
    scaled: Tensor = loss if scaler is None else scaler.scale(loss)
    scaled.backward()  # type: ignore[no-untyped-call]


def halves(batch: Batch) -> list[Batch]:
    """Split a batch of two or more utterances."""
    middle = len(batch.ids) // 2
    return [batch.rows(0, middle), batch.rows(middle, len(batch.ids))]
