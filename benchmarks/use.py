"""What use costs: processor time and memory of whole commands, in rounds that alternate between several ways.

    python -m benchmarks.use INPUT --way now=asr:MODEL --way exported=asr:FOLDER --way before=CHECKOUT:MODEL

A way is its name, what runs it and the model: ``asr`` is this package under this Python; a folder is a checkout of
another version, run under this Python; ``PYTHON@CHECKOUT`` is another Python, such as that of an installation for use
alone. After a further colon come options of ``asr transcribe``. Each round runs ``asr transcribe MODEL INPUT`` once for
every way, on one thread. Ratios are to the first way, in medians of the rounds, with the 95 % interval of a bootstrap
over rounds. The first round compiles what is missing, and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Way:
    """One way to transcribe, and what it took."""

    name: str
    python: str
    checkout: Path
    model: str
    options: list[str]
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def run(self, source: str) -> None:
        """Transcribe once; add what it took."""
        with tempfile.TemporaryDirectory() as folder:
            command = [self.python, "-m", "asr", "transcribe", self.model, source, "-f", "jsonl", "-o", folder]
            command += ["--threads", "1", "--jobs", "1", *self.options]
            environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
            started = subprocess.Popen(command, cwd=self.checkout, env=environment, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(started.pid, 0)
            if status:
                sys.exit(f"{self.name}: {' '.join(command)} failed")
            self.seconds.append(usage.ru_utime + usage.ru_stime)
            self.megabytes.append(usage.ru_maxrss / 1024)
            for path in Path(folder).rglob("*.jsonl"):
                rows = [json.loads(line) for line in path.read_text().splitlines()]
                self.texts |= {Path(row.get("path", path.name)).name + path.name: row["text"] for row in rows}


def way_of(text: str) -> Way:
    """Read ``NAME=RUNNER:MODEL[:OPTIONS]``."""
    name, _, rest = text.partition("=")
    runner, model, *options = rest.split(":", 2)
    python, _, checkout = runner.rpartition("@")
    folder = ROOT if checkout == "asr" else Path(checkout).resolve()
    return Way(name, python or sys.executable, folder, str(Path(model).resolve()), " ".join(options).split())


def ratio(ours: Way, first: Way, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return how many times the first way's processor time this one takes, and its interval."""
    pairs = np.array([first.seconds, ours.seconds])
    drawn = pairs[:, rng.integers(0, pairs.shape[1], (2000, pairs.shape[1]))]
    medians = np.median(drawn, axis=2)
    low, high = np.quantile(medians[1] / medians[0], [0.025, 0.975])
    whole = np.median(pairs, axis=1)
    return float(whole[1] / whole[0]), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="a file, folder or manifest")
    parser.add_argument("--way", action="append", required=True, help="NAME=RUNNER:MODEL[:OPTIONS]")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1")

    ways = [way_of(text) for text in args.way]
    source = str(Path(args.input).resolve())
    for number in range(args.rounds + 1):
        for way in ways:
            way.run(source)
            if not number:
                way.seconds.clear()
                way.megabytes.clear()

    first = ways[0]
    rng = np.random.default_rng(0)
    print("| way | processor time, s | ratio | memory at most, MB | texts as in the first |")
    print("|---|---|---|---|---|")
    for way in ways:
        middle, low, high = ratio(way, first, rng)
        same = sum(way.texts.get(key) == text for key, text in first.texts.items())
        cells = [f"{np.median(way.seconds):.2f}", f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{max(way.megabytes):.0f}"]
        print(f"| {way.name} | {' | '.join(cells)} | {same} of {len(first.texts)} |")


if __name__ == "__main__":
    main()
