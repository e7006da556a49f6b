"""A model that needs no training: random weights, but it always says something, and its batch norm is at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file

from asr.data.tokenizer import CharTokenizer
from asr.model.checkpoint import build_model, model_tensors, save_model
from asr.model.use import load_for_use
from asr.utterance import extract
from tests.builders import ALPHABET, noise, tiny_config


def save_random_model(folder: Path, *settings: str, seed: int = 3, training: dict[str, Any] | None = None) -> Path:
    """Writes a tiny model over the letters of ``build_corpus`` as a model folder; the folder.

    Seed 3 gives texts of several words for every tone.
    """
    cfg = tiny_config(*settings)
    torch.manual_seed(seed)
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(sorted(ALPHABET))))
    with torch.no_grad():
        model.network.output.weight *= 8  # far from a tie between two tokens
    model.training.update(training or {})
    save_model(folder, model, model_tensors(model), None)
    return folder


def save_streaming_model(folder: Path) -> Path:
    """Writes a tiny model that streams: it says words for tones, nothing for noise of 0.01; the folder."""
    save_random_model(folder, "model.bidirectional=false", "features.normalization=corpus", seed=6)
    features_tf = extract(load_for_use(folder, "cpu").extractor, noise(2.0, amplitude=0.01))
    weights = load_file(folder / "model.safetensors")
    weights["features.mean_f"] = features_tf.mean(axis=0)
    weights["network.output.bias"][0] += 2
    save_file(weights, folder / "model.safetensors")
    return folder
