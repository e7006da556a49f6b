#!/usr/bin/env bash
# AN4 from its archive to word error rates, without and with a language model. A quarter of an hour on two cores with
# an4/default, under a minute with an4/smoke. Usage: egs/an4/run.sh [STAGE ...]
#   STAGE    prepare train evaluate lm tune decode compare; all when none is named. What is done already is kept.
# and in the environment:
#   ARCHIVE  an4_sphere.tar.gz; downloaded when not given
#   CONFIG   an4/default or an4/smoke
#   MORE_TEXT   sentences of anything in capitals, for words that the transcripts lack; of 'asr prepare librispeech-lm', say
#   SEED, WORK   1, work/an4
set -euo pipefail
archive=${ARCHIVE:+$(realpath "$ARCHIVE")}
more_text=${MORE_TEXT:+$(realpath -m "$MORE_TEXT")}
cd "$(dirname "$0")/../.."
config=${CONFIG:-an4/default}
seed=${SEED:-1}
work=${WORK:-work/an4}
run=$work/$(basename "$config")-seed$seed
lm=$work/3gram${more_text:+-more}.arpa
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh
named_file MORE_TEXT "$more_text"

prepare() {
    [ -f "$work/data/prepared.json" ] || asr prepare an4 ${archive:+--archive "$archive"} --out "$work/data"
}

train() {
    start_or_resume "$run" "$config" --data "$work/data" --set "train.seed=$seed"
}

# On test, once, the model that was best on dev: a row for RESULTS.md, and the transcripts.
evaluate() {
    asr evaluate "$run" "$work/data/test.jsonl" --decoder greedy --hypotheses "$run/test-greedy.jsonl" --markdown
}

# The training transcripts are all the text there is for this task.
lm() {
    ngram "$lm" "$work/data/train.jsonl" "$work/data/dev.jsonl" "$more_text"
}

tune() {
    tune_once "$run" "$work/data/dev.jsonl" "$lm"
}

# With what was tuned on dev, which the command finds in the model folder.
decode() {
    asr evaluate "$run" "$work/data/test.jsonl" --hypotheses "$run/test-beam.jsonl" --markdown
}

compare() {
    asr compare "$run/test-greedy.jsonl" "$run/test-beam.jsonl"
}

run_stages "prepare train evaluate lm tune decode compare" "$@"
