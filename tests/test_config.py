from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asr.config import (
    ModelConfig,
    RunConfig,
    all_keys,
    load,
    override,
    parse,
    to_yaml,
)
from asr.corpora.catalogue import find_recipe, recipes_folder
from asr.errors import ConfigError
from asr.model.folder import ModelFolderConfig

RECIPE_CONFIGS = sorted(recipes_folder().glob("*/conf/*.yaml"))


def _load(folder: Path, text: str) -> RunConfig:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def _message(folder: Path, text: str) -> str:
    """The error of a config file, without the file's name in front."""
    with pytest.raises(ConfigError) as caught:
        _load(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder / "c.yaml"))
    return message.removeprefix(str(folder / "c.yaml"))


def _set_message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        override(RunConfig(), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", ["# nothing\n", "{}\n"])
def test_a_file_that_names_nothing_is_the_default_config(tmp_path, text):
    assert _load(tmp_path, text) == RunConfig()


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"the config is empty; for the defaults alone write \{\}"):
        _load(tmp_path, text)


def test_a_file_changes_only_what_it_names(tmp_path):
    config = _load(tmp_path, "optim:\n  lr: 0.002\nmodel:\n  cell: lstm\n")
    assert config == override(RunConfig(), ["optim.lr=0.002", "model.cell=lstm"])
    assert config.optim.lr == 0.002
    assert config.optim.betas == RunConfig().optim.betas


