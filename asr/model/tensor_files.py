"""Files of models and checkpoints: tensors as safetensors, everything else as JSON. Reading runs no code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.errors import CheckpointError, os_reason
from asr.model.foreign import kind_of_file


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        CheckpointError: missing, unreadable, truncated, or another format.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except (SafetensorError, ValueError) as error:
        kind = kind_of_file(path)
        what = f"it seems to be {kind}" if kind and not kind.startswith("safetensors") else str(error)
        raise CheckpointError(f"not a whole safetensors file ({what})", path) from error
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with the usual permissions; the library itself lets only the writer read it."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path)
    path.chmod(mode)


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        CheckpointError: missing, unreadable, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except (ValueError, RecursionError) as error:  # the second: brackets 1,000 deep
        raise CheckpointError(f"not valid JSON ({error}); the file is damaged or was cut short", path) from error


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
