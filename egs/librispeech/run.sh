#!/usr/bin/env bash
# LibriSpeech: from the host to word error rates, with a language model. Usage: egs/librispeech/run.sh [STAGE ...]
#   STAGE    prepare doctor lm train tune evaluate; all of them when none is named. What is done already is kept:
#            a download and a training that were cut go on where they were.
# and in the environment:
#   CONFIG   librispeech/small (100 hours), librispeech/base, librispeech/paper (960 hours), or a file
#   SUBSETS  what to prepare: A,B or all. Training uses all train-… of them, the first dev-… and every test-…;
#            default: those of train-clean-100, or of 960 hours, as CONFIG wants
#   MIRROR   http://…, https://… or file:///FOLDER in place of www.openslr.org
#   ARCHIVE  a folder with the archives, or with LibriSpeech/<subset> extracted
#   LM       a language model; LM_TEXT: a text, one sentence a line, to estimate a 3-gram of. Default: the official
#            3-gram of OpenSLR 11, pruned at 1e-7
#   SET      further settings of the config: "train.epochs=4 batch.workers=1"
#   SEED, WORK   1, work/librispeech
#
# Half an hour of one LibriVox reader, from a mirror that has it:
#   MIRROR=http://127.0.0.1:8000 SUBSETS=lj-train,lj-dev,lj-test LM_TEXT=text.gz CONFIG=an4/default egs/librispeech/run.sh
set -euo pipefail
archive=${ARCHIVE:+$(realpath "$ARCHIVE")}
lm_text=${LM_TEXT:+$(realpath -m "$LM_TEXT")}
given_lm=${LM:+$(realpath -m "$LM")}
config=${CONFIG:-librispeech/small}
[ ! -f "$config" ] || config=$(realpath "$config")
cd "$(dirname "$0")/../.."
case $config in
    librispeech/base | librispeech/paper) default=all name=960h ;;
    *) default=train-clean-100,dev-clean,dev-other,test-clean,test-other name=100h ;;
esac
subsets=${SUBSETS:-$default}
seed=${SEED:-1}
work=${WORK:-work/librispeech}
data=$work/data-${SUBSETS:-$name}
lm=${given_lm:-$work/lm/3-gram.bin}
run=$work/$(basename "$config" .yaml)-seed$seed
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh
named_file LM "$given_lm"
named_file LM_TEXT "$lm_text"

prepare() {
    [ -f "$data/prepared.json" ] || asr prepare librispeech --subsets "$subsets" ${MIRROR:+--mirror "$MIRROR"} \
        ${archive:+--archive "$archive"} --out "$data"
}

# What it finds is for a person to read and stops nothing (exit code 1); a mistake in its use does.
doctor() {
    asr doctor "$data"/{train,dev,test}.jsonl --config "$config" || [ $? -eq 1 ]
}

lm() {
    if [ -f "$lm" ]; then
        return
    elif [ -n "$lm_text" ]; then
        asr lm train "$lm_text" --out "$lm"
    else
        asr prepare librispeech-lm ${MIRROR:+--mirror "$MIRROR"} --out "$work/lm"
        asr lm build "$work/lm/3-gram.pruned.1e-7.arpa.gz" --out "$lm"
    fi
}

train() {
    local set=(--set "train.seed=$seed")
    for one in ${SET:-}; do set+=(--set "$one"); done
    start_or_resume "$run" "$config" --data "$data" "${set[@]}"
}

# On dev; the weights are saved with the model, and evaluation uses them.
tune() {
    tune_once "$run" "$data/dev.jsonl" "$lm" --cache "$work/log-probs"
}

# Each test set once, without a language model and with it: rows for RESULTS.md. test.jsonl is a copy of the first one.
evaluate() {
    for manifest in "$data"/*test*.jsonl; do
        name=$(basename "$manifest" .jsonl)
        [ "$name" != test ] || continue
        asr evaluate "$run" "$manifest" --decoder greedy --hypotheses "$run/$name-greedy.jsonl" --markdown \
            > "$run/$name-greedy.md"
        asr evaluate "$run" "$manifest" --lm "$lm" --hypotheses "$run/$name-lm.jsonl" --markdown > "$run/$name-lm.md"
        cat "$run/$name-greedy.md" "$run/$name-lm.md"
    done
}

run_stages "prepare doctor lm train tune evaluate" "$@"
