"""Folders of neural language models: weights, ``config.json``, ``tokenizer.json``. Loading runs no code."""

from __future__ import annotations

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
from asr.lm.neural.place import CONFIG, TYPE, WEIGHTS, find_rnn
from asr.model.model_files import check_alike, read_json, writing
from asr.model.tensor_files import fill, planned, read_tensors, write_tensors

FORMAT_VERSION = 1


class RnnFolderConfig(Stage):
    """The content of ``config.json``."""

    format_version: int
    #: what tells this folder from an acoustic model's
    type: str
    network: RnnConfig
    #: what is known of its making; nothing in it is needed to load
    training: dict[str, Any] = Field(default_factory=dict)


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
