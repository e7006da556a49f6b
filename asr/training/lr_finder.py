"""Find the learning rates that a config can take: some steps at ever higher rates, until the loss explodes.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3 (the LR range test).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from asr.config import RunConfig
from asr.errors import TrainingError
from asr.training.trial import build_trial, endless_batches

LOWEST = 1e-6
HIGHEST = 1.0
STEPS = 100
#: share of the previous smoothed loss in the next one
_SMOOTHING = 0.8
#: the loss explodes when it is this many times its lowest value
_EXPLODED = 1.5
#: nothing is concluded before this many steps: the first losses of a new network mean little
_SETTLED = 5


@dataclass(frozen=True)
class TriedRate:
    """One step: its learning rate, its loss and the smoothed loss, in nats per second of audio."""

    lr: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class RateSearch:
    """All steps; the rates at which the smoothed loss falls most steeply and explodes (None: at none)."""

    tried: tuple[TriedRate, ...]
    steepest: float | None
    exploded: float | None

    @property
    def suggestion(self) -> float | None:
        """Return a rate for ``optim.lr``: that of the steepest fall, at most a tenth of that of the explosion."""
        candidates = []
        if self.steepest is not None:
            candidates.append(self.steepest)
        if self.exploded is not None:
            candidates.append(self.exploded / 10)
        return min(candidates, default=None)


def find_lr(
    cfg: RunConfig, data: Path, steps: int = STEPS, progress: Callable[[float], None] = lambda share: None
) -> RateSearch:
    """Train a new model for some steps, with the rate rising exponentially from 1e-6 to 1, and forget it.

    Raises:
        ConfigError, DataError: as training does.
    """
    trial = build_trial(cfg, data)
    tried: list[TriedRate] = []
    smoothed = weight = 0.0
    exploded = None
    with closing(endless_batches(trial)) as batches:
        for number in range(steps):
            lr = LOWEST * (HIGHEST / LOWEST) ** (number / max(1, steps - 1))
            try:
                result = trial.step(next(batches), number, lr).result()
            except TrainingError:  # not finite, because of the rate before
                exploded = lr
                break

            loss = result.loss_nats * result.utterances / max(result.audio_s, 1e-9)
            smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
            weight = _SMOOTHING * weight + 1 - _SMOOTHING
            tried.append(TriedRate(lr, loss, smoothed / weight))
            progress((number + 1) / steps)

            lowest = min(rate.smoothed for rate in tried)
            if number >= _SETTLED and tried[-1].smoothed > _EXPLODED * lowest:
                exploded = lr
                break

    return RateSearch(tuple(tried), steepest_fall(tried), exploded)


def steepest_fall(tried: Sequence[TriedRate]) -> float | None:
    """Return the rate at which the smoothed loss falls most per logarithm of the rate; None if it never falls."""
    steepest = None
    most = 0.0
    for before, after in itertools.pairwise(tried[_SETTLED:]):
        fall = (before.smoothed - after.smoothed) / math.log(after.lr / before.lr)
        if fall > most:
            most = fall
            steepest = after.lr

    return steepest
