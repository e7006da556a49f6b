"""Start from the weights of another model, with another vocabulary.

Axes: v vocabulary, h hidden units.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch

from asr.errors import ConfigError
from asr.model.checkpoint import TrainableModel, load_trainable

log = logging.getLogger(__name__)

#: keys that decide what is drawn, resampled or tokenised in training, not what a weight means
_FREE = ("model.dropout", "features.dither", "audio.resample", "text.normalization", "text.tokenizer")


def first_difference(
    first: TrainableModel, second: TrainableModel, free: Container[str] = ()
) -> tuple[str, Any, Any] | None:
    """Return the first key that differs between the configs of two models, and its values; ``free`` may differ."""
    stages = {
        "model": (first.network.cfg, second.network.cfg),
        "features": (first.extractor.cfg, second.extractor.cfg),
        "audio": (first.audio, second.audio),
        "text": (first.text, second.text),
    }
    for stage, (one, other) in stages.items():
        values = other.model_dump()
        for name, value in one.model_dump().items():
            key = f"{stage}.{name}"
            if values[name] != value and key not in free:
                return key, value, values[name]

    return None


def start_from(model: TrainableModel, path: Path) -> str:
    """Copy the weights of the model at ``path`` into a new one; return a line on what was taken.

    The networks must be alike except for their last layer. There, tokens that both models have keep their weights; the
    others keep the random ones they were made with. A warning is logged for tokens that the new model lacks.

    Raises:
        CheckpointError: there is no whole model at ``path``.
        ConfigError: the networks or their input differ; the first difference is named. Or it is a bundle.
    """
    source = load_trainable(path)
    _check_alike(model, source, path)

    symbols, source_symbols = model.tokenizer.symbols, source.tokenizer.symbols
    source_rows = {symbol: row for row, symbol in enumerate(source_symbols, start=1)}
    shared = [(row, source_rows[s]) for row, s in enumerate(symbols, start=1) if s in source_rows]
    rows, from_rows = (torch.tensor(ids) for ids in zip((0, 0), *shared, strict=True))
    own = model.network.state_dict()
    for name, tensor in source.network.state_dict().items():
        if name.startswith("output."):
            own[name][rows] = tensor[from_rows]
        else:
            own[name].copy_(tensor)

    if model.extractor.cfg.normalization == "corpus":
        model.extractor.load_state_dict(source.extractor.state_dict())

    missing = [s for s in symbols if s not in source_rows]
    lost = [s for s in source_symbols if s not in set(symbols)]
    if lost:
        log.warning(
            f"{len(lost)} of the {source.tokenizer.vocabulary_size - 1} tokens of {path} are not in these training "
            f"texts, and lost: {_shown(lost)}; text.tokenizer=init keeps them"
        )

    total = model.tokenizer.vocabulary_size
    if len(missing) > total // 2:
        log.warning(
            f"most tokens are new to {path}, so its last layer is of little use: is the case the same? "
            "(text.normalization)"
        )

    new = f", {len(missing)} of them new: {_shown(missing)}" if missing else ""
    return f"started from {path}: {model.num_parameters:,} parameters, {total} tokens{new}"


def _shown(symbols: list[str]) -> str:
    return " ".join(map(repr, symbols[:10])) + (" …" if len(symbols) > 10 else "")


def _check_alike(model: TrainableModel, source: TrainableModel, path: Path) -> None:
    found = first_difference(model, source, _FREE)
    if found is None:
        return
    key, wanted, given = found

    config = next((p for p in (path / "config.yaml", path.parent / "config.yaml") if p.is_file()), None)
    use = "use the same" if config is None else f"train with its config, {config}"
    if key == "audio.sample_rate_hz":
        use += " (audio.resample=true for recordings of another rate)"
    both = f"is {given!r} and the config's {wanted!r}"
    if len(both) > 100:
        both = "is not the config's"
    raise ConfigError(f"{path}: its {key} {both}; to start from this model, {use}", key=key)
