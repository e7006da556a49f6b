"""Checks that the device computes what the CPU computes: every encoder, in its dtype, and in several processes.

Axes: b batch, r rows (valid steps), v vocabulary.
"""

from __future__ import annotations

import copy
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from asr.batch import Batch
from asr.model.network import Network
from asr.runtime import Machine, autocast
from asr.training.gradients import gradients
from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.machine import attempted, worst_share
from benchmarks.gpu.profiling import profile_steps
from benchmarks.gpu.small import small_network, some_batch

#: what is changed in a small recurrent network, for each way of building one that has code of its own
ENCODERS: dict[str, dict[str, Any]] = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "tanh": {"cell": "tanh"},
    "gru, concat": {"merge": "concat"},
    "gru, one way": {"bidirectional": False, "lookahead_steps": 4},
    "lstm, no norm, residual": {"cell": "lstm", "norm": False, "residual": True},
    "tdnn": {"encoder": "tdnn"},
    "mlp": {"encoder": "mlp"},
}


@dataclass(frozen=True)
class Limits:
    """How far the device may be from the CPU's float32, relative to the CPU's values (log-probabilities: nats)."""

    loss: float
    gradient: float
    log_prob: float


#: Float32 sums in another order: 1e-6 a product, some hundred products behind each other. bf16 keeps 8 bits (4e-3),
#: fp16 11 (5e-4). A gradient passes through all of the network twice, and through the clipped ReLU's corners: on a CPU
#: it is 5 to 15 % off in bf16. The limits are two to three times what was seen there.
LIMITS = {
    "fp32": Limits(loss=1e-4, gradient=1e-3, log_prob=2e-3),
    "bf16": Limits(loss=1e-2, gradient=0.35, log_prob=0.2),
    "fp16": Limits(loss=3e-3, gradient=0.1, log_prob=0.05),
}


def encoders(setting: Setting, found: Findings) -> None:
    """Compare losses, gradients and log-probabilities of every kind of network with the CPU's in float32."""
    batch = some_batch(seconds=0.6 if setting.quick else 3.0)
    for name, changes in ENCODERS.items():
        truth = small_network(setting, 40, 29, **changes)
        expected = outcome(copy.deepcopy(truth), batch, setting.cpu)
        for precision in setting.precisions:
            here = outcome(copy.deepcopy(truth), batch, setting.machine(precision))
            limits = LIMITS[precision]
            found.at_most(f"{name}, {precision}: losses", worst_share(expected.losses_b, here.losses_b), limits.loss)
            found.at_most(f"{name}, {precision}: gradients", worst_gradient(expected, here), limits.gradient)
            apart = float((expected.log_probs_rv - here.log_probs_rv).abs().max())
            found.at_most(f"{name}, {precision}: log-probabilities", apart, limits.log_prob)
            again = outcome(copy.deepcopy(truth), batch, setting.machine(precision))
            same = all(torch.equal(grad, again.gradients[key]) for key, grad in here.gradients.items())
            found.holds(f"{name}, {precision}: the same gradients twice, bit for bit", same)
            if name == "gru":
                first = outcome(copy.deepcopy(truth), batch.rows(0, 1), setting.machine(precision), train=False)
                many = outcome(copy.deepcopy(truth), batch, setting.machine(precision), train=False)
                alone = float((first.log_probs_rv - many.log_probs_rv[: len(first.log_probs_rv)]).abs().max())
                found.at_most(f"{name}, {precision}: log-probabilities, alone and in a batch", alone, limits.log_prob)


@dataclass(frozen=True)
class Outcome:
    """What a network makes of a batch, on the CPU."""

    losses_b: Tensor
    gradients: dict[str, Tensor]
    #: of all valid steps, in evaluation
    log_probs_rv: Tensor


def outcome(network: Network, batch: Batch, machine: Machine, *, train: bool = True) -> Outcome:
    """Return losses and gradients of a network in training, then its log-probabilities in evaluation."""
    network.to(machine.device)
    losses_b, found = torch.zeros(0), {}
    if train:
        # As training does it: the smallest gradients would become 0 in float16.
        scale = 1024 if machine.precision == "fp16" else 1
        losses_b = gradients(network.train(), batch, len(batch.ids) / scale, machine).float().cpu()
        found = {name: p.grad.float().cpu() / scale for name, p in network.named_parameters() if p.grad is not None}

    network.eval()
    with torch.inference_mode(), autocast(machine.precision, machine.device):
        log_probs_bsv, num_steps_b = network(batch.features_btf.to(machine.device), batch.num_frames_b)
    all_bsv = log_probs_bsv.float().cpu()
    valid = [all_bsv[i, :steps] for i, steps in enumerate(num_steps_b.tolist())]
    return Outcome(losses_b, found, torch.cat(valid))


