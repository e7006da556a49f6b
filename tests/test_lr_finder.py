"""The learning-rate finder: it climbs, it sees the explosion, it suggests a rate that trains, it keeps nothing."""

from __future__ import annotations

import itertools
import math
from contextlib import closing

import pytest
import yaml

from asr.cli import run
from asr.errors import AsrError
from asr.training.lr_finder import HIGHEST, LOWEST, RateSearch, TriedRate, find_lr, steepest_fall
from asr.training.step import PendingStep, StepResult
from asr.training.trial import build_trial, endless_batches
from tests.builders import build_corpus, tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 8, seed=1, longest=4)
    return folder


def test_it_climbs_from_the_lowest_rate_and_ends_at_the_explosion(data):
    found = find_lr(tiny_config(), data, steps=40)
    rates = [one.lr for one in found.tried]
    assert rates[0] == LOWEST and rates == sorted(rates) and rates[-1] <= HIGHEST
    ratios = [math.log(b / a) for a, b in itertools.pairwise(rates)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert found.exploded is None or found.exploded >= rates[-1]
    assert found.suggestion is not None and 1e-5 < found.suggestion <= 0.1


def test_it_is_the_same_every_time(data):
    first, second = (find_lr(tiny_config("model.dropout=0.2"), data, steps=8) for _ in range(2))
    assert first == second


def test_the_loss_is_of_a_second_of_audio_however_many_utterances_a_step_has(data, monkeypatch):
    steps = [
        StepResult(10.0, 1.0, 2, 5.0),
        StepResult(20.0, 1.0, 4, 16.0),
    ]  # a mean of 10 nats over two utterances in 5 s, …
    monkeypatch.setattr("asr.training.step.Learner.step", lambda stepper, batches, number, lr: _done(steps.pop(0)))
    assert [one.loss for one in find_lr(tiny_config(), data, steps=2).tried] == [4.0, 5.0]


def _done(result: StepResult) -> PendingStep:
    return PendingStep(result.utterances, result.audio_s, lambda: result)


def test_it_takes_the_weights_the_batches_and_the_dropout_of_the_config(data, tmp_path, monkeypatch):
    import asr.training.learner
    from asr.train import train

    build_corpus(data, 3, seed=2, name="dev", longest=4)
    train(tiny_config("train.epochs=3", "optim.lr=0.02"), data, tmp_path / "run")
    known = find_lr(tiny_config(f"train.init={tmp_path / 'run'}"), data, steps=6)
    assert known.tried[0].loss < find_lr(tiny_config(), data, steps=6).tried[0].loss
    with pytest.raises(AsrError, match="/nonexistent"):
        find_lr(tiny_config("train.init=/nonexistent"), data, steps=6)
    cfg = tiny_config("train.accumulate=3", "batch.max_utterances=2", "train.dropout_schedule=[[0, 0.5], [1, 0.5]]")
    trial = build_trial(cfg, data)
    with closing(endless_batches(trial)) as steps:
        sizes = [[len(batch.ids) for batch in next(steps)] for _ in range(4)]
    assert sizes == [[2, 2, 2], [2], [2, 2, 2], [2]]
    assert {m.p for m in trial.model.network.modules() if type(m).__name__ == "Dropout"} == {0.5}
    monkeypatch.setattr(asr.training.learner, "resolve_max_batch_s", lambda planner, group: 5)
    assert build_trial(tiny_config("batch.max_batch_s=auto"), data).data.max_batch_s == 5


def test_the_steepest_fall_is_of_the_smoothed_loss_and_the_first_steps_do_not_count():
    losses = [90, 50, 40, 30, 20, 20, 19, 10, 9, 9]
    tried = [TriedRate(10.0 ** (i - 8), loss, loss) for i, loss in enumerate(losses)]
    assert steepest_fall(tried) == pytest.approx(10.0 ** (7 - 8))
    assert steepest_fall([TriedRate(10.0**i, 1.0 + i, 1.0 + i) for i in range(9)]) is None


def test_a_rate_is_suggested_well_below_the_explosion():
    assert RateSearch((), 0.01, 0.02).suggestion == pytest.approx(0.002)
    assert RateSearch((), 0.001, 0.5).suggestion == 0.001
    assert RateSearch((), None, None).suggestion is None


def test_the_command_prints_a_table_and_leaves_nothing(data, tmp_path, monkeypatch, capfd):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config().model_dump(mode="json")))
    before = sorted(p for p in (*tmp_path.rglob("*"), *data.rglob("*")))
    for args, code, said in (
        (["--data", str(data)], 0, "suggestion: --set optim.lr="),
        ([], 2, "needs CONFIG and --data"),
        (["--data", str(data), "--out", str(tmp_path / "run")], 2, "no --out"),
    ):
        monkeypatch.setattr("sys.argv", ["asr", "train", str(path), "--find-lr", *args])
        with pytest.raises(SystemExit) as end:
            run()
        out, err = capfd.readouterr()
        assert int(end.value.code or 0) == code and said in (out if code == 0 else err)
    assert sorted(p for p in (*tmp_path.rglob("*"), *data.rglob("*"))) == before
