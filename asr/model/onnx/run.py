"""An exported folder in use: its graph in onnxruntime, as a network like any other.

Axes: b batch, n samples, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from asr.config import FeatureConfig, ModelConfig
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.features.build import build_extractor
from asr.features.extractor import Extractor
from asr.model.contract import AcousticModel, Floats
from asr.model.folder import ModelFolderConfig, read_model_config
from asr.model.onnx.card import MODEL, ExportFacts
from asr.model.onnx.session import Session, Stream

#: padded audio that the graph is given at a time, seconds: from 20 to 40 onnxruntime was fastest, on one thread
_BATCH_S = 30.0


class GraphNetwork:
    """A graph as a network (``asr.model.contract``), on a CPU and in float32."""

    on_gpu = False
    precision = "fp32"

    def __init__(
        self, cfg: ModelConfig, facts: ExportFacts, session: Session, vocabulary_size: int, stride: int, frames: int
    ) -> None:
        """Take a graph into use.

        Args:
            vocabulary_size: number of tokens, blank included.
            stride: frames per step; samples, where the graph takes these.
            frames: the most, padding included, that the graph is given at a time.
        """
        self.cfg = cfg
        self.stride = stride
        self.num_parameters = facts.parameters
        self._facts = facts
        self._session = session
        self._vocabulary_size = vocabulary_size
        self._frames = frames

    def each(self, features: Sequence[Floats]) -> list[Floats]:
        """Compute log-probabilities of utterances, in batches of like length. Shapes: b times (t, f) -> b times (s, v).

        An utterance of nothing gives nothing: a runtime need not take it.

        Args:
            features: where the graph takes samples, frames of one value each.
        """
        answers = [np.zeros((0, self._vocabulary_size), np.float32)] * len(features)
        for batch in self._batches([len(features_tf) for features_tf in features]):
            given = [features[i][:, 0] if self._facts.features_in_graph else features[i] for i in batch]
            for i, log_probs_sv in zip(batch, self._session.run(given), strict=True):
                answers[i] = log_probs_sv
        return answers

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield the places of utterances that are not empty, none padded beyond the most (one longer goes alone)."""
        batch: list[int] = []
        for i in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[i] > self._frames:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @property
    def takes_pieces(self) -> bool:
        """Return true if the graph takes a recording a piece at a time."""
        return self._facts.streaming

    def stream(self) -> Stream:
        """Begin a recording that comes a piece at a time."""
        return Stream(self._session)

    def fingerprint(self) -> str:
        """Return a name for the graph and for what runs it."""
        return f"{type(self).__name__} {self._session.checksum()}"

    def eval(self) -> Self:
        """Return the network itself, which is always in evaluation mode."""
        return self


def load_exported(folder: Path, device: str = "auto", precision: str = "auto") -> AcousticModel:
    """Load an exported folder, ready for use.

    Raises:
        CheckpointError: a file is missing, damaged or foreign; it is named.
        ConfigError: the device is not the CPU, or the precision not fp32.
        AsrError: onnxruntime is not installed.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{folder}: an exported model runs on the CPU; leave out --device {device}", key="device")
    if precision not in ("auto", "fp32"):
        raise ConfigError(
            f"{folder}: an exported model computes in fp32, not {precision}; leave out --precision", key="precision"
        )
    config = read_model_config(folder)
    facts = config.export
    if facts is None:
        raise CheckpointError(f"says nothing of {MODEL} beside it: there is no 'export'", folder / "config.json")

    tokenizer = read_tokenizer(folder / "tokenizer.json")
    extractor = _extractor(config, facts, folder)
    session = Session(folder / MODEL)
    session.check(facts.features_in_graph, facts.streaming, extractor.num_bins, tokenizer.symbols)
    rate_hz, stride = config.audio.sample_rate_hz, math.prod(config.model.time_strides)
    hop = round(config.features.hop_s * rate_hz) if facts.features_in_graph else extractor.hop
    session.check_clock(rate_hz, hop / rate_hz, stride)
    if session.sha256() != facts.sha256:
        raise CheckpointError("is not the graph that export.sha256 in config.json is of; export again", folder / MODEL)
    if facts.features_in_graph:  # a frame is a sample then: a step has so many of them
        stride *= hop
    frame_s = extractor.hop / rate_hz
    network = GraphNetwork(config.model, facts, session, tokenizer.vocabulary_size, stride, round(_BATCH_S / frame_s))
    return AcousticModel(network, extractor, tokenizer, config.audio, config.text, dict(config.training))


def _extractor(config: ModelFolderConfig, facts: ExportFacts, folder: Path) -> Extractor:
    """Make what gives the graph its input: features, or the samples as they are."""
    rate_hz = config.audio.sample_rate_hz
    if facts.features_in_graph:
        return build_extractor(FeatureConfig(kind="wave", normalization="none"), rate_hz)
    try:
        extractor = build_extractor(config.features, rate_hz)
    except ConfigError as error:
        raise CheckpointError(str(error), folder / "config.json") from error
    statistics = {name: np.array(values, np.float32) for name, values in facts.statistics.items()}
    shapes = {name: values.shape for name, values in extractor.statistics().items()}
    if {name: values.shape for name, values in statistics.items()} != shapes:
        raise CheckpointError("export.statistics do not fit the features", folder / "config.json")
    extractor.set_statistics(statistics)
    return extractor
