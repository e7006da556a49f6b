"""Ways to do the same work, measured by turns: a change in the machine's speed then affects all of them alike.

Times are processor time of the calling process.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

#: a way is run again within a turn until this much time is measured
LEAST_S = 0.04


def by_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run each way in each round, in an order that changes, and once before; return seconds per run of each round."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for round_ in range(rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            runs, began = 0, time.process_time()
            while not runs or time.process_time() - began < LEAST_S:
                ways[name]()
                runs += 1
            seconds[name].append((time.process_time() - began) / runs)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, ours: str) -> float:
    """Return how many times the time of ours another way takes: the median of the rounds' ratios."""
    return median(other / own for other, own in zip(seconds[name], seconds[ours], strict=True))


def version_of(package: str) -> str:
    """Return a package with its version, as a table names it."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def machine() -> str:
    """Return the processor in a few words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, one thread"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
