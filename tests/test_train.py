from __future__ import annotations

import errno
import itertools
import json
import logging
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import asr.model.tensor_files
import asr.train
import asr.training.folder
import asr.training.gradients
import asr.training.optim
import asr.training.session
import asr.training.step
import asr.training.validate
from asr import config as configs
from asr.config import OptimConfig, RunConfig, override, parse, to_yaml
from asr.data import manifest as manifests
from asr.data.manifest import Utterance
from asr.errors import AsrError, CheckpointError, ConfigError, DataError, TrainingError
from asr.evaluate import evaluate
from asr.model.checkpoint import build_model, load_model
from asr.runtime import Machine, stable_seed
from asr.train import resume, train
from asr.training.folder import RunFolder
from asr.training.optim import MovingAverage, learning_rate
from asr.training.progress import Report
from asr.training.trial import build_trial
from tests.builders import build_corpus, noise, tiny_config, write_wav

# Everything that is random or has a memory: what a resumed run could get wrong.
EVERYTHING = (
    "train.epochs=3",
    "train.sortagrad=true",
    "train.ema_decay=0.9",
    "train.keep_best=2",
    "batch.workers=1",
    "batch.max_utterances=2",
    "augment.joined.share=0.4",
    "train.chunk_s=[0.1, 0.4]",
    "augment.speeds=[0.9, 1.0, 1.1]",
    "model.dropout=0.2",
    "augment.spec={freq_masks: 1, freq_width_bins: 3, time_masks: 1, time_width_s: 0.1}",
    "features.normalization=corpus",
    "features.dither=0.0001",
    "augment.warp=0.1",
    "augment.noise.probability=0.5",
    "augment.reverb.probability=0.5",
    "train.label_smoothing=0.1",
    "train.dropout_schedule=[[0, 0.1], [0.8, 0.3]]",
    "train.keep_last=2",
    "train.consistency=0.2",
)
CPU = Machine(torch.device("cpu"), "fp32", 1)
EACH_STEP = "train.checkpoint_every_s=1e-9"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 10, seed=1, longest=6)
    build_corpus(folder, 4, seed=2, name="dev", longest=6)
    return folder


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that was never interrupted; 12 steps in 3 epochs."""
    out = tmp_path_factory.mktemp("reference") / "run"
    assert train(tiny_config(*EVERYTHING), data, out).progress.step == 12
    return out


def _rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if kind in (None, row["kind"])]


def _newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-????????"))


def _content(path: Path) -> Any:
    """A file's bytes; of a model's config neither wall time nor commit, which may change while the tests run."""
    if path.name != "config.json":
        return path.read_bytes()
    config = json.loads(path.read_text())
    config["training"] = {k: v for k, v in config["training"].items() if k not in ("commit", "dirty", "seconds")}
    return config


def _without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "seconds"}


def _assert_same_run(
    run: Path,
    expected: Path,
    prefixes: tuple[str, ...] = ("model.network.", "model.features.", "optimizer.", "average."),
) -> None:
    """Bit for bit: newest checkpoint (weights, optimiser, average, progress), models, metrics; not wall times."""
    newest = _newest(run)
    assert newest.name == _newest(expected).name
    left, right = load_file(newest / "state.safetensors"), load_file(_newest(expected) / "state.safetensors")
    assert list(left) == list(right)
    differing = [name for name, tensor in left.items() if not torch.equal(tensor, right[name])]
    assert not differing
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in left), prefix
    states = [json.loads((_newest(one) / "state.json").read_text()) for one in (run, expected)]
    assert _without_seconds(states[0]) == _without_seconds(states[1])
    models = [
        {
            p.relative_to(one).as_posix(): _content(p)
            for folder in (one / "best", *(one / "checkpoints").glob("*epoch-*"))
            for p in folder.iterdir()
        }
        for one in (run, expected)
    ]
    assert models[0] == models[1]
    assert list(map(_without_seconds, _rows(run))) == list(map(_without_seconds, _rows(expected)))


def _at_step(step: int, act: Callable[[], object]) -> Callable[[dict[str, float]], None]:
    """A watcher that acts when the given step of this process is done."""
    seen = 0

    def watch(values: dict[str, float]) -> None:
        nonlocal seen
        if "loss" in values:
            seen += 1
            if seen == step:
                act()

    return watch


def _send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# A run from start to end


def test_a_run_leaves_its_record(data, tmp_path):
    cfg = tiny_config("text.normalization=none")
    report = train(cfg, data, tmp_path / "run")
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir() if p.name != "tensorboard") == [
        "best",
        "checkpoints",
        "config.yaml",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "started.json",
        "train.log",
    ]
    assert configs.load(run / "config.yaml") == cfg
    assert sorted(p.name for p in (run / "best").iterdir()) == [
        "config.json",
        "model.safetensors",
        "results.json",
        "tokenizer.json",
    ]
    record = json.loads((run / "data.json").read_text())
    assert record["folder"] == str(data.resolve()) and len(record["train"]) == len(record["dev"]) == 64
    assert json.loads((run / "environment.json").read_text())["precision"] == "fp32"
    text = (run / "train.log").read_text()
    assert "training on 10 of 10 utterances" in text and "epoch 2: loss " in text and "best dev WER" in text
    assert not list(run.rglob("*.part")) and not list(run.rglob("*.old"))
    assert report.run == run and not report.interrupted
    assert report.progress.epoch == 2 and report.progress.done
    assert 0 <= report.padding < 1 and report.audio_s_per_s > 0
    assert report.lines()[-1].startswith("best dev WER ") and str(run / "best") in report.lines()[-1]


def test_metrics_have_a_row_a_step_and_a_row_a_validation(reference):
    train_rows, valid_rows = _rows(reference, "train"), _rows(reference, "valid")
    assert [row["step"] for row in train_rows] == list(range(1, 13))
    assert [row["epoch"] for row in train_rows] == [1] * 4 + [2] * 4 + [3] * 4
    assert [(row["step"], row["epoch"]) for row in valid_rows] == [(4, 1), (8, 2), (12, 3)]
    for row in train_rows:
        assert set(row) == {"kind", "step", "epoch", "loss_nats", "lr", "grad_norm", "audio_s", "seconds"}
        assert row["loss_nats"] > 0 and row["grad_norm"] > 0 and row["audio_s"] > 0
    for row in valid_rows:
        assert set(row) == {
            "kind",
            "step",
            "epoch",
            "loss_nats",
            "dev_loss_nats",
            "wer",
            "cer",
            "blank_fraction",
            "emitted_ratio",
            "seconds",
        }
        assert 0 <= row["blank_fraction"] <= 1
    seconds = [row["seconds"] for row in _rows(reference)]
    assert seconds == sorted(seconds)


def test_the_loss_of_a_validation_row_is_the_epochs_mean_over_utterances(data, tmp_path):
    train(tiny_config("train.epochs=1", "batch.max_utterances=3"), data, tmp_path / "run")
    losses = [row["loss_nats"] * n for row, n in zip(_rows(tmp_path / "run", "train"), (3, 3, 3, 1), strict=True)]
    (row,) = _rows(tmp_path / "run", "valid")
    assert row["loss_nats"] == pytest.approx(sum(losses) / 10, abs=2e-4)  # rounded to 4 digits each


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls(data, tmp_path, precision):
    cfg = tiny_config("train.epochs=12", f"train.precision={precision}", "optim.lr=0.02", "train.ema_decay=0.5")
    train(cfg, data, tmp_path / "run")
    losses = [row["loss_nats"] for row in _rows(tmp_path / "run", "valid")]
    assert losses[-1] < 0.6 * losses[0]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] == precision


def test_the_learning_rate_rises_then_falls_towards_zero(reference):
    rates = [row["lr"] for row in _rows(reference, "train")]
    cfg = OptimConfig(lr=0.01)
    assert rates == pytest.approx([learning_rate(cfg, step / 12, (step + 1) / 12) for step in range(12)])
    assert rates[0] < rates[1] and rates[1:] == sorted(rates[1:], reverse=True) and 0 < rates[-1] < 0.001


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_a_run_of_one_step_trains(data, tmp_path, decay):
    cfg = tiny_config("train.epochs=1", "batch.max_utterances=20", "optim.lr=0.1", f"optim.decay={decay}")
    report = train(cfg, data, tmp_path / "run")
    rows = _rows(tmp_path / "run", "train")
    assert len(rows) == 1 and rows[0]["lr"] > 0
    model = load_model(report.run / "best")
    torch.manual_seed(stable_seed(cfg.train.seed, "init"))
    begun = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, model.tokenizer).network.state_dict()
    assert not torch.equal(begun["output.weight"], model.network.state_dict()["output.weight"])


def test_patience_counts_a_lower_cer_where_the_wer_is_the_same(data, tmp_path, monkeypatch):
    """At first no word is right, and CER falls; then nothing changes."""
    cers = iter([1.0, 0.9, 0.8, 0.8, 0.8, 0.1])
    before = asr.training.validate.DevSet.validate

    def validate(self):
        return replace(before(self), wer=1.0, cer=next(cers))

    monkeypatch.setattr(asr.training.validate.DevSet, "validate", validate)
    train(tiny_config("train.early_stop=2", "train.epochs=6"), data, tmp_path / "run")
    assert len(_rows(tmp_path / "run", "valid")) == 5


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_every_schedule_is_continuous_and_stays_within_its_peak(decay):
    for warmup in (0.0, 0.3, 1.0):
        cfg = OptimConfig(lr=2.0, warmup_fraction=warmup, decay=decay)
        rates = [learning_rate(cfg, i / 1000, i / 1000) for i in range(1001)]
        assert all(0 <= rate <= 2.0 for rate in rates)
        # a cosine's steepest slope over 0.7 of the run is 2.24 x its height; a rise over 0.3 has 3.4
        assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.008 or warmup == 1.0
        assert max(rates) == pytest.approx(2.0)


@pytest.mark.parametrize("workers", [0, 3])
def test_the_number_of_workers_changes_no_bit_of_a_run(data, reference, tmp_path, workers):
    train(tiny_config(*EVERYTHING, f"batch.workers={workers}"), data, tmp_path / "run")
    _assert_same_run(tmp_path / "run", reference)


def test_the_cache_changes_no_bit_of_a_run(data, tmp_path):
    for size in (0, 100):
        train(tiny_config("train.ema_decay=0.5", f"batch.feature_cache_mib={size}"), data, tmp_path / str(size))
    _assert_same_run(tmp_path / "0", tmp_path / "100")


def test_another_seed_gives_another_run(data, reference, tmp_path):
    train(tiny_config(*EVERYTHING, "train.seed=2"), data, tmp_path / "run")
    assert _rows(tmp_path / "run")[0]["loss_nats"] != _rows(reference)[0]["loss_nats"]


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_dev_wer_in_training_is_what_evaluate_finds_for_the_saved_model(data, tmp_path, ema_decay):
    cfg = tiny_config("train.epochs=14", "optim.lr=0.02", f"train.ema_decay={ema_decay}")
    report = train(cfg, data, tmp_path / "run")
    best = min(_rows(tmp_path / "run", "valid"), key=lambda row: (row["wer"], row["cer"], row["dev_loss_nats"]))
    dev = manifests.read(data / "dev.jsonl")
    result = evaluate(load_model(tmp_path / "run"), dev, no_speech_threshold=1)  # tones are no speech
    assert (result.score.wer.rate, result.score.cer.rate) == (best["wer"], best["cer"])
    first = report.progress.best[0]
    assert (first.wer, first.cer, first.epoch) == (best["wer"], best["cer"], best["epoch"])
    assert first.loss_nats == pytest.approx(best["dev_loss_nats"], abs=1e-4)
    assert 0 < best["cer"] < 1, "neither all right nor empty: the comparison must mean something"
    results = json.loads((tmp_path / "run" / "best" / "results.json").read_text())
    assert results["dev"]["wer"] == result.score.wer.to_json()
    assert load_model(tmp_path / "run").training["epoch"] == best["epoch"]


def test_the_saved_model_is_the_average_and_training_goes_on_with_the_raw_weights(data, tmp_path):
    run = tmp_path / "run"
    train(tiny_config("train.epochs=2", "train.ema_decay=0.9", "train.keep_best=2"), data, run)
    state = load_file(_newest(run) / "state.safetensors")
    name = "network.output.weight"
    assert not torch.equal(state[f"model.{name}"], state["average.output.weight"])
    # Both epochs' models are kept, so the last one's is there.
    model = load_file(run / "checkpoints" / "best-epoch-0002" / "model.safetensors")
    assert torch.equal(model[name], state["average.output.weight"])


def test_the_average_forgets_its_random_start_faster_than_its_decay():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = MovingAverage(network, decay=0.5)
    torch.nn.init.ones_(network.weight)
    average.update(0)
    assert average.tensors["weight"].item() == pytest.approx(0.9)  # a tenth of what it was
    average.update(100)
    assert average.tensors["weight"].item() == pytest.approx(0.95)  # half, from here on


def test_the_saved_model_names_the_commit_that_was_started_not_a_later_one(data, tmp_path, monkeypatch):
    commits = iter("abcdef")
    monkeypatch.setattr(asr.training.session, "commit", lambda: {"commit": next(commits), "dirty": False})
    train(tiny_config("train.max_steps=4"), data, tmp_path / "run")
    assert load_model(tmp_path / "run").training["commit"] == "a"


def _canned(monkeypatch: pytest.MonkeyPatch, rates: list[float]) -> None:
    """Lets the validations of a run find these word error rates."""
    real, left = asr.training.validate.score, iter(rates)

    def score(pairs: Any) -> Any:
        result = real(pairs)
        return replace(result, wer=replace(result.wer, rate=next(left)))

    monkeypatch.setattr(asr.training.validate, "score", score)


def test_the_best_models_are_kept_and_the_others_removed(data, tmp_path, monkeypatch):
    _canned(monkeypatch, [0.9, 0.5, 0.7, 0.4, 0.8])
    report = train(tiny_config("train.epochs=5", "train.keep_best=2"), data, tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("best-*"))
    assert kept == ["best-epoch-0002", "best-epoch-0004"]
    assert [one.epoch for one in report.progress.best] == [4, 2]
    assert load_model(tmp_path / "run").training["epoch"] == 4
    assert load_model(tmp_path / "run" / "checkpoints" / "best-epoch-0002").training["epoch"] == 2


def test_the_models_of_the_last_epochs_are_kept_beside_the_best(data, tmp_path, monkeypatch):
    _canned(monkeypatch, [0.4, 0.5, 0.7, 0.6])
    train(tiny_config("train.epochs=4", "train.keep_last=2"), data, tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("*epoch-*"))
    assert kept == ["epoch-0003", "epoch-0004"]
    assert load_model(tmp_path / "run").training["epoch"] == 1
    assert load_model(tmp_path / "run" / "checkpoints" / "epoch-0003").training["epoch"] == 3


def test_dropout_follows_its_schedule(data, tmp_path, monkeypatch):
    seen = []
    original = asr.training.step.Learner.step

    def step(self, *args):
        seen.append(self.model.network.dropout.p)
        return original(self, *args)

    monkeypatch.setattr(asr.training.step.Learner, "step", step)
    train(tiny_config("train.epochs=2", "train.dropout_schedule=[[0.25, 0.0], [0.75, 0.4]]"), data, tmp_path / "run")
    steps = len(seen)
    assert seen == pytest.approx([min(0.4, max(0.0, 0.8 * (i / steps - 0.25))) for i in range(steps)])
    assert max(seen) == 0.4 and min(seen) == 0.0


def test_the_length_of_chunks_is_drawn_for_each_step(data, tmp_path, monkeypatch):
    seen = []
    original = asr.model.network.Chunks.__init__

    def init(self, num_steps_b, longest, chunk_steps):
        seen.append(chunk_steps)
        original(self, num_steps_b, longest, chunk_steps)

    monkeypatch.setattr(asr.model.network.Chunks, "__init__", init)
    train(tiny_config("train.epochs=4", "train.chunk_s=[0.2, 0.4]"), data, tmp_path / "run")
    # steps of 20 ms; none in validations, nor in the dry run
    assert len(seen) == 12 and set(seen) <= set(range(10, 21)) and len(set(seen)) > 3


def test_chunks_without_recurrent_layers_are_refused():
    with pytest.raises(ConfigError, match=r"train\.chunk_s is for recurrent layers, and model\.encoder is tdnn"):
        tiny_config("model.encoder=tdnn", "train.chunk_s=[0.2, 0.4]")


def test_label_smoothing_mixes_the_penalty_into_the_gradient_and_leaves_the_loss(data):
    found = {}
    for smoothing in (0.0, 0.25, 1.0):
        trial = build_trial(tiny_config(), data)
        batch = trial.data.load(trial.data.plan(1)[0])
        losses_b = asr.training.gradients.gradients(trial.model.network, batch, 1, CPU, smoothing=smoothing)
        found[smoothing] = losses_b, [p.grad.clone() for p in trial.model.network.parameters()]
    assert torch.equal(found[0.0][0], found[0.25][0])
    for plain, mixed, penalty in zip(*(found[key][1] for key in (0.0, 0.25, 1.0)), strict=True):
        torch.testing.assert_close(mixed, 0.75 * plain + 0.25 * penalty, rtol=1e-4, atol=1e-4)
    assert any(not torch.allclose(a, b) for a, b in zip(found[0.0][1], found[1.0][1], strict=True))


def test_consistency_adds_the_disagreement_of_two_views_and_leaves_the_loss_their_mean(data):
    masks = "augment.spec={freq_masks: 2, freq_width_bins: 6, time_masks: 1, time_width_s: 0.1}"
    found = {}
    for weight in (0.0, 0.5, 2.0):
        trial = build_trial(tiny_config(masks, f"train.consistency={weight or 1}"), data)
        batch = trial.data.load(trial.data.plan(1)[0])
        losses_b = asr.training.gradients.gradients(trial.model.network, batch, 1, CPU, consistency=weight)
        found[weight] = losses_b, [p.grad.clone() for p in trial.model.network.parameters()]
    assert torch.equal(found[0.0][0], found[2.0][0]) and len(found[0.0][0]) == len(batch.ids)
    for none, some, more in zip(*(found[key][1] for key in (0.0, 0.5, 2.0)), strict=True):
        torch.testing.assert_close(more - none, 4 * (some - none), rtol=1e-3, atol=1e-3)
    plain, drawn = (torch.cat([g.flatten() for g in found[weight][1]]) for weight in (0.0, 2.0))
    assert (drawn - plain).norm() > 1e-3 * plain.norm()  # more than rounding
    assert batch.twin_btf is not None
    both = replace(
        batch,
        features_btf=torch.cat([batch.features_btf, batch.twin_btf]),
        twin_btf=None,
        ids=batch.ids * 2,
        num_frames_b=batch.num_frames_b.repeat(2),
        num_targets_b=batch.num_targets_b.repeat(2),
        targets_bu=batch.targets_bu.repeat(2, 1),
    )
    for smoothing in (0.0, 0.5):  # loss and penalty are means of both views, as if these were utterances of one batch
        one, two = (build_trial(tiny_config(masks), data) for _ in range(2))
        losses_b = asr.training.gradients.gradients(one.model.network, both, 2, CPU, smoothing=smoothing)
        asr.training.gradients.gradients(two.model.network, batch, 1, CPU, smoothing=smoothing)
        torch.testing.assert_close(losses_b.view(2, -1).mean(0), found[0.0][0])
        for p, q in zip(one.model.network.parameters(), two.model.network.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        ("model.dropout=0", "augment.spec={freq_masks: 0, time_masks: 0}"),
        ("model.dropout=0.3", "train.dropout_schedule=[[0, 0.0], [1, 0.0]]"),
        ("augment.spec={freq_masks: 2, freq_width_bins: 0}",),
        ("augment.spec={time_masks: 2, time_width_s: 0}",),
        ("augment.spec={time_masks: 2, time_width_fraction: 0}",),
    ],
)
def test_two_views_that_cannot_differ_are_refused(settings):
    with pytest.raises(ConfigError, match="compares two views of an utterance, which are the same without augment"):
        tiny_config("train.consistency=0.2", *settings)


@pytest.mark.parametrize(
    "model",
    [
        {"encoder": "wav2vec2", "wav2vec2": {"mask_time_probability": 0.05}},
        {"encoder": "conformer", "conformer": {"layer_drop": 0.1}},
    ],
)
def test_masks_and_skipped_layers_inside_a_network_make_two_views_differ(model):
    kind = "wave" if model["encoder"] == "wav2vec2" else "log_mel"
    values = {"model": model, "features": {"kind": kind}, "train": {"consistency": 0.2}}
    assert parse(RunConfig, values, "here").train.consistency == 0.2


def test_a_batch_of_one_row_trains(tmp_path):
    """Batch norm of torch's refuses a single row; here one bin and one step are left of the first utterance."""
    write_wav(tmp_path / "short.wav", noise(0.03))
    write_wav(tmp_path / "long.wav", noise(0.4, seed=1))
    for split in ("train", "dev"):
        rows = [Utterance("short", "short.wav", 0.03, "a"), Utterance("long", "long.wav", 0.4, "ab")]
        manifests.write(tmp_path / f"{split}.jsonl", rows)
    layer = "{channels: 4, kernel_tf: [3, 3], stride_tf: [2, 4]}"
    settings = (f"model.conv=[{layer}, {layer}]", "features.num_mels=13", "batch.max_utterances=1", "train.epochs=1")
    report = train(tiny_config(*settings), tmp_path, tmp_path / "run")
    assert report.progress.step == 2
    assert all(torch.isfinite(p).all() for p in load_model(report.run / "best").network.state_dict().values())


