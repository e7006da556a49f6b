"""Run checks one after the other, whatever happens in one, and write down what each finds."""

from __future__ import annotations

import collections
import faulthandler
import json
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from asr.files import write_json
from benchmarks.gpu import ctc, equality, machine, running, speed
from benchmarks.gpu.findings import Check, Findings, Setting

#: every check, the most important first
CHECKS = (
    Check("environment", machine.environment, seconds=5),
    Check("ctc", ctc.ctc, seconds=40),
    Check("encoders", equality.encoders, seconds=30),
    Check("recurrent-dtypes", equality.recurrent_dtypes, seconds=15),
    Check("float32", machine.full_float32, seconds=5),
    Check("waits", running.waits, seconds=20),
    Check("train-and-resume", running.train_and_resume, seconds=90),
    Check("paper-shape", speed.paper_shape, seconds=60),
    Check("transcribe", running.transcribe, seconds=25),
    Check("recurrent-ways", speed.recurrent_ways, seconds=60),
    Check("out-of-memory", running.out_of_memory, seconds=15),
    Check("one-process-of-many", equality.one_process_of_many, seconds=15),
    Check("an4-shape", speed.an4_shape, seconds=30),
    Check("norm-statistics", speed.norm_statistics, seconds=10),
    Check("language-model", running.language_model, seconds=20),
)
#: a warning with one of these words is a failure wherever it comes up
_BAD_WARNINGS = ("single contiguous chunk",)


class Report:
    """The results so far, in a file that is whole after each of them."""

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self.path = path
        self.began = time.time()
        self.checks: dict[str, Any] = {}
        if keep and path.is_file():
            before = json.loads(path.read_text())
            self.checks = before["checks"]
            self.began = before["began"]

    @property
    def failed(self) -> list[str]:
        """Return the names of the checks that failed."""
        return [name for name, row in self.checks.items() if row["result"] == "failed"]

    @property
    def seconds(self) -> float:
        """Return the seconds since the first check began."""
        return time.time() - self.began

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Write down a check, and print its line."""
        self.checks[name] = row
        self.write()
        why = "; ".join(row.get("why", []))
        print(f"{row['result']:8} {row['seconds']:6.1f} s  {name}{': ' + why if why else ''}", flush=True)

    def write(self, running: str | None = None) -> None:
        """Replace the file as a whole; ``running`` names the check that has begun, should the machine stop in it."""
        content = {
            "began": self.began,
            "seconds": round(self.seconds, 1),
            "running": running,
            "failed": self.failed,
            "checks": self.checks,
        }
        write_json(self.path, content)


def run(checks: Sequence[Check], setting: Setting, report: Report, budget_s: float, restart: Callable[[], None]) -> int:
    """Run the checks that are not in the report yet, as far as the budget goes; return the exit code.

    Args:
        restart: goes on with the next check in a new process. After a faulty kernel every call on the device raises.
    """
    for check in checks:
        if check.name in report.checks:
            continue
        expected_s = 0.0 if setting.quick else check.seconds
        if report.seconds + expected_s > budget_s:
            why = f"about {expected_s:.0f} s would go beyond the budget of {budget_s:.0f} s"
            report.add(check.name, {"result": "skipped", "seconds": 0.0, "why": [why]})
            continue

        report.write(check.name)
        with _Watch(check, report, restart):
            row = run_one(check, setting)
        report.add(check.name, row)
        if not _is_usable(setting):
            restart()

    skipped = [name for name, row in report.checks.items() if row["result"] == "skipped"]
    print(f"{len(report.failed)} failed, {len(skipped)} skipped, of {len(report.checks)}; {report.path}", flush=True)
    return 1 if report.failed else 0


def run_one(check: Check, setting: Setting) -> dict[str, Any]:
    """Run one check, whatever it does; return its row of the report."""
    found = Findings()
    began = time.perf_counter()
    row: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check.work(setting, found)
            setting.synchronize()
        except Exception as error:
            found.broken.append(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
            row["traceback"] = traceback.format_exc(limit=-6)

    said = collections.Counter(str(one.message).splitlines()[0][:160] for one in caught if str(one.message))
    found.broken += [f"warning: {text}" for text in said if any(words in text for words in _BAD_WARNINGS)]
    row |= {
        "result": "failed" if found.broken else "passed",
        "seconds": round(time.perf_counter() - began, 1),
        "found": found.values,
    }
    if found.broken:
        row["why"] = found.broken
    if said:
        row["warnings"] = dict(said.most_common(5))
    if setting.cuda and _is_usable(setting):
        row["peak_gib"] = round(torch.cuda.max_memory_allocated(setting.device) / 2**30, 2)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
    return row


def _is_usable(setting: Setting) -> bool:
    """Check that the device still answers: after a faulty kernel every call raises."""
    try:
        setting.synchronize()
    except Exception:
        return False
    return True


class _Watch:
    """Give up a check that takes several times as long as expected, as a kernel may hang, and go on with the next."""

    def __init__(self, check: Check, report: Report, restart: Callable[[], None]) -> None:
        self._check = check
        self._report = report
        self._restart = restart
        self._seconds = 60 + 3 * check.seconds
        self._timer = threading.Timer(self._seconds, self._give_up)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def _give_up(self) -> None:
        faulthandler.dump_traceback(file=sys.stderr)
        why = [f"it did not end within {self._seconds:.0f} s; stderr has where it stood"]
        self._report.add(self._check.name, {"result": "failed", "seconds": self._seconds, "why": why})
        self._restart()
