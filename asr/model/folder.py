"""Model folders: where a MODEL is, and what its ``config.json`` says. The weights are read elsewhere.

A model folder holds ``model.safetensors``, ``config.json`` and ``tokenizer.json`` (and ``results.json`` when something
was measured on it). ``docs/formats.md`` defines the format.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from asr.config import AudioConfig, FeatureConfig, ModelConfig, Stage, TextConfig, parse
from asr.decode.tuned import Tuned
from asr.errors import CheckpointError, ConfigError
from asr.machine import needing_torch
from asr.model.bundle_facts import BUNDLE_FACTS
from asr.model.bundle_facts import PREFIX as BUNDLE
from asr.model.foreign import kind_of_config, kind_of_file, kind_of_folder
from asr.model.hf import names as hf_names
from asr.model.model_files import read_json
from asr.model.nemo import names as nemo_names
from asr.model.onnx.card import MODEL as GRAPH
from asr.model.onnx.card import ExportFacts

if TYPE_CHECKING:
    from asr.model.published import Published

FORMAT_VERSION = 1
#: published models by the prefix of their names
_PUBLISHED = {
    BUNDLE: "a bundle",
    hf_names.PREFIX: "a model of Hugging Face",
    nemo_names.PREFIX: "a model of NeMo",
}
_MODEL_FILES = ("model.safetensors", "config.json", "tokenizer.json")
_EXPORTED_FILES = (GRAPH, *_MODEL_FILES[1:])


class ModelFolderConfig(Stage):
    """The contents of a model folder's ``config.json``."""

    format_version: int
    audio: AudioConfig
    text: TextConfig
    features: FeatureConfig
    model: ModelConfig
    #: its making: commit, corpus, hours, epochs, dev WER; nothing in it is needed to load
    training: dict[str, Any] = Field(default_factory=dict)
    #: of an exported folder: what is known of its graph
    export: ExportFacts | None = None


def published(model: str | Path) -> Published | None:
    """Return the module that knows a published model, by the prefix of its name; None: a folder of our own making.

    This is the one place that tells the kinds of MODEL apart.

    Raises:
        AsrError: it is a published model, and torch is not installed.
    """
    with needing_torch(f"{model}: a published model"):
        if str(model).startswith(BUNDLE):
            from asr.model import bundles

            return bundles
        if hf_names.is_hf(model):
            from asr.model.hf import published as hf

            return hf
        if nemo_names.is_nemo(model):
            from asr.model.nemo import published as nemo

            return nemo
    return None


def find_model(path: str | Path) -> Path:
    """Find the folder of a model: itself, the ``best`` of a run folder, or where a published one's settings are kept.

    Raises:
        CheckpointError: there is no model.
        ConfigError: no published model has that name.
    """
    if (known := published(path)) is not None:
        return known.settings_folder(path)
    path = Path(path)
    if not (path / "config.json").exists():
        # best.old: a run that stopped, or is at this moment, between the two renames of a replacement
        run = path.parent if path.name == "best" else path
        path = next((run / name for name in ("best", "best.old") if (run / name).is_dir()), path)
    if not path.exists():
        hint = ""
        if path.name.isupper() and str(path) in BUNDLE_FACTS:
            hint = f"; did you mean {BUNDLE}{path}?"
        elif str(path).lower().startswith(("hf:", "huggingface:")):
            hint = "; a model of Hugging Face is hf:FOLDER_OR_NAME"
        raise CheckpointError(f"no such model folder or run folder{hint}", path)
    if not path.is_dir():
        kind = kind_of_file(path)
        what = f" (it seems to be {kind})" if kind else ""
        raise CheckpointError(f"is a file{what}; a model is a folder with {', '.join(_MODEL_FILES)}", path)
    files = _EXPORTED_FILES if is_exported(path) else _MODEL_FILES
    missing = [name for name in files if not (path / name).is_file()]
    if missing:
        hint = f" (or {GRAPH}, of an exported model)" if missing == [_MODEL_FILES[0]] else ""
        if (path / "checkpoints").is_dir():
            hint = "; it is a run folder without a best model yet: wait for its first validation"
        elif kind := kind_of_folder(path):
            hint = f"; it seems to be {kind}"
        raise CheckpointError(f"is not a model folder: {', '.join(missing)} missing{hint}", path)
    return path


def is_exported(folder: Path) -> bool:
    """Return true if a folder holds a graph, for use alone, in place of weights."""
    return (folder / GRAPH).is_file() and not (folder / _MODEL_FILES[0]).is_file()


def refuse_exported(folder: Path) -> None:
    """Refuse an exported folder where weights are needed."""
    if is_exported(folder):
        raise CheckpointError("is an exported model, for use alone; give the model that it was exported from", folder)


def shipped_settings(path: str | Path) -> Tuned | None:
    """Return the decoder settings that come with a published model, if any do.

    Raises:
        CheckpointError: they are damaged.
    """
    known = published(path)
    return None if known is None else known.shipped_settings(path)


def refuse_published(path: str | Path) -> None:
    """Refuse a published model where one of ours is needed, also where its name was made a path of a folder."""
    parts = Path(path).parts
    for i, part in enumerate(parts):
        for prefix, kind in _PUBLISHED.items():
            if part.startswith(prefix):
                raise ConfigError(f"{Path(*parts[i:])}: {kind} is no model that asr made; give a model or run folder")


def read_model_config(folder: Path) -> ModelFolderConfig:
    """Read the ``config.json`` of a model folder.

    Raises:
        CheckpointError: unreadable, foreign, or of a newer format.
    """
    path = folder / "config.json"
    data = read_json(path)
    if kind := kind_of_config(path):
        raise CheckpointError(f"seems to be of {kind}; asr reads the models that it trained, and published ones", path)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"format_version is {version!r}, this version of asr reads {FORMAT_VERSION}", path)
    try:
        return parse(ModelFolderConfig, data, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
