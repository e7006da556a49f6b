"""What follows the front-end: every kind of encoder, exact under padding, and usable wherever a model is.

Axes: b batch, t frames, s steps, f bins, r rows, k taps, i inputs, h units.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from asr.config import ConformerConfig, ConvConfig, MlpConfig, ModelConfig, TdnnConfig, load, override, parse
from asr.corpora.catalogue import recipes_folder
from asr.ctc import ctc_loss
from asr.data.tokenizer import CharTokenizer
from asr.decode.greedy import greedy
from asr.doctor.expected import of_config, of_model
from asr.errors import ConfigError
from asr.info import describe as describe_thing
from asr.model.build import build_network
from asr.model.checkpoint import build_model, load_model, model_tensors, save_model
from asr.model.conformer.network import ConformerNetwork
from asr.model.conv import ConvFrontEnd, step_mask
from asr.model.mlp import WindowMlp
from asr.model.network import DeepSpeech2, Network
from asr.model.norm import EPS, MOMENTUM
from asr.model.recurrent import Lookahead, RecurrentLayer
from asr.model.tdnn import TimeDelayNetwork, WindowLayer, taps
from asr.model.trainable import describe
from asr.train import resume, train
from tests.builders import ALPHABET, build_corpus, tiny_config
from tests.test_model import BINS, CLOSE, CONV, VOCABULARY, frames_seen, gradients, padded, random_features, used

TDNN = {"encoder": "tdnn", "layers": 3}
MLP = {"encoder": "mlp", "layers": 3}
CONFORMER = {"encoder": "conformer", "layers": 3, "conv": ()}
ENCODERS: dict[str, dict[str, object]] = {
    "tdnn": {**TDNN, "conv": (), "tdnn": TdnnConfig(kernels=(5, 3), dilations=(1, 2), stride=2)},
    "tdnn-residual": {
        **TDNN,
        "conv": (),
        "tdnn": TdnnConfig(kernels=(3,), dilations=(2, 1), stride=3),
        "residual": True,
    },
    "tdnn-conv": {**TDNN, "tdnn": TdnnConfig(kernels=(1, 3), dilations=(1, 3))},
    "mlp": {**MLP, "conv": (), "mlp": MlpConfig(context=3, stride=3)},
    "mlp-residual": {**MLP, "conv": (), "mlp": MlpConfig(context=0, stride=2), "residual": True},
    "mlp-conv": {**MLP, "mlp": MlpConfig(context=2)},
    "gru-residual": {"layers": 3, "residual": True},
    "tanh-residual": {"cell": "tanh", "layers": 3, "residual": True, "bidirectional": False, "lookahead_steps": 2},
    "lstm-residual": {"cell": "lstm", "layers": 3, "residual": True, "merge": "concat"},
    "conformer": {**CONFORMER, "conformer": ConformerConfig(subsampling=4, subsampling_channels=4, heads=2)},
    "conformer-8": {
        **CONFORMER,
        "conformer": ConformerConfig(subsampling_channels=4, heads=2, kernel=3, bias=False, scale_input=False),
    },
    "conformer-full": {
        **CONFORMER,
        "conformer": ConformerConfig(subsampling=4, subsampling_channels=4, subsampling_kind="full", heads=2),
    },
}
WINDOWED = tuple(name for name, settings in ENCODERS.items() if settings.get("encoder") in ("tdnn", "mlp"))
STRIDES = {
    "tdnn": 2,
    "tdnn-residual": 3,
    "mlp": 3,
    "mlp-residual": 2,
    "conformer": 4,
    "conformer-8": 8,
    "conformer-full": 4,
}
LENGTHS = (17, 1, 8, 2, 12)


def build(name: str, norm: bool = True, **changes: object) -> Network:
    torch.manual_seed(0)
    values = {"conv": CONV, "hidden": 6, "norm": norm, **ENCODERS[name], **changes}
    if values.get("encoder") == "conformer" and not norm:
        values["conformer"] = values["conformer"].model_copy(update={"norm": "layer"})
    return build_network(ModelConfig(**values), BINS, VOCABULARY)


every = pytest.mark.parametrize("name", ENCODERS)
with_and_without_norm = pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])


# Exact under padding


@every
@with_and_without_norm
@pytest.mark.parametrize("garbage", [1e3, float("nan")])
def test_padding_and_neighbours_do_not_change_log_probs_in_use(name, norm, garbage):
    network = used(build(name, norm)).eval()
    utterances = [random_features(n) for n in LENGTHS]
    with torch.no_grad():
        alone = [network(u[None], torch.tensor([len(u)]))[0][0] for u in utterances]
        for extra in (0, 9):
            log_probs_bsv, num_steps_b = network(*padded(utterances, extra, garbage))
            for one_sv, log_probs_sv, steps in zip(alone, log_probs_bsv, num_steps_b.tolist(), strict=True):
                assert len(one_sv) == steps
                torch.testing.assert_close(log_probs_sv[:steps], one_sv, **CLOSE)


@every
@with_and_without_norm
@pytest.mark.parametrize("garbage", [1e3, float("inf")])
def test_wider_padding_changes_neither_log_probs_nor_gradients_nor_statistics_in_training(name, norm, garbage):
    utterances = [random_features(n) for n in (17, 3, 8)]
    results = []
    for extra, value in ((0, 0.0), (9, garbage)):
        network = build(name, norm).train()
        log_probs_bsv, num_steps_b = network(*padded(utterances, extra, value))
        valid = [log_probs_bsv[i, :n] for i, n in enumerate(num_steps_b.tolist())]
        weights = torch.Generator().manual_seed(5)
        sum((one * torch.randn(one.shape, generator=weights)).sum() for one in valid).backward()
        results.append((torch.cat(valid).detach(), gradients(network), network.state_dict()))
    torch.testing.assert_close(results[0][0], results[1][0], **CLOSE)
    # Relative to the largest: a gradient is a sum over all steps, with cancellation; that of a bias in front of a batch
    # norm is 0, of large numbers.
    largest = max(one.abs().max().item() for one in results[0][1])
    for ours, wider in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, wider, atol=1e-5 * max(1.0, largest), rtol=0)
    for key, running in results[0][2].items():
        torch.testing.assert_close(running, results[1][2][key], **CLOSE, msg=key)


@every
def test_without_norm_neighbours_change_neither_log_probs_nor_gradients_in_training(name):
    utterances = [random_features(n) for n in (11, 4, 7)]
    together, apart = build(name, norm=False).train(), build(name, norm=False).train()
    log_probs_bsv, num_steps_b = together(*padded(utterances, 5, -50.0))
    total = torch.zeros(())
    for i, steps in enumerate(num_steps_b.tolist()):
        alone_bsv, _ = apart(utterances[i][None], torch.tensor([len(utterances[i])]))
        torch.testing.assert_close(log_probs_bsv[i, :steps], alone_bsv[0], **CLOSE)
        alone_bsv[0, :, i].sum().backward()
        total = total + log_probs_bsv[i, :steps, i].sum()
    total.backward()
    for ours, alone in zip(gradients(together), gradients(apart), strict=True):
        torch.testing.assert_close(ours, alone, atol=1e-5 * max(1.0, alone.abs().max().item()), rtol=0)


@every
def test_the_gradient_reaches_every_parameter(name):
    network = build(name, hidden=12).train()
    log_probs_bsv, num_steps_b = network(*padded([random_features(n) for n in (40, 31)]))
    log_probs_bsv[step_mask(num_steps_b, log_probs_bsv.shape[1])][:, 0].sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


@every
def test_a_batch_of_a_single_step_trains(name):
    """Statistics of one row have variance 0 with the usual formula, and are not a number with the unbiased one."""
    network = build(name).train()
    log_probs_bsv, num_steps_b = network(random_features(1)[None], torch.tensor([1]))
    log_probs_bsv.sum().backward()
    assert num_steps_b.tolist() == [1]
    assert all(one.isfinite().all() for one in gradients(network))
    # The convolutions' norm is torch's own.
    running = [v for k, v in network.state_dict().items() if "running" in k and not k.startswith("front_end")]
    assert all(one.isfinite().all() for one in running)


@every
def test_bf16_training_is_close_to_float32(name):
    batch = padded([random_features(n) for n in (17, 3, 8)])
    narrow, wide = build(name, hidden=16).train(), build(name, hidden=16).train()
    wide_bsv, num_steps_b = wide(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        narrow_bsv, _ = narrow(*batch)
    assert narrow_bsv.dtype == torch.float32
    valid_bs = step_mask(num_steps_b, wide_bsv.shape[1])
    # bf16 rounds at 2^-8; log-probabilities of size 2 behind a few layers
    torch.testing.assert_close(narrow_bsv[valid_bs], wide_bsv[valid_bs], atol=0.1, rtol=0)
    narrow_bsv[valid_bs][:, 0].sum().backward()
    assert all(one.dtype == torch.float32 and one.isfinite().all() for one in gradients(narrow))


# Steps


@every
def test_the_step_formula_counts_the_steps_that_come_out(name):
    network = build(name).eval()
    stride = STRIDES.get(name, 2)
    assert network.stride == stride
    lengths = torch.arange(31)
    promised = network.num_steps(lengths).tolist()
    assert promised == [-(-n // stride) for n in range(31)]
    with torch.no_grad():
        for frames in range(31):
            log_probs_bsv, num_steps_b = network(torch.ones(1, frames, BINS), torch.tensor([frames]))
            assert log_probs_bsv.shape == (1, promised[frames], VOCABULARY)
            assert num_steps_b.tolist() == [promised[frames]]


@every
def test_an_empty_utterance_among_others_has_no_steps_and_changes_none(name):
    network = used(build(name)).eval()
    log_probs_bsv, num_steps_b = network(*padded([random_features(0), random_features(9)]))
    alone_bsv, alone_steps_b = network(*padded([random_features(9)]))
    assert num_steps_b.tolist() == [0, alone_steps_b.item()]
    torch.testing.assert_close(log_probs_bsv[1], alone_bsv[0], **CLOSE)


def test_other_bins_than_the_models_are_refused():
    for name in WINDOWED:
        with pytest.raises(ValueError, match="features_btf has 9 bins, the model was built for 7"):
            build(name)(torch.zeros(1, 5, 9), torch.tensor([5]))


@every
def test_a_process_of_a_run_may_have_nothing_to_do_while_others_have(name):
    network = build(name).train()
    for module in network.modules():
        if hasattr(module, "reduce"):
            module.reduce = lambda vector: vector + 1.0  # what the others have
    log_probs_bsv, num_steps_b = network(torch.zeros(1, 1, BINS), torch.tensor([0]))
    (0.0 * log_probs_bsv).sum().backward()
    assert num_steps_b.tolist() == [0]
    assert all(one.isfinite().all() for one in gradients(network))
    assert all(value.isfinite().all() for value in network.state_dict().values())


# The layer of windows


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))
def test_taps_are_the_window_around_each_strided_step_within_the_utterance(lengths, half, dilation, stride):
    taps_rk, num_windows_b = taps(torch.tensor(lengths), 2 * half + 1, dilation, stride)
    expected, first, outside = [], 0, sum(lengths)
    for length in lengths:
        for middle in range(0, length, stride):
            at = [middle + dilation * k for k in range(-half, half + 1)]
            expected.append([first + one if 0 <= one < length else outside for one in at])
        first += length
    assert taps_rk.reshape(-1, 2 * half + 1).tolist() == expected
    assert num_windows_b.tolist() == [len(range(0, length, stride)) for length in lengths]


@pytest.mark.parametrize(
    ("kernel", "dilation", "stride"), [(1, 1, 1), (3, 1, 1), (5, 2, 1), (3, 3, 2), (1, 1, 4), (7, 1, 4)]
)
@with_and_without_norm
def test_a_layer_is_torchs_convolution_batch_norm_and_clipped_relu_gradients_included(kernel, dilation, stride, norm):
    torch.manual_seed(1)
    layer = (
        WindowLayer(5, 4, norm=norm, relu_clip=1.5, kernel=kernel, dilation=dilation, stride=stride).double().train()
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
    twin = copy.deepcopy(layer)
    lengths = (9, 1, 6)
    ours_x = torch.randn(sum(lengths), 5, dtype=torch.float64, requires_grad=True)
    twin_x = ours_x.detach().clone().requires_grad_()
    ours_rh, num_b = layer(ours_x, torch.tensor(lengths))
    w_hik = twin.w_hki.transpose(1, 2)
    pieces = []
    for one_si in twin_x.split(lengths):
        bias = None if norm else twin.bias_h
        padding = dilation * (kernel // 2)
        pieces.append(F.conv1d(one_si.T[None], w_hik, bias, stride, padding, dilation)[0].T)
    assert num_b.tolist() == [len(one) for one in pieces]
    twin_rh = torch.cat(pieces)
    if norm:
        mean_h, var_h = twin_rh.detach().mean(0), twin_rh.detach().var(0, unbiased=False)
        twin_rh = F.batch_norm(twin_rh, None, None, twin.norm.weight_g, twin.bias_h, training=True, eps=EPS)
        torch.testing.assert_close(layer.norm.running_mean_g, MOMENTUM * mean_h)
        torch.testing.assert_close(layer.norm.running_var_g, 1 - MOMENTUM + MOMENTUM * var_h)
    twin_rh = twin_rh.clamp(0, 1.5)
    assert (twin_rh == 1.5).any() and (twin_rh == 0).any()
    torch.testing.assert_close(ours_rh, twin_rh)
    weights = torch.randn(ours_rh.shape, dtype=torch.float64)
    (ours_rh * weights).sum().backward()
    (twin_rh * weights).sum().backward()
    torch.testing.assert_close(ours_x.grad, twin_x.grad)
    for (key, ours), theirs in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=key)


def test_in_use_the_norm_is_that_of_the_running_statistics():
    torch.manual_seed(2)
    layer = WindowLayer(5, 4, norm=True, relu_clip=20.0, kernel=3).double().eval()
    layer.norm.running_mean_g.normal_()
    layer.norm.running_var_g.uniform_(0.5, 2)
    rows_ri = torch.randn(8, 5, dtype=torch.float64)
    before = copy.deepcopy(layer.state_dict())
    ours_rh, _ = layer(rows_ri, torch.tensor([8]))
    projected = F.conv1d(rows_ri.T[None], layer.w_hki.transpose(1, 2), padding=1)
    norm = layer.norm
    expected = F.batch_norm(projected, norm.running_mean_g, norm.running_var_g, norm.weight_g, layer.bias_h, eps=EPS)
    torch.testing.assert_close(ours_rh, expected[0].T.clamp(0, 20))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items()), "use changes nothing"


@with_and_without_norm
def test_a_time_delay_network_sees_exactly_its_kernels_reach(norm):
    # first layer: 5 taps, stride 2; then 3 taps two and then two steps apart: 2 + 2 * (2 + 2) frames to each side
    network = used(build("tdnn", norm, hidden=24)).eval()
    seen = frames_seen(network, 10, 50)
    assert (min(seen), max(seen)) == (20 - 10, 20 + 10)


@with_and_without_norm
def test_a_feed_forward_network_sees_exactly_its_window(norm):
    network = used(build("mlp", norm, hidden=24)).eval()
    assert frames_seen(network, 5, 40) == list(range(15 - 3, 15 + 3 + 1))


def test_the_last_kernel_and_dilation_hold_for_all_layers_after():
    network = build("tdnn", layers=5)
    assert isinstance(network, TimeDelayNetwork)
    assert [(one.kernel, one.dilation, one.stride) for one in network.layers] == [
        (5, 1, 2),
        (3, 2, 1),
        (3, 2, 1),
        (3, 2, 1),
        (3, 2, 1),
    ]


def test_a_feed_forward_network_is_linear_layers_over_stacked_frames():
    network = build("mlp", norm=False).eval()
    one_tf = random_features(10)
    around_tf = F.pad(one_tf, (0, 0, 3, 3))
    rows = torch.stack([around_tf[t : t + 7].flatten() for t in range(0, 10, 3)])
    for layer in network.layers:
        rows = F.linear(rows, layer.w_hki.flatten(1), layer.bias_h).clamp(0, 20)
    expected = network.output(rows).log_softmax(-1)
    torch.testing.assert_close(network(one_tf[None], torch.tensor([10]))[0][0], expected, **CLOSE)


# Residual connections and dropout


@pytest.mark.parametrize("name", [name for name in ENCODERS if name.endswith("residual")])
def test_a_residual_layer_that_gives_nothing_passes_its_input_on_untouched_by_dropout(name):
    network = build(name, norm=False, dropout=0.5).train()
    with torch.no_grad():
        for layer in network.layers[1:]:
            for parameter in layer.parameters():
                parameter.zero_()
    shallow = copy.deepcopy(network)
    shallow.layers = shallow.layers[:1]
    batch = padded([random_features(12)])
    torch.manual_seed(7)
    deep_bsh, _ = network.encode(*network.front_end(*batch)) if network.cfg.conv else network.encode(*batch)
    torch.manual_seed(7)
    shallow_bsh, _ = shallow.encode(*shallow.front_end(*batch)) if shallow.cfg.conv else shallow.encode(*batch)
    assert torch.equal(deep_bsh, shallow_bsh)
    assert deep_bsh.any()


@pytest.mark.parametrize("name", [name for name in ENCODERS if name.endswith("residual")])
def test_without_residual_connections_the_same_weights_give_something_else(name):
    with_them, without = build(name).eval(), build(name, residual=False).eval()
    without.load_state_dict(with_them.state_dict())
    batch = padded([random_features(12)])
    assert not torch.allclose(with_them(*batch)[0], without(*batch)[0])


@every
def test_dropout_can_be_set_at_any_time_and_acts_in_training_only(name):
    network = build(name, norm=False)
    batch = padded([random_features(12)])
    plain = network.eval()(*batch)[0]
    torch.testing.assert_close(network.train()(*batch)[0], plain, **CLOSE)
    network.set_dropout(0.5)
    assert not torch.allclose(network(*batch)[0], plain)
    assert torch.equal(network.eval()(*batch)[0], plain)
    network.train().set_dropout(0.0)
    torch.testing.assert_close(network(*batch)[0], plain, **CLOSE)


# Old and new configs


def test_configs_from_before_encoders_give_the_network_of_before_and_its_weights():
    """The names, and with a seed the values: a run that was begun before goes on, and one begun anew ends the same."""
    old = {
        "conv": [{"channels": 3, "kernel_tf": [5, 3], "stride_tf": [2, 2]}],
        "relu_clip": 20.0,
        "cell": "gru",
        "layers": 2,
        "hidden": 6,
        "bidirectional": False,
        "merge": "sum",
        "lookahead_steps": 3,
        "norm": True,
        "dropout": 0.2,
    }
    cfg = parse(ModelConfig, old, "config.json")
    assert cfg.encoder == "recurrent" and not cfg.residual
    torch.manual_seed(4)
    network = build_network(cfg, BINS, VOCABULARY)
    assert type(network) is DeepSpeech2
    torch.manual_seed(4)
    front_end = ConvFrontEnd([ConvConfig(channels=3, kernel_tf=(5, 3))], BINS, 20.0, norm=True)
    options = {"bidirectional": False, "merge": "sum", "norm": True}
    layers = nn.ModuleList([RecurrentLayer("gru", 12, 6, **options), RecurrentLayer("gru", 6, 6, **options)])
    lookahead, output = Lookahead(6, 3), nn.Linear(6, VOCABULARY)
    nn.init.xavier_uniform_(output.weight)
    nn.init.zeros_(output.bias)
    parts = {"front_end": front_end, "layers": layers, "lookahead": lookahead, "output": output}
    expected = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    ours = network.state_dict()
    assert list(ours) == list(expected)  # in order, too: the optimiser counts parameters
    assert all(torch.equal(ours[key], value) for key, value in expected.items())
    assert set(expected) >= {"layers.0.forward_direction.w_input_gi", "lookahead.weight_h1k", "output.weight"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder": "cnn"}, "encoder: expected one of recurrent, tdnn, mlp, conformer, wav2vec2, got 'cnn'"),
        ({"encoder": "tdnn", "lookahead_steps": 3}, "lookahead_steps needs encoder: recurrent, not tdnn"),
        ({"encoder": "conformer", "conv": [{}]}, "encoder: conformer has convolutions of its own: leave out conv"),
        ({"encoder": "conformer", "hidden": 90}, "hidden 90 is no multiple of conformer.heads 4"),
        ({"encoder": "conformer", "conformer": {"self_conditioning": True}}, "needs conformer.inter_layers"),
        ({"tdnn": {"stride": 2}}, "tdnn is set, but the encoder is recurrent: set encoder: tdnn, or leave it out"),
        ({"encoder": "tdnn", "mlp": {"context": 2}}, "mlp is set, but the encoder is tdnn"),
        ({"encoder": "tdnn", "tdnn": {"kernels": [4]}}, "tdnn.kernels: needs odd numbers from 1 to 99, got [4]"),
        ({"encoder": "tdnn", "tdnn": {"kernels": []}}, "tdnn.kernels: needs odd numbers"),
        ({"encoder": "tdnn", "tdnn": {"dilations": [0]}}, "tdnn.dilations.0: expected a number of at least 1, got 0"),
        ({"encoder": "tdnn", "layers": 2, "tdnn": {"kernels": [3, 3, 3]}}, "tdnn.kernels has 3 values for 2 layers"),
        ({"encoder": "tdnn", "tdnn": {"strid": 2}}, "tdnn: unknown key 'strid'"),
        ({"encoder": "mlp", "mlp": {"context": -1}}, "mlp.context"),
        ({"encoder": "mlp", "mlp": {"stride": 0}}, "mlp.stride"),
    ],
)
def test_what_does_not_go_together_is_one_line_that_names_it(given, message):
    with pytest.raises(ConfigError) as caught:
        parse(ModelConfig, given, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shallow_network_needs_no_lists_of_its_own():
    assert parse(ModelConfig, {"encoder": "tdnn", "layers": 1}, "here").tdnn == TdnnConfig()


@every
def test_describe_counts_every_parameter_once(name):
    network = build(name)
    rows = describe(network)
    assert sum(number for _, _, number in rows) == sum(p.numel() for p in network.parameters())
    convs = ["conv 1", "conv 2"] if network.cfg.conv else []
    kind = network.cfg.cell if network.cfg.encoder == "recurrent" else network.cfg.encoder
    tail = ["lookahead", "output"] if network.cfg.lookahead_steps else ["output"]
    convs = ["subsampling"] if kind == "conformer" else convs
    assert [part for part, _, _ in rows] == [*convs, f"{kind} 1", f"{kind} 2", f"{kind} 3", *tail]
    residual = [shape.endswith(", residual") for part, shape, _ in rows if part.startswith(kind)]
    assert residual == [False, network.cfg.residual, network.cfg.residual]


def test_the_kinds_of_network():
    kinds = {type(build(name)) for name in ENCODERS}
    assert kinds == {DeepSpeech2, TimeDelayNetwork, WindowMlp, ConformerNetwork}


# Wherever a model is used


TINY = {
    "tdnn": ["model.encoder=tdnn", "model.tdnn={kernels: [5, 3], stride: 2}", "model.conv=[]", "model.layers=2"],
    "mlp": ["model.encoder=mlp", "model.mlp={context: 4, stride: 2}", "model.conv=[]", "model.layers=2"],
    "residual": ["model.layers=2", "model.residual=true"],
    "conformer": [
        "model.encoder=conformer",
        "model.conv=[]",
        "model.layers=2",
        "model.conformer={subsampling: 4, subsampling_channels: 8, inter_layers: [1], self_conditioning: true}",
    ],
}


@pytest.mark.parametrize("name", TINY)
def test_training_validation_resuming_and_starting_from_work(name, tmp_path):
    build_corpus(tmp_path / "data", 8, seed=1, longest=6)
    build_corpus(tmp_path / "data", 3, seed=2, name="dev", longest=6)
    cfg = tiny_config(*TINY[name], "batch.workers=0")
    whole = train(cfg, tmp_path / "data", tmp_path / "whole")
    assert whole.progress.done and whole.progress.epoch_losses_nats[1] < whole.progress.epoch_losses_nats[0]
    # A checkpoint of this network fits the network of its config.yaml; there is nothing left to train.
    assert resume(tmp_path / "whole").progress.step == whole.progress.step
    model = load_model(tmp_path / "whole")
    step_s = 0.01 * model.network.stride
    assert model.step_s == pytest.approx(step_s)
    assert step_s == (0.04 if name == "conformer" else 0.02)
    again = train(override(cfg, [f"train.init={tmp_path / 'whole'}"]), tmp_path / "data", tmp_path / "again")
    assert again.progress.epoch_losses_nats[0] < whole.progress.epoch_losses_nats[0]
    kind, facts = describe_thing(str(tmp_path / "whole"))
    assert kind == "model" and facts["step"] == f"{1000 * step_s:.0f} ms"


@pytest.mark.parametrize("name", TINY)
def test_a_model_folder_gives_the_same_log_probs_and_the_doctor_knows_its_steps(name, tmp_path):
    cfg = tiny_config(*TINY[name])
    torch.manual_seed(1)
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(sorted(ALPHABET))))
    save_model(tmp_path / "m", model, model_tensors(model), None)
    loaded = load_model(tmp_path / "m")
    features_btf, num_frames_b = torch.randn(2, 30, 16), torch.tensor([30, 21])
    ours, theirs = model.network.eval()(features_btf, num_frames_b), loaded.network(features_btf, num_frames_b)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    num_samples = np.arange(0, 20_000, 37)
    expected = model.network.num_steps(torch.from_numpy(model.extractor.num_frames(num_samples))).numpy()
    assert (of_model(tmp_path / "m").num_steps(num_samples) == expected).all()
    assert (of_config(cfg, tmp_path).num_steps(num_samples) == expected).all()
    written = json.loads((tmp_path / "m" / "config.json").read_text())["model"]
    assert written["encoder"] == cfg.model.encoder and written["residual"] == cfg.model.residual


CONFIGS = sorted(recipes_folder().glob("an4/conf/encoder-*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_compared_configs_have_one_size_and_one_step(path):
    cfg = load(path).model
    network = build_network(cfg, 80, 28)
    parameters = sum(p.numel() for p in network.parameters())
    assert abs(parameters - 5_619_004) < 0.01 * 5_619_004, "of an4/default"
    assert f"\n# {parameters:,} parameters" in path.read_text(encoding="utf-8")
    assert network.stride == 4


def test_the_compared_configs_differ_in_the_model_only():
    assert len(CONFIGS) == 11
    default = load(recipes_folder() / "an4" / "conf" / "default.yaml")
    for path in CONFIGS:
        cfg = load(path)
        assert cfg.model_copy(update={"model": default.model}) == default, path.name
        less = path.stem.removeprefix("encoder-") in ("tanh", "tanh-bi", "tdnn", "tdnn-plain", "mlp")
        assert cfg.model.dropout == (0.1 if less else default.model.dropout), path.name
        assert cfg.model.norm == default.model.norm
    assert load(recipes_folder() / "an4" / "conf" / "encoder-gru-bi.yaml") == default


@pytest.mark.parametrize("name", ["tdnn", "mlp-conv"])
def test_a_tiny_model_learns_two_utterances_by_heart(name):
    network = build(name, hidden=32).train()
    tokenizer = CharTokenizer.from_texts(["abcd"])
    texts = ["abba", "dc"]
    batch = padded([random_features(40), random_features(25)])
    targets = [tokenizer.encode(text) for text in texts]
    targets_bu = torch.tensor([one + [0] * (4 - len(one)) for one in targets])
    num_targets_b = torch.tensor([len(one) for one in targets])
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    losses = []
    for _ in range(150):
        log_probs_bsv, num_steps_b = network(*batch)
        loss = ctc_loss(log_probs_bsv, num_steps_b, targets_bu, num_targets_b).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 5, "it starts by knowing nothing"
    assert losses[-1] < 0.1, "probability above 0.9 of the right text"
    with torch.no_grad():
        log_probs_bsv, num_steps_b = network.eval()(*batch)
    decoded = [greedy(log_probs_bsv[i, :n].numpy(), tokenizer).text for i, n in enumerate(num_steps_b.tolist())]
    assert decoded == texts, "with running statistics too"
