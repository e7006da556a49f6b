"""Graphs of our networks in onnxruntime: the log-probabilities of the network, whatever the padding and the batch."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.data.tokenizer import CharTokenizer
from asr.model.checkpoint import build_model, load_trainable, model_tensors, save_model
from asr.model.trainable import TrainableModel
from asr.utterance import extract
from tests.builders import ALPHABET, noise, sine, tiny_config
from tests.models import save_random_model
from tests.test_cli import command  # noqa: F401  # the fixture

onnx = pytest.importorskip("onnx", reason="writing a graph needs the extra [onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="running a graph needs the extra [onnx]")

from asr.model.onnx import check as checks  # noqa: E402
from asr.model.onnx.export import export_model  # noqa: E402
from asr.model.onnx.session import Session, Stream  # noqa: E402

HF = Path(__file__).parent / "data" / "hf"
CONVS = "model.conv=[{channels: 4, kernel_tf: [5, 5], stride_tf: [2, 2]}, {channels: 6, kernel_tf: [3, 3]}]"
SHAPES = {
    "two directions, summed": ["model.merge=sum"],
    "two directions, side by side, residual": ["model.merge=concat", "model.residual=true"],
    "one direction, lookahead, residual": [
        "model.bidirectional=false",
        "model.lookahead_steps=5",
        "model.residual=true",
    ],
    "without norms": ["model.norm=false"],
}
WINDOWS = {
    "time-delay, residual": ["model.encoder=tdnn", "model.layers=3", "model.residual=true", "model.tdnn.stride=2"],
    "time-delay on features, wide, dilated": [
        "model.encoder=tdnn",
        "model.conv=[]",
        "model.tdnn.kernels=[7,5]",
        "model.tdnn.dilations=[2,3]",
    ],
    "time-delay, without norms": ["model.encoder=tdnn", "model.norm=false"],
    "window on features": ["model.encoder=mlp", "model.conv=[]", "model.mlp.context=4", "model.mlp.stride=3"],
    "window after convolutions, residual": ["model.encoder=mlp", "model.mlp.context=2", "model.residual=true"],
}
FEATURES = {
    "log-mel": [],
    "log-mel, pre-emphasis, statistics of the corpus": ["features.preemphasis=0.97", "features.normalization=corpus"],
    "log-mel, 8 kHz, an odd window": [
        "audio.sample_rate_hz=8000",
        "features.window_s=0.020125",
        "features.hop_s=0.011",
    ],
    "log-mel, a band, a long transform": ["features.low_hz=300", "features.high_hz=3000", "features.fft_samples=1200"],
    "cepstra with derivatives": ["features.kind=mfcc", "features.num_ceps=8", "features.deltas=2"],
    "neighbours": ["features.context_frames=3", "features.deltas=1"],
    "spectrogram as computed": ["features.kind=spectrogram", "features.normalization=none", "features.window=hamming"],
}
#: in samples and frames: a batch with an utterance of nothing and one of a single frame, longest not first
LENGTHS = [90, 157, 0, 33, 1]


def saved(folder: Path, *settings: str) -> Path:
    """A model folder whose norms have statistics as after training, which all matter."""
    cfg = tiny_config(CONVS, "model.layers=2", *settings)
    torch.manual_seed(1)
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(sorted(ALPHABET))))
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, values in [*model.network.named_parameters(), *model.network.named_buffers()]:
            if "running_var" in name or name.endswith(("norm.weight_g", "norms.0.weight")):
                values.copy_(0.3 + torch.rand(values.shape, generator=draw))
            elif "running_mean" in name or "bias" in name:
                values.copy_(0.3 * torch.randn(values.shape, generator=draw))
    tensors = model_tensors(model)
    if cfg.features.normalization == "corpus":
        tensors["features.mean_f"] = torch.linspace(-12.0, -6.0, model.extractor.num_bins)
        tensors["features.std_f"] = torch.linspace(1.0, 3.0, model.extractor.num_bins)
    save_model(folder, model, tensors, None)
    return folder


def exported(folder: Path, out: Path, **options: object) -> tuple[TrainableModel, Session]:
    """The network of a model folder, and its graph."""
    export_model(folder, out, **options)
    return load_trainable(folder), Session(out / "model.onnx")


def compare(model: TrainableModel, session: Session, given: list[np.ndarray], atol: float) -> None:
    """Hold a graph's answers, in a batch and alone, against the network's."""
    features = [extract(model.extractor, one) if one.ndim == 1 else one for one in given]
    expected = [model.network.each([features_tf])[0] for features_tf in features]
    assert any(np.ptp(one_sv[:, 1:], axis=0).max(initial=0) > 0.1 for one_sv in expected), "says nothing"
    for i, answer_sv in enumerate(session.run(given)):
        np.testing.assert_allclose(answer_sv, expected[i], atol=atol, err_msg=f"utterance {i} in the batch")
    for i, one in enumerate(given):
        if len(one):
            np.testing.assert_allclose(session.run([one])[0], expected[i], atol=atol, err_msg=f"utterance {i} alone")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", ["gru", "lstm", "tanh"])
def test_a_graph_is_the_network(cell, shape, tmp_path):
    folder = saved(tmp_path / "model", f"model.cell={cell}", *SHAPES[shape])
    model, session = exported(folder, tmp_path / "out")
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((length, 16)).astype(np.float32) for length in LENGTHS]
    compare(model, session, features, 1e-5)


@pytest.mark.parametrize("shape", WINDOWS)
def test_a_graph_of_windows_is_the_network(shape, tmp_path):
    model, session = exported(saved(tmp_path / "model", *WINDOWS[shape]), tmp_path / "out")
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((length, 16)).astype(np.float32) for length in LENGTHS]
    compare(model, session, features, 1e-5)


@pytest.mark.parametrize("kind", FEATURES)
def test_features_in_the_graph_are_the_extractors(kind, tmp_path):
    folder = saved(tmp_path / "model", *FEATURES[kind])
    model, session = exported(folder, tmp_path / "out", features=True)
    rate_hz = model.audio.sample_rate_hz
    waves = [
        (sine(1.0, 300 + 40 * i, rate_hz) + noise(1.0, rate_hz, seed=i, amplitude=0.01))[: 57 * length]
        for i, length in enumerate(LENGTHS)
    ]
    # The extractor's own spectra have an error of some 1e-4 in the logarithm of quiet bins.
    compare(model, session, waves, 1e-3)


def test_silence_and_full_scale_are_numbers(tmp_path):
    model, session = exported(saved(tmp_path / "model"), tmp_path / "out", features=True)
    compare(model, session, [np.zeros(4000, np.float32), np.ones(4001, np.float32), sine(0.3)], 1e-3)


STREAMS = {
    "GRU, lookahead, residual": ["model.lookahead_steps=3", "model.residual=true"],
    "LSTM": ["model.cell=lstm"],
    "tanh, kernels of one frame": [
        "model.cell=tanh",
        "model.conv=[{channels: 4, kernel_tf: [1, 3], stride_tf: [1, 2]}, {channels: 4, kernel_tf: [3, 3]}]",
    ],
}
FROM_SAMPLES = {
    "statistics of the corpus, pre-emphasis": ["features.normalization=corpus", "features.preemphasis=0.97"],
    "cepstra as computed": ["features.normalization=none", "features.kind=mfcc"],
}


@pytest.mark.parametrize("sizes", [(1,), (3, 0, 40), (200,)])
@pytest.mark.parametrize("shape", STREAMS)
def test_pieces_give_what_the_whole_gives(shape, sizes, tmp_path):
    folder = saved(tmp_path / "model", "model.bidirectional=false", *STREAMS[shape])
    model, session = exported(folder, tmp_path / "out", streaming=True)
    for length in (0, 1, 33, 100):
        features_tf = np.random.default_rng(length).standard_normal((length, 16)).astype(np.float32)
        np.testing.assert_allclose(pushed(session, features_tf, sizes), model.network.each([features_tf])[0], atol=1e-5)


@pytest.mark.parametrize("sizes", [(160,), (1000, 0, 7), (20_000,)])
@pytest.mark.parametrize("kind", FROM_SAMPLES)
def test_pieces_of_samples_give_what_the_whole_gives(kind, sizes, tmp_path):
    folder = saved(tmp_path / "model", "model.bidirectional=false", *FROM_SAMPLES[kind])
    model, session = exported(folder, tmp_path / "out", streaming=True, features=True)
    wave_n = sine(0.31) + noise(0.31, amplitude=0.01)
    expected_sv = model.network.each([extract(model.extractor, wave_n)])[0]
    np.testing.assert_allclose(pushed(session, wave_n, sizes), expected_sv, atol=1e-3)


def pushed(session: Session, utterance: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """The answers to an utterance in pieces of these sizes, again and again."""
    stream = Stream(session)
    answers, start, size = [], 0, cycle(sizes)
    while start < len(utterance) or not answers:
        end = start + next(size)
        answers.append(stream.push(utterance[start:end], is_last=end >= len(utterance)))
        start = end
    return np.concatenate(answers)


def test_a_stream_answers_before_its_end(tmp_path):
    folder = saved(tmp_path / "model", "model.bidirectional=false", "model.lookahead_steps=2")
    _, session = exported(folder, tmp_path / "out", streaming=True)
    answered = len(Stream(session).push(np.zeros((60, 16), np.float32), is_last=False))
    assert 10 <= answered < 15


def test_half_the_space_for_a_small_difference(tmp_path):
    folder = saved(tmp_path / "model", "model.hidden=64")
    for weights in ("fp32", "fp16"):
        export_model(folder, tmp_path / weights, weights=weights)
    sizes = [(tmp_path / weights / "model.onnx").stat().st_size for weights in ("fp16", "fp32")]
    assert sizes[0] < 0.6 * sizes[1]
    card = json.loads((tmp_path / "fp16" / "config.json").read_text())["export"]
    assert 1e-5 < card["max_difference"] < 1e-2 and card["weights"] == "fp16"


def test_a_graph_says_what_a_program_must_know(tmp_path):
    folder = saved(tmp_path / "model", "features.normalization=corpus")
    model, session = exported(folder, tmp_path / "out", features=True)
    facts = session.metadata
    assert (facts["sample_rate_hz"], facts["stride"], facts["hop_s"]) == ("16000", "4", "0.01")
    assert json.loads(facts["tokens"]) == ["", *model.tokenizer.symbols]
    given = onnx.load(tmp_path / "out" / "model.onnx").graph.input
    assert [one.name for one in given] == ["samples", "num_samples"]


def test_a_graph_is_read_by_old_runtimes(tmp_path):
    exported(saved(tmp_path / "model"), tmp_path / "out", features=True)
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    used = {name for node in graph.graph.node for name in node.input}
    assert {one.name for one in graph.graph.initializer} <= used
    assert graph.ir_version == 8 and [one.version for one in graph.opset_import] == [17]


def test_the_card_holds_what_the_graph_does_not(tmp_path):
    model, _ = exported(saved(tmp_path / "model", "features.normalization=corpus"), tmp_path / "out")
    card = json.loads((tmp_path / "out" / "config.json").read_text())
    assert card["export"]["features_in_graph"] is False and card["export"]["max_difference"] < 1e-4
    np.testing.assert_allclose(card["export"]["statistics"]["mean_f"], np.linspace(-12, -6, 16), rtol=1e-6)
    assert card["model"] == model.network.cfg.model_dump(mode="json")


def test_a_graph_that_is_not_the_network_is_not_written(tmp_path, monkeypatch, command):  # noqa: F811
    folder = saved(tmp_path / "model")
    monkeypatch.setattr(checks, "_difference", lambda ours_sv, theirs_sv: float("nan"))
    result = command("export", folder, tmp_path / "out")
    assert result.code == 2 and "differ from the network's" in result.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["model.encoder=conformer", "model.hidden=16"], [], "there is no graph for model.encoder: conformer"),
        (["features.kind=parakeet"], ["--features"], "features.kind: parakeet cannot be put into the graph"),
        (
            ["features.kind=hf", f"features.hf=hf:{HF}/base", "features.num_mels=80", "model.conv=[]"],
            [],
            "features.kind: hf needs the network that makes them",
        ),
        ([], ["--streaming"], "model.bidirectional: true needs whole recordings"),
        (["model.encoder=tdnn"], ["--streaming"], "model.encoder: tdnn needs whole recordings"),
        (
            ["model.bidirectional=false"],
            ["--streaming", "--features"],
            "features.normalization: utterance cannot be computed piece by piece",
        ),
        (
            ["model.bidirectional=false", "model.conv=[{kernel_tf: [3, 3], stride_tf: [4, 1]}]"],
            ["--streaming"],
            "a convolution skips frames",
        ),
        ([], ["--weights", "int8"], "--weights int8: expected fp32 or fp16"),
        ([], ["--to", "hf", "--features"], "belong to --to onnx"),
        ([], ["--to", "tflite"], "--to tflite: expected onnx, or hf"),
    ],
)
def test_what_cannot_be_exported_is_one_line(settings, options, message, tmp_path, command):  # noqa: F811
    conv = ["model.conv=[]"] if "model.encoder=conformer" in settings else []
    folder = save_random_model(tmp_path / "model", *conv, *settings)
    result = command("export", folder, tmp_path / "out", *options)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
