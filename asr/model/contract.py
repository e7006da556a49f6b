"""What use needs of a network and of what makes its input, whoever built them: ours, or a published one in a wrapper.

Axes: b batch, n samples, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from asr.config import Stage


class _Module(Protocol):
    """What is used of ``torch.nn.Module``."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def to(self, device: torch.device | str) -> Any: ...

    def eval(self) -> Any: ...


class AnyNetwork(_Module, Protocol):
    """Frames to log-probabilities, blank first. What it gives an utterance does not depend on batch or padding."""

    @property
    def cfg(self) -> Stage:
        """What it computes, apart from its weights."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, the blank included."""

    @property
    def stride(self) -> int:
        """Frames a step."""

    def num_steps(self, num_frames_b: Tensor) -> Tensor:
        """Steps that each number of frames gives, exactly. Shapes: (b,) -> (b,)."""

    def __call__(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and the number of valid steps; beyond them the values mean nothing.

        Shapes: (b, t, f), (b,) int64 -> (b, s, v) float32, (b,) int64.
        """


class AnyExtractor(_Module, Protocol):
    """Samples to frames."""

    @property
    def cfg(self) -> Stage:
        """What it computes."""

    @property
    def hop(self) -> int:
        """Samples a frame."""

    @property
    def num_bins(self) -> int:
        """Values a frame."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def num_frames(self, num_samples_b: Tensor) -> Tensor:
        """Frames of each wave, exactly. Shapes: (b,) -> (b,)."""

    def __call__(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features and the number of valid frames; frames beyond are zero.

        Shapes: (b, n), (b,) -> (b, t, f), (b,).

        Args:
            generator: draws what is random in training; none in use.
        """
