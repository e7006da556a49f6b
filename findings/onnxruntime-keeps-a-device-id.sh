#!/usr/bin/env bash
# onnxruntime's packages for Linux: from some version on, loading a model writes a random id of this machine and account
# and a database of events below ~/.cache/Microsoft, to report each use to the maker. The program is not asked, and
# nothing is printed. ORT_DISABLE_TELEMETRY=1, set before the library is loaded, leaves both out. A guess would be: a
# library that computes a graph writes nothing outside its own folder, as the versions before do.
# (The events leave by HTTPS; that is not part of this script, which only looks at what is written.)
# Seen: onnxruntime 1.32.0 writes both, 1.28.0 neither; CPU packages, Python 3.11.
# Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 1.28.0 1.32.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
        numpy==2.4.6 onnx==1.23.2 onnxruntime==$version
done

cat > "$folder/use.py" <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert session.run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [-1, -1]
PY

written() { # version, environment...: the files that one use leaves in an empty home folder
    rm -rf "$folder/home"
    mkdir "$folder/home"
    env -u XDG_CACHE_HOME "${@:2}" HOME="$folder/home" "$folder/$1/bin/python" "$folder/use.py" 2> /dev/null
    (cd "$folder/home" && find . -type f | sort | tr '\n' ' ')
}

before=$(written 1.28.0 A=1)
now=$(written 1.32.0 A=1)
silent=$(written 1.32.0 ORT_DISABLE_TELEMETRY=1)
echo "1.28.0: [$before]"
echo "1.32.0: [$now]"
echo "1.32.0 with ORT_DISABLE_TELEMETRY=1: [$silent]"
[ -z "$before" ] && [[ "$now" == *deviceid* ]] && [ -z "$silent" ] || { echo "changed" >&2; exit 1; }
