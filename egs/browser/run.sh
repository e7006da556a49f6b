#!/usr/bin/env bash
# A model in the browser: fetches the runtime, exports a model beside the page, and serves the page on this machine.
# Usage: egs/browser/run.sh [STAGE ...]
#   STAGE    fetch model serve; all when none is named. The runtime is kept, the model written anew.
# and in the environment:
#   MODEL    a run or a model folder; by default that of egs/quickstart/run.sh, which knows the digits
#   PORT     8000
set -euo pipefail
trained=$(realpath -m "${MODEL:-$(dirname "$0")/../../work/quickstart/run}")
cd "$(dirname "$0")/../.."
page=egs/browser
export PATH="$PWD/.venv/bin:$PATH"
source egs/stages.sh

# The page's runtime, from npm.
fetch() {
    "$page/fetch.sh"
}

# The features are part of the model, so that the page hands it sound.
model() {
    [ -d "$trained" ] || { echo "$trained: no such folder; run egs/quickstart/run.sh, or name one with MODEL=" >&2; exit 2; }
    rm -rf "$page/model"
    asr export "$trained" "$page/model" --features
}

# Browsers give the microphone to pages from localhost, and from https:// elsewhere.
serve() {
    echo "open http://localhost:${PORT:-8000}/ (Ctrl-C ends it)"
    python -m http.server "${PORT:-8000}" --bind localhost --directory "$page"
}

run_stages "fetch model serve" "$@"
