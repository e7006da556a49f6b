"""What a GPU would run, on a CPU that says it is one: the same numbers, one device, no waits, the right dtypes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from asr.batch import Batch, empty_batch
from asr.bench import training as bench
from asr.config import ModelConfig, RunConfig, override
from asr.model.build import build_network
from asr.model.network import Network
from asr.runtime import LateNumbers, Machine, use_device
from asr.train import resume, train
from asr.training.gradients import gradients
from asr.training.lr_finder import find_lr
from asr.training.step import Learner
from asr.transcribe import Recognizer
from tests.builders import build_corpus, tiny_config
from tests.models import save_random_model
from tests.pretend_cuda import CUDA, PretendedCuda, counting, lines_of, pretended_cuda

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: relative difference of gradients that are computed in another order
ROUNDING = 2e-5


@pytest.fixture
def cuda() -> Iterator[PretendedCuda]:
    with pretended_cuda() as pretended:
        yield pretended


# The pretended device itself: what these tests rely on.


def test_refuses_what_cuda_refuses(cuda: PretendedCuda) -> None:
    on_device, on_cpu = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
    assert (on_device * torch.tensor(2.0)).device == CUDA  # a number of the CPU is allowed
    with pytest.raises(RuntimeError, match=r"same device.*test_cuda\.py"):
        on_device + on_cpu
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack([on_device[0, 0], on_cpu[0, 0]])
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator(), device="cuda")
    with pytest.raises(TypeError, match="cuda:0 device type tensor to numpy"):
        on_device.numpy()


WAITS: dict[str, tuple[int, Callable[[Tensor, Tensor], Any]]] = {
    "item": (1, lambda x, pinned: x.sum().item()),
    "float": (1, lambda x, pinned: float(x[0, 0])),
    "if": (1, lambda x, pinned: bool(x[0, 0] > 0)),
    "tolist": (1, lambda x, pinned: x.tolist()),
    "cpu": (1, lambda x, pinned: x.cpu()),
    "cpu without waiting": (0, lambda x, pinned: x.to("cpu", non_blocking=True)),
    "into pageable memory": (1, lambda x, pinned: torch.zeros(2, 3).copy_(x, non_blocking=True)),
    "into pinned memory": (0, lambda x, pinned: pinned.copy_(x, non_blocking=True)),
    "pageable": (1, lambda x, pinned: torch.ones(2).to("cuda")),
    "pageable, not blocking": (1, lambda x, pinned: torch.ones(2).to("cuda", non_blocking=True)),
    "pinned": (1, lambda x, pinned: pinned.to("cuda")),
    "pinned, not blocking": (0, lambda x, pinned: pinned.to("cuda", non_blocking=True)),
    "tensor": (1, lambda x, pinned: torch.tensor([1, 2], device="cuda")),
    "full": (0, lambda x, pinned: torch.full((2,), 1.5, device="cuda")),
    "nonzero": (1, lambda x, pinned: x.nonzero()),
    "mask": (1, lambda x, pinned: x[x > 0]),
    "masked fill": (0, lambda x, pinned: x.index_put_((x > 0,), torch.full((), 2.0, device="cuda"))),
    "indexes of the CPU": (1, lambda x, pinned: x[[1, 0]]),
    "unique": (1, lambda x, pinned: x.unique()),
    "repeat": (1, lambda x, pinned: x[0].repeat_interleave(torch.full((3,), 2, device="cuda"))),
    "equal": (1, lambda x, pinned: torch.equal(x, x)),
    "synchronize": (1, lambda x, pinned: torch.cuda.synchronize()),
    "event": (1, lambda x, pinned: torch.cuda.current_stream().record_event().synchronize()),
    "arithmetic": (0, lambda x, pinned: (x @ x.T).softmax(0).cumsum(1).masked_fill(x.new_ones(2, 2) > 0, 0)),
}


@pytest.mark.parametrize("name", WAITS)
def test_counts_what_waits_for_the_device(cuda: PretendedCuda, name: str) -> None:
    expected, work = WAITS[name]
    x, pinned = torch.full((2, 3), 1.5, device="cuda"), torch.ones(2, 3).pin_memory()
    with counting() as waits:
        work(x, pinned)
    assert waits.total() == expected, lines_of(waits)
    assert all(place.startswith("test_cuda.py") for _, place in waits)


def test_a_copy_to_the_cpu_arrives_when_it_was_waited_for(cuda: PretendedCuda) -> None:
    values = torch.full((2,), 3.0, device="cuda")
    early = values.to("cpu", non_blocking=True)
    event = torch.cuda.current_stream().record_event()
    late = (2 * values).to("cpu", non_blocking=True)
    assert early.isnan().all() and late.isnan().all()
    event.synchronize()
    assert early.tolist() == [3.0, 3.0] and late.isnan().all()

    numbers = LateNumbers(values)
    values.add_(1)
    assert numbers.read() == [3.0, 3.0]


def test_pinned_memory_must_not_change_while_it_is_copied(cuda: PretendedCuda) -> None:
    pinned = torch.ones(3).pin_memory()
    pinned.to("cuda", non_blocking=True)
    pinned.add_(1)
    with pytest.raises(RuntimeError, match="pinned memory changed"):
        torch.cuda.synchronize()


def test_streams_have_to_wait_for_each_other(cuda: PretendedCuda) -> None:
    side = torch.cuda.Stream()
    x = torch.ones(3, device="cuda")
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match="without waiting for it"):
        x + 1

    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x + 1
    with pytest.raises(RuntimeError, match="without waiting for it"):
        x.add_(1)  # the other stream may still be reading it
    torch.cuda.current_stream().wait_stream(side)
    assert (x.add_(1) + y).tolist() == [4.0] * 3


def test_autocast_gives_float16_to_recurrent_kernels_as_torch_does(cuda: PretendedCuda) -> None:
    gru = torch.nn.GRU(3, 4).to("cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        gru(torch.ones(2, 1, 3, device="cuda"))
    assert [call.dtype for call in cuda.recurrent_calls] == [torch.float16]


# The networks.

NETWORKS: dict[str, dict[str, Any]] = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "tanh": {"cell": "tanh"},
    "gru concat, residual": {"merge": "concat", "residual": True, "layers": 3},
    "lstm without norm": {"cell": "lstm", "norm": False},
    "one direction": {"bidirectional": False, "lookahead_steps": 3},
    "tanh in one direction without norm": {"cell": "tanh", "bidirectional": False, "norm": False},
    "tdnn": {"encoder": "tdnn", "residual": True, "layers": 3},
    "tdnn with a stride": {"encoder": "tdnn", "tdnn": {"stride": 2}, "norm": False},
    "mlp": {"encoder": "mlp"},
}
BINS, TOKENS = 16, 6


def make_network(name: str) -> Network:
    conv = [{"channels": 4, "kernel_tf": [5, 5], "stride_tf": [2, 2]}]
    settings = {"layers": 2, "hidden": 8, "dropout": 0.0, "conv": conv, **NETWORKS[name]}
    torch.manual_seed(1)
    return build_network(ModelConfig.model_validate(settings), BINS, TOKENS).train()


def make_batch(*, twin: bool = False) -> Batch:
    """Four utterances of 40, 33, 21 and 9 frames."""
    draw = torch.Generator().manual_seed(2)
    num_frames_b, num_targets_b = torch.tensor([40, 33, 21, 9]), torch.tensor([4, 3, 2, 1])
    inside_bt = torch.arange(40) < num_frames_b[:, None]
    features_btf, twin_btf = (torch.randn(4, 40, BINS, generator=draw) * inside_bt[:, :, None] for _ in range(2))
    targets_bu = torch.randint(1, TOKENS, (4, 4), generator=draw) * (torch.arange(4) < num_targets_b[:, None])
    ids = ("a", "b", "c", "d")
    return Batch(features_btf, num_frames_b, targets_bu, num_targets_b, ids, 1.0, twin_btf if twin else None)


def run(network: Network, batch: Batch, precision: str = "fp32", **terms: float) -> dict[str, Tensor]:
    """The losses, the gradients and the statistics after a batch, by name, on the CPU. A GPU must not be waited for."""
    machine = Machine(next(network.parameters()).device, precision, 1)
    with counting() as waits:
        losses_b = gradients(network, batch, max(1, len(batch.ids)), machine, **terms)
    assert not waits, lines_of(waits)
    grads = {f"gradient of {k}": p.grad for k, p in network.named_parameters() if p.grad is not None}
    return {k: v.detach().cpu() for k, v in {"losses": losses_b, **grads, **dict(network.named_buffers())}.items()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    whole = max(float(v.norm()) for k, v in expected.items() if k.startswith("gradient"))
    for name, value in expected.items():
        # Gradients that are zero but for rounding are measured against the others.
        scale = max(float(value.double().norm()), 1e-3 * whole if name.startswith("gradient") else 0.0, 1e-9)
        assert float((found[name].double() - value.double()).norm()) <= tolerance * scale, name


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_gradients_and_statistics_are_those_of_the_cpu(name: str) -> None:
    expected = run(make_network(name), make_batch())
    with pretended_cuda():
        assert_close(run(make_network(name).to(CUDA), make_batch()), expected, ROUNDING)


def test_the_loss_by_tritons_kernels_is_that_of_the_cpu() -> None:
    pytest.importorskip("triton")
    batch = make_batch().rows(2, 4)
    expected = run(make_network("one direction"), batch)
    with pretended_cuda(triton=True) as cuda:
        assert_close(run(make_network("one direction").to(CUDA), batch), expected, ROUNDING)
        assert len(cuda.launches) >= 3


@pytest.mark.parametrize("name", ["gru", "tdnn"])
def test_two_views_and_the_other_terms_of_the_loss_are_those_of_the_cpu(name: str) -> None:
    terms = {"smoothing": 0.1, "consistency": 0.2}
    expected = run(make_network(name), make_batch(twin=True), **terms)
    with pretended_cuda():
        assert_close(run(make_network(name).to(CUDA), make_batch(twin=True), **terms), expected, ROUNDING)


@pytest.mark.parametrize("name", ["gru", "one direction", "tdnn"])
def test_a_batch_without_utterances_gives_no_gradient(name: str, cuda: PretendedCuda) -> None:
    network = make_network(name).to(CUDA)
    for module in network.modules():
        if hasattr(module, "reduce"):
            module.reduce = lambda sums: sums + 1  # another process has one step
    found = run(network, empty_batch(BINS))
    assert found["losses"].shape == (0,)
    grads = {key: grad for key, grad in found.items() if key.startswith("gradient")}
    assert len(grads) > 5 and not any(grad.any() for grad in grads.values()), grads


@pytest.mark.parametrize("name", NETWORKS)
def test_in_use_the_log_probabilities_are_those_of_the_cpu(name: str) -> None:
    batch = make_batch()
    lengths = batch.num_frames_b.tolist()
    features = [features_tf[:length].numpy() for features_tf, length in zip(batch.features_btf, lengths, strict=True)]
    expected = make_network(name).eval().each(features)
    with pretended_cuda():
        network = make_network(name).eval().to(CUDA)
        with counting() as waits:
            found = network.each(features)
        assert waits.total() <= 1, lines_of(waits)
    for found_sv, expected_sv in zip(found, expected, strict=True):
        np.testing.assert_allclose(found_sv, expected_sv, atol=1e-5)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", ["gru", "lstm", "tanh", "one direction", "lstm without norm"])
def test_recurrent_kernels_get_the_dtype_that_was_asked_for(name: str, precision: str, cuda: PretendedCuda) -> None:
    network = make_network(name).to(CUDA)
    run(network, make_batch(), precision)
    calls = cuda.recurrent_calls
    assert len(calls) == sum(len(layer.directions) for layer in network.layers)
    assert {call.dtype for call in calls} == {DTYPES[precision]}
    assert all(call.is_contiguous and call.is_one_chunk for call in calls), calls


def test_recurrent_kernels_use_tensor_cores_but_not_in_float32(cuda: PretendedCuda) -> None:
    network = make_network("gru").to(CUDA)
    use_device("cuda:0")
    for precision in ("bf16", "fp32", "fp16", "bf16"):
        cuda.recurrent_math.clear()
        run(network, make_batch(), precision)
        assert cuda.recurrent_math == {(DTYPES[precision], precision != "fp32")}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["gru", "tdnn", "mlp"])
def test_a_narrow_precision_is_close_to_float32(name: str, precision: str) -> None:
    expected = run(make_network(name), make_batch())
    with pretended_cuda():
        found = run(make_network(name).to(CUDA), make_batch(), precision)
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=0.05, atol=0.05)
    assert all(value.dtype == expected[key].dtype for key, value in found.items())


# Training, use, and what is built on them.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_corpus(folder, 6, seed=1, longest=5)
    build_corpus(folder, 2, seed=2, name="dev", longest=5)
    return folder


def cuda_config(*settings: str) -> RunConfig:
    return tiny_config("train.device=cuda:0", "batch.max_utterances=2", "batch.workers=1", *settings)


#: what a training step may consist of
EVERYTHING = (
    "train.accumulate=2",
    "batch.max_utterances=1",
    "train.chunk_s=[0.1, 0.2]",
    "train.consistency=0.2",
    "train.label_smoothing=0.1",
    "train.ema_decay=0.9",
    "train.dropout_schedule=[[0, 0.1], [0.8, 0.3]]",
    "model.dropout=0.2",
)


@pytest.mark.parametrize(
    ("precision", "settings"),
    [("bf16", ()), ("fp32", EVERYTHING), ("bf16", EVERYTHING), ("fp16", EVERYTHING)],
    ids=["bf16", "fp32 with everything", "bf16 with everything", "fp16 with everything"],
)
def test_a_training_step_waits_at_most_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, settings: tuple[str, ...]
) -> None:
    steps: list[Counter[tuple[str, str]]] = []
    step = Learner.step

    def counted(learner: Learner, *args: Any) -> Any:
        steps.append(cuda.waits.copy())
        return step(learner, *args)

    monkeypatch.setattr(Learner, "step", counted)
    # A scale at which nothing overflows: a step that does waits once more.
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=16.0))
    with pretended_cuda() as cuda:
        report = train(cuda_config("train.epochs=1", f"train.precision={precision}", *settings), data, tmp_path / "run")
        assert {call.dtype for call in cuda.recurrent_calls} <= {DTYPES[precision], torch.float32}
    assert report.progress.step == len(steps) == 3 and math.isfinite(report.progress.epoch_losses_nats[0])
    # From the beginning of each step to that of the next: with the loop around it.
    for before, after in itertools.pairwise(steps):
        waits = after - before
        assert waits.total() <= 1, lines_of(waits)
        # The numbers of a step are read when the device has the next one to compute.
        assert not any("nothing else to do" in what for what, _ in waits), lines_of(waits)
        # The threads that load batches need the core.
        assert not any("in a loop" in what for what, _ in waits), lines_of(waits)


@pytest.mark.parametrize("encoder", ["recurrent", "tdnn"])
def test_no_sum_of_a_training_is_made_in_any_order(data: Path, tmp_path: Path, encoder: str) -> None:
    cfg = cuda_config("train.epochs=1", "train.max_steps=1", f"model.encoder={encoder}", "train.label_smoothing=0.1")
    if encoder == "recurrent":
        cfg = override(cfg, ["train.chunk_s=[0.1, 0.2]"])
    with pretended_cuda() as cuda:
        train(cfg, data, tmp_path / "run")
        assert not cuda.unordered, lines_of(cuda.unordered)
        torch.use_deterministic_algorithms(False)
        embedding = torch.nn.Embedding(3, 2, device="cuda")
        embedding(torch.zeros(4, dtype=torch.int64, device="cuda")).sum().backward()
        assert cuda.unordered


def test_training_on_the_device_gives_the_losses_of_the_cpu(data: Path, tmp_path: Path) -> None:
    settings = ("train.epochs=2", "train.ema_decay=0.5")
    expected = train(cuda_config(*settings, "train.device=cpu"), data, tmp_path / "cpu").progress
    with pretended_cuda():
        found = train(cuda_config(*settings), data, tmp_path / "cuda").progress
    assert found.epoch_losses_nats == pytest.approx(expected.epoch_losses_nats, rel=1e-4)
    assert [one.wer for one in found.best] == [one.wer for one in expected.best]


def test_a_resumed_training_on_the_device_is_the_same_to_the_bit(data: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(values: dict[str, float]) -> None:
        if values.get("step") == 2:
            raise Killed

    cfg = cuda_config("train.epochs=2", "train.checkpoint_every_s=1e-9", "model.dropout=0.2", "train.ema_decay=0.5")
    with pretended_cuda():
        whole = train(cfg, data, tmp_path / "whole").progress
        with pytest.raises(Killed):
            train(cfg, data, tmp_path / "parts", kill)
    with pretended_cuda():
        resumed = resume(tmp_path / "parts").progress
    assert resumed.epoch_losses_nats == whole.epoch_losses_nats
    states = [
        load_file(max((tmp_path / run / "checkpoints").glob("step-*")) / "state.safetensors")
        for run in ("whole", "parts")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("operation", "precision"),
    [("convolution", "fp32"), ("convolution_backward", "bf16"), ("_fused_adamw_", "fp32"), ("_fused_adamw_", "fp16")],
)
def test_a_training_goes_on_after_running_out_of_memory(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, operation: str, precision: str
) -> None:
    failed = []

    def watch(values: dict[str, float]) -> None:
        if values.get("step") == 1 and not failed:
            cuda.before_result = run_out

    def run_out(name: str, node: str) -> None:
        if name == operation:
            cuda.before_result = None
            failed.append(name)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pretended_cuda() as cuda:
        report = train(cuda_config("train.epochs=1", f"train.precision={precision}"), data, tmp_path / "run", watch)
    assert failed and report.num_dropped == 0
    assert report.progress.step == 3 and math.isfinite(report.progress.epoch_losses_nats[0])
    # In the optimiser, the same is tried again, with the memory that the batch has left behind.
    assert ("it is computed in halves" in caplog.text) == operation.startswith("convolution")


def test_texts_are_those_of_the_cpu(data: Path, tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "model", "model.layers=2")
    files = sorted((data / "wav").glob("train-*.wav"))
    expected = list(Recognizer.load(model, "cpu", precision="fp32").transcribe_all(files))
    assert len({one.text for one in expected}) > 3
    with pretended_cuda() as cuda:
        found = list(Recognizer.load(model, "cuda:0", precision="fp32").transcribe_all(files))
        assert cuda.recurrent_calls
    assert [one.text for one in found] == [one.text for one in expected]


def test_the_learning_rate_finder_runs_on_the_device(data: Path, cuda: PretendedCuda) -> None:
    found = find_lr(cuda_config(), data, steps=6)
    assert len(found.tried) == 6


def test_the_speed_of_training_is_measured_on_the_device(
    data: Path, cuda: PretendedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_SQUARE", 16)
    found = bench.measure_training(cuda_config(), data, "tones", compare=True, steps=2)
    assert found.steps == 2 and all(found.parts[part] > 0 for part in bench.PARTS)
