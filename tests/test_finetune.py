"""Training that starts from published networks, and models that go back to the format of the hub."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr import config as configs
from asr.config import RunConfig, override
from asr.corpora.catalogue import find_config, recipes_folder
from asr.data import manifest as manifests
from asr.errors import CheckpointError, ConfigError, DataError
from asr.evaluate import evaluate
from asr.model.checkpoint import load_model, load_trainable
from asr.model.folder import read_model_config
from asr.model.hf.names import whole_name
from asr.model.start import load_start, resolve_start
from asr.train import resume, train
from tests.builders import build_corpus
from tests.nemo_files import write_nemo
from tests.test_cli import command  # noqa: F401  # the fixture

HF = Path(__file__).parent / "data" / "hf"
#: seconds of speech that each config is for, and the paper's number of updates
AMOUNTS = {
    "wav2vec2-10min": (600, 12_000),
    "wav2vec2-1h": (3600, 13_000),
    "wav2vec2": (36_000, 20_000),
    "wav2vec2-100h": (360_000, 50_000),
    "xls-r": (36_000, 20_000),
}


def config(model: str, *settings: str) -> RunConfig:
    """A run of seconds that starts from a model."""
    small = [
        "model.wav2vec2.mask_time_probability=0.02",
        "model.wav2vec2.mask_channel_width=2",
        "batch.max_batch_s=10",
        "batch.max_utterances=4",
        "optim.lr=0.01",
        "train.accumulate=1",
        "train.freeze={}",
        "train.epochs=2",
        "train.validate_every_epochs=1",
        "train.precision=fp32",
        "train.device=cpu",
        "train.threads=1",
        f"train.init={json.dumps(model)}",
    ]
    return configs.load(find_config("finetune/wav2vec2"), [*small, *settings])


def answer(model, wave_n: np.ndarray) -> np.ndarray:
    """What a model answers to one recording. Shapes: (n,) -> (s, v)."""
    return model.network.each([model.extractor(wave_n)])[0]


@pytest.fixture(scope="module")
def wave_n() -> np.ndarray:
    return np.load(HF / "wave.npy")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve utterances of tones."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 8), ("dev", 4)):
        build_corpus(folder, count, name=name, alphabet="ABCD ")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """A run that started from a folder of the hub, which is gone."""
    folder = tmp_path_factory.mktemp("run")
    gone = shutil.copytree(HF / "base", folder / "gone")
    train(config(f"hf:{gone}"), data, folder / "run")
    shutil.rmtree(gone)
    return folder / "run"


# what is taken from a published network


@pytest.mark.parametrize("name", ["base", "large", "hubert", "wavlm", "mms#deu"])
def test_a_network_to_train_on_gives_what_the_published_one_gives(name, wave_n):
    ours, published = load_start(f"hf:{HF}/{name}"), load_model(f"hf:{HF}/{name}")
    assert ours.tokenizer.symbols == published.tokenizer.symbols
    ours_sv, published_sv = answer(ours, wave_n), answer(published, wave_n)
    # Outputs that write nothing are dropped here, and added to the blank there: all else keeps its relation.
    np.testing.assert_allclose(
        ours_sv[:, 2:] - ours_sv[:, 1:2], published_sv[:, 2:] - published_sv[:, 1:2], atol=2e-5
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "architecture", "prefix"),
    [
        ("base", "Wav2Vec2ForPreTraining", "wav2vec2."),
        ("base", "Wav2Vec2ForSequenceClassification", "wav2vec2."),
        ("hubert", "HubertModel", ""),
        ("wavlm", "WavLMModel", ""),
    ],
)
def test_a_pretrained_network_gives_all_but_the_output(name, architecture, prefix, tmp_path):
    folder = without_head(name, architecture, prefix, tmp_path / "pretrained")
    model, whole = load_start(f"hf:{folder}"), load_start(f"hf:{HF}/{name}")
    assert model.tokenizer.symbols == () and model.network.output.weight.shape[0] == 1
    for key, tensor in whole.network.body.state_dict().items():
        assert torch.equal(model.network.body.state_dict()[key], tensor), key


def without_head(name: str, architecture: str, prefix: str, folder: Path) -> Path:
    """A folder of a network that was saved for another task: without tokens, with tensors of its own."""
    shutil.copytree(HF / name, folder)
    for file in ("vocab.json", "tokenizer_config.json", "model.safetensors.index.json"):
        (folder / file).unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))

    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
        file.unlink()
    if (pickled := folder / "pytorch_model.bin").exists():
        tensors |= torch.load(pickled, weights_only=True)
        pickled.unlink()
    kept = {key.split(".", 1)[1]: t for key, t in tensors.items() if not key.startswith("lm_head.")}
    others = {"quantizer.codevectors": torch.ones(2), "classifier.weight": torch.ones(2, 2)}
    save_file({prefix + key: t.clone() for key, t in kept.items()} | others, folder / "model.safetensors")
    return folder


def test_a_pretrained_network_is_trained_with_the_tokens_of_the_texts(data, tmp_path):
    folder = without_head("large", "Wav2Vec2ForPreTraining", "wav2vec2.", tmp_path / "pretrained")
    report = train(config(f"hf:{folder}", "train.epochs=1"), data, tmp_path / "run")
    model = load_trainable(tmp_path / "run" / "best")
    assert report.progress.step == 2 and model.tokenizer.symbols == (" ", "A", "B", "C", "D")


def test_the_config_takes_shape_and_input_from_the_network_and_keeps_its_own_training(caplog):
    own = ["model.dropout=0.1", "audio.resample=true", "features.dither=0.001"]
    cfg = config(f"hf:{HF}/wavlm", "audio.sample_rate_hz=8000", *own)
    with caplog.at_level("INFO", "asr"):
        resolved = resolve_start(cfg)
    shape = resolved.model.wav2vec2.shape
    assert shape is not None and (shape.family, shape.hidden_size, shape.num_buckets) == ("wavlm", 16, 32)
    assert resolved.features.normalization == "none"
    assert "takes its own input: audio.sample_rate_hz=16000, features.normalization=none" in caplog.text
    of_network = ["audio.sample_rate_hz=16000", "features.normalization=none"]
    assert resolved == override(cfg, [f"model.wav2vec2.shape={shape.model_dump_json()}", *of_network])


def test_a_run_and_its_model_stand_alone(run, data, tmp_path):
    cfg = configs.load(run / "config.yaml")
    assert cfg.model.wav2vec2.shape is not None
    assert read_model_config(run / "best").model.wav2vec2.shape == cfg.model.wav2vec2.shape
    assert evaluate(load_model(run), manifests.read(data / "dev.jsonl")).score.utterances == 4
    longer = shutil.copytree(run, tmp_path / "longer")
    (longer / "config.yaml").write_text((longer / "config.yaml").read_text().replace("epochs: 2", "epochs: 3", 1))
    assert resume(longer).progress.epoch == 3


def test_a_run_starts_from_a_run_that_was_fine_tuned(run, data, tmp_path):
    report = train(config(str(run), "train.epochs=1"), data, tmp_path / "run")
    assert report.progress.step == 2
    assert configs.load(tmp_path / "run" / "config.yaml").model.wav2vec2.shape is not None


def test_a_stopped_and_resumed_run_is_the_same_run(data, tmp_path):
    cfg = config(f"hf:{HF}/base", "model.dropout=0.1", "model.wav2vec2.layer_drop=0.3")
    train(cfg, data, tmp_path / "whole")
    steps = 0

    def stop(values: dict[str, float]) -> None:
        nonlocal steps
        steps += "loss" in values
        if steps == 3:
            signal.raise_signal(signal.SIGINT)

    assert train(cfg, data, tmp_path / "stopped", stop).interrupted
    resume(tmp_path / "stopped")
    first, second = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_the_tokens_of_the_network_are_kept_if_they_are_asked_for(data, tmp_path):
    train(config(f"hf:{HF}/base", "text.tokenizer=init", "train.epochs=1"), data, tmp_path / "run")
    model, published = load_trainable(tmp_path / "run"), load_model(f"hf:{HF}/base")
    assert model.tokenizer.symbols == published.tokenizer.symbols


def test_a_conformer_of_nemo_brings_its_network_and_input(tmp_path):
    model = write_nemo(tmp_path / "small.nemo")
    settings = [f"train.init={json.dumps(f'nemo:{model}')}", "model.dropout=0.2"]
    cfg = resolve_start(configs.load(find_config("finetune/parakeet"), settings))
    network = load_start(f"nemo:{model}").network
    assert cfg.model.dropout == 0.2 and cfg.model.hidden == network.cfg.hidden
    assert cfg.model.conformer == network.cfg.conformer and cfg.features.kind == "parakeet"


# mistakes, one line each


def test_a_config_without_a_network_says_how_to_name_one(data, tmp_path, command):  # noqa: F811
    result = command("train", "finetune/wav2vec2", "--data", data, "--out", tmp_path / "run")
    assert result.code == 2 and "name it with --init hf:FOLDER_OR_NAME" in result.err
    assert result.err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_network_of_another_kind_is_named_with_a_config_for_it(tmp_path):
    starts = {
        f"hf:{HF}/base": ("wav2vec2", "wav2vec2"),
        f"nemo:{write_nemo(tmp_path / 'a.nemo')}": ("conformer", "parakeet"),
    }
    for init, (kind, name) in starts.items():
        said = rf"is of the kind {kind}, and model.encoder is recurrent: set .* \(as finetune/{name} has them\)"
        with pytest.raises(ConfigError, match=said):
            resolve_start(override(RunConfig(), [f"train.init={init}"]))


def test_tokens_of_a_network_that_has_none_are_asked_for_elsewhere(tmp_path, data):
    folder = without_head("base", "Wav2Vec2ForPreTraining", "wav2vec2.", tmp_path / "pretrained")
    with pytest.raises(CheckpointError, match=r"asked for by text\.tokenizer: to take those of .* set it to char"):
        train(config(f"hf:{folder}", "text.tokenizer=init"), data, tmp_path / "run")


def test_info_shows_a_network_that_was_only_pretrained_and_how_to_train_it(tmp_path, command):  # noqa: F811
    folder = without_head("base", "Wav2Vec2ForPreTraining", "wav2vec2.", tmp_path / "pretrained")
    result = command("info", f"hf:{folder}")
    assert result.code == 0 and "none: it has no output for text" in result.out and "output:" not in result.out
    assert f"asr train finetune/wav2vec2 --init hf:{folder}" in result.out

    refused = command("transcribe", f"hf:{folder}", "a.wav")
    assert refused.code == 2 and "can be trained to be one: 'asr train finetune/wav2vec2'" in refused.err


def test_info_shows_a_config_whose_network_is_that_of_another(command):  # noqa: F811
    result = command("info", "finetune/wav2vec2")
    assert result.code == 0 and "that of the model that training starts from" in result.out


def test_a_character_that_the_network_cannot_write_names_the_way_to_add_it(data, tmp_path):
    cfg = config(f"hf:{HF}/mms#eng", "text.tokenizer=init", "text.normalization=lower")
    with pytest.raises(DataError, match=r"unknown character .*; text\.tokenizer=init\+ adds a token for it"):
        train(cfg, data, tmp_path / "run")


def test_what_is_only_used_through_transformers_is_not_trained(tmp_path):
    folder = shutil.copytree(HF / "base", tmp_path / "model")
    (folder / "config.json").write_text('{"architectures": ["SEWForCTC"], "model_type": "sew"}')
    with pytest.raises(
        ConfigError, match=r"SEWForCTC is no wav2vec 2\.0, HuBERT, WavLM or Parakeet; training starts from"
    ):
        load_start(f"hf:{folder}")


def test_a_bundle_is_not_trained():
    with pytest.raises(ConfigError, match="torchaudio:X: a bundle of torchaudio can be used, but not trained"):
        load_start("torchaudio:X")


def test_weights_that_do_not_fit_the_config_are_named(tmp_path):
    folder = without_head("base", "Wav2Vec2Model", "", tmp_path / "pretrained")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer_norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no tensor 'encoder.layer_norm.weight', which config.json asks"):
        load_start(f"hf:{folder}")


def test_a_name_means_the_same_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert whole_name("hf:model") == f"hf:{tmp_path}/model" and whole_name("hf:no/model") == "hf:no/model"
    assert whole_name("hf:model#deu") == f"hf:{tmp_path}/model#deu" and whole_name("model") == f"{tmp_path}/model"
    assert whole_name("nemo:model") == f"nemo:{tmp_path}/model"


# the configs


@pytest.mark.parametrize("name", sorted(file.stem for file in (recipes_folder() / "finetune" / "conf").glob("*.yaml")))
def test_a_config_makes_the_updates_of_the_paper(name):
    if name not in AMOUNTS:
        pytest.skip("it follows no paper")
    seconds, updates = AMOUNTS[name]
    cfg = configs.load(find_config(f"finetune/{name}"))
    # 4 % of the batches are padding and what does not fill the last one
    batches = -(-seconds * 1.04 // cfg.batch.max_batch_s)
    per_epoch = -(-batches // cfg.train.accumulate)
    assert cfg.train.epochs * per_epoch == pytest.approx(updates, rel=0.03)
    assert cfg.batch.max_batch_s * cfg.train.accumulate == 1600
    # the parts that are frozen are parts of the network
    network = load_start(f"hf:{HF}/base").network
    names = [key for key, _ in network.named_parameters()]
    assert all(any(key.startswith(f"{part}.") for key in names) for part in cfg.train.freeze)
