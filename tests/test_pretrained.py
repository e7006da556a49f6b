"""Starting from another model's weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.config import RunConfig, override
from asr.data import manifest as manifests
from asr.data.manifest import write
from asr.data.pieces import PieceTokenizer
from asr.data.tokenizer import CharTokenizer
from asr.errors import CheckpointError, ConfigError
from asr.model.checkpoint import build_model, load_model
from asr.train import resume, train
from asr.training.pretrained import start_from, take_weights
from tests.builders import ALPHABET, build_corpus, tiny_config
from tests.models import save_random_model


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("source") / "m")


def new_model(symbols: str, *settings: str):
    cfg = tiny_config(*settings)
    torch.manual_seed(99)
    return build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(symbols)))


def test_with_the_same_vocabulary_the_new_model_is_the_old_one(source):
    model, old = new_model("".join(sorted(ALPHABET))), load_model(source)
    said = start_from(model, source)
    for name, tensor in old.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor), name
    assert str(source) in said and "new" not in said


def test_tokens_keep_their_weights_wherever_they_stand_and_new_ones_are_random(source):
    model, old = new_model("xd a"), load_model(source)  # not in order, b and c left out, x new
    random = model.network.output.weight.detach().clone()
    said = start_from(model, source)
    before, after = old.network.output.weight, model.network.output.weight
    for token, symbol in ((2, "d"), (3, " "), (4, "a")):
        assert torch.equal(after[token], before[old.tokenizer.symbols.index(symbol) + 1])
    assert torch.equal(after[0], before[0])  # the blank
    assert torch.equal(after[1], random[1]) and "1 of them new: 'x'" in said


def test_a_space_keeps_its_weights_in_a_vocabulary_that_marks_the_starts_of_words(source):
    old = load_model(source)
    cfg = tiny_config()
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, PieceTokenizer(("a", "▁", "▁a", "ab")))
    random = model.network.output.weight.detach().clone()
    said = start_from(model, source)
    before, after = old.network.output.weight, model.network.output.weight
    assert torch.equal(after[1], before[old.tokenizer.symbols.index("a") + 1])
    assert torch.equal(after[2], before[old.tokenizer.symbols.index(" ") + 1])
    assert torch.equal(after[3:], random[3:]) and "2 of them new: '▁a' 'ab'" in said


def test_two_tokens_that_write_a_space_are_not_mixed_up(source):
    first = new_model("▁ a")
    second = new_model(" a▁")
    take_weights(second, first.network.state_dict(), first.tokenizer, "first")
    assert torch.equal(second.network.output.bias[[0, 3, 1, 2]], first.network.output.bias)
    assert torch.equal(second.network.output.weight[[0, 3, 1, 2]], first.network.output.weight)


def test_a_network_that_was_trained_without_texts_leaves_the_output_as_it_is(caplog):
    model, other = new_model("ab"), new_model("cd").network
    with torch.no_grad():
        other.layers[0].forward_direction.bias_g.fill_(3.0)
    tensors = {k: v for k, v in other.state_dict().items() if not k.startswith("output.")}
    random = model.network.output.weight.detach().clone()
    said = take_weights(model, tensors, None, "x")
    assert torch.equal(model.network.output.weight, random) and said.endswith("3 tokens, all of them new")
    assert model.network.layers[0].forward_direction.bias_g[0] == 3.0 and not caplog.text


def test_the_weights_of_self_conditioning_go_by_token_too():
    """It reads the output: a column for each token."""
    models = [new_model("ab"), new_model("xb")]
    for model in models:
        model.network.conditioning = torch.nn.Linear(3, 2)
    first, second = (model.network.conditioning.weight.detach().clone() for model in models)
    take_weights(models[0], models[1].network.state_dict(), models[1].tokenizer, "x")
    mixed = torch.stack([second[:, 0], first[:, 1], second[:, 2]], 1)
    assert torch.equal(models[0].network.conditioning.weight, mixed)


def test_weights_that_are_not_there_are_one_line():
    model = new_model("ab")
    tensors = {k: v for k, v in model.network.state_dict().items() if k != "layers.0.forward_direction.bias_g"}
    with pytest.raises(ConfigError, match=r"^x: its network has no layers.0.forward_direction.bias_g, which the conf"):
        take_weights(model, tensors, model.tokenizer, "x")


def test_tokens_that_are_lost_are_a_warning_with_the_cure(source, caplog):
    start_from(new_model("".join(sorted(ALPHABET))), source)
    assert not caplog.text
    start_from(new_model("abc"), source)
    assert f"2 of the 5 tokens of {source} are not in these training texts, and lost: ' ' 'd'; " in caplog.text
    assert "text.tokenizer=init keeps them" in caplog.text and "most tokens" not in caplog.text
    start_from(new_model("efgh"), source)
    assert "most tokens are new" in caplog.text
    start_from(new_model("abcdABD"), source)
    assert f"{source} has 3 of the new tokens in lower case; with text.normalization=lower they" in caplog.text


def test_training_keeps_the_tokens_of_the_first_model_where_asked_for(source, tmp_path):
    for split in ("train", "dev"):
        build_corpus(tmp_path / "data", 4, seed=1, name=split, longest=6)
        rows = manifests.read(tmp_path / "data" / f"{split}.jsonl").utterances
        write(tmp_path / "data" / f"{split}.jsonl", [replace(row, text="aab") for row in rows])
    settings = (f"train.init={source}", "train.epochs=1", "text.tokenizer=init")
    report = train(tiny_config(*settings), tmp_path / "data", tmp_path / "run")
    assert load_model(report.run / "best").tokenizer == load_model(source).tokenizer
    resume(tmp_path / "run")


def test_a_config_that_differs_is_told_where_the_right_one_is(source, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(source, run / "best")
    with pytest.raises(ConfigError, match="to start from this model, use the same"):
        start_from(new_model(ALPHABET, "model.hidden=9"), run)
    (run / "config.yaml").write_text("{}")
    for path in (run, run / "best"):
        with pytest.raises(ConfigError, match=rf"train with its config, {run}/config\.yaml"):
            start_from(new_model(ALPHABET, "model.hidden=9"), path)
    with pytest.raises(ConfigError, match=r"config\.yaml \(audio\.resample=true for recordings of another rate\)"):
        start_from(new_model(ALPHABET, "audio.sample_rate_hz=8000"), run)
    with pytest.raises(ConfigError, match=r"its model\.conv is not the config's; to start"):
        layer = "{channels: 4, kernel_tf: [5, 5], stride_tf: [1, 2]}"
        start_from(new_model(ALPHABET, f"model.conv=[{layer}, {layer}]"), run)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.hidden=9", "model.hidden"),
        ("features.num_mels=11", "features.num_mels"),
        ("audio.sample_rate_hz=8000", "audio.sample_rate_hz"),
    ],
)
def test_a_network_or_an_input_that_differs_is_refused_by_name(source, setting, said):
    with pytest.raises(ConfigError, match=said):
        start_from(new_model(ALPHABET, setting), source)


def test_what_only_training_draws_may_differ(source):
    model = new_model("".join(sorted(ALPHABET)), "model.dropout=0.4", "features.dither=0.001")
    start_from(model, source)
    assert torch.equal(model.network.output.weight, load_model(source).network.output.weight)
    assert model.network.cfg.dropout == 0.4


def test_training_starts_there_and_a_run_killed_before_its_first_checkpoint_starts_there_again(source, tmp_path):
    build_corpus(tmp_path / "data", 6, seed=1, longest=6)
    build_corpus(tmp_path / "data", 3, seed=2, name="dev", longest=6)
    # every letter must be in the training texts, or the vocabularies differ
    rows = manifests.read(tmp_path / "data" / "train.jsonl").utterances
    write(tmp_path / "data" / "train.jsonl", [replace(rows[0], text="ab cd"), *rows[1:]])
    cfg = tiny_config(
        f"train.init={source}", "train.epochs=1", "train.max_steps=1", "optim.lr=1e-12", "batch.workers=0"
    )
    report = train(cfg, tmp_path / "data", tmp_path / "run")
    old = load_model(source).network.state_dict()
    new = load_model(report.run / "best").network.state_dict()
    trained = [name for name in old if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(new[name], old[name], atol=1e-9) for name in trained)
    expected = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    resume(tmp_path / "run")
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() == expected
    assert json.loads((tmp_path / "run" / "data.json").read_text())


def test_a_start_that_is_no_model_is_one_line_and_begins_no_run(tmp_path):
    build_corpus(tmp_path / "data", 6, seed=1, longest=6)
    build_corpus(tmp_path / "data", 3, seed=2, name="dev", longest=6)
    with pytest.raises(CheckpointError, match="nowhere"):
        train(tiny_config("train.init=/nowhere"), tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("name", ["run", "run #2", "a: b", "ü '\"\\", "- 1", "😀", "null", "{x}"])
def test_any_path_can_be_the_start(tmp_path, name):
    from asr.commands.training import _settings

    assert override(RunConfig(), _settings(None, str(tmp_path / name), None)).train.init == str(tmp_path / name)
