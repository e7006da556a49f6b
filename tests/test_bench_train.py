"""``asr bench train``: what it counts, what it reports, and that the plain way beside it is the same network."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
import yaml

from asr.bench.plain import PlainNetwork, PlainTrainer
from asr.bench.training import PARTS, TrainingSpeed, Turn, made_up_data, measure_training, training_operations
from asr.cli import run
from asr.config import ModelConfig
from asr.ctc import ctc_loss
from asr.errors import ConfigError
from asr.model.build import build_network
from asr.model.network import DeepSpeech2
from asr.training.penalties import consistency_loss
from asr.training.trial import build_trial
from tests.builders import build_corpus, tiny_config


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(monkeypatch, capfd):
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asr", "bench", "train", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        return (int(end.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config().model_dump(mode="json")))
    return path


def test_operations_are_those_counted_by_hand():
    # 9 frames of 8 bins -> conv (3 x 3, stride 2 x 2, 2 channels): 5 steps x 4 bins x 2 x (1 x 3 x 3)
    # GRU, 2 directions of 16 units: 5 steps x 2 x 3 x 16 x (8 inputs + 16 units)
    # the same with 16 inputs in the second layer
    cfg = ModelConfig.model_validate(
        {"conv": [{"channels": 2, "kernel_tf": [3, 3], "stride_tf": [2, 2]}], "layers": 2, "hidden": 16}
    )
    network = build_network(cfg, 8, 5)
    conv, first, second = 5 * 4 * 2 * 9, 5 * 2 * 48 * (8 + 16), 5 * 2 * 48 * (16 + 16)
    assert training_operations(network, torch.tensor([9])) == 2 * (2 * conv + 3 * first + 3 * second)
    assert training_operations(network, torch.tensor([9, 9])) == 4 * (2 * conv + 3 * first + 3 * second)


def test_operations_of_windows_follow_their_stride():
    cfg = ModelConfig.model_validate(
        {"encoder": "tdnn", "conv": [], "layers": 2, "hidden": 4, "tdnn": {"kernels": [5, 3], "stride": 2}}
    )
    first, second = 4 * 4 * 5 * 8, 4 * 4 * 3 * 4  # 7 frames: 4 windows
    assert training_operations(build_network(cfg, 8, 5), torch.tensor([7])) == 2 * (2 * first + 3 * second)


@pytest.mark.parametrize("settings", [(), ("model.encoder=tdnn", "model.conv=[]"), ("model.cell=lstm",)])
def test_the_parts_are_all_of_the_time(tmp_path, settings):
    cfg = tiny_config(*settings)
    found = measure_training(cfg, tmp_path, made_up_data(cfg, tmp_path, 0.5), steps=5)
    assert found.steps == 5 and found.data == "made-up utterances of 0.5 s"
    assert set(found.parts) == set(PARTS) and sum(found.shares.values()) == pytest.approx(1)
    wall = sum(turn.seconds for turn in found.turns)
    # what is between the steps is the difference: some microseconds
    assert sum(found.parts.values()) == pytest.approx(wall, rel=0.1)
    assert sum(turn.audio_s for turn in found.turns) == pytest.approx(5 * 4 * 0.5)
    assert 0 < found.of_peak < 1
    assert found.parts["convolution back"] > 0 or not cfg.model.conv


def test_what_cannot_be_counted_is_left_out():
    found = TrainingSpeed("fp32", "1 threads", 1, 7, "data", turns=[Turn(1.0, 1.0)], operations=math.nan, peak=1.0)
    found.parts = dict.fromkeys(PARTS, 1.0)
    assert found.to_json()["of_peak"] is None and found.to_json()["operations_per_step"] is None


@torch.no_grad()
def copy_weights(ours: DeepSpeech2, plain: PlainNetwork) -> None:
    plain.convs.load_state_dict(ours.front_end.convs.state_dict())
    plain.output.load_state_dict(ours.output.state_dict())
    for layer, our_layer in zip(plain.layers, ours.layers, strict=True):
        for suffix, way in zip(("", "_reverse"), our_layer.directions, strict=False):
            second = torch.zeros_like(way.bias_g) if way.bias_hidden_g is None else way.bias_hidden_g
            values = (way.w_input_gi, way.w_hidden_gh, way.bias_g, second)
            for name, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), values, strict=True):
                getattr(layer, f"{name}_l0{suffix}").copy_(value)


@pytest.mark.parametrize("cell", ["gru", "lstm", "tanh"])
@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_the_plain_way_has_the_same_loss_on_a_batch(tmp_path, cell, merge):
    """Without batch norm, which stands elsewhere there, and for utterances of one length: it computes padding."""
    masks = "augment.spec={freq_masks: 2, freq_width_bins: 6}"
    cfg = tiny_config(
        "model.norm=false",
        f"model.cell={cell}",
        f"model.merge={merge}",
        "model.layers=2",
        masks,
        f"train.consistency={0.5 if merge == 'sum' else 0}",
    )
    made_up_data(cfg, tmp_path, 0.6)
    trial = build_trial(cfg, tmp_path)
    plain = PlainTrainer(trial.data, trial.model.network, trial.machine.device)
    copy_weights(trial.model.network, plain.network)
    batch = trial.data.load(trial.data.plan(1)[0])
    outputs = [
        trial.model.network(one_btf, batch.num_frames_b)
        for one_btf in (batch.features_btf, batch.twin_btf)
        if one_btf is not None
    ]
    num_steps_b = outputs[0][1]
    losses = [ctc_loss(one_bsv, num_steps_b, batch.targets_bu, batch.num_targets_b).mean() for one_bsv, _ in outputs]
    ours = sum(losses) / len(losses)
    if merge == "sum":
        ours += 0.5 * consistency_loss(outputs[0][0], outputs[1][0], num_steps_b).mean()
    torch.testing.assert_close(plain.loss(batch), ours, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in plain.network.parameters()) >= trial.model.num_parameters


@pytest.mark.parametrize("better", [{}, {"precision": "bf16", "by_length": True}], ids=["plain", "better"])
def test_the_plain_way_learns(tmp_path, better):
    build_corpus(tmp_path, 8, seed=1, longest=3)
    cfg = tiny_config("augment.speeds=[0.9, 1.0]", "augment.spec={freq_masks: 1}")
    trial = build_trial(cfg, tmp_path)
    plain = PlainTrainer(trial.data, trial.model.network, trial.machine.device, **better)
    losses = [plain.step()[1] for _ in range(40)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_command_reports_both_ways(command, config, tmp_path):
    data = build_corpus(tmp_path / "data", 6).parent
    code, out, err = command(config, "--data", data, "--steps", 3, "--compare", "--json", "--threads", 1)
    assert code == 0 and err == ""
    document = json.loads(out)
    assert document["steps"] == 3 and document["threads"] == 1 and document["precision"] == "fp32"
    for ratio, plain in (("ratio", "plain_audio_s_per_s"), ("better_ratio", "better_plain_audio_s_per_s")):
        assert document[ratio] == pytest.approx(document["audio_s_per_s"] / document[plain], rel=0.01)
    assert sum(document["shares"].values()) == pytest.approx(1, abs=1e-3)
    code, out, _ = command(config, "--minutes", 0.01, "--seconds", 0.5)
    assert code == 0
    for words in ("seconds of audio per second", "encoder back", "GFLOP/s", "made-up utterances of 0.5 s"):
        assert words in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere/none",), "nowhere"),
        (("{config}", "--data", "nowhere"), "train.jsonl"),
        (("{config}", "--set", "model.encoder=tdnn", "--steps", "1", "--seconds", "0.5", "--compare"), "--compare"),
        (("{config}", "--device", "tpu"), "unknown device"),
        (("{config}", "--steps", "0"), "--steps"),
    ],
)
def test_a_mistake_is_one_line(command, config, args, said):
    code, out, err = command(*(arg.format(config=config) for arg in args))
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def test_the_plain_network_refuses_what_torch_has_no_layer_for():
    with pytest.raises(ConfigError, match="recurrent networks"):
        PlainNetwork(ModelConfig(bidirectional=False, lookahead_steps=3), 8, 4)
