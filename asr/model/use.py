"""Load a MODEL for use: the fastest network for it that this machine runs.

A model folder of a recurrent network needs no torch on a CPU: its weights go straight into the inference network.
Everything else is a network of torch: published models, other kinds of networks, and any network on a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.features.build import build_extractor
from asr.features.extractor import Extractor
from asr.machine import may_have_gpu, needing_torch
from asr.model.contract import AcousticModel
from asr.model.folded import shapes
from asr.model.folder import ModelFolderConfig, find_model, is_exported, published, read_model_config
from asr.model.model_files import ArrayFile, Prefixed, Stored, check_alike
from asr.model.precision import check_precision, fp16_on_cpu, has_inference_network, inference_precision


def load_for_use(path: str | Path, device: str = "auto", precision: str = "auto") -> AcousticModel:
    """Load the model in a folder (or in a run folder's ``best``), or a published one, ready for use.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the network's arithmetic, as in ``prepared``.

    Raises:
        CheckpointError: a file is missing, truncated or foreign; it is named. Or a published model cannot be fetched.
        ConfigError: no published model has that name; or the device or the precision is not there.
        AsrError: torch is needed, and not installed.
    """
    check_precision(precision)
    _check_device(device)
    if precision == "fp16" and _is_on_cpu(device):
        raise fp16_on_cpu()
    if published(path) is not None:
        return _load_with_torch(path, device, precision)

    folder = find_model(path)
    if is_exported(folder):
        from asr.model.onnx.run import load_exported  # loads onnxruntime

        return load_exported(folder, device, precision)
    if _is_on_cpu(device) and has_inference_network(read_model_config(folder).model):
        found = inference_precision(precision)
        if found is not None:
            return _load_without_torch(folder, found)
    return _load_with_torch(path, device, precision)


def _check_device(device: str) -> None:
    """Refuse what is no device's name; whether this machine has the device, torch tells."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"unknown device '{device}' (auto, cpu, cuda, cuda:1)", key="train.device")


def _is_on_cpu(device: str) -> bool:
    return device == "cpu" or (device == "auto" and not may_have_gpu())


@dataclass(frozen=True)
class OpenModel:
    """A model folder of a recurrent network, read as far as it says what it is."""

    config: ModelFolderConfig
    tokenizer: Tokenizer
    extractor: Extractor
    #: of model.safetensors
    arrays: ArrayFile


def open_folder(folder: Path) -> OpenModel:
    """Read a model folder of a recurrent network; its weights are checked, but not read yet.

    Raises:
        CheckpointError: a file is missing, truncated or foreign; it is named.
    """
    config = read_model_config(folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    try:
        extractor = build_extractor(config.features, config.audio.sample_rate_hz)
    except ConfigError as error:
        raise CheckpointError(str(error), folder / "config.json") from error

    weights = folder / "model.safetensors"
    arrays = ArrayFile(weights)
    of_network = shapes(config.model, extractor.num_bins, tokenizer.vocabulary_size)
    expected = {f"network.{name}": Stored(shape, "float32" if shape else "int64") for name, shape in of_network.items()}
    own = extractor.statistics()
    expected |= {f"features.{name}": Stored(value.shape, str(value.dtype)) for name, value in own.items()}
    check_alike(arrays.kinds, expected, weights)
    return OpenModel(config, tokenizer, extractor, arrays)


def _load_without_torch(folder: Path, precision: str) -> AcousticModel:
    from asr.model.cpu.inference import InferenceNetwork

    opened = open_folder(folder)
    config, tokenizer, extractor = opened.config, opened.tokenizer, opened.extractor
    extractor.set_statistics({name: opened.arrays[f"features.{name}"] for name in extractor.statistics()})
    weights = Prefixed(opened.arrays, "network.")
    network = InferenceNetwork(config.model, extractor.num_bins, tokenizer.vocabulary_size, weights, precision)
    return AcousticModel(network, extractor, tokenizer, config.audio, config.text, dict(config.training))


def _load_with_torch(path: str | Path, device: str, precision: str) -> AcousticModel:
    with needing_torch(f"{path}: {'this kind of network' if _is_on_cpu(device) else f'--device {device}'}"):
        from asr.model.checkpoint import load_model
        from asr.model.prepared import prepared
        from asr.runtime import use_device
    return prepared(load_model(path, use_device(device)), precision)
