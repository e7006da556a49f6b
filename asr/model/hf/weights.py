"""The weights of a folder of the Hugging Face hub, by the names of our modules. Reading runs no code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from asr.errors import CheckpointError, nearest
from asr.model.hf.config import LEAN, HfConfig
from asr.model.hf.network import plan
from asr.model.model_files import check_alike, read_json
from asr.model.pickled import read_pickle
from asr.model.tensor_files import read_tensors

#: what of the network is for pretraining only
_OF_PRETRAINING = re.compile(r"quantizer\.|project_hid\.|project_q\.")
#: and for training: what stands for masked steps
_OF_TRAINING = re.compile(rf"{_OF_PRETRAINING.pattern}|\w+\.masked_spec_embed$")
#: the names of the same weight norm before torch 2.1, and since
_NORM_NAMES = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
#: types that are float32 in use
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*")
#: what the names of the output layer begin with
HEAD = "lm_head."
_MASK = "body.masked_spec_embed"


def read_weights(folder: Path, config: HfConfig, language: str | None = None) -> dict[str, Tensor]:
    """Read the weights of a lean network as float32: ``body.…`` and ``lm_head.…``.

    Args:
        language: the one whose adapter is read, of a model that has them (MMS); None: what stands in the weights.

    Raises:
        CheckpointError: a file is missing, damaged or asks for code; a tensor is missing, foreign, or of another shape
            or type than the config asks for; or the model has no adapter for the language.
    """
    tensors, path = read_file_tensors(folder, config, language)
    wanted = plan(config, outputs_of(tensors, path)).state_dict()
    names = {name: file_name(name, LEAN[config.architecture]) for name in wanted}
    if names[_MASK] not in tensors:  # of a model that was trained without masks
        del names[_MASK]

    # Names and shapes are compared in the file's own words, before memory is taken.
    expected = {its: torch.empty(wanted[name].shape, device="meta") for name, its in names.items()}
    check_alike({name: torch.empty(t.shape, device="meta") for name, t in tensors.items()}, expected, path)
    # Copies, as what is read is mapped from a file that may change.
    copies = {name: tensors[its].to(torch.float32, copy=True) for name, its in names.items()}
    copies.setdefault(_MASK, torch.zeros(wanted[_MASK].shape))
    return copies


def read_file_tensors(folder: Path, config: HfConfig, language: str | None) -> tuple[dict[str, Tensor], Path]:
    """Read what the files hold, mapped and by its own names, without what is for pretraining; return the file, too.

    Raises:
        CheckpointError: as ``read_weights``, but for names and shapes.
    """
    tensors, path = _read_main(folder)
    unused = _OF_PRETRAINING if config.family != "other" else _OF_TRAINING
    tensors = {_newer_name(name): t for name, t in tensors.items() if not unused.match(name)}
    if language is not None:
        tensors |= _read_adapter(folder, config, language)
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS and not name.endswith(".num_batches_tracked"):
            raise CheckpointError(f"tensor '{name}' has type {tensor.dtype}, expected a float", path)
    return tensors, path


def outputs_of(tensors: Mapping[str, Tensor], path: Path) -> int:
    """Count the outputs of the network: the rows of the head in the weights, never what the vocabulary says.

    Raises:
        CheckpointError: there is no head.
    """
    head = tensors.get(f"{HEAD}weight")
    if head is None:
        raise CheckpointError(f"holds no '{HEAD}weight': it is pretrained, but not fine-tuned for recognition", path)
    if head.ndim != 2 or len(head) < 2:
        raise CheckpointError(f"'{HEAD}weight' has shape {list(head.shape)}, expected (tokens, units)", path)
    return len(head)


def file_name(name: str, family: str) -> str:
    """Return the name that a file of the hub has for a tensor of ours.

    >>> file_name("body.encoder.layers.0.attention.k_proj.bias", "wavlm")
    'wavlm.encoder.layers.0.attention.k_proj.bias'
    """
    return name.replace("body.", f"{family}.", 1)


def _newer_name(name: str) -> str:
    """Return the name that weight norm has since torch 2.1."""
    before, dot, last = name.rpartition(".")
    return before + dot + _NORM_NAMES.get(last, last)


def _read_main(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Read the first of the usual files that is there."""
    for name, read in (("model.safetensors", read_tensors), ("pytorch_model.bin", read_pickle)):
        if (folder / name).exists():
            return read(folder / name), folder / name
        index = folder / f"{name}.index.json"
        if index.exists():
            tensors: dict[str, Tensor] = {}
            for shard in _shards(index, Path(name).suffix):
                tensors |= read(folder / shard)
            return tensors, index
    raise CheckpointError("holds no weights: neither model.safetensors nor pytorch_model.bin", folder)


def _shards(index: Path, suffix: str) -> list[str]:
    """Return the files that an index names; they must stand beside it."""
    data = read_json(index)
    places = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError("has no 'weight_map' from tensors to files", index)
    shards = list(dict.fromkeys(map(str, places.values())))
    for shard in shards:
        if not _PLAIN_NAME.fullmatch(shard) or not shard.endswith(suffix):
            raise CheckpointError(f"names the file {shard!r}, expected one *{suffix} in the same folder", index)
    return shards


def _read_adapter(folder: Path, config: HfConfig, language: str) -> dict[str, Tensor]:
    """Read the adapter and the head of a language."""
    if config.shape is None or config.shape.adapter_attn_dim is None:
        raise CheckpointError(f"has no adapters for languages (adapter_attn_dim); leave out '#{language}'", folder)
    if not _PLAIN_NAME.fullmatch(language):
        raise CheckpointError(f"{language!r} is no name of a language; expected one such as deu", folder)
    readers = (("safetensors", read_tensors), ("bin", read_pickle))
    for suffix, read in readers:
        path = folder / f"adapter.{language}.{suffix}"
        if path.exists():
            tensors = read(path)
            break
    else:
        have = sorted({p.name.split(".")[1] for suffix, _ in readers for p in folder.glob(f"adapter.*.{suffix}")})
        shown = ", ".join(have[:10]) + (f" and {len(have) - 10} more" if len(have) > 10 else "")
        hint = nearest(language, have)
        raise CheckpointError(f"holds no adapter for '{language}'{hint} (it has {shown or 'none'})", folder)
    foreign = [name for name in tensors if not name.startswith(HEAD) and ".adapter_layer." not in name]
    if foreign:
        raise CheckpointError(f"holds a tensor '{foreign[0]}' that is no part of an adapter", path)
    return tensors
