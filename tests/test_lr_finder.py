"""The learning-rate finder: it climbs, it sees the explosion, it suggests a rate that trains, it keeps nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import yaml

from asr.cli import run
from asr.training.lr_finder import HIGHEST, LOWEST, Found, Tried, find_lr, steepest
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


def test_the_steepest_fall_is_of_the_smoothed_loss_and_the_first_steps_do_not_count():
    losses = [90, 50, 40, 30, 20, 20, 19, 10, 9, 9]
    tried = [Tried(10.0 ** (i - 8), loss, loss) for i, loss in enumerate(losses)]
    assert steepest(tried) == pytest.approx(10.0 ** (7 - 8))
    assert steepest([Tried(10.0**i, 1.0 + i, 1.0 + i) for i in range(9)]) is None


def test_a_rate_is_suggested_well_below_the_explosion():
    assert Found((), 0.01, 0.02).suggestion == pytest.approx(0.002)
    assert Found((), 0.001, 0.5).suggestion == 0.001
    assert Found((), None, None).suggestion is None


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
