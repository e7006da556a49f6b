"""Measure how long a fresh process takes to the first text. ``benchmarks.decode`` starts it.

    python -m benchmarks.startup LM.arpa EMISSIONS.npz

prints one line of JSON, in seconds: import, language model, decoder, first utterance, second utterance.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent


def main(arpa: str, emissions_path: str) -> None:
    times = {}
    mark = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal mark
        now = time.perf_counter()
        times[name], mark = now - mark, now

    from asr.data.tokenizer import CharTokenizer
    from asr.decode.decoder import BeamDecoder
    from asr.lm import ngram
    from benchmarks.emissions import load

    lap("import")
    import numba  # noqa: F401  (a decoder imports it; on its own, to see its share)

    lap("import numba")
    emissions = load(Path(emissions_path))
    lap("emissions")
    lm = ngram.load(arpa)
    lap("language model")
    decoder = BeamDecoder(CharTokenizer(emissions.symbols), None, lm)
    lap("decoder")
    decoder.decode(emissions.log_probs[0])
    lap("first utterance")
    decoder.decode(emissions.log_probs[0])
    lap("second utterance")
    print(json.dumps({name: round(seconds, 4) for name, seconds in times.items()}))


def measure(arpa: Path, emissions_path: Path, warm_runs: int = 5) -> dict[str, dict[str, float]]:
    """Measure a process without any compiled code on disk, and (medians) processes that find it there."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-m", "benchmarks.startup", str(arpa), str(emissions_path)]
        runs = [
            json.loads(subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True).stdout)
            for _ in range(1 + warm_runs)
        ]
    return {"cold": runs[0], "warm": {name: median(run[name] for run in runs[1:]) for name in runs[0]}}


if __name__ == "__main__":
    main(*sys.argv[1:])
