"""Which learning rate a config can take: some steps at ever higher ones, until the loss explodes.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3 (the LR range test).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.config import RunConfig
from asr.errors import TrainingError
from asr.training.trial import Trial

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
#: how much of the smoothed loss is what it was before
_SMOOTHING = 0.8
#: the loss explodes where it is so many times as high as at its lowest
_EXPLODED = 1.5
#: steps before which nothing is concluded: a new network's first loss is anything
_SETTLED = 5


@dataclass(frozen=True)
class Tried:
    """One step: its rate, its loss and the smoothed one, in nats a second of audio."""

    lr: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class Found:
    """All steps; where the smoothed loss falls most steeply, and where it explodes (None: nowhere)."""

    tried: tuple[Tried, ...]
    steepest: float | None
    exploded: float | None

    @property
    def suggestion(self) -> float | None:
        """For ``optim.lr``: where the loss falls most steeply, but no more than a tenth of where it explodes."""
        ends = [lr for lr in (self.steepest, None if self.exploded is None else self.exploded / 10) if lr is not None]
        return min(ends, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "suggestion": self.suggestion, "steepest": self.steepest, "exploded": self.exploded,
            "tried": [vars(one) for one in self.tried],
        }  # fmt: skip


def find_lr(
    cfg: RunConfig, data: Path, steps: int = STEPS, progress: Callable[[float], None] = lambda share: None
) -> Found:
    """Trains a new model for some steps, the rate rising exponentially from 1e-6 to 1, and forgets it.

    Raises:
        ConfigError, DataError: as training does.
    """
    trial, tried = Trial(cfg, data), list[Tried]()
    smoothed, weight, exploded = 0.0, 0.0, None
    with closing(trial.steps()) as batches:
        for number in range(steps):
            lr = LOWEST * (HIGHEST / LOWEST) ** (number / max(1, steps - 1))
            try:
                done = trial.step(next(batches), lr)
            except TrainingError:  # not finite: the rate before did it
                exploded = lr
                break
            loss = done.loss_nats * done.utterances / max(done.audio_s, 1e-9)
            smoothed, weight = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss, _SMOOTHING * weight + 1 - _SMOOTHING
            tried.append(Tried(lr, loss, smoothed / weight))
            progress((number + 1) / steps)
            lowest = min(one.smoothed for one in tried)
            if number >= _SETTLED and tried[-1].smoothed > _EXPLODED * lowest:
                exploded = lr
                break
    return Found(tuple(tried), steepest(tried), exploded)


def steepest(tried: Sequence[Tried]) -> float | None:
    """The rate at which the smoothed loss falls most for a step of the rate's logarithm; None where it never falls."""
    settled = tried[_SETTLED:]
    falls = [
        ((before.smoothed - after.smoothed) / math.log(after.lr / before.lr), after.lr)
        for before, after in itertools.pairwise(settled)
    ]
    fall, lr = max(falls, default=(0.0, 0.0))
    return lr if fall > 0 else None