def test_a_run_without_progress_stops_early(data, tmp_path, monkeypatch):
    _canned(monkeypatch, [0.9, 0.5, 0.5, 0.6, 0.1])
    report = train(tiny_config("train.epochs=5", "train.early_stop=2"), data, tmp_path / "run")
    assert (report.progress.epoch, report.progress.done, report.interrupted) == (4, True, False)
    assert "stopping early" in (tmp_path / "run" / "train.log").read_text()
    assert load_model(tmp_path / "run").training["epoch"] == 3, "as good as epoch 2, with a lower dev loss"
    assert resume(tmp_path / "run").progress.epoch == 4


@pytest.mark.parametrize("max_steps", [1, 3, 4])
def test_max_steps_ends_a_run_with_a_validation_and_a_model(data, tmp_path, max_steps):
    report = train(tiny_config(f"train.max_steps={max_steps}", "train.epochs=9"), data, tmp_path / "run")
    assert report.progress.step == max_steps and report.progress.done
    assert [row["step"] for row in _rows(tmp_path / "run", "train")] == list(range(1, max_steps + 1))
    assert _rows(tmp_path / "run", "valid")[-1]["step"] == max_steps
    load_model(tmp_path / "run")
    assert resume(tmp_path / "run").progress.step == max_steps


def test_validations_come_every_few_epochs_and_at_the_end(data, tmp_path):
    train(tiny_config("train.epochs=5", "train.validate_every_epochs=2"), data, tmp_path / "run")
    assert [row["epoch"] for row in _rows(tmp_path / "run", "valid")] == [2, 4, 5]


