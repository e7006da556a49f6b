"""The network: exact under padding, exact in its hand-written parts, and able to learn.

Axes: b batch, t frames, s steps, f bins, i inputs, h units, g gates, v vocabulary.
"""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asr.config import ConvConfig, ModelConfig
from asr.ctc import ctc_loss
from asr.data.tokenizer import CharTokenizer
from asr.decode.greedy import greedy
from asr.model.conv import ConvFrontEnd, step_mask
from asr.model.folded import strided
from asr.model.network import DeepSpeech2
from asr.model.norm import EPS, MOMENTUM
from asr.model.recurrent import GATES, Lookahead, RecurrentLayer, flip_within, reversal
from asr.model.trainable import describe
from tests.reference import recurrent_cells

BINS, VOCABULARY = 7, 5
CELLS = tuple(GATES)
CONV = (
    ConvConfig(channels=3, kernel_tf=(5, 3), stride_tf=(2, 2)),
    ConvConfig(channels=4, kernel_tf=(3, 3), stride_tf=(1, 1)),
)
#: the ways a stack can look along time
WAYS = {
    "sum": {"bidirectional": True, "merge": "sum"},
    "concat": {"bidirectional": True, "merge": "concat"},
    "forward": {"bidirectional": False},
    "lookahead": {"bidirectional": False, "lookahead_steps": 2},
}
# Float32, a few layers, products over other batch shapes: observed below 1e-6 on log-probabilities of size 2.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def build(cell: str = "gru", way: str = "sum", norm: bool = True, **settings: object) -> DeepSpeech2:
    torch.manual_seed(0)
    values = {"conv": CONV, "cell": cell, "layers": 2, "hidden": 6, "norm": norm, **WAYS[way], **settings}
    return DeepSpeech2(ModelConfig(**values), BINS, VOCABULARY)


def random_features(num_frames: int, seed: int = 0) -> Tensor:
    """Shapes: (t, f)."""
    return torch.randn(num_frames, BINS, generator=torch.Generator().manual_seed(1000 * seed + num_frames))


def padded(utterances: list[Tensor], extra: int = 0, garbage: float = 0.0) -> tuple[Tensor, Tensor]:
    """A batch with something in its padding. Shapes: b times (t, f) -> (b, t, f), (b,)."""
    num_frames_b = torch.tensor([len(u) for u in utterances])
    features_btf = torch.full((len(utterances), int(num_frames_b.max()) + extra, BINS), garbage)
    for i, one_tf in enumerate(utterances):
        features_btf[i, : len(one_tf)] = one_tf
    return features_btf, num_frames_b


def used(network: DeepSpeech2, passes: int = 3) -> DeepSpeech2:
    """The network after some passes in training mode, so that running statistics are not their first values."""
    network.train()
    with torch.no_grad():
        for seed in range(passes):
            network(*padded([2 * random_features(n, seed) + 1 for n in (9, 14, 20)]))
    return network


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters()]


def recurrent(layer: RecurrentLayer, x_bsi: Tensor, num_steps_b: Tensor) -> Tensor:
    """The layer's output, its padding cleared on the way in as the front-end does."""
    mask_bs = step_mask(num_steps_b, x_bsi.shape[1])
    return layer(x_bsi * mask_bs[:, :, None], mask_bs, reversal(num_steps_b, x_bsi.shape[1]))


variants = pytest.mark.parametrize(
    ("cell", "way", "norm"),
    [pytest.param(c, w, n, id=f"{c}-{w}{'-norm' if n else ''}") for c, w, n in itertools.product(CELLS, WAYS, (0, 1))],
)


# Promise 1: batch of one = batch of many = padded batch


