#!/usr/bin/env bash
# LJ Speech, one reader: from the archive (2.7 GB) to a word error rate. About a day on two cores, an hour or so on a GPU.
# Usage: egs/ljspeech/run.sh [STAGE ...]
#   STAGE    prepare train evaluate; all three when none is named. What is done already is kept.
# and in the environment:
#   ARCHIVE  LJSpeech-1.1.tar.bz2, or its folder; downloaded when not given
#   CONFIG   ljspeech/default, or a file
#   SEED, WORK   1, work/ljspeech
set -euo pipefail
archive=${ARCHIVE:+$(realpath "$ARCHIVE")}
config=${CONFIG:-ljspeech/default}
[ ! -f "$config" ] || config=$(realpath "$config")
cd "$(dirname "$0")/../.."
seed=${SEED:-1}
work=${WORK:-work/ljspeech}
run=$work/$(basename "$config" .yaml)-seed$seed
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh

prepare() {
    [ -f "$work/data/prepared.json" ] || asr prepare ljspeech ${archive:+--archive "$archive"} --out "$work/data"
}

train() {
    start_or_resume "$run" "$config" --data "$work/data" --set "train.seed=$seed"
}

evaluate() {
    asr evaluate "$run" "$work/data/test.jsonl" --hypotheses "$run/test-hypotheses.jsonl" --markdown > "$run/test.md"
    cat "$run/test.md"
}

run_stages "prepare train evaluate" "$@"
