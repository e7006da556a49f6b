"""``nemo:FILE`` as a kind of MODEL: the functions that ``asr.model.published`` asks for.

What comes out is a network of ours with everything around it, so that it can also be trained and saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.config import AudioConfig, TextConfig
from asr.data.tokenizer import Tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.features.parakeet import ParakeetExtractor
from asr.model.nemo.archive import CONFIG, NemoArchive, open_archive
from asr.model.nemo.config import NemoConfig, read_config
from asr.model.nemo.names import parse
from asr.model.nemo.names import settings_folder as settings_folder
from asr.model.nemo.vocabulary import NemoVocabulary, of_labels, of_sentencepiece
from asr.model.nemo.weights import check_filters, encoder_and_head
from asr.model.parakeet import SampleSteps, check_weights, fill_network, outputs_of, plan_network
from asr.model.trainable import ModelStages, TrainableModel, TrainableNetwork, check_attention_of
from asr.model.trainable import describe as parts_of


@dataclass(frozen=True)
class NemoDescription:
    """All that is known of a model without the values of its weights."""

    path: Path
    config: NemoConfig
    vocabulary: NemoVocabulary
    extractor: ParakeetExtractor
    #: without memory for its weights
    plan: TrainableNetwork
    #: its making, as ``config.json`` of a model folder has it
    training: dict[str, Any]

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokens of the network's outputs."""
        return self.vocabulary.tokenizer

    @property
    def audio(self) -> AudioConfig:
        """Return the sound that it takes."""
        return self.config.audio

    @property
    def text(self) -> TextConfig:
        """Return the text that it writes."""
        return TextConfig(normalization=self.vocabulary.profile)

    @property
    def num_steps(self) -> SampleSteps:
        """Return what counts the steps of waves."""
        return SampleSteps(self.extractor, self.config.model)

    @property
    def stride(self) -> int:
        """Samples per step."""
        return self.num_steps.stride


def describe(model: str | Path) -> NemoDescription:
    """Describe a model; of its weights only names and shapes are read.

    Raises:
        CheckpointError: the file is missing, damaged or asks for code, or it is no Conformer with CTC.
    """
    with open_archive(parse(model)) as archive:
        return _describe(archive)


def load(model: str | Path, device: torch.device | str = "cpu") -> TrainableModel:
    """Load a model in evaluation mode; its network is one of ours.

    Raises:
        CheckpointError: as ``describe``.
    """
    with open_archive(parse(model)) as archive:
        known = _describe(archive)
        tensors = archive.weights("cpu")
    check_filters(tensors, known.extractor, known.path)
    fill_network(known.plan, encoder_and_head(tensors, known.config.head), known.vocabulary.columns)
    network = known.plan.to(device).eval()
    return TrainableModel(network, known.extractor, known.tokenizer, known.audio, known.text, known.training)


def start_stages(model: str | Path) -> ModelStages:
    """Return the config of a model's network.

    Raises:
        CheckpointError: as ``describe``.
    """
    config = describe(model).config
    return ModelStages(config.audio, config.features, config.model)


def load_to_train(model: str | Path) -> TrainableModel:
    """Load a model to train on.

    Raises:
        CheckpointError: as ``describe``.
    """
    return load(model)


def parts(model: str | Path) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of a model's network in order, for people."""
    return parts_of(describe(model).plan)


def shipped_settings(model: str | Path) -> None:
    """Return nothing: no model comes with a language model."""


def _describe(archive: NemoArchive) -> NemoDescription:
    """Describe the model in an open archive; its weights are compared with what its config asks for."""
    path = archive.path
    config = read_config(archive.config(), path)
    tensors = archive.weights("meta")
    own = encoder_and_head(tensors, config.head)
    outputs = outputs_of(own, path)
    if config.tokenizer is None:
        vocabulary = of_labels(config.labels, outputs, path)
    else:
        vocabulary = of_sentencepiece(archive.read(config.tokenizer), outputs, path)
    try:
        extractor = ParakeetExtractor(config.features, config.audio.sample_rate_hz)
        check_attention_of(config.model, extractor.hop_s)
        plan = plan_network(config.model, extractor.num_bins, len(vocabulary.columns))
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG}: {error}", path) from error
    check_weights(plan, own, path, CONFIG)
    return NemoDescription(path, config, vocabulary, extractor, plan, _training(config, vocabulary, tensors, path))


def _training(
    config: NemoConfig, vocabulary: NemoVocabulary, tensors: Mapping[str, Tensor], path: Path
) -> dict[str, Any]:
    """Say what the model is."""
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    stored = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in floats))
    left_out = sorted({name.partition(".")[0] for name in tensors} & {"decoder", "joint"} - {config.head})
    return {
        "source": f"{config.architecture} of NVIDIA NeMo in {path}",
        "weights": stored if stored == "float32" else f"{stored} in the file, float32 in use",
        "left out": "the transducer beside the CTC head" if left_out else "",
        "vocabulary": vocabulary.note,
    }
