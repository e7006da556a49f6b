#!/usr/bin/env bash
# torch.backends.fp32_precision = "ieee", the switch since torch 2.9 for real float32 everywhere, instead of allow_tf32.
# A guess would be: afterwards nothing computes in TF32, and code that only switches cuDNN off for a block still runs.
# torch 2.11.0: cuDNN's convolutions and recurrent layers stay at TF32; no warning says so.
# torch 2.14.1: they are at float32, but from then on "with torch.backends.cudnn.flags(enabled=False)", as libraries have
# it for second derivatives of recurrent layers, raises a RuntimeError, although it does not mention TF32.
# The older names, torch.backends.cudnn.allow_tf32 = False and torch.backends.cuda.matmul.allow_tf32 = False, have
# neither fault in both versions. Needs no GPU, and about 6 GB of disk for a few minutes.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat >"$folder/check.py" <<'PY'
import sys
import warnings

import torch

warnings.simplefilter("error")
cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul


def state():
    """Return what convolutions, recurrent layers and products compute in, and what a block without cuDNN raises."""
    raised = None
    try:
        with cudnn.flags(enabled=False):
            pass
    except RuntimeError as error:
        raised = str(error)
    return [kernels.fp32_precision for kernels in (cudnn.conv, cudnn.rnn, matmul)], raised


if sys.argv[1] == "older":
    cudnn.allow_tf32 = False
    matmul.allow_tf32 = False
else:
    torch.backends.fp32_precision = "ieee"
precisions, raised = state()
print("torch", torch.__version__, sys.argv[1], "name:", precisions, f"flags() raises: {(raised or 'nothing')[:60]}")
# Seen: 2.11.0 newer: tf32, tf32, ieee; 2.14.1 newer: ieee for all, and an error about different TF32 flags.
if sys.argv[1] == "older":
    as_described = "tf32" not in precisions and raised is None
elif torch.__version__.startswith("2.11."):
    as_described = precisions == ["tf32", "tf32", "ieee"] and raised is None
else:
    as_described = precisions == ["ieee"] * 3 and raised is not None and "TF32" in raised
sys.exit(None if as_described else "changed: what fp32_precision and allow_tf32 do")
PY
for version in 2.11.0 2.14.1; do
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==$version" numpy==2.4.6
    "$folder/venv/bin/python" "$folder/check.py" newer
    "$folder/venv/bin/python" "$folder/check.py" older
done
