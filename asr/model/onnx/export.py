"""Write a model of ours as a folder with an ONNX graph, which onnxruntime runs, here and elsewhere.

Axes: b batch, n samples, t frames, f bins.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import asr
from asr.config import FeatureConfig
from asr.decode.tuned import FILE, NEURAL_LM, lm_path, read_tuned, write_tuned
from asr.errors import AsrError, CheckpointError, ConfigError
from asr.files import replace_folder, write_bytes, write_json
from asr.model.checkpoint import folder_config, load_trainable
from asr.model.folder import ModelFolderConfig, find_model
from asr.model.model_files import read_object, writing
from asr.model.onnx.card import MODEL, ExportFacts
from asr.model.onnx.form import Form
from asr.model.onnx.session import Session
from asr.model.streamable import why_not
from asr.model.trainable import TrainableModel

WEIGHTS = ("fp32", "fp16")
#: networks that can be written
_ENCODERS = ("recurrent", "tdnn", "mlp")
#: 2 GB of float32 is the most that a file holds
_MOST_PARAMETERS = 500_000_000
#: a file with the words of a language model that count as known
_WORDS = "lm-words.txt"


def export_model(
    path: str | Path, out: Path, *, features: bool = False, streaming: bool = False, weights: str = "fp32"
) -> None:
    """Write the model in a folder, or in a run's ``best``, to a new folder with an ONNX graph.

    Args:
        features: the graph takes samples, and computes the features itself.
        streaming: the graph takes a piece at a time, with its state as inputs and outputs.
        weights: how the file stores them: fp32, or fp16 in half the space; products are float32 in both.

    Raises:
        CheckpointError: there is no whole model, or the folder cannot be written.
        ConfigError: there is no graph for its kind; or the folder is not empty.
        AsrError: onnx or onnxruntime is missing, or the graph does not compute what the network does.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"--weights {weights}: expected {' or '.join(WEIGHTS)}")
    model = load_trainable(path)
    form = Form(features, streaming, weights)
    if why := _unfit(model, form):
        raise ConfigError(f"{path}: {why}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; choose another folder, or remove it")

    graph, difference = _checked_graph(model, form)
    source = find_model(path)
    facts = ExportFacts(
        format="onnx",
        asr=asr.__version__,
        sha256=hashlib.sha256(graph).hexdigest(),
        features_in_graph=features,
        streaming=streaming,
        weights=weights,
        parameters=model.num_parameters,
        max_difference=difference,
        statistics={} if features else {name: one.tolist() for name, one in model.extractor.statistics().items()},
        results=read_object(source / "results.json") if (source / "results.json").is_file() else {},
        corpus=model.training.get("corpus"),
        licence=model.training.get("licence"),
    )
    with writing(out), replace_folder(out) as part:
        write_bytes(part / MODEL, graph)
        write_json(part / "config.json", _config(model, facts).model_dump(mode="json"))
        write_json(part / "tokenizer.json", model.tokenizer.to_json())
        if (source / "results.json").is_file():
            shutil.copyfile(source / "results.json", part / "results.json")
        _copy_decoder(source, part)


def _unfit(model: TrainableModel, form: Form) -> str:
    """Say why there is no such graph for a model; empty: there is one."""
    cfg = model.network.cfg
    if cfg.encoder not in _ENCODERS:
        known = ", ".join(_ENCODERS)
        return f"there is no graph for model.encoder: {cfg.encoder} ({known} have one); try --to hf"
    if model.extractor.cfg.kind == "hf":
        return "features.kind: hf needs the network that makes them, which has no graph"
    if model.num_parameters > _MOST_PARAMETERS:
        return f"an ONNX file holds 2 GB of weights, and this network has {model.num_parameters:,} weights of 4 bytes"
    if not form.streaming:
        return ""
    why = why_not(cfg)
    if why:
        return f"{why}, so there is no streaming graph; leave out --streaming"
    return _unfit_to_stream(model.extractor.cfg) if form.features else ""


def _unfit_to_stream(cfg: FeatureConfig) -> str:
    """Say why features cannot be computed piece by piece; empty: they can."""
    for key, value, needed in (
        ("normalization", cfg.normalization, cfg.normalization != "utterance"),
        ("deltas", cfg.deltas, not cfg.deltas),
        ("context_frames", cfg.context_frames, not cfg.context_frames),
        ("hop_s", cfg.hop_s, cfg.hop_s <= cfg.window_s),
    ):
        if not needed:
            return (
                f"features.{key}: {value} cannot be computed piece by piece in the graph; "
                "leave out --features, and compute them beside it"
            )
    return ""


def _checked_graph(model: TrainableModel, form: Form) -> tuple[bytes, float]:
    """Write the graph; also return the largest difference of a log-probability from the network's.

    The float32 graph must equal the network; with rounded weights the difference is what the rounding does.
    """
    from asr.model.onnx.check import check, largest_difference  # onnxruntime is loaded for this alone

    graph = _graph(model, form._replace(weights="fp32"))
    difference = check(model, Session(graph), from_samples=form.features)
    if form.weights != "fp32":
        graph = _graph(model, form)
        difference = largest_difference(model, Session(graph), from_samples=form.features)
    return graph, difference


def _graph(model: TrainableModel, form: Form) -> bytes:
    """Write the graph of a model."""
    try:
        from asr.model.onnx.write import write_graph
    except ImportError as error:
        raise AsrError("writing a graph needs onnx: pip install 'asr-ctc[onnx]'") from error

    arrays = {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}
    return write_graph(model.network.cfg, arrays, model.extractor, form, _metadata(model))


def _metadata(model: TrainableModel) -> dict[str, str]:
    """Return what a program needs beside the graph itself."""
    return {
        "sample_rate_hz": str(model.audio.sample_rate_hz),
        "tokens": json.dumps(["", *model.tokenizer.symbols], ensure_ascii=False),
        "stride": str(model.network.stride),
        "hop_s": str(model.extractor.hop_s),
        "asr": asr.__version__,
    }


def _config(model: TrainableModel, facts: ExportFacts) -> ModelFolderConfig:
    """Return the config of the model's folder, with what is known of the export."""
    return folder_config(model).model_copy(update={"export": facts})


def _copy_decoder(source: Path, part: Path) -> None:
    """Copy the tuned settings with their language models, so that the folder is whole wherever it goes."""
    tuned = read_tuned(source)
    if tuned is None:
        return
    found = lm_path(source, tuned)
    if found is not None:
        shutil.copyfile(found, part / found.name)
        tuned = tuned.model_copy(update={"lm": found.name})
    if tuned.lm_words:
        _copy(source / tuned.lm_words, part / _WORDS, source)
        tuned = tuned.model_copy(update={"lm_words": _WORDS})
    if tuned.rescore is not None:
        _copy(source / tuned.rescore.model, part / NEURAL_LM, source)
        tuned = tuned.model_copy(update={"rescore": tuned.rescore.model_copy(update={"model": NEURAL_LM})})
    write_tuned(part, tuned)


def _copy(place: Path, target: Path, source: Path) -> None:
    """Copy a file or a folder that a tuned decoder needs."""
    if not place.exists():
        raise CheckpointError(
            f"the settings were tuned with {place}, which is not there; run asr tune again", source / FILE
        )
    if place.is_dir():
        shutil.copytree(place, target)
    else:
        shutil.copyfile(place, target)
