"""What happens to weights beside the gradient: the learning rate's schedule and the moving average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import Tensor, nn

from asr.config import OptimConfig


def learning_rate(cfg: OptimConfig, before: float, after: float) -> float:
    """The rate of the step that takes the share of steps that are done from ``before`` to ``after``.

    It warms up by the share after the step and decays by the one before: neither the first nor the last step is at 0.
    Beyond 1 the rate is 0 (or constant).

    >>> [learning_rate(OptimConfig(lr=1.0, warmup_fraction=0.5), x, x + 0.25) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if after < cfg.warmup_fraction:
        return cfg.lr * after / cfg.warmup_fraction
    done = min(1.0, max(0.0, before - cfg.warmup_fraction) / max(1e-9, 1 - cfg.warmup_fraction))
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[cfg.decay]
    return cfg.lr * factor


def dropout(schedule: Sequence[tuple[float, float]], done: float) -> float:
    """What is dropped when a share ``done`` in [0, 1] of all steps is behind: linear between the schedule's points.

    >>> [dropout([(0.25, 0.0), (0.75, 0.5)], x) for x in (0.0, 0.5, 1.0)]
    [0.0, 0.25, 0.5]
    """
    shares, values = zip(*schedule, strict=True)
    return float(np.interp(done, shares, values))


class Average:
    """An exponential moving average of a network's weights and statistics; with decay 0, the network itself."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.tensors = {k: v.clone() for k, v in network.state_dict().items()} if decay else {}

    def update(self, step: int) -> None:
        """Takes in the network after a step; early on the average is short, so that it forgets the random start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = self.network.state_dict() if self.tensors else {}
        for name, value in state.items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what ``tensors`` was when it was saved."""
        for name, value in tensors.items():
            self.tensors[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside, its own again after."""
        if not self.tensors:
            yield
            return
        own = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self.network.load_state_dict(own)
