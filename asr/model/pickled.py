"""Weights that ``torch.save`` wrote, as other toolkits keep them. They are read as tensors only: no code is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.files import open_regular
from asr.model.foreign import kind_of_file


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read a file of ``torch.save``; its values are mapped, and read when they are first used.

    Raises:
        CheckpointError: it asks for code, is damaged, or holds something else than tensors by name.
    """
    try:
        with open_regular(path) as file:
            is_zip = _check_container(file)
        data = _load(path, mmap=is_zip)
    except Exception as error:  # torch raises errors of nine kinds for a file that is no weights
        raise CheckpointError(_why_no_weights(error, path), path) from error
    return _tensors(data, path)


def read_pickle_in(file: BinaryIO, path: Path, device: str) -> dict[str, Tensor]:
    """Read what ``torch.save`` wrote into a part of a file.

    Args:
        path: of the file around it, for errors.
        device: "meta": names, shapes and types without values.

    Raises:
        CheckpointError: as ``read_pickle``.
    """
    try:
        _check_container(file)
        file.seek(0)
        data = _load(file, map_location=device)
    except Exception as error:
        raise CheckpointError(_why_no_weights(error), path) from error
    return _tensors(data, path)


def _check_container(file: BinaryIO) -> bool:
    """Return true for a zip archive; raise for one that is cut, or whose content may unpack to any size."""
    head = file.read(16)
    is_zip = zipfile.is_zipfile(file)
    if is_zip and any(one.compress_type != zipfile.ZIP_STORED for one in zipfile.ZipFile(file).infolist()):
        raise ValueError("it is compressed, which torch.save does not do")
    if head.startswith(b"PK") and not is_zip:
        raise ValueError("it was cut short")
    return is_zip


def _load(source: Path | BinaryIO, map_location: str = "cpu", mmap: bool = False) -> Any:
    with warnings.catch_warnings():  # of a pickle protocol, before it is refused
        warnings.simplefilter("ignore")
        return torch.load(source, map_location=map_location, weights_only=True, mmap=mmap)


def _tensors(data: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(data, dict) or not data:
        raise CheckpointError(f"expected tensors by name, got {type(data).__name__}", path)
    for name, tensor in data.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise CheckpointError(f"{str(name)[:80]!r} is no plain tensor", path)
    return {name: tensor.detach() for name, tensor in data.items()}


def _why_no_weights(error: Exception, path: Path | None = None) -> str:
    """Say what is wrong with weights that torch refuses; with the path of a file that holds nothing else."""
    kind = kind_of_file(path) if path else ""
    if kind.startswith("a Git LFS pointer"):
        return f"not a whole file of weights (it seems to be {kind})"
    if isinstance(error, pickle.UnpicklingError):
        # torch's own text is a page about its switches.
        if "GLOBAL" in str(error):
            return "asks for code, which is not run" + ("; get the model as model.safetensors" if path else "")
        return "not a whole file of weights (torch.save did not write it)"
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"not a whole file of weights ({reason})"


def _is_plain(tensor: Any) -> bool:
    """Check that a tensor is numbers which the file holds one by one."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type not in ("cpu", "meta"):
        return False
    return not tensor.is_quantized and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
