"""Check of the CTC loss: numbers beside torch's in float64 on the CPU, and time beside torch's own on the device.

Axes: b batch, s steps, v vocabulary, u targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

import asr.ctc
from asr.ctc import ctc_loss
from asr.data.tokenizer import BLANK_ID
from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.machine import distance, worst_share
from benchmarks.gpu.profiling import milliseconds


@dataclass(frozen=True)
class CtcCase:
    """A batch for the CTC loss: its shape, and the longest text."""

    name: str
    batch: int
    steps: int
    vocabulary: int
    targets: int


CTC_CASES = (
    CtcCase("letters", 32, 400, 29, 100),
    CtcCase("long", 4, 3000, 29, 600),
    CtcCase("subwords", 8, 300, 5000, 60),
    CtcCase("long, subwords", 2, 3000, 5000, 600),
)
QUICK_CTC_CASES = (CtcCase("letters", 4, 60, 29, 12), CtcCase("subwords", 2, 20, 500, 6))


def ctc(setting: Setting, found: Findings) -> None:
    """Compare losses and gradients with torch's on the CPU in float64, and the time with torch's on the device."""
    if setting.cuda:
        found.holds("the kernels of asr run here", asr.ctc._kernels(setting.device) is not None)
    for case in QUICK_CTC_CASES if setting.quick else CTC_CASES:
        inputs = ctc_inputs(case)
        exact = ctc_exact(*inputs)
        first, again = (ctc_here(setting, *inputs) for _ in range(2))
        found.at_most(f"{case.name}: losses", worst_share(exact[0], first[0]), 1e-5)
        # On a CPU it is torch's, whose float32 loses digits with the steps.
        limit = 1e-4 if setting.cuda else 1e-3
        found.at_most(f"{case.name}: gradients", distance(exact[1], first[1]), limit)
        found.holds(f"{case.name}: the same bits twice", all(map(torch.equal, first, again)))

    for vocabulary in (29,) if setting.quick else (29, 5000):
        _time_ctc(setting, found, vocabulary)


def _time_ctc(setting: Setting, found: Findings, vocabulary: int) -> None:
    batch, steps = (4, 50) if setting.quick else (64, 500)
    logits_bsv, *rest = ctc_inputs(CtcCase("speed", batch, steps, vocabulary, steps // 5))
    log_probs_bsv = logits_bsv.to(setting.device).log_softmax(2).requires_grad_()
    ours = milliseconds(setting, lambda: ctc_loss(log_probs_bsv, *rest).sum().backward())
    theirs = milliseconds(setting, lambda: _torch_ctc(log_probs_bsv, *rest).sum().backward())
    name = f"{batch} x {steps} steps, {vocabulary} tokens, ms"
    found.note(name, {"ours": median(ours), "torch": median(theirs)})


def ctc_inputs(case: CtcCase, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw (logits_bsv, num_steps_b, targets_bu, num_targets_b), all on the CPU; the first fills the whole shape.

    The texts have repeated labels; the last utterance has no label, the one before exactly as many as its steps hold.
    """
    random = torch.Generator().manual_seed(seed)
    b, s, v, u = case.batch, case.steps, case.vocabulary, case.targets
    logits_bsv = 3 * torch.randn(b, s, v, generator=random)
    targets_bu = torch.randint(1, v, (b, u), generator=random)
    repeats_bu = torch.rand(b, u, generator=random) < 0.2
    targets_bu[:, 1:] = torch.where(repeats_bu[:, 1:], targets_bu[:, :-1], targets_bu[:, 1:])
    num_targets_b = torch.randint(u // 2, u + 1, (b,), generator=random)
    num_steps_b = torch.randint(max(2 * u, s // 2), s + 1, (b,), generator=random)
    num_steps_b[0], num_targets_b[0] = s, u

    num_targets_b[-1] = 0
    tight = targets_bu[-2, : int(num_targets_b[-2])]
    num_steps_b[-2] = len(tight) + int((tight[1:] == tight[:-1]).sum())
    if b == 2:  # the first row is the large one
        num_steps_b[0], num_targets_b[0] = s, u
    return logits_bsv, num_steps_b, targets_bu, num_targets_b


def ctc_exact(logits_bsv: Tensor, *lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return torch's losses and their gradient at the logits, in float64 on the CPU."""
    wide_bsv = logits_bsv.detach().double().requires_grad_()
    losses_b = _torch_ctc(wide_bsv.log_softmax(2), *lengths)
    losses_b.sum().backward()
    assert wide_bsv.grad is not None
    return losses_b.detach(), wide_bsv.grad


def ctc_here(setting: Setting, logits_bsv: Tensor, *lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return our losses and their gradient at the logits, on the device; the lengths stay on the CPU."""
    here_bsv = logits_bsv.detach().clone().to(setting.device).requires_grad_()
    losses_b = ctc_loss(here_bsv.log_softmax(2), *lengths)
    losses_b.sum().backward()
    assert here_bsv.grad is not None
    return losses_b.detach().cpu(), here_bsv.grad.cpu()


def _torch_ctc(log_probs_bsv: Tensor, num_steps_b: Tensor, targets_bu: Tensor, num_targets_b: Tensor) -> Tensor:
    targets_bu = targets_bu.to(log_probs_bsv.device)
    return F.ctc_loss(
        log_probs_bsv.transpose(0, 1), targets_bu, num_steps_b, num_targets_b, blank=BLANK_ID, reduction="none"
    )
