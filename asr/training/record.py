"""The record of training steps: their results, read once a GPU has them, added up and written as metrics."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from asr.errors import AsrError, CheckpointError
from asr.training.progress import Watcher
from asr.training.session import Session
from asr.training.step import PendingStep


class Unread(NamedTuple):
    """A step whose result is not read yet."""

    pending: PendingStep
    #: steps done, this one included
    step: int
    lr: float
    #: epochs done, with the part of the current one
    epoch: float
    #: seconds that the run has trained
    seconds: float


def record_steps(session: Session, unread: deque[Unread], watch: Watcher, ahead: int = 0) -> AsrError | None:
    """Record all steps but the last ``ahead``; return an error if a row of metrics cannot be written.

    Raises:
        TrainingError: a loss or a gradient was not finite.
    """
    error = None
    while len(unread) > ahead:
        error = record_step(session, unread.popleft(), watch) or error
    return error


def record_step(session: Session, step: Unread, watch: Watcher) -> AsrError | None:
    """Read a step's result, add it up, and write a row of metrics; return the error if it cannot be written."""
    progress, cfg = session.progress, session.cfg.train
    result = step.pending.result()
    progress.loss_sum_nats += result.loss_nats * result.utterances
    progress.loss_count += result.utterances
    session.audio_s += result.audio_s

    error = None
    if session.group.is_first and result.utterances:
        try:
            session.run.add_metrics(
                kind="train",
                step=step.step,
                epoch=progress.epoch + 1,
                loss_nats=round(result.loss_nats, 4),
                lr=step.lr,
                grad_norm=round(result.grad_norm, 4) if math.isfinite(result.grad_norm) else None,
                audio_s=round(result.audio_s, 2),
                seconds=round(step.seconds, 2),
            )
        except CheckpointError as caught:
            error = caught

    watch(
        {
            "epochs": cfg.epochs,
            "epoch": step.epoch,
            "step": step.step,
            "share": max(step.epoch / cfg.epochs, step.step / (cfg.max_steps or math.inf)),
            "loss": result.loss_nats,
            "audio_s": session.audio_s,
        }
    )
    return error
