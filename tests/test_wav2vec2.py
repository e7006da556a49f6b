"""wav2vec 2.0 and its kin in training: the gradients of ``transformers``, exact under padding, masks, layers left out.

The fast part has stored what ``transformers`` computed (make_hf_folders.py); the slow part runs it.

Axes: b batch, n samples, s steps, f bins, v vocabulary, h units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.batch import empty_batch
from asr.config import ModelConfig
from asr.config.networks import Wav2Vec2Config
from asr.ctc import ctc_loss
from asr.errors import ConfigError
from asr.features.samples import NORMALIZE_EPS
from asr.model.build import build_network
from asr.model.hf.config import read_config
from asr.model.hf.weights import file_name, read_weights
from asr.model.trainable import describe
from asr.model.wav2vec2 import body
from asr.model.wav2vec2.fast import FastNetwork
from asr.model.wav2vec2.masks import draw_spans
from asr.model.wav2vec2.network import Wav2Vec2Network
from asr.model.wav2vec2.transformer import Layer
from tests.make_hf_folders import FOLDER, SHORT, TARGETS, spread, step

NAMES = ("base", "large", "hubert", "wavlm", "mms")
#: log-probabilities and losses: sums of float32 in another order
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
#: gradients, as a share of the largest of a weight; the samples are float32, each normalised in its own way
SHARES = {torch.float64: 1e-5, torch.float32: 1e-3}
DISTURBED = {"attention_dropout": 0.1, "activation_dropout": 0.1, "layer_drop": 0.3}
MASKED = {"mask_time_probability": 0.1, "mask_time_steps": 3, "mask_channel_probability": 0.1, "mask_channel_width": 2}


def network_of(folder: Path, dropout: float = 0.0, **settings: Any) -> Wav2Vec2Network:
    """A stored network, as one to be trained. Its tokens are the columns of the head with the blank in front."""
    config = read_config(folder)
    tensors = read_weights(folder, config)
    cfg = Wav2Vec2Config(shape=config.shape, **settings)
    network = build_network(
        ModelConfig(encoder="wav2vec2", wav2vec2=cfg, dropout=dropout), 1, len(tensors["lm_head.bias"])
    )
    assert isinstance(network, Wav2Vec2Network)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("body.")}
    columns = columns_of(folder, network.vocabulary_size)
    own |= {f"output.{kind}": tensors[f"lm_head.{kind}"][columns] for kind in ("weight", "bias")}
    network.load_state_dict(own)
    return network.train()


def doubled(network: Wav2Vec2Network) -> Wav2Vec2Network:
    """The network in float64 up to its log-probabilities, which are float32 otherwise."""
    network.double()
    network.answers = lambda values_bsh: network.output(values_bsh).log_softmax(-1)
    return network


def columns_of(folder: Path, outputs: int) -> list[int]:
    blank = json.loads((folder / "config.json").read_text())["pad_token_id"]
    return [blank, *(column for column in range(outputs) if column != blank)]


def waves_of(folder: Path, *lengths: int) -> list[Tensor]:
    """The stored wave's beginnings, as the model takes them."""
    wave_n = torch.from_numpy(np.load(FOLDER / "wave.npy"))
    waves = [wave_n[:length] for length in lengths]
    if not read_config(folder).normalize:
        return waves
    return [torch.nn.functional.layer_norm(one, one.shape, eps=NORMALIZE_EPS) for one in waves]


def batch_of(waves: list[Tensor], padding: float = 0.0, extra: int = 0) -> tuple[Tensor, Tensor]:
    waves_bn = pad_sequence(waves, batch_first=True, padding_value=padding)
    waves_bn = torch.nn.functional.pad(waves_bn, (0, extra), value=padding)
    return waves_bn[:, :, None], torch.tensor([len(one) for one in waves])