def test_config_values_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        RunConfig().optim.lr = 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optm:\n  lr: 1\n", ": unknown key 'optm', did you mean 'optim'?"),
        ("optim:\n  lrr: 1\n", ": optim: unknown key 'lrr', did you mean 'lr'?"),
        ("lrr: 1\n", ": unknown key 'lrr', did you mean 'optim.lr'?"),
        ("audio:\n  x: 1\n", ": audio: unknown key 'x' (keys here: sample_rate_hz, resample)"),
        ("lr: 1\n", ": unknown key 'lr', did you mean 'optim.lr'?"),
        ("model:\n  lr: 1\n", ": model: unknown key 'lr', did you mean 'optim.lr'?"),
        (
            "augment:\n  spec:\n    time_mask: 1\n",
            ": augment.spec: unknown key 'time_mask', did you mean 'time_masks'?",
        ),
        (
            "model:\n  conv:\n  - chanels: 8\n",
            ": model.conv.0: unknown key 'chanels', did you mean 'channels'?",
        ),
        (
            "model:\n  conv:\n  - qqq: 8\n",
            ": model.conv.0: unknown key 'qqq' (keys here: channels, kernel_tf, stride_tf)",
        ),
        ("text:\n  qqqqqq: 1\n", ": text: unknown key 'qqqqqq' (keys here: normalization, tokenizer)"),
    ],
)
def test_an_unknown_key_names_the_nearest_at_every_depth(tmp_path, text, message):
    assert _message(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  epochs: many\n", ": train.epochs: expected a whole number"),
        ("train:\n  epochs: 3.5\n", ": train.epochs: expected a whole number"),
        ("train:\n  epochs: true\n", ": train.epochs: must not be true or false, got true"),
        ("optim:\n  lr: yes\n", ": optim.lr: must not be true or false, got true"),
        ("batch:\n  max_utterance_s: off\n", ": batch.max_utterance_s: must not be true or false, got false"),
        ("train:\n  sortagrad: perhaps\n", ": train.sortagrad: expected true or false, got 'perhaps'"),
        (
            "train:\n  device: 0\n",
            ": train.device: expected text (in quotes, where YAML reads it as something else), got 0",
        ),
        ("train:\n  epochs: 0\n", ": train.epochs: expected a number of at least 1, got 0"),
        ("optim:\n  lr: -1e-3\n", ": optim.lr: expected a number above 0, got -0.001"),
        ("optim:\n  lr: .nan\n", ": optim.lr: expected a finite number, got .nan"),
        ("optim:\n  lr: 1e999\n", ": optim.lr: expected a finite number, got .inf"),
        ("model:\n  cell: gruu\n", ": model.cell: expected one of gru, lstm, tanh, got 'gruu'; did you mean 'gru'?"),
        ("model:\n  conv: []\n", ": model.conv needs 1 to 3 layers"),
        (
            "model:\n  encoder: wav2vec2\n  wav2vec2: {mask_time_probability: 0.65}\n",
            ": model.wav2vec2: mask_time_probability times mask_time_steps is 6.5, and at most 1",
        ),
        ("model:\n  lookahead_steps: 5\n", ": model: lookahead_steps needs bidirectional: false"),
        ("model:\n  conv: [{kernel_tf: [2, 3]}]\n", ": model.conv.0.kernel_tf: both sides must be odd"),
        (
            "model:\n  conv: [{stride_tf: [0, 3]}]\n",
            ": model.conv.0.stride_tf.0: expected a number of at least 1, got 0",
        ),
        ("augment:\n  speeds: [3.0]\n", ": augment.speeds.0: expected a number of at most 2, got 3.0"),
        ("text:\n  normalization: uper\n", ": text.normalization: must be one of data, none, upper, lower, upper-nop"),
        # an unknown key before the value that it hides
        (
            "model:\n  conv: [{channels: 8}, {channel: 8, kernel_tf: [11, 8]}]\n",
            ": model.conv.1: unknown key 'channel', did you mean 'channels'? (and 1 more)",
        ),
        ("optim: {lr: -1}\ntrain: {epoch: 3}\n", ": train: unknown key 'epoch', did you mean 'epochs'? (and 1 more)"),
        # lists, and values of several kinds, in the words of YAML
        ("augment:\n  gain_db: 3\n", ": augment.gain_db: expected a list, as [0.0, 0.0], got 3"),
        ("augment:\n  gain_db: [1]\n", ": augment.gain_db: expected a list, as [0.0, 0.0], got [1]"),
        ("augment:\n  gain_db: [1, 2, 3]\n", ": augment.gain_db: expected a list, as [0.0, 0.0], got [1, 2, 3]"),
        ("augment:\n  speeds: [0.9, true]\n", ": augment.speeds: must not be true or false"),
        ("augment:\n  speeds: 0.9\n", ": augment.speeds: expected a list, as [1.0], got 0.9"),
        ("augment:\n  speeds: [fast]\n", ": augment.speeds.0: expected a number, got 'fast'"),
        ("model:\n  conv: 3\n", ": model.conv: expected a list of mappings, as [{channels: 32}], got 3"),
        ("model:\n  conv: [{}, {}, {}, {}]\n", ": model.conv: expected at most 3 in the list, got [{}, {}, {}, {}]"),
        ("model:\n  conv: [3]\n", ": model.conv.0: expected a mapping of keys to values, got 3"),
        ("model: {hidden: 8193}\n", ": model.hidden: expected a number of at most 8192, got 8193"),
        (
            "features: {fft_samples: 262144}\n",
            ": features.fft_samples: expected a number of at most 131072, got 262144",
        ),
        ("features: {power_floor: 1.5}\n", ": features.power_floor: expected a number of at most 1, got 1.5"),
        ("model: {relu_clip: 1e300}\n", ": model.relu_clip: expected a number of at most 1e+06, got 1.0e+300"),
        ("model: {conv: [{channels: 1025}]}\n", ": model.conv.0.channels: expected a number of at most 1024, got 1025"),
        ("model: {conv: [{kernel_tf: [257, 1]}]}\n", ": model.conv.0.kernel_tf: both sides must be odd, from 1 to 255"),
        ("augment: {gain_db: [0, 1e9]}\n", ": augment.gain_db.1: expected a number of at most 200, got 1000000000.0"),
        ("train: {threads: 100000}\n", ": train.threads: expected a number of at most 4096, got 100000"),
        ("model:\n  hidden:\n", ": model.hidden: expected a whole number, got null"),
        ("train:\n  dropout_schedule: [0.1]\n", ": train.dropout_schedule.0: expected a list of two numbers, got 0.1"),
        ("batch:\n  max_batch_s: -3\n", ": batch.max_batch_s: expected auto, or a number above 0, got -3"),
        ("batch:\n  max_batch_s: 0\n", ": batch.max_batch_s: expected auto, or a number above 0, got 0"),
        ("batch:\n  max_batch_s: lots\n", ": batch.max_batch_s: expected auto, or a number, got 'lots'"),
        ("batch:\n  max_batch_s: [1]\n", ": batch.max_batch_s: expected auto, or a number, got [1]"),
        (
            "train:\n  activation_checkpointing: 3\n",
            ": train.activation_checkpointing: expected auto, true or false, got 3",
        ),
        ("batch:\n  workers: 65\n", ": batch.workers: expected a number of at most 64, got 65"),
        ("model:\n  dropout: 1\n", ": model.dropout: expected a number below 1, got 1"),
        ("optim:\n  lr: 2024-01-01\n", ": optim.lr: expected a number, got 2024-01-01"),
        ("true\n", ": expected a mapping of stages, got true"),
        ("just words\n", ": expected a mapping of stages, got text"),
        ("model:\n  null: 3\n", ": model: a key is a word, got null"),
        ("optim: 3\n", ": optim: expected a mapping of keys to values, got 3"),
        ("optim:\n", ": optim: expected a mapping of keys to values, got null"),
        ("- optim\n", ": expected a mapping of stages, got a list"),
        ("1: 2\n", ": a key is a word, got 1"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_key_and_reason(tmp_path, text, message):
    assert _message(tmp_path, text).startswith(message)


def test_an_alias_is_refused_with_its_line(tmp_path):
    # Nine lists, each of nine aliases of the one before, would be endless to whoever walks through them.
    with pytest.raises(ConfigError, match=r"c.yaml:2: not valid YAML .*'\*a' is an alias, which is not read"):
        _load(tmp_path, "augment: {speeds: &a [1.0]}\ntrain: {dropout_schedule: [*a, *a]}\n")


def test_a_config_file_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.config.reading.CONFIG_FILE", 4096)
    assert _load(tmp_path, "train: {epochs: 3} " + "#" * 4000).train.epochs == 3
    with pytest.raises(ConfigError, match=r"c.yaml: cannot read the config: has more than 4 KiB"):
        _load(tmp_path, "train: {epochs: 3} " + "#" * 4096)


def test_a_pipe_is_no_config(tmp_path):
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="is a pipe or device, expected a regular file"):
        load(tmp_path / "c.yaml")


def test_many_wrong_values_are_one_short_error_and_few_in_memory():
    for data, said in (
        ({"augment": {"speeds": ["fast"] * 100_001}}, r"speeds: at most 100,000 values, got 100,001$"),
        ({"augment": {"speeds": ["fast"] * 9_999}}, r"speeds.0: expected a number, got 'fast' \(and 9998 more\)$"),
        ({f"k{i}": 1 for i in range(1001)}, r"^c: 1,001 keys, where 8 are known$"),
        ({"model": {"hidden": [[1, [2]]] * 50_000}}, r"hidden: expected a whole number, got \[\[1, \[2\]\], .*…$"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            parse(RunConfig, data, "c")
        assert len(str(caught.value)) < 200


def test_several_errors_are_counted(tmp_path):
    assert _message(tmp_path, "train:\n  epochs: 0\n  seed: -1\n").endswith("got 0 (and 1 more)")


def test_a_config_error_carries_its_key(tmp_path):
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, "optim:\n  lr: 0\n")
    assert caught.value.key == "optim.lr"


def test_an_error_of_a_whole_stage_has_no_empty_key_in_front():
    with pytest.raises(ConfigError, match=r"^here: lookahead_steps needs bidirectional: false"):
        parse(ModelConfig, {"lookahead_steps": 2}, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lr: [1\n  x: 2\n", ":3: not valid YAML (expected ',' or ']', but got ':')"),
        ("optim:\n\tlr: 1\n", ":2: not valid YAML (found character '\\t' that cannot start any token)"),
        ("optim:\n  lr: 1\n  lr: 2\n", ":3: not valid YAML ('lr' is given twice)"),
        ("optim:\n  lr: 1\noptim:\n  lr: 2\n", ":3: not valid YAML ('optim' is given twice)"),
        ("a: \x00\n", ": not valid YAML (unacceptable character #x0000"),
        ("a: 2024-99-99\n", ": not valid YAML (month must be in 1..12)"),
        ("a: !!python/object:os.system x\n", ":1: not valid YAML (could not determine a constructor"),
        ("[" * 5000, ": not valid YAML ("),
    ],
)
def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path, text, message):
    assert _message(tmp_path, text).startswith(message)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"optim: \xff\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: not valid YAML ('utf-8' codec can't decode byte 0xff")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path / 'none.yaml'}: cannot read the config: no such file or directory"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot read the config: is a directory"


