"""The network of a live stream, whatever runs it: samples in, log-probabilities out, a piece at a time.

Axes: n samples, t frames, f bins, s steps, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from asr.config import ModelConfig
from asr.data.audio import Wave
from asr.decode.types import LogProbs
from asr.features import stream as frames
from asr.features.frames import FeatureExtractor
from asr.model import streamable
from asr.model.contract import AcousticModel, AnyExtractor
from asr.model.cpu import streams
from asr.model.cpu.inference import InferenceNetwork
from asr.model.onnx.run import GraphNetwork
from asr.model.onnx.session import Stream as GraphStream
from asr.utterance import Features


class FrontEnd(Protocol):
    """Make the network's input of samples."""

    def feed(self, wave_n: Wave, /) -> Features: ...
    def finish(self) -> Features: ...


#: a stream's place in a network, and its front end
Begun: TypeAlias = tuple["streams.State | GraphStream", FrontEnd]


class Engine(Protocol):
    """A network for streams."""

    def begin(self) -> Begun:
        """Begin a recording."""

    def tick(self, states: Sequence[Any], pieces: Sequence[Features], is_last: Sequence[bool]) -> list[LogProbs]:
        """Take each recording further; return what is known now. Shapes: (t, f) or (n,) -> (s, v)."""


def engine_of(model: AcousticModel) -> Engine:
    """Return the engine of a model that streams (``why_not``)."""
    if isinstance(model.network, GraphNetwork):
        return _GraphEngine(model.network, model.extractor)
    assert isinstance(model.network, InferenceNetwork)
    return _Engine(model.network, model.extractor)


def why_not(model: AcousticModel) -> str:
    """Say why a model cannot take streams; empty: it can."""
    network = model.network
    if isinstance(network, GraphNetwork):
        return "" if network.takes_pieces else "it was exported without --streaming"
    if not isinstance(network.cfg, ModelConfig):
        return "a published model needs whole recordings"
    why = streamable.why_not(network.cfg) or frames.why_not(model.extractor)
    if not why and not isinstance(network, InferenceNetwork):
        return "streams run on a CPU (--device cpu)"
    return why


class _Engine:
    """The inference network, all streams in one pass."""

    def __init__(self, network: InferenceNetwork, extractor: AnyExtractor) -> None:
        assert isinstance(extractor, FeatureExtractor)
        self._network = network
        self._extractor = extractor

    def begin(self) -> Begun:
        return streams.State(self._network), frames.FrameStream(self._extractor)

    def tick(
        self, states: Sequence[streams.State], pieces: Sequence[Features], is_last: Sequence[bool]
    ) -> list[LogProbs]:
        return streams.tick(self._network, states, pieces, is_last)


class _Samples:
    """Give samples to a graph that makes the features itself."""

    def feed(self, wave_n: Wave) -> Features:
        return wave_n

    def finish(self) -> Features:
        return np.zeros(0, np.float32)


class _GraphEngine:
    """A graph in onnxruntime, one stream after the other: those of a batch would need pieces of one length."""

    def __init__(self, network: GraphNetwork, extractor: AnyExtractor) -> None:
        self._network = network
        self._extractor = extractor

    def begin(self) -> Begun:
        if isinstance(self._extractor, FeatureExtractor):
            return self._network.stream(), frames.FrameStream(self._extractor)
        return self._network.stream(), _Samples()

    def tick(
        self, states: Sequence[GraphStream], pieces: Sequence[Features], is_last: Sequence[bool]
    ) -> list[LogProbs]:
        return [state.push(piece, is_last=last) for state, piece, last in zip(states, pieces, is_last, strict=True)]
