"""What use needs of a network and of what makes its input, whoever built them: ours, or a published one in a wrapper.

Axes: b batch, n samples, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

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

    @property
    def num_parameters(self) -> int:
        """Return the number of its weights."""

    @property
    def on_gpu(self) -> bool:
        """Return true if it computes on a GPU, which takes large batches, and leaves the processor free."""

    def fingerprint(self) -> str:
        """Return a name for everything that its answers depend on: weights, precision, device."""

    def eval(self) -> Any:
        """Bring it into evaluation mode."""


class NetworkForUse:
    """A network made of another one, for use only: it answers for what it was made of."""

    source: AnyNetwork
    precision: str
    on_gpu = False

    @property
    def stride(self) -> int:
        """Frames per step."""
        return self.source.stride

    @property
    def num_parameters(self) -> int:
        """Return the number of the original's weights."""
        return self.source.num_parameters

    def fingerprint(self) -> str:
        """Return a name for the original's weights, and for how they are computed with."""
        return f"{type(self).__name__} {self.precision} {self.source.fingerprint()}"

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
    def on_gpu(self) -> bool:
        """Return true if the network computes on a GPU."""
        return self.network.on_gpu

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
        return self.network.num_parameters
