from __future__ import annotations

import json
import logging
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file

import asr.data.manifest
import asr.model.conv
import asr.training.gradients
import asr.training.planner
import asr.training.session
import asr.training.step
from asr import config as configs
from asr.batch import Batch
from asr.errors import ConfigError, DataError, TrainingError
from asr.machine import is_out_of_memory
from asr.runtime import Machine
from asr.train import resume, train
from asr.training.distributed import ProcessGroup
from asr.training.memory import total_bytes
from asr.training.planner import MemoryPlanner, find_largest, plan_memory
from asr.training.step import Learner
from asr.training.trial import build_trial, endless_batches
from tests.builders import build_corpus, tiny_config
from tests.pretend_cuda import PretendedCuda, pretended_cuda
from tests.test_features_wave import _config as wave_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 12, seed=1, longest=8)
    build_corpus(folder, 3, seed=2, name="dev", longest=6)
    return folder


def _limit(monkeypatch: pytest.MonkeyPatch, frames: float, *, error: type[Exception] = torch.OutOfMemoryError) -> None:
    """A machine whose memory holds so many padded frames."""
    real = asr.training.gradients.gradients

    def gradients(network: Any, batch: Batch, *args: Any, **more: Any) -> Any:
        if batch.area > frames:
            # some of the work is done before memory runs out: gradients and running statistics must be undone
            real(network, batch, *args, **more)
            raise error("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.\nmore")
        return real(network, batch, *args, **more)

    monkeypatch.setattr(asr.training.step, "gradients", gradients)
    monkeypatch.setattr(asr.training.planner, "gradients", gradients)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "checkpoints").glob("step-????????")) / "state.safetensors")


