#!/usr/bin/env bash
# torch.amp.GradScaler leaves out an update whose gradients overflow. Its documentation: "optimizer.step() is skipped". A
# guess would be: so the step hooks of the optimizer run for real updates only. With AdamW(fused=False) they do. With
# fused=True, step() is called all the same, the kernel leaves the weights alone, and the hooks run: what they do (weight
# decay of one's own, an average of weights, a count of updates) happens on overflow, with one setting of speed only.
# A hook can ask optimizer.found_inf, which is there while step() runs. Source: torch/amp/grad_scaler.py, step.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import math
import sys

import torch
from torch import nn

print("torch", torch.__version__)


def step(fused, overflow):
    """Return how often a hook ran for one update, and whether the weight moved."""
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    before = layer.weight.detach().clone()
    scaler.scale(layer(torch.ones(1, 1)).sum()).backward()
    if overflow:
        layer.weight.grad.fill_(math.inf)
    scaler.step(optimizer)
    scaler.update()
    return len(calls), not torch.equal(before, layer.weight)


found = {}
for fused in (False, True):
    for overflow in (False, True):
        calls, moved = found[fused, overflow] = step(fused, overflow)
        print(f"fused={fused}, overflow={overflow}: hook ran {calls} times, weight moved: {moved}")

as_described = found == {
    (False, False): (1, True),
    (False, True): (0, False),
    (True, False): (1, True),
    (True, True): (1, False),
}
sys.exit(None if as_described else "changed: step hooks of updates that GradScaler leaves out")
PY
