"""The record of a neural language model's training: of what text, with which settings. A resumed one must fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr.data.tokenizer_file import FILE as TOKENIZER
from asr.errors import CheckpointError, ConfigError, DataError, os_reason
from asr.files import write_json
from asr.lm.neural.config import RnnTrainConfig
from asr.lm.neural.text import Reading
from asr.model.model_files import read_json


def begin_training(out: Path, reading: Reading, cfg: RnnTrainConfig) -> None:
    """Check that the folder holds this very training; if it holds nothing, begin the training there.

    Raises:
        ConfigError, DataError: it holds another training, or something else.
    """
    path = out / "training.json"
    # without the keys that only say how it is computed
    settings = cfg.model_dump(mode="json", exclude={"device", "threads", "checkpoint_every_s"})
    record = {"format_version": 1, "text_sha256": reading.sha256, "settings": settings}
    advice = "choose another --out, or remove this folder"
    if path.exists():
        _compare(out, record, reading, advice)
        return
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"{out} holds something else; {advice}")

    try:
        # The record comes first: a kill after it leaves a training that has begun.
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        write_json(out / TOKENIZER, reading.tokenizer.to_json())
    except OSError as error:
        raise CheckpointError(f"cannot write: {os_reason(error)}", out) from error


def _compare(out: Path, record: dict[str, Any], reading: Reading, advice: str) -> None:
    before = read_json(out / "training.json")
    try:
        for key, value in record["settings"].items():
            was = before["settings"][key]
            if was != value:
                raise ConfigError(f"{out} holds a training with {key} {was}, now it is {value}; {advice}", key=key)
        same_text = before["text_sha256"] == reading.sha256
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"not the record of a training; {advice}", out / "training.json") from error

    if not (out / TOKENIZER).exists():  # killed before it was written
        write_json(out / TOKENIZER, reading.tokenizer.to_json())
    if not same_text or read_json(out / TOKENIZER) != reading.tokenizer.to_json():
        what = "tokenizer" if same_text else "text"
        raise DataError(f"{out} holds a training on another {what}, which this would not continue; {advice}")
