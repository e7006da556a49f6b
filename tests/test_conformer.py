"""The Conformer: its papers' formulas, Hugging Face's Parakeet, and what training adds. (``tests/test_encoders.py``:
padding, steps, model folders.)

Axes: b batch, t frames, s steps, f bins, r rows, h units, v vocabulary.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr.config import ConformerConfig, ModelConfig, load
from asr.corpora.catalogue import recipes_folder
from asr.ctc import ctc_loss
from asr.model.build import build_network
from asr.model.conformer.attention import positions
from asr.model.conformer.network import ConformerNetwork
from asr.model.conformer.rows import Rows
from asr.model.contract import AcousticModel
from asr.model.cpu.by_channel import convolve_by_channel
from asr.model.cpu.dropout import Dropout
from asr.model.prepared import prepared
from asr.model.trainable import count
from asr.runtime import find_precision
from tests.reference import conformer as reference
from tests.test_model import CLOSE, gradients

BINS, VOCABULARY = 13, 5
LENGTHS = (41, 9, 24)
KINDS = pytest.mark.parametrize("kind", ["depthwise", "full"])


def build(dropout: float = 0.0, hidden: int = 8, layers: int = 3, **settings: object) -> ConformerNetwork:
    """A network whose weights are all of a size that matters."""
    torch.manual_seed(0)
    own = ConformerConfig(**{"subsampling": 4, "subsampling_channels": 4, "heads": 2, "kernel": 5, **settings})
    cfg = ModelConfig(encoder="conformer", hidden=hidden, layers=layers, dropout=dropout, conformer=own)
    network = ConformerNetwork(cfg, BINS, VOCABULARY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return network


def padded(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Shapes: -> (b, t, f), (b,)."""
    features_btf = torch.zeros(len(lengths), max(lengths), BINS)
    for i, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(length)
        features_btf[i, :length] = torch.randn(length, BINS, generator=generator)
    return features_btf, torch.tensor(lengths)


# Its formulas


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"subsampling": 8, "heads": 4, "kernel": 3, "scale_input": False},
        {"norm": "layer", "bias": False, "heads": 1},
        {"hidden": 9, "heads": 3},
        {"subsampling_kind": "full"},
        {"subsampling": 8, "subsampling_kind": "full"},
    ],
    ids=["4", "8", "layer norm", "odd width", "full", "full 8"],
)
def test_it_is_what_the_papers_say_gradients_included(settings):
    network = build(**settings).double().eval()
    features_btf, num_frames_b = padded()
    log_probs_bsv, num_steps_b = network(features_btf.double(), num_frames_b)
    own = {name: value.detach().requires_grad_() for name, value in network.named_parameters()}
    weights = own | dict(network.named_buffers())
    cfg = network.cfg.conformer
    expected = [
        reference.log_probs(weights, one_tf[:length].double(), cfg.heads, cfg.norm, cfg.scale_input)
        for one_tf, length in zip(features_btf, num_frames_b.tolist(), strict=True)
    ]
    for ours_sv, theirs_sv, steps in zip(log_probs_bsv, expected, num_steps_b.tolist(), strict=True):
        # the codes of distances are float32
        torch.testing.assert_close(ours_sv[:steps], theirs_sv, atol=1e-6, rtol=0)

    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in expected]
    sum((f * one).sum() for f, one in zip(factors, expected, strict=True)).backward()
    sum((f * one[: len(f)]).sum() for f, one in zip(factors, log_probs_bsv, strict=True)).backward()
    for name, parameter in network.named_parameters():
        theirs = own[name].grad
        torch.testing.assert_close(parameter.grad, theirs, atol=1e-6 * max(1, theirs.abs().max()), rtol=0, msg=name)


def test_distances_are_coded_from_the_largest_down():
    codes_ph = positions(4, 6, torch.device("cpu"))
    expected = torch.stack([reference.code(distance, 6) for distance in (3, 2, 1, 0, -1, -2, -3)])
    torch.testing.assert_close(codes_ph, expected.float())


