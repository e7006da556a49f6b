"""A model of the Hugging Face hub as a MODEL: what it is, and its network with weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.config import AudioConfig, TextConfig
from asr.data.tokenizer import Tokenizer
from asr.features.parakeet import ParakeetExtractor
from asr.features.samples import NORMALIZE_EPS
from asr.model.hf import parakeet
from asr.model.hf.config import HfConfig, read_config
from asr.model.hf.folder import locate
from asr.model.hf.names import parse
from asr.model.hf.network import HfNetwork, plan
from asr.model.hf.others import OtherNetwork, Steps, describe_other, load_other
from asr.model.hf.vocabulary import HfVocabulary, read_vocabulary
from asr.model.hf.weights import outputs_of, read_file_tensors, read_weights
from asr.model.parakeet import SampleSteps
from asr.model.parakeet import outputs_of as parakeet_outputs
from asr.model.steps import unpadded_steps
from asr.model.trainable import TrainableNetwork, count
from asr.model.trainable import describe as parts_of
from asr.model.waves import WaveConfig, WaveExtractor


@dataclass(frozen=True)
class HfDescription:
    """All that is known of a model without the values of its weights."""

    #: as it was given, with ``hf:``
    name: str
    folder: Path
    #: of a model that has one adapter for each
    language: str | None
    config: HfConfig
    vocabulary: HfVocabulary
    extractor: WaveExtractor | ParakeetExtractor
    audio: AudioConfig
    text: TextConfig
    #: its making, as ``config.json`` of a model folder has it
    training: dict[str, Any]
    #: samples per step
    stride: int
    num_steps: Callable[[Tensor], Tensor]

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokens of the network's outputs."""
        return self.vocabulary.tokenizer


def describe(model: str | Path) -> HfDescription:
    """Describe ``hf:FOLDER_OR_NAME[#language]``; of its weights, only the names and shapes are read.

    Raises:
        CheckpointError: a file is missing or damaged, or it is no model that writes text with CTC.
        AsrError: as ``locate``; or the network needs ``transformers``, which is not installed.
    """
    name = parse(model)
    folder = locate(name)
    config = read_config(folder)
    tensors, path = read_file_tensors(folder, config, name.language)
    pace, outputs = _pace_and_outputs(folder, config, tensors, path)
    vocabulary = read_vocabulary(folder, outputs, name.language)
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    stored = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in floats))
    return HfDescription(
        name=str(model),
        folder=folder,
        language=name.language,
        config=config,
        vocabulary=vocabulary,
        extractor=_extractor(config, folder),
        audio=AudioConfig(sample_rate_hz=config.sample_rate_hz),
        text=TextConfig(normalization=vocabulary.profile),
        training={
            "source": f"{config.architecture} in {path}",
            "weights": stored if stored == "float32" else f"{stored} in the file, float32 in use",
            "vocabulary": "; ".join([*vocabulary.notes, *_left_out(config, vocabulary)]),
        },
        stride=pace.stride,
        num_steps=pace,
    )


def _extractor(config: HfConfig, folder: Path) -> WaveExtractor | ParakeetExtractor:
    if config.features is not None:
        return parakeet.build_extractor(config.features, config.sample_rate_hz, folder)
    normalize = config.normalize and config.shape is not None  # the others make their input by themselves
    return WaveExtractor(WaveConfig(normalize=normalize, eps=NORMALIZE_EPS), config.sample_rate_hz)


def _left_out(config: HfConfig, vocabulary: HfVocabulary) -> list[str]:
    is_left_out = config.model is not None and vocabulary.silent
    return [f"outputs that write nothing, left out: {len(vocabulary.silent)}"] if is_left_out else []


@dataclass(frozen=True)
class _Pace:
    """The steps of a network whose convolutions are given as (kernel, stride)."""

    layers: tuple[tuple[int, int], ...]

    @property
    def stride(self) -> int:
        """Samples per step."""
        return math.prod(stride for _, stride in self.layers)

    def __call__(self, num_samples_b: Tensor) -> Tensor:
        """Count the steps of waves. Shapes: (b,) -> (b,)."""
        return unpadded_steps(self.layers, num_samples_b)


def _pace_and_outputs(
    folder: Path, config: HfConfig, tensors: Mapping[str, Tensor], path: Path
) -> tuple[_Pace | Steps | SampleSteps, int]:
    """Return how many steps the network has for a number of samples, and how many outputs for a step."""
    if config.model is not None and config.features is not None:
        extractor = parakeet.build_extractor(config.features, config.sample_rate_hz, folder)
        return SampleSteps(extractor, config.model), parakeet_outputs(tensors, path)
    if config.shape is None:
        other = describe_other(folder, config)
        return other.steps, other.outputs
    return _Pace(tuple((conv.kernel, conv.stride) for conv in config.shape.convs)), outputs_of(tensors, path)


def load_network(known: HfDescription) -> HfNetwork | OtherNetwork | TrainableNetwork:
    """Load the network of a model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the weights are damaged, or not those of the network that ``config.json`` describes.
    """
    vocabulary = known.vocabulary
    if known.config.family == "parakeet":
        tensors, path = read_file_tensors(known.folder, known.config, known.language)
        network = _parakeet(known)
        parakeet.fill(network, tensors, path, vocabulary.columns)
        return network
    if known.config.shape is None:
        return load_other(known.folder, known.config, vocabulary.columns, vocabulary.silent)
    tensors = read_weights(known.folder, known.config, known.language)
    model = plan(known.config, len(tensors["lm_head.weight"]))
    model.load_state_dict(tensors, assign=True)
    return HfNetwork(known.config, model, vocabulary.columns, vocabulary.silent).eval()


def _parakeet(known: HfDescription) -> TrainableNetwork:
    """Build the network of a Parakeet without memory for its weights."""
    features, model = known.config.features, known.config.model
    assert features is not None and model is not None
    return parakeet.plan(model, features, len(known.vocabulary.columns), known.folder)


def parts(known: HfDescription) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of a model's network in order, for people."""
    tokens, silent = len(known.vocabulary.columns), len(known.vocabulary.silent)
    if known.config.family == "parakeet":
        return parts_of(_parakeet(known))
    if known.config.shape is None:
        other = describe_other(known.folder, known.config)
        return [("network", f"{known.config.architecture} of transformers", other.num_parameters)]
    model = plan(known.config, tokens + silent)
    shape = f"{tokens} tokens with the blank" + (f", {silent} outputs that write nothing" if silent else "")
    return [*model.body.part_rows(), ("output", shape, count(model.lm_head))]
