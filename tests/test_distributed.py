from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from asr.batch import empty_batch
from asr.data.manifest import Manifest, Utterance
from asr.data.tokenizer import CharTokenizer
from asr.errors import AsrError, ConfigError
from asr.model.checkpoint import build_model
from asr.model.hf.config import read_config
from asr.training.data import TrainingData
from asr.training.distributed import DistributedGroup, ProcessGroup, process_group
from asr.training.trial import build_trial
from tests.builders import build_corpus, tiny_config
from tests.make_hf_folders import FOLDER

ROOT = Path(__file__).resolve().parent.parent
# No dropout: its masks are drawn for a process. All else that a run can have.
BASE = (
    "train.epochs=3",
    "train.ema_decay=0.9",
    "batch.max_utterances=5",
    "augment.speeds=[0.9, 1.0, 1.1]",
    "features.normalization=corpus",
)
WAVES = (
    "features.kind=wave",
    "features.num_mels=80",
    "features.normalization=utterance",
    "model.encoder=wav2vec2",
    "model.conv=[]",
    f"model.wav2vec2.shape={read_config(FOLDER / 'base').shape.model_dump_json()}",
    "optim.lr=0.003",
)
#: what processes draw for themselves
DRAWN = (
    "model.dropout=0.1",
    "model.wav2vec2.layer_drop=0.4",
    "model.wav2vec2.mask_time_probability=0.05",
    "train.activation_checkpointing=true",
)
SOON = "train.checkpoint_every_s=1e-9"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 16, seed=1, longest=6)
    build_corpus(folder, 4, seed=2, name="dev", longest=6)
    return folder


def _do(data: Path, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    for job in jobs:
        job["settings"] = tiny_config(*job.get("settings", ())).model_dump(mode="json")
        job["run"] = str(job.get("run", ""))
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes", str(data), json.dumps(jobs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    raw = ("Traceback", "Warning:")
    assert not [said for one in results for said in one["said"] if any(word in said for word in raw)], results
    return results


def _rows(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def _state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "checkpoints").glob("step-????????")) / "state.safetensors")


def _assert_alike(run: Path, expected: Path) -> None:
    """Up to rounding, which grows from step to step."""
    rows, others = _rows(run), _rows(expected)
    assert [(r["step"], r["epoch"], r["lr"], r["audio_s"]) for r in rows] == [
        (r["step"], r["epoch"], r["lr"], r["audio_s"]) for r in others
    ]
    for row, other in zip(rows, others, strict=True):
        assert row["loss_nats"] == pytest.approx(other["loss_nats"], rel=1e-4, abs=2e-4), row
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3, abs=2e-4), row
    left, right = _state(run), _state(expected)
    assert list(left) == list(right)
    for name in left:
        if name.startswith("model."):
            assert torch.allclose(left[name].float(), right[name].float(), rtol=1e-3, atol=2e-4), name


