"""Every parser takes damaged files: a result or one line, within limits of time and memory, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.harness import run_target
from tests.fuzz.mutate import LARGEST, damaged
from tests.fuzz.targets import TARGETS, Target

#: of all targets together in the fast test; of each in the slow ones, by default an hour of all
FAST_S = 60.0
SLOW_S = float(os.environ.get("ASR_FUZZ_SECONDS", 3600 / len(TARGETS)))

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and measures memory as Linux does")


def fuzz(tmp_path: Path, *options: str, seconds: float) -> list[dict[str, Any]]:
    """Run targets in another process, which imports what all of them need and forks; return their reports."""
    found = tmp_path / "reports.json"
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        f"--seconds={seconds}",
        f"--json={found}",
        f"--out={tmp_path / 'failed'}",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-5000:]
    reports: list[dict[str, Any]] = json.loads(found.read_text())
    print(ended.stdout)
    return reports


@linux
def test_all_parsers_take_damaged_files(tmp_path):
    reports = fuzz(tmp_path, "--jobs=2", seconds=FAST_S)
    assert {report["target"] for report in reports} == {t.name for t in TARGETS if t.is_runnable()}
    for report in reports:
        assert report["inputs"] > 0 and report["refused"] + report["accepted"] == report["inputs"], report
    assert sum(report["accepted"] for report in reports) > 100  # the damage is not so great that nothing is read


@linux
@pytest.mark.slow
@pytest.mark.parametrize("target", [t for t in TARGETS if t.is_runnable()], ids=lambda t: t.name)
def test_a_parser_takes_damaged_files_for_long(tmp_path, target):
    fuzz(tmp_path, target.name, seconds=SLOW_S)


@linux
@pytest.mark.slow
def test_indexes_of_compiled_code_stay_in_bounds(tmp_path):
    fuzz(tmp_path, "--bounds", "--jobs=2", seconds=max(300.0, SLOW_S))


# --- the harness itself -----------------------------------------------------------------------------------------------


def misbehaving(call: Any) -> Target:
    from tests.fuzz.seeds import one

    return Target("misbehaving", lambda scratch: [one("a.txt", "good\n" * 9)], call)


def whats(target: Target, tmp_path: Path, count: int = 40) -> set[str]:
    *_, report = run_target(target, tmp_path / "failed", 30, most=count)
    assert report.inputs == count or report.failures
    return {failure.what for failure in report.failures}


def is_valid(folder: Path) -> bool:
    return (folder / "a.txt").read_bytes() == b"good\n" * 9


def test_the_same_number_is_the_same_damage():
    import random

    content, other = b'{"a": [1, 2, {"b": "c"}]}', b"{}"
    for name in ("a.json", "a.tar", "a.gz", "a.ogg", "a.wav", "a.bin", "a.txt", "a.mp3"):
        once, again = ([damaged(name, content, other, random.Random(n)) for n in range(50)] for _ in range(2))
        assert once == again and len(set(once)) > 25 and max(map(len, once)) <= LARGEST


@linux
def test_an_error_that_is_no_asr_error_is_found(tmp_path):
    def call(folder: Path) -> None:
        if not is_valid(folder):
            raise KeyError("x")

    assert any("KeyError" in what for what in whats(misbehaving(call), tmp_path))
    assert (tmp_path / "failed" / "misbehaving-0" / "a.txt").exists()


@linux
def test_an_ended_process_is_found_and_the_next_input_is_run(tmp_path):
    def call(folder: Path) -> None:
        if len((folder / "a.txt").read_bytes()) < 30:
            os._exit(3)

    *_, report = run_target(misbehaving(call), tmp_path, 30, most=40)
    assert report.inputs == 40 and 0 < len(report.failures) < 40
    assert {failure.what for failure in report.failures} == {"ends the process (exit 3)"}


@linux
def test_memory_and_files_elsewhere_are_found(tmp_path):
    def call(folder: Path) -> None:
        if not is_valid(folder):
            b"x" * (600 << 20)
            (folder.parent / "beside").write_text("x")

    found = whats(misbehaving(call), tmp_path, 3)
    assert found and all("MB more than valid files" in what for what in found)

    def write(folder: Path) -> None:
        if not is_valid(folder):
            (folder.parent / "beside").write_text("x")

    assert whats(misbehaving(write), tmp_path, 3) == {"touches what is not its own"}


@linux
def test_a_hang_is_found(tmp_path, monkeypatch):
    import time

    monkeypatch.setattr("tests.fuzz.harness.LONGEST_S", 0.3)
    assert whats(misbehaving(lambda folder: time.sleep(0 if is_valid(folder) else 5)), tmp_path, 1) == {"hangs"}
