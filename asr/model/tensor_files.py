"""Tensors of models and checkpoints in safetensors files. Reading runs no code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asr.model.model_files import reading_tensors

N = TypeVar("N", bound=nn.Module)


def planned(build: Callable[[], N]) -> N:
    """Build a network without memory for its weights, whatever sizes a config asks for; ``fill`` gives it weights."""
    with torch.device("meta"), _FirstValuesLeftOut():
        return build()


class _FirstValuesLeftOut(TorchFunctionMode):
    """Skips ``torch.nn.init`` and norms of weights: without memory some of them first load modules for a second."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        if function is torch.norm_except_dim:
            weight, _, kept = args
            return weight.new_empty([size if dim == kept else 1 for dim, size in enumerate(weight.shape)])
        return function(*args, **kwargs)


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a planned network copies of the tensors, which ``check_alike`` must have compared with it."""
    # Copies, as what is read is mapped from a file that may change.
    network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the header of a safetensors file; the values of the tensors are mapped, and read when they are first used.

    Raises:
        CheckpointError: missing, unreadable, truncated, or another format.
    """
    with reading_tensors(path):
        tensors: dict[str, Tensor] = load_file(path)
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the usual permissions; the library itself lets only the writer read it."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)
