#!/usr/bin/env bash
# libsndfile cannot open an MP3 file by its name where an AppleDouble file lies beside it.
#
# A Mac that copies or packs files for other systems writes what it knows of a.mp3 into ._a.mp3. libsndfile looks for a
# file of that name (Sound Designer II keeps its header in the resource fork), finds one, and refuses the MP3: "bad data
# offset". The same MP3 is read when it is opened by descriptor, or after ._a.mp3 is removed. WAV, FLAC and Ogg are not
# affected. Every corpus of MP3 clips that a Mac has copied is unreadable by name.
#
# The guess: a file beside an audio file cannot matter to opening it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.2.6

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import sys

import numpy as np
import soundfile

print("python-soundfile", soundfile.__version__, "with", soundfile.__libsndfile_version__)
tone = np.sin(np.arange(16000) / 20).astype(np.float32) / 4
# the head of an AppleDouble file: magic number, version, filler, no entries
apple_double = bytes.fromhex("00051607 00020000") + b"Mac OS X        " + bytes(2)


def frames(path, how):
    try:
        source = path if how == "name" else os.open(path, os.O_RDONLY)
        with soundfile.SoundFile(source) as file:
            return file.frames
    except soundfile.SoundFileError as error:
        return f"error: {getattr(error, 'error_string', error)}"


seen = {}
for kind in ("MP3", "WAV", "FLAC", "OGG"):
    path = f"a.{kind.lower()}"
    soundfile.write(path, tone, 16000, format=kind)
    alone = frames(path, "name")
    with open(f"._{path}", "wb") as file:
        file.write(apple_double)
    seen[kind] = [frames(path, "name") == alone, frames(path, "descriptor") == alone]
    print(f"{path}: alone {alone}, beside ._{path} by name {frames(path, 'name')}, by descriptor {frames(path, 'descriptor')}")
expected = {"MP3": [False, True], "WAV": [True, True], "FLAC": [True, True], "OGG": [True, True]}
sys.exit(0 if seen == expected else 1)
PYTHON
