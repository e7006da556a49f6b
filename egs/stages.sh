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
