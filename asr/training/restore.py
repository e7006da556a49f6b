"""The state of a run in a checkpoint: written and restored, and what has changed since it was written."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.config import RunConfig, flat
from asr.data.tokenizer import Tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.files import read_json, write_json
from asr.model.checkpoint import TrainingState, model_tensors, set_model_tensors
from asr.model.model_files import check_alike, split_by_prefix
from asr.training.optim import load_optimizer, load_scaler, optimized, optimizer_tensors, scaler_tensors
from asr.training.progress import Progress, read_progress
from asr.training.step import Learner

log = logging.getLogger(__name__)

#: a change of these changes no number that is computed
_FREE = {
    "batch.workers",
    "batch.feature_cache_mib",
    "batch.feature_folder",
    "train.activation_checkpointing",
    "train.checkpoint_every_s",
    "train.threads",
    "train.device",
    "train.keep_best",
    "train.keep_last",
}
#: after a change of these the run continues, but its end is another one
_OTHER_END = {"train.epochs", "train.max_steps", "train.early_stop", "train.validate_every_epochs"}


def state_tensors(learner: Learner) -> dict[str, Tensor]:
    """Return all tensors that are needed to resume a run."""
    groups = {
        "model": model_tensors(learner.model),
        "optimizer": optimizer_tensors(learner.optimizer),
        "average": learner.average.tensors,
        "start": learner.start.tensors,
        "scaler": scaler_tensors(learner.scaler),
    }
    return {f"{group}.{k}": v.detach().cpu() for group, tensors in groups.items() for k, v in tensors.items()}


def restore(saved: TrainingState, learner: Learner) -> Progress:
    """Load a checkpoint's tensors into a learner; return the progress in it.

    Raises:
        CheckpointError: it does not fit the model, or is not of this version.
    """
    progress = read_progress(Progress, saved.state, saved.path / "state.json")
    known: dict[str, dict[str, Tensor]] = {"optimizer": {}, "average": {}, "start": {}, "scaler": {}}
    groups = known | split_by_prefix(saved.tensors)
    foreign = set(groups) - {"model", *known}
    if foreign:
        name = next(name for name in saved.tensors if name.partition(".")[0] in foreign)
        raise CheckpointError(f"holds a tensor '{name}' that no run of this version writes", saved.path)

    copies = {"average": learner.average.tensors, "start": learner.start.tensors}
    expected = {f"{group}.{name}": tensor for group, tensors in copies.items() for name, tensor in tensors.items()}
    expected |= _expected_of_optimizer(learner, progress, groups["optimizer"])
    if groups["scaler"]:  # of a run in fp16; on another machine it may go on in another precision
        expected |= {"scaler.scale": torch.zeros(()), "scaler.growth": torch.zeros((), dtype=torch.int64)}
    others = {name: tensor for name, tensor in saved.tensors.items() if not name.startswith("model.")}
    if wrong := set(expected).symmetric_difference(others):
        raise CheckpointError(
            f"its tensors do not fit config.yaml ('{min(wrong)}'): was the config changed after the run began?",
            saved.path,
        )

    check_alike(others, expected, saved.path)
    set_model_tensors(learner.model, groups["model"], saved.path)
    load_optimizer(learner.optimizer, groups["optimizer"])
    load_scaler(learner.scaler, groups["scaler"])
    for group, tensors in copies.items():
        for name, tensor in groups[group].items():
            tensors[name].copy_(tensor)

    return progress


def _expected_of_optimizer(learner: Learner, progress: Progress, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors like those that the optimiser must have saved: two numbers of each weight that was updated."""
    # They are made by an update, not by a step: nothing of a step's batch may be usable.
    if not (progress.loss_count or progress.epoch_losses_nats):
        return {}
    expected = {}
    for i, parameter in enumerate(optimized(learner.optimizer)):
        until = learner.freezing.until(parameter)
        if not until or (until < progress.step and f"{i}.step" in saved):
            expected[f"optimizer.{i}.step"] = torch.zeros(())
            expected |= {f"optimizer.{i}.{name}": parameter for name in ("exp_avg", "exp_avg_sq")}
    return expected


def check_unchanged(path: Path, cfg: RunConfig, tokenizer: Tokenizer, *, has_state: bool) -> list[str]:
    """Compare what a run is resumed with to what it was trained with; return lines about harmless changes.

    Args:
        path: the record of the last start; it is written again.
        has_state: the run has a checkpoint. Before the first one, everything may change.

    Raises:
        ConfigError: the config has changed in what decides the weights.
        CheckpointError: the tokenizer has changed.
    """
    config = flat(cfg)
    checksum = hashlib.sha256(json.dumps(tokenizer.to_json(), sort_keys=True).encode()).hexdigest()
    lines = _compare(path, config, checksum) if has_state else []
    write_json(path, {"config": config, "tokenizer": checksum})
    return lines


def _compare(path: Path, config: dict[str, Any], checksum: str) -> list[str]:
    try:
        record = read_json(path)
        before = dict(record["config"])
        checksum_before = record["tokenizer"]
    except (OSError, ValueError, LookupError, TypeError):
        log.warning("%s is missing or damaged: whether the config has changed is unknown; it is written again", path)
        return []

    run = path.parent
    remedy = f"put it back, or start a new run from these weights (--init {run})"
    # A key that only one of two versions has is not compared: what its default meant is unknown.
    changed = sorted(key for key in set(config) & set(before) if config[key] != before[key])
    lines = []
    for key in changed:
        now, then = json.dumps(config[key]), json.dumps(before[key])
        if key not in _FREE | _OTHER_END:
            raise ConfigError(
                f"{run / 'config.yaml'}: {key} is {now} now, the run was trained with {then}; {remedy}", key=key
            )
        effect = "; the rest is not what it would have been" if key in _OTHER_END else ""
        lines.append(f"resumed with another {key}: {now}, before {then}{effect}")

    if checksum_before != checksum:
        raise CheckpointError(
            f"another tokenizer than the one the run was trained with; {remedy}", run / "tokenizer.json"
        )
    return lines