def _rows(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


# The dry run


def test_a_dry_run_changes_no_bit_of_the_run_that_follows(data, tmp_path, monkeypatch):
    cfg = tiny_config("train.epochs=2", "model.dropout=0.3", "train.ema_decay=0.9", "augment.speeds=[0.9, 1.0]")
    train(cfg, data, tmp_path / "with")
    monkeypatch.setattr(asr.training.session, "plan_memory", lambda planner, group: math.inf)
    train(cfg, data, tmp_path / "without")
    left, right = _weights(tmp_path / "with"), _weights(tmp_path / "without")
    assert all(torch.equal(left[name], right[name]) for name in right) and list(left) == list(right)
    assert [r["loss_nats"] for r in _rows(tmp_path / "with")] == [r["loss_nats"] for r in _rows(tmp_path / "without")]


def test_the_largest_batch_is_tried_first_and_its_peak_is_said(data, tmp_path, monkeypatch, caplog):
    tried: list[tuple[int, int]] = []
    real = asr.training.planner.gradients

    def gradients(network: Any, batch: Batch, *args: Any, **more: Any) -> Any:
        tried.append((len(batch.ids), batch.features_btf.shape[1]))
        return real(network, batch, *args, **more)

    monkeypatch.setattr(asr.training.planner, "gradients", gradients)
    with caplog.at_level(logging.INFO, "asr"):
        train(tiny_config("train.max_steps=1", "batch.max_utterances=3"), data, tmp_path / "run")
    (line,) = [m for m in caplog.messages if m.startswith("memory: ")]
    found = re.search(rf"\({tried[-1][0]} x {tried[-1][1]} frames\) takes ([\d.]+) GiB at its peak", line)
    assert found and 0 < float(found[1]) < total_bytes(CPU) / 2**30
    assert tried[0] == (1, tried[-1][1]), "first one utterance, to foresee what the whole takes"
    longest_s = max(u.duration_s for u in asr.data.manifest.read(data / "train.jsonl"))
    assert tried[-1] == (3, 1 + math.floor(longest_s * 100))


def test_the_peak_of_a_process_is_measured():
    # in a process of its own: this one may have so much freed memory that 240 MiB more are no new peak
    script = (
        "import torch\n"
        "from asr.training.memory import peak_bytes, reset_peak, total_bytes\n"
        "cpu = torch.device('cpu')\n"
        "reset_peak(cpu)\n"
        "before = peak_bytes(cpu)\n"
        "one = torch.ones(60 * 2**20)\n"
        "del one\n"
        "assert 200 * 2**20 < peak_bytes(cpu) - before < 400 * 2**20\n"
        "assert total_bytes(cpu) > 2**28\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Out of memory


def test_a_batch_that_does_not_fit_is_computed_in_halves_with_the_same_result(data, tmp_path, monkeypatch, caplog):
    # without batch norm, whose statistics are those of a part, the halves' gradients add up to the whole's
    cfg = tiny_config("train.epochs=2", "model.norm=false", "batch.max_utterances=4")
    train(cfg, data, tmp_path / "whole")
    _limit(monkeypatch, 150)
    with caplog.at_level(logging.INFO, "asr"):
        train(cfg, data, tmp_path / "halves")
    assert any("does not fit at once: it and others like it are computed in halves" in m for m in caplog.messages)
    rows, others = _rows(tmp_path / "halves"), _rows(tmp_path / "whole")
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row["loss_nats"] == pytest.approx(other["loss_nats"], rel=1e-4), row
        assert row["audio_s"] == pytest.approx(other["audio_s"], abs=0.011)
    assert not (tmp_path / "halves" / "dropped.jsonl").exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_memory_that_runs_out_later_is_said_once_and_the_statistics_are_those_of_the_parts(
    data, tmp_path, monkeypatch, caplog, error
):
    settings = ("train.epochs=2", "batch.max_utterances=2", "train.sortagrad=false")
    monkeypatch.setattr(asr.training.session, "plan_memory", lambda planner, group: math.inf)  # nothing is foreseen
    _limit(monkeypatch, 120, error=error)
    with caplog.at_level(logging.WARNING, "asr"):
        train(tiny_config(*settings), data, tmp_path / "run")
    lines = [m for m in caplog.messages if m.startswith("out of memory at a batch of 2 x ")]
    assert lines and all("\n" not in line and ": train-" in line for line in lines)
    named = [id_ for line in lines for id_ in line.split(": ")[2].partition(";")[0].split(", ")]
    assert len(lines) == 1 or len(named) == len(set(named))
    # what ran out of memory left no trace: neither gradients nor running statistics
    assert all(torch.isfinite(t.float()).all() for t in _weights(tmp_path / "run").values())
    tracked = [int(v) for k, v in _weights(tmp_path / "run").items() if k.endswith("num_batches_tracked")]
    parts = tracked[0]
    assert len(_rows(tmp_path / "run")) < parts <= 2 * len(_rows(tmp_path / "run"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_ran_out_of_memory_leaves_no_trace_in_weights_or_statistics(data, tmp_path, monkeypatch, accumulate):
    """A batch that is halved after it has failed gives, bit for bit, what it gives when it is halved beforehand."""
    settings = ("train.epochs=2", "batch.max_utterances=4", f"train.accumulate={accumulate}", "model.dropout=0.2")
    _limit(monkeypatch, 150)
    for name, too_many in (("foreseen", 151), ("not-foreseen", math.inf)):
        monkeypatch.setattr(asr.training.session, "plan_memory", lambda planner, group, too_many=too_many: too_many)
        train(tiny_config(*settings), data, tmp_path / name)
    foreseen, found = _weights(tmp_path / "foreseen"), _weights(tmp_path / "not-foreseen")
    assert any(name.endswith(("running_mean", "mean_h")) for name in foreseen), sorted(foreseen)
    differing = [name for name, tensor in foreseen.items() if not torch.equal(tensor, found[name])]
    assert not differing


def test_an_utterance_that_does_not_fit_alone_is_left_out_and_named_once(data, tmp_path, monkeypatch, caplog):
    longest = max(asr.data.manifest.read(data / "train.jsonl"), key=lambda u: u.duration_s)
    frames = 1 + math.floor(longest.duration_s * 100)
    longer = [u for u in asr.data.manifest.read(data / "train.jsonl") if 1 + math.floor(u.duration_s * 100) >= frames]
    _limit(monkeypatch, frames - 1)
    cfg = tiny_config("train.epochs=2", "batch.max_utterances=2")
    with caplog.at_level(logging.INFO, "asr"):
        train(cfg, data, tmp_path / "run", _stop_at(3))
        resume(tmp_path / "run")
    assert any(f"utterance {longest.id} may not fit, even alone" in m for m in caplog.messages)
    lines = [m for m in caplog.messages if m.startswith(f"left out {longest.id}: it does not fit into memory")]
    assert 1 <= len(lines) <= 2  # once for each start
    dropped = [json.loads(line) for line in (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()]
    assert {row["id"] for row in dropped} == {u.id for u in longer}
    train(cfg, data, tmp_path / "never-stopped")
    left, right = _weights(tmp_path / "run"), _weights(tmp_path / "never-stopped")
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_resumed_with_more_memory_the_batches_stay_halved_and_the_run_is_the_same(data, tmp_path, monkeypatch, caplog):
    cfg = tiny_config("train.epochs=2", "batch.max_utterances=4")
    with monkeypatch.context() as patch:
        _limit(patch, 150)
        train(cfg, data, tmp_path / "never-stopped")
        train(cfg, data, tmp_path / "run", _stop_at(3))
    with caplog.at_level(logging.INFO, "asr"):
        resume(tmp_path / "run")
    assert "ran out of it before and are halved" in caplog.text
    left, right = _weights(tmp_path / "run"), _weights(tmp_path / "never-stopped")
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_resumed_with_less_memory_it_says_that_the_result_is_another(data, tmp_path, monkeypatch, caplog):
    cfg = tiny_config("train.epochs=2", "batch.max_utterances=4")
    train(cfg, data, tmp_path / "run", _stop_at(3))
    _limit(monkeypatch, 150)
    with caplog.at_level(logging.WARNING, "asr"):
        resume(tmp_path / "run")
    assert re.search(
        r"less memory is free than when the run began: batches of \d+ padded frames are halved", caplog.text
    )


def test_what_was_left_out_for_want_of_memory_stays_out_when_there_is_more(data, tmp_path, monkeypatch):
    longest = max(asr.data.manifest.read(data / "train.jsonl"), key=lambda u: u.duration_s)
    cfg = tiny_config("train.epochs=2", "batch.max_utterances=2")
    with monkeypatch.context() as patch:
        _limit(patch, math.floor(longest.duration_s * 100))
        train(cfg, data, tmp_path / "never-stopped")
        whole = (tmp_path / "never-stopped" / "dropped.jsonl").read_text()
        train(cfg, data, tmp_path / "run", _stop_at(len(_rows(tmp_path / "never-stopped")) // 2 + 1))
    report = resume(tmp_path / "run")
    assert (tmp_path / "run" / "dropped.jsonl").read_text() == whole and report.num_dropped == whole.count("\n")
    left, right = _weights(tmp_path / "run"), _weights(tmp_path / "never-stopped")
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_a_step_of_which_nothing_fits_changes_nothing(data, tmp_path, monkeypatch):
    _limit(monkeypatch, 1)
    with pytest.raises(DataError, match=r"nothing of epoch 1 could be trained on; the first: train-\d+: it does not"):
        train(tiny_config("train.epochs=3"), data, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_errors_that_mean_no_memory_are_told_from_others():
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: x"))
    assert not is_out_of_memory(RuntimeError("size mismatch")) and not is_out_of_memory(ValueError("not enough memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value), "as torch itself says it here"


def _stop_at(step: int) -> Any:
    import os
    import signal

    seen: list[int] = []

    def watch(values: dict[str, float]) -> None:
        if "loss" in values:
            seen.append(1)
            if len(seen) == step:
                os.kill(os.getpid(), signal.SIGINT)

    return watch


def _lack_memory_in_the_first_update(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """AdamW's fifth tensor of its own finds no memory, so many times; return the calls that failed."""
    failed: list[int] = []
    calls = 0
    real = torch.zeros_like

    def zeros_like(tensor: Any, **options: Any) -> Any:
        nonlocal calls
        if "memory_format" in options and len(failed) < times:
            calls += 1
            if calls == 5:
                calls = 0
                failed.append(1)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")
        return real(tensor, **options)

    monkeypatch.setattr(torch, "zeros_like", zeros_like)
    return failed


def test_an_optimiser_without_memory_tries_again_with_what_the_batch_has_left(data, tmp_path, monkeypatch):
    cfg = tiny_config("train.max_steps=3")
    train(cfg, data, tmp_path / "plain")
    failed = _lack_memory_in_the_first_update(monkeypatch, 1)
    train(cfg, data, tmp_path / "again")
    assert failed == [1]
    left, right = _weights(tmp_path / "again"), _weights(tmp_path / "plain")
    assert list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in right)


def test_an_optimiser_that_does_not_fit_is_one_line_with_what_it_needs(data, tmp_path, monkeypatch):
    failed = _lack_memory_in_the_first_update(monkeypatch, 99)
    line = (
        r"out of memory in the optimiser \(CUDA out of memory\. Tried to allocate 20\.00 MiB\.\): AdamW needs 0\.00 GiB"
    )
    with pytest.raises(TrainingError, match=line) as caught:
        train(tiny_config("train.max_steps=3"), data, tmp_path / "run")
    assert "train a smaller network (model.hidden, model.layers); go on with: asr train --resume" in str(caught.value)
    assert "\n" not in str(caught.value) and failed == [1, 1]


def test_activation_checkpointing_changes_no_bit_of_a_run(data, tmp_path, monkeypatch):
    settings = ("train.epochs=2", "model.dropout=0.3", "train.ema_decay=0.9", "batch.max_utterances=4")
    _limit(monkeypatch, 150)  # and of halved batches
    train(tiny_config(*settings), data, tmp_path / "plain")
    computed = []
    real = asr.model.conv.computed_twice
    monkeypatch.setattr(asr.model.conv, "computed_twice", lambda *args: computed.append(1) or real(*args))
    train(tiny_config(*settings, "train.activation_checkpointing=true"), data, tmp_path / "twice")
    assert len(computed) > 6
    left, right = _weights(tmp_path / "twice"), _weights(tmp_path / "plain")
    assert list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in right)


# --max-batch-seconds auto


@given(limit=st.floats(1, 5000), start=st.floats(1, 100), cap=st.floats(100, 3000))
@example(limit=1.5, start=1.1, cap=100.0)  # went on for ever
def test_the_largest_that_fits_is_found_to_5_percent_in_few_tries(limit, start, cap):
    tries: list[float] = []

    def fits(seconds: float) -> bool:
        tries.append(seconds)
        assert len(tries) <= 30
        return seconds <= limit

    found = find_largest(fits, start, cap)
    assert found <= min(limit, cap)
    if start > limit:
        assert found == 0
    else:
        assert found >= math.floor(min(min(limit, cap) / 1.05, cap)) - 1


def test_auto_finds_what_fits_writes_it_down_and_a_resumed_run_uses_it(data, tmp_path, monkeypatch, caplog):
    _limit(monkeypatch, 400)
    cfg = tiny_config("train.epochs=2", "batch.max_batch_s=auto", "batch.max_utterances=12")
    with caplog.at_level(logging.INFO, "asr"):
        train(cfg, data, tmp_path / "run", _stop_at(1))
    found = configs.load(tmp_path / "run" / "config.yaml").batch.max_batch_s
    assert isinstance(found, float) and 2.5 < found <= 4.01 and found == int(found)
    assert f"batch.max_batch_s=auto: {found:g} s fit into memory" in caplog.messages
    caplog.clear()
    monkeypatch.undo()  # another machine, with more memory: the run goes on with the same batches
    with caplog.at_level(logging.INFO, "asr"):
        resume(tmp_path / "run")
    assert not any("max_batch_s=auto" in m for m in caplog.messages)
    by_hand = tiny_config("train.epochs=2", f"batch.max_batch_s={found}", "batch.max_utterances=12")
    train(by_hand, data, tmp_path / "by-hand")
    left, right = _weights(tmp_path / "run"), _weights(tmp_path / "by-hand")
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_auto_stops_at_the_batch_of_all_utterances_it_may_hold(data, tmp_path):
    train(tiny_config("train.max_steps=1", "batch.max_batch_s=auto", "batch.max_utterances=3"), data, tmp_path / "run")
    longest_s = max(u.duration_s for u in asr.data.manifest.read(data / "train.jsonl"))
    assert configs.load(tmp_path / "run" / "config.yaml").batch.max_batch_s == math.ceil(3 * longest_s)


def test_auto_keeps_a_reserve_and_does_not_try_what_it_foresees_not_to_fit(data, tmp_path, monkeypatch):
    # memory as the planner sees it: 1000 bytes a frame over what is there already
    areas: list[int] = []
    monkeypatch.setattr(asr.training.planner, "used_bytes", lambda device: 10**6)
    monkeypatch.setattr(asr.training.planner, "total_bytes", lambda device: 2 * 10**6)
    monkeypatch.setattr(asr.training.planner, "peak_bytes", lambda device: 10**6 + 4 * 5000 + 1000 * areas[-1])
    real = asr.training.planner.gradients

    def gradients(network: Any, batch: Batch, *args: Any, **more: Any) -> Any:
        areas.append(batch.area)
        return real(network, batch, *args, **more)

    monkeypatch.setattr(asr.training.planner, "gradients", gradients)
    train(tiny_config("train.max_steps=1", "batch.max_batch_s=auto", "batch.max_utterances=99"), data, tmp_path / "run")
    found = configs.load(tmp_path / "run" / "config.yaml").batch.max_batch_s
    assert isinstance(found, float) and 5.5 < found <= 8.5  # (0.9 x 2 MB - 1 MB) / 1000 bytes, and AdamW's share
    assert max(areas) <= 1000, "more would not have been refused by Linux"


def test_auto_without_room_for_one_utterance_is_one_line_and_leaves_no_run(data, tmp_path, monkeypatch):
    _limit(monkeypatch, 10)
    with pytest.raises(ConfigError, match="not even the longest utterance fits into memory; lower"):
        train(tiny_config("batch.max_batch_s=auto"), data, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("value", ["auto", "7.5", "[1]", "-1", "none"])
def test_max_batch_s_is_a_number_or_auto(value):
    if value in ("auto", "7.5"):
        assert tiny_config(f"batch.max_batch_s={value}").batch.max_batch_s in ("auto", 7.5)
    else:
        with pytest.raises(ConfigError, match=r"batch\.max_batch_s"):
            tiny_config(f"batch.max_batch_s={value}")


def test_the_planner_leaves_the_network_as_it_was(data):
    from asr.data import manifest as manifests
    from asr.data.tokenizer import CharTokenizer
    from asr.model.checkpoint import build_model
    from asr.training.data import TrainingData

    cfg, read = tiny_config("model.dropout=0.5"), manifests.read(data / "train.jsonl")
    tokenizer = CharTokenizer.from_texts([u.text for u in read])
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
    training_data = TrainingData(read, tokenizer, model.extractor, model.network, cfg)
    planner = MemoryPlanner(
        model.network, training_data, Machine(CPU, "fp32", 1), torch.optim.AdamW(model.network.parameters())
    )
    model.network.eval()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    random = torch.get_rng_state()
    assert planner.measure(planner.largest())
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and not model.network.training
    assert all(p.grad is None for p in model.network.parameters())


def test_what_several_processes_remember_is_merged_and_a_damaged_file_is_nothing(tmp_path):
    from asr.training.memory import known_limits, remember_limit

    def batch(count: int, frames: int) -> Batch:
        ids = tuple(f"u{i}" for i in range(count))
        return Batch(torch.zeros(count, frames, 2), *(torch.ones(count, dtype=torch.int64),) * 3, ids, 1.0)

    assert known_limits(tmp_path) == (math.inf, [])
    remember_limit(tmp_path, batch(1, 90))
    assert known_limits(tmp_path) == (math.inf, ["u0"])
    for frames in (50, 40, 60):
        remember_limit(tmp_path, batch(2, frames))
    assert known_limits(tmp_path) == (80, ["u0"])
    (tmp_path / "memory.json").write_text("[")
    assert known_limits(tmp_path) == (math.inf, [])
    remember_limit(tmp_path / "no-such-folder", batch(1, 3))
    assert not (tmp_path / "no-such-folder").exists()


# On a GPU


class _Memory:
    """A GPU's memory as the planner sees it: so many bytes a frame over what is there already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, per_frame: int, per_frame_twice: int) -> None:
        self.base = 10**6
        self.total = self.base + room
        self.peak = 0
        self.held = 0
        #: (frames, whether the convolutions are computed twice) of each dry run
        self.tried: list[tuple[int, bool]] = []

        def gradients(network: Any, batch: Batch, *args: Any, **more: Any) -> None:
            is_twice = network.front_end.is_checkpointed
            self.tried.append((batch.area, is_twice))
            self.peak = self.base + self.held + batch.area * (per_frame_twice if is_twice else per_frame)
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
            for buffer in network.buffers():
                buffer.add_(1)
            if self.peak > self.total:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

        real = MemoryPlanner._room_for_optimizer

        @contextmanager
        def room_for_optimizer(planner: MemoryPlanner) -> Iterator[int]:
            with real(planner) as self.held:
                yield self.held
            self.held = 0

        monkeypatch.setattr(asr.training.planner, "gradients", gradients)
        monkeypatch.setattr(MemoryPlanner, "_room_for_optimizer", room_for_optimizer)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: self.peak)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.base)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.base)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.total - self.base, self.total))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCuda]:
    with pretended_cuda() as pretended:
        yield pretended


def _learner(data: Path, *settings: str) -> Learner:
    return build_trial(tiny_config("train.device=cuda", "text.normalization=none", *settings), data)


#: in the largest batch
FRAMES = 4 * 97
MIB = 2**20


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [m.removeprefix("memory: ") for m in caplog.messages if m.startswith("memory: ")]


def test_where_the_largest_batch_does_not_fit_the_convolutions_are_computed_twice(data, cuda, monkeypatch, caplog):
    learner = _learner(data)
    memory = _Memory(monkeypatch, 15 * MIB * FRAMES, per_frame=20 * MIB, per_frame_twice=10 * MIB)
    with caplog.at_level(logging.INFO, "asr"):
        assert plan_memory(learner.planner, learner.group) == math.inf
    first, last = _lines(caplog)
    assert first == (
        "the largest batches do not fit. Activation checkpointing of the convolutions is switched on, which saves "
        f"about {10 * FRAMES / 1024:.2f} GiB (4 x 97 frames) and computes them twice; no result changes"
    )
    assert last.startswith(f"the largest batch (4 x 97 frames) takes {10 * FRAMES / 1024:.2f} GiB at its peak")
    assert memory.tried == [(388, False), (388, False), (2 * 97, False), (2 * 97, True), (388, True)]


def test_where_it_fits_nothing_is_computed_twice(data, cuda, monkeypatch, caplog):
    learner = _learner(data)
    memory = _Memory(monkeypatch, 21 * MIB * FRAMES, per_frame=20 * MIB, per_frame_twice=10 * MIB)
    assert plan_memory(learner.planner, learner.group) == math.inf
    assert memory.tried == [(FRAMES, False)] and not learner.model.network.front_end.is_checkpointed


def test_batches_are_halved_only_if_computing_the_convolutions_twice_is_not_enough(data, cuda, monkeypatch, caplog):
    learner = _learner(data)
    memory = _Memory(monkeypatch, 9 * MIB * FRAMES, per_frame=20 * MIB, per_frame_twice=10 * MIB)
    with caplog.at_level(logging.INFO, "asr"):
        assert plan_memory(learner.planner, learner.group) == FRAMES
    first, last = _lines(caplog)
    assert "is switched on" in first and "does not fit at once: it and others like it are computed in halves" in last
    assert memory.tried[-2:] == [(FRAMES, True), (FRAMES / 2, True)]


@pytest.mark.parametrize(("setting", "is_twice"), [("false", False), ("true", True)])
def test_what_the_config_says_of_activation_checkpointing_holds(data, cuda, monkeypatch, caplog, setting, is_twice):
    learner = _learner(data, f"train.activation_checkpointing={setting}")
    memory = _Memory(monkeypatch, 9 * MIB * FRAMES, per_frame=20 * MIB, per_frame_twice=10 * MIB)
    with caplog.at_level(logging.INFO, "asr"):
        assert plan_memory(learner.planner, learner.group) < math.inf
    assert {twice for _, twice in memory.tried} == {is_twice} and "switched on" not in caplog.text


@pytest.mark.parametrize(("device", "conv"), [("cpu", None), ("cuda", "[]")])
def test_activation_checkpointing_is_left_off_where_it_is_of_no_use(data, cuda, device, conv):
    settings = [f"train.device={device}", *([f"model.conv={conv}", "model.encoder=mlp"] if conv else [])]
    learner = _learner(data, *settings)
    assert not learner.planner.may_checkpoint


def test_what_one_process_needs_all_do(data, cuda, monkeypatch):
    learner = _learner(data)
    _Memory(monkeypatch, 21 * MIB * FRAMES, per_frame=20 * MIB, per_frame_twice=10 * MIB)
    asked = []

    class Group(ProcessGroup):
        def any(self, value: bool) -> bool:
            asked.append(value)
            return True  # of another process

    plan_memory(learner.planner, Group())
    assert asked == [False] and learner.model.network.front_end.is_checkpointed


def test_a_batch_that_leaves_no_room_for_the_optimiser_does_not_fit(data, cuda, monkeypatch):
    learner = _learner(data, "train.activation_checkpointing=false")
    adamw = learner.planner.optimizer_bytes
    assert adamw == 2 * sum(p.nbytes for p in learner.model.network.parameters())
    for spare, too_many in ((0, math.inf), (-1, FRAMES)):
        memory = _Memory(monkeypatch, 100 * FRAMES + adamw + spare, per_frame=100, per_frame_twice=100)
        assert plan_memory(learner.planner, learner.group) == too_many
        assert memory.held == 0


def test_the_largest_batch_of_later_epochs_must_fit_too(data, cuda, monkeypatch):
    learner = _learner(data)
    monkeypatch.setattr(learner.data, "largest_s", lambda max_batch_s: 2 * FRAMES / 100)
    memory = _Memory(monkeypatch, 15 * MIB * 2 * FRAMES, per_frame=20 * MIB, per_frame_twice=10 * MIB)
    assert plan_memory(learner.planner, learner.group) == math.inf
    assert memory.tried[-1] == (FRAMES, True)


def test_memory_that_the_optimiser_has_already_is_not_counted_again(data, tmp_path):
    learner = build_trial(tiny_config("text.normalization=none"), data)
    assert learner.planner.optimizer_bytes > 0
    with closing(endless_batches(learner)) as batches:
        learner.step(next(batches), 0, 1e-3).result()
    assert learner.planner.optimizer_bytes == 0


def test_auto_computes_the_convolutions_twice_where_not_one_utterance_fits_otherwise(data, cuda, monkeypatch, caplog):
    memory = _Memory(monkeypatch, 1200 * MIB, per_frame=20 * MIB, per_frame_twice=10 * MIB)
    with caplog.at_level(logging.INFO, "asr"):
        learner = _learner(data, "batch.max_batch_s=auto")
    assert learner.model.network.front_end.is_checkpointed and learner.data.max_batch_s == 1
    assert [is_twice for _, is_twice in memory.tried].index(True) >= 1
    assert "saves" not in _lines(caplog)[0], "without it nothing could be measured"


def test_auto_finds_a_larger_batch_with_activation_checkpointing(data, cuda, monkeypatch):
    _Memory(monkeypatch, 3000 * MIB, per_frame=10 * MIB, per_frame_twice=5 * MIB)
    found = [
        _learner(data, "batch.max_batch_s=auto", f"train.activation_checkpointing={setting}").data.max_batch_s
        for setting in ("auto", "true")
    ]
    assert found == [2, 4]


def test_a_dry_run_on_a_gpu_leaves_nothing_behind(data, cuda, monkeypatch):
    learner = _learner(data)
    network, planner = learner.model.network, learner.planner
    before = {k: v.cpu() for k, v in network.state_dict().items()}
    for room in (10**9, 0):  # also where memory runs out
        _Memory(monkeypatch, room, per_frame=1, per_frame_twice=1)
        planner.measure(planner.largest())
        assert all(torch.equal(v.cpu(), before[k]) for k, v in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())
        assert not learner.optimizer.state


def test_on_a_gpu_a_run_with_activation_checkpointing_is_the_same(data, cuda, tmp_path):
    settings = ("train.device=cuda", "train.max_steps=3", "train.activation_checkpointing=")
    train(tiny_config(*settings[:2]), data, tmp_path / "plain")
    train(tiny_config(*settings[:2], f"{settings[2]}true"), data, tmp_path / "twice")
    left, right = _weights(tmp_path / "twice"), _weights(tmp_path / "plain")
    assert list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in right)


def test_a_dry_run_leaves_out_no_layer(data):
    cfg = wave_config("model.wav2vec2.shape.num_hidden_layers=4", "model.wav2vec2.layer_drop=0.9", "train.device=cpu")
    learner = build_trial(cfg, data)
    encoder, ran = learner.model.network.body.encoder, []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda *_: ran.append(1))
    learner.planner.measure(learner.planner.largest(5.0))
    assert len(ran) == 4 and encoder.layer_drop == 0.9
