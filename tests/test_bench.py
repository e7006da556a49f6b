"""``asr bench transcribe``: what it reports, on what it can run, and what it refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import yaml

from asr.bench.transcription import PARTS, made_up
from asr.cli import run
from asr.data import manifest as manifests
from asr.data.manifest import Utterance
from tests.builders import build_corpus, noise, tiny_config, write_wav
from tests.models import save_random_model


@pytest.fixture
def bench(monkeypatch, capfd):
    """The command in this process: (exit code, stdout, stderr)."""
    threads = torch.get_num_threads()

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asr", "bench", "transcribe", *map(str, args), "--rounds", "1"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def model(tmp_path):
    return save_random_model(tmp_path / "m")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_manifest_is_measured_both_ways_and_scored(bench, model, tmp_path, threads):
    manifest = build_corpus(tmp_path / "corpus", 5, seed=2, name="dev")
    code, out, err = bench(model, manifest, "--compare", "--threads", threads, "--json")
    assert code == 0 and err == ""
    document = json.loads(out)
    assert document["files"] == 5 and document["threads"] == threads
    assert [row["path"] for row in document["rows"]] == ["plain", "fast"]
    for row in document["rows"]:
        assert row["rtf"] * row["audio_s_per_s"] == pytest.approx(1, rel=0.01)
        assert set(row["shares"]) == set(PARTS) and sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
    (compared,) = document["compared"]
    assert compared["ratio"] == pytest.approx(document["rows"][0]["seconds"] / document["rows"][1]["seconds"], rel=0.05)
    assert compared["wer"]["a"]["utterances"] == 5


def test_parts_of_a_recording_are_measured_as_parts(bench, model, tmp_path):
    write_wav(tmp_path / "long.wav", noise(10))
    rows = [Utterance(f"u{i}", "long.wav", 1.0, "ab", offset_s=float(i)) for i in range(2)]
    manifests.write(tmp_path / "two.jsonl", rows)
    code, out, _ = bench(model, tmp_path / "two.jsonl", "--json")
    assert code == 0 and json.loads(out)["audio_s"] == 2.0


def test_for_people_it_says_what_ran_where_the_time_goes_and_what_is_gained(bench, model, tmp_path):
    manifest = build_corpus(tmp_path / "corpus", 4, seed=2, name="dev")
    code, out, _ = bench(model, manifest, "--compare", "--precision", "fp32", "--files", 3)
    assert code == 0
    assert "3 files" in out and "fp32 products" in out and "audio-s/s" in out and "decoding" in out
    assert "times as fast" in out and "of 3 transcripts differ" in out and "WER % plain, fast" in out


def test_without_audio_it_makes_some_up(bench, model):
    code, out, _ = bench(model, "--files", 3, "--seconds", 1.5, "--json")
    document = json.loads(out)
    assert code == 0 and document["files"] == 3 and document["audio_s"] == 4.5
    assert [row["path"] for row in document["rows"]] == ["fast"]


def test_a_config_is_measured_with_random_weights(bench, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config().model_dump(mode="json")))
    code, out, _ = bench(path, "--files", 2, "--seconds", 1, "--json")
    assert code == 0 and json.loads(out)["model"] == str(path)


def test_a_network_without_a_twin_is_measured_and_it_is_said(bench, tmp_path):
    path = tmp_path / "tdnn.yaml"
    path.write_text(yaml.safe_dump({"model": {"encoder": "tdnn", "conv": [], "layers": 2, "hidden": 8}}))
    code, out, _ = bench(path, "--files", 2, "--seconds", 1, "--compare")
    assert code == 0 and "no fast path for this network" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere",), "no such model folder"),
        (("{model}", "nowhere.wav"), "nowhere.wav"),
        (("{model}", "-"), "standard input can be read once only"),
        (("{model}", "{empty}"), "the manifest has no utterances"),
        (("{model}", "--precision", "fp64"), "unknown precision 'fp64' (auto, fp32, bf16, fp16)"),
    ],
)
def test_a_mistake_is_one_line(bench, model, tmp_path, args, said):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    code, out, err = bench(*(arg.format(model=model, empty=empty) for arg in args))
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def test_a_stereo_or_foreign_rate_file_says_what_is_wrong(bench, model, tmp_path):
    path = write_wav(tmp_path / "a.wav", np.zeros(8000, np.float32), 8000)
    code, _, err = bench(model, path)
    assert code == 2 and "8000 Hz" in err


def test_made_up_audio_has_the_length_asked_for_and_is_the_same_each_time():
    first, again = (list(made_up([0.5, 1.25], 16000)) for _ in range(2))
    assert [len(one.wave_n) for one in first] == [8000, 20000]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.wave_n, other.wave_n)
        assert np.abs(one.wave_n).max() < 1