def losses(network: Wav2Vec2Network, waves: list[Tensor], targets: Any, padding: float = 0.0, extra: int = 0) -> Tensor:
    log_probs_bsv, num_steps_b = network(*batch_of(waves, padding, extra))
    targets_bu = pad_sequence([torch.tensor(one) for one in targets], batch_first=True)
    num_targets_b = torch.tensor([len(one) for one in targets])
    if log_probs_bsv.dtype == torch.float64:
        return torch.nn.functional.ctc_loss(
            log_probs_bsv.transpose(0, 1), targets_bu, num_steps_b, num_targets_b, reduction="none"
        )
    return ctc_loss(log_probs_bsv, num_steps_b, targets_bu, num_targets_b)


def gradients(network: Wav2Vec2Network, loss: Tensor) -> dict[str, Tensor]:
    """The gradients of every weight; the network is left without any."""
    loss.backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    return found


def assert_step_is(folder: Path, theirs: dict[str, Tensor], their_loss: float, ours: dict[str, Tensor], loss: Tensor):
    family = read_config(folder).family
    columns = columns_of(folder, len(ours["output.bias"]))
    assert loss.item() == pytest.approx(their_loss, abs=1e-5, rel=1e-6)
    for name, gradient in ours.items():
        if name.startswith("output."):
            expected = theirs.pop(name.replace("output.", "lm_head."))[columns]
        else:
            # without masks there is a gradient of nothing here, and none there
            expected = theirs.pop(file_name(name, family), torch.zeros_like(gradient))
        assert_same(name, gradient, expected)
    assert not theirs


def assert_same(name: str, gradient: Tensor, expected: Tensor) -> None:
    # at least: gradients of 0, such as those of the keys' bias, which moves all scores of a step alike
    allowed = SHARES[gradient.dtype] * max(float(expected.abs().max()), 0.1)
    difference = float((gradient - expected).abs().max())
    assert difference < allowed, f"{name}: {difference} > {allowed}"


# Beside transformers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", SHARES, ids=str)
def test_the_loss_and_every_gradient_of_a_step_are_those_of_transformers(name, dtype):
    folder = FOLDER / name
    theirs = load_file(FOLDER / f"{name}_step.safetensors")
    their_loss = float(theirs.pop("loss"))
    network = network_of(folder)
    if dtype == torch.float64:
        doubled(network)
    columns = columns_of(folder, network.vocabulary_size)
    targets = [[columns.index(column) for column in one] for one in TARGETS]
    loss = losses(network, [one.to(dtype) for one in waves_of(folder, 6400, SHORT)], targets).sum()
    assert_step_is(folder, theirs, their_loss, gradients(network, loss), loss)


_MIDDLE = {
    "vocab_size": 40,
    "pad_token_id": 0,
    "num_hidden_layers": 3,
    "hidden_size": 96,
    "num_attention_heads": 6,
    "intermediate_size": 200,
    "conv_dim": (48,) * 7,
}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SHAPES = {
    "wav2vec2, group norm": ("Wav2Vec2", _MIDDLE),
    "wav2vec2, layer norm": ("Wav2Vec2", _MIDDLE | _STABLE),
    "wav2vec2, layer norm behind": ("Wav2Vec2", _MIDDLE | {"feat_extract_norm": "layer"}),
    "wav2vec2, adapters": ("Wav2Vec2", _MIDDLE | _STABLE | {"adapter_attn_dim": 16}),
    "hubert, group norm": ("Hubert", _MIDDLE),
    "hubert, no norm before the projection": ("Hubert", _MIDDLE | _STABLE | {"feat_proj_layer_norm": False}),
    "wavlm, group norm": ("WavLM", _MIDDLE),
    "wavlm, layer norm": ("WavLM", _MIDDLE | _STABLE),
}


@pytest.mark.slow
@pytest.mark.parametrize("is_masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_step_of_a_larger_network_is_that_of_transformers(tmp_path, monkeypatch, name, is_masked):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is the oracle here")
    family, settings = SHAPES[name]
    network = getattr(transformers, f"{family}ForCTC")(getattr(transformers, f"{family}Config")(**settings))
    spread(network, 0).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)

    lengths = (6400, SHORT, 5000)
    targets = [*TARGETS, [30, 12, 39, 12]]
    masked_bs = torch.rand(3, 19, generator=torch.Generator().manual_seed(0)) < 0.3 if is_masked else None
    waves = [np.load(FOLDER / "wave.npy")[:length] for length in lengths]
    theirs, their_loss = step(tmp_path, waves, targets, masked_bs)

    ours = doubled(network_of(tmp_path))
    if masked_bs is not None:
        monkeypatch.setattr(body, "draw_spans", lambda *_: masked_bs)
    loss = losses(ours, [one.double() for one in waves_of(tmp_path, *lengths)], targets).sum()
    assert_step_is(tmp_path, theirs, their_loss, gradients(ours, loss), loss)


