"""Which epoch is the best, and that a model that training starts from competes with all of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import asr.training.validate
from asr.data import manifest as manifests
from asr.errors import DataError
from asr.evaluate import evaluate
from asr.model.checkpoint import load_model, model_tensors
from asr.train import resume, train
from asr.training.average import models_of
from asr.training.validate import DevSet
from tests.builders import build_corpus, tiny_config
from tests.pretend_cuda import pretended_cuda


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 10, seed=1, longest=6)
    build_corpus(folder, 4, seed=2, name="dev", longest=6)
    return folder


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt something."""
    return train(tiny_config("train.epochs=10", "optim.lr=0.02"), data, tmp_path_factory.mktemp("source") / "run").run


def _rows(run: Path, kind: str = "valid") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def _found(monkeypatch: pytest.MonkeyPatch, *each: tuple[float, float, float | None]) -> None:
    """Lets the validations of a run find these word and character error rates and losses."""
    left: Iterator[tuple[float, float, float | None]] = iter(each)
    before = DevSet.validate

    def validate(self: DevSet) -> asr.training.validate.Validation:
        wer, cer, loss_nats = next(left)
        result = before(self)
        score = replace(result.score, wer=replace(result.score.wer, rate=wer), cer=replace(result.score.cer, rate=cer))
        return replace(result, score=score, wer=wer, cer=cer, loss_nats=loss_nats)

    monkeypatch.setattr(DevSet, "validate", validate)


# Which one is the best


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([(0.5, 0.2, 9.0), (0.4, 0.3, 9.0), (0.6, 0.1, 1.0)], 2),  # WER before all else
        ([(0.5, 0.2, 1.0), (0.5, 0.1, 9.0), (0.5, 0.3, 1.0)], 2),  # then CER
        ([(0.0, 0.0, 3.0), (0.0, 0.0, 1.0), (0.0, 0.0, 2.0)], 2),  # then the dev loss
        ([(0.0, 0.0, 1.0), (0.0, 0.0, 1.0), (0.1, 0.0, 0.5)], 2),  # then the later epoch
        ([(0.0, 0.0, None), (0.0, 0.0, None), (0.0, 0.0, None)], 3),  # no dev text fits into its steps
        ([(0.0, 0.0, None), (0.0, 0.0, 50.0), (0.0, 0.0, None)], 2),
    ],
)
def test_ties_on_dev_are_broken_by_cer_then_loss_then_the_later_epoch(data, tmp_path, monkeypatch, found, best):
    _found(monkeypatch, *found)
    report = train(tiny_config("train.epochs=3", "train.keep_best=3"), data, tmp_path / "run")
    assert report.progress.best[0].epoch == best
    assert load_model(tmp_path / "run").training["epoch"] == best
    assert models_of(tmp_path / "run", best=1)[0].name == f"best-epoch-{best:04d}", (
        "asr average --best, by the same rule"
    )
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"best dev WER {found[best - 1][0]:.2%} after epoch {best}: " in log


def test_a_dev_loss_that_still_falls_does_not_put_off_early_stopping(data, tmp_path, monkeypatch):
    _found(monkeypatch, (0.5, 0.5, 9.0), (0.0, 0.0, 8.0), (0.0, 0.0, 7.0), (0.0, 0.0, 6.0), (0.0, 0.0, 5.0))
    report = train(tiny_config("train.epochs=5", "train.early_stop=2"), data, tmp_path / "run")
    assert report.progress.epoch == 4 and report.progress.best[0].epoch == 4


def test_the_dev_loss_is_the_mean_over_the_utterances_that_fit(data, source, tmp_path):
    model, dev = load_model(source), manifests.read(data / "dev.jsonl")
    alone = []
    for row in dev:
        manifests.write(tmp_path / "one.jsonl", [replace(row, audio_path=str(data / row.audio_path))])
        alone.append(DevSet(manifests.read(tmp_path / "one.jsonl"), model, ["a"]).validate().loss_nats)
    assert all(loss is not None and loss > 0 for loss in alone)
    assert DevSet(dev, model, ["a"]).validate().loss_nats == pytest.approx(sum(alone) / len(alone), rel=1e-5)
    long = [replace(row, audio_path=str(data / row.audio_path)) for row in dev]
    long[0] = replace(long[0], text="a" * 2000)
    manifests.write(tmp_path / "long.jsonl", long)
    found = DevSet(manifests.read(tmp_path / "long.jsonl"), model, ["a"]).validate()
    assert found.loss_nats == pytest.approx(sum(alone[1:]) / (len(alone) - 1), rel=1e-5)
    manifests.write(tmp_path / "none.jsonl", long[:1])
    assert DevSet(manifests.read(tmp_path / "none.jsonl"), model, ["a"]).validate().loss_nats is None


