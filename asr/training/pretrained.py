"""Starting from another model's weights, with a vocabulary of one's own.

Axes: v vocabulary, h hidden units.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from asr.errors import ConfigError
from asr.model.checkpoint import TrainableModel, load_trainable

log = logging.getLogger(__name__)


def start_from(model: TrainableModel, path: Path) -> str:
    """Copies the weights of the model at ``path`` into a new one; one line on what was taken.

    The networks must be alike but for their last layer. There, tokens that both models have keep their weights; the
    others keep the random ones they were made with. Tokens of the given model that the new one lacks are a warning.

    Raises:
        CheckpointError: there is no whole model at ``path``.
        ConfigError: the networks or their input differ; the first difference is named. Or it is a bundle.
    """
    source = load_trainable(path)
    _check_alike(model, source, path)
    own, given = model.network.state_dict(), source.network.state_dict()
    rows_of = {symbol: i for i, symbol in enumerate(source.tokenizer.symbols, start=1)}
    pairs = [(0, 0)] + [(i, rows_of[s]) for i, s in enumerate(model.tokenizer.symbols, start=1) if s in rows_of]
    new, old = (torch.tensor(ids) for ids in zip(*pairs, strict=True))
    for name, tensor in given.items():
        if name.startswith("output."):
            own[name][new] = tensor[old]
        else:
            own[name].copy_(tensor)
    if model.extractor.cfg.normalization == "corpus":
        model.extractor.load_state_dict(source.extractor.state_dict())
    total = model.tokenizer.vocabulary_size
    missing = [s for s in model.tokenizer.symbols if s not in rows_of]
    begun = f", {len(missing)} of them new: {_shown(missing)}" if missing else ""
    known = set(model.tokenizer.symbols)
    lost = [s for s in source.tokenizer.symbols if s not in known]
    if lost:
        log.warning(
            "%d of the %d tokens of %s are not in these training texts, and lost: %s; text.tokenizer=init keeps them",
            len(lost), source.tokenizer.vocabulary_size - 1, path, _shown(lost),
        )  # fmt: skip
    if len(missing) > total // 2:
        log.warning(
            "most tokens are new to %s, so its last layer is of little use: is the case the same? (text.normalization)",
            path,
        )  # fmt: skip
    return f"started from {path}: {model.num_parameters:,} parameters, {total} tokens{begun}"


def _shown(symbols: list[str]) -> str:
    return " ".join(map(repr, symbols[:10])) + (" …" if len(symbols) > 10 else "")


def _check_alike(model: TrainableModel, source: TrainableModel, path: Path) -> None:
    for stage, mine, theirs in (
        ("model", model.network.cfg, source.network.cfg),
        ("features", model.extractor.cfg, source.extractor.cfg),
        ("audio", model.audio, source.audio),
    ):
        # what is drawn or resampled in training does not change what a weight means
        free = {"dropout", "dither", "resample"}
        theirs_of = theirs.model_dump()
        for key, value in mine.model_dump().items():
            if key not in free and theirs_of[key] != value:
                own = next((one for one in (path / "config.yaml", path.parent / "config.yaml") if one.is_file()), None)
                use = "use the same" if own is None else f"train with its config, {own}"
                if key == "sample_rate_hz":
                    use += " (audio.resample=true for recordings of another rate)"
                both = f"is {theirs_of[key]!r} and the config's {value!r}"
                if len(both) > 100:
                    both = "is not the config's"
                raise ConfigError(
                    f"{path}: its {stage}.{key} {both}; to start from this model, {use}", key=f"{stage}.{key}"
                )
