"""Activation checkpointing: a part of the network whose values the backward pass computes again, to save memory.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def computed_twice(module: nn.Module, forward: Callable[..., T], *args: Tensor) -> T:
    """Return ``forward(*args)``, a part of a module's forward pass, and keep for the backward pass the arguments only.

    Gradients and running statistics are, to the bit, those without it. Where several processes add up sums in the
    forward pass, they do so in the second one too: at the same place of all backward passes, so none waits in vain.

    Args:
        forward: draws no random numbers.
    """
    result: T = checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _statistics_kept(module)),
    )
    return result


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Undo what the block does to running statistics: a batch counts once, though it is computed twice."""
    kept = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(module.buffers(), kept, strict=True):
            buffer.copy_(value)
