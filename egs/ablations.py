"""Print a Markdown table of runs and their difference to the first: what a change of the config does on the dev set.

    python egs/ablations.py RUN RUN [RUN ...]

Each run holds ``dev.jsonl``, its transcripts. The table has its error rate, and the paired difference to the first run
with a 95 % bootstrap interval over speakers (over utterances if speakers are not known). If 0 is inside, the difference
may be chance.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from asr.errors import AsrError
from asr.model.checkpoint import load_model
from asr.scoring.files import compare_files
from asr.scoring.wer import format_ends, percent

HEADER = (
    "| change | dev WER % [95 %] | CER % | less than as it is, points [95 %] | p | minutes | epoch |\n"
    "|---|---|---|---|---|---|---|"
)


def main(first: str, *others: str) -> None:
    print(HEADER)
    for run in map(Path, (first, *others)):
        result, _ = compare_files(None, Path(first) / "dev.jsonl", run / "dev.jsonl")
        wer, cer, made = result.b.wer, result.b.cer, load_model(run).training
        same = str(run) == first
        p = result.matched_pairs.p
        cells = (
            run.name,
            f"{percent(wer.rate)} {format_ends((wer.low, wer.high))}",
            percent(cer.rate),
            "" if same else f"{percent(result.difference)} {format_ends(result.ends)}",
            "" if same or p is None else f"{p:.2f}",
            f"{_minutes(run):.1f}",
            made["epoch"],
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(
        f"\n{result.b.utterances} utterances, {wer.reference_length} words, greedy; seed {made['seed']}, "
        f"{made['hardware']}, {made['precision']}, commit {made['commit']}"
    )


def _minutes(run: Path) -> float:
    """Return the minutes of the whole training, from the last row of metrics."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return float(max(row["seconds"] for row in rows)) / 60


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except AsrError as error:
        sys.exit(f"ablations.py: {error}")