@variants
def test_padding_and_neighbours_do_not_change_log_probs_in_eval(cell, way, norm):
    network = used(build(cell, way, bool(norm))).eval()
    utterances = [random_features(n) for n in (17, 1, 8, 2, 12)]
    with torch.no_grad():
        alone = [network(u[None], torch.tensor([len(u)])) for u in utterances]
        for extra, garbage in ((0, 0.0), (9, 1e3)):
            log_probs_bsv, num_steps_b = network(*padded(utterances, extra, garbage))
            for i, (alone_bsv, alone_steps_b) in enumerate(alone):
                steps = int(alone_steps_b[0])
                assert (
                    num_steps_b[i]
                    == steps
                    == alone_bsv.shape[1]
                    == int(network.num_steps(torch.tensor(len(utterances[i]))))
                )
                torch.testing.assert_close(log_probs_bsv[i, :steps], alone_bsv[0], **CLOSE)


@variants
def test_wider_padding_changes_neither_log_probs_nor_gradients_in_training(cell, way, norm):
    """With norm too: the batch's statistics are over valid steps only."""
    utterances = [random_features(n) for n in (17, 3, 8)]
    results = []
    for extra, garbage in ((0, 0.0), (9, 1e3)):
        network = build(cell, way, bool(norm)).train()
        log_probs_bsv, num_steps_b = network(*padded(utterances, extra, garbage))
        valid = [log_probs_bsv[i, :n] for i, n in enumerate(num_steps_b.tolist())]
        weights = torch.Generator().manual_seed(5)
        sum((one * torch.randn(one.shape, generator=weights)).sum() for one in valid).backward()
        results.append((torch.cat(valid).detach(), gradients(network), network.state_dict()))
    torch.testing.assert_close(results[0][0], results[1][0], **CLOSE)
    for ours, wider in zip(results[0][1], results[1][1], strict=True):
        # relative to the tensor's largest: a gradient is a sum over all steps, with cancellation
        torch.testing.assert_close(ours, wider, atol=1e-5 * max(1.0, ours.abs().max().item()), rtol=0)
    for name, running in results[0][2].items():
        torch.testing.assert_close(running, results[1][2][name], **CLOSE, msg=name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("way", WAYS)
def test_without_norm_neighbours_do_not_change_log_probs_or_gradients_in_training(cell, way):
    utterances = [random_features(n) for n in (11, 4, 7)]
    together, apart = build(cell, way, norm=False).train(), build(cell, way, norm=False).train()
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


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
@pytest.mark.parametrize("train", [False, True])
def test_padding_that_is_not_a_number_reaches_neither_log_probs_nor_gradients(garbage, train):
    network = build().train(train)
    log_probs_bsv, num_steps_b = network(*padded([random_features(12), random_features(6)], 3, garbage))
    valid_bs = step_mask(num_steps_b, log_probs_bsv.shape[1])
    log_probs_bsv[valid_bs][:, 0].sum().backward()
    assert log_probs_bsv[valid_bs].isfinite().all()
    assert all(g.isfinite().all() for g in gradients(network))


def test_the_order_in_a_batch_does_not_matter():
    network = used(build()).eval()
    utterances = [random_features(n) for n in (5, 12, 9)]
    with torch.no_grad():
        forward_bsv, _ = network(*padded(utterances))
        backward_bsv, _ = network(*padded(utterances[::-1]))
    torch.testing.assert_close(forward_bsv[2, :5], backward_bsv[0, :5], **CLOSE)


@pytest.mark.parametrize("cell", CELLS)
def test_training_and_eval_agree_where_there_is_neither_norm_nor_dropout(cell):
    """In training a GRU and a tanh layer take a path of their own."""
    network = build(cell, norm=False)
    batch = padded([random_features(12), random_features(6)])
    trained_bsv, num_steps_b = network.train()(*batch)
    used_bsv, _ = network.eval()(*batch)
    valid_bs = step_mask(num_steps_b, used_bsv.shape[1])
    torch.testing.assert_close(trained_bsv[valid_bs], used_bsv[valid_bs], **CLOSE)


# Shapes


def test_log_probs_sum_to_one_and_are_float32():
    network = used(build()).eval()
    log_probs_bsv, num_steps_b = network(*padded([random_features(12), random_features(6)]))
    assert log_probs_bsv.shape == (2, 6, VOCABULARY)
    assert log_probs_bsv.dtype == torch.float32
    assert num_steps_b.dtype == torch.int64
    torch.testing.assert_close(log_probs_bsv.exp().sum(-1), torch.ones(2, 6), atol=1e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs_bsv, _ = network(*padded([random_features(12)]))
    assert log_probs_bsv.dtype == torch.float32
    # also under bf16: the softmax itself is float32
    torch.testing.assert_close(log_probs_bsv.exp().sum(-1), torch.ones(1, 6), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "layers",
    [
        [((11, 3), (2, 1))],
        [((1, 1), (1, 1))],
        [((3, 3), (3, 1)), ((5, 3), (2, 1))],
        [((11, 3), (2, 1)), ((11, 3), (1, 1)), ((7, 3), (4, 1))],
        [((1, 3), (2, 1))],
        [((3, 1), (5, 2))],
    ],
)
def test_the_stride_formula_counts_the_steps(layers):
    conv = tuple(ConvConfig(channels=1, kernel_tf=k, stride_tf=s) for k, s in layers)
    front_end = ConvFrontEnd(conv, BINS, 20.0, norm=False)
    network = DeepSpeech2(ModelConfig(conv=conv, layers=1, hidden=2), BINS, 2)
    lengths = torch.arange(61)
    promised = front_end.num_steps(lengths).tolist()
    assert promised[0] == 0
    for frames in range(1, 61):
        x_bsi, num_steps_b = front_end(torch.ones(1, frames, BINS), torch.tensor([frames]))
        assert x_bsi.shape == (1, promised[frames], front_end.output_size)
        assert num_steps_b.tolist() == [promised[frames]] == network.num_steps(torch.tensor([frames])).tolist()


@given(st.integers(0, 400), st.integers(0, 20), st.integers(1, 8))
def test_a_same_padded_stride_gives_the_ceiling_of_the_quotient(length, half, stride):
    assert strided(length, 2 * half + 1, stride) == -(-length // stride)


def test_other_bins_than_the_models_are_refused():
    with pytest.raises(ValueError, match="features_btf has 9 bins, the model was built for 7"):
        build()(torch.zeros(1, 5, 9), torch.tensor([5]))


def test_no_frames_give_no_steps():
    network = used(build()).eval()
    assert network.num_steps(torch.tensor([0])).tolist() == [0]
    log_probs_bsv, num_steps_b = network(torch.zeros(2, 0, BINS), torch.tensor([0, 0]))
    assert log_probs_bsv.shape == (2, 0, VOCABULARY)
    assert num_steps_b.tolist() == [0, 0]
    log_probs_bsv, num_steps_b = network(*padded([random_features(0), random_features(9)]))
    assert num_steps_b.tolist() == [0, 5]
    torch.testing.assert_close(log_probs_bsv[1], network(*padded([random_features(9)]))[0][0], **CLOSE)


@variants
def test_describe_counts_every_parameter_once(cell, way, norm):
    network = build(cell, way, bool(norm))
    rows = describe(network)
    assert sum(count for _, _, count in rows) == sum(p.numel() for p in network.parameters())
    lookahead = ["lookahead"] if way == "lookahead" else []
    expected = ["conv 1", "conv 2", f"{cell} 1", f"{cell} 2", *lookahead, "output"]
    assert [part for part, _, _ in rows] == expected


# The front-end


def test_the_front_end_is_plain_torch_on_a_whole_batch():
    """Without padding: convolution, batch norm over (b, s, f), clipped ReLU; channels before bins in one step."""
    torch.manual_seed(0)
    front_end = ConvFrontEnd(CONV, BINS, 1.5, norm=True).train()
    x_bcsf = features_bcsf = torch.randn(3, 1, 20, BINS)
    for layer, conv, norm in zip(CONV, front_end.convs, front_end.norms, strict=True):
        padding = tuple(k // 2 for k in layer.kernel_tf)
        x_bcsf = F.conv2d(x_bcsf, conv.weight, None, layer.stride_tf, padding)
        x_bcsf = F.batch_norm(x_bcsf, None, None, norm.weight, norm.bias, training=True)
        x_bcsf = x_bcsf.clamp(0, 1.5)
    assert x_bcsf.max() == 1.5, "the clip is reached"
    assert all(conv.bias is None for conv in front_end.convs), "the norm's shift takes its place"
    expected_bsi = x_bcsf.permute(0, 2, 3, 1).flatten(2)
    ours_bsi, _ = front_end(features_bcsf[:, 0], torch.full((3,), 20))
    torch.testing.assert_close(ours_bsi, expected_bsi, **CLOSE)


def test_the_front_end_leaves_padding_zero():
    front_end = ConvFrontEnd(CONV, BINS, 20.0, norm=False)  # a bias, that would fill it
    x_bsi, num_steps_b = front_end(torch.ones(2, 20, BINS), torch.tensor([20, 9]))
    assert num_steps_b.tolist() == [10, 5]
    assert not x_bsi[1, 5:].any()
    assert x_bsi[1, :5].any()


def test_dropout_acts_in_training_only():
    network = build(norm=False, dropout=0.5)
    batch = padded([random_features(12)])
    torch.testing.assert_close(network.eval()(*batch)[0], network(*batch)[0], atol=0, rtol=0)
    network.train()
    assert not torch.equal(network(*batch)[0], network(*batch)[0])


# Recurrent layers


def native(layer: RecurrentLayer, dtype: torch.dtype) -> nn.RNNBase:
    """torch's own layer with the same weights."""
    kind = {"tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[layer.forward_direction.cell]
    own = layer.forward_direction
    twin = kind(own.w_input_gi.shape[1], own.hidden, bidirectional=layer.backward_direction is not None, dtype=dtype)
    for suffix, direction in (("", own), ("_reverse", layer.backward_direction)):
        if direction is None:
            continue
        second = direction.bias_hidden_g
        with torch.no_grad():
            getattr(twin, "weight_ih_l0" + suffix).copy_(direction.w_input_gi)
            getattr(twin, "weight_hh_l0" + suffix).copy_(direction.w_hidden_gh)
            getattr(twin, "bias_ih_l0" + suffix).copy_(direction.bias_g)
            getattr(twin, "bias_hh_l0" + suffix).copy_(torch.zeros_like(direction.bias_g) if second is None else second)
    return twin


def shaken(layer: RecurrentLayer) -> RecurrentLayer:
    """Biases that are not zero, so that a forgotten one shows."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype)
    return layer


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("merge", ["sum", "concat", None])
@pytest.mark.parametrize("train", [False, True])
def test_a_layer_is_torchs_own_on_packed_sequences_gradients_included(cell, merge, train):
    torch.manual_seed(1)
    layer = RecurrentLayer(cell, 5, 4, bidirectional=merge is not None, merge=merge or "sum", norm=False)
    layer = shaken(layer.double()).train(train)
    twin = native(layer, torch.float64)
    num_steps_b = torch.tensor([7, 1, 4])
    mask_bs = step_mask(num_steps_b, 7)
    ours_x = (torch.randn(3, 7, 5, dtype=torch.float64) * mask_bs[:, :, None]).requires_grad_()
    twin_x = ours_x.detach().clone().requires_grad_()

    ours_bsh = recurrent(layer, ours_x, num_steps_b)
    packed = nn.utils.rnn.pack_padded_sequence(twin_x, num_steps_b, batch_first=True, enforce_sorted=False)
    twin_bsh, _ = nn.utils.rnn.pad_packed_sequence(twin(packed)[0], batch_first=True)
    if merge == "sum":
        twin_bsh = twin_bsh[..., :4] + twin_bsh[..., 4:]
    assert layer.output_size == twin_bsh.shape[2]
    torch.testing.assert_close(ours_bsh, twin_bsh)

    weights = torch.randn(ours_bsh.shape, dtype=torch.float64)
    (ours_bsh * weights).sum().backward()
    (twin_bsh * weights).sum().backward()
    torch.testing.assert_close(ours_x.grad, twin_x.grad)
    for suffix, direction in (("", layer.forward_direction), ("_reverse", layer.backward_direction)):
        if direction is None:
            continue
        torch.testing.assert_close(direction.w_input_gi.grad, getattr(twin, "weight_ih_l0" + suffix).grad)
        torch.testing.assert_close(direction.w_hidden_gh.grad, getattr(twin, "weight_hh_l0" + suffix).grad)
        torch.testing.assert_close(direction.bias_g.grad, getattr(twin, "bias_ih_l0" + suffix).grad)
        if direction.bias_hidden_g is not None:
            torch.testing.assert_close(direction.bias_hidden_g.grad, getattr(twin, "bias_hh_l0" + suffix).grad)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", [False, True])
def test_training_gives_the_same_bits_every_time_and_the_same_result_on_any_number_of_threads(cell, norm):
    """On several threads the directions run at the same time."""
    results = []
    for threads in (1, 2, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            network = build(cell, "concat", norm).train()
            log_probs_bsv, num_steps_b = network(*padded([random_features(12), random_features(6)]))
            log_probs_bsv[step_mask(num_steps_b, 6)][:, 0].sum().backward()
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        results.append([log_probs_bsv.detach(), *gradients(network)])
    for one, two, again in zip(*results, strict=True):
        assert torch.equal(two, again)
        torch.testing.assert_close(one, two, atol=1e-5 * max(1.0, one.abs().max().item()), rtol=0)  # other sums


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_has_the_right_gradient(cell):
    """The walk back through time is empty here."""
    torch.manual_seed(3)
    layer = shaken(RecurrentLayer(cell, 3, 2, bidirectional=False, merge="sum", norm=False).double()).train()
    twin = native(layer, torch.float64)
    x_bsi = torch.randn(2, 1, 3, dtype=torch.float64)
    recurrent(layer, x_bsi, torch.tensor([1, 1])).sum().backward()
    twin(x_bsi.transpose(0, 1))[0].sum().backward()
    torch.testing.assert_close(layer.forward_direction.w_input_gi.grad, twin.weight_ih_l0.grad)
    torch.testing.assert_close(layer.forward_direction.bias_g.grad, twin.bias_ih_l0.grad)
    assert not layer.forward_direction.w_hidden_gh.grad.any(), "no state before the first step"


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_trains_where_its_input_needs_no_gradient(cell):
    layer = RecurrentLayer(cell, 3, 2, bidirectional=True, merge="sum", norm=False).train()
    for parameter in (layer.forward_direction.w_input_gi, layer.backward_direction.bias_g):
        parameter.requires_grad_(False)
    recurrent(layer, torch.randn(2, 4, 3), torch.tensor([4, 2])).sum().backward()
    assert layer.forward_direction.w_input_gi.grad is None
    assert layer.forward_direction.w_hidden_gh.grad.any()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_under_bf16_the_gradient_is_nearly_that_of_float32(cell, norm):
    torch.manual_seed(4)
    layer = RecurrentLayer(cell, 8, 16, bidirectional=True, merge="sum", norm=norm).train()
    twin = copy.deepcopy(layer)
    x_bsi, num_steps_b = torch.randn(4, 12, 8), torch.tensor([12, 9, 5, 1])
    weights = torch.randn(4, 12, 16)
    (recurrent(twin, x_bsi, num_steps_b) * weights).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        (recurrent(layer, x_bsi, num_steps_b) * weights).sum().backward()
    for ours, exact in zip(gradients(layer), gradients(twin), strict=True):
        assert ours.dtype == torch.float32
        # bf16 rounds at 2^-8, the errors of a dozen steps add up: 3 % of the gradient's norm
        assert (ours - exact).norm() < 0.03 * exact.norm()


def reference_layer(layer: RecurrentLayer, x_bsi: Tensor, num_steps_b: Tensor, *, training: bool) -> list[Tensor]:
    """The layer as its definition reads: BN(W x) over valid steps, then one step at a time; valid steps only."""
    valid = [x_bsi[i, :n] for i, n in enumerate(num_steps_b.tolist())]
    outs = []
    for direction in (layer.forward_direction, layer.backward_direction):
        inputs = valid if direction is layer.forward_direction else [one.flip(0) for one in valid]
        norm = direction.norm
        normalised_rg = F.batch_norm(
            torch.cat(inputs) @ direction.w_input_gi.T,
            norm.running_mean_g.clone(),
            norm.running_var_g.clone(),
            norm.weight_g,
            direction.bias_g,
            training=training,
            eps=EPS,
        )
        pieces = normalised_rg.split([len(one) for one in inputs])
        states = [
            recurrent_cells.run(direction.cell, one, direction.w_hidden_gh, direction.bias_hidden_g) for one in pieces
        ]
        outs.append(states if direction is layer.forward_direction else [one.flip(0) for one in states])
    return [torch.cat(both, dim=1) for both in zip(*outs, strict=True)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("train", [False, True])
def test_the_folded_norm_is_the_batch_norm_of_the_projection_gradients_included(cell, train):
    torch.manual_seed(5)
    layer = shaken(RecurrentLayer(cell, 5, 4, bidirectional=True, merge="concat", norm=True))
    for direction in (layer.forward_direction, layer.backward_direction):
        direction.norm.running_mean_g.normal_()
        direction.norm.running_var_g.uniform_(0.5, 2)
    twin = copy.deepcopy(layer)
    num_steps_b = torch.tensor([7, 2, 5])
    x_bsi = torch.randn(3, 7, 5) + 0.5
    expected = torch.cat(reference_layer(twin, x_bsi, num_steps_b, training=train))
    ours_bsh = recurrent(layer.train(train), x_bsi, num_steps_b)
    ours = torch.cat([ours_bsh[i, :n] for i, n in enumerate(num_steps_b.tolist())])
    torch.testing.assert_close(ours, expected, **CLOSE)
    weights = torch.randn(ours.shape)
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, parameter), one in zip(layer.named_parameters(), gradients(twin), strict=True):
        # float32 sums over all steps, with cancellation in the norm's backward: relative to the largest
        close = {"atol": 1e-4 * max(1.0, one.abs().max().item()), "rtol": 0}
        torch.testing.assert_close(parameter.grad, one, **close, msg=lambda m, name=name: f"{name}: {m}")


def test_running_statistics_follow_the_valid_steps():
    torch.manual_seed(6)
    layer = RecurrentLayer("tanh", 5, 4, bidirectional=False, merge="sum", norm=True).train()
    norm = layer.forward_direction.norm
    num_steps_b = torch.tensor([7, 2])
    x_bsi = torch.randn(2, 7, 5)
    projected_rg = torch.cat([x_bsi[0], x_bsi[1, :2]]) @ layer.forward_direction.w_input_gi.T
    recurrent(layer, x_bsi, num_steps_b)
    torch.testing.assert_close(norm.running_mean_g, MOMENTUM * projected_rg.mean(0), **CLOSE)
    torch.testing.assert_close(
        norm.running_var_g, 1 - MOMENTUM + MOMENTUM * projected_rg.var(0, unbiased=False), **CLOSE
    )
    before = norm.running_mean_g.clone()
    recurrent(layer.eval(), x_bsi, num_steps_b)
    assert torch.equal(norm.running_mean_g, before), "use changes nothing"


def test_a_projection_that_never_changes_is_normalised_to_the_bias():
    layer = RecurrentLayer("tanh", 3, 2, bidirectional=False, merge="sum", norm=True).train()
    with torch.no_grad():
        layer.forward_direction.bias_g.fill_(0.5)
        layer.forward_direction.w_hidden_gh.zero_()
    # 3e-2: the difference of equal float32 squares may miss 0 by 1e-7, which 1e-5 under the root makes large
    out_bsh = recurrent(layer, torch.ones(2, 4, 3), torch.tensor([4, 3]))
    torch.testing.assert_close(out_bsh[0], torch.full((4, 2), 0.5).tanh(), atol=3e-2, rtol=0)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 3))
def test_reversal_mirrors_each_utterance_within_its_own_length(lengths, extra):
    num_steps_b = torch.tensor(lengths)
    length = max(lengths) + extra
    x_bsi = torch.arange(float(len(lengths) * length)).view(len(lengths), length, 1)
    reversal_bs = reversal(num_steps_b, length)
    flipped_bsi = flip_within(x_bsi, reversal_bs)
    for i, steps in enumerate(lengths):
        assert torch.equal(flipped_bsi[i, :steps], x_bsi[i, :steps].flip(0))
        assert torch.equal(flipped_bsi[i, steps:], x_bsi[i, steps:])
    assert torch.equal(flip_within(flipped_bsi, reversal_bs), x_bsi)


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_weights_start_orthogonal_in_every_gate_and_the_forget_bias_at_1(cell):
    layer = RecurrentLayer(cell, 3, 5, bidirectional=True, merge="sum", norm=True)
    for direction in (layer.forward_direction, layer.backward_direction):
        blocks = direction.w_hidden_gh.split(5)
        assert len(blocks) == GATES[cell]
        for block_hh in blocks:
            torch.testing.assert_close(block_hh @ block_hh.T, torch.eye(5), atol=1e-5, rtol=0)
        expected = torch.zeros(GATES[cell], 5)
        if cell == "lstm":
            expected[1] = 1.0
        assert torch.equal(direction.bias_g.view(-1, 5), expected)
        assert direction.bias_hidden_g is None or not direction.bias_hidden_g.any()
    assert not torch.equal(layer.forward_direction.w_input_gi, layer.backward_direction.w_input_gi)


# What a step can see


def test_a_new_lookahead_gives_about_what_comes_in():
    torch.manual_seed(0)
    x_bsh = torch.randn(1, 50, 64)
    out_bsh = Lookahead(units=64, steps=3)(x_bsh)
    shift = [F.cosine_similarity(out_bsh[0, : 50 - n].flatten(), x_bsh[0, n:].flatten(), dim=0) for n in range(4)]
    assert shift[0] > 0.8 and max(shift[1:]) < 0.2


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("way", ["concat", "lookahead"])
def test_chunks_are_utterances_of_their_own_to_recurrent_layers_gradients_included(cell, way):
    network = build(cell, way, norm=False).train()
    lengths = [11, 4, 9]
    x_bsi = torch.randn(3, 11, network.front_end.output_size, generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths):
        x_bsi[row, length:] = 0

    network.chunk_steps = 4
    out_bsh, _ = network.encode(x_bsi, torch.tensor(lengths))
    out_bsh.square().sum().backward()
    in_chunks = gradients_of_layers(network)

    network.zero_grad()
    network.chunk_steps = 0
    lookahead, network.lookahead = network.lookahead, None
    expected_bsh = torch.zeros(3, 11, out_bsh.shape[2])
    for row, length in enumerate(lengths):
        for start in range(0, length, 4):
            chunk_1si = x_bsi[row : row + 1, start : min(start + 4, length)]
            out_1sh, _ = network.encode(chunk_1si, torch.tensor([chunk_1si.shape[1]]))
            expected_bsh[row, start : start + chunk_1si.shape[1]] = out_1sh[0]
    network.lookahead = lookahead
    if lookahead is not None:
        expected_bsh = lookahead(expected_bsh)
    torch.testing.assert_close(out_bsh, expected_bsh, **CLOSE)
    expected_bsh.square().sum().backward()
    for got, expected in zip(in_chunks, gradients_of_layers(network), strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def gradients_of_layers(network: DeepSpeech2) -> list[Tensor]:
    return gradients(network.layers) + ([] if network.lookahead is None else gradients(network.lookahead))


def test_chunks_are_cut_in_training_only_and_a_batch_without_a_step_passes():
    network = build(norm=False)
    network.chunk_steps = 2
    features = padded([random_features(n) for n in (24, 40)])
    in_chunks = network.train()(*features)[0]
    whole = network.eval()(*features)[0]
    network.chunk_steps = 0
    assert torch.equal(whole, network(*features)[0])
    assert not torch.allclose(whole, in_chunks, atol=1e-3)

    network.chunk_steps = 2
    log_probs_bsv, num_steps_b = network.train()(torch.zeros(1, 1, BINS), torch.zeros(1, dtype=torch.int64))
    assert log_probs_bsv.shape[0] == 1 and num_steps_b.tolist() == [0]


def test_lookahead_is_a_weighted_sum_of_the_next_steps():
    torch.manual_seed(0)
    lookahead = Lookahead(units=3, steps=2)
    x_bsh = torch.randn(1, 6, 3)
    padded_bsh = F.pad(x_bsh, (0, 0, 0, 2))
    expected = sum(lookahead.weight_h1k[:, 0, k] * padded_bsh[:, k : k + 6] for k in range(3))
    torch.testing.assert_close(lookahead(x_bsh), expected, **CLOSE)


def frames_seen(network: DeepSpeech2, step: int, num_frames: int) -> list[int]:
    """The frames whose change changes the log-probabilities of a step."""
    network.double()  # up to the softmax: rounding must not look like sight
    base_tf = random_features(num_frames).double()
    changed_btf = base_tf.repeat(num_frames, 1, 1)
    for frame in range(num_frames):
        changed_btf[frame, frame] += torch.linspace(3.0, -2.0, BINS)
    with torch.no_grad():
        base_bsv, _ = network(base_tf[None], torch.tensor([num_frames]))
        changed_bsv, _ = network(changed_btf, torch.full((num_frames,), num_frames))
    moved_b = (changed_bsv[:, step] - base_bsv[0, step]).abs().amax(1) / base_bsv[0, step].abs().max()
    # Log-probabilities are float32, so rounding is 1e-7; what a change moves through this network is far more.
    assert not ((moved_b > 1e-6) & (moved_b < 1e-5)).any(), moved_b
    return torch.nonzero(moved_b > 1e-6).flatten().tolist()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_one_direction_sees_exactly_its_lookahead_and_the_convolutions_reach(cell, lookahead, norm):
    network = used(build(cell, "forward", norm, lookahead_steps=lookahead)).eval()
    step, num_frames = 4, 30
    # Second convolution: kernel 3, stride 1, so one step to each side; first: kernel 5, stride 2, so two frames.
    last = 2 * (step + lookahead + 1) + 2
    seen = frames_seen(network, step, num_frames)
    assert max(seen) == last
    assert last < num_frames - 1


@pytest.mark.parametrize("cell", CELLS)
def test_two_directions_see_the_whole_utterance(cell):
    network = used(build(cell, "sum")).eval()
    seen = frames_seen(network, 2, 14)
    assert (min(seen), max(seen)) == (0, 13)


# Learning


@pytest.mark.parametrize(("cell", "way"), [("gru", "sum"), ("lstm", "concat"), ("tanh", "lookahead")])
def test_a_tiny_model_learns_two_utterances_by_heart(cell, way):
    network = build(cell, way, hidden=16, layers=1).train()
    tokenizer = CharTokenizer.from_texts(["abcd"])
    texts = ["abba", "dc"]
    batch = padded([random_features(40), random_features(25)])
    targets = [tokenizer.encode(t) for t in texts]
    targets_bu = torch.tensor([t + [0] * (4 - len(t)) for t in targets])
    num_targets_b = torch.tensor([len(t) for t in targets])
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
