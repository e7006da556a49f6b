"""Networks of the hub: which weights go where, and the same answers in any batch and, but for rounding, in bf16.

The folders of ``tests/data/hf`` are small; ``transformers`` made what is stored beside them. See make_hf_folders.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.errors import CheckpointError, ConfigError
from asr.model.contract import AcousticModel
from asr.model.hf.config import read_config
from asr.model.hf.load import describe, load_network, parts
from asr.model.hf.weights import read_weights
from asr.model.prepared import prepared
from asr.model.wav2vec2 import fast
from tests.builders import noise
from tests.pretend_cuda import pretended_cuda

STORED = Path(__file__).parent / "data" / "hf"
NAMES = ("base", "large", "hubert", "wavlm", "mms#eng", "mms#deu")


def model_of(name: str) -> AcousticModel:
    known = describe(f"hf:{STORED / name}")
    return AcousticModel(load_network(known), known.extractor, known.tokenizer, known.audio, known.text, known.training)


def wave(length: int | None = None, amplitude: float = 1.0) -> np.ndarray:
    return (np.load(STORED / "wave.npy") * amplitude).astype(np.float32)[:length]


def features_of(model: AcousticModel, *waves: np.ndarray) -> list[np.ndarray]:
    return [model.extractor(wave_n) for wave_n in waves]


def mean_distance(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    return float(np.abs(np.concatenate(some) - np.concatenate(others)).mean())


@pytest.fixture
def folder(tmp_path):
    """A copy of a stored folder, to be changed."""
    return lambda name: Path(shutil.copytree(STORED / name, tmp_path / name))


def change(path: Path, **values) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | values))


# Answers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("amplitude", ["1", "0.003"])
def test_log_probabilities_are_those_of_transformers_in_our_order(name, amplitude):
    known = describe(f"hf:{STORED / name}")
    model = model_of(name)
    stored_sc = torch.from_numpy(np.load(STORED / f"{name.replace('#', '-')}_{amplitude}.npy")).double()
    expected_sv = stored_sc[:, list(known.vocabulary.columns)]
    blanks = [known.vocabulary.columns[0], *known.vocabulary.silent]
    expected_sv[:, 0] = stored_sc[:, blanks].logsumexp(-1)
    (got_sv,) = model.network.each(features_of(model, wave(amplitude=float(amplitude))))
    # 1e-5: sums of float32 in another order, on another processor
    np.testing.assert_allclose(got_sv, expected_sv.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.exp(got_sv).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_utterance_gets_the_same_bits_in_any_batch(name, precision, monkeypatch):
    monkeypatch.setattr("asr.model.prepared.find_precision", lambda *_: "bf16")
    network = prepared(model_of(name), precision).network
    long, short, tiny = features_of(model_of(name), wave(), wave(4500), wave(100))
    alone = [network.each([one])[0] for one in (long, short, tiny)]
    together = network.each([short, long, tiny, long])
    for got, expected in zip(together, [alone[1], alone[0], alone[2], alone[0]], strict=True):
        np.testing.assert_array_equal(got, expected)
    assert together[2].shape == (0, network.vocabulary_size)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_differs_by_rounding_only(name, monkeypatch):
    monkeypatch.setattr("asr.model.prepared.find_precision", lambda *_: "bf16")
    model = model_of(name)
    quick = prepared(model, "auto").network
    assert isinstance(quick, fast.FastNetwork) and prepared(model, "fp32").network is model.network
    features = features_of(model, wave(), wave(amplitude=0.003), *(noise(0.5, seed=i) for i in range(4)))
    exact, got = model.network.each(features), quick.each(features)
    with torch.autocast("cpu", torch.bfloat16):
        usual = model.network.each(features)
    # Half as much again as what torch's own bf16 has: single values differ by chance.
    assert mean_distance(got, exact) < 1.5 * mean_distance(usual, exact)


@pytest.mark.parametrize("name", NAMES)
def test_the_faster_network_in_float32_is_the_exact_one(name, monkeypatch):
    monkeypatch.setattr(fast, "_HALF", torch.float32)
    model = model_of(name)
    features = features_of(model, wave())
    (got_sv,) = fast.FastNetwork(model.network).each(features)
    np.testing.assert_allclose(got_sv, model.network.each(features)[0], atol=1e-5)


def test_bf16_is_refused_where_the_processor_does_not_multiply_it(monkeypatch):
    monkeypatch.setattr("asr.model.prepared.find_precision", lambda *_: "fp32")
    model = model_of("base")
    assert prepared(model, "auto").network is model.network
    with pytest.raises(ConfigError, match="bf16: this processor has no such products; use auto"):
        prepared(model, "bf16")


@pytest.mark.parametrize("name", NAMES)
def test_on_a_pretended_gpu_padding_does_not_change_an_answer(name):
    model = model_of(name)
    features = features_of(model, wave(), wave(4500), wave(100), wave()[::-1].copy())
    alone = [model.network.each([one])[0] for one in features]
    with pretended_cuda():
        network = model.network.to("cuda")
        for got, expected in zip(network.each(features), alone, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_silence_and_a_constant_are_normalised_without_a_division_by_nothing():
    model = model_of("large")
    for wave_n in (np.zeros(6400, np.float32), np.full(6400, 0.25, np.float32)):
        assert np.isfinite(model.network.each(features_of(model, wave_n))[0]).all()
        assert np.isfinite(fast.FastNetwork(model.network).each(features_of(model, wave_n))[0]).all()


# Weights


def test_weights_in_half_precision_are_float32_in_use_and_it_is_said(folder):
    path = folder("base")
    halves = {name: t.half() for name, t in load_file(path / "model.safetensors").items()}
    save_file(halves, path / "model.safetensors")
    known = describe(f"hf:{path}")
    assert known.training["weights"] == "float16 in the file, float32 in use"
    network = load_network(known)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    torch.testing.assert_close(network.lm_head.weight, halves["lm_head.weight"].float())


def test_weight_norm_is_read_under_both_names(folder):
    path = folder("base")
    tensors = load_file(path / "model.safetensors")
    before = read_weights(path, read_config(path))
    place = "wav2vec2.encoder.pos_conv_embed.conv."
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        tensors[f"{place}parametrizations.weight.{new}"] = tensors.pop(place + old)
    save_file(tensors, path / "model.safetensors")
    after = read_weights(path, read_config(path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_size_of_the_output_is_that_of_the_weights_and_of_the_languages_head(folder):
    path = folder("mms")
    change(path / "config.json", vocab_size=777)
    config = read_config(path)
    sizes = [len(read_weights(path, config, language)["lm_head.bias"]) for language in ("eng", "deu")]
    assert sizes == [12, 14]


def test_a_language_without_an_adapter_names_those_there_are(folder):
    path = folder("mms")
    with pytest.raises(CheckpointError, match=r"no adapter for 'dei'; did you mean 'deu'\? \(it has deu, eng\)"):
        describe(f"hf:{path}#dei")
    with pytest.raises(CheckpointError, match=r"has no adapters for languages .* leave out '#deu'"):
        describe(f"hf:{STORED / 'base'}#deu")


def test_what_is_left_of_pretraining_is_passed_over(folder):
    path = folder("base")
    tensors = load_file(path / "model.safetensors")
    extra = {"quantizer.codevectors": torch.zeros(1, 4, 2), "project_hid.weight": torch.zeros(2, 2)}
    save_file(tensors | extra | {"wav2vec2.masked_spec_embed": torch.zeros(16)}, path / "model.safetensors")
    assert describe(f"hf:{path}").vocabulary.columns
    read_weights(path, read_config(path))


@pytest.mark.parametrize(
    ("change_tensors", "message"),
    [
        (lambda t: t.pop("lm_head.weight"), "it is pretrained, but not fine-tuned for recognition"),
        (lambda t: t.pop("lm_head.bias"), "holds no tensor 'lm_head.bias', which config.json asks for"),
        (
            lambda t: t.update({"lm_head.bias": torch.zeros(3)}),
            r"'lm_head.bias' has shape \[3\], config.json asks for \[32\]",
        ),
        (lambda t: t.update({"wav2vec2.encoder.more": torch.zeros(3)}), "'wav2vec2.encoder.more' that config.json"),
        (lambda t: t.update({"lm_head.bias": torch.zeros(32, dtype=torch.int8)}), "has type torch.int8, expected a f"),
    ],
)
def test_weights_that_do_not_fit_are_named_as_in_the_file(folder, change_tensors, message):
    path = folder("base")
    tensors = load_file(path / "model.safetensors")
    change_tensors(tensors)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_weights(path, read_config(path))


class _Code:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_is_no_weights_is_told_from_one_that_asks_for_code(folder, capsys):
    path = folder("wavlm") / "pytorch_model.bin"
    whole = path.read_bytes()
    contents = {
        b"version https://git-lfs.github.com/spec/v1\n": "seems to be a Git LFS pointer .*: fetch the file",
        whole[: len(whole) // 2]: "not a whole file of weights .it was cut short",
        b"words " * 50: "not a whole file of weights .torch.save did not write it",
        b"": "not a whole file of weights",
    }
    for content, message in contents.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_weights(path.parent, read_config(path.parent))
    torch.save({"lm_head.weight": _Code()}, path)
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: asks for code, which is not run"):
        read_weights(path.parent, read_config(path.parent))
    assert capsys.readouterr().out == ""


# Configs


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"feat_extract_activation": "gelu_new"}, "feat_extract_activation is 'gelu_new'"),
        ({"add_adapter": True}, "add_adapter is True"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm is True"),
        ({"architectures": ["SEWForCTC"]}, "SEWForCTC is no wav2vec 2.0, HuBERT, WavLM or Parakeet"),
    ],
)
def test_what_the_networks_here_lack_is_left_to_transformers_by_name(folder, values, reason):
    path = folder("base")
    change(path / "config.json", **values)
    config = read_config(path)
    assert (config.family, config.why_other, config.shape) == ("other", reason, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": ["Wav2Vec2ForPreTraining"]}, "is no network for recognition with CTC"),
        ({"architectures": None}, "'architectures' must name one network"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_attention_heads": 3}, "hidden_size 16 is no multiple of num_attention_heads 3"),
        ({"conv_kernel": [10, 3]}, "conv_dim, conv_kernel and conv_stride must be lists of one length"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, "a"]}, "stride"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps"),
    ],
)
def test_configs_that_make_no_network_are_one_line(folder, values, message):
    path = folder("base")
    change(path / "config.json", **values)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(path)
    assert str(path / "config.json") in str(caught.value)


def test_the_input_is_read_from_the_files_of_transformers_4_and_5(folder):
    old, new = folder("base"), folder("large")
    assert (old / "preprocessor_config.json").is_file() and not (new / "preprocessor_config.json").exists()
    change(old / "preprocessor_config.json", sampling_rate=8000, do_normalize=False)
    known = describe(f"hf:{old}")
    assert known.audio.sample_rate_hz == 8000 and not known.extractor.cfg.normalize
    assert describe(f"hf:{new}").extractor.cfg.eps == 1e-7
    (new / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: missing: .* scale the network takes sound"):
        describe(f"hf:{new}")


def test_the_pace_is_that_of_the_convolutions_whatever_the_config_says(folder):
    path = folder("base")
    change(path / "config.json", inputs_to_logits_ratio=640)
    known = describe(f"hf:{path}")
    assert known.stride == 320
    assert known.num_steps(torch.tensor([0, 399, 400, 719, 720, 6400])).tolist() == [0, 0, 1, 1, 2, 19]


def test_the_parts_of_a_network_count_all_its_parameters():
    known = describe(f"hf:{STORED / 'mms'}#deu")
    rows = parts(known)
    assert rows[-1] == ("output", "11 tokens with the blank, 3 outputs that write nothing", 14 * 17)
    folded = 8  # the norm of the position's weights, a number for each of its taps
    assert sum(count for _, _, count in rows) == folded + sum(p.numel() for p in load_network(known).parameters())
