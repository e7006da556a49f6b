from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.data.tokenizer import CharTokenizer
from asr.errors import CheckpointError, ConfigError
from asr.train import resume, train
from asr.training.folder import RunFolder
from asr.training.progress import Progress, Validated, read_progress
from asr.training.restore import check_unchanged
from tests.builders import build_corpus, tiny_config

ABC, ABD = CharTokenizer.from_texts(["abc"]), CharTokenizer.from_texts(["abd"])


def _started(path: Path, *settings: str) -> Path:
    path.mkdir(exist_ok=True)
    assert check_unchanged(path / "started.json", tiny_config(*settings), ABC, has_state=False) == []
    return path / "started.json"


def test_nothing_changed_is_nothing_said(tmp_path):
    record = _started(tmp_path)
    assert check_unchanged(record, tiny_config(), ABC, has_state=True) == []


@pytest.mark.parametrize(
    ("setting", "before"),
    [
        ("optim.lr=0.5", "0.01"),
        ("train.seed=9", "1"),
        ("batch.max_utterances=3", "4"),
        ("train.precision=bf16", "fp32"),
        ("model.conv=[{channels: 5}]", "\\[\\{"),
        ("train.accumulate=2", "1"),
    ],
)
def test_a_config_that_would_train_something_else_stops_with_what_to_do(tmp_path, setting, before):
    record = _started(tmp_path / "run")
    with pytest.raises(
        ConfigError, match=rf"run/config\.yaml: {setting.partition('=')[0]} is .* now, the run"
    ) as caught:
        check_unchanged(record, tiny_config(setting), ABC, has_state=True)
    message = str(caught.value)
    assert "put it back, or start a new run from these weights (--init" in message and "\n" not in message
    assert check_unchanged(record, tiny_config(), ABC, has_state=True) == [], "put back, all is well"


@pytest.mark.parametrize(
    "setting",
    [
        "batch.workers=3",
        "train.activation_checkpointing=true",
        "train.checkpoint_every_s=9",
        "batch.feature_cache_mib=1",
        "train.keep_last=3",
    ],
)
def test_what_changes_no_number_goes_on_and_is_said_once(tmp_path, setting):
    record = _started(tmp_path)
    (line,) = check_unchanged(record, tiny_config(setting), ABC, has_state=True)
    assert line.startswith(f"resumed with another {setting.partition('=')[0]}: ") and "not what" not in line
    assert check_unchanged(record, tiny_config(setting), ABC, has_state=True) == []


def test_a_longer_run_goes_on_and_is_said_to_be_another(tmp_path):
    (line,) = check_unchanged(_started(tmp_path), tiny_config("train.epochs=9"), ABC, has_state=True)
    assert line == "resumed with another train.epochs: 9, before 2; the rest is not what it would have been"


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: another tokenizer than the one the run was trained"):
        check_unchanged(_started(tmp_path), tiny_config(), ABD, has_state=True)


def test_before_the_first_checkpoint_everything_may_change(tmp_path):
    assert check_unchanged(_started(tmp_path), tiny_config("optim.lr=3"), ABD, has_state=False) == []


@pytest.mark.parametrize("content", ["", "[]", '{"config": 3, "tokenizer": "x"}'])
def test_a_damaged_record_is_said_and_written_anew(tmp_path, caplog, content):
    record = _started(tmp_path)
    record.write_text(content)
    with caplog.at_level(logging.WARNING, "asr"):
        assert check_unchanged(record, tiny_config("optim.lr=3"), ABC, has_state=True) == []
    assert any("started.json is missing or damaged" in m for m in caplog.messages)
    assert json.loads(record.read_text())["config"]["optim.lr"] == 3


def test_a_checkpoint_whose_optimiser_has_other_shapes_is_refused(tmp_path):
    build_corpus(tmp_path / "data", 6, seed=1, longest=5)
    build_corpus(tmp_path / "data", 3, seed=2, name="dev", longest=5)
    run = tmp_path / "run"
    train(tiny_config("train.max_steps=1", "train.epochs=1"), tmp_path / "data", run)
    (state,) = run.glob("checkpoints/step-*1/state.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(state).items()}
    save_file(tensors | {"optimizer.1.exp_avg": torch.zeros(3)}, state)
    with pytest.raises(CheckpointError, match=r"'optimizer.1.exp_avg' has shape \[3\]"):
        resume(run)


@pytest.mark.parametrize("content", ["[]", "true", '{"packages": 3}', "{"])
def test_a_damaged_environment_is_said_and_written_anew(tmp_path, caplog, content):
    (tmp_path / "environment.json").write_text(content)
    RunFolder(tmp_path).write_environment({"threads": 1, "packages": {}})
    assert "environment.json is damaged; it is written again" in caplog.text
    assert json.loads((tmp_path / "environment.json").read_text()) == {"threads": 1, "packages": {}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epoch": "x"}, "epoch: Input should be a valid integer"),
        ({"best": [[0.5, 0.5, None]]}, "best.0"),
        ({"late": [["a"]]}, "late.0.1"),
        ({"step": 10**18}, "step: a number out of range"),
        ({"batch": -1}, "batch: a number out of range"),
        ({"loss_sum_nats": math.nan}, "Out of range float"),
        ({"junk": 1}, "'junk'"),
    ],
)
def test_progress_of_other_types_is_one_line(tmp_path, change, said):
    whole = vars(Progress(best=[Validated(0.5, 0.25, None, 3)], late=[("a", "b")], loss_sum_nats=1.5))
    state = json.loads(json.dumps(whole))
    assert vars(read_progress(Progress, state, tmp_path)) == whole
    with pytest.raises(CheckpointError, match=f"not the progress of a run .*{said}"):
        read_progress(Progress, state | change, tmp_path)


def test_a_resumed_run_says_what_else_is_another(tmp_path, caplog):
    build_corpus(tmp_path / "data", 6, seed=1, longest=5)
    build_corpus(tmp_path / "data", 3, seed=2, name="dev", longest=5)
    run = tmp_path / "run"
    train(tiny_config("train.max_steps=1", "train.epochs=1"), tmp_path / "data", run)
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"asr": "0.0", "threads": 64, "precision": "bf16", "processes": 4}
    environment["packages"]["torch"] = "1.0"
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("workers: null", "workers: 2"))
    with caplog.at_level(logging.WARNING, "asr"):
        resume(run)
    said = "\n".join(caplog.messages)
    for what in (
        "asr: ",
        "torch: ",
        "threads: 1, before 64; the result is the same up to rounding",
        "precision: fp32, before bf16; the result is not what it would have been",
        "processes: 1, before 4; the batches are the same ones",
        "batch.workers: 2, before null",
    ):
        assert f"resumed with another {what}" in said, what

    (run / "environment.json").write_text('["no record"]')
    with caplog.at_level(logging.WARNING, "asr"):
        resume(run)
    assert any("environment.json is damaged; it is written again" in message for message in caplog.messages)
    assert json.loads((run / "environment.json").read_text())["precision"] == "fp32"


def test_a_clock_that_is_set_back_changes_no_duration(tmp_path, monkeypatch):
    import time

    build_corpus(tmp_path / "data", 6, seed=1, longest=5)
    build_corpus(tmp_path / "data", 3, seed=2, name="dev", longest=5)
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    report = train(tiny_config("train.epochs=1"), tmp_path / "data", tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["seconds"] >= 0 for row in rows) and report.progress.seconds > 0
    assert min(report.phases_s.values()) >= 0