def test_a_gpu_validates_in_the_precision_of_the_run_and_a_cpu_in_float32(data, source):
    model, dev = load_model(source), manifests.read(data / "dev.jsonl")
    expected = DevSet(dev, model, ["a"]).validate()
    assert DevSet(dev, model, ["a"], "bf16").validate() == expected
    with pretended_cuda() as cuda:
        model.network.to("cuda:0")
        for precision, dtype, within in (("fp32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 0.05)):
            cuda.recurrent_calls.clear()
            found = DevSet(dev, model, ["a"], precision).validate()
            assert {call.dtype for call in cuda.recurrent_calls} == {dtype}
            assert found.loss_nats == pytest.approx(expected.loss_nats, rel=within)
        assert found.loss_nats != expected.loss_nats


# The model that training starts from


def test_the_model_that_training_starts_from_is_epoch_0(data, source, tmp_path):
    report = train(tiny_config(f"train.init={source}", "train.epochs=2"), data, tmp_path / "run")
    first = _rows(tmp_path / "run")[0]
    # tones are no speech
    dev = manifests.read(data / "dev.jsonl")
    expected = evaluate(load_model(source), dev, no_speech_threshold=1).score
    assert (first["epoch"], first["step"]) == (0, 0) and "loss_nats" not in first and first["dev_loss_nats"] > 0
    assert (first["wer"], first["cer"]) == (expected.wer.rate, expected.cer.rate)
    assert [row["epoch"] for row in _rows(tmp_path / "run")] == [0, 1, 2]
    assert "epoch 0: the model that training starts from, dev WER " in (tmp_path / "run" / "train.log").read_text()
    assert report.progress.epoch_losses_nats and len(report.progress.epoch_losses_nats) == 2


def test_a_run_that_makes_it_worse_keeps_the_model_it_started_from_and_says_so(data, source, tmp_path, caplog):
    settings = (
        f"train.init={source}",
        "train.epochs=2",
        "optim.lr=3.0",
        "optim.warmup_fraction=0",
        "train.keep_last=3",
    )
    report = train(tiny_config(*settings, "train.keep_best=2"), data, tmp_path / "run")
    assert report.progress.best[0].epoch == 0
    best, before = load_file(tmp_path / "run" / "best" / "model.safetensors"), model_tensors(load_model(source))
    assert all(torch.equal(best[name], before[name]) for name in before)
    (warning,) = [r.getMessage() for r in caplog.records if "training did not help" in r.getMessage()]
    assert f"than {source}, the model that it started from" in warning and "lower optim.lr (now 3.0e+00)" in warning
    assert "best dev WER" in report.lines()[-1] and "before the first epoch" in report.lines()[-1]
    kept = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").glob("*epoch-*"))
    assert kept[0] == "best-epoch-0000" and kept[-2:] == ["epoch-0001", "epoch-0002"], "it is none of the last epochs"


def test_a_run_that_helps_does_not_warn_and_neither_does_one_from_random_weights(data, source, tmp_path, caplog):
    weak = train(tiny_config("train.epochs=1", "optim.lr=0.0001"), data, tmp_path / "weak").run
    settings = ("train.epochs=10", "optim.lr=0.02")
    assert train(tiny_config(f"train.init={weak}", *settings), data, tmp_path / "run").progress.best[0].epoch > 0
    assert "did not help" not in caplog.text
    assert _rows(weak)[0]["epoch"] == 1


def test_epoch_0_counts_for_early_stopping(data, source, tmp_path, monkeypatch):
    _found(monkeypatch, (0.1, 0.1, 1.0), (0.2, 0.2, 2.0), (0.3, 0.3, 3.0), (0.0, 0.0, 0.0))
    settings = (f"train.init={source}", "train.epochs=9", "train.early_stop=2")
    assert train(tiny_config(*settings), data, tmp_path / "run").progress.epoch == 2


@pytest.mark.parametrize("at", [0, 1, 3, 4, 6])
def test_a_run_from_a_model_that_is_stopped_and_resumed_is_the_one_that_was_not(data, source, tmp_path, at):
    settings = (
        f"train.init={source}",
        "train.epochs=2",
        "batch.max_utterances=3",
        "train.keep_best=2",
        "train.ema_decay=0.9",
        "train.checkpoint_every_s=1e-9",
    )
    whole, run = train(tiny_config(*settings), data, tmp_path / "whole").run, tmp_path / "run"
    seen = 0

    def watch(values: dict[str, float]) -> None:
        nonlocal seen
        seen += "loss" in values
        if seen == at and ("loss" in values or not at):
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(tiny_config(*settings), data, run, watch).interrupted
    if not at:  # as if killed before there was a checkpoint
        for checkpoint in (run / "checkpoints").glob("step-*"):
            shutil.rmtree(checkpoint)
    resume(run)
    for name in ("best/model.safetensors", "checkpoints/step-00000008/state.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    for kind in ("train", "valid"):
        left, right = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in _rows(one, kind)] for one in (run, whole)
        )
        assert left == right


# A dev set that the model cannot write


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            ["A b", "c\u00e9d", "\u00e9 x"],
            "3 of 3 texts have characters that the training texts lack, so that no model of them writes these: "
            "'\u00e9' (U+00E9) in 2, 'A' (U+0041) in 1, 'x' (U+0078) in 1; the first: utt 'dev-0'. Either set a "
            "text.normalization that writes them otherwise; or train on texts that have them; or take these rows out",
        ),
        (
            ["a b", "A B"],
            "1 of 2 texts have .* 'A' .* 'B' .* Either set text.normalization=upper or lower or .*, which",
        ),
        (
            ["ab!"],
            "'!' (U+0021) in 1; .* Either set text.normalization=upper-nopunct or lower-nopunct or librispeech, ",
        ),
        (["defghi xyz"], "'e' (U+0065) in 1, .*, …; the first"),
    ],
)
def test_dev_characters_that_training_lacks_are_counted_with_three_ways_out(data, tmp_path, texts, said):
    train_rows = [replace(row, audio_path=str(data / row.audio_path)) for row in manifests.read(data / "train.jsonl")]
    rows = [replace(train_rows[0], id=f"dev-{i}", text=text) for i, text in enumerate(texts)]
    manifests.write(tmp_path / "train.jsonl", train_rows)
    manifests.write(tmp_path / "dev.jsonl", rows)
    with pytest.raises(DataError) as caught:
        train(tiny_config("text.normalization=none"), tmp_path, tmp_path / "run")
    assert str(caught.value).startswith(f"{tmp_path / 'dev.jsonl'}: ")
    assert all(part in str(caught.value) for part in said.split(".*"))
    assert not (tmp_path / "run" / "config.yaml").exists()
