"""The real run in small: a few utterances of AN4 from its archive to a score, interrupted and resumed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr import config as configs
from asr.corpora.catalogue import find_config, find_recipe
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Request
from asr.data import manifest as manifests
from asr.evaluate import evaluate
from asr.model.checkpoint import load_model
from asr.train import resume, train

SMALL = (
    "model.layers=1", "model.hidden=32", "features.num_mels=40", "batch.max_utterances=6", "batch.workers=1",
    "train.epochs=1", "train.threads=1", "train.precision=fp32", "train.device=cpu",
)  # fmt: skip


@pytest.fixture(scope="session")
def an4(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AN4, prepared from its archive."""
    archive = shared_data / "an4_sphere.tar.gz"
    if not archive.is_file():
        pytest.skip(f"needs {archive}")
    out = tmp_path_factory.mktemp("an4")
    recipe, _ = find_recipe("an4")
    prepare(recipe, Request(out, (archive,)))
    return out


@pytest.fixture(scope="session")
def small(an4: Path) -> Path:
    """A folder with 12 utterances to train on and 4 to validate on."""
    folder = an4 / "small"
    train_rows = list(manifests.read(an4 / "train.jsonl"))
    # every letter is needed: a dev text with a character that training has not seen is an error
    seen: set[str] = set()
    first = [u for u in train_rows if set(u.text) - seen and not seen.update(u.text)]
    chosen = (first + [u for u in train_rows if u not in first])[:12]
    dev_rows = [u for u in manifests.read(an4 / "dev.jsonl") if set(u.text) <= seen][:4]
    for name, rows in (("train", chosen), ("dev", dev_rows)):
        absolute = [
            manifests.Utterance(u.id, str(an4 / u.audio_path), u.duration_s, u.text, u.speaker) for u in rows
        ]  # fmt: skip
        manifests.write(folder / f"{name}.jsonl", absolute)
    return folder


def test_the_archive_gives_the_published_numbers_of_utterances(an4):
    counts = {name: len(manifests.read(an4 / f"{name}.jsonl")) for name in ("train", "dev", "test")}
    assert counts["train"] + counts["dev"] == 948
    assert counts["test"] == 130
    speakers = [manifests.read(an4 / f"{name}.jsonl").speakers for name in ("train", "dev", "test")]
    assert not speakers[0] & speakers[1] and not (speakers[0] | speakers[1]) & speakers[2]


def test_two_steps_on_real_speech_are_trained_scored_and_resumed_bit_for_bit(small, tmp_path):
    cfg = configs.load(find_config("an4"), SMALL)
    whole = tmp_path / "whole"
    report = train(cfg, small, whole)
    assert report.progress.step == 2 and report.progress.done
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["loss_nats"] < 2000 for row in rows)

    result = evaluate(load_model(whole), manifests.read(small / "dev.jsonl"))
    assert result.failed == {} and result.score.utterances == 4
    assert result.score.wer.rate == rows[-1]["wer"] and result.score.cer.rate == rows[-1]["cer"]

    cut = tmp_path / "cut"
    stopped = train(cfg, small, cut, lambda values: os.kill(os.getpid(), signal.SIGINT) if "loss" in values else None)
    assert stopped.interrupted and stopped.progress.step == 1
    assert resume(cut).progress.step == 2
    left, right = (load_file(run / "checkpoints" / "step-00000002" / "state.safetensors") for run in (whole, cut))
    assert left.keys() == right.keys()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())
    assert (whole / "best" / "model.safetensors").read_bytes() == (cut / "best" / "model.safetensors").read_bytes()
