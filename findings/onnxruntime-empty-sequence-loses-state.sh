#!/usr/bin/env bash
# onnxruntime: GRU, LSTM and RNN with a length of 0 in sequence_lens give zeros as the last state (Y_h), not the state
# that they were given (initial_h), with no warning. In a batch of streams whose states go from one piece to the next,
# a stream that had nothing to say in a piece has forgotten everything after it. A guess would be: no step, so the state
# stays, as torch's own cells have it. The ONNX text leaves it open (onnx/onnx, issue 1674).
# Seen: onnxruntime 1.32.0, on the CPU.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("onnxruntime", onnxruntime.__version__)
rng = np.random.default_rng(0)
INPUTS, UNITS, STREAMS, STEPS = 5, 4, 2, 3


def last_states(kind, gates, lengths):
    shapes = {"w": (1, gates * UNITS, INPUTS), "r": (1, gates * UNITS, UNITS), "b": (1, 2 * gates * UNITS)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    node = helper.make_node(kind, ["x", "w", "r", "b", "lengths", "state"], ["", "last"], hidden_size=UNITS)
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, STREAMS, INPUTS]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, [STREAMS]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, STREAMS, UNITS]),
    ]
    outputs = [helper.make_tensor_value_info("last", TensorProto.FLOAT, [1, STREAMS, UNITS])]
    graph = helper.make_graph([node], "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {
        "x": rng.standard_normal((STEPS, STREAMS, INPUTS)).astype(np.float32),
        "lengths": np.array(lengths, np.int32),
        "state": np.full((1, STREAMS, UNITS), 0.5, np.float32),
    }
    return session.run(None, given)[0][0]


lost = []
for kind, gates in (("GRU", 3), ("LSTM", 4), ("RNN", 1)):
    spoke, silent = last_states(kind, gates, [STEPS, 0])
    lost.append(bool((silent == 0).all() and spoke.any()))
    print(f"{kind}: state 0.5 before, after {STEPS} steps {spoke}, after none {silent}")

sys.exit(None if all(lost) else "changed: the state after a sequence of no steps")
PY