def test_what_is_left_out_is_named_in_the_log(data, tmp_path):
    rows = list(manifests.read(data / "train.jsonl"))
    longest_s = max(u.duration_s for u in rows)
    rows = [replace(u, text="" if u.duration_s == longest_s else u.text) for u in rows]
    gone = [u.id for u in rows if not u.text]
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    manifests.write(folder / "train.jsonl", rows)
    train(tiny_config("train.epochs=1"), folder, tmp_path / "run")
    text = (tmp_path / "run" / "train.log").read_text()
    assert f"training on {10 - len(gone)} of 10 utterances" in text and f"left out {gone[0]}: empty text" in text
    facts = load_model(tmp_path / "run").training
    assert facts["dropped"] == len(gone) and facts["longest_s"] == max(u.duration_s for u in rows if u.text)


def test_an_utterance_that_is_too_short_after_all_never_ends_a_run_and_stays_in_its_records(data, tmp_path):
    # 15 ms less than the manifest says is within its slack, but one output step less (2 frames a step).
    folder = shutil.copytree(data, tmp_path / "data")
    write_wav(folder / "short.wav", noise(0.185))
    rows = list(manifests.read(folder / "train.jsonl"))
    manifests.write(folder / "train.jsonl", [Utterance("short", "short.wav", 0.2, "abcdabcdabc"), *rows[:4]])
    cfg = tiny_config("train.epochs=4", "batch.max_utterances=1", "train.sortagrad=true")  # alone in the first batch
    cfg_each = override(cfg, ["train.checkpoint_every_s=1e-9"])
    whole = train(cfg, folder, tmp_path / "whole")
    assert whole.progress.step == 20 and whole.num_dropped == 1
    assert len(_rows(tmp_path / "whole", "train")) == 16  # of the others
    run = tmp_path / "run"
    train(cfg_each, folder, run, _at_step(7, _send(signal.SIGINT)))
    report = resume(run)
    assert report.num_dropped == 1 and '"short"' in (run / "dropped.jsonl").read_text()
    assert load_model(run).training["dropped"] == load_model(tmp_path / "whole").training["dropped"] == 1
    left, right = (load_file(_newest(folder) / "state.safetensors") for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(left[name], right[name]) for name in right)
    assert resume(run).num_dropped == 1  # complete, and asked again


