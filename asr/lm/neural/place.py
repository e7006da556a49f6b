"""Where a neural language model is: its folder, and the files in it. Nothing is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from asr.data.tokenizer_file import FILE as TOKENIZER
from asr.errors import CheckpointError
from asr.files import replace_folder
from asr.model.model_files import read_json, writing

TYPE = "rnn-lm"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
FILES = (WEIGHTS, CONFIG, TOKENIZER)


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
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        hint = "; its training has not come to a first model yet" if (path / "checkpoints").is_dir() else ""
        raise CheckpointError(f"is not the folder of a neural language model: {', '.join(missing)} missing{hint}", path)
    return folder


def copy_rnn(source: Path, target: Path) -> None:
    """Copy the files of a model into another folder, atomically.

    Raises:
        CheckpointError: there is no model, or it cannot be written; what was there before is kept.
    """
    source = find_rnn(source)
    with writing(target), replace_folder(target) as part:
        for name in FILES:
            shutil.copyfile(source / name, part / name)
