#!/usr/bin/env bash
# torch's F.ctc_loss in float32 on the CPU: the loss of a long utterance is right, its gradient is not. On random outputs
# over 30 tokens the gradient is off by 0.4 % of its norm at 1,000 steps and by more than 10 % at 12,000, while
# the loss stays right to 1e-4. A guess would be: where the loss is right to six digits, so is the gradient.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import torch.nn.functional as F

print("torch", torch.__version__)


def loss_and_gradient(steps, kind):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(steps, 1, 30, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, 30, (1, steps // 8), generator=generator)
    outputs = logits.to(kind).requires_grad_()
    loss = F.ctc_loss(outputs.log_softmax(-1), targets, torch.tensor([steps]), torch.tensor([steps // 8]), reduction="sum")
    loss.backward()
    return loss.item(), outputs.grad.double()


found = {}
for steps in (300, 1000, 3000, 12000):
    loss, gradient = loss_and_gradient(steps, torch.float64)
    loss32, gradient32 = loss_and_gradient(steps, torch.float32)
    error = ((gradient32 - gradient).norm() / gradient.norm()).item()
    found[steps] = error, abs(loss32 - loss) / loss
    print(f"{steps:6d} steps: gradient off by {error:.2%} of its norm, loss by {found[steps][1]:.1e}")
# Seen: 0.04, 0.38, 1.7 and 44 %.
as_described = found[1000][0] < 0.02 and found[12000][0] > 0.1 and all(loss < 1e-4 for _, loss in found.values())
sys.exit(None if as_described else "changed: float32 gradients of long utterances")
PY
