"""Start from the weights of another model, with another vocabulary.

Axes: v vocabulary, h hidden units.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.config import flat
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.errors import ConfigError
from asr.model.checkpoint import TrainableModel
from asr.model.start import TRAINING_KEYS, load_start

log = logging.getLogger(__name__)

#: keys that decide what is drawn, resampled or tokenised in training, not what a weight means
_FREE = (
    "model.dropout",
    # Self-conditioning has weights: it may not differ.
    *(f"model.{kind}.{key}" for kind, keys in TRAINING_KEYS.items() for key in keys if key != "self_conditioning"),
    "features.dither",
    "audio.resample",
    "text.normalization",
    "text.tokenizer",
)
#: tensors that have a row or column for each token: along which axis
_TOKEN_AXES = {"output.weight": 0, "output.bias": 0, "conditioning.weight": 1}


def first_difference(
    first: TrainableModel, second: TrainableModel, free: tuple[str, ...] = ()
) -> tuple[str, Any, Any] | None:
    """Return the first key that differs between the configs of two models, and its values.

    Args:
        free: beginnings of keys that may differ.
    """
    stages = {
        "model": (first.network.cfg, second.network.cfg),
        "features": (first.extractor.cfg, second.extractor.cfg),
        "audio": (first.audio, second.audio),
        "text": (first.text, second.text),
    }
    for stage, (one, other) in stages.items():
        values, others = flat(one, f"{stage}."), flat(other, f"{stage}.")
        for key in [*values, *(key for key in others if key not in values)]:
            if values.get(key) != others.get(key) and not key.startswith(free):
                return key, values.get(key), others.get(key)

    return None


def start_from(model: TrainableModel, path: Path) -> str:
    """Copy the weights of the model at ``path`` into a new one; return a line on what was taken.

    The networks must be alike except for their last layer, as ``take_weights`` says.

    Raises:
        CheckpointError: there is no whole model at ``path``.
        ConfigError: the networks or their input differ; the first difference is named. Or it is a bundle.
    """
    source = load_start(str(path))
    _check_alike(model, source, path)
    if model.extractor.cfg.normalization == "corpus":
        model.extractor.set_statistics(source.extractor.statistics())
    tokenizer = source.tokenizer if source.tokenizer.symbols else None
    return take_weights(model, source.network.state_dict(), tokenizer, str(path))


def take_weights(model: TrainableModel, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None, name: str) -> str:
    """Copy the weights of a network of the same shapes into a new one; return a line on what was taken.

    In what has a row (or column) for each token, tokens that both have keep their weights, wherever they stand; the
    others keep the random ones they were made with. A warning is logged for tokens that the new model lacks.

    Args:
        tensors: the network's, named as the new one's.
        tokenizer: of the other model; None: it was trained without texts, and has no output.
        name: of the other model, in messages.

    Raises:
        ConfigError: a tensor of the network is not there.
    """
    own = model.network.state_dict()
    to_rows, from_rows = _shared_rows(model.tokenizer, tokenizer)
    for tensor_name, into in own.items():
        axis = _TOKEN_AXES.get(tensor_name)
        if axis is not None and tokenizer is None:
            continue
        if tensor_name not in tensors:
            raise ConfigError(f"{name}: its network has no {tensor_name}, which the config asks for", key="train.init")
        tensor = tensors[tensor_name]
        if axis is None:
            into.copy_(tensor)
        else:
            into.index_copy_(axis, to_rows, tensor.index_select(axis, from_rows))

    total = model.tokenizer.vocabulary_size
    begun = f"started from {name}: {model.num_parameters:,} parameters, {total} tokens"
    if tokenizer is None:
        return f"{begun}, all of them new"
    missing = _others(model.tokenizer, to_rows)
    _warn_of_lost(name, tokenizer, _others(tokenizer, from_rows))
    _warn_of_new(name, tokenizer, missing, total)
    return begun + (f", {len(missing)} of them new: {_shown(missing)}" if missing else "")


def _warn_of_lost(name: str, tokenizer: Tokenizer, lost: Sequence[str]) -> None:
    if lost:
        log.warning(
            f"{len(lost)} of the {tokenizer.vocabulary_size - 1} tokens of {name} are not in these training "
            f"texts, and lost: {_shown(lost)}; text.tokenizer=init keeps them"
        )


def _warn_of_new(name: str, tokenizer: Tokenizer, new: Sequence[str], total: int) -> None:
    """Warn if most of the new model's tokens are new, or most that are new differ from the other's in case alone."""
    cased = [symbol for symbol in new if symbol != symbol.swapcase() in tokenizer.symbols]
    if len(cased) > len(new) // 2:
        case = "lower" if cased[0].swapcase().islower() else "upper"
        log.warning(
            f"{name} has {len(cased)} of the new tokens in {case} case; with text.normalization={case} they would "
            "not be new"
        )
    elif len(new) > total // 2:
        log.warning(
            f"most tokens are new to {name}, so its last layer is of little use: is the case the same? "
            "(text.normalization)"
        )


def _shared_rows(tokenizer: Tokenizer, other: Tokenizer | None) -> tuple[Tensor, Tensor]:
    """Return the rows of the blank and of the tokens that both vocabularies have, in the first and in the other.

    A token is the same where it writes the same; a space is " " or "▁", as the kind of tokenizer has it.
    """
    other_rows: dict[str, int] = {}
    if other is not None:
        other_rows = {_written(symbol): row for row, symbol in enumerate(other.symbols, start=1)}
        other_rows |= {symbol: row for row, symbol in enumerate(other.symbols, start=1)}
    found = ((row, other_rows.get(s, other_rows.get(_written(s)))) for row, s in enumerate(tokenizer.symbols, start=1))
    rows, from_rows = zip((0, 0), *(pair for pair in found if pair[1] is not None), strict=True)
    return torch.tensor(rows), torch.tensor(from_rows)


def _others(tokenizer: Tokenizer, rows: Tensor) -> list[str]:
    """List the tokens that have none of these rows."""
    taken = set(rows.tolist())
    return [symbol for row, symbol in enumerate(tokenizer.symbols, start=1) if row not in taken]


def _written(symbol: str) -> str:
    return symbol.replace(WORD_START, " ")


def _shown(symbols: Sequence[str]) -> str:
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
