#!/usr/bin/env bash
# The whole way on a corpus that is made here: spoken digits -> manifests -> model -> WER -> transcript -> picture.
# Offline; about a minute on two cores. Run again, it keeps what is done. Usage: egs/quickstart/run.sh [WORK_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${1:-work/quickstart}
run=$work/run
began=$SECONDS
export PATH="$PWD/.venv/bin:$PATH"

echo "== 1. make a corpus: three to five spoken digits an utterance, 110 synthetic voices, 20 of them only in the test set"
[ -f "$work/data/test.jsonl" ] || asr prepare digits --out "$work/data"

echo "== 2. train a small Deep Speech 2 model with CTC"
if [ ! -f "$run/config.yaml" ]; then
    asr train digits/default --data "$work/data" --out "$run"
else
    asr train --resume "$run"
fi

echo "== 3. word error rate on the voices it has never heard"
asr evaluate "$run" "$work/data/test.jsonl" --hypotheses "$work/hypotheses.jsonl" --json > "$work/result.json"
asr score "$work/data/test.jsonl" "$work/hypotheses.jsonl"

echo "== 4. transcribe one file, and draw what the model heard"
files=("$work"/data/audio/test/*.wav)
file=${files[0]}
asr transcribe "$run" "$file" --picture "$work/posteriors.png"

echo "== done in $((SECONDS - began)) s"
echo "look at   $work/posteriors.png"
echo "try next  asr transcribe $run YOUR_FILE.wav    (it knows ten words: the digits)"
echo "or train on real speech: ARCHIVE=an4_sphere.tar.gz egs/an4/run.sh"
