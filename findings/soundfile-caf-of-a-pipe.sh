#!/bin/sh
# A CAF file as a program writes it to a pipe, its data chunk of unknown size (-1, as the format's definition allows for
# the last chunk), is refused by libsndfile; with the size filled in the same bytes are read.
#
# A good guess: libsndfile reads it to its end, as it does WAV, AIFF, AU and W64 of unknown size. Seen with soundfile
# 0.14.0 (libsndfile 1.2.2): "Supported file format but file is malformed". Exits non-zero when that changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install soundfile==0.14.0 numpy==2.2.6
cd "$work"
cat > try.py <<'PY'
import io

import numpy as np
import soundfile as sf

print("soundfile", sf.__version__, sf.__libsndfile_version__)
whole = io.BytesIO()
sf.write(whole, np.random.default_rng(0).uniform(-0.1, 0.1, 16_000), 16000, format="CAF", subtype="PCM_16")
content = bytearray(whole.getvalue())
place = content.index(b"data") + 4
samples = len(sf.read(io.BytesIO(content))[0])
content[place : place + 8] = b"\xff" * 8
try:
    seen = f"{len(sf.read(io.BytesIO(content))[0])} samples"
except sf.LibsndfileError as error:
    seen = error.error_string
print(f"size stated: {samples} samples; size -1: {seen}")
assert samples == 16_000 and "malformed" in seen
PY
"$work/venv/bin/python" try.py
