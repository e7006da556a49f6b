# shellcheck shell=bash
# What the run.sh have in common; sourced.

# The end of every run.sh: runs the stages that were named, each a function, or all, in their order:
#     run_stages "prepare train evaluate" "$@"
run_stages() {
    local stages=$1 stage
    shift
    # shellcheck disable=SC2086 # a list of words
    [ $# -gt 0 ] || set -- $stages
    for stage in "$@"; do
        case " $stages " in
            *" $stage "*) ;;
            *) echo "no stage '$stage' ($stages)" >&2; exit 2 ;;
        esac
    done
    for stage in "$@"; do
        echo "== $stage" >&2
        "$stage"
    done
}

# A file that was named must be there: it is never made. Arguments: what it is called, its path or nothing.
named_file() {
    [ -z "$2" ] || [ -f "$2" ] || { echo "$1=$2: no such file" >&2; exit 2; }
}

# A 3-gram of a text; with a second text, one of both, weighted by a dev set: OUT TEXT DEV, the second text or nothing.
ngram() {
    local out=$1 text=$2 dev=$3 more=$4
    [ ! -f "$out" ] || return 0
    if [ -z "$more" ]; then
        asr lm train "$text" --order 3 --out "$out"
    else
        asr lm train "$text" --order 3 --out "$out.own.bin"
        asr lm train "$more" --order 3 --out "$out.more.bin"
        asr lm mix "$out.own.bin" "$out.more.bin" --text "$dev" --out "$out"
    fi
}

# Tunes a decoder, unless that was done with this language model: RUN DEV LM, then further options of 'asr tune'.
tune_once() {
    local run=$1 dev=$2 lm
    lm=$(realpath "$3")
    shift 3
    grep -qsF "\"lm\": \"$lm\"" "$run/best/decoder.json" || asr tune "$run" "$dev" --lm "$lm" "$@" > "$run/tune.txt"
}

# A training from its start, or on from where it was cut: RUN, then what 'asr train' takes besides --out and --resume.
start_or_resume() {
    local run=$1
    shift
    if [ -f "$run/config.yaml" ]; then
        asr train --resume "$run"
    else
        asr train "$@" --out "$run"
    fi
}
