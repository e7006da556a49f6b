"""N-gram models beside lmplz and kaldingram: processor time, peak memory, and whether the results are equal.

    python -m benchmarks.ngram train --lmplz PATH [--megabytes 100] [--order 3 --order 5] [--rounds 3]
    python -m benchmarks.ngram prune --kaldingram PATH --text TEXT [--threshold 1e-7]

The text is made up, from a seed: five words in six follow from the word before or the two words before, by ranks of a
power law without an end, so that new words and new n-grams keep coming as in real text. 230,000 tokens of it
have 10,000 different words, 67,000 pairs, 138,000 3-grams and 193,000 4-grams; as many tokens of books have 14,000,
96,000, 163,000 and 180,000.

Programs run by turns on one core; times are processor time (user and system), of each the median; memory is the peak
resident size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numba
import numpy as np

#: words at a time
_BLOCK = 2_000_000
#: how often a word depends on the two before it, on the one before it; exponents of the power laws of its choice
#: and of words as such
_BY_TWO, _BY_ONE, _CHOICE, _WORDS = 0.45, 0.4, 1.0, 0.45
_SENTENCE = 18.0


@numba.njit(cache=False)
def draw(rng: Any, ranks_t: Any) -> None:
    """Write a text as ranks of words, from 1; 0 ends a sentence. Shapes: t tokens, int64."""
    before, last = 0, 0
    for t in range(len(ranks_t)):
        if last != 0 and rng.random() < 1.0 / _SENTENCE:
            ranks_t[t] = before = last = 0
            continue

        kind = rng.random()
        place = 1.0 - rng.random()
        if kind < _BY_TWO + _BY_ONE:
            choice = np.uint64((1.0 - rng.random()) ** (-1.0 / _CHOICE))
            mixed = np.uint64(last) * np.uint64(0x9E3779B97F4A7C15) + choice * np.uint64(0xC2B2AE3D27D4EB4F)
            if kind < _BY_TWO:
                mixed += np.uint64(before) * np.uint64(0x165667B19E3779F9) + np.uint64(77)
            # the finaliser of splitmix64
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
            place = (np.float64(mixed >> np.uint64(11)) + 1.0) / 9007199254740992.0
        before = last
        last = ranks_t[t] = np.int64(min(place ** (-1.0 / _WORDS) * 12.0, 2e9)) - 11


def spell(rank: int) -> str:
    """Return the word of a rank from 0: syllables, more of them for rarer words."""
    word = ""
    while True:
        rank, syllable = divmod(rank, 100)
        word = "BCDFGHJKLMNPQRSTVWXZ"[syllable // 5] + "AEIOU"[syllable % 5] + word
        if rank == 0:
            return word
        rank -= 1


def write_text(path: Path, megabytes: int) -> None:
    """Write a text of this size."""
    words: dict[int, str] = {0: "\n"}
    rng = np.random.default_rng(1)
    size = 0
    with path.open("w") as file:
        while size < megabytes * 1_000_000:
            ranks = np.zeros(_BLOCK, np.int64)
            draw(rng, ranks)
            for rank in np.unique(ranks).tolist():
                if rank not in words:
                    words[rank] = spell(rank - 1)
            text = " ".join(map(words.__getitem__, ranks.tolist())).replace(" \n", "\n").replace("\n ", "\n") + "\n"
            size += file.write(text)


def measure(command: list[str], log: Path) -> tuple[float, float]:
    """Run a program; return its processor time in seconds and its peak memory in MB."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def by_turns(commands: dict[str, list[str]], rounds: int, folder: Path) -> None:
    """Run programs by turns and print their medians, and their time over that of asr."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            results[name].append(measure(command, folder / "log"))
    ours = statistics.median(time for time, _ in results["asr"])
    for name, runs in results.items():
        time_s = statistics.median(time for time, _ in runs)
        print(
            f"  {name:10s} {time_s:7.1f} s {max(m for _, m in runs):7.0f} MB   {time_s / ours:5.2f} x asr", flush=True
        )


def same_model(path: Path, other: Path) -> str:
    """Say how much two ARPA files differ."""
    from tests.reference.ngram import read

    left, right = read(path.read_text()), read(other.read_text())
    shared = left.keys() & right.keys()
    worst = max(max(abs(a - b) for a, b in zip(left[gram], right[gram], strict=True)) for gram in shared)
    return (
        f"{len(left) - len(shared):,} and {len(right) - len(shared):,} n-grams in one only, others equal to {worst:.1g}"
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("train", "prune"))
    parser.add_argument("--lmplz", default="lmplz")
    parser.add_argument("--kaldingram", default="kaldingram")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--order", type=int, action="append")
    parser.add_argument("--threshold", default="1e-7")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    asr = [sys.executable, "-m", "asr", "lm"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        text = args.text or folder / "text"
        if args.text is None:
            write_text(text, args.megabytes)
        ours, other = folder / "asr.arpa", folder / "other.arpa"
        for order in args.order or [3, 5]:
            train = [*asr, "train", str(text), "--order", str(order), "--out", str(ours)]
            print(f"order {order}")
            if args.work == "train":
                files = ["--text", str(text), "--arpa", str(other), "-T", made]
                by_turns(
                    {"asr": train, "lmplz": [args.lmplz, "-o", str(order), "-S", "2G", *files]}, args.rounds, folder
                )
            else:
                measure(train, folder / "log")
                lm, pruned = ours, folder / "pruned.arpa"
                by_turns(
                    {
                        "asr": [*asr, "prune", str(lm), "--threshold", args.threshold, "--out", str(pruned)],
                        "kaldingram": [
                            args.kaldingram,
                            "prune",
                            *["--lm", str(lm), "--threshold", args.threshold, "--write-lm", str(other)],
                        ],
                    },
                    args.rounds,
                    folder,
                )
                print("  " + same_model(pruned, other))


if __name__ == "__main__":
    main()
