#!/usr/bin/env bash
# torchaudio 2.11.1 declares "torch>=2.11", so pip accepts it beside torch 2.11 and 2.12, but it does not load there:
# it needs a symbol that torch has from 2.13 on. torchaudio 2.11.0 loads with 2.11, 2.12, 2.13 and 2.14.
# A guess would be: a requirement that pip accepts is one that imports, and a patch release widens the range.
# Needs about 6 GB of disk for a few minutes. Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip install --quiet --disable-pip-version-check"
load='import torch, torchaudio; print("loads: torch", torch.__version__, "with torchaudio", torchaudio.__version__)'

$pip torch==2.12.0 torchaudio==2.11.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import requires
print("torchaudio 2.11.1 declares:", requires("torchaudio"))
assert any(line.startswith("torch>=2.11") for line in requires("torchaudio"))
PY
if "$folder/venv/bin/python" -c "$load" 2>"$folder/error"; then
    echo "changed: torchaudio 2.11.1 loads with torch 2.12.0" >&2
    exit 1
fi
# Seen: OSError: .../libtorchaudio.so: undefined symbol: torch_exception_get_what_without_backtrace
grep -o "undefined symbol: .*" "$folder/error" | head -n 1

$pip torchaudio==2.11.0
"$folder/venv/bin/python" -c "$load"
