#!/usr/bin/env bash
# torch's meta device, on which a network is planned without memory for its weights: a guess would be that drawing first
# values costs nothing there, since nothing is drawn. Linear, Conv2d, GRU and LSTM layers (uniform_) are indeed free. The
# first normal_, as in nn.Embedding and nn.init.normal_, loads about 890 modules, sympy among them, and takes a second:
# more than reading the weights of a small model. Planning without first values (a TorchFunctionMode that skips
# torch.nn.init, or weights assigned to layers made with skip_init) avoids it.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys
import time

import torch
from torch import nn

print("torch", torch.__version__)


def loaded_by(build):
    before, began_s = set(sys.modules), time.perf_counter()
    with torch.device("meta"):
        build()
    return len(set(sys.modules) - before), time.perf_counter() - began_s


LAYERS = {
    "Linear": lambda: nn.Linear(8, 8),
    "Conv2d": lambda: nn.Conv2d(1, 8, 3),
    "GRU": lambda: nn.GRU(8, 8),
    "LSTM": lambda: nn.LSTM(8, 8),
    "orthogonal_": lambda: nn.init.orthogonal_(torch.empty(8, 8)),
    "Embedding": lambda: nn.Embedding(8, 8),
    "Embedding again": lambda: nn.Embedding(8, 8),
}
modules = {}
for name, build in LAYERS.items():
    modules[name], seconds = loaded_by(build)
    print(f"{name:16} {modules[name]:4} modules loaded, {seconds:.3f} s")
# Seen: 0 or 1 module and about 0.001 s for all but the first Embedding: 892 modules and 1.2 s.
as_described = modules.pop("Embedding") > 500 and "sympy" in sys.modules and max(modules.values()) < 50
sys.exit(None if as_described else "changed: what the meta device loads")
PY
