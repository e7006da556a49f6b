"""What ``asr info`` says about a model, a manifest and a config; each fact is counted again here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from asr import config as configs
from asr.corpora.catalogue import recipe_configs, recipe_names, recipes_folder
from asr.data import prepared as headers
from asr.decode.settings import BeamConfig
from asr.decode.tuned import Tuned, write_tuned
from asr.errors import AsrError, CheckpointError, ConfigError, DataError
from asr.info import describe
from asr.info.parts import layer_rows
from asr.lm import ngram
from asr.model.checkpoint import load_model
from tests.builders import build_corpus, tiny_config
from tests.models import save_random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "m")


def test_a_model_is_described_with_its_parameters_and_rates(folder):
    kind, facts = describe(str(folder))
    assert kind == "model" and facts["path"] == str(folder)
    assert facts["parameters"] == sum(p.numel() for p in load_model(folder).network.parameters())
    # The lines of the network account for every parameter.
    assert sum(int(row.split()[-2].replace(",", "")) for row in facts["network"]) == facts["parameters"]
    assert facts["audio"] == "16000 Hz" and facts["step"] == "20 ms"
    assert facts["tokens"] == "6 (blank first): ' abcd'"
    assert not any(key.endswith("WER") for key in facts)
    json.dumps(facts, allow_nan=False)


def test_a_run_folder_is_described_by_its_best_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "best")
    assert describe(str(tmp_path / "run"))[1]["path"] == str(tmp_path / "run" / "best")


@pytest.mark.parametrize(
    ("wer", "shown"),
    [
        ({"rate": 0.0525, "low": 0.04, "high": 0.07}, "5.25% [4.00%, 7.00%]"),
        ({"rate": None, "low": None, "high": None}, "undefined [undefined, undefined]"),
    ],
)
def test_results_are_shown_also_where_a_rate_is_undefined(copy, wer, shown):
    (copy / "results.json").write_text(json.dumps({"dev": {"wer": wer}}))
    assert describe(str(copy))[1]["dev WER"] == shown


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        '{"dev": 3}',
        '{"dev": {"wer": {"rate": 1%s, "low": 0, "high": 0}}}' % ("0" * 400),
        '{"dev": {}}',
        '{"dev": {"wer": {"rate": "x"}}}',
        "{",
    ],
)
def test_foreign_results_are_an_error_that_names_the_file(copy, content):
    (copy / "results.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"results\.json: not"):
        describe(str(copy))


def test_a_manifest_is_counted(tmp_path):
    path = build_corpus(tmp_path, 6, num_speakers=2)
    kind, facts = describe(str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert kind == "manifest" and facts["utterances"] == 6 and facts["speakers"] == 2
    assert facts["words"] == sum(len(row["text"].split()) for row in rows)
    assert facts["hours"] == round(sum(row["duration_s"] for row in rows) / 3600, 3)
    assert set(facts["characters"]) == {c for row in rows for c in row["text"]}


@pytest.mark.parametrize(
    "name", [f"{r}/{c}" for r in recipe_names() for c in recipe_configs(recipes_folder() / r)] + ["an4"]
)
def test_every_recipe_config_is_described_without_data(name):
    kind, facts = describe(name)
    assert kind == "config"
    assert sum(int(row.split()[-2].replace(",", "")) for row in facts["network"]) == facts["parameters"]


def test_a_config_file_is_described(tmp_path):
    (tmp_path / "c.yaml").write_text(configs.to_yaml(tiny_config()))
    _, facts = describe(str(tmp_path / "c.yaml"))
    # 100 frames a second, a stride of 2
    assert facts["steps per second"] == 50


def test_a_wrong_name_is_one_line_that_says_what_it_could_be(tmp_path):
    with pytest.raises(AsrError, match=r"no such file, and neither a model .* did you mean 'an4/default'\? \(known: "):
        describe("an4/defalt")
    with pytest.raises(AsrError, match="no such file, and neither a model or run folder"):
        describe(str(tmp_path / "none"))
    (tmp_path / "a.wav").touch()
    with pytest.raises(AsrError, match=r"a\.wav: neither a model or run folder"):
        describe(str(tmp_path / "a.wav"))
    with pytest.raises(CheckpointError, match="is not a model folder"):
        describe(str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        describe(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="no config file"):
        describe(str(tmp_path / "none.yaml"))


def test_the_folder_one_is_in_is_described(copy, monkeypatch):
    monkeypatch.chdir(copy)
    assert describe(".")[0] == "model"


def test_an_n_gram_model_says_its_orders_words_and_letters(tmp_path):
    model = ngram.train(["the cat sat", "the dog sat"] * 2, 2)
    for name, form in (("lm.arpa", "ARPA"), ("lm.arpa.gz", "ARPA"), ("lm.bin", "binary, mapped")):
        ngram.write(model, tmp_path / name)
        kind, facts = describe(str(tmp_path / name))
        assert (kind, facts["form"], facts["order"]) == ("language model", form, 2)
        assert (facts["words"], facts["letters"], facts["2-grams"]) == (4, "acdeghost", 6)


def test_a_file_that_is_nothing_known_says_what_would_be(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"nothing")
    with pytest.raises(AsrError, match="an n-gram model"):
        describe(str(tmp_path / "x.bin"))


def test_a_tuned_model_says_its_decoder(tmp_path):
    folder = save_random_model(tmp_path / "m")
    write_tuned(folder, Tuned(config=BeamConfig(beam_width=9), tuning={"wer": 0.1}))
    _, facts = describe(str(folder))
    assert facts["decoder"] == "beam 9, LM none" and facts["tuned wer"] == 0.1


def test_a_model_says_its_size_its_corpus_and_what_becomes_of_long_audio(tmp_path):
    data = tmp_path / "data"
    build_corpus(data, 2)
    split = {"utterances": 2, "hours": 0.01, "speakers": 2, "with_digits": 0}
    header = headers.Header("x", "A Corpus", "", "", "none", "", splits={"train": split}, dropped=0, flagged_numbers=0)
    headers.write(data, header)
    folder = save_random_model(tmp_path / "run" / "best", training={"longest_s": 6.4, "epoch": 3, "commit": "abc"})
    (tmp_path / "run" / "data.json").write_text(json.dumps({"folder": str(data)}))
    _, facts = describe(str(tmp_path / "run"))
    assert facts["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert facts["long audio"] == "is cut into pieces of at most 6.4 s, the longest that it was trained on"
    assert facts["training corpus"] == "A Corpus" and facts["training commit"] == "abc"
    assert facts["decoder"].startswith("greedy") and facts["results"].startswith("none on record")
    # What it was trained on goes before what now lies where the run says.
    save_random_model(folder, training={"corpus": "Another"})
    assert describe(str(tmp_path / "run"))[1]["training corpus"] == "Another"
    # and without both, nothing is said.
    save_random_model(folder)
    (tmp_path / "run" / "data.json").unlink()
    assert "training corpus" not in describe(str(tmp_path / "run"))[1]


def test_results_say_both_rates_and_over_how_much(copy):
    rate = {"rate": 0.1, "low": 0.05, "high": 0.15}
    (copy / "results.json").write_text(json.dumps({"dev": {"wer": rate, "cer": rate, "utterances": 7}}))
    facts = describe(str(copy))[1]
    assert facts["dev WER"] == facts["dev CER"] == "10.00% [5.00%, 15.00%]" and facts["dev utterances"] == 7


def test_many_layers_that_are_alike_share_a_line(tmp_path):
    folder = save_random_model(tmp_path / "m", "model.layers=6", "model.merge=sum")
    rows = describe(str(folder))[1]["network"]
    assert [row.partition(":")[0] for row in rows] == ["conv 1", "gru 1", "gru 2 to 6", "output"]
    assert sum(int(row.split()[-2].replace(",", "")) for row in rows) == load_model(folder).num_parameters


def test_many_parts_that_are_alike_share_a_line_and_three_do_not():
    parts = [(f"layer {i}", "9 units", 1000) for i in range(1, 5)]
    assert layer_rows(parts) == ["layer 1 to 4: each 9 units, 4,000 parameters"]
    assert layer_rows(parts[:3]) == [f"layer {i}: 9 units, 1,000 parameters" for i in (1, 2, 3)]
    other = ("output", "29 tokens", 261)
    assert layer_rows([*parts, other])[1:] == ["output: 29 tokens, 261 parameters"]
