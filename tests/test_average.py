"""Averaged models: the mean of the weights, of models that are alike, chosen as asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr.errors import CheckpointError, ConfigError
from asr.model.checkpoint import load_model, load_trainable
from asr.train import train
from asr.training.average import average, mean_of, models_of
from tests.builders import build_corpus, tiny_config
from tests.models import save_random_model


def test_the_mean_is_exact_and_counters_are_the_last_ones():
    # in float32, 2^24 + 1 would be lost
    rows = [{"w": torch.tensor([v]), "n": torch.tensor(i)} for i, v in enumerate((2.0**24, 1.0, 1.0))]
    mean = mean_of(rows)
    assert mean["w"].item() == torch.tensor((2.0**24 + 2) / 3).item() and mean["w"].dtype == torch.float32
    assert mean["n"].item() == 2


def test_models_are_averaged_and_the_new_one_says_of_what(tmp_path):
    folders = [
        save_random_model(tmp_path / f"m{seed}", seed=seed, training={"epoch": seed, "commit": "x"}) for seed in (1, 2)
    ]
    average(folders, tmp_path / "mean")
    one, two, mean = (load_file(folder / "model.safetensors") for folder in (*folders, tmp_path / "mean"))
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (one[name] + two[name]) / 2)
    loaded = load_model(tmp_path / "mean")
    assert loaded.training["averaged"] == [{"model": f"{tmp_path.name}/m{epoch}", "epoch": epoch} for epoch in (1, 2)]
    assert not (tmp_path / "mean" / "results.json").exists()


def test_the_mean_of_equal_models_is_each_of_them(tmp_path):
    tensors = load_file(save_random_model(tmp_path / "m") / "model.safetensors")
    assert all(torch.equal(mean, tensors[name]) for name, mean in mean_of([tensors] * 3).items())


def test_a_model_that_would_count_twice_is_refused(tmp_path):
    one, two = save_random_model(tmp_path / "a"), save_random_model(tmp_path / "b", seed=4)
    copy = shutil.copytree(one, tmp_path / "copy")  # as best is of one of its run's epochs
    for paths, said in (([one, one, two], "a and .*a are"), ([one, two, copy], "a and .*copy are")):
        with pytest.raises(ConfigError, match=f"{said} the same model, which would count twice"):
            average(paths, tmp_path / "mean")
        assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("setting", ["model.hidden=32", "features.low_hz=50", "text.normalization=lower"])
def test_models_that_differ_are_refused_with_the_first_difference(tmp_path, setting):
    folders = [save_random_model(tmp_path / "a"), save_random_model(tmp_path / "b", setting)]
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        average(folders, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_another_tokenizer_is_refused(tmp_path):
    folders = [save_random_model(tmp_path / "a"), save_random_model(tmp_path / "b")]
    document = json.loads((folders[1] / "tokenizer.json").read_text())
    document["symbols"] = document["symbols"][::-1]
    (folders[1] / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="other tokenizers"):
        average(folders, tmp_path / "mean")


def test_what_is_there_is_not_overwritten(tmp_path):
    folder = save_random_model(tmp_path / "m")
    (tmp_path / "kept").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        average([folder, folder], tmp_path / "kept")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("average")
    build_corpus(folder, 6, seed=1, longest=4)
    build_corpus(folder, 3, seed=2, name="dev", longest=4)
    train(tiny_config("train.epochs=4", "train.keep_last=3", "train.keep_best=2"), folder, folder / "run")
    return folder / "run"


def test_a_run_keeps_its_last_epochs_as_models(run):
    names = sorted(folder.name for folder in run.joinpath("checkpoints").glob("epoch-*"))
    assert names == ["epoch-0002", "epoch-0003", "epoch-0004"]
    assert [load_trainable(run / "checkpoints" / name).training["epoch"] for name in names] == [2, 3, 4]


def test_the_last_epochs_or_the_best_are_chosen(run, tmp_path):
    assert [folder.name for folder in models_of(run, last=2)] == ["epoch-0003", "epoch-0004"]
    for folder, wer in (("epoch-0002", 0.1), ("epoch-0003", 0.3), ("epoch-0004", 0.2)):
        path = run / "checkpoints" / folder / "results.json"
        results = json.loads(path.read_text())
        results["dev"]["wer"]["rate"] = wer
        path.write_text(json.dumps(results))
    for folder in run.joinpath("checkpoints").glob("best-epoch-*"):
        if int(folder.name[-4:]) == 1:
            path = folder / "results.json"
            path.write_text(json.dumps({"dev": {"wer": {"rate": 0.9}, "cer": {"rate": 0.9}}}))
    assert [folder.name for folder in models_of(run, best=2)] == ["epoch-0002", "epoch-0004"]


def test_more_than_are_kept_are_refused_with_what_to_do(run):
    with pytest.raises(
        ConfigError, match=r"keeps 3 models of the last epochs to average, not 5: train with train.keep_last=5"
    ):
        models_of(run, last=5)
    (run / "checkpoints" / "epoch-0003" / "results.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no dev WER"):
        models_of(run, best=2)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{m}"], "several models"),
        (["{m}", "{m}", "--last", "2"], "one run"),
        (["{m}", "--last", "2", "--best", "2"], "one of them"),
        (["{m}", "--last", "2"], "keeps 0 models"),
        (["{m}", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capfd, args, said):
    from asr.cli import run as command

    model = save_random_model(tmp_path / "m")
    line = ["asr", "average", *(arg.format(m=model) for arg in args), "--out", str(tmp_path / "mean")]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as end:
        command()
    out, err = capfd.readouterr()
    assert end.value.code == 2 and out == "" and said in err and err.count("\n") == 1
