"""The CTC loss of a GPU is torch's, repeats to the bit, and compiles for the GPUs that it is meant for.

Here Triton's interpreter runs the kernels on the CPU; ``TRITON_INTERPRET=0 pytest tests/test_cuda_ctc.py`` runs them on
a GPU. A step of one utterance takes the interpreter about 20 ms there and back, so shapes are small.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch on Linux)")

from triton import knobs

from asr import ctc as any_device
from asr.model.cuda import ctc, launch
from asr.model.cuda.ctc import ctc_loss

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "cpu" if knobs.runtime.interpret else "cuda"
pytestmark = [
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs TRITON_INTERPRET=1, or a GPU"),
    # The interpreter computes what a GPU would without a word: ln(0), 0 / 0.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def batch_of(texts: list[list[int]], steps: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths and padded texts as the loss takes them; the padding of texts is no token."""
    targets_bu = torch.full((len(texts), max(map(len, texts))), 10**6)
    for i, text in enumerate(texts):
        targets_bu[i, : len(text)] = torch.tensor(text)
    return torch.tensor(steps), targets_bu, torch.tensor([len(text) for text in texts])


def ours(logits_bsv: Tensor, num_steps_b: Tensor, *targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and gradients; the padding of the log-probabilities is not a number."""
    logits_bsv = logits_bsv.detach().to(DEVICE).requires_grad_()
    padding_bs = (torch.arange(logits_bsv.shape[1])[None, :] >= num_steps_b[:, None]).to(DEVICE)
    log_probs_bsv = logits_bsv.log_softmax(2).masked_fill(padding_bs[:, :, None], float("nan"))
    losses_b = ctc_loss(log_probs_bsv, num_steps_b, *targets)
    losses_b.sum().backward()
    assert logits_bsv.grad is not None
    return losses_b.detach().cpu(), logits_bsv.grad.cpu()


def exact(logits_bsv: Tensor, num_steps_b: Tensor, targets_bu: Tensor, num_targets_b: Tensor) -> tuple[Tensor, Tensor]:
    """torch's losses and gradients in float64, on the CPU."""
    logits_bsv = logits_bsv.detach().double().requires_grad_()
    log_probs_sbv = logits_bsv.log_softmax(2).transpose(0, 1)
    losses_b = F.ctc_loss(log_probs_sbv, targets_bu, num_steps_b, num_targets_b, reduction="none")
    losses_b.sum().backward()
    assert logits_bsv.grad is not None
    return losses_b.detach(), logits_bsv.grad


def assert_exact(logits_bsv: Tensor, texts: list[list[int]], steps: list[int]) -> None:
    args = batch_of(texts, steps)
    losses_b, grads_bsv = ours(logits_bsv, *args)
    expected_b, expected_bsv = exact(logits_bsv, *args)
    # A few roundings of float32, in numbers of the size of a log-probability and of a probability.
    torch.testing.assert_close(losses_b.double(), expected_b, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grads_bsv.double(), expected_bsv, rtol=0, atol=1e-6, equal_nan=True)


def noise(*shape: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=10)
@given(st.data(), st.integers(2, 5), st.integers(1, 3), st.integers(0, 2**32))
def test_losses_and_gradients_are_those_of_torch_for_any_lengths(data, vocabulary, batch, seed):
    steps = data.draw(st.lists(st.integers(0, 4), min_size=batch, max_size=batch))
    text = st.lists(st.integers(1, vocabulary - 1), max_size=3)
    texts = data.draw(st.lists(text, min_size=batch, max_size=batch))
    # Pairs that do not fit are among them: infinite losses, whose gradient is not a number.
    assert_exact(noise(batch, max(1, *steps), vocabulary, seed=seed), texts, steps)


def test_equal_neighbours_no_labels_no_steps_and_texts_that_do_not_fit():
    texts = [[1, 1, 1], [1, 2, 1], [], [], [1], [2, 2], [1, 2, 3]]
    assert_exact(noise(7, 5, 4), texts, [5, 5, 3, 0, 0, 2, 3])


def test_only_equal_tokens_share_a_gradient_in_a_text_of_more_labels_than_a_warp_has_lanes():
    text = torch.randint(1, 7, (35,), generator=torch.Generator().manual_seed(3)).tolist()
    fits = len(text) + sum(a == b for a, b in zip(text[1:], text, strict=False))
    assert_exact(noise(1, fits + 1, 7), [text], [fits + 1])


def test_float32_keeps_its_digits_where_every_path_is_next_to_impossible():
    # Some 50 nats a step. Sums of logarithms of this size would keep two digits fewer.
    steps = 25
    logits_bsv = noise(1, steps, 6, scale=80.0)
    args = batch_of([[1, 2, 2, 5, 3]], [steps])
    losses_b, grads_bsv = ours(logits_bsv, *args)
    expected_b, expected_bsv = exact(logits_bsv, *args)
    assert expected_b.item() > 1000
    torch.testing.assert_close(losses_b.double(), expected_b, rtol=1e-7, atol=0)
    assert (grads_bsv - expected_bsv).norm() < 5e-7 * expected_bsv.norm()


@pytest.mark.parametrize("steps", [50, pytest.param(6000, marks=pytest.mark.slow)])
def test_the_gradient_is_as_good_as_torchs_in_float64_of_the_same_log_probs(steps):
    text = torch.randint(1, 5, (steps // 10,), generator=torch.Generator().manual_seed(1)).tolist()
    logits_bsv = noise(1, steps, 5, scale=3.0)
    args = batch_of([text], [steps])
    _, expected_bsv = exact(logits_bsv, *args)

    rounded_bsv = logits_bsv.clone().requires_grad_()
    log_probs_sbv = rounded_bsv.log_softmax(2).double().transpose(0, 1)
    F.ctc_loss(log_probs_sbv, args[1], args[0], args[2], reduction="sum").backward()
    from_rounding = (rounded_bsv.grad - expected_bsv).norm()

    _, grads_bsv = ours(logits_bsv, *args)
    # The rounding of the log-softmax is in both; four times it leaves room for as much again in each walk.
    assert (grads_bsv - expected_bsv).norm() < 4 * from_rounding
    assert grads_bsv.sum(2).abs().max() < 1e-6


def test_an_utterance_has_the_same_bits_alone_and_beside_others_of_any_length():
    steps, texts = [6, 9, 4], [[1, 2, 2], [3] * 3 + [1, 2, 3] * 12, [2]]
    logits_bsv = noise(3, 9, 4)
    losses_b, grads_bsv = ours(logits_bsv, *batch_of(texts, steps))
    for i in (0, 2):
        alone = ours(logits_bsv[i : i + 1, : steps[i]], *batch_of([texts[i]], [steps[i]]))
        assert torch.equal(alone[0], losses_b[i : i + 1])
        assert torch.equal(alone[1], grads_bsv[i : i + 1, : steps[i]])


def test_probabilities_of_zero_leave_only_the_paths_without_them():
    # Two steps, text "1": blank then 1 is the only path.
    log_probs_bsv = torch.tensor([[[0.25, 0.0, 0.75], [0.0, 0.5, 0.5]]]).log().to(DEVICE).requires_grad_()
    losses_b = ctc_loss(log_probs_bsv, *batch_of([[1]], [2]))
    losses_b.sum().backward()
    assert losses_b.item() == pytest.approx(-torch.tensor(0.125).log().item(), rel=1e-6)
    assert log_probs_bsv.grad.tolist() == [[[-1, 0, 0], [0, -1, 0]]]


def test_a_log_prob_that_is_not_a_number_makes_the_loss_none():
    log_probs_bsv = noise(1, 4, 3).log_softmax(2)
    log_probs_bsv[0, 1] = float("nan")
    assert ctc_loss(log_probs_bsv.to(DEVICE), *batch_of([[1, 2]], [4])).isnan().all()


def test_each_loss_weighs_its_own_gradient():
    log_probs_bsv = noise(2, 3, 4).log_softmax(2).to(DEVICE).requires_grad_()
    losses_b = ctc_loss(log_probs_bsv, *batch_of([[1], [2]], [3, 3]))
    (losses_b * torch.tensor([0.5, -3.0], device=DEVICE)).sum().backward()
    # At each step the probabilities of the tokens, given the text, sum to one.
    torch.testing.assert_close(log_probs_bsv.grad.sum(2).cpu(), torch.tensor([[-0.5] * 3, [3.0] * 3]))


def test_a_second_backward_pass_is_refused_rather_than_wrong():
    log_probs_bsv = noise(1, 2, 3).log_softmax(2).to(DEVICE).requires_grad_()
    loss = ctc_loss(log_probs_bsv, *batch_of([[1]], [2])).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_loss_is_one_launch_and_its_gradient_two(monkeypatch):
    launched = []

    def note(kernel, grid, *args, **constants):
        launched.append(kernel.__name__)
        real(kernel, grid, *args, **constants)

    real = launch.launch
    monkeypatch.setattr(launch, "launch", note)
    losses_b = ctc_loss(noise(2, 3, 3).log_softmax(2).to(DEVICE).requires_grad_(), *batch_of([[1, 2], [1]], [3, 2]))
    assert launched == ["forward_kernel"]
    losses_b.sum().backward()
    assert launched == ["forward_kernel", "backward_kernel", "collect_kernel"]


def test_where_triton_compiles_nothing_torchs_loss_is_used_and_one_warning_says_why(monkeypatch, caplog):
    def fail(device):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(ctc, "try_out", fail)
    any_device._kernels.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert any_device._kernels(torch.device("cuda")) is None
            assert any_device._kernels(torch.device("cuda")) is None
    finally:
        any_device._kernels.cache_clear()
    (record,) = caplog.records
    assert "torch's own CTC loss is used" in record.getMessage()
    assert "(RuntimeError: Failed to find C compiler. Please specify via CC)" in record.getMessage()


def test_the_kernels_are_used_where_they_run_and_a_full_gpu_is_no_reason_against_them(monkeypatch):
    def full(device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    any_device._kernels.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ctc, "try_out", full)
            with pytest.raises(torch.OutOfMemoryError):
                any_device._kernels(torch.device(DEVICE))
        with torch.inference_mode():
            assert any_device._kernels(torch.device(DEVICE)) is ctc
    finally:
        any_device._kernels.cache_clear()


#: compiles, for a GPU that need not be there, all that a loss and its gradient launch, as launching would
COMPILE = """
import re, subprocess, sys, tempfile, torch, triton
from triton.backends.compiler import GPUTarget
from asr.model.cuda import ctc, launch

class Driver:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device=None: 0
    get_current_target = lambda self: GPUTarget("cuda", int(sys.argv[1]), 32)

def compiled(kernel, grid, *args, **constants):
    code = kernel.run(*args, grid=grid, warmup=True, **constants).asm
    bases = {"%log_probs_bsv", "%mantissas_bs2i", "%exponents_bs2i", "%shares_bs2i", "%grads_bsv"}
    for line in code["ttir"].splitlines():
        if found := re.search(r"(%\\w+) = tt[.]splat (%\\w+) ", line):
            bases |= {found[1]} if found[2] in bases else set()
        if found := re.search(r"tt[.]addptr (%\\w+),.*?: ([^:]*) loc", line):
            short = found[1] in bases and "i64" not in found[2]
            assert not short, f"an offset of 32 bits from {found[1]}"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code["cubin"])
        file.flush()
        usage = subprocess.check_output([triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name])
    print(kernel.__name__, re.search(r"STACK:(\\d+)", usage.decode())[1])

triton.runtime.driver.set_active(Driver())
launch.launch = compiled
labels = int(sys.argv[2])
log_probs_bsv = torch.zeros(2, 3, 5, requires_grad=True)
lengths = torch.tensor([3, 2]), torch.ones(2, labels, dtype=torch.int64), torch.tensor([labels, 1])
ctc.ctc_loss(log_probs_bsv, *lengths).sum().backward()
"""


@pytest.mark.parametrize(
    ("capability", "labels"),
    [
        (80, 100),
        *[
            pytest.param(capability, labels, marks=pytest.mark.slow)
            for capability in (70, 75, 80, 90)
            for labels in (1, 63, 600, 2000, ctc.MOST_LABELS)
        ],
    ],
)
def test_the_kernels_compile_for_a_gpu_with_offsets_of_64_bits_and_all_numbers_in_registers(
    tmp_path, capability, labels
):
    settings = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability), str(labels)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    on_stack = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _ in on_stack] == ["forward_kernel", "backward_kernel", "collect_kernel"]
    if labels <= 2000:
        assert [size for _, size in on_stack] == ["0"] * 3
