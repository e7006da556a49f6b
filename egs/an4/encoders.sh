#!/usr/bin/env bash
# The acoustic models side by side on AN4, all of one size: an4/encoder-*, trained, measured, and one Markdown table.
# Usage: egs/an4/encoders.sh [NAME ...]
#   NAME     of an4/encoder-NAME; all when none is named. What is done already is kept, and killed runs go on.
# and in the environment:
#   ARCHIVE  an4_sphere.tar.gz; downloaded when not given
#   EPOCHS   64, the configs' own: two to four hours on two cores for all; 12 is a first look in one
#   THREADS  of torch; one a core when not given
#   SEED, WORK   1, work/an4
set -euo pipefail
archive=${ARCHIVE:+$(realpath "$ARCHIVE")}
cd "$(dirname "$0")/../.."
epochs=${EPOCHS:-64}
seed=${SEED:-1}
work=${WORK:-work/an4}
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh
[ $# -gt 0 ] || set -- tanh tanh-bi gru gru-lookahead gru-bi gru-residual lstm lstm-bi tdnn tdnn-plain mlp

[ -f "$work/data/prepared.json" ] || asr prepare an4 ${archive:+--archive "$archive"} --out "$work/data"

runs=()
for name in "$@"; do
    run=$work/encoders-$epochs-seed$seed/$name
    echo "== $name" >&2
    start_or_resume "$run" "an4/encoder-$name" --data "$work/data" \
        --set "train.epochs=$epochs" --set "train.seed=$seed" ${THREADS:+--set "train.threads=$THREADS"}
    runs+=("$run")
done
python egs/encoders.py measure "${runs[@]}"
python egs/encoders.py table "$work/data/test.jsonl" "${runs[@]}"
