"""``tokenizer.json``: where it is, and the tokenizer that it describes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, get_args

from asr.data.pieces import PieceTokenizer
from asr.data.subwords import SubwordKind, SubwordTokenizer
from asr.data.tokenizer import BLANK_ID, CharTokenizer, Tokenizer
from asr.errors import CheckpointError, ConfigError, os_reason
from asr.files import read_json

FILE = "tokenizer.json"


def tokenizer_from_json(data: Any, path: Path) -> Tokenizer:
    """Return the tokenizer that the content of a ``tokenizer.json`` describes.

    Raises:
        CheckpointError: it is not a description this version knows.
    """
    kinds = ("char", *get_args(SubwordKind), "pieces")
    kind: Any = data.get("kind") if isinstance(data, dict) else type(data).__name__
    if not isinstance(data, dict) or kind not in kinds:
        expected = ", ".join(f"'{k}'" for k in kinds)
        raise CheckpointError(f"not a tokenizer this version knows (kind {kind!r}, expected one of {expected})", path)
    if data.get("blank_id", BLANK_ID) != BLANK_ID:
        raise CheckpointError(f"blank_id must be {BLANK_ID}, got {data['blank_id']!r}", path)
    key = "symbols" if kind in ("char", "pieces") else "pieces"
    symbols = data.get(key)
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
        raise CheckpointError(f"{key} must be a list of strings", path)

    try:
        if kind == "char":
            return CharTokenizer(tuple(symbols))
        if kind == "pieces":
            return PieceTokenizer(tuple(symbols))
        model = base64.b64decode(data.get("sentencepiece", ""), validate=True)
        return SubwordTokenizer(kind, tuple(symbols), model)
    except (TypeError, ValueError) as error:
        raise CheckpointError("sentencepiece must be a model file in base64", path) from error
    except ConfigError as error:
        raise CheckpointError(str(error), path) from error


def find_tokenizer(path: Path) -> Path:
    """Return the file of a tokenizer: the path itself, or that of a model or data folder, or of a run's best model."""
    folder = path / "best" if (path / "best" / FILE).is_file() else path
    return folder / FILE if folder.is_dir() else folder


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` file.

    Raises:
        CheckpointError: the file is missing, unreadable, or not a tokenizer.
    """
    try:
        data = read_json(path)
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except ValueError as error:
        raise CheckpointError(f"not valid JSON ({error})", path) from error
    return tokenizer_from_json(data, path)
