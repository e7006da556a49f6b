#!/bin/sh
# A FLAC file that was cut: after a look for its last sample, python-soundfile gives nothing of it any more.
#
# A good guess: the seek to the missing end raises, and seek(0) brings the file back, as its first half is there. Seen with
# soundfile 0.14.0 (libsndfile 1.2.2): the seek raises "Internal psf_fseek() failed", and so does every call after it,
# seek(0) and read included. A file that is opened anew gives its first half. Exits non-zero when that changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install soundfile==0.14.0 numpy==2.2.6
cd "$work"
cat > try.py <<'PY'
import numpy as np
import soundfile as sf


def outcome(call):
    try:
        return call()
    except sf.LibsndfileError as error:
        return error.error_string


print("soundfile", sf.__version__, sf.__libsndfile_version__)
sf.write("whole.flac", np.random.default_rng(0).uniform(-0.1, 0.1, 160_000), 16000)
content = open("whole.flac", "rb").read()
open("cut.flac", "wb").write(content[: len(content) // 2])
with sf.SoundFile("cut.flac") as file:
    seen = [outcome(call) for call in (lambda: file.seek(file.frames - 1), lambda: file.seek(0), lambda: file.read(16000))]
with sf.SoundFile("cut.flac") as file:
    anew = len(file.read(16000))
print("seek to the last sample, seek(0), read:", seen, "- samples of a file opened anew:", anew)
assert seen == ["Internal psf_fseek() failed."] * 3 and anew == 16000
PY
"$work/venv/bin/python" try.py
