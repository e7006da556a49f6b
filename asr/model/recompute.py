"""Activation checkpointing: a part of the network whose values the backward pass computes again, to save memory.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def computed_twice(module: nn.Module, forward: Callable[..., T], *args: Tensor | None, draws: bool = False) -> T:
    """Return ``forward(*args)``, a part of a module's forward pass, and keep for the backward pass the arguments only.

    Gradients and running statistics are, to the bit, those without it. Where several processes add up sums in the
    forward pass, they do so in the second one too: at the same place of all backward passes, so none waits in vain.

    Args:
        draws: ``forward`` draws random numbers, which must be the same ones the second time.
    """
    result: T = checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=draws,
        context_fn=lambda: (nullcontext(), _StatisticsKept(module)),
    )
    return result


class _StatisticsKept:
    """Undo what the block does to running statistics: a batch counts once, though it is computed twice."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self._kept = [buffer.clone() for buffer in self.module.buffers()]

    def __exit__(self, *error: object) -> None:
        for buffer, value in zip(self.module.buffers(), self._kept, strict=True):
            buffer.copy_(value)
