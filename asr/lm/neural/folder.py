"""Folders of neural language models: weights, ``config.json``, ``tokenizer.json``. Loading runs no code."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from asr.config import Stage, parse
from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import FILE as TOKENIZER
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.files import replace_folder, write_json
from asr.lm.neural.network import RnnConfig, RnnModel, RnnNetwork
from asr.model.tensor_files import check_alike, fill, planned, read_json, read_tensors, write_tensors, writing

FORMAT_VERSION = 1
TYPE = "rnn-lm"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_FILES = (WEIGHTS, CONFIG, TOKENIZER)


class RnnFolderConfig(Stage):
    """The content of ``config.json``."""

    format_version: int
    #: what tells this folder from an acoustic model's
    type: str
    network: RnnConfig
    #: what is known of its making; nothing in it is needed to load
    training: dict[str, Any] = Field(default_factory=dict)


def is_rnn(path: Path) -> bool:
    """Check whether a folder is a neural language model's, or that of its training."""
    configs = [folder / CONFIG for folder in (path, path / "best") if (folder / CONFIG).exists()]
    try:
        return any(read_json(config).get("type") == TYPE for config in configs)
    except (CheckpointError, AttributeError):
        return False


def find_rnn(path: str | Path) -> Path:
    """Return the model folder that a path means: itself, or the ``best`` of a training's folder.

    Raises:
        CheckpointError: neither; the message says what it is instead.
    """
    path = Path(path)
    folder = path
    if not (path / CONFIG).exists():
        folder = next((path / name for name in ("best", "best.old") if (path / name).is_dir()), path)
    if not folder.exists():
        raise CheckpointError("no such folder of a neural language model", path)
    if not folder.is_dir():
        raise CheckpointError("is a file; a neural language model is a folder, an n-gram model goes to --lm", path)
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        hint = "; its training has not come to a first model yet" if (path / "checkpoints").is_dir() else ""
        raise CheckpointError(f"is not the folder of a neural language model: {', '.join(missing)} missing{hint}", path)
    return folder


def load_rnn(path: str | Path, device: torch.device | str = "cpu") -> RnnModel:
    """Load the model in a folder, ready to score.

    Raises:
        CheckpointError: a file is missing, damaged or foreign; it is named.
    """
    folder = find_rnn(path)
    config = _read_config(folder)
    tokenizer = read_tokenizer(folder / TOKENIZER)
    network = planned(lambda: RnnNetwork(config.network, tokenizer.vocabulary_size))
    tensors = read_tensors(folder / WEIGHTS)
    check_alike(tensors, network.state_dict(), folder / WEIGHTS)
    fill(network, tensors)
    return RnnModel(network.to(device).eval().requires_grad_(False), tokenizer, dict(config.training))


def _read_config(folder: Path) -> RnnFolderConfig:
    path = folder / CONFIG
    data = read_json(path)
    if not isinstance(data, dict) or data.get("type") != TYPE:
        what = "an acoustic model's" if isinstance(data, dict) and "features" in data else "another thing's"
        raise CheckpointError(f"is {what} folder, expected that of a neural language model (asr lm train)", folder)
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"format_version is {version!r}, this version of asr reads {FORMAT_VERSION}", path)
    try:
        return parse(RnnFolderConfig, data, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def tensors_of(network: RnnNetwork) -> dict[str, Tensor]:
    """Return the weights by name, ready to be saved."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def set_tensors(network: RnnNetwork, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights saved by ``tensors_of``.

    Raises:
        CheckpointError: a tensor is missing, foreign, or of another shape or type than the config asks for.
    """
    check_alike(tensors, network.state_dict(), path)
    network.load_state_dict(dict(tensors))


def save_rnn(path: Path, network: RnnNetwork, tokenizer: Tokenizer, training: dict[str, Any]) -> None:
    """Write a folder atomically.

    Raises:
        CheckpointError: it cannot be written; what was there before is kept.
    """
    config = RnnFolderConfig(format_version=FORMAT_VERSION, type=TYPE, network=network.cfg, training=training)
    with writing(path), replace_folder(path) as part:
        write_tensors(part / WEIGHTS, tensors_of(network))
        write_json(part / CONFIG, config.model_dump(mode="json"))
        write_json(part / TOKENIZER, tokenizer.to_json())


def copy_rnn(source: Path, target: Path) -> None:
    """Copy the files of a model into another folder, atomically.

    Raises:
        CheckpointError: there is no model, or it cannot be written; what was there before is kept.
    """
    source = find_rnn(source)
    with writing(target), replace_folder(target) as part:
        for name in _FILES:
            shutil.copyfile(source / name, part / name)


def describe(path: str | Path) -> dict[str, Any]:
    """Return the facts that ``asr info`` prints about a folder.

    Raises:
        CheckpointError: as ``load_rnn``.
    """
    folder = find_rnn(path)
    model = load_rnn(folder)
    cfg = model.network.cfg
    network = f"{cfg.layers} x {cfg.cell.upper()} of {cfg.hidden}, embeddings of {cfg.embed}"
    if cfg.tied:
        network += " that are the output weights too"
    tokenizer = model.tokenizer
    tokens = f": {''.join(tokenizer.symbols)!r}" if tokenizer.kind == "char" else f", {tokenizer.kind}"
    return {
        "path": str(folder),
        "parameters": model.num_parameters,
        "network": network,
        "tokens": f"{tokenizer.vocabulary_size} (sentence boundary first){tokens}",
    } | {f"training {key}": value for key, value in model.training.items()}