@pytest.mark.parametrize("lengths", [(4, 4), (3, 0, 4)], ids=["full", "padded"])
def test_rows_are_the_valid_steps_in_order_and_go_back_to_their_places(lengths):
    x_bsh = torch.randn(len(lengths), 4, 2, dtype=torch.float64, requires_grad=True)
    rows = Rows(torch.tensor(lengths), 4, x_bsh.device)
    taken_rh = rows.taken(x_bsh)
    assert torch.equal(taken_rh, torch.cat([one[:n] for one, n in zip(x_bsh, lengths, strict=True)]))
    back_bsh = rows.padded(taken_rh)
    assert torch.equal(back_bsh, x_bsh * rows.inside_bs[:, :, None])
    assert torch.autograd.gradcheck(lambda x: rows.padded(rows.taken(x) ** 2), x_bsh)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(3, 3, 5, padding=2, groups=3),
        nn.Conv1d(3, 3, 3, padding=1, groups=3, bias=False),
        nn.Conv2d(3, 3, 3, 2, 1, groups=3),
        nn.Conv2d(3, 3, 3, 1, 1, groups=3),
    ],
    ids=["over time", "without bias", "halving", "image"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_convolution_by_channel_is_torchs_gradients_included(conv, dtype):
    torch.manual_seed(2)
    image = isinstance(conv, nn.Conv2d)
    ours, theirs = copy.deepcopy(conv).to(dtype), copy.deepcopy(conv).to(dtype).double()
    x = torch.randn(2, 7, 6 if image else 1, 3).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    out = convolve_by_channel(ours, x)
    expected = theirs(wide.permute(0, 3, 1, 2) if image else wide[:, :, 0].transpose(1, 2))
    expected = expected.permute(0, 2, 3, 1) if image else expected.transpose(1, 2)[:, :, None]
    grad = torch.randn(out.shape).to(dtype)
    out.backward(grad)
    expected.backward(grad.double())
    # bf16 rounds at 2^-8; up to 9 terms of a size of 1, or sums over 28 places
    close = {"atol": 0.1, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(out.double(), expected, **close)
    torch.testing.assert_close(x.grad.double(), wide.grad, **close)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad.dtype == dtype
        torch.testing.assert_close(one.grad.double(), other.grad, **close)


# What training adds


def test_layers_before_the_last_give_rows_of_their_own_behind_the_last_ones_in_training():
    network = build(inter_layers=(1, 2))
    shallow = build(layers=1)
    shallow.load_state_dict({k: v for k, v in network.state_dict().items() if k in shallow.state_dict()})
    batch = padded()
    alone_bsv, num_steps_b = network.eval()(*batch)
    assert len(alone_bsv) == 3
    for module in [*network.modules(), *shallow.modules()]:
        module.training = not isinstance(module, nn.BatchNorm1d)
    all_bsv, all_steps_b = network(*batch)
    assert all_steps_b.tolist() == 3 * num_steps_b.tolist()
    torch.testing.assert_close(all_bsv[:3], alone_bsv, **CLOSE)
    torch.testing.assert_close(all_bsv[3:6], shallow(*batch)[0], **CLOSE)
    assert not torch.allclose(all_bsv[6:], alone_bsv)


def test_with_self_conditioning_a_layer_sees_what_the_one_before_it_predicts_also_in_use():
    network = build(inter_layers=(1,), self_conditioning=True).eval()
    batch = padded((9,))
    assert not torch.allclose(network(*batch)[0], build(inter_layers=(1,)).eval()(*batch)[0])
    predicted_sv = _first_layers_prediction(network, batch).exp()
    seen = []
    network.encoder.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.encoder.layers[0].register_forward_hook(lambda _, __, out: seen.append(out))
    network(*batch)
    before_rh, after_rh = seen
    torch.testing.assert_close(after_rh, before_rh + network.conditioning(predicted_sv), **CLOSE)


def _first_layers_prediction(network: ConformerNetwork, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Shapes: -> (s, v)."""
    shallow = copy.deepcopy(network)
    shallow.encoder.layers = shallow.encoder.layers[:1]
    shallow.conditioning = None
    return shallow(*batch)[0][0]


def test_stochastic_depth_leaves_out_utterances_more_often_in_later_layers_and_keeps_the_mean():
    network = build(layer_drop=0.8, norm="layer", layers=2).train()
    features_btf, num_frames_b = padded((9,) * 4000)
    network.output = nn.Identity()
    inputs = []
    for layer in network.encoder.layers:
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    network.encoder.layers[1].register_forward_hook(lambda _, __, out: inputs.append(out))
    torch.manual_seed(3)
    with torch.no_grad():
        network(features_btf, num_frames_b)
    first_rh, second_rh, _ = (one.view(4000, 3, -1) for one in inputs)
    left_out_b = (first_rh == second_rh).flatten(1).all(1)
    # Layer 1 of 2 is left out with probability 0.4; five deviations of a share of 4000.
    assert abs(left_out_b.float().mean() - 0.4) < 5 * (0.24 / 4000) ** 0.5
    kept_rh = second_rh[~left_out_b]
    torch.testing.assert_close(kept_rh, kept_rh[:1].expand_as(kept_rh), **CLOSE)
    only_rh = build(layer_drop=0.0, norm="layer", layers=2).encoder.layers[0]
    rows = Rows(torch.tensor([3]), 3, first_rh.device)
    full_rh = only_rh(first_rh[0], positions(3, 8, first_rh.device), rows)
    mean_rh = 0.4 * first_rh[0] + 0.6 * kept_rh[0]
    torch.testing.assert_close(mean_rh, full_rh, **CLOSE)
    assert torch.equal(network.eval()(*padded((9,)))[0], network(*padded((9,)))[0]), "in use nothing is left out"


def test_dropout_acts_in_every_part_and_is_set_for_all():
    network = build(dropout=0.5)
    parts = [module for module in network.modules() if isinstance(module, Dropout)]
    # one in front; in a layer its own, attention's, and two in feed-forward parts
    assert len(parts) == 1 + 3 * 4
    network.set_dropout(0.25)
    assert all(one.p == 0.25 for one in parts)


def test_checkpointing_changes_no_bit_of_gradients_or_statistics_with_dropout_too():
    results = []
    for on in (False, True):
        network = build(dropout=0.3, layer_drop=0.3, inter_layers=(2,), self_conditioning=True).train()
        network.set_checkpointing(on)
        torch.manual_seed(5)
        network(*padded())[0][:, 0].sum().backward()
        results.append((gradients(network), list(network.buffers())))
    for plain, twice in zip(results[0][0] + results[0][1], results[1][0] + results[1][1], strict=True):
        assert torch.equal(plain, twice)


def test_bf16_gradients_are_close_to_float32s():
    wide, narrow = build(hidden=32, norm="layer").train(), build(hidden=32, norm="layer").train()
    batch = padded()
    wide(*batch)[0][:, 0, 1].sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs_bsv, _ = narrow(*batch)
    log_probs_bsv[:, 0, 1].sum().backward()
    for ours, theirs in zip(gradients(narrow), gradients(wide), strict=True):
        # products round at 2^-8, behind three layers
        assert (ours - theirs).norm() < 0.1 * theirs.norm() + 1e-3


# In use


@KINDS
def test_in_use_on_a_cpu_an_utterance_gets_the_same_bits_in_any_batch(kind):
    network = build(hidden=32, subsampling_kind=kind).eval()
    utterances = [one[:n].numpy() for one, n in zip(*padded((300, 41, 9, 0, 100)), strict=True)]
    for usable in (network, prepared(as_model(network)).network):
        alone = [usable.each([one])[0] for one in utterances]
        for one_sv, together_sv in zip(alone, usable.each(utterances), strict=True):
            assert np.array_equal(one_sv, together_sv)
        assert [len(one_sv) for one_sv in alone] == [75, 11, 3, 0, 25]


@KINDS
def test_in_use_on_a_cpu_that_multiplies_bf16_the_answers_are_close(kind):
    network = build(hidden=32, subsampling_kind=kind).eval()
    fast = prepared(as_model(network)).network
    if find_precision("auto", torch.device("cpu")) != "bf16":
        assert fast is network
        return
    utterance = padded((100,))[0][0].numpy()
    # products round at 2^-8, behind three layers
    np.testing.assert_allclose(fast.each([utterance])[0], network.each([utterance])[0], atol=0.1)
    assert prepared(as_model(network), "fp32").network is network
    assert fast.stride == network.stride and count(network) == fast.num_parameters


def as_model(network: ConformerNetwork) -> AcousticModel:
    rest = SimpleNamespace()
    return AcousticModel(network, rest, rest, rest, rest, {})


# Sizes


def parameters_of(recipe: str, name: str, vocabulary: int) -> int:
    cfg = load(recipes_folder() / recipe / "conf" / f"{name}.yaml").model
    with torch.device("meta"):
        return count(build_network(cfg, 80, vocabulary))


@pytest.mark.parametrize("recipe", ["an4", "speechocean762"])
def test_a_recipes_conformer_has_the_size_of_its_default_and_its_training(recipe):
    ours, default = parameters_of(recipe, "conformer", 28), parameters_of(recipe, "default", 28)
    assert abs(ours - default) < 0.03 * default
    folder = recipes_folder() / recipe / "conf"
    cfg, of_default = load(folder / "conformer.yaml"), load(folder / "default.yaml")
    assert f"{ours:,} parameters" in (folder / "conformer.yaml").read_text(encoding="utf-8")
    # The rate may be another: at the BiGRU's the one of speechocean762 does not learn.
    optim = cfg.optim.model_copy(update={"lr": of_default.optim.lr})
    assert cfg.model_copy(update={"model": of_default.model, "optim": optim}) == of_default


@pytest.mark.parametrize(("size", "vocabulary"), [("s", 256), ("m", 512), ("l", 1024)])
def test_the_readme_has_the_published_sizes_with_their_parameters(size, vocabulary):
    parameters = parameters_of("librispeech", f"conformer-{size}", vocabulary)
    readme = (recipes_folder() / "librispeech" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `conformer-{size}`"))
    assert f"| {parameters:,} |" in row and f"{vocabulary:,} tokens" in row
    config = recipes_folder() / "librispeech" / "conf" / f"conformer-{size}.yaml"
    assert f"--vocab-size {vocabulary}." in config.read_text(encoding="utf-8")


# Parakeet


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: it is the oracle here")


def parakeet(
    transformers, subsampling: int, kernel: int, scale: bool, bias: bool
) -> tuple[nn.Module, ConformerNetwork]:
    """A random Parakeet without dropout, and the same network here."""
    torch.manual_seed(6)
    encoder = transformers.ParakeetEncoderConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, conv_kernel_size=kernel,
        subsampling_factor=subsampling, subsampling_conv_channels=8, num_mel_bins=80, scale_input=scale,
        attention_bias=bias, convolution_bias=bias,
        dropout=0.0, layerdrop=0.0, activation_dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    cfg = transformers.ParakeetCTCConfig(
        vocab_size=29, pad_token_id=0, ctc_loss_reduction="sum", encoder_config=encoder
    )
    theirs = transformers.ParakeetForCTC(cfg)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
        for name, buffer in theirs.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    own = ConformerConfig(
        subsampling=subsampling, subsampling_channels=8, heads=4, feed_forward=2, kernel=kernel, scale_input=scale,
        bias=bias,
    )  # fmt: skip
    ours = ConformerNetwork(ModelConfig(encoder="conformer", hidden=32, layers=3, conformer=own), 80, 29)
    state = theirs.state_dict()
    state["output.weight"] = state.pop("ctc_head.weight").squeeze(-1)
    state["output.bias"] = state.pop("ctc_head.bias")
    ours.load_state_dict(state)
    return theirs, ours


SHAPES = pytest.mark.parametrize(
    ("subsampling", "kernel", "scale", "bias"), [(8, 9, True, True), (4, 5, False, False)], ids=["8", "4"]
)


@pytest.mark.slow
@SHAPES
def test_log_probs_are_parakeets_alone_and_padded(transformers, subsampling, kernel, scale, bias):
    theirs, ours = parakeet(transformers, subsampling, kernel, scale, bias)
    num_frames_b = torch.tensor([150, 97, 8, 1, 64])
    features_btf = torch.randn(5, 150, 80)
    inside_bt = torch.arange(150) < num_frames_b[:, None]
    features_btf = features_btf * inside_bt[:, :, None]
    with torch.no_grad():
        expected_bsv = theirs.eval()(features_btf, attention_mask=inside_bt).logits.log_softmax(-1)
        ours_bsv, num_steps_b = ours.eval()(features_btf, num_frames_b)
    for i, (frames, steps) in enumerate(zip(num_frames_b.tolist(), num_steps_b.tolist(), strict=True)):
        torch.testing.assert_close(ours_bsv[i, :steps], expected_bsv[i, :steps], atol=1e-5, rtol=0)
        alone_sv = ours.each([features_btf[i, :frames].numpy()])[0]
        with torch.no_grad():
            expected_sv = theirs(features_btf[i : i + 1, :frames]).logits.log_softmax(-1)[0]
        torch.testing.assert_close(torch.from_numpy(alone_sv), expected_sv, atol=1e-5, rtol=0)


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("lengths", [(120, 120, 120), (120, 97, 64)], ids=["full", "padded"])
def test_a_training_step_is_parakeets(transformers, subsampling, kernel, scale, bias, lengths):
    """Loss and every gradient. With padding, batch norms keep their running statistics: theirs would count padding."""
    theirs, ours = parakeet(transformers, subsampling, kernel, scale, bias)
    num_frames_b = torch.tensor(lengths)
    inside_bt = torch.arange(120) < num_frames_b[:, None]
    features_btf = torch.randn(3, 120, 80) * inside_bt[:, :, None]
    targets_bu, num_targets_b = torch.randint(1, 29, (3, 4)), torch.tensor([4, 3, 2])
    labels_bu = targets_bu.masked_fill(torch.arange(4) >= num_targets_b[:, None], -100)
    statistics = len(set(lengths)) == 1
    for network in (theirs.train(), ours.train()):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.train(statistics)

    loss = theirs(features_btf, attention_mask=inside_bt, labels=labels_bu).loss
    loss.backward()
    log_probs_bsv, num_steps_b = ours(features_btf, num_frames_b)
    own = ctc_loss(log_probs_bsv, num_steps_b, targets_bu, num_targets_b).sum()
    own.backward()
    torch.testing.assert_close(own, loss, rtol=1e-5, atol=0)
    expected = {name.replace("ctc_head", "output"): p.grad for name, p in theirs.named_parameters()}
    largest = max(grad.abs().max() for grad in expected.values())
    for name, parameter in ours.named_parameters():
        grad = expected[name].view_as(parameter)
        torch.testing.assert_close(parameter.grad, grad, atol=1e-5 * largest, rtol=1e-5, msg=name)
    if statistics:
        for (name, buffer), other in zip(ours.named_buffers(), theirs_buffers(theirs), strict=True):
            torch.testing.assert_close(buffer, other, msg=name)


def theirs_buffers(network: nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in network.named_buffers() if "norm" in name]