@pytest.mark.parametrize(
    ("item", "keys", "value"),
    [
        ("optim.lr=3e-4", ("optim", "lr"), 3e-4),
        ("optim.lr=3.0E-4", ("optim", "lr"), 3e-4),
        ("optim.lr=.5", ("optim", "lr"), 0.5),
        ("train.max_steps=1e4", ("train", "max_steps"), 10_000),
        ("train.max_steps=null", ("train", "max_steps"), None),
        ("batch.max_utterance_s=null", ("batch", "max_utterance_s"), None),
        ("batch.max_utterance_s=~", ("batch", "max_utterance_s"), None),
        ("train.sortagrad=false", ("train", "sortagrad"), False),
        ("train.device=cuda:0", ("train", "device"), "cuda:0"),
        ("augment.speeds=[0.9, 1.0, 1.1]", ("augment", "speeds"), (0.9, 1.0, 1.1)),
        ("augment.spec.time_masks=2", ("augment", "spec", "time_masks"), 2),
        ("optim.betas=[0.9, 9.8e-1]", ("optim", "betas"), (0.9, 0.98)),
        (" optim.lr = 0.1", ("optim", "lr"), 0.1),
    ],
)
def test_set_reads_the_value_as_yaml_and_numbers_as_people_type_them(item, keys, value):
    node: object = override(RunConfig(), [item])
    for key in keys:
        node = getattr(node, key)
    assert node == value
    assert type(node) is type(value)


