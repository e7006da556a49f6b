#!/usr/bin/env bash
# Spoken digits, at their own 8 kHz and resampled to 16: from the archive to a word error rate. About three minutes each
# on two cores. Usage: egs/fsdd/run.sh [STAGE ...]
#   STAGE    prepare train evaluate; all three when none is named. What is done already is kept.
# and in the environment:
#   ARCHIVE  the repository as .tar.gz, or its folder; downloaded when not given
#   CONFIG   fsdd/default (8 kHz) or fsdd/16k
#   SEED, WORK   1, work/fsdd
set -euo pipefail
archive=${ARCHIVE:+$(realpath "$ARCHIVE")}
cd "$(dirname "$0")/../.."
config=${CONFIG:-fsdd/default}
seed=${SEED:-1}
work=${WORK:-work/fsdd}
run=$work/$(basename "$config")-seed$seed
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh

prepare() {
    [ -f "$work/data/prepared.json" ] || asr prepare fsdd ${archive:+--archive "$archive"} --out "$work/data"
}

train() {
    start_or_resume "$run" "$config" --data "$work/data" --set "train.seed=$seed"
}

evaluate() {
    asr evaluate "$run" "$work/data/test.jsonl" --hypotheses "$run/test-hypotheses.jsonl" --markdown > "$run/test.md"
    cat "$run/test.md"
}

run_stages "prepare train evaluate" "$@"
