#!/usr/bin/env bash
# What pays on a small corpus: one change of a config at a time, trained, and a Markdown table with what each makes of the
# dev set. To sort ideas, not to settle them: one seed, and on few words most differences are chance, which the table says.
# Usage: egs/ablations.sh DATA OUT [NAME ...]
#   DATA     a folder that 'asr prepare' made
#   OUT      where the runs go, by config, epochs and seed; what is done already is kept, and killed runs go on
#   NAME     of the changes below; all when none is named. 'as-it-is' is the config itself, and always made
# and in the environment:
#   CONFIG   an4/default
#   EPOCHS   24
#   SEED, THREADS   1; one a core
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$(realpath "$1")
out=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
config=${CONFIG:-an4/default}
epochs=${EPOCHS:-24}
seed=${SEED:-1}
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh

declare -A change=(
    [as-it-is]=""
    [no-speeds]="augment.speeds=[1.0]"
    [seven-speeds]="augment.speeds=[0.85,0.9,0.95,1.0,1.05,1.1,1.15]"
    [no-masks]="augment.spec.freq_masks=0 augment.spec.time_masks=0"
    [more-masks]="augment.spec.freq_width_bins=20 augment.spec.time_masks=3 augment.spec.time_width_s=0.3 augment.spec.time_width_fraction=0.2"
    [warp]="augment.warp=0.1"
    [noise]="augment.noise.probability=0.3"
    [rooms]="augment.reverb.probability=0.3"
    [no-average]="train.ema_decay=0"
    [no-dropout]="model.dropout=0"
    [dropout-0.5]="model.dropout=0.5"
    [late-dropout]="train.dropout_schedule=[[0.1,0.0],[0.5,0.4]]"
    [label-smoothing]="train.label_smoothing=0.05"
    [one-view]="train.consistency=0"
    [two-views]="train.consistency=0.2"
    [two-views-0.5]="train.consistency=0.5"
    [no-norm]="model.norm=false"
)
[ $# -gt 0 ] || mapfile -t names < <(printf '%s\n' "${!change[@]}" | sort)
[ $# -eq 0 ] || names=("$@")
for name in "${names[@]}"; do
    [ -v "change[$name]" ] || { echo "no change '$name' (${!change[*]})" >&2; exit 2; }
done

runs=()
for name in as-it-is "${names[@]}"; do
    run=$out/${config//\//-}-$epochs-seed$seed/$name
    [[ " ${runs[*]-} " != *" $run "* ]] || continue
    echo "== $name" >&2
    set=(--set "train.epochs=$epochs" --set "train.seed=$seed" ${THREADS:+--set "train.threads=$THREADS"})
    for one in ${change[$name]}; do set+=(--set "$one"); done
    start_or_resume "$run" "$config" --data "$data" "${set[@]}"
    [ -f "$run/dev.jsonl" ] || asr evaluate "$run" "$data/dev.jsonl" --decoder greedy --hypotheses "$run/dev.jsonl" > "$run/dev.txt"
    runs+=("$run")
done
python egs/ablations.py "${runs[@]}"
