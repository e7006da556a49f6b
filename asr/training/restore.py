"""What a run needs to go on as if nothing had happened: its state as tensors and back, and what has changed since."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.config import RunConfig
from asr.data.tokenizer import Tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.files import write_json
from asr.model.checkpoint import TrainableModel, TrainingState, model_tensors, set_model_tensors
from asr.training.optim import Average
from asr.training.progress import Progress, Validated

log = logging.getLogger(__name__)

#: changes no number that is computed
_FREE = {"batch.workers", "batch.feature_cache_mib", "train.checkpoint_every_s", "train.threads", "train.device",
         "train.keep_best", "train.keep_last"}  # fmt: skip
#: the run goes on, but it is no longer the one that was begun
_OTHER_END = {"train.epochs", "train.max_steps", "train.early_stop", "train.validate_every_epochs"}


def state_tensors(model: TrainableModel, optimizer: torch.optim.Optimizer, average: Average) -> dict[str, Tensor]:
    """All tensors that a run needs to go on."""
    tensors = {f"model.{k}": v for k, v in model_tensors(model).items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v.detach().cpu() for k, v in values.items()}
    return tensors | {f"average.{k}": v.detach().cpu() for k, v in average.tensors.items()}


def restore(
    saved: TrainingState, model: TrainableModel, optimizer: torch.optim.Optimizer, average: Average
) -> Progress:  # fmt: skip
    """Puts a checkpoint's tensors where they belong; the progress in it.

    Raises:
        CheckpointError: it does not fit the model, or is none of this version's.
    """
    by_prefix: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
    for name, tensor in saved.tensors.items():
        prefix, _, rest = name.partition(".")
        if prefix not in by_prefix:
            raise CheckpointError(f"holds a tensor '{name}' that no run of this version writes", saved.path)
        by_prefix[prefix][rest] = tensor
    # An update, not a step, makes the optimiser's tensors: a batch of which nothing could be used is a step, too.
    updated = bool(saved.state.get("loss_count") or saved.state.get("epoch_losses_nats"))
    expected = _state_names(updated, model, average)
    wrong = expected.symmetric_difference(n for n in saved.tensors if not n.startswith("model."))
    if wrong:
        raise CheckpointError(
            f"its tensors do not fit config.yaml ('{min(wrong)}'): was the config changed after the run began?",
            saved.path,
        )
    set_model_tensors(model, by_prefix["model"], saved.path)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in by_prefix["optimizer"].items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    average.load(by_prefix["average"])
    try:
        best = [_validated(row) for row in saved.state.get("best", [])]
        late = [tuple(row) for row in saved.state.get("late", [])]
        return Progress(**{**saved.state, "best": best, "late": late})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"not the progress of a run ({error})", saved.path / "state.json") from error


def _validated(row: Sequence[Any]) -> Validated:
    if len(row) == 3:  # of a version that kept no dev loss
        wer, cer, epoch = row
        return Validated(wer, cer, None, epoch)
    return Validated(*row)


def _state_names(updated: bool, model: TrainableModel, average: Average) -> set[str]:
    """Names of the tensors, beside the model's, that a checkpoint holds, before and after the first update."""
    names = {f"average.{k}" for k in average.tensors}
    if updated:
        count = sum(1 for _ in model.network.parameters())
        names |= {f"optimizer.{i}.{k}" for i in range(count) for k in ("step", "exp_avg", "exp_avg_sq")}
    return names


def check_unchanged(path: Path, cfg: RunConfig, tokenizer: Tokenizer, *, has_state: bool) -> list[str]:
    """Compares what a run is resumed with to what it was trained with; lines about what is harmless.

    ``path`` is the record of the last start; it is written anew.

    Raises:
        ConfigError: the config has changed in what decides the weights.
        CheckpointError: the tokenizer has.
    """
    config = _flat(cfg.model_dump(mode="json"))
    symbols = hashlib.sha256(json.dumps(tokenizer.to_json(), sort_keys=True).encode()).hexdigest()
    before = _read(path) if has_state else None
    lines = []
    if before is not None:
        changed = {key for key in {*config, *before["config"]} if config.get(key) != before["config"].get(key)}
        # a key that only one of two versions has: of the default's meaning nobody knows
        changed = {key for key in changed if key in config and key in before["config"]}
        run = path.parent
        for key in sorted(changed - _FREE - _OTHER_END):
            raise ConfigError(
                f"{run / 'config.yaml'}: {key} is {_shown(config[key])} now, the run was trained with "
                f"{_shown(before['config'][key])}; put it back, or start a new run from these weights (--init {run})",
                key=key,
            )
        if before["tokenizer"] != symbols:
            raise CheckpointError(
                f"another tokenizer than the one the run was trained with; put it back, or start a new run from these "
                f"weights (--init {run})",
                run / "tokenizer.json",
            )
        lines = [
            f"resumed with another {key}: {_shown(config[key])}, before {_shown(before['config'][key])}"
            + ("; the rest is not what it would have been" if key in _OTHER_END else "")
            for key in sorted(changed)
        ]
    write_json(path, {"config": config, "tokenizer": symbols})
    return lines


def _read(path: Path) -> dict[str, Any] | None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(before["config"], dict) and isinstance(before["tokenizer"], str):
            return dict(before)
    except FileNotFoundError:
        return None  # a run of an earlier version
    except (OSError, ValueError, LookupError, TypeError):
        pass
    log.warning("%s is damaged: whether the config has changed is not known; written anew", path)
    return None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    >>> _flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _shown(value: Any) -> str:
    return json.dumps(value)
