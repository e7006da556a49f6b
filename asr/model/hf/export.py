"""Write a model of ours as a folder that ``transformers`` loads, for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from asr.errors import ConfigError
from asr.files import replace_folder, write_json, write_text
from asr.model.checkpoint import load_trainable, model_tensors
from asr.model.folder import find_model
from asr.model.hf import export_parakeet, export_wav2vec2
from asr.model.hf.card import write_card
from asr.model.model_files import read_object, writing
from asr.model.tensor_files import write_tensors
from asr.model.trainable import TrainableModel

#: what writes the files, by encoder
_FORMATS = {"wav2vec2": export_wav2vec2, "conformer": export_parakeet}
_OURS = "network."


def export_model(path: str | Path, out: Path) -> None:
    """Write the model in a folder, or in a run's ``best``, to a new folder in the format of Hugging Face.

    Raises:
        CheckpointError: there is no whole model, or the folder cannot be written.
        ConfigError: ``transformers`` has no network of its kind; or the folder is not empty.
    """
    model = load_trainable(path)
    if why := _unfit(model):
        raise ConfigError(f"{path}: {why}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; choose another folder, or remove it")

    measured = find_model(path) / "results.json"
    results = read_object(measured) if measured.is_file() else {}
    form = _FORMATS[model.network.cfg.encoder]
    files = form.json_files(model)
    own = {name.removeprefix(_OURS): one for name, one in model_tensors(model).items() if name.startswith(_OURS)}
    with writing(out), replace_folder(out) as part:
        write_tensors(part / "model.safetensors", form.hub_tensors(own, files["config.json"]), {"format": "pt"})
        for name, content in files.items():
            write_json(part / name, content)
        write_text(part / "README.md", write_card(model, results, form.USAGE))


def _unfit(model: TrainableModel) -> str:
    """Say why ``transformers`` has no network like this; empty: it has."""
    encoder = model.network.cfg.encoder
    if encoder == "conformer":
        return export_parakeet.unfit(model)
    if encoder == "wav2vec2":
        return ""
    return (
        f"transformers has no network like ours with model.encoder: {encoder}; what can be exported was fine-tuned "
        "from wav2vec 2.0, HuBERT or WavLM (model.encoder: wav2vec2), or is a Conformer"
    )
