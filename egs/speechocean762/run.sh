#!/usr/bin/env bash
# speechocean762, English by speakers of Mandarin: from its Kaldi data directories to word error rates of children and
# adults. Under 40 minutes on two cores. Usage: egs/speechocean762/run.sh [STAGE ...]
#   STAGE    prepare train evaluate; all three when none is named. What is done already is kept.
# and in the environment:
#   ARCHIVE  the folder with train/ and test/, imported as Kaldi data; or speechocean762.tar.gz; downloaded when not given
#   CONFIG   speechocean762/default, or a file
#   SEED, WORK   1, work/speechocean762
set -euo pipefail
archive=${ARCHIVE:+$(realpath "$ARCHIVE")}
config=${CONFIG:-speechocean762/default}
[ ! -f "$config" ] || config=$(realpath "$config")
cd "$(dirname "$0")/../.."
seed=${SEED:-1}
work=${WORK:-work/speechocean762}
run=$work/$(basename "$config" .yaml)-seed$seed
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh

prepare() {
    if [ -f "$work/data/prepared.json" ]; then
        return
    elif [ -d "$archive" ]; then
        asr prepare kaldi "$archive" --dev 0.1 --out "$work/data"
    else
        asr prepare speechocean762 ${archive:+--archive "$archive"} --out "$work/data"
    fi
}

train() {
    start_or_resume "$run" "$config" --data "$work/data" --set "train.seed=$seed"
}

evaluate() {
    asr evaluate "$run" "$work/data/test.jsonl" --hypotheses "$run/test-hypotheses.jsonl" --markdown > "$run/test.md"
    cat "$run/test.md"
    asr score "$work/data/test.jsonl" "$run/test-hypotheses.jsonl" --by meta.group
}

run_stages "prepare train evaluate" "$@"
