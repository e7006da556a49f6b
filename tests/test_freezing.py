"""Parts of a network that are not trained, or at another learning rate, or drawn to where they began."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from asr.batch import Batch
from asr.config import ModelConfig, OptimConfig, RunConfig
from asr.errors import CheckpointError, ConfigError
from asr.model.build import build_network
from asr.model.checkpoint import load_model
from asr.model.trainable import TrainableNetwork
from asr.runtime import Machine
from asr.train import resume, train
from asr.training.freezing import Freezing, by_parameter
from asr.training.gradients import gradients
from asr.training.optim import PullToStart, build_optimizer, learning_rate, set_learning_rate
from asr.training.trial import build_trial, endless_batches
from tests.builders import build_corpus, tiny_config

SMALL = {"conv": [{"channels": 3, "kernel_tf": [5, 5], "stride_tf": [2, 2]}], "layers": 2, "hidden": 6}
CPU = Machine(torch.device("cpu"), "fp32", 1)
#: of 12 steps: the convolution from the fifth on, the encoder never
FROZEN = ("train.freeze={front_end: 4, layers.0: null}", "train.epochs=3")
OTHERS = ("train.ema_decay=0.5", "optim.decay_towards=start", "optim.weight_decay=0.5", "optim.lr_scales={output: 3}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 16, seed=1, longest=6)
    build_corpus(folder, 4, seed=2, name="dev", longest=6)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_config(*FROZEN, *OTHERS), data, run)
    return run


def test_decay_towards_a_random_start_is_warned_of(data, tmp_path, caplog):
    train(tiny_config("optim.decay_towards=start", "train.max_steps=1"), data, tmp_path / "run")
    assert "train.init names no model: weights are pulled to random ones" in caplog.text


def _network(**more: Any) -> TrainableNetwork:
    torch.manual_seed(0)
    return build_network(ModelConfig.model_validate({**SMALL, **more}), 8, 5).train()


def _batch() -> Batch:
    torch.manual_seed(1)
    lengths = torch.tensor([30, 21])
    features_btf = torch.randn(2, 30, 8) * (torch.arange(30)[None] < lengths[:, None])[:, :, None]
    return Batch(features_btf, lengths, torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]), ("a", "b"), 1.0)


def _state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "checkpoints").glob("step-????????")) / "state.safetensors")


CONFORMER = {
    "encoder": "conformer",
    "conv": [],
    "hidden": 8,
    "conformer": {"heads": 2, "subsampling_channels": 4, "inter_layers": [1], "self_conditioning": True},
}
KINDS = [
    {},
    {"cell": "lstm"},
    {"bidirectional": False},
    {"encoder": "tdnn"},
    {"encoder": "mlp"},
    {"norm": False},
    CONFORMER,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_part_computes_as_in_use_and_keeps_nothing_for_gradients(kind):
    network, used = _network(**kind), _network(**kind)
    parts = ("front_end", "layers.0")
    if kind is CONFORMER:
        parts = ("encoder.subsampling", "encoder.layers.0")
    inside = tuple(f"{part}." for part in parts)
    for one in (network, used):
        for name, buffer in one.named_buffers():
            if buffer.is_floating_point():
                torch.manual_seed(len(name))
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Freezing(network, dict.fromkeys(parts)).apply(0)

    seen: dict[str, torch.Tensor] = {}
    for name in parts:
        for which, one in (("frozen", network), ("used", used)):
            hook = lambda module, args, out, key=f"{name} {which}": seen.update({key: out})  # noqa: E731
            one.get_submodule(name).register_forward_hook(hook)
    gradients(network, _batch(), 2, CPU)
    used.eval()(_batch().features_btf, _batch().num_frames_b)

    for name in parts:
        frozen, in_use = (seen[f"{name} {which}"] for which in ("frozen", "used"))
        if isinstance(frozen, tuple):
            frozen, in_use = frozen[0], in_use[0]
        assert not frozen.requires_grad
        assert torch.allclose(frozen, in_use, atol=1e-5), name  # sums in another order
    for name, parameter in network.named_parameters():
        is_frozen = name.startswith(inside)
        assert (parameter.grad is None) == is_frozen == (not parameter.requires_grad), name
    for name, value in network.state_dict().items():
        if name.startswith(inside):
            assert torch.equal(value, before[name]), name


def test_the_part_with_the_longest_name_counts_and_a_name_ends_at_a_dot():
    network = nn.ModuleDict({"a": nn.ModuleList(nn.Linear(1, 1) for _ in range(11)), "b": nn.Linear(1, 1)})
    found = by_parameter([name for name, _ in network.named_parameters()], {"a": 1, "a.1": 2, "a.1.bias": 3}, "key")
    assert found["a.0.weight"] == found["a.10.weight"] == 1
    assert (found["a.1.weight"], found["a.1.bias"]) == (2, 3) and "b.bias" not in found


def test_a_part_that_is_not_there_is_named_with_the_nearest_one():
    message = (
        r"^train.freeze: no part of the network is named 'layer.1'; did you mean 'layers.1'\? \(parts: front_end, "
    )
    with pytest.raises(ConfigError, match=message):
        Freezing(_network(), {"layer.1": None})
    with pytest.raises(ConfigError, match=r"^optim.lr_scales: no part of the network is named 'head' \(parts: front_"):
        build_optimizer(_network(), OptimConfig(lr_scales={"head": 2.0}))


def test_a_network_frozen_whole_is_one_line(data, tmp_path):
    everything = "train.freeze={front_end: 5, layers: null, output: 9}"
    with pytest.raises(ConfigError, match=r"^train.freeze leaves nothing to train in the first step$"):
        train(tiny_config(everything), data, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_is_never_trained_takes_no_memory_of_the_optimiser(data):
    learner = build_trial(tiny_config("train.freeze={front_end: 4, layers: null}"), data)
    size = {name: p.nbytes for name, p in learner.model.network.named_parameters()}
    trained = sum(size[name] for name in size if not name.startswith("layers."))
    assert learner.planner.optimizer_bytes == 2 * trained and learner.planner.weight_bytes == trained


def test_the_log_says_how_much_is_frozen_and_how_long(uninterrupted):
    sizes = {name: p.numel() for name, p in load_model(uninterrupted / "best").network.named_parameters()}
    front, layer = (sum(n for name, n in sizes.items() if name.startswith(part)) for part in ("front_end", "layers.0"))
    said = f"frozen parameters: {front:,} in the first 4 steps, {layer:,} in all steps"
    assert (uninterrupted / "train.log").read_text().count(said) == 1
    assert not Freezing(_network(), {}).summary()


def test_a_part_that_thaws_behind_the_last_step_is_a_warning(data, tmp_path, caplog):
    settings = ("train.freeze={front_end: 3, layers.0: 2}", "train.epochs=1", "train.max_steps=3")
    train(tiny_config(*settings), data, tmp_path / "run")
    (said,) = [line for line in caplog.messages if "never trained" in line]
    assert said.startswith("train.freeze: front_end is frozen for 3 steps, and this run has 3, so it is never trained")


def test_a_part_is_trained_from_its_step_on(data):
    learner = build_trial(tiny_config("train.freeze={front_end: 2, layers: null}", "model.norm=false"), data)
    weights = dict(learner.model.network.named_parameters())
    before = {name: value.detach().clone() for name, value in weights.items()}
    batches = endless_batches(learner)
    for number in range(4):
        learner.step(next(batches), number, 0.01).result()
        changed = {name.partition(".")[0] for name, value in weights.items() if not torch.equal(value, before[name])}
        assert changed == ({"output"} if number < 2 else {"output", "front_end"}), number
    batches.close()
    assert {id(p) for p in learner.optimizer.state} == {id(p) for n, p in weights.items() if not n.startswith("layers")}


@pytest.mark.parametrize("step", [4, 5, 6])
def test_a_run_that_is_resumed_around_the_step_that_thaws_a_part_is_the_same(data, uninterrupted, tmp_path, step):
    class Stopped(Exception):
        pass

    def stop(values: dict[str, float]) -> None:
        if values.get("step") == step:
            raise Stopped

    settings = (*FROZEN, *OTHERS, "train.checkpoint_every_s=1e-9")
    with pytest.raises(Stopped):
        train(tiny_config(*settings), data, tmp_path / "run", stop)
    saved = _state(tmp_path / "run")
    assert ("optimizer.0.step" in saved) == (step == 6), "the state is that before the step"
    resume(tmp_path / "run")
    left, right = _state(tmp_path / "run"), _state(uninterrupted)
    assert list(left) == list(right)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
    assert not any(name.startswith("start.layers.") for name in left) and "start.output.weight" in left


def test_a_checkpoint_without_the_numbers_of_a_trained_weight_is_refused(data, uninterrupted, tmp_path):
    for name in ("0.exp_avg", "1.step"):
        run = tmp_path / name
        shutil.copytree(uninterrupted, run)
        state = _state(run)
        del state[f"optimizer.{name}"]
        (folder,) = sorted((run / "checkpoints").glob("step-????????"))[-1:]
        for other in (run / "checkpoints").glob("step-????????"):
            if other != folder:
                shutil.rmtree(other)
        save_file(state, folder / "state.safetensors")
        with pytest.raises(CheckpointError, match=r"its tensors do not fit config.yaml"):
            resume(run)


def test_a_frozen_part_that_is_taken_out_of_the_config_is_a_change(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("    layers.0: null\n", ""))
    with pytest.raises(ConfigError, match=r'config.yaml: train.freeze is {"front_end": 4} now, the run was trained'):
        resume(run)


def test_a_part_learns_at_its_own_rate():
    network = _network(norm=False)
    optimizer = build_optimizer(network, OptimConfig(lr_scales={"output": 10.0, "layers": 0.1}, weight_decay=0.0))
    set_learning_rate(optimizer, 1e-3)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    gradients(network, _batch(), 2, CPU)
    optimizer.step()
    for name, value in network.named_parameters():
        # AdamW's first step is the rate for every weight, unless the gradient is tiny
        moved = float((value.detach() - before[name]).abs().max())
        factor = {"output": 10.0, "layers": 0.1}.get(name.partition(".")[0], 1.0)
        assert moved == pytest.approx(1e-3 * factor, rel=0.01), name


def test_without_factors_there_is_one_group_and_the_old_order():
    network = _network()
    (group,) = build_optimizer(network, OptimConfig()).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]


def test_weights_are_drawn_to_the_start_by_the_share_that_decay_takes():
    weights = {}
    for towards in ("zero", "start"):
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
        cfg = OptimConfig(weight_decay=20.0, decay_towards=towards)
        optimizer = build_optimizer(layer, cfg)
        start = PullToStart(layer, optimizer, cfg.weight_decay if towards == "start" else 0.0)
        assert set(start.tensors) == ({"weight", "bias"} if towards == "start" else set())
        with torch.no_grad():
            layer.weight.fill_(1.0)
            layer.bias.fill_(1.0)
        set_learning_rate(optimizer, 0.01)
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        weights[towards] = layer.weight.detach()[0, 0].item()
        assert layer.bias.tolist() == [1.0, 1.0], "a weight without a gradient stays where it is"
    assert weights["start"] == weights["zero"] == pytest.approx(0.8)  # the start is zero here


def test_an_update_that_the_gradient_scaler_leaves_out_draws_nothing():
    layer = nn.Linear(1, 1)
    optimizer = build_optimizer(layer, OptimConfig(weight_decay=1.0, decay_towards="start"))
    PullToStart(layer, optimizer, 1.0)
    scaler = torch.amp.GradScaler("cpu")
    with torch.no_grad():
        layer.weight.add_(1.0)
    for gradient, moves in ((math.inf, False), (0.0, True)):
        before = layer.weight.detach().clone()
        scaler.scale(layer.weight.sum()).backward()
        layer.weight.grad.fill_(gradient)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(layer.weight, before) != moves


def test_the_rate_is_held_between_the_rise_and_the_fall():
    cfg = OptimConfig(lr=1.0, warmup_fraction=0.1, hold_fraction=0.4, decay="linear")
    rates = [learning_rate(cfg, share, share) for share in (0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])
    all_held = OptimConfig(lr=1.0, warmup_fraction=0.1, hold_fraction=0.9)
    assert [learning_rate(all_held, share, share) for share in (0.1, 0.99)] == [1.0, 1.0]


def test_rise_and_hold_may_not_be_longer_than_the_run():
    with pytest.raises(ValueError, match="warmup_fraction and hold_fraction together are at most 1"):
        RunConfig.model_validate({"optim": {"warmup_fraction": 0.3, "hold_fraction": 0.8}})
