"""A published wav2vec 2.0, HuBERT, WavLM or Parakeet as one of our networks, to train on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from asr.config import AudioConfig, FeatureConfig, ModelConfig, TextConfig
from asr.config.networks import Wav2Vec2Config
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.errors import ConfigError
from asr.features.build import build_extractor
from asr.features.extractor import Extractor
from asr.model.hf.body import body_tensors
from asr.model.hf.config import HfConfig, read_config
from asr.model.hf.folder import locate
from asr.model.hf.load import describe, load_network
from asr.model.hf.names import HfName, parse
from asr.model.hf.network import plan
from asr.model.hf.vocabulary import read_vocabulary
from asr.model.hf.weights import HEAD, outputs_of, read_file_tensors, read_weights
from asr.model.tensor_files import fill, planned
from asr.model.trainable import ModelStages, TrainableModel, TrainableNetwork
from asr.model.wav2vec2.network import Wav2Vec2Network


def start_stages(model: str | Path) -> ModelStages:
    """Return the config of a network to train on; of a model on the hub, the weights are fetched, but not read.

    Raises:
        CheckpointError: a file is missing, damaged or refused.
        ConfigError: it is a network that cannot be trained here.
        AsrError: it cannot be fetched.
    """
    _, _, config = _read(model)
    return _stages(config)


def load_to_train(model: str | Path) -> TrainableModel:
    """Load a network to train on. One that was only pretrained has no tokens, and an output of zeros for the blank.

    Raises:
        CheckpointError: as ``start_stages``; or the weights are not those of the network that is described.
        ConfigError, AsrError: as ``start_stages``.
    """
    name, folder, config = _read(model)
    if config.family == "parakeet":
        return _parakeet(model)
    stages = _stages(config)
    tensors, path = read_file_tensors(folder, config, name.language)
    tokenizer: Tokenizer = CharTokenizer(())
    text = TextConfig(normalization="none")
    if f"{HEAD}weight" in tensors:
        vocabulary = read_vocabulary(folder, outputs_of(tensors, path), name.language)
        weights = _with_output(read_weights(folder, config, name.language), torch.tensor(vocabulary.columns))
        tokenizer, text = vocabulary.tokenizer, TextConfig(normalization=vocabulary.profile)
    else:
        weights = _body_alone(tensors, config, path)

    network = planned(lambda: Wav2Vec2Network(stages.model, 1, tokenizer.vocabulary_size))
    fill(network, weights)
    extractor = build_extractor(stages.features, stages.audio.sample_rate_hz)
    return TrainableModel(network.eval(), extractor, tokenizer, stages.audio, text, {})


def _read(model: str | Path) -> tuple[HfName, Path, HfConfig]:
    """Find a model and read its config."""
    name = parse(model)
    folder = locate(name)
    config = read_config(folder, any_head=True)
    if config.family == "other":
        raise ConfigError(
            f"train.init: {model}: {config.why_other}; training starts from wav2vec 2.0, HuBERT, WavLM and Parakeet",
            key="train.init",
        )
    return name, folder, config


def _parakeet(model: str | Path) -> TrainableModel:
    known = describe(model)
    network = load_network(known)
    assert isinstance(network, TrainableNetwork) and isinstance(known.extractor, Extractor)
    return TrainableModel(network, known.extractor, known.tokenizer, known.audio, known.text, {})


def _stages(config: HfConfig) -> ModelStages:
    if config.features is not None and config.model is not None:
        return ModelStages(AudioConfig(sample_rate_hz=config.sample_rate_hz), config.features, config.model)
    return ModelStages(
        audio=AudioConfig(sample_rate_hz=config.sample_rate_hz),
        features=FeatureConfig(kind="wave", normalization="utterance" if config.normalize else "none"),
        model=ModelConfig(encoder="wav2vec2", wav2vec2=Wav2Vec2Config(shape=config.shape)),
    )


def _with_output(weights: Mapping[str, Tensor], columns: Tensor) -> dict[str, Tensor]:
    """Return the weights with the rows of the head in the order of our tokens."""
    return {
        name.replace(HEAD, "output."): tensor[columns] if name.startswith(HEAD) else tensor
        for name, tensor in weights.items()
    }


def _body_alone(found: Mapping[str, Tensor], config: HfConfig, path: Path) -> dict[str, Tensor]:
    """Return the weights below the head, and zeros for it."""
    assert config.shape is not None
    size = config.shape.hidden_size
    zeros = {"output.weight": torch.zeros(1, size), "output.bias": torch.zeros(1)}
    body = body_tensors(found, config, plan(config, 1).body.state_dict(), path)
    return zeros | {f"body.{name}": tensor for name, tensor in body.items()}