def test_a_checkpoint_before_the_first_update_can_be_resumed(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    write_wav(folder / "short.wav", noise(0.185))
    rows = list(manifests.read(folder / "train.jsonl"))
    manifests.write(folder / "train.jsonl", [Utterance("short", "short.wav", 0.2, "abcdabcdabc"), *rows[:2]])
    cfg = tiny_config("train.epochs=2", "batch.max_utterances=1", "train.sortagrad=true", "batch.workers=0")
    report = train(cfg, folder, tmp_path / "run", _at_step(1, _send(signal.SIGINT)))
    assert report.interrupted and report.progress.step == 1 and report.progress.loss_count == 0
    assert not any(name.startswith("optimizer.") for name in load_file(_newest(tmp_path / "run") / "state.safetensors"))
    assert resume(tmp_path / "run").progress.step == 6


# What cannot be trained


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json", "a model"),
        ("model.safetensors", "a model"),
        ("train.jsonl", "prepared data"),
        ("prepared.json", "prepared data"),
        ("best/config.json", "models or checkpoints of an earlier run"),
        ("checkpoints/step-00000004/state.json", "models or checkpoints of an earlier run"),
        ("tokenizer.json", "a tokenizer.json of its own"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(data, tmp_path, name, what):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/out holds {what}; choose another --out$"):
        train(tiny_config(), data, tmp_path / "out")
    assert path.read_text() == "precious" and [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [path]


def test_a_folder_that_holds_a_run_is_refused(data, reference):
    before = (reference / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run already; .* go on with: asr train --resume "):
        train(tiny_config(), data, reference)
    assert (reference / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_missing_manifest_is_named_and_no_run_is_begun(data, tmp_path, split):
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / f"{split}.jsonl").unlink()
    with pytest.raises(DataError, match=rf"^{folder}/{split}\.jsonl: no such file; training takes"):
        train(tiny_config(), folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_does_not_block_its_folder(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    good = (folder / "dev.jsonl").read_bytes()
    rows = list(manifests.read(folder / "dev.jsonl"))
    manifests.write(folder / "dev.jsonl", [replace(rows[0], text="xyz"), *rows[1:]])
    with pytest.raises(DataError, match=rf"dev\.jsonl: 1 of 4 texts .* 'x' .* first: utt '{rows[0].id}'"):
        train(tiny_config("train.epochs=1"), folder, tmp_path / "run")
    (folder / "dev.jsonl").write_bytes(good)
    assert train(tiny_config("train.epochs=1"), folder, tmp_path / "run").progress.done


def test_audio_that_cannot_be_read_stops_the_run_and_names_utterance_and_file(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "wav" / "train-0004.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"utt 'train-0004': .*train-0004\.wav: the file is empty"):
        train(tiny_config(), folder, tmp_path / "run")


def test_a_learning_rate_that_blows_up_is_an_error_with_step_rate_and_utterances(data, tmp_path):
    cfg = tiny_config("optim.lr=1e35", "optim.warmup_fraction=0", "optim.clip_norm=0", "model.norm=false")
    before = set(threading.enumerate())
    with pytest.raises(TrainingError) as caught:
        train(cfg, data, tmp_path / "run")
    assert set(threading.enumerate()) <= before  # the loaders', while the error is still at hand
    message = str(caught.value)
    assert "\n" not in message
    assert re.match(
        r"step \d+: the (loss|gradient) is not finite at learning rate \d\.\d\de\+3\d, utterances train-", message
    )
    assert "lower optim.lr" in message


def test_an_infinite_loss_names_the_one_utterance_that_has_it(data, tmp_path, monkeypatch):
    real = asr.training.gradients.ctc_loss

    def ctc_loss(*args: Any) -> Any:
        losses_b = real(*args)
        return losses_b * torch.tensor([1.0, math.inf, 1.0])

    monkeypatch.setattr(asr.training.gradients, "ctc_loss", ctc_loss)
    with pytest.raises(TrainingError, match=r"^step 1: the loss is not finite at .*, utterances train-\d+; the"):
        train(tiny_config("batch.max_utterances=3"), data, tmp_path / "run")


def test_after_a_failed_step_the_checkpoint_before_is_whole(data, reference, tmp_path, monkeypatch):
    real, calls = asr.training.gradients.ctc_loss, 0

    def ctc_loss(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*args) * (math.nan if calls == 7 + 2 else 1.0)  # two are the dry run's

    monkeypatch.setattr(asr.training.gradients, "ctc_loss", ctc_loss)
    with pytest.raises(TrainingError, match=r"^step 7: the loss is not finite"):
        train(tiny_config(*EVERYTHING, EACH_STEP), data, tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run")
    _assert_same_run(tmp_path / "run", reference)


# Resuming


def test_a_finished_run_is_left_as_it_is_and_says_so(data, reference, tmp_path):
    run = shutil.copytree(reference, tmp_path / "run")
    report = resume(run)
    assert report.progress.step == 12 and report.audio_s == 0 and not report.interrupted
    _assert_same_run(run, reference)
    added = (run / "train.log").read_text().removeprefix((reference / "train.log").read_text())
    assert f"nothing left to train (epochs done: 3, train.epochs in {run}/config.yaml: 3)" in added


def test_a_run_that_has_more_epochs_than_its_config_now_says_both_numbers(data, reference, tmp_path, caplog):
    run = shutil.copytree(reference, tmp_path / "run")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("  epochs: 3\n", "  epochs: 2\n"))
    with caplog.at_level(logging.INFO, "asr"):
        assert resume(run).progress.step == 12
    assert f"nothing left to train (epochs done: 3, train.epochs in {run}/config.yaml: 2)" in caplog.text


@pytest.mark.parametrize("build", [lambda path: None, lambda path: path.mkdir()])
def test_what_is_no_run_folder_is_not_resumed(tmp_path, build):
    build(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"run: not a run folder \(no config\.yaml\); --resume takes"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"folder": 3}'])
def test_a_damaged_record_of_the_data_is_one_line(reference, tmp_path, content):
    run = shutil.copytree(reference, tmp_path / "run")
    (run / "data.json").unlink()
    if content is not None:
        (run / "data.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"data\.json: missing or damaged"):
        resume(run)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_manifest_that_has_changed_is_not_resumed(data, tmp_path, split):
    folder = shutil.copytree(data, tmp_path / "data")
    train(tiny_config("train.max_steps=1"), folder, tmp_path / "run")
    rows = list(manifests.read(folder / f"{split}.jsonl"))
    manifests.write(folder / f"{split}.jsonl", rows[:-1])
    with pytest.raises(DataError, match=rf"^{folder}/{split}\.jsonl: has changed since the run began"):
        resume(tmp_path / "run")


def test_data_that_moved_are_missed_with_the_way_to_go_on(data, reference, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    run = shutil.copytree(reference, tmp_path / "run")
    record = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**record, "folder": str(folder)}))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(DataError) as caught:
        resume(run)
    assert str(caught.value) == (
        f"{folder}: the data of this run are no longer there; where they are now: asr train --resume {run} --data DIR"
    )
    assert resume(run, moved).progress.step == 12
    with pytest.raises(DataError, match=rf"{folder}/train\.jsonl: cannot read: .*; --data takes a folder"):
        resume(run, folder)  # said by hand


def test_data_that_moved_are_accepted_where_they_are_now(data, reference, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    train(tiny_config(*EVERYTHING), folder, tmp_path / "run", _at_step(6, _send(signal.SIGINT)))
    moved = folder.rename(tmp_path / "moved")
    resume(tmp_path / "run", moved)
    _assert_same_run(tmp_path / "run", reference)
    assert resume(tmp_path / "run").progress.done  # it has learnt where they are


def test_a_damaged_newest_checkpoint_costs_only_its_steps(data, reference, tmp_path, caplog):
    run = tmp_path / "run"
    train(tiny_config(*EVERYTHING, EACH_STEP), data, run, _at_step(7, _send(signal.SIGINT)))
    path = _newest(run) / "state.safetensors"
    assert path.parent.name == "step-00000007"
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING, "asr"):
        resume(run)
    assert any("skipped a damaged checkpoint" in m and str(path) in m for m in caplog.messages)
    _assert_same_run(run, reference)


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("state.safetensors", {"junk.x": torch.zeros(1)}, "holds a tensor 'junk.x'"),
        ("state.safetensors", {"model.network.output.weight": torch.zeros(1)}, "has shape [1]"),
        ("state.json", {"junk": 1}, "not the progress of a run (it has 'junk')"),
        ("state.json", {"epoch": "1"}, "not the progress of a run (epoch: Input should be a valid integer)"),
        ("state.json", {"late": [["id"]]}, "not the progress of a run (late.0"),
    ],
)
def test_a_foreign_checkpoint_is_one_line(data, reference, tmp_path, file, change, expected):
    from safetensors.torch import save_file

    run = shutil.copytree(reference, tmp_path / "run")
    path = _newest(run) / file
    if file == "state.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        save_file(load_file(path) | change, path)
    with pytest.raises(CheckpointError) as caught:
        resume(run)
    message = str(caught.value)
    assert expected in message and str(_newest(run)) in message and "\n" not in message


@pytest.mark.parametrize("damage", [b'{"kind": "train", "step": 8, "lo', b"7\n", b'{"step": "\xff"}\n', b"[]\n"])
def test_a_last_line_cut_by_a_kill_and_rows_to_be_done_again_leave_the_metrics(data, reference, tmp_path, damage):
    run = tmp_path / "run"
    train(tiny_config(*EVERYTHING), data, run, _at_step(6, _send(signal.SIGINT)))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(json.dumps({"kind": "train", "step": 7, "epoch": 2, "loss_nats": 1.0}).encode() + b"\n" + damage)
    resume(run)
    _assert_same_run(run, reference)


@pytest.mark.parametrize("step", [1, 4, 6, 12])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_step_and_resumes_exactly(data, reference, tmp_path, step, number):
    # 4: the last of an epoch, which validates first; 12: the last of the run
    run = tmp_path / "run"
    before = signal.getsignal(number)
    report = train(tiny_config(*EVERYTHING), data, run, _at_step(step, _send(number)))
    is_cut = step < 12
    assert report.interrupted == is_cut and report.progress.step == step
    assert signal.getsignal(number) is before
    assert _newest(run).name == f"step-{step:08d}"
    assert (f"go on with: asr train --resume {run}" in (run / "train.log").read_text()) == is_cut
    assert not resume(run).interrupted
    _assert_same_run(run, reference)


def test_a_second_interrupt_stops_at_once_and_the_run_still_resumes(data, reference, tmp_path):
    def twice() -> None:
        _send(signal.SIGINT)()
        _send(signal.SIGINT)()

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(*EVERYTHING, EACH_STEP), data, run, _at_step(6, twice))
    assert _newest(run).name == "step-00000005"
    resume(run)
    _assert_same_run(run, reference)


def _stop_once(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Ends a run in its first validation, as a kill would."""
    with monkeypatch.context() as patch:
        patch.setattr("asr.training.validate.DevSet.validate", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            work()


def test_killed_in_the_validation_after_max_steps_it_does_not_train_past_them(data, tmp_path, monkeypatch):
    cfg = tiny_config("train.max_steps=2", "train.epochs=5")
    _stop_once(monkeypatch, lambda: train(cfg, data, tmp_path / "run"))
    whole = train(cfg, data, tmp_path / "whole").progress
    p = resume(tmp_path / "run").progress
    assert (p.step, p.epoch, p.done, p.best) == (2, 1, True, whole.best)
    assert (tmp_path / "run" / "best").exists()


def _change(run: Path, key: str, value: object) -> None:
    write_text = (run / "config.yaml").write_text
    write_text(to_yaml(override(configs.load(run / "config.yaml"), [f"{key}={value}"])))


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_resumed_with_fewer_epochs_than_there_were_it_ends_and_has_a_model(data, tmp_path, monkeypatch, decay):
    run = tmp_path / "run"
    settings = ("train.epochs=10", f"optim.decay={decay}", "train.validate_every_epochs=10")
    assert train(tiny_config(*settings), data, run, _at_step(10, _send(signal.SIGINT))).interrupted
    _change(run, "train.epochs", 2)
    p = resume(run).progress
    assert p.done and p.step == 10 and len(p.best) == 1 and (run / "best").exists()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(row.get("lr", 0) >= 0 for row in rows)
    assert resume(run).progress == p  # and is complete


def test_at_the_end_of_an_epoch_fewer_epochs_end_it_with_a_validation_and_without_an_empty_epoch(data, tmp_path):
    run = tmp_path / "run"
    cfg = tiny_config("train.epochs=10", "train.validate_every_epochs=10")
    train(cfg, data, run, _at_step(6, _send(signal.SIGINT)))  # the last of the second
    _change(run, "train.epochs", 2)
    p = resume(run).progress
    assert p.done and p.epoch == 2 and len(p.epoch_losses_nats) == 2 and [one.epoch for one in p.best] == [2]
    assert [row["epoch"] for row in _rows(run, "valid")] == [2]


@pytest.mark.parametrize(("key", "less", "more", "steps"), [("epochs", 2, 3, 9), ("max_steps", 2, 5, 5)])
def test_a_complete_run_goes_on_with_more_epochs_or_steps(data, tmp_path, key, less, more, steps):
    run = tmp_path / "run"
    train(tiny_config("train.epochs=9", f"train.{key}={less}"), data, run)
    _change(run, f"train.{key}", more)
    p = resume(run).progress
    assert p.done and p.step == steps


def test_a_run_that_stopped_early_goes_on_with_more_patience_only(data, tmp_path):
    run = tmp_path / "run"
    # At this rate nothing changes but the loss, so no validation is better than the first.
    cfg = tiny_config("train.epochs=5", "train.early_stop=1", "optim.lr=1e-30", "model.norm=false")
    stopped = train(cfg, data, run).progress
    assert stopped.done and stopped.epoch == 2
    assert resume(run).progress == stopped
    _change(run, "train.early_stop", 2)
    assert resume(run).progress.epoch == 3


def test_an_interrupt_at_the_last_of_max_steps_does_not_lead_past_it(data, tmp_path):
    cfg = tiny_config("train.max_steps=2", "train.epochs=3")
    train(cfg, data, tmp_path / "run", _at_step(2, _send(signal.SIGINT)))
    assert resume(tmp_path / "run").progress.step == 2


def test_a_run_can_be_trained_outside_the_main_thread(data, tmp_path):
    import threading

    reports: list[Report] = []
    thread = threading.Thread(
        target=lambda: reports.append(train(tiny_config("train.max_steps=1"), data, tmp_path / "run"))
    )
    thread.start()
    thread.join(60)
    assert reports and reports[0].progress.done


# A full disk


def test_a_full_disk_is_one_line_with_the_way_on_and_the_earlier_checkpoint_loads(
    data, reference, tmp_path, monkeypatch
):
    run, real, calls = tmp_path / "run", asr.model.tensor_files.save_file, 0

    def save_file(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(asr.model.tensor_files, "save_file", save_file)
        train(tiny_config(*EVERYTHING, EACH_STEP), data, run)
    message = str(caught.value)
    assert "\n" not in message and "cannot save: no space left on device" in message
    assert message.endswith(f"; then: asr train --resume {run}")
    resume(run)
    _assert_same_run(run, reference)


def test_metrics_on_a_full_disk_are_one_line_with_the_way_on(data, reference, tmp_path, monkeypatch):
    run, real = tmp_path / "run", Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self.name == "metrics.jsonl" and mode == "a":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="no space left on device; free space"):
        train(
            tiny_config(*EVERYTHING),
            data,
            run,
            _at_step(3, lambda: patch.setattr(Path, "open", full)),
        )
    resume(run)
    _assert_same_run(run, reference)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_keeps_the_last_good_checkpoint_and_says_so(data, tmp_path, small_disk):
    run, settings = small_disk / "run", ("train.epochs=8", EACH_STEP, "train.keep_best=8", "batch.max_utterances=3")
    with pytest.raises(CheckpointError) as caught:
        train(tiny_config(*settings), data, run)
    message = str(caught.value)
    assert "no space left on device" in message.lower() and message.endswith(f"asr train --resume {run}"), message
    steps = [one.name for one in (run / "checkpoints").glob("step-????????")]
    assert steps
    moved = shutil.copytree(run, tmp_path / "roomy")  # where there is space
    resume(moved)
    train(tiny_config(*settings), data, tmp_path / "never-full")
    _assert_same_run(moved, tmp_path / "never-full", prefixes=("model.network.", "optimizer."))


# Killed


# One process that imports torch once and forks a child for every start of a run; each child is killed with SIGKILL,
# by itself at a chosen place or by its parent at a random time, and resumed in a new child.
KILLER = """
import json, os, random, resource, shutil, signal, sys, time, traceback
from pathlib import Path
import rapidfuzz, soundfile, soxr, torch._dynamo  # what a child would import, once for all
import asr.model.tensor_files, asr.errors, asr.files
from asr import config, train
from asr.training.folder import RunFolder

data, jobs = Path(sys.argv[1]), json.load(sys.stdin)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def counted(owner, name, number, before, after):
    real, calls = getattr(owner, name), 0
    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number and before:
            before(*args)
        result = real(*args, **kwargs)
        if calls == number and after:
            after(*args)
        return result
    setattr(owner, name, wrapper)

def half(tensors, path, metadata=None):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    die()

def arm(place, number):
    kill = lambda *args: die()
    if place == "row":
        counted(RunFolder, "add_metrics", number, None, kill)
    elif place == "before rename":
        counted(Path, "rename", number, kill, None)
    elif place == "after rename":
        counted(Path, "rename", number, None, kill)
    elif place == "write":
        counted(asr.model.tensor_files, "save_file", number, None, half)
    elif place == "removal":
        counted(shutil, "rmtree", number, lambda path, *args: [f.unlink() for f in Path(path).glob("state.json")], kill)

def limit(number):
    seen = []
    def watch(values):
        seen.append(values)
        if len(seen) == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
    return watch

def start(run, cfg, place=None, number=0):
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        arm(place, number)
        watch = limit(number) if place == "limit" else lambda values: None
        if (run / "config.yaml").exists():
            train.resume(run, watch=watch)
        else:
            train.train(cfg, data, run, watch)
        code = 0
    except asr.errors.CheckpointError as error:
        print(run.name, "error:", error, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def rows(run):
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\\n")
    except OSError:
        return 0

for name, settings, kills in jobs:
    run, cfg = Path(name), config.RunConfig.model_validate(settings)
    for place, number in kills:
        if place == "time":
            pid = start(run, cfg)
            while rows(run) < number and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                time.sleep(0.0005)
            time.sleep(random.Random(f"{name[-3:]}{number}").uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        else:
            pid = start(run, cfg, place, number)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(run.name, place, number, status, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(start(run, cfg), 0)[1])
    print(run.name, "end", 0, status, flush=True)
"""


Kills = list[tuple[str, int]]


def _kill(data: Path, folder: Path, jobs: dict[str, tuple[RunConfig, Kills]]) -> dict[str, list[str]]:
    """Runs under the folder, killed as each job says, then resumed to their end; what the starts of each printed."""
    todo = [(str(folder / name), cfg.model_dump(mode="json"), kills) for name, (cfg, kills) in jobs.items()]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(data)],
        input=json.dumps(todo),  # too long for an argument
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    printed = {name: [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")] for name in jobs}
    for name, own in printed.items():
        assert own[-1] == "end 0 0", (name, own, done.stderr)
    return printed


# A checkpoint after each step. Row 5 is the first validation, 10 and 15 the others.
CHOSEN: dict[str, Kills] = {
    "after-a-step": [("row", 1)],
    "after-a-validation-twice": [("row", 5), ("row", 5)],
    "half-a-checkpoint": [("write", 9)],
    "between-two-renames": [("before rename", 3), ("after rename", 4)],
    "half-removed": [("removal", 30)],
    "at-the-end": [("row", 15)],
}
# Only each epoch's end is saved: steps are done again, and before the first there is only the start to go on from.
SELDOM: dict[str, Kills] = {
    "before-any-checkpoint": [("row", 1), ("row", 3)],
    "steps-after-a-checkpoint": [("row", 7), ("row", 2)],
    "after-a-validation": [("row", 10)],
}
RANDOM: dict[str, Kills] = {f"random-{n}": [("time", n)] for n in random.Random(0).sample(range(1, 14), 3)}
# A file may not grow beyond some KiB after the 3rd step, and after the first validation.
LIMITED: dict[str, Kills] = {"limited-checkpoint": [("limit", 3)], "limited-model": [("limit", 5)]}


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The folder of all runs above, each ended by a resume, and what their starts printed."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = {name: (tiny_config(*EVERYTHING, EACH_STEP), kills) for name, kills in (CHOSEN | LIMITED).items()}
    jobs |= {name: (tiny_config(*EVERYTHING), kills) for name, kills in SELDOM.items()}
    soon = tiny_config(*EVERYTHING, "train.checkpoint_every_s=0.01")
    jobs |= {name: (soon, kills) for name, kills in RANDOM.items()}
    return folder, _kill(data, folder, jobs)


@pytest.mark.parametrize("name", CHOSEN)
def test_killed_at_a_chosen_place_and_resumed_is_never_killed_bit_for_bit(killed, reference, name):
    folder, printed = killed
    assert printed[name][:-1] == [f"{place} {n} {-signal.SIGKILL}" for place, n in CHOSEN[name]]
    _assert_same_run(folder / name, reference)


@pytest.mark.parametrize("name", SELDOM)
def test_killed_between_two_checkpoints_the_steps_are_done_again_the_same(killed, reference, name):
    folder, printed = killed
    assert printed[name][:-1] == [f"{place} {n} {-signal.SIGKILL}" for place, n in SELDOM[name]]
    _assert_same_run(folder / name, reference)


@pytest.mark.parametrize("name", RANDOM)
def test_killed_at_a_random_time_and_resumed_is_never_killed_bit_for_bit(killed, reference, name):
    _assert_same_run(killed[0] / name, reference)


@pytest.mark.parametrize(
    ("name", "part"), [("limited-checkpoint", "step-00000003"), ("limited-model", "best-epoch-0001")]
)
def test_a_file_that_the_system_refuses_to_let_grow_is_an_error_and_the_run_resumes(killed, reference, name, part):
    # RLIMIT_FSIZE: the real failure, inside the write of a checkpoint or of a model
    folder, printed = killed
    line, status, _ = printed[name]
    assert status.endswith(" 1")
    assert f"checkpoints/{part}: cannot save: " in line and "large" in line
    assert line.endswith(f"; then: asr train --resume {folder / name}")
    _assert_same_run(folder / name, reference)


@pytest.mark.slow
def test_killed_again_and_again_at_random_times_is_never_killed_bit_for_bit(data, reference, tmp_path):
    cfg = tiny_config(*EVERYTHING, "train.checkpoint_every_s=0.01")
    jobs = {f"run-{i}": (cfg, [("time", n) for n in range(1 + i % 3, 15)]) for i in range(10)}
    _kill(data, tmp_path, jobs)
    for name in jobs:
        _assert_same_run(tmp_path / name, reference)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["row", "before rename", "after rename", "write", "removal"])
@pytest.mark.parametrize("saving", [EACH_STEP, "train.checkpoint_every_s=300"])
def test_killed_at_every_place_and_resumed_is_never_killed_bit_for_bit(data, reference, tmp_path, place, saving):
    cfg = tiny_config(*EVERYTHING, saving)
    # the calls that the run makes, and a few numbers that are never reached
    count = 17 if place == "row" else 64 if saving == EACH_STEP else 32
    jobs: dict[str, tuple[RunConfig, Kills]] = {f"at-{n}": (cfg, [(place, n)]) for n in range(1, count)}
    _kill(data, tmp_path, jobs)
    for name in jobs:
        _assert_same_run(tmp_path / name, reference)


def test_a_second_process_in_the_same_run_is_refused(data, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(tiny_config(), data)
    with run.locked(), pytest.raises(ConfigError, match="another process is training this run"):
        resume(tmp_path / "run")


def test_what_is_left_out_is_on_record_with_the_run(data, tmp_path):
    rows = list(manifests.read(data / "train.jsonl"))
    odd = [replace(rows[0], id=f"odd-{i:02d}", text="") for i in range(12)]
    absolute = [replace(u, audio_path=str(data / u.audio_path)) for u in rows + odd]
    manifests.write(tmp_path / "data" / "train.jsonl", absolute)
    dev = [replace(u, audio_path=str(data / u.audio_path)) for u in manifests.read(data / "dev.jsonl")]
    manifests.write(tmp_path / "data" / "dev.jsonl", dev)
    report = train(tiny_config("train.max_steps=1"), tmp_path / "data", tmp_path / "run")
    dropped = [json.loads(line) for line in (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()]
    assert dropped == [{"id": u.id, "why": "empty text"} for u in odd]
    assert report.num_dropped == 12
    assert any("left out 12 utterances" in line for line in report.lines())
    assert load_model(tmp_path / "run").training["dropped"] == 12


def test_features_are_computed_in_the_first_epoch_and_not_again(data, tmp_path):
    report = train(tiny_config("train.epochs=3"), data, tmp_path / "run")
    assert set(report.features_s) == {0}
    assert any("0.0 s in all later ones (0.00% of the time)" in line for line in report.lines())


def test_tensorboard_gets_the_scalars_where_it_is_installed(data, tmp_path, monkeypatch):
    written: list[tuple[str, int]] = []

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def close(self) -> None:
            written.append(("closed", 0))

    monkeypatch.setattr(asr.training.folder, "_summary_writer", lambda folder, step: Writer())
    train(tiny_config("train.epochs=1"), data, tmp_path / "run")
    steps = len(_rows(tmp_path / "run", "train"))
    assert [s for name, s in written if name == "train/loss_nats"] == list(range(1, steps + 1))
    assert ("valid/wer", steps) in written and written[-1] == ("closed", 0)


def test_a_model_that_gives_no_numbers_stops_with_one_line_and_the_steps_are_saved(data, tmp_path, monkeypatch):
    real = asr.training.optim.MovingAverage.update

    def broken(self: asr.training.optim.MovingAverage, step: int) -> None:
        real(self, step)
        with torch.no_grad():
            self.network.output.bias[0] = float("nan")

    monkeypatch.setattr(asr.training.optim.MovingAverage, "update", broken)
    with pytest.raises(AsrError, match="values that are not numbers"):
        train(tiny_config("train.max_steps=1"), data, tmp_path / "run")
    assert _newest(tmp_path / "run").name == "step-00000001"


def test_a_config_changed_after_the_run_began_is_refused(data, tmp_path):
    run = tmp_path / "run"
    train(tiny_config("train.max_steps=2"), data, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("ema_decay: 0.0", "ema_decay: 0.9"))
    with pytest.raises(ConfigError, match=r"ema_decay is 0\.9 now, the run was trained with 0\.0; put it back"):
        resume(run)
