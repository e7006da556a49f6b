"""Networks that only ``transformers`` has: found, or one line; the same answers as its own, recording by recording."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import AsrError, CheckpointError
from asr.model.hf import others
from asr.model.hf.config import read_config
from asr.model.hf.others import describe_other, load_other
from tests.builders import write_wav
from tests.make_hf_folders import FOLDER
from tests.test_cli import command  # noqa: F401  # the fixture

TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ABCD")
_SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_WAVE = {**_SMALL, "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
_HEAD = {"vocab_size": len(TOKENS), "pad_token_id": 0}
_SQUEEZED = {**_WAVE, **_HEAD, "conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 3), "conv_stride": (5, 4, 4)}
_BERT = {**_SMALL, **_HEAD, "feature_projection_input_dim": 160}
_MEL = {**_SMALL, "subsampling_conv_channels": 8}
#: name -> config, its settings, feature extractor, its settings
FAMILIES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "data2vec": ("Data2VecAudioConfig", _WAVE | _HEAD, "Wav2Vec2FeatureExtractor", {"return_attention_mask": True}),
    "sew": ("SEWConfig", _SQUEEZED, "Wav2Vec2FeatureExtractor", {"return_attention_mask": True}),
    "sew-d": ("SEWDConfig", _SQUEEZED, "Wav2Vec2FeatureExtractor", {"return_attention_mask": True}),
    "unispeech": ("UniSpeechConfig", _WAVE | _HEAD, "Wav2Vec2FeatureExtractor", {"return_attention_mask": False}),
    "unispeech-sat": ("UniSpeechSatConfig", _WAVE | _HEAD, "Wav2Vec2FeatureExtractor", {"do_normalize": False}),
    "conformer": ("Wav2Vec2ConformerConfig", _WAVE | _HEAD, "Wav2Vec2FeatureExtractor", {}),
    "wav2vec2 with convolutions behind it": (
        "Wav2Vec2Config",
        _WAVE | _HEAD | {"add_adapter": True, "output_hidden_size": 16},
        "Wav2Vec2FeatureExtractor",
        {},
    ),
    "w2v-bert": ("Wav2Vec2BertConfig", _BERT, "SeamlessM4TFeatureExtractor", {}),
    "w2v-bert with convolutions behind it": (
        "Wav2Vec2BertConfig",
        _BERT | {"add_adapter": True, "output_hidden_size": 16},
        "SeamlessM4TFeatureExtractor",
        {},
    ),
    "parakeet": (
        "ParakeetCTCConfig",
        {"vocab_size": 9, "pad_token_id": 8, "encoder_config": _MEL | {"num_mel_bins": 80}},
        "ParakeetFeatureExtractor",
        {},
    ),
    "lasr": (
        "LasrCTCConfig",
        {"vocab_size": 9, "pad_token_id": 8, "encoder_config": _MEL | {"num_mel_bins": 128}},
        "LasrFeatureExtractor",
        {},
    ),
    "omniasr": ("OmniASRCTCConfig", {"vocab_size": 9, "audio_config": _WAVE}, "OmniASRFeatureExtractor", {}),
}
STRIDES = {"sew": 80, "sew-d": 80, "parakeet": 1280, "lasr": 640}
STRIDES |= {"wav2vec2 with convolutions behind it": 2560, "w2v-bert with convolutions behind it": 640}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: it is the oracle here")


def make(folder: Path, transformers: Any, name: str) -> Path:
    """Write a folder with random weights of one family."""
    config, settings, extractor, more = FAMILIES[name]
    if not hasattr(transformers, config):
        pytest.skip(f"transformers {transformers.__version__} has no {config}")
    torch.manual_seed(0)
    model = transformers.AutoModelForCTC.from_config(getattr(transformers, config)(**settings)).eval()
    try:
        getattr(transformers, extractor)(**more).save_pretrained(folder)
    except ImportError as error:
        pytest.skip(f"transformers {transformers.__version__}: {str(error).strip().splitlines()[0]}")
    model.save_pretrained(folder)
    write(folder / "vocab.json", {token: i for i, token in enumerate(TOKENS)})
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def waves(*lengths: int) -> list[np.ndarray]:
    wave_n = np.tile(np.load(FOLDER / "wave.npy"), 4)
    return [wave_n[:n] for n in lengths]


# The count of steps


class Convs:
    """Stands for an input and its network: convolutions with any padding, the strides powers of two and five."""

    def __init__(self, layers: Sequence[tuple[int, int, int]]) -> None:
        self.layers = layers

    def steps(self, wave_n: np.ndarray) -> int:
        length = len(wave_n)
        for kernel, stride, padding in self.layers:
            length = max((length + 2 * padding - kernel) // stride + 1, 0)
        return length


#: (kernel, stride, padding): over samples, and over what comes of them
_FIRST = st.tuples(st.integers(1, 400), st.sampled_from([1, 5, 160]), st.just(0))
_REST = st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 4]), st.integers(0, 2)).filter(
    lambda one: 2 * one[2] < one[0]
)


@given(_FIRST, st.lists(_REST, max_size=3), st.integers(0, 20_000))
def test_steps_found_from_a_few_lengths_are_those_of_every_length(first, rest, length):
    convs = Convs([first, *rest])
    steps = others._find_steps(convs, 16_000)
    assert steps.stride == np.prod([stride for _, stride, _ in convs.layers])
    assert int(steps(torch.tensor([length]))[0]) == convs.steps(np.empty(length))


def test_a_network_without_an_even_pace_is_refused():
    class Odd:
        def steps(self, wave_n):
            return int(len(wave_n) ** 0.5)

    with pytest.raises(CheckpointError, match="no even pace"):
        others._find_steps(Odd(), 16_000)


# What is refused


@pytest.fixture
def bert(tmp_path) -> Path:
    """A folder of w2v-BERT 2.0 without weights."""
    config = {"architectures": ["Wav2Vec2BertForCTC"], "model_type": "wav2vec2-bert", "vocab_size": 9, **_SMALL}
    write(tmp_path / "config.json", config)
    extractor = {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "sampling_rate": 16000}
    write(tmp_path / "preprocessor_config.json", extractor)
    return tmp_path


def test_without_transformers_one_line_names_the_network_and_the_command(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(others, "import_module", _missing)
    with pytest.raises(AsrError) as caught:
        describe_other(bert, read_config(bert))
    assert "Wav2Vec2BertForCTC" in str(caught.value) and "pip install" in str(caught.value)
    assert "\n" not in str(caught.value)


def _missing(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers is 1e+06, at most 512"),
        ("config.json", {"encoder_config": {"hidden_size": 10**12}}, "hidden_size is 1e+12"),
        ("config.json", {"hidden_size": float("inf")}, "hidden_size is inf"),
        ("preprocessor_config.json", {"feature_size": 10**10}, "feature_size is 1e+10"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(bert, file, change, message):
    config = read_config(bert)
    write(bert / file, json.loads((bert / file).read_text()) | change)
    with pytest.raises(CheckpointError) as caught:
        describe_other(bert, config)
    assert message in str(caught.value) and file in str(caught.value)


# Beside transformers


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_those_of_transformers_for_each_recording_alone(tmp_path, transformers, name):
    folder = make(tmp_path, transformers, name)
    network = load_other(folder, read_config(folder), range(len(TOKENS)))
    assert network.stride == STRIDES.get(name, 320)

    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    lengths = [6400, 4500, 7777, 9999, 12345, 12800, 15898, 16001, 23456]
    recordings = [wave_n * np.float32(a) for a in (1, 0.003) for wave_n in waves(*lengths)]
    together = network.each([wave_n[:, None] for wave_n in recordings])

    for wave_n, ours_sv in zip(recordings, together, strict=True):
        inputs = extractor(wave_n, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            theirs_sv = model(**inputs).logits[0].log_softmax(-1).numpy()
        steps = int(network.num_steps(torch.tensor([len(wave_n)]))[0])
        # The last of theirs may be of padding that the extractor adds.
        assert len(ours_sv) == steps and len(theirs_sv) - 1 <= steps <= len(theirs_sv)
        np.testing.assert_allclose(ours_sv, theirs_sv[:steps], atol=1e-5)
        np.testing.assert_array_equal(ours_sv, network.each([wave_n[:, None]])[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_any_length_gives_as_many_steps_as_are_counted(tmp_path, transformers, name):
    folder = make(tmp_path, transformers, name)
    network = load_other(folder, read_config(folder), range(len(TOKENS)))
    for length in (0, 1, 30, 160, 320, 399, 400, 401, 480, 559, 560, 719, 720, 2319, 2320, *range(5000, 9000, 321)):
        log_probs_sv = network.each([waves(length)[0][:, None]])[0]
        assert len(log_probs_sv) == int(network.num_steps(torch.tensor([length]))[0])
        assert np.isfinite(log_probs_sv).all()


@pytest.mark.slow
def test_steps_of_padding_are_left_out(tmp_path, transformers):
    folder = make(tmp_path, transformers, "w2v-bert")
    network = load_other(folder, read_config(folder), range(len(TOKENS)))
    # 75 frames: transformers adds one to come to an even number, and masks it
    assert len(network.each([waves(12345)[0][:, None]])[0]) == 37


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parakeet", "w2v-bert"])
def test_the_command_takes_what_transformers_has(tmp_path, transformers, command, name):  # noqa: F811
    folder = make(tmp_path / name, transformers, name)
    if name == "parakeet":
        (folder / "vocab.json").unlink()
        pieces = {"<unk>": 0, "▁a": 1, "b": 2, "▁": 3, "c": 4, "▁de": 5, "e": 6, "d": 7}
        special = [{"id": 0, "content": "<unk>", "special": True}, {"id": 8, "content": "<pad>", "special": True}]
        decoder = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
        model = {"type": "BPE", "vocab": pieces, "merges": []}
        write(folder / "tokenizer.json", {"model": model, "added_tokens": special, "decoder": decoder})
        write(folder / "tokenizer_config.json", {"pad_token": "<pad>", "unk_token": "<unk>"})
    write_wav(tmp_path / "a.wav", waves(20_000)[0] * 0.5)

    done = command("transcribe", f"hf:{folder}", tmp_path / "a.wav")
    assert (done.code, done.err) == (0, "") and set(done.out) <= set("abcdeABCD \n")
    known = json.loads(command("info", f"hf:{folder}", "--json").out)
    assert known["step"] == ("80 ms" if name == "parakeet" else "20 ms")
    assert "int64" not in known["training weights"]


@pytest.mark.slow
def test_silent_outputs_belong_to_the_blank(tmp_path, transformers):
    folder = make(tmp_path, transformers, "data2vec")
    wave_n1 = waves(6400)[0][:, None]
    all_sv = load_other(folder, read_config(folder), range(9)).each([wave_n1])[0]
    some_sv = load_other(folder, read_config(folder), [0, 4, 5, 6, 7, 8], [1, 2, 3]).each([wave_n1])[0]
    np.testing.assert_allclose(np.exp(some_sv).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(some_sv[:, 0], np.logaddexp.reduce(all_sv[:, :4], axis=-1), atol=1e-5)
    np.testing.assert_array_equal(some_sv[:, 1:], all_sv[:, 4:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w2v-bert", "parakeet", "data2vec"])
def test_a_folder_without_some_of_its_weights_is_refused(tmp_path, transformers, name):
    from safetensors.torch import load_file, save_file

    folder = make(tmp_path, transformers, name)
    tensors = load_file(folder / "model.safetensors")
    missing = next(key for key in tensors if "layers.1." in key)
    tensors.pop(missing)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_other(folder, read_config(folder), range(len(TOKENS)))
    assert missing in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 32}, "not those that config.json asks for"),
        ({"architectures": ["SEWForCTC"]}, "no network with CTC"),
        ({"architectures": ["NoSuchForCTC"]}, "no network with CTC"),
        ({"model_type": "no-such"}, "no-such"),
        ({"num_attention_heads": 3}, "do not make a network"),
        ({"hidden_size": 100_000, "intermediate_size": 1_000_000}, "parameters, and it holds"),
    ],
)
def test_a_config_of_another_network_is_one_line(tmp_path, transformers, change, message):
    folder = make(tmp_path, transformers, "data2vec")
    write(folder / "config.json", json.loads((folder / "config.json").read_text()) | change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_other(folder, read_config(folder), range(len(TOKENS)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_folder_cannot_name_attention_of_the_hub(tmp_path, transformers, monkeypatch):
    folder = make(tmp_path, transformers, "data2vec")
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", config | {"attn_implementation": "somebody/kernel", "_attn_implementation": "a/b"})
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    network = load_other(folder, read_config(folder), range(len(TOKENS)))
    assert network.model.config._attn_implementation == "eager"


@pytest.mark.slow
def test_transformers_writes_nothing_and_keeps_its_settings(tmp_path, transformers, capfd):
    folder = make(tmp_path, transformers, "w2v-bert")
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_other(folder, read_config(folder), range(len(TOKENS)))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