# Exact under padding


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [0.0, 1e3, float("nan")])
def test_a_padded_batch_has_the_losses_and_gradients_of_its_utterances_alone(name, padding):
    network = doubled(network_of(FOLDER / name))
    waves = [one.double() for one in waves_of(FOLDER / name, 6400, 2300, SHORT)]
    targets = [[3, 4, 4], [2], [6, 5]]
    alone = [losses(network, [one], [target]) for one, target in zip(waves, targets, strict=True)]
    expected = gradients(network, torch.cat(alone).sum())
    for extra in (0, 700):
        together_b = losses(network, waves, targets, padding, extra)
        torch.testing.assert_close(together_b, torch.cat(alone), **CLOSE)
        for key, gradient in gradients(network, together_b.sum()).items():
            assert_same(key, gradient, expected[key])


def test_utterances_too_short_for_a_step_disturb_nobody():
    network = network_of(FOLDER / "base")
    long_n, tiny_n, none_n = waves_of(FOLDER / "base", 6400, 399, 0)
    with torch.no_grad():
        alone_bsv, _ = network.eval()(*batch_of([long_n]))
        log_probs_bsv, num_steps_b = network(*batch_of([tiny_n, long_n, none_n]))
        assert num_steps_b.tolist() == [0, 19, 0]
        torch.testing.assert_close(log_probs_bsv[1], alone_bsv[0], **CLOSE)
        assert network(*batch_of([tiny_n]))[1].tolist() == [0]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_utterances_still_has_a_gradient_of_each_weight(name):
    network = network_of(FOLDER / name, **DISTURBED, **MASKED)
    batch = empty_batch(1)
    log_probs_bsv, _ = network(batch.features_btf, batch.num_frames_b)
    assert all(not gradient.any() for gradient in gradients(network, log_probs_bsv.sum() * 0.0).values())


# What training draws


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.floats(0, 0.4), st.integers(1, 12), st.integers(0, 2))
def test_spans_have_their_length_and_lie_inside_their_utterance(lengths, probability, length, least):
    torch.manual_seed(0)
    masked_bp = draw_spans(torch.tensor(lengths), max(lengths), probability, length, least)
    for masked_p, own in zip(masked_bp, lengths, strict=True):
        assert not masked_p[own:].any()
        runs = "".join("x" if one else " " for one in masked_p.tolist()).split()
        assert all(len(run) >= length for run in runs)
        assert bool(runs) >= (least > 0 and own >= length)


def test_the_probability_is_that_of_a_place_to_begin_a_span():
    torch.manual_seed(0)
    masked_bp = draw_spans(torch.full((400,), 500), 500, 0.065, 10)
    # Baevski et al. 2020, section 4.2: p = 0.065 and 10 steps mask about 49 % of all steps, as spans overlap.
    assert float(masked_bp.float().mean()) == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_drawn_in_use(name):
    plain, disturbed = network_of(FOLDER / name), network_of(FOLDER / name, 0.2, **DISTURBED, **MASKED)
    waves = batch_of(waves_of(FOLDER / name, 6400, SHORT))
    with torch.no_grad():
        assert torch.equal(plain.eval()(*waves)[0], disturbed.eval()(*waves)[0])
        assert not torch.equal(plain.train()(*waves)[0], disturbed.train()(*waves)[0])


@pytest.mark.parametrize("settings", [{"dropout": 0.3}, *({key: 0.3} for key in DISTURBED), MASKED], ids=str)
def test_each_setting_disturbs_training_and_the_same_seed_disturbs_it_alike(settings):
    network = network_of(FOLDER / "large", **settings)
    waves = batch_of(waves_of(FOLDER / "large", 6400))
    drawn = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        drawn.append(network(*waves)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not (torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[0], drawn[3]))


