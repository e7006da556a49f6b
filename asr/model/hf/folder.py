"""The folder of a model of Hugging Face: on this machine, or fetched from the hub into the usual cache.

Only files that are read here are fetched, the small ones first. A folder that asks for code of its own is refused
before its weights are fetched; no code of a folder is ever run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.errors import AsrError, CheckpointError, os_reason
from asr.model.hf.names import PREFIX, HfName
from asr.model.model_files import read_object

_INSTALL = "pip install 'asr-ctc[hf]'"
#: what is read beside the weights. In patterns of the hub a * matches slashes too.
_SMALL = ("*.json", "*.txt", "*.model", "README.md", "hyperparams.yaml")
_LANGUAGE_MODEL = "language_model/*"
_SAFETENSORS = ("model.safetensors", "model-*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
#: the files that may ask for code, and the keys with which they do
_ASKING = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
_CODE_KEYS = ("auto_map", "custom_pipelines")
#: SpeechBrain's: YAML that names Python objects to be made
_HYPERPYYAML = "hyperparams.yaml"


def locate(name: HfName) -> Path:
    """Return the folder of a model. What the cache has is used as it is, without a look at the network.

    Raises:
        CheckpointError: there is no such folder, it is no model of Hugging Face, or it asks for code of its own.
        AsrError: it cannot be fetched; the line says what to do.
    """
    folder = name.folder
    if folder is not None:
        if not folder.is_dir():
            raise CheckpointError("no such folder, and no name on the hub either", folder)
        check_folder(folder)
        return folder

    folder = _snapshot(name, _SMALL)
    check_folder(folder)
    adapter = f"adapter.{name.language}"
    wanted = [*_SMALL, _LANGUAGE_MODEL, *_SAFETENSORS, *([f"{adapter}.safetensors"] if name.language else [])]
    folder = _snapshot(name, wanted)

    # Pickles are fetched only where there is nothing better.
    pickles = [] if any(folder.glob("model*.safetensors")) else list(_PICKLES)
    if name.language and not (folder / f"{adapter}.safetensors").is_file():
        pickles.append(f"{adapter}.bin")
    return _snapshot(name, [*wanted, *pickles]) if pickles else folder


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no model of Hugging Face, or that asks for code of its own.

    Raises:
        CheckpointError: it is refused; the file and the key that ask for code are named.
    """
    if (folder / _HYPERPYYAML).is_file():
        raise CheckpointError(
            "a SpeechBrain model: it is YAML that names the Python code to run, which is never done here",
            folder / _HYPERPYYAML,
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError("no config.json: not a model of Hugging Face Transformers", folder)
    for file in _ASKING:
        if not (folder / file).is_file():
            continue
        config = read_object(folder / file)
        for key in _CODE_KEYS:
            if config.get(key):
                raise CheckpointError(
                    f"asks for Python code of its own ('{key}'), and code of a folder is never run; "
                    "only models that transformers has itself can be used",
                    folder / file,
                )


def _snapshot(name: HfName, patterns: Sequence[str]) -> Path:
    """Return the folder of a model on the hub, with the files of these patterns that it has.

    Raises:
        AsrError: they are not in the cache, and cannot be fetched.
    """
    hub = _hub(name)
    try:
        folder = Path(hub.snapshot_download(name.place, allow_patterns=list(patterns), local_files_only=True))
        if _is_whole(folder, patterns, name):
            return folder
    except hub.errors.LocalEntryNotFoundError:
        pass
    try:
        return Path(hub.snapshot_download(name.place, allow_patterns=list(patterns)))
    except Exception as error:  # the library has some forty kinds, and lets its HTTP client's through
        raise AsrError(f"{name}: {_reason(hub, error, name)}") from error


def _is_whole(folder: Path, patterns: Sequence[str], name: HfName) -> bool:
    """Check that a cached folder has what is asked for: the hub's library hands out interrupted downloads too."""
    if not (folder / "config.json").is_file():
        return False
    if patterns == _SMALL:
        return True
    if name.language and not any(folder.glob(f"adapter.{name.language}.*")):
        return False
    if any((folder / one).is_file() for one in (_SAFETENSORS[0], _PICKLES[0])):
        return True
    for index in _INDEXES:
        if (folder / index).is_file():
            shards = read_object(folder / index).get("weight_map")
            names = set(shards.values()) if isinstance(shards, dict) else set()
            return bool(names) and all(isinstance(one, str) and (folder / Path(one).name).is_file() for one in names)
    return False


def _hub(name: HfName) -> Any:
    """Import the library of the hub, which only a name needs.

    Raises:
        AsrError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise AsrError(
            f"{name}: no folder of that name here, and to fetch it from the hub needs huggingface_hub, which is not "
            f"installed: {_INSTALL}; or fetch it elsewhere and give {PREFIX}FOLDER"
        ) from error
    return huggingface_hub


def _reason(hub: Any, error: Exception, name: HfName) -> str:
    """Say why a model cannot be fetched, and what to do. The library's own text is not shown: it may be long."""
    errors = hub.errors
    elsewhere = f"fetch it where there is one (hf download {name.place} --local-dir FOLDER) and give {PREFIX}FOLDER"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its owner asks for an agreement: accept it at https://huggingface.co/{name.place}, then log in "
            "(hf auth login)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "neither a folder here nor a model on the hub; a private one needs a login (hf auth login)"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if hub.constants.HF_HUB_OFFLINE:
            return f"not in the cache, and HF_HUB_OFFLINE is set; unset it, or {elsewhere}"
        return f"not in the cache, and the hub cannot be reached; without a network, {elsewhere}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be fetched: {os_reason(error)}"
    return f"cannot be fetched ({type(error).__name__}); try again later, or {elsewhere}"
