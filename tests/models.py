"""A model that needs no training: random weights, but it always says something, and its batch norm is at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from asr.data.tokenizer import CharTokenizer
from asr.model.checkpoint import build_model, model_tensors, save_model
from tests.builders import ALPHABET, tiny_config


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
