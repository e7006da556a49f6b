"""``python -m tests.fuzz TARGET... --seconds 60``: fuzz parsers, and print what became of their inputs.

Without a target, all of them share the seconds. ``--first N --count 1`` repeats the input of that number. Inputs that
fail are kept under ``work/fuzz``. Exit code 1: there were failures.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.fuzz.harness import Report, run_target
from tests.fuzz.targets import TARGETS, Target


def main() -> int:
    args = _arguments()
    chosen = [t for t in TARGETS if (not args.targets or t.name in args.targets) and (t.kernels or not args.bounds)]
    unknown = set(args.targets) - {t.name for t in TARGETS}
    if unknown:
        print(
            f"no target {', '.join(sorted(unknown))}; there are {', '.join(t.name for t in TARGETS)}", file=sys.stderr
        )
        return 2

    left_out = [t.name for t in chosen if not t.is_runnable()]
    chosen = [t for t in chosen if t.is_runnable()]
    _import_all()
    reports = run_all(chosen, args.seconds, args.jobs, args.out, args.first, args.count)
    print_table(reports, left_out)
    if args.json:
        args.json.write_text(json.dumps([report.to_json() for report in reports], indent=1), encoding="utf-8")
    return int(any(report.failures for report in reports))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (default 60)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=None, help="at most so many inputs of each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time")
    parser.add_argument("--bounds", action="store_true", help="compiled code checks its indexes; only such targets")
    parser.add_argument("--json", type=Path, help="write the counts and failures here")
    parser.add_argument("--out", type=Path, default=Path("work/fuzz"), help="folder for inputs that fail")
    args = parser.parse_args()
    if args.bounds and os.environ.get("NUMBA_BOUNDSCHECK") != "1":
        # numba reads these when it is imported, and its usual cache holds code without the checks
        cache = args.out.absolute() / "numba-bounds"
        os.environ |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(cache)}
        os.execv(sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]])
    return args


def _import_all() -> None:
    """Import what takes long, once for all processes."""
    import soundfile  # noqa: F401
    import soxr  # noqa: F401

    import asr.doctor
    import asr.info
    import asr.lm.neural.folder
    import asr.train
    import asr.transcribe  # noqa: F401


def run_all(
    targets: Sequence[Target], seconds: float, jobs: int, out: Path, first: int = 0, count: int | None = None
) -> list[Report]:
    """Run targets, some at the same time, each for its share of what is left of the seconds."""
    end = time.monotonic() + seconds
    waiting = list(reversed(targets))  # models take longest to start
    running: dict[Target, Iterator[Report]] = {}
    reports: dict[str, Report] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            target = waiting.pop(0)
            share_s = max(1.0, (end - time.monotonic()) * jobs / (len(waiting) + 1 + len(running)))
            running[target] = run_target(target, out, min(share_s, end - time.monotonic() + 1), first, count)
        for target in list(running):
            report = next(running[target], None)
            if report is None:
                del running[target]
            else:
                reports[target.name] = report
    return [reports[target.name] for target in targets]


def print_table(reports: Sequence[Report], left_out: Sequence[str]) -> None:
    width = max(len(report.target) for report in reports)
    print(f"{'target':{width}}  inputs  accepted  refused  failures  MB over clean  slowest s")
    for r in reports:
        counts = f"{r.inputs:6,}  {r.accepted:8,}  {r.refused:7,}  {len(r.failures):8,}"
        print(f"{r.target:{width}}  {counts}  {max(0, r.peak_mb):13.0f}  {r.slowest_s:9.2f}")
    print(f"{'all':{width}}  {sum(r.inputs for r in reports):6,}  in {sum(r.seconds for r in reports):,.0f} s of work")
    if left_out:
        print(f"left out, as their program is not installed: {', '.join(left_out)}")

    kinds: dict[tuple[str, str], list[int]] = {}
    for report in reports:
        for failure in report.failures:
            kinds.setdefault((report.target, failure.what[:200]), []).append(failure.number)
    for (target, what), numbers in kinds.items():
        print(f"FAILED {target} {numbers[0]}{f' and {len(numbers) - 1} more' if len(numbers) > 1 else ''}: {what}")


if __name__ == "__main__":
    sys.exit(main())
