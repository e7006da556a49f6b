"""Make one model out of several: the mean of their weights, which is often better than any of them.

Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from asr.errors import CheckpointError, ConfigError
from asr.files import read_json
from asr.model.checkpoint import TrainableModel, load_trainable, model_tensors, save_model, set_model_tensors
from asr.model.folder import find_model, refuse_published
from asr.training.pretrained import first_difference
from asr.training.progress import Validated

_EPOCH = re.compile(r"(?:best-)?epoch-(\d+)")


def average(paths: Sequence[Path], out: Path) -> TrainableModel:
    """Write the mean of several models to the folder ``out``, and return it.

    Raises:
        ConfigError: there is none; they are not alike (the first difference is named); two are the same model; or
            ``out`` exists.
        CheckpointError: a model cannot be read, or the new one not be written.
    """
    if not paths:
        raise ConfigError("no models to average")
    if out.exists():
        raise ConfigError(f"{out} is there already; choose another --out")

    for path in paths:
        refuse_published(path)
    folders = [find_model(path) for path in paths]
    first = load_trainable(folders[0])
    tensors: list[dict[str, Tensor]] = []
    record = []
    for folder in folders:
        model = load_trainable(folder)
        _check_alike(first, model, folders[0], folder)
        tensors.append(model_tensors(model))
        _check_new(tensors, folders)
        origin = {"model": "/".join(folder.resolve().parts[-2:])}  # run-1/best
        record.append(origin | {k: model.training[k] for k in ("epoch", "step", "seed") if k in model.training})

    mean = mean_of(tensors)
    set_model_tensors(model, mean, out)
    model.training["averaged"] = record
    save_model(out, model, mean, None)
    return model


def mean_of(tensors: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor, summed in float64; of what is no float (a counter), the last one."""
    mean = {}
    for name, last in tensors[-1].items():
        mean[name] = last
        if last.is_floating_point():
            mean[name] = torch.stack([one[name].double() for one in tensors]).mean(0).to(last.dtype)
    return mean


def models_of(run: Path, *, last: int | None = None, best: int | None = None) -> list[Path]:
    """Return the models of a run that are to be averaged, in the order of their epochs.

    Args:
        last: number of the last epochs that are kept (``train.keep_last``).
        best: number of epochs with the lowest dev WER, of all that are kept (``train.keep_best`` too).

    Raises:
        ConfigError: the run keeps fewer models.
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
        also = f" or train.keep_best={most}" if best is not None else ""
        raise ConfigError(
            f"{run} keeps {len(folders)} models {what} to average, not {wanted}: "
            f"train with train.keep_last={most}{also}"
        )

    epochs = sorted(folders)
    if best is not None:
        epochs.sort(key=lambda epoch: _read_validated(folders[epoch], epoch).rank)
        epochs = sorted(epochs[:best])
    return [folders[epoch] for epoch in epochs[-wanted:]]


def _read_validated(folder: Path, epoch: int) -> Validated:
    path = folder / "results.json"
    try:
        dev = read_json(path)["dev"]
        return Validated(float(dev["wer"]["rate"]), float(dev["cer"]["rate"]), dev["loss_nats"], epoch)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError("holds no dev WER, which --best goes by", path) from error


def _check_new(tensors: Sequence[dict[str, Tensor]], folders: Sequence[Path]) -> None:
    """Refuse a model that is among those before it: the same folder, or a copy (``best`` is one of its epochs)."""
    *others, last = tensors
    for other, path in zip(others, folders, strict=False):
        if all(torch.equal(value, last[name]) for name, value in other.items()):
            raise ConfigError(f"{path} and {folders[len(others)]} are the same model, which would count twice")


def _check_alike(first: TrainableModel, other: TrainableModel, first_path: Path, path: Path) -> None:
    alike = "models that are averaged must be alike: "
    found = first_difference(first, other)
    if found is not None:
        key, value, other_value = found
        raise ConfigError(f"{alike}{key} is {value!r} in {first_path} and {other_value!r} in {path}")
    if first.tokenizer.to_json() != other.tokenizer.to_json():
        raise ConfigError(f"{alike}{first_path} and {path} have other tokenizers")
