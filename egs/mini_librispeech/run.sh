#!/usr/bin/env bash
# Mini LibriSpeech, 5 hours: from the host to word error rates, with a language model. About four hours on two cores, a
# quarter of an hour on a GPU (estimates, see recipes/mini_librispeech/README.md).
# Usage: egs/mini_librispeech/run.sh [STAGE ...]
#   STAGE    prepare doctor lm train tune evaluate; all of them when none is named. What is done already is kept:
#            a download and a training that were cut go on where they were.
# and in the environment:
#   CONFIG   mini_librispeech/default, or a file
#   MIRROR   http://…, https://… or file:///FOLDER in place of www.openslr.org
#   ARCHIVE  a folder with the archives, or with LibriSpeech/<subset> extracted
#   LM       a language model; default: the official 3-gram of OpenSLR 11, pruned at 1e-7
#   SEED, WORK   1, work/mini_librispeech
set -euo pipefail
archive=${ARCHIVE:+$(realpath "$ARCHIVE")}
given_lm=${LM:+$(realpath -m "$LM")}
config=${CONFIG:-mini_librispeech/default}
[ ! -f "$config" ] || config=$(realpath "$config")
cd "$(dirname "$0")/../.."
seed=${SEED:-1}
work=${WORK:-work/mini_librispeech}
data=$work/data
lm=${given_lm:-$work/lm/3-gram.bin}
run=$work/$(basename "$config" .yaml)-seed$seed
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh
named_file LM "$given_lm"

prepare() {
    [ -f "$data/prepared.json" ] || asr prepare mini_librispeech ${MIRROR:+--mirror "$MIRROR"} \
        ${archive:+--archive "$archive"} --out "$data"
}

# What it finds is for a person to read and stops nothing (exit code 1); a mistake in its use does.
doctor() {
    asr doctor "$data"/{train,dev,test}.jsonl --config "$config" || [ $? -eq 1 ]
}

lm() {
    [ ! -f "$lm" ] || return 0
    asr prepare librispeech-lm ${MIRROR:+--mirror "$MIRROR"} --out "$work/lm"
    asr lm build "$work/lm/3-gram.pruned.1e-7.arpa.gz" --out "$lm"
}

train() {
    start_or_resume "$run" "$config" --data "$data" --set "train.seed=$seed"
}

# On dev; the weights are saved with the model, and evaluation uses them.
tune() {
    tune_once "$run" "$data/dev.jsonl" "$lm" --cache "$work/log-probs"
}

# LibriSpeech's test-clean once, without a language model and with it: rows for RESULTS.md.
evaluate() {
    asr evaluate "$run" "$data/test.jsonl" --decoder greedy --hypotheses "$run/test-greedy.jsonl" --markdown \
        > "$run/test-greedy.md"
    asr evaluate "$run" "$data/test.jsonl" --lm "$lm" --hypotheses "$run/test-lm.jsonl" --markdown > "$run/test-lm.md"
    cat "$run/test-greedy.md" "$run/test-lm.md"
}

run_stages "prepare doctor lm train tune evaluate" "$@"
