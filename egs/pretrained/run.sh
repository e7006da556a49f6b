#!/usr/bin/env bash
# Several small corpora: one network trained on all of them, then on one of them alone. For a corpus that is too small to
# learn from by itself. Usage: egs/pretrained/run.sh [STAGE ...]
#   STAGE    combine pretrain train evaluate lm tune decode compare; all when none is named. What is done already is kept.
# and in the environment:
#   DATA     folders that 'asr prepare' made, apart by spaces; default: those of the examples an4 and speechocean762
#   TARGET   the one to train on in the end, and to be scored on; default: the first
#   NORMALIZE   for all texts while they are together; default: librispeech
#   LM       a language model; LM_TEXT: a text to estimate a 3-gram of; default: one of the target's training texts
#   MORE_TEXT   a text to mix with that 3-gram, weighted by the target's dev set: for words that the first one lacks
#   SET, FINAL_SET   further settings of the first and of the second training: "train.threads=1"
#   SEED, WORK   1 (of the second training; the first is the same for all), work/pretrained
set -euo pipefail
lm_text=${LM_TEXT:+$(realpath -m "$LM_TEXT")}
more_text=${MORE_TEXT:+$(realpath -m "$MORE_TEXT")}
given_lm=${LM:+$(realpath -m "$LM")}
cd "$(dirname "$0")/../.."
read -ra data <<< "${DATA:-work/an4/data work/speechocean762/data}"
target=${TARGET:-${data[0]}}
seed=${SEED:-1}
work=${WORK:-work/pretrained}
name=${target#work/}
name=${name%/data}
name=${name//\//-} # of the whole path, so that two targets never share a run: an4, -corpora-mine
name=${name#-}
run=$work/$name-seed$seed
lm=${given_lm:-$work/$name-3gram${more_text:+-more}.bin}
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh
named_file LM "$given_lm"
named_file LM_TEXT "$lm_text"
named_file MORE_TEXT "$more_text"

combine() {
    [ -f "$work/data/prepared.json" ] ||
        asr prepare combined "${data[@]}" --normalization "${NORMALIZE:-librispeech}" --out "$work/data"
}

pretrain() {
    local set=()
    for one in ${SET:-}; do set+=(--set "$one"); done
    start_or_resume "$work/all" egs/pretrained/all.yaml --data "$work/data" "${set[@]}"
}

train() {
    local set=(--set "train.seed=$seed")
    for one in ${FINAL_SET:-}; do set+=(--set "$one"); done
    start_or_resume "$run" egs/pretrained/one.yaml --data "$target" --init "$work/all" "${set[@]}"
}

# On test, once: a row for RESULTS.md, and the transcripts.
evaluate() {
    asr evaluate "$run" "$target/test.jsonl" --decoder greedy --hypotheses "$run/test-greedy.jsonl" --markdown
}

lm() {
    ngram "$lm" "${lm_text:-$target/train.jsonl}" "$target/dev.jsonl" "$more_text"
}

tune() {
    tune_once "$run" "$target/dev.jsonl" "$lm"
}

# With what was tuned on dev, which the command finds in the model folder.
decode() {
    asr evaluate "$run" "$target/test.jsonl" --hypotheses "$run/test-beam.jsonl" --markdown
}

compare() {
    asr compare "$run/test-greedy.jsonl" "$run/test-beam.jsonl"
}

run_stages "combine pretrain train evaluate lm tune decode compare" "$@"
