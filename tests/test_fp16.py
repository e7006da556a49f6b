"""Training in fp16 with a gradient scale. Only GPUs are allowed it; here a CPU is, to see that the scale is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import asr.runtime
import asr.training.step
from asr.batch import empty_batch
from asr.config import ModelConfig
from asr.errors import CheckpointError, TrainingError
from asr.model.build import build_network
from asr.runtime import Machine
from asr.train import resume, train
from asr.training.gradients import gradients
from asr.training.optim import gradient_scaler, is_overflow, load_scaler, scaler_tensors
from tests.builders import build_corpus, tiny_config

CPU = torch.device("cpu")
CONFIG = tiny_config("train.epochs=2", "model.dropout=0.2", "train.max_steps=6")
#: torch's own, 2^16, is halved several times before the gradients of this small network fit
FIRST_SCALE = 2.0**8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 10, seed=1, longest=4)
    build_corpus(folder, 3, seed=2, name="dev", longest=4)
    return folder


@pytest.fixture(autouse=True)
def _fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaler(machine: Machine) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE, enabled=machine.precision == "fp16")

    monkeypatch.setattr(asr.training.step, "gradient_scaler", scaler)
    _set_precision(monkeypatch, "fp16")


def _set_precision(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(asr.runtime, "find_precision", lambda name, device: precision)


def _checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "checkpoints").glob("step-????????")) / "state.safetensors")


def _rows(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def _overflow(monkeypatch: pytest.MonkeyPatch, steps: set[int], times: float = 1e38) -> None:
    """Make the gradients of some steps, counted from 0, too large for any number."""
    real = asr.training.step.gradients
    calls = iter(range(10_000))

    def gradients(network: Any, *args: Any, **more: Any) -> Any:
        losses_b = real(network, *args, **more)
        if next(calls) in steps:
            next(network.parameters()).grad.mul_(times).mul_(times)
        return losses_b

    monkeypatch.setattr(asr.training.step, "gradients", gradients)


def test_gradients_are_scaled_for_float16_and_the_norm_is_the_true_one(data, tmp_path, monkeypatch):
    train(CONFIG, data, tmp_path / "half")
    _set_precision(monkeypatch, "fp32")
    train(CONFIG, data, tmp_path / "full")
    half, full = _rows(tmp_path / "half"), _rows(tmp_path / "full")
    assert len(half) == len(full) == 6
    for one, other in zip(half, full, strict=True):
        # float16 has three digits, and the steps add up
        assert one["loss_nats"] == pytest.approx(other["loss_nats"], rel=0.02)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=0.05)
    saved = _checkpoint(tmp_path / "half")
    assert saved["scaler.scale"] == FIRST_SCALE
    assert saved["scaler.growth"] == 6
    assert not any(name.startswith("scaler.") for name in _checkpoint(tmp_path / "full"))


def test_an_overflow_leaves_out_the_update_and_halves_the_scale(data, tmp_path, monkeypatch):
    before: dict[str, torch.Tensor] = {}
    _overflow(monkeypatch, {0})
    real = asr.training.step.gradients

    def gradients(network: Any, *args: Any, **more: Any) -> Any:
        before.update({name: p.detach().clone() for name, p in network.named_parameters()})
        return real(network, *args, **more)

    monkeypatch.setattr(asr.training.step, "gradients", gradients)
    train(tiny_config("train.max_steps=1"), data, tmp_path / "run")
    saved = _checkpoint(tmp_path / "run")
    assert before
    assert all(torch.equal(saved[f"model.network.{name}"], value) for name, value in before.items())
    assert saved["scaler.scale"] == FIRST_SCALE / 2
    assert saved["optimizer.0.step"] == 0
    (row,) = _rows(tmp_path / "run")
    assert row["grad_norm"] is None and row["loss_nats"] > 0


def test_a_run_that_was_stopped_after_an_overflow_ends_with_the_same_bits(data, tmp_path, monkeypatch):
    _overflow(monkeypatch, {2})
    train(CONFIG, data, tmp_path / "whole")
    expected = _checkpoint(tmp_path / "whole")
    assert (expected["scaler.scale"], expected["scaler.growth"]) == (FIRST_SCALE / 2, 3)

    def stop(values: dict[str, float]) -> None:
        if values.get("step") == 5:
            raise KeyboardInterrupt

    cfg = tiny_config("train.epochs=2", "model.dropout=0.2", "train.max_steps=6", "train.checkpoint_every_s=1e-9")
    _overflow(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt):
        train(cfg, data, tmp_path / "cut", stop)
    assert _checkpoint(tmp_path / "cut")["scaler.growth"] == 1
    assert resume(tmp_path / "cut").progress.step == 6
    found = _checkpoint(tmp_path / "cut")
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_gradient_that_no_scale_mends_ends_the_run(data, tmp_path, monkeypatch):
    _overflow(monkeypatch, set(range(100)))
    with pytest.raises(TrainingError, match=r"^step 9: the gradient is not finite at learning rate"):
        train(tiny_config("train.epochs=20"), data, tmp_path / "run")


def test_a_loss_that_is_not_finite_and_a_scale_below_one_are_no_overflow():
    scaler = gradient_scaler(Machine(CPU, "fp16", 1))
    assert is_overflow(scaler, 1.0, 1.0)
    assert not is_overflow(scaler, 1.0, 0.5)
    assert not is_overflow(scaler, float("nan"), 1.0) and not is_overflow(scaler, float("inf"), 1.0)
    assert not is_overflow(gradient_scaler(Machine(CPU, "fp32", 1)), 1.0, 1.0)


def test_in_another_precision_a_run_goes_on_without_the_scale_and_with_a_new_one(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(tiny_config("train.max_steps=2", "train.epochs=4"), data, run)
    config = (run / "config.yaml").read_text()
    for precision, steps in (("fp32", 4), ("fp16", 5)):
        (run / "config.yaml").write_text(config.replace("max_steps: 2", f"max_steps: {steps}"))
        _set_precision(monkeypatch, precision)
        assert resume(run).progress.step == steps
        assert ("scaler.scale" in _checkpoint(run)) == (precision == "fp16")


def test_a_process_whose_first_step_has_no_utterances_makes_the_update_of_the_others():
    model = ModelConfig.model_validate({"layers": 1, "hidden": 4, "norm": False})
    network = build_network(model, bins=8, vocabulary_size=5).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    scaler = asr.training.step.gradient_scaler(Machine(CPU, "fp16", 1))
    gradients(network, empty_batch(8), 1, Machine(CPU, "fp32", 1), scaler=scaler)
    for parameter in network.parameters():  # as the processes add up their gradients
        parameter.grad += FIRST_SCALE
    scaler.unscale_(optimizer)
    assert all(torch.all(parameter.grad == 1) for parameter in network.parameters())
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("scaler.growth"),
        lambda tensors: tensors.update({"scaler.scale": torch.ones(3)}),
        lambda tensors: tensors.update({"scaler.more": torch.ones(())}),
    ],
)
def test_a_damaged_scale_is_one_line(data, tmp_path, damage):
    run = tmp_path / "run"
    train(tiny_config("train.max_steps=1"), data, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("max_steps: 1", "max_steps: 2"))
    path = max((run / "checkpoints").glob("step-????????")) / "state.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="scaler"):
        resume(run)


def test_the_state_of_a_scaler_survives_a_checkpoint_bit_for_bit():
    scaler, other = (gradient_scaler(Machine(CPU, "fp16", 1)) for _ in range(2))
    load_scaler(scaler, {"scale": torch.tensor(2.0**-3), "growth": torch.tensor(1999)})
    load_scaler(other, scaler_tensors(scaler))
    assert other.state_dict() == scaler.state_dict()
    assert (other.get_scale(), other.state_dict()["_growth_tracker"]) == (2.0**-3, 1999)
