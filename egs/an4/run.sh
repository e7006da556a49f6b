#!/usr/bin/env bash
# AN4 from its archive to a word error rate. Usage: egs/an4/run.sh ARCHIVE [CONFIG] [SEED] [WORK_FOLDER]
#   ARCHIVE  an4_sphere.tar.gz
#   CONFIG   an4/default (a quarter of an hour on two cores) or an4/smoke (under two minutes)
# Each stage is skipped when its result is there; training resumes where it was stopped.
set -euo pipefail
archive=$(realpath "${1:?usage: egs/an4/run.sh ARCHIVE [CONFIG] [SEED] [WORK_FOLDER]}")
cd "$(dirname "$0")/../.."
config=${2:-an4/default}
seed=${3:-1}
work=${4:-work/an4}
run=$work/$(basename "$config")-seed$seed
export PATH="$PWD/.venv/bin:$PATH"

[ -f "$work/data/test.jsonl" ] || asr prepare an4 --archive "$archive" --out "$work/data"
if [ ! -f "$run/config.yaml" ]; then
    asr train "$config" --data "$work/data" --out "$run" --set "train.seed=$seed"
else
    asr train --resume "$run"
fi
# One evaluation on test, of the model that was best on dev: a row for RESULTS.md, and the transcripts.
asr evaluate "$run" "$work/data/test.jsonl" --hypotheses "$run/test-hypotheses.jsonl" --markdown > "$run/test.md"
cat "$run/test.md"
asr score "$work/data/test.jsonl" "$run/test-hypotheses.jsonl"
