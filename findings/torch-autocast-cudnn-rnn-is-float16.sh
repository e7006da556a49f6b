#!/usr/bin/env bash
# Under torch.autocast("cuda", dtype=torch.bfloat16), cuDNN's recurrent layers (GRU, LSTM, RNN) run in float16: input and
# weights are cast to it, and the output has it, while a linear layer beside them gives bfloat16. A guess would be: what
# is asked for is what runs. So "bf16" training, which needs no loss scale, has recurrent layers that do need one:
# gradients below 3e-8 become 0 there, values above 65,504 become infinite, and nothing says so. With autocast off and
# bfloat16 tensors the same kernel runs in bfloat16. Source: aten/src/ATen/cudnn/AutocastRNN.cpp casts to at::kHalf.
# Fake tensors tell the dtypes. That needs no GPU, but torch's default wheel (about 6 GB of disk for a few minutes), as
# the one for CPUs has no such kernels. Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

print("torch", torch.__version__)
if not torch.backends.cudnn.is_available():
    sys.exit("this torch is built without cuDNN: nothing can be said")

GATES = {"LSTM": 4, "GRU": 3}
MODES = {"LSTM": 2, "GRU": 3}  # cudnnRNNMode_t
INPUTS, HIDDEN = 8, 16


def recurrent(kind, dtype, weight_dtype):
    """Return the dtype of the output of what torch.nn.GRU and LSTM call on a GPU, for 5 steps of 2 sequences."""
    gates = GATES[kind] * HIDDEN
    shapes = [(gates, INPUTS), (gates, HIDDEN), (gates,), (gates,)]
    x = torch.empty(5, 2, INPUTS, device="cuda:0", dtype=dtype)
    weights = [torch.empty(shape, device="cuda:0", dtype=weight_dtype) for shape in shapes]
    h = torch.empty(1, 2, HIDDEN, device="cuda:0", dtype=dtype)
    c = torch.empty_like(h) if kind == "LSTM" else None
    # hidden size, projection, layers, batch first, dropout, training, bidirectional, batch sizes, dropout state
    rest = (HIDDEN, 0, 1, False, 0.0, True, False, [], None)
    return torch._cudnn_rnn(x, weights, 4, None, h, c, MODES[kind], *rest)[0].dtype


found = set()
torch.set_autocast_dtype("cuda", torch.bfloat16)
with FakeTensorMode():
    for kind in GATES:
        # what torch.autocast("cuda", dtype=torch.bfloat16) does; it switches itself off where no GPU is
        torch.set_autocast_enabled("cuda", True)
        for dtype in (torch.float32, torch.bfloat16):
            # Weights of another dtype than float16 are cast too, but into a buffer whose size only a GPU's driver knows.
            found.add(recurrent(kind, dtype, torch.float16))
            print(f"autocast to bfloat16: {kind} of {dtype} gives {recurrent(kind, dtype, torch.float16)}")
        x, weight = torch.empty(2, 8, device="cuda:0"), torch.empty(4, 8, device="cuda:0")
        linear = torch.nn.functional.linear(x, weight).dtype
        torch.set_autocast_enabled("cuda", False)
        off = recurrent(kind, torch.bfloat16, torch.bfloat16)
        print(f"autocast to bfloat16: linear gives {linear}; autocast off: {kind} of bfloat16 gives {off}")
# Seen: torch.float16 for both kinds and both dtypes; linear, and the kernels with autocast off: torch.bfloat16.
as_described = found == {torch.float16} and linear == off == torch.bfloat16
sys.exit(None if as_described else "changed: the dtype of cuDNN's recurrent layers under autocast")
PY