@pytest.mark.parametrize("name", ["base", "wavlm"])
def test_layers_are_left_out_at_their_probability_and_keep_a_gradient_of_zero(name, monkeypatch):
    network = network_of(FOLDER / name, layer_drop=0.3)
    ran = []
    monkeypatch.setattr(Layer, "forward", lambda self, values_bsh, *_: ran.append(self) or values_bsh)
    waves = batch_of(waves_of(FOLDER / name, 400))
    for _ in range(150):
        network(*waves)
    assert len(ran) / 300 == pytest.approx(0.7, abs=0.08)
    monkeypatch.undo()

    monkeypatch.setattr(torch, "rand", lambda *_: torch.zeros(()))  # below any probability
    found = gradients(network, losses(network, waves_of(FOLDER / name, 6400), [[3, 4]]).sum())
    inside = [gradient for key, gradient in found.items() if key.startswith("body.encoder.layers.")]
    assert inside and not any(gradient.any() for gradient in inside)
    assert found["output.weight"].any() and found["body.feature_projection.projection.weight"].any()


@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_layers_have_the_gradients_of_those_that_are_kept(name):
    network = network_of(FOLDER / name, 0.2, **DISTURBED, **MASKED)
    waves = waves_of(FOLDER / name, 6400, SHORT)
    found = []
    for is_on in (False, True):
        network.set_checkpointing(is_on)
        torch.manual_seed(5)
        found.append(gradients(network, losses(network, waves, [[3, 4], [2]]).sum()))
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_in_bf16_the_gradients_point_the_same_way(name):
    network = network_of(FOLDER / name, **MASKED)
    waves = waves_of(FOLDER / name, 6400, SHORT)
    found = []
    for is_half in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            losses_b = losses(network, waves, [[3, 4], [2]])
        assert losses_b.dtype == torch.float32
        found.append(torch.cat([gradient.flatten() for gradient in gradients(network, losses_b.sum()).values()]))
    # eight bits of each of thousands of products in a row, in networks of 16 units
    assert float(torch.nn.functional.cosine_similarity(*found, dim=0)) > 0.98


def test_a_frozen_layer_has_no_gradient_though_it_is_left_out(monkeypatch):
    network = network_of(FOLDER / "base", layer_drop=0.5)
    network.body.requires_grad_(False)
    monkeypatch.setattr(torch, "rand", lambda *_: torch.zeros(()))
    losses(network, waves_of(FOLDER / "base", 6400), [[3, 4]]).sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == {"output.weight", "output.bias"}


# As a network of ours


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_use_on_a_cpu_an_utterance_gets_the_same_bits_in_any_batch(name, precision):
    network = network_of(FOLDER / name).eval()
    if precision == "bf16":
        network = FastNetwork(network)
    features = [wave_n[:, None].numpy() for wave_n in waves_of(FOLDER / name, 6400, SHORT, 100)]
    alone = [network.each([one])[0] for one in features]
    for got, expected in zip(network.each(features[::-1]), alone[::-1], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_its_parts_are_listed_with_all_their_parameters():
    network = network_of(FOLDER / "mms")
    rows = describe(network)
    assert sum(parameters for _, _, parameters in rows) == sum(p.numel() for p in network.parameters())
    assert [part for part, _, _ in rows][-5:] == ["projection", "position", "transformer 1", "transformer 2", "output"]


def test_a_config_that_lacks_what_it_needs_is_refused_in_one_line():
    shape = read_config(FOLDER / "base").shape
    with pytest.raises(ConfigError, match=r"^model.wav2vec2.shape is missing: start from a model that has one"):
        build_network(ModelConfig(encoder="wav2vec2"), 1, 30)
    with pytest.raises(ConfigError, match=r"^encoder: wav2vec2 takes samples, got 80 .*: set features.kind=wave$"):
        build_network(ModelConfig(encoder="wav2vec2", wav2vec2=Wav2Vec2Config(shape=shape)), 80, 30)
