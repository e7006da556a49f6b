"""One model out of several: the mean of their weights, which is often better than any of them.

Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from asr.errors import CheckpointError, ConfigError
from asr.model.checkpoint import (
    TrainableModel,
    find_model,
    load_trainable,
    model_tensors,
    save_model,
    set_model_tensors,
)
from asr.training.progress import Validated

_EPOCH = re.compile(r"(?:best-)?epoch-(\d+)")


def average(paths: Sequence[Path], out: Path) -> TrainableModel:
    """Writes the mean of several models to the folder ``out``; the new model.

    Raises:
        ConfigError: there is none; they are not alike (the first difference is named); two are the same model; or
            ``out`` is there already.
        CheckpointError: a model cannot be read, or the new one not be written.
    """
    if not paths:
        raise ConfigError("no models to average")
    if out.exists():
        raise ConfigError(f"{out} is there already; choose another --out")
    folders = [find_model(path) for path in paths]
    first, tensors, record = None, [], []
    for folder in folders:
        model = load_trainable(folder)
        if first is not None:
            _check_alike(first, model, folders[0], folder)
        first = first or model
        tensors.append(model_tensors(model))
        _check_new(tensors, folders)
        name = "/".join(folder.resolve().parts[-2:])  # run-1/best
        record.append(
            {"model": name} | {k: model.training[k] for k in ("epoch", "step", "seed") if k in model.training}
        )
    mean = mean_of(tensors)
    set_model_tensors(model, mean, out)
    model.training["averaged"] = record
    save_model(out, model, mean, None)
    return model


def mean_of(tensors: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, summed in float64; what is not a float (a counter) is the last one's."""
    mean = {}
    for name, last in tensors[-1].items():
        if last.is_floating_point():
            mean[name] = torch.stack([one[name].double() for one in tensors]).mean(0).to(last.dtype)
        else:
            mean[name] = last
    return mean


def models_of(run: Path, *, last: int | None = None, best: int | None = None) -> list[Path]:
    """The models of a run that are to be averaged, in the order of their epochs.

    Args:
        last: so many of the last epochs that are kept (``train.keep_last``).
        best: so many of those with the lowest dev WER, of all that are kept (``train.keep_best`` too).

    Raises:
        ConfigError: so many are not there.
    """
    folders: dict[int, Path] = {}
    for name in ("best-epoch", "epoch") if best is not None else ("epoch",):
        for folder in run.joinpath("checkpoints").glob(f"{name}-*"):
            found = _EPOCH.fullmatch(folder.name)
            if found and (folder / "config.json").exists():
                folders[int(found[1])] = folder
    wanted = best if best is not None else last
    assert wanted is not None  # one of the two is given
    if len(folders) < wanted:
        what = "of the best or the last epochs" if best is not None else "of the last epochs"
        most = max(wanted, 2)  # one best model is kept in any case, as best/: there is nothing to average
        raise ConfigError(
            f"{run} keeps {len(folders)} models {what} to average, not {wanted}: train with train.keep_last={most}"
            + (f" or train.keep_best={most}" if best is not None else "")
        )
    epochs = sorted(folders)
    if best is not None:
        epochs = sorted(sorted(epochs, key=lambda epoch: _validated(folders[epoch], epoch).rank)[:best])
    return [folders[epoch] for epoch in epochs[-wanted:]]


def _validated(folder: Path, epoch: int) -> Validated:
    path = folder / "results.json"
    try:
        dev = json.loads(path.read_text(encoding="utf-8"))["dev"]
        loss_nats = dev.get("loss_nats")  # not of earlier versions
        return Validated(
            wer=float(dev["wer"]["rate"]),
            cer=float(dev["cer"]["rate"]),
            loss_nats=None if loss_nats is None else float(loss_nats),
            epoch=epoch,
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError("holds no dev WER, which --best goes by", path) from error


def _check_new(tensors: Sequence[dict[str, Tensor]], folders: Sequence[Path]) -> None:
    """Refuse a model that is among those before it: the same folder, or a copy (``best`` is one of its epochs)."""
    *others, last = tensors
    for other, path in zip(others, folders, strict=False):
        if all(torch.equal(value, last[name]) for name, value in other.items()):
            raise ConfigError(f"{path} and {folders[len(others)]} are the same model, which would count twice")


def _check_alike(first: TrainableModel, other: TrainableModel, first_path: Path, path: Path) -> None:
    for stage, mine, theirs in (
        ("audio", first.audio, other.audio),
        ("text", first.text, other.text),
        ("features", first.extractor.cfg, other.extractor.cfg),
        ("model", first.network.cfg, other.network.cfg),
    ):
        values = theirs.model_dump()
        for key, value in mine.model_dump().items():
            if values[key] != value:
                raise ConfigError(
                    f"models that are averaged must be alike: {stage}.{key} is {value!r} in {first_path} and "
                    f"{values[key]!r} in {path}"
                )
    if first.tokenizer.to_json() != other.tokenizer.to_json():
        raise ConfigError(f"models that are averaged must be alike: {first_path} and {path} have other tokenizers")
