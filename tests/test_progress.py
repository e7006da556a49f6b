"""A run without a terminal says about every minute where it is."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest

import asr.training.planner
from asr import heartbeat
from asr.commands import lm
from asr.train import train
from asr.training import progress
from asr.training.progress import Pace
from asr.training.validate import DevSet
from tests.builders import build_corpus, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 6, seed=1, longest=6)
    build_corpus(folder, 2, seed=2, name="dev", longest=6)
    return folder


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, with a line every hundredth of a second instead of every minute."""
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)
    caplog.set_level(logging.INFO, "asr")
    return caplog


def _slow(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """A function takes as long as several lines."""
    real = getattr(owner, name)

    def slow(*args: Any, **more: Any) -> Any:
        time.sleep(0.1)
        return real(*args, **more)

    monkeypatch.setattr(owner, name, slow)


def test_a_run_says_where_it_is_and_what_takes_long(data, tmp_path, monkeypatch, often):
    _slow(monkeypatch, asr.training.planner, "gradients")  # the dry runs
    _slow(monkeypatch, DevSet, "validate")
    _slow(monkeypatch, asr.training.step.Learner, "step")
    train(tiny_config("train.epochs=2", "batch.max_utterances=3"), data, tmp_path / "run")
    for said in (
        r"memory: trying a batch of 3 x \d+ frames for 0 s\n",
        r"the first step is not done after 0 s\n",
        r"epoch 0\.50 of 2, step 1, loss \d+\.\d{3} nats, \d+\.\d audio-s/s\n",
        r"epoch 1\.50 of 2, step 3, loss \d+\.\d{3} nats, \d+\.\d audio-s/s, \d s left\n",
        r"validating epoch 1\n",
        r"validating epoch 2\n",
    ):
        assert re.search(said, often.text), said
    log = (tmp_path / "run" / "train.log").read_text()
    assert "validating epoch 1" in log and "trying a batch" in log, "also in the run's own log"


def test_a_run_that_ends_by_steps_counts_its_time_by_them(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now_s)
    handed: list[dict[str, float]] = []
    pace = Pace(handed.append)
    values = {"epochs": 30.0, "loss": 2.0}
    for step in (1, 2):
        now_s += 60
        pace({**values, "epoch": step / 100, "step": step, "share": step / 10, "audio_s": 600.0 * step})
    assert pace.line() == "epoch 0.02 of 30, step 2, loss 2.000 nats, 10.0 audio-s/s, 8 min left"
    pace({"epochs": 30.0, "epoch": 1.0, "wer": 0.5, "audio_s": 1200.0})  # a validation
    assert pace.line().startswith("epoch 1.00 of 30, step 2, loss 2.000 nats")
    assert len(handed) == 3


def test_the_share_that_is_done_goes_by_epochs_or_by_steps_whichever_end_first(data, tmp_path):
    for settings, shares in (((), [0.25, 0.5, 0.75, 1.0]), (("train.max_steps=2",), [0.5, 1.0])):
        seen: list[dict[str, float]] = []
        cfg = tiny_config("train.epochs=2", "batch.max_utterances=3", *settings)
        train(cfg, data, tmp_path / f"run{len(shares)}", seen.append)
        assert [values["share"] for values in seen if "share" in values] == shares


def test_the_training_of_a_language_model_says_where_it_is(often):
    with lm._training_bar() as watch:
        time.sleep(0.05)
        for step in (1, 2):
            watch({"epochs": 4.0, "epoch": step / 2, "bits": 1.5, "tokens": 100.0, "held_out": 2.0})
            time.sleep(0.05)
    for said in (
        r"the first step is not done after 0 s\n",
        r"epoch 0\.50 of 4, 1\.500 bits per character, [\d,]+ tokens/s\n",
        r"epoch 1\.00 of 4, 1\.500 bits per character, [\d,]+ tokens/s, \d s left\n",
    ):
        assert re.search(said, often.text), said
