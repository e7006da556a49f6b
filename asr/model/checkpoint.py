"""Model folders and training checkpoints, read and written with torch. Loading runs no code.

``docs/formats.md`` defines both formats.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.config import AudioConfig, FeatureConfig, ModelConfig, TextConfig
from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.features.build import build_extractor
from asr.features.extractor import Extractor
from asr.files import recover_folder, remove_parts, replace_folder, write_json
from asr.model.build import build_network
from asr.model.contract import AcousticModel
from asr.model.folder import (
    FORMAT_VERSION,
    ModelFolderConfig,
    find_model,
    is_exported,
    published,
    read_model_config,
    refuse_exported,
    refuse_published,
)
from asr.model.model_files import check_alike, read_object, split_by_prefix, writing
from asr.model.tensor_files import fill, planned, read_tensors, write_tensors
from asr.model.trainable import TrainableModel as TrainableModel
from asr.model.trainable import check_attention_of


def build_model(
    audio: AudioConfig, text: TextConfig, features: FeatureConfig, model: ModelConfig, tokenizer: Tokenizer
) -> TrainableModel:
    """Build a new model with random weights, drawn from torch's generator."""
    extractor = build_extractor(features, audio.sample_rate_hz)
    network = build_network(model, extractor.num_bins, tokenizer.vocabulary_size)
    return TrainableModel(network, extractor, tokenizer, audio, text, {})


def model_tensors(model: TrainableModel) -> dict[str, Tensor]:
    """Return weights, running statistics and feature statistics by name, ready to be saved."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in _own_tensors(model).items()}


def _own_tensors(model: TrainableModel) -> dict[str, Tensor]:
    tensors = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    statistics = model.extractor.statistics()
    return tensors | {f"features.{name}": torch.from_numpy(values) for name, values in statistics.items()}


def set_model_tensors(model: TrainableModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors that ``model_tensors`` gave.

    Raises:
        CheckpointError: a tensor is missing, foreign, or of another type or shape than the config asks for.
    """
    check_alike(tensors, _own_tensors(model), path)
    groups = split_by_prefix(tensors)
    model.network.load_state_dict(groups["network"])
    _set_statistics(model.extractor, groups)


def _set_statistics(extractor: Extractor, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    extractor.set_statistics({name: tensor.numpy() for name, tensor in groups.get("features", {}).items()})


def folder_config(model: TrainableModel) -> ModelFolderConfig:
    """Return the content of ``config.json``."""
    return ModelFolderConfig(
        format_version=FORMAT_VERSION,
        audio=model.audio,
        text=model.text,
        features=model.extractor.cfg,
        model=model.network.cfg,
        training=model.training,
    )


def save_model(
    path: Path, model: TrainableModel, tensors: Mapping[str, Tensor], results: dict[str, Any] | None
) -> None:
    """Write a model folder atomically.

    Raises:
        CheckpointError: it cannot be written; what was there before is kept.
    """
    with writing(path), replace_folder(path) as part:
        write_json(part / "config.json", folder_config(model).model_dump(mode="json", exclude={"export"}))
        write_tensors(part / "model.safetensors", tensors)
        write_json(part / "tokenizer.json", model.tokenizer.to_json())
        if results is not None:
            write_json(part / "results.json", results)


def load_model(path: str | Path, device: torch.device | str = "cpu") -> AcousticModel:
    """Load the model in a folder (or in a run folder's ``best``), or a published one; in evaluation mode.

    Raises:
        CheckpointError: a file is missing, truncated or foreign; it is named. Or a published model cannot be fetched.
        ConfigError: no published model has that name.
    """
    if (known := published(path)) is not None:
        return known.load(path, device)
    if is_exported(folder := find_model(path)):
        from asr.model.onnx.run import load_exported  # loads onnxruntime

        return load_exported(folder, str(device))
    return load_trainable(path, device)


def load_trainable(path: str | Path, device: torch.device | str = "cpu") -> TrainableModel:
    """Load the model in a folder, or in a run folder's ``best``, in evaluation mode.

    Raises:
        CheckpointError: a file is missing, truncated or foreign; it is named.
        ConfigError: it is a published model.
    """
    refuse_published(path)
    folder = find_model(path)
    refuse_exported(folder)
    config = read_model_config(folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    try:
        extractor = build_extractor(config.features, config.audio.sample_rate_hz)
        check_attention_of(config.model, extractor.hop_s)
        network = planned(lambda: build_network(config.model, extractor.num_bins, tokenizer.vocabulary_size))
    except ConfigError as error:
        raise CheckpointError(str(error), folder / "config.json") from error

    model = TrainableModel(network, extractor, tokenizer, config.audio, config.text, dict(config.training))
    weights = folder / "model.safetensors"
    tensors = read_tensors(weights)
    check_alike(tensors, _own_tensors(model), weights)
    groups = split_by_prefix(tensors)
    fill(network, groups["network"])
    _set_statistics(extractor, groups)
    network.to(device).eval()
    extractor.use_device(device)
    return model


@dataclass(frozen=True)
class TrainingState:
    """A checkpoint of a run: model and optimiser tensors by name, and the numbers that are needed to resume."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


def save_state(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write ``step-<n>`` under a run's ``checkpoints`` folder atomically; keep it and the ``keep`` - 1 steps before it.

    Raises:
        CheckpointError: it cannot be written; the checkpoints before it are kept.
    """
    path = folder / f"step-{step:08d}"
    with writing(path), replace_folder(path) as part:
        write_json(part / "state.json", dict(state))
        write_tensors(part / "state.safetensors", tensors)
    # Old ones are removed only now: the newest of them may be damaged, and the next the only one to resume from. Newer
    # steps than this one are damaged, or the run would have resumed from them: they must not count as kept.
    states = _states(folder)
    place = states.index(path)
    for old in [*states[:place], *states[place + keep :]]:
        shutil.rmtree(old, ignore_errors=True)
    remove_parts(folder, "step-*.part")
    return path


def has_state(folder: Path) -> bool:
    """Check whether a run has any checkpoint, whole or damaged."""
    return bool(_states(folder))


def load_state(folder: Path) -> tuple[TrainingState, list[str]]:
    """Load the newest whole checkpoint of a run; also return a line for each damaged one that was skipped.

    Raises:
        CheckpointError: there is no usable checkpoint.
    """
    skipped: list[str] = []
    for path in _states(folder):
        try:
            tensors = read_tensors(path / "state.safetensors")
            state = read_object(path / "state.json")
            return TrainingState(tensors, state, path), skipped
        except CheckpointError as error:
            skipped.append(str(error))
    reason = f" ({skipped[0]})" if skipped else ""
    raise CheckpointError(f"no checkpoint to resume from{reason}", folder)


def _states(folder: Path) -> list[Path]:
    """List checkpoint folders, newest first."""
    for old in folder.glob("step-*.old"):
        recover_folder(old.with_suffix(""))
    return sorted((p for p in folder.glob("step-*") if p.suffix == ""), reverse=True)
