"""The inference network: the network's own answers, and the same bits however utterances are fed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.batch import pad
from asr.config import AudioConfig, ConvConfig, FeatureConfig, ModelConfig, TextConfig
from asr.data.tokenizer import CharTokenizer
from asr.errors import AsrError, ConfigError
from asr.infer import log_probs, pipeline
from asr.jit import compiled
from asr.model.build import build_network
from asr.model.checkpoint import build_model
from asr.model.contract import AcousticModel
from asr.model.cpu import inference as fast_module
from asr.model.cpu.inference import InferenceNetwork, runs_here, stored
from asr.model.cpu.packed import LANES
from asr.model.cpu.vectors import as_stored, load, store
from asr.model.network import DeepSpeech2
from asr.model.prepared import inference_network, prepared

ROOT = Path(__file__).resolve().parent.parent
BF16 = pytest.param("bf16", marks=pytest.mark.skipif(not runs_here("bf16"), reason="no bf16 products here"))
SMALL = ConvConfig(channels=3, kernel_tf=(5, 3), stride_tf=(2, 2))
#: one of each kind of everything
CONFIGS = {
    "gru, sum": ModelConfig(conv=(SMALL,), layers=2, hidden=6),
    "gru, concat, two convolutions": ModelConfig(
        conv=(ConvConfig(channels=5, kernel_tf=(3, 5), stride_tf=(2, 1)), SMALL), layers=2, hidden=20, merge="concat"
    ),
    "lstm, residual, no norm": ModelConfig(conv=(SMALL,), cell="lstm", layers=3, hidden=17, residual=True, norm=False),
    "tanh, one direction, lookahead": ModelConfig(
        conv=(SMALL,), cell="tanh", layers=2, hidden=40, bidirectional=False, lookahead_steps=3
    ),
    "a step a frame, 33 channels": ModelConfig(
        conv=(ConvConfig(channels=33, kernel_tf=(1, 1), stride_tf=(1, 3)),), layers=1, hidden=64, merge="concat"
    ),
}


def network(cfg: ModelConfig, bins: int = 9, size: int = 5, seed: int = 0) -> DeepSpeech2:
    """A network whose norms are at work."""
    torch.manual_seed(seed)
    made = build_network(cfg, bins, size).eval()
    assert isinstance(made, DeepSpeech2)
    with torch.no_grad():
        for name, value in (*made.named_parameters(), *made.named_buffers()):
            if "running_var" in name:
                value.uniform_(0.5, 2)
            elif "running_mean" in name or "bias" in name:
                value.normal_(0, 0.3)
    return made


def utterances(*lengths: int, bins: int = 9) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(size=(n, bins)).astype(np.float32) for i, n in enumerate(lengths)]


def plain(net: DeepSpeech2, features: list[np.ndarray]) -> list[np.ndarray]:
    with torch.inference_mode():
        log_probs_bsv, num_steps_b = net(*pad(features))
    return [one_sv[:steps].numpy() for one_sv, steps in zip(log_probs_bsv, num_steps_b.tolist(), strict=True)]


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS.keys())
def test_it_gives_what_the_network_gives(cfg):
    net = network(cfg)
    features = utterances(30, 3, 0, 12, 1, 70)
    for mine_sv, theirs_sv in zip(inference_network(net, "fp32").each(features), plain(net, features), strict=True):
        # float32, sums in another order, tanh good to 4e-7: observed below 2e-6
        np.testing.assert_allclose(mine_sv, theirs_sv, atol=2e-5)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.skipif(not runs_here("bf16"), reason="no bf16 products here")
def test_bf16_is_as_near_as_8_bits_of_mantissa_allow(cfg):
    net = network(cfg)
    features = utterances(30, 3, 12, 1, 70)
    for mine_sv, theirs_sv in zip(inference_network(net, "bf16").each(features), plain(net, features), strict=True):
        # a relative error of 2^-9 a factor: observed below 0.01 in a probability
        np.testing.assert_allclose(np.exp(mine_sv), np.exp(theirs_sv), atol=0.03)
        np.testing.assert_allclose(np.exp(mine_sv).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", BF16])
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS.keys())
@settings(max_examples=15)
@given(data=st.data())
def test_an_utterance_gets_the_same_bits_in_every_company(cfg, precision, data):
    fast = inference_network(network(cfg), precision)
    lengths = data.draw(st.lists(st.integers(0, 45), min_size=1, max_size=20))
    features = utterances(*lengths)
    alone = [fast.each([one_tf])[0] for one_tf in features]
    order = data.draw(st.permutations(range(len(features))))
    for i, one_sv in zip(order, fast.each([features[i] for i in order]), strict=True):
        np.testing.assert_array_equal(one_sv, alone[i])


@pytest.mark.parametrize("precision", ["fp32", BF16])
def test_bits_do_not_depend_on_threads(threads, precision):
    fast = inference_network(network(CONFIGS["gru, concat, two convolutions"]), precision)
    features = utterances(90, 31, 0, 12, 7)
    together = fast.each(features)
    alone = [fast.each([one_tf])[0] for one_tf in features]
    torch.set_num_threads(1)
    for expected, *others in zip(fast.each(features), together, alone, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, expected)


@pytest.mark.parametrize("precision", ["fp32", BF16])
def test_nothing_in_gives_nothing_out(precision):
    fast = inference_network(network(CONFIGS["gru, sum"]), precision)
    assert fast.each([]) == []
    assert [one.shape for one in fast.each(utterances(0, 0))] == [(0, 5), (0, 5)]


def test_another_number_of_bins_is_refused():
    with pytest.raises(ValueError, match="8 bins, the model was built for 9"):
        inference_network(network(CONFIGS["gru, sum"]), "fp32").each(utterances(5, bins=8))


def test_gates_are_right_for_inputs_of_every_size():
    cfg = ModelConfig(conv=(SMALL,), cell="lstm", layers=1, hidden=16, norm=False, relu_clip=1e6)
    net = network(cfg)
    for scale in (1e-3, 1.0, 30.0, 1e4):
        features = [scale * one_tf for one_tf in utterances(40, 9)]
        for mine_sv, theirs_sv in zip(inference_network(net, "fp32").each(features), plain(net, features), strict=True):
            np.testing.assert_allclose(mine_sv, theirs_sv, atol=1e-4)


@compiled
def narrowed(wide: np.ndarray, alone: np.ndarray, in_vectors: np.ndarray) -> None:
    for at in range(len(wide)):
        alone[at] = as_stored(wide[at], alone)
    for at in range(0, len(wide), LANES):
        store(in_vectors, at, load(wide, at))


def test_numbers_are_made_narrow_as_torch_does():
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, np.nan]
    wide = np.concatenate([rng.normal(size=1000), 10.0 ** rng.uniform(-44, 38, 1000), special]).astype(np.float32)
    wide = wide[-2000:]
    alone, in_vectors = np.empty(len(wide), np.uint16), np.empty(len(wide), np.uint16)
    narrowed(wide, alone, in_vectors)
    np.testing.assert_array_equal(alone[:-1], stored(wide, "bf16")[:-1])
    np.testing.assert_array_equal(in_vectors, alone)
    assert torch.from_numpy(alone[-1:].view(np.int16)).view(torch.bfloat16).isnan().all()


# --- as part of a model -----------------------------------------------------------------------------------------------


def model(cfg: ModelConfig = CONFIGS["gru, sum"]) -> AcousticModel:
    torch.manual_seed(0)
    features = FeatureConfig(num_mels=8)
    return build_model(AudioConfig(), TextConfig(), features, cfg, CharTokenizer.from_texts(["abc"]))


def test_a_prepared_model_is_the_same_model_with_an_inference_network():
    given_model = model()
    used = prepared(given_model)
    assert isinstance(used.network, InferenceNetwork)
    assert used.step_s == given_model.step_s and used.num_parameters == given_model.num_parameters
    assert used.network.vocabulary_size == 4 and used.network.cfg == given_model.network.cfg
    assert prepared(used).network is used.network, "once is enough"
    assert used.network.fingerprint() == prepared(given_model).network.fingerprint()
    with torch.no_grad():
        given_model.network.output.bias[1] += 0.1
    assert used.network.fingerprint() != prepared(given_model).network.fingerprint()


def test_it_keeps_the_weights_of_its_time():
    given_model, features = model(), utterances(20, bins=8)
    used = prepared(given_model)
    before = log_probs(used, features)[0]
    with torch.no_grad():
        given_model.network.output.weight.add_(1)
    given_model.network.train()
    np.testing.assert_array_equal(log_probs(used, features)[0], before)
    given_model.network.eval()
    again = log_probs(prepared(given_model, used.network.precision), features)[0]
    np.testing.assert_array_equal(again.argmax(1), log_probs(given_model, features)[0].argmax(1))


def test_another_network_is_used_as_it_is():
    given_model = model(ModelConfig(encoder="tdnn", conv=(), layers=2, hidden=8))
    assert prepared(given_model) is given_model


def test_a_processor_without_the_instructions_uses_what_it_can(monkeypatch):
    monkeypatch.setattr(fast_module, "features", lambda: frozenset({"avx2", "fma"}))
    given_model = model()
    assert prepared(given_model).network.precision == "fp32"
    with pytest.raises(ConfigError, match="no such products"):
        prepared(given_model, "bf16")
    monkeypatch.setattr(fast_module, "features", frozenset)
    assert prepared(given_model) is given_model
    with pytest.raises(ConfigError, match=r"unknown precision 'bf61' \(auto, fp32, bf16, fp16\); did you mean 'bf16'"):
        prepared(given_model, "bf61")


@pytest.mark.parametrize("precision", ["fp32", BF16])
@pytest.mark.parametrize(
    "part", ["output.weight", "layers.1.backward_direction.w_hidden_gh", "front_end.convs.0.weight"]
)
def test_a_broken_model_is_named(precision, part):
    broken = model()
    with torch.no_grad():
        broken.network.get_parameter(part).fill_(float("nan"))
    with pytest.raises(AsrError, match="not numbers"):
        log_probs(prepared(broken, precision), utterances(20, bins=8))


@pytest.mark.parametrize("precision", ["fp32", BF16])
def test_the_pipeline_gives_the_same_bits_whatever_its_windows(threads, precision, monkeypatch):
    used = prepared(model(), precision)
    features = utterances(*(7 * i % 61 for i in range(40)), bins=8)
    torch.set_num_threads(1)
    expected = [log_probs(used, [one_tf])[0] for one_tf in features]
    torch.set_num_threads(threads)
    for batch_s, ahead_s in ((80.0, 320.0), (1.0, 2.0), (0.01, 0.01)):
        monkeypatch.setattr("asr.infer.AHEAD_S", ahead_s)
        found = pipeline(used, enumerate(features), np.copy, batch_s=batch_s)
        for i, one_sv in found:
            np.testing.assert_array_equal(one_sv, expected[i])


@pytest.mark.slow
def test_a_processor_without_wide_vectors_gives_the_networks_answers(tmp_path):
    script = (
        "import numpy as np; from tests.test_fast import *; from asr.model.cpu.loops import WIDE; assert not WIDE\n"
        "for cfg in CONFIGS.values():\n"
        "    net, features = network(cfg), utterances(30, 3, 0, 12, 1, 70)\n"
        "    for mine, theirs in zip(inference_network(net, 'fp32').each(features), plain(net, features)):\n"
        "        np.testing.assert_allclose(mine, theirs, atol=2e-5)\n"
    )
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx,+sse4.2,+bmi,+bmi2",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
