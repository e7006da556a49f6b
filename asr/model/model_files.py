"""Files of a model folder: JSON, and safetensors as arrays. Reading runs no code."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from asr import files
from asr.errors import CheckpointError, os_reason
from asr.limits import TENSOR_HEADER
from asr.model.foreign import kind_of_file

T = TypeVar("T")
#: types of numbers in a safetensors file that numpy has
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "U8": "uint8"}


class Kind(Protocol):
    """The shape and type of a tensor: of numpy, of torch, or in a file."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...


class Stored(NamedTuple):
    """The shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: str


class ArrayFile(Mapping[str, npt.NDArray[Any]]):
    """A safetensors file; an array is read each time that it is asked for, into memory of its own."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CheckpointError: missing, unreadable, truncated, or another format.
        """
        self._path = path
        with reading_tensors(path) as header_bytes:
            opened: Any = safe_open(path, framework="numpy")  # checks the header
            with files.open_regular(path) as file:
                file.seek(8)
                header = json.loads(file.read(header_bytes))
            header.pop("__metadata__", None)
            #: of every array
            self.kinds = {
                name: Stored(tuple(header[name]["shape"]), _DTYPES.get(header[name]["dtype"], header[name]["dtype"]))
                for name in opened.keys()  # noqa: SIM118  # it is no dictionary
            }
            self._starts = {name: 8 + header_bytes + header[name]["data_offsets"][0] for name in self.kinds}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        # Not from a map of the file, whose pages would be held beside what is made of them.
        kind = self.kinds[name]
        with files.open_regular(self._path) as file:
            file.seek(self._starts[name])
            return np.fromfile(file, kind.dtype, math.prod(kind.shape)).reshape(kind.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)


class Prefixed(Mapping[str, npt.NDArray[Any]]):
    """The arrays of a mapping whose names begin with a prefix, by the rest of their names."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> None:
        self._arrays = arrays
        self._prefix = prefix

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._arrays if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@contextmanager
def reading_tensors(path: Path) -> Iterator[int]:
    """Check that a file may be a safetensors file, and turn what its reader raises into a CheckpointError.

    The block gets the size of the header.
    """
    try:
        with files.open_regular(path) as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if TENSOR_HEADER < header_bytes < path.stat().st_size:
            raise ValueError(f"a header of {header_bytes:,} bytes, more than any model of asr has")
        yield header_bytes
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:  # the last two: shapes that torch refuses
        kind = kind_of_file(path)
        reason = " ".join(str(error).split())[:200]
        what = f"it seems to be {kind}" if kind and not kind.startswith("safetensors") else reason
        raise CheckpointError(f"not a whole safetensors file ({what})", path) from error


def check_alike(
    tensors: Mapping[str, Kind], expected: Mapping[str, Kind], path: Path, config: str = "config.json"
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
        if tuple(got.shape) != tuple(wanted.shape):
            shapes = f"shape {list(got.shape)}, {config} asks for {list(wanted.shape)}"
            raise CheckpointError(f"tensor '{name}' has {shapes}", path)
        dtype, asked = (str(kind.dtype).removeprefix("torch.") for kind in (got, wanted))
        if dtype != asked:
            raise CheckpointError(f"tensor '{name}' has type {dtype}, expected {asked}", path)

    extra = sorted(set(tensors) - set(expected))
    if extra:
        raise CheckpointError(f"holds a tensor '{extra[0]}' that {config} does not ask for", path)


def split_by_prefix(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Group tensors by the part of their names before the first dot.

    >>> split_by_prefix({"model.a.b": 1, "states": 2})
    {'model': {'a.b': 1}, 'states': {'': 2}}
    """
    groups: dict[str, dict[str, T]] = {}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        groups.setdefault(prefix, {})[rest] = tensor
    return groups


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
