"""What use needs of a network and of what makes its input, whoever built them: ours, or a published one in a wrapper.

Axes: b batch, n samples, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from asr.config import AudioConfig, Stage, TextConfig
from asr.data.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]


class AnyNetwork(Protocol):
    """Frames to log-probabilities, blank first. What an utterance gets does not depend on the others in its batch."""

    @property
    def cfg(self) -> Stage:
        """Return what it computes, apart from its weights."""

    @property
    def stride(self) -> int:
        """Frames per step."""

    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute the log-probabilities of at least one utterance. Shapes: b times (t, f) -> b times (s, v)."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def eval(self) -> Any: ...


class NetworkForUse:
    """A network made of another one, for use only: it answers for what it was made of."""

    source: AnyNetwork

    @property
    def stride(self) -> int:
        """Frames per step."""
        return self.source.stride

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the original's parameters."""
        return self.source.parameters(recurse)

    def state_dict(self) -> dict[str, Any]:
        """Return the original's state."""
        return self.source.state_dict()

    def eval(self) -> Self:
        """Return the network itself, which is always in evaluation mode."""
        return self


class AnyExtractor(Protocol):
    """Samples to frames."""

    @property
    def cfg(self) -> Stage:
        """Return the settings of what it computes."""

    @property
    def hop(self) -> int:
        """Samples per frame."""

    @property
    def hop_s(self) -> float:
        """Seconds per frame."""

    @property
    def num_bins(self) -> int:
        """Values per frame."""

    def describe(self) -> str:
        """Describe the features in a few words, for people."""

    def num_frames(self, num_samples: Longs | int) -> Longs:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""

    def statistics(self) -> dict[str, npt.NDArray[Any]]:
        """Return what is saved with the model, by name."""

    def __call__(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Compute the features of one utterance. Shapes: (n,) -> (t, f).

        Args:
            dither: draws what is random in training; none in use.
        """


@dataclass(frozen=True)
class AcousticModel:
    """A network with everything that is needed to use it: feature extraction, tokenizer, configs."""

    network: AnyNetwork
    extractor: AnyExtractor
    tokenizer: Tokenizer
    audio: AudioConfig
    text: TextConfig
    training: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Return the device that the network computes on."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    @property
    def frame_s(self) -> float:
        """Seconds of audio per frame."""
        return self.extractor.hop_s

    @property
    def step_s(self) -> float:
        """Seconds of audio per output step."""
        return self.network.stride * self.frame_s

    @property
    def num_parameters(self) -> int:
        """Number of weights of the network."""
        return sum(p.numel() for p in self.network.parameters())