def test_set_takes_a_nested_value_with_letters_e_in_it():
    config = override(RunConfig(), ["model.conv=[{channels: 8, kernel_tf: [3, 3], stride_tf: [2, 1]}]"])
    assert [(c.channels, c.kernel_tf, c.stride_tf) for c in config.model.conv] == [(8, (3, 3), (2, 1))]


def test_files_read_numbers_as_set_does(tmp_path):
    config = _load(tmp_path, "optim:\n  lr: 3e-4\ntrain:\n  max_steps: 1e4\n")
    assert config.optim.lr == 3e-4
    assert config.train.max_steps == 10_000


def test_the_last_set_of_a_key_wins_and_overrides_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("optim:\n  lr: 1.0\n")
    assert load(path, ["optim.lr=2", "optim.lr=3"]).optim.lr == 3.0


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("optim.lr", "--set optim.lr: expected key=value, for example optim.lr=0.001"),
        ("optim.lrr=1", "--set optim.lrr=1: optim: unknown key 'lrr', did you mean 'lr'?"),
        ("lr=1", "--set lr=1: unknown key 'lr', did you mean 'optim.lr'?"),
        ("optm.lr=1", "--set optm.lr=1: unknown key 'optm', did you mean 'optim'?"),
        ("augment.spc.freq_masks=1", "--set augment.spc.freq_masks=1: augment: unknown key 'spc', did you mean 'spec"),
        ("optim.lr.x=1", "--set optim.lr.x=1: 'optim.lr' has no keys of its own; set it whole, as YAML"),
        ("model.conv.0.channels=8", "--set model.conv.0.channels=8: 'model.conv' has no keys of its own; set it whole"),
        (
            "train.freeze.layers.0=-1",
            "--set train.freeze.layers.0=-1: train.freeze: expected a number of at least 1, got",
        ),
        (
            "model.wav2vec2.shape.hidden_size=8",
            "--set model.wav2vec2.shape.hidden_size=8: 'model.wav2vec2.shape' has no",
        ),
        ("=1", "--set =1: unknown key '' (keys here: audio, text, features"),
        ("optim=1", "--set optim=1: optim: expected a mapping of keys to values, got 1"),
        ("optim.lr=[1", "--set optim.lr=[1: the value is not valid YAML"),
        ("optim.lr=0", "--set optim.lr=0: optim.lr: expected a number above 0, got 0"),
        ("train.epochs=true", "--set train.epochs=true: train.epochs: must not be true or false, got true"),
    ],
)
def test_a_bad_set_is_one_line_that_shows_it(item, message):
    assert _set_message(item).startswith(message)