def worst_gradient(expected: Outcome, here: Outcome) -> float:
    """Return the largest relative difference of a weight's gradient; tiny gradients count by the size of all."""
    whole = float(torch.stack([g.norm() for g in expected.gradients.values()]).norm())
    shares = [
        float((here.gradients[name] - g).norm()) / max(float(g.norm()), 0.01 * whole)
        for name, g in expected.gradients.items()
    ]
    return max(shares)


# --- what the recurrent kernels compute in ---


class _RecurrentCalls(TorchDispatchMode):
    """See the operations after whatever autocast does to them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "rnn" in name or "gru" in name or "lstm" in name:
            inputs = [a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()]
            weights = [t.dtype for a in args if isinstance(a, list) for t in a if isinstance(t, Tensor)]
            dtypes = sorted({str(dtype).removeprefix("torch.") for dtype in [*inputs[:1], *weights]})
            self.seen[f"{name}: {', '.join(dtypes)}"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def recurrent_calls() -> Iterator[Counter[str]]:
    """Count the calls of torch's recurrent kernels while the block runs, by name and dtypes."""
    with _RecurrentCalls() as calls:
        yield calls.seen


def recurrent_dtypes(setting: Setting, found: Findings) -> None:
    """Check that the recurrent kernels compute in the dtype of the run, and report which kernels run."""
    batch = some_batch(seconds=0.6 if setting.quick else 3.0)
    expected = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    for precision in setting.precisions:
        machine = setting.machine(precision)
        for cell in ("gru", "lstm", "tanh"):
            network = small_network(setting, 40, 29, cell=cell).to(setting.device).train()
            with recurrent_calls() as seen:
                gradients(network, batch, len(batch.ids), machine)
            found.note(f"{cell}, {precision}", dict(seen))
            if setting.cuda:
                kernels = {text: n for text, n in seen.items() if "_cudnn_rnn" in text}
                found.holds(f"{cell}, {precision}: cuDNN's kernel runs", bool(kernels))
                right = all(text.endswith(f": {expected[precision]}") for text in kernels)
                found.holds(f"{cell}, {precision}: in {expected[precision]}", right)
            if cell == "gru" and precision != "fp32":
                step: Callable[[], Any] = lambda: gradients(network, batch, len(batch.ids), machine)  # noqa: B023, E731
                found.note(f"{cell}, {precision}: kernels", profile_steps(setting, step, 1).recurrent)


# --- several processes ---


def one_process_of_many(setting: Setting, found: Findings) -> None:
    """Connect a network as under torchrun, with NCCL on a GPU, and compare its gradients with one that is alone."""
    batch = some_batch(seconds=0.6 if setting.quick else 3.0)
    machine = setting.machine("fp32")
    truth = small_network(setting, 40, 29).to(setting.device).train()
    alone = outcome(copy.deepcopy(truth), batch, machine)
    with joined() as group:
        import torch.distributed as dist

        found.note("backends", attempted(lambda: dist.get_backend_config()))
        found.holds("a message comes back", group.gather("a") == ["a"] and group.agree(2.0) == [(2.0,)])
        connected: nn.Module = group.connect(truth)
        losses_b = gradients(connected, batch, len(batch.ids), machine)
        here = {name: p.grad.float().cpu() for name, p in truth.named_parameters() if p.grad is not None}
        del connected
    together = Outcome(losses_b.float().cpu(), here, alone.log_probs_rv)
    found.at_most("losses", worst_share(alone.losses_b, together.losses_b), 1e-4)
    found.at_most("gradients", worst_gradient(alone, together), 1e-3)


@contextmanager
def joined() -> Iterator[Any]:
    """Join a process group of one, as torchrun would start it."""
    from asr.training.distributed import DistributedGroup

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    numbers = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    names = numbers | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    group = DistributedGroup(0, 1, 0, 1)
    try:
        group.start()
        try:
            yield group
        except BaseException:
            group.stop(cleanly=False)
            raise
        group.stop(cleanly=True)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