def _assert_same(run: Path, expected: Path) -> None:
    left, right = _state(run), _state(expected)
    assert list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)
    strip = [[{k: v for k, v in r.items() if k != "seconds"} for r in _rows(one)] for one in (run, expected)]
    assert strip[0] == strip[1]
    assert (run / "best" / "model.safetensors").read_bytes() == (expected / "best" / "model.safetensors").read_bytes()


Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def everything(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The folder of all runs of this file, and what came of them by name; one program, as torch takes long to load."""
    folder = tmp_path_factory.mktemp("runs")
    settings = [*BASE, SOON]
    jobs: list[tuple[str, dict[str, Any]]] = [
        ("two agree", {"call": "agreements", "size": 2}),
        ("four agree", {"call": "agreements", "size": 4}),
    ]
    # lstm: batches of two utterances for three processes, one of which has nothing
    kinds = {
        "plain": (),
        "lstm": ("model.cell=lstm", "batch.max_utterances=2", "train.accumulate=2"),
        "frozen": (
            "train.freeze={front_end: 3, layers: 5}",
            "optim.lr_scales={layers: 0.5}",
            "optim.decay_towards=start",
        ),
        "wav2vec2": WAVES,
    }
    for name, more in kinds.items():
        for size in (1, 3 if name == "lstm" else 2):
            label = f"{name}-{'one' if size == 1 else 'many'}"
            jobs.append((label, {"run": folder / label, "size": size, "settings": [*BASE, *more]}))
    twice = [*BASE, *kinds["lstm"], "train.activation_checkpointing=true"]
    jobs.append(("lstm-twice", {"run": folder / "lstm-twice", "size": 3, "settings": twice}))
    jobs.append(("drawn", {"run": folder / "drawn", "size": 3, "settings": [*BASE, *WAVES, *DRAWN]}))
    acts = {
        "kill": [1, 4, "KILL"],
        "first": [0, 6, "KILL"],
        "term": [1, 3, "TERM"],
        "fewer": [0, 5, "TERM"],
        "oom": [1, 3, "oom"],
    }
    for name, act in acts.items():
        job = {"run": folder / name, "size": 2, "settings": settings}
        jobs += [(name, {**job, "act": [act]}), (name, {**job, "size": 1 if name == "fewer" else 2})]
    blown_up = ["optim.lr=1e35", "optim.warmup_fraction=0", "optim.clip_norm=0", "model.norm=false"]
    jobs.append(("blown-up", {"run": folder / "blown-up", "size": 2, "settings": blown_up}))
    results: Results = {}
    for (name, _), result in zip(jobs, _do(data, *(job for _, job in jobs)), strict=True):
        results.setdefault(name, []).append(result)
    return folder, results


@pytest.fixture
def runs(everything: tuple[Path, Results]) -> Path:
    return everything[0]


@pytest.mark.parametrize("name", ["two agree", "four agree"])
def test_processes_agree_and_their_gradients_are_those_of_the_whole_batch(everything, name):
    (result,) = everything[1][name]
    assert set(result["codes"]) == {0}, result


def test_activation_checkpointing_changes_no_bit_of_what_several_processes_train(runs):
    _assert_same(runs / "lstm-twice", runs / "lstm-many")


@pytest.mark.parametrize("name", ["plain", "lstm", "frozen", "wav2vec2"])
def test_several_processes_train_what_one_does(runs, name):
    one, many = runs / f"{name}-one", runs / f"{name}-many"
    _assert_alike(many, one)
    valid = [[(r["epoch"], r["wer"]) for r in _rows(run, "valid")] for run in (one, many)]
    assert [epoch for epoch, _ in valid[0]] == [epoch for epoch, _ in valid[1]] == [1, 2, 3]


def test_processes_that_leave_out_other_layers_do_not_wait_for_each_other(everything):
    (result,) = everything[1]["drawn"]
    assert result["codes"] == [0, 0, 0], result


def test_accumulated_batches_make_one_update_of_them_all(runs):
    plain, accumulated = ([r for r in _rows(runs / f"{n}-one") if r["epoch"] == 1] for n in ("plain", "lstm"))
    assert len(accumulated) == 4, "16 utterances, two a batch, two batches an update"
    assert sum(r["audio_s"] for r in accumulated) == pytest.approx(sum(r["audio_s"] for r in plain), abs=0.1)


def test_one_process_writes_and_says(data, runs):
    run = runs / "plain-many"
    text = (run / "train.log").read_text()
    assert text.count("training on 16 of 16 utterances") == 1 and text.count("epoch 2: loss") == 1
    environment = json.loads((run / "environment.json").read_text())
    assert environment["processes"] == 2
    assert json.loads((run / "best" / "config.json").read_text())["training"]["hardware"].startswith("2 processes: ")


@pytest.mark.parametrize(("name", "rank"), [("kill", 1), ("first", 0)])
def test_the_loss_of_a_process_ends_the_others_with_one_line_and_the_run_resumes_exactly(everything, name, rank):
    folder, results = everything
    killed, end = results[name]
    assert killed["codes"][rank] == -signal.SIGKILL and killed["codes"][1 - rank] == 2 and killed["seconds"] < 60
    lines = [line for line in killed["said"][1 - rank].splitlines() if line.startswith(("asr: ", "ERROR"))]
    assert len(lines) == 1 and ("another process of this run has gone" in lines[0] or "cannot be reached" in lines[0])
    assert lines[0].endswith(f"the earlier checkpoints are whole; go on with: asr train --resume {folder / name}")
    assert end["codes"] == [0, 0]
    _assert_same(folder / name, folder / "plain-many")


def test_a_signal_to_one_process_stops_all_at_the_same_step(everything):
    folder, results = everything
    stopped, end = results["term"]
    assert stopped["codes"] == [130, 130] and end["codes"] == [0, 0]
    found = re.search(r"resuming after step (\d+) ", end["said"][0])
    assert found and int(found[1]) >= 3
    assert (folder / "term" / "train.log").read_text().count("stopped; go on with") == 1
    _assert_same(folder / "term", folder / "plain-many")


def test_a_run_resumed_with_fewer_processes_says_so_and_ends_alike(everything):
    folder, results = everything
    stopped, end = results["fewer"]
    assert stopped["codes"] == [130, 130] and end["codes"] == [0]
    _assert_alike(folder / "fewer", folder / "plain-many")
    text = (folder / "fewer" / "train.log").read_text()
    assert "resumed with another processes: 1, before 2; the batches are the same ones" in text


def test_a_process_without_memory_ends_all_and_the_resumed_run_knows_its_limit(everything):
    folder, results = everything
    large, end = results["oom"]
    assert large["codes"] == [2, 2] and end["codes"] == [0, 0]
    assert "process 1 ran out of memory (out of memory, as asked) at train-" in large["said"][1]
    assert json.loads((folder / "oom" / "memory.json").read_text())["too_many_frames"] > 0
    assert "ran out of it before and are halved" in end["said"][0]
    assert len(_rows(folder / "oom")) == len(_rows(folder / "plain-many"))


def test_a_loss_that_is_not_finite_is_said_by_one_process_with_rate_and_utterances(everything):
    (bad,) = everything[1]["blown-up"]
    assert bad["codes"] == [2, 2] and bad["said"][1] == ""
    line = bad["said"][0].splitlines()[-1]
    assert re.match(
        r"asr: step \d+: the (loss|gradient) is not finite at learning rate \d\.\d\de\+\d+, utterances train-", line
    )


def test_torchrun_starts_it(data, runs, tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(tiny_config(*BASE).model_dump(mode="json")))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "localhost:0",
            "-m",
            "asr",
            "train",
            str(tmp_path / "c.yaml"),
            "--data",
            str(data),
            "--out",
            str(tmp_path / "run"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'best'}\n"
    assert done.stderr.count("INFO epoch 3: loss") == 1
    _assert_alike(tmp_path / "run", runs / "plain-one")


@pytest.mark.slow
def test_killed_at_random_moments_every_run_of_two_processes_ends_the_same(data, runs, tmp_path):
    draw = random.Random(0)
    jobs: list[dict[str, Any]] = []
    for number in range(20):
        act = [[draw.randrange(2), draw.randrange(1, 14), "KILL"]]
        job = {"run": tmp_path / f"{number}", "size": 2, "settings": [*BASE, SOON]}
        jobs += [{**job, "act": act}, dict(job)]
    results = _do(data, *jobs)
    killed = [-signal.SIGKILL in one["codes"] for one in results[::2]]
    assert sum(killed) >= 18, results
    print(f"{sum(killed)} kills; the other process ended after at most {max(r['seconds'] for r in results[::2]):.1f} s")
    for number in range(20):
        assert results[2 * number + 1]["codes"] == [0, 0], results[2 * number + 1]
        _assert_same(tmp_path / f"{number}", runs / "plain-many")


@pytest.mark.slow
def test_a_process_that_only_hangs_is_given_up_within_a_minute(data, tmp_path):
    job = {"run": tmp_path / "run", "size": 2, "settings": [*BASE, SOON], "act": [[1, 3, "STOP"]]}
    (done,) = _do(data, job)
    assert done["codes"] == [2, -signal.SIGKILL] and done["seconds"] < 60
    assert "process 1 has not been heard of for 40 s; the earlier checkpoints are whole; go on with" in done["said"][0]


# One process alone


def test_one_process_is_a_group_that_agrees_with_itself():
    with process_group() as group:
        assert type(group) is ProcessGroup and group.is_first and group.device("cuda:1") == "cuda:1"
        assert group.agree(1, 2.0) == [(1, 2.0)] and group.sum(3, 4) == [3, 4] and group.gather("x") == ["x"]
        assert group.everywhere(lambda: 5) == group.from_first(lambda: 5) == 5
        with pytest.raises(ConfigError, match="no"):
            group.agree(error=ConfigError("no"))
        network = torch.nn.Linear(1, 1)
        assert group.connect(network) is network


def test_an_environment_that_is_not_whole_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE says 2 processes, but 'RANK' is not.*torchrun"), process_group():
        pass


def test_each_process_takes_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert DistributedGroup(1, 2, 1, 2).device("auto") == DistributedGroup(3, 4, 1, 2).device("cuda") == "cuda:1"
    assert DistributedGroup(1, 2, 1, 2).device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="'cuda:0' for 2 processes: each takes a device of its own"):
        DistributedGroup(0, 2, 0, 2).device("cuda:0")
    with pytest.raises(ConfigError, match="4 processes on a machine with 2 CUDA devices"):
        DistributedGroup(3, 4, 3, 4).device("auto")


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_batch_is_split_into_parts_of_like_duration_that_together_are_the_batch(parts):
    draw = random.Random(parts)
    rows = [Utterance(f"u{i}", f"{i}.wav", draw.uniform(1, 15), "ab") for i in range(60)]
    manifest, cfg = Manifest(Path("m.jsonl"), rows), tiny_config("batch.max_utterances=16")
    tokenizer = CharTokenizer.from_texts(["ab"])
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
    shares = [
        TrainingData(manifest, tokenizer, model.extractor, model.network, cfg, part, parts) for part in range(parts)
    ]
    plans = [data.plan(1) for data in shares]
    assert all(plan == plans[0] for plan in plans)
    for planned in plans[0]:
        owned = [data.own_part(planned).items for data in shares]
        assert sorted(item for items in owned for item in items) == sorted(planned.items)
        seconds = [sum(rows[i].duration_s for i, _ in items) for items in owned]
        longest = max(rows[i].duration_s for i, _ in planned.items)
        assert max(seconds) - min(seconds) <= longest
        assert max(map(len, owned)) - min(map(len, owned)) <= 1 or len(planned.items) < parts


class _Two(ProcessGroup):
    """The first of two processes, of which the other has this many parts of each batch."""

    size = 2

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def agree(self, *values: float, error: AsrError | None = None) -> list[tuple[float, ...]]:
        return [values, (float(self.parts),)]


@pytest.mark.parametrize(("others", "expected"), [(0, []), (1, [()]), (2, [(), ()])])
def test_a_part_that_no_process_has_is_left_out_of_a_step(data: Path, others: int, expected: list[Any]) -> None:
    learner = build_trial(tiny_config(), data)
    learner.group = _Two(others)
    assert [part.ids for part in learner._split_large([empty_batch(8)])] == expected
