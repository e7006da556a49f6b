"""Files of models and checkpoints: tensors as safetensors, everything else as JSON. Reading runs no code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asr import files
from asr.errors import CheckpointError, os_reason
from asr.limits import TENSOR_HEADER
from asr.model.foreign import kind_of_file

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
    try:
        with files.open_regular(path) as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if TENSOR_HEADER < header_bytes < path.stat().st_size:
            raise ValueError(f"a header of {header_bytes:,} bytes, more than any model of asr has")
        tensors: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:  # the last two: shapes that torch refuses
        kind = kind_of_file(path)
        reason = " ".join(str(error).split())[:200]
        what = f"it seems to be {kind}" if kind and not kind.startswith("safetensors") else reason
        raise CheckpointError(f"not a whole safetensors file ({what})", path) from error
    return tensors


def check_alike(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, config: str = "config.json"
) -> None:
    """Compare names, shapes and types of a file's tensors with those of a network, which may be a planned one.

    Args:
        config: the name of the file that asks for the network.

    Raises:
        CheckpointError: a tensor is missing, foreign, or of another shape or type than the config asks for.
    """
    for name, wanted in expected.items():
        if name not in tensors:
            raise CheckpointError(f"holds no tensor '{name}', which {config} asks for", path)
        got = tensors[name]
        if got.shape != wanted.shape:
            shapes = f"shape {list(got.shape)}, {config} asks for {list(wanted.shape)}"
            raise CheckpointError(f"tensor '{name}' has {shapes}", path)
        if got.dtype != wanted.dtype:
            raise CheckpointError(f"tensor '{name}' has type {got.dtype}, expected {wanted.dtype}", path)

    extra = sorted(set(tensors) - set(expected))
    if extra:
        raise CheckpointError(f"holds a tensor '{extra[0]}' that {config} does not ask for", path)


def split_by_prefix(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group tensors by the part of their names before the first dot.

    >>> split_by_prefix({"model.a.b": 1, "states": 2})
    {'model': {'a.b': 1}, 'states': {'': 2}}
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        groups.setdefault(prefix, {})[rest] = tensor
    return groups


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the usual permissions; the library itself lets only the writer read it."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        CheckpointError: missing, unreadable, or not JSON.
    """
    try:
        return files.read_json(path)
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except ValueError as error:
        raise CheckpointError(f"not valid JSON ({error}); the file is damaged or was cut short", path) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        CheckpointError: missing, unreadable, or not a JSON object.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise CheckpointError(f"expected an object, got {type(data).__name__}", path)
    return data


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into a CheckpointError that says what is still good."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        raise CheckpointError(
            f"cannot save: {reason}; nothing that was there has changed: free space or choose another folder", path
        ) from error