def test_a_part_of_a_network_is_set_by_its_name_and_the_others_stay():
    settings = ["train.freeze={body: 5, body.norm: null}", "train.freeze.body.norm=7", "optim.lr_scales.layers.0=2"]
    cfg = override(RunConfig(), settings)
    assert cfg.train.freeze == {"body": 5, "body.norm": 7} and cfg.optim.lr_scales == {"layers.0": 2.0}


def test_all_keys_lists_nested_stages():
    keys = all_keys(RunConfig)
    assert "optim.lr" in keys
    assert "augment.spec.time_masks" in keys
    assert len(keys) == len(set(keys))


def test_every_default_survives_to_yaml_and_load(tmp_path):
    assert _load(tmp_path, to_yaml(RunConfig())) == RunConfig()


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "optim.lr": st.floats(0, exclude_min=True, allow_infinity=False).map(repr),
        "optim.decay": st.sampled_from(["cosine", "linear", "constant"]),
        "train.seed": st.integers(0, 2**31 - 1).map(str),
        "train.max_steps": st.none().map(lambda _: "null") | st.integers(1, 10**9).map(str),
        "train.sortagrad": st.sampled_from(["true", "false"]),
        "augment.speeds": st.lists(st.floats(0.5, 2.0), min_size=1, max_size=4).map(repr),
        "features.power_floor": st.floats(0, 1, exclude_min=True).map(repr),
        "model.conv": st.lists(
            st.tuples(st.integers(1, 64), st.integers(0, 9), st.integers(0, 9), st.integers(1, 3), st.integers(1, 3)),
            min_size=1,
            max_size=3,
        ).map(
            lambda layers: repr(
                [{"channels": c, "kernel_tf": [2 * a + 1, 2 * b + 1], "stride_tf": [s, t]} for c, a, b, s, t in layers]
            )
        ),
    },
)


@given(SETTINGS)
def test_overrides_survive_to_yaml_and_load(tmp_path_factory, settings):
    config = override(RunConfig(), [f"{key}={value}" for key, value in settings.items()])
    assert _load(tmp_path_factory.mktemp("c"), to_yaml(config)) == config
    # and applying the same settings again changes nothing
    assert override(config, [f"{key}={value}" for key, value in settings.items()]) == config


@pytest.mark.parametrize("path", RECIPE_CONFIGS, ids=lambda p: f"{p.parent.parent.name}-{p.stem}")
def test_recipe_config_loads_and_survives_to_yaml(path, tmp_path):
    config = load(path)
    assert _load(tmp_path, to_yaml(config)) == config


def test_every_recipe_has_a_config():
    # a recipe without speech (language models) has none to train
    recipes = {p.parent for p in recipes_folder().glob("*/recipe.py") if find_recipe(p.parent.name)[0].hours}
    assert recipes
    without = sorted(r.name for r in recipes if not any(c.parent.parent == r for c in RECIPE_CONFIGS))
    assert not without, f"recipes without conf/*.yaml: {without}"


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("[[0.5, 0.1], [0.2, 0.3]]", "the shares must rise"),
        ("[[0, 1.0]]", "a dropout is at least 0"),
        ("[[2, 0.1]]", "must rise, from 0 to 1"),
    ],
)
def test_a_dropout_schedule_that_makes_no_sense_is_refused(schedule, said):
    with pytest.raises(ConfigError, match=said):
        override(RunConfig(), [f"train.dropout_schedule={schedule}"])


def test_a_missing_key_is_said_to_be_missing():
    with pytest.raises(ConfigError, match=r"^model\.json: text: is missing \(and 2 more\)$"):
        parse(ModelFolderConfig, {"format_version": 1, "audio": {"sample_rate_hz": 8000}}, "model.json")
