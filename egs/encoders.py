"""Make a RESULTS.md table of runs that differ in their network: error rates, sizes, speed and memory.

    python egs/encoders.py measure RUN [RUN ...]           writes RUN/speed.json if it does not exist
    python egs/encoders.py table MANIFEST RUN [RUN ...]    prints the table

Speed and memory are measured separately from training, each network in a process of its own, with the data and the
settings of its run. The dev set is decoded twice, and the faster pass counts (reading and features included, as in
``asr evaluate``); then come the first updates of a new run (reading and features not counted). Memory is the peak of
this process, program and data included. Nothing else should run on the machine during the measurement.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
from pathlib import Path

from asr.config import load
from asr.data import manifest
from asr.errors import AsrError
from asr.evaluate import evaluate
from asr.machine import use_threads
from asr.model.checkpoint import load_model
from asr.scoring.wer import format_ends, percent
from asr.train import train

#: number of updates over which the speed of training is measured
STEPS = 12
#: keys of speed.json, in the order of the table
SPEEDS = ("train_audio_s_per_s", "train_memory_mib", "use_audio_s_per_s")
HEADER = (
    "| config | WER % [95 %] | S / D / I | CER % | parameters | training, audio-s/s | memory in training, MiB "
    "| use, audio-s/s | epoch |\n|---|---|---|---|---|---|---|---|---|"
)


def measure(*runs: str) -> None:
    """Write ``speed.json`` into each run that has none."""
    # One process per run, as the peak memory of a process never falls; forked, so that torch is loaded once.
    context = multiprocessing.get_context("fork")
    for run in map(Path, runs):
        if not (run / "speed.json").exists():
            with context.Pool(1) as pool:
                found = pool.apply(_measure, (run,))
            (run / "speed.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
            print(run, found, file=sys.stderr)


def _measure(run: Path) -> dict[str, float]:
    # Not sorted by duration, so that these steps are like all others; batches are read between the steps.
    cfg = load(run / "config.yaml", [f"train.max_steps={STEPS}", "train.sortagrad=false", "batch.workers=0"])
    use_threads(cfg.train.threads)
    model, rows = load_model(run), manifest.read(_data(run) / "dev.jsonl")
    rtf = min(evaluate(model, rows).rtf for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        report = train(cfg, _data(run), Path(folder) / "run")
    seconds = sum(report.phases_s[phase] for phase in ("forward", "loss", "backward", "optimizer"))
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    return {
        "train_audio_s_per_s": report.audio_s / seconds,
        "train_memory_mib": memory_mib,
        "use_audio_s_per_s": 1 / rtf,
    }


def _data(run: Path) -> Path:
    return Path(json.loads((run / "data.json").read_text(encoding="utf-8"))["folder"])


def table(manifest_path: str, *runs: str) -> None:
    """Print the table: each run's best model on the manifest, decoded greedily."""
    rows = manifest.read(manifest_path)
    print(HEADER)
    for run in map(Path, runs):
        model = load_model(run)
        result = evaluate(model, rows)
        wer, cer = result.score.wer, result.score.cer
        path = run / "speed.json"
        speed: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        cells = (
            run.name,
            f"{percent(wer.rate)} {format_ends((wer.low, wer.high))}",
            f"{wer.substitutions} / {wer.deletions} / {wer.insertions}",
            percent(cer.rate),
            f"{model.num_parameters:,}",
            *(f"{speed[key]:.0f}" if key in speed else "not measured" for key in SPEEDS),
            model.training["epoch"],
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    made = model.training
    print(
        f"\n{result.score.utterances} utterances, {wer.reference_length} words, {result.score.interval.drawn}; "
        f"seed {made['seed']}, {made['hardware']}, {made['precision']}"
    )


if __name__ == "__main__":
    commands = {"measure": (measure, 1), "table": (table, 2)}
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name not in commands or len(arguments) < commands[name][1]:
        sys.exit(__doc__)
    try:
        commands[name][0](*arguments)
    except AsrError as error:
        sys.exit(f"encoders.py: {error}")
