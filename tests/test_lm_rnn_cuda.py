"""Neural language models on a GPU: a CPU that pretends to be one shows dtypes, waits and what resumes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asr.lm.neural.update
from asr.data.tokenizer import CharTokenizer
from asr.errors import TrainingError
from asr.lm.neural.config import RnnTrainConfig, read_config
from asr.lm.neural.network import RnnConfig, RnnModel, RnnNetwork, sample
from asr.lm.neural.record import begin_training
from asr.lm.neural.text import NO_TARGET, read
from asr.lm.neural.train import RnnTrainer, train
from asr.lm.neural.update import RnnLearner, window_loss
from asr.model.checkpoint import load_state
from asr.runtime import DTYPES, Machine
from tests.pretend_cuda import CUDA, lines_of, pretended_cuda

CPU = torch.device("cpu")
SHAPES = [
    RnnConfig(cell="lstm", layers=2, hidden=6, embed=5, dropout=0),
    RnnConfig(cell="gru", layers=2, hidden=6, embed=5, tied=True, dropout=0),
]
LINES = [
    " ".join(words) for words in itertools.product(("THE", "A"), ("CAT", "DOG", "COW"), ("SAT", "RAN", "ATE", "SANG"))
]


@pytest.fixture(autouse=True)
def _torchs_switches():
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.deterministic
    yield
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.deterministic = before


def _network(cfg: RnnConfig, size: int = 5) -> RnnNetwork:
    torch.manual_seed(0)
    return RnnNetwork(cfg, size)


def _window(number: int) -> tuple[Any, Any]:
    """Tokens and targets with resets among them. Shapes: (7, 3) both."""
    rng = np.random.default_rng(number)
    inputs, targets = rng.integers(0, 5, (7, 3)), rng.integers(0, 5, (7, 3))
    inputs[3, 1], targets[3, 1] = 5, NO_TARGET
    return inputs, targets


def _learn(cfg: RnnConfig, device: torch.device, precision: str, updates: int) -> tuple[RnnLearner, list[Any]]:
    """Make updates, each read after the next one has begun."""
    train_cfg = RnnTrainConfig(**cfg.model_dump())
    network = _network(cfg).to(device).train()
    learner = RnnLearner(network, train_cfg, Machine(device, precision, 1), num_streams=3)
    pending = [learner.update(*_window(step), step, 0.01) for step in range(updates)]
    return learner, [update.result() for update in pending]


@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_updates_on_a_gpu_are_those_on_a_cpu(cfg):
    learner, expected = _learn(cfg, CPU, "fp32", 4)
    with pretended_cuda() as cuda:
        on_gpu, found = _learn(cfg, CUDA, "fp32", 4)
        weights = {name: value.cpu() for name, value in on_gpu.network.state_dict().items()}
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    for name, value in learner.network.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=2e-5, atol=2e-5)
    assert {call.dtype for call in cuda.recurrent_calls} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_the_recurrent_kernel_has_the_dtype_that_was_asked_for_and_weights_in_one_chunk(cfg, precision):
    with pretended_cuda() as cuda:
        network = _network(cfg).to(CUDA).train()
        states = torch.zeros(3, network.state_size, device=CUDA)
        loss, targets, states = window_loss(network, *_window(0), states, precision)
        loss.backward()
        assert (loss.dtype, targets, states.dtype) == (torch.float32, 20, torch.float32)
    assert len(cuda.recurrent_calls) == cfg.layers
    for call in cuda.recurrent_calls:
        assert (call.dtype, call.is_contiguous, call.is_one_chunk) == (DTYPES[precision], True, True), call


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_updates_wait_for_nothing_and_their_numbers_once(precision):
    with pretended_cuda() as cuda:
        network = _network(SHAPES[0]).to(CUDA).train()
        learner = RnnLearner(network, RnnTrainConfig(), Machine(CUDA, precision, 1), num_streams=3)
        learner.update(*_window(0), 0, 0.01).result()  # makes the optimiser's state
        with cuda.counting() as waits:
            pending = [learner.update(*_window(step), step, 0.01) for step in (1, 2)]
        assert not waits, "\n".join(lines_of(waits))
        with cuda.counting() as waits:
            assert all(update.result().loss_nats > 0 for update in pending)
        assert waits.total() <= len(pending), "\n".join(lines_of(waits))


@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_scores_and_samples_on_a_gpu_are_those_on_a_cpu_and_a_score_waits_once(cfg):
    tokenizer = CharTokenizer(tuple("abcd"))
    sentences = [*np.random.default_rng(0).integers(1, 5, (40, 12)).tolist(), [], [1, 2]]
    made = RnnModel(_network(cfg).eval(), tokenizer)
    expected, texts = made.score(sentences), sample(made, 3)
    with pretended_cuda() as cuda:
        on_gpu = RnnModel(_network(cfg).eval().to(CUDA), tokenizer)
        with cuda.counting() as waits:
            np.testing.assert_allclose(on_gpu.score(sentences), expected, atol=2e-5)
        assert waits.total() == 1, "\n".join(lines_of(waits))
        assert sample(on_gpu, 3) == texts


def _config(*settings: str) -> RnnTrainConfig:
    some = ("hidden=12", "embed=6", "epochs=3", "streams=2", "window=8", "held_out=0.2", "threads=1", "device=cuda")
    return read_config([*some, *settings])


class _Stop:
    """Interrupts a training after some updates, as Ctrl-C does."""

    def __init__(self, trainer: RnnTrainer, after: int) -> None:
        self.trainer, self.left = trainer, after

    def __call__(self, values: dict[str, float]) -> None:
        self.left -= 1
        if not self.left:
            self.trainer.interrupt.asked = True


def test_a_training_on_a_gpu_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    cfg = _config("dropout=0.3", "epochs=2", "validate_every=4", "precision=fp16")
    reading = read(LINES, held_out=0.2)
    with pretended_cuda() as cuda:
        whole = train(reading, cfg, tmp_path / "whole")
        begin_training(tmp_path / "cut", reading, cfg)
        trainer = RnnTrainer(reading, cfg, tmp_path / "cut")
        assert trainer.run_to_end(_Stop(trainer, 5)).interrupted
        # a GPU had one update more
        assert trainer.progress.step == 6 and not trainer.unread
        cut = train(reading, cfg, tmp_path / "cut")

    assert {call.dtype for call in cuda.recurrent_calls} == {torch.float16}
    ends, rows = [], []
    for report in (whole, cut):
        tensors = load_state(report.folder / "checkpoints")[0].tensors
        ends.append({name: tensor.numpy().tobytes() for name, tensor in tensors.items()})
        rows.append(_rows(report.folder))
    assert ends[0] == ends[1]
    assert rows[0] == rows[1]
    assert {"scaler.scale", "scaler.growth"} <= set(ends[0])


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_loss_that_is_not_finite_is_found_an_update_later_and_the_model_before_is_kept(tmp_path):
    cfg = _config("lr=1e30", "warmup_fraction=0", "clip_norm=0", "precision=fp32")
    with pretended_cuda(), pytest.raises(TrainingError, match=r"^update \d+: the gradient is not finite at learning"):
        train(read(LINES, held_out=0.2), cfg, tmp_path / "lm")
    assert not list((tmp_path / "lm").glob("checkpoints/step-*"))


def test_float16s_range_is_no_failure_until_no_scale_is_left(monkeypatch):
    def overflowing(network: RnnNetwork, inputs: Any, targets: Any, states: Any, precision: str) -> Any:
        loss, count, after = window_loss(network, inputs, targets, states, "fp32")  # a CPU has no kernel in float16
        return loss + (0 * network.bias.sum()).sqrt(), count, after

    monkeypatch.setattr(asr.lm.neural.update, "window_loss", overflowing)
    cfg = RnnTrainConfig(**SHAPES[0].model_dump())
    network = _network(SHAPES[0]).train()
    learner = RnnLearner(network, cfg, Machine(CPU, "fp16", 1), num_streams=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(16):  # from 2^16 to 1
        assert not np.isfinite(learner.update(*_window(step), step, 0.01).result().grad_norm)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(TrainingError, match=r"^update 17: the gradient is not finite"):
        learner.update(*_window(16), 16, 0.01).result()
