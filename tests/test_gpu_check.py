"""The checks of a GPU, tried on a CPU: the frame around them, their speech, and as many of them as are cheap."""

from __future__ import annotations

import doctest
import json
import os
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from asr import cli
from asr.data.audio import load
from asr.data.manifest import read_split
from benchmarks import gpu_check
from benchmarks.gpu import frame, machine, profiling
from benchmarks.gpu.findings import Check, Findings, Setting
from benchmarks.gpu.profiling import summarise
from benchmarks.gpu.speech import made_up_speech, repeated_speech
from tests.pretend_cuda import pretended_cuda


def setting(out: Path) -> Setting:
    return Setting(torch.device("cpu"), out, quick=True)


def run(out: Path, *checks: Check, budget_s: float = 100.0, keep: bool = False) -> tuple[int, dict[str, Any]]:
    """The exit code of these checks, and the report in the file."""
    report = frame.Report(out / "report.json", keep=keep)

    def restart() -> None:
        raise AssertionError("no kernel has failed")

    code = frame.run(checks, setting(out), report, budget_s, restart)
    return code, json.loads(report.path.read_text())


def passing(_: Setting, found: Findings) -> None:
    found.at_most("error", 0.5, 1.0)


def beyond(_: Setting, found: Findings) -> None:
    found.at_most("error", float("nan"), 1.0)
    found.note("another", 12345.678)


def raising(_: Setting, found: Findings) -> None:
    raise RuntimeError("no such kernel")


def test_a_failed_or_raising_check_stops_no_other(tmp_path: Path) -> None:
    code, report = run(tmp_path, Check("a", raising, 1), Check("b", beyond, 1), Check("c", passing, 1))

    assert code == 1
    assert report["failed"] == ["a", "b"]
    rows = report["checks"]
    assert rows["a"]["why"] == ["RuntimeError: no such kernel"]
    assert "raising" in rows["a"]["traceback"]
    assert rows["b"]["why"] == ["error: nan, must be <= 1"]
    assert rows["b"]["found"]["another"] == 12350.0
    assert rows["c"] == rows["c"] | {"result": "passed", "found": {"error": {"is": 0.5, "limit": "<= 1"}}}


def test_the_report_is_whole_after_each_check_and_names_the_one_that_runs(tmp_path: Path) -> None:
    seen = []

    def look(_: Setting, found: Findings) -> None:
        seen.append(json.loads((tmp_path / "report.json").read_text()))

    run(tmp_path, Check("first", passing, 1), Check("second", look, 1))

    assert seen[0]["running"] == "second"
    assert seen[0]["checks"]["first"]["result"] == "passed"
    assert json.loads((tmp_path / "report.json").read_text())["running"] is None


def test_what_does_not_fit_into_the_budget_is_skipped_and_named(tmp_path: Path, capsys: Any) -> None:
    long = Setting(torch.device("cpu"), tmp_path)
    report = frame.Report(tmp_path / "report.json")
    code = frame.run([Check("long", raising, 900), Check("short", passing, 1)], long, report, 100, lambda: None)

    assert code == 0
    assert report.checks["long"]["result"] == "skipped"
    assert report.checks["short"]["result"] == "passed"
    assert "0 failed, 1 skipped, of 2" in capsys.readouterr().out


def test_a_report_that_was_broken_off_goes_on_behind_its_last_check(tmp_path: Path) -> None:
    run(tmp_path, Check("a", passing, 1))
    _, report = run(tmp_path, Check("a", raising, 1), Check("b", passing, 1), keep=True)

    assert list(report["checks"]) == ["a", "b"]
    assert report["failed"] == []


def test_a_copy_of_recurrent_weights_at_each_call_is_a_failure(tmp_path: Path) -> None:
    def warning(_: Setting, found: Findings) -> None:
        warnings.warn("RNN module weights are not part of single contiguous chunk of memory.", stacklevel=1)

    code, report = run(tmp_path, Check("layer", warning, 1))

    assert code == 1
    assert "single contiguous chunk" in report["checks"]["layer"]["why"][0]


def test_a_check_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = frame.Report(tmp_path / "report.json")
    restarted = []
    watch = frame._Watch(Check("stuck", passing, 1), report, lambda: restarted.append(True))
    monkeypatch.setattr(frame.faulthandler, "dump_traceback", lambda file: None)
    watch._give_up()

    assert restarted == [True]
    assert report.failed == ["stuck"]


def test_a_broken_device_makes_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "_is_usable", lambda setting: False)
    report = frame.Report(tmp_path / "report.json")

    class Restarted(Exception):
        pass

    def restart() -> None:
        raise Restarted

    with pytest.raises(Restarted):
        frame.run([Check("a", passing, 1)], setting(tmp_path), report, 100, restart)
    assert report.checks["a"]["result"] == "passed"


def test_the_checks_run_in_the_environment_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*gpu_check.ENVIRONMENT, "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    cli._set_up_libraries()

    assert {name: value for name, value in os.environ.items() if name not in before} == gpu_check.ENVIRONMENT


def test_made_up_speech_is_readable_and_the_same_each_time(tmp_path: Path) -> None:
    folders = [made_up_speech(tmp_path / name, {"train": 3, "dev": 1}) for name in ("a", "b")]
    rows = read_split(folders[0], "train").utterances

    assert [u.text for u in rows] == [u.text for u in read_split(folders[1], "train").utterances]
    for row in rows:
        wave_n, rate_hz = load(folders[0] / row.audio_path)
        assert len(wave_n) / rate_hz == pytest.approx(row.duration_s)
        assert (folders[0] / row.audio_path).read_bytes() == (folders[1] / row.audio_path).read_bytes()


def test_repeated_speech_has_rows_of_one_length_over_few_files(tmp_path: Path) -> None:
    rows = read_split(repeated_speech(tmp_path, 7, 1.5, distinct=2), "train").utterances

    assert len({row.audio_path for row in rows}) == 2
    assert {row.duration_s for row in rows} == {1.5}
    assert len({row.id for row in rows}) == 7
    wave_n, rate_hz = load(tmp_path / rows[1].audio_path)
    assert len(wave_n) == 1.5 * rate_hz


def event(name: str, start: float, end: float, *, inside: Any = None, kernels: Any = (), device: str = "CPU") -> Any:
    """An event of torch's profiler, as far as it is looked at."""
    return SimpleNamespace(
        name=name,
        device_type=SimpleNamespace(name=device),
        time_range=SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start),
        kernels=[SimpleNamespace(name=kernel, duration=us) for kernel, us in kernels],
        cpu_parent=inside,
        self_cpu_time_total=end - start,
    )


def test_kernels_count_for_the_operation_that_they_are_a_part_of() -> None:
    gru = event("aten::gru", 0, 9)
    rnn = event("aten::_cudnn_rnn", 0, 9, inside=gru, kernels=[("sm90_xmma_gemm", 4000), ("elemWiseRNNcell", 1000)])
    product = event("aten::mm", 0, 1, kernels=[("sm90_xmma_gemm", 2000)])
    on_device = [
        event("sm90_xmma_gemm", 0, 4000, device="CUDA"),
        event("elemWiseRNNcell", 2000, 3000, device="CUDA"),
        event("sm90_xmma_gemm", 5000, 7000, device="CUDA"),
        event("Memcpy HtoD (Pinned -> Device)", 8000, 9000, device="CUDA"),
        event("ctc_forward", 9000, 9500, device="CUDA"),
    ]
    found = summarise([gru, rnn, product, event("cudaEventSynchronize", 0, 1), *on_device], steps=1)

    assert found.parts_ms == {"recurrent": 5.0, "matmul": 2.0, "copies": 1.0, "ctc": 0.5}
    assert found.busy_ms == 7.5  # 0 to 4, 5 to 7, 8 to 9.5
    assert found.kernels == 4
    assert found.waits == {"cudaEventSynchronize": 1}
    assert found.shares(10.0)["idle"] == pytest.approx(0.25)


def test_float32_with_ten_bits_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Findings()
    machine.full_float32(setting(tmp_path), found)
    assert not found.broken

    linear = torch.nn.functional.linear

    def tf32(x: Any, w: Any, b: Any = None) -> Any:
        return linear(x, w, b) if x.dtype == torch.float64 else linear(x.half().float(), w.half().float(), b)

    monkeypatch.setattr(torch.nn.functional, "linear", tf32)
    found = Findings()
    machine.full_float32(setting(tmp_path), found)
    assert [text.partition(":")[0] for text in found.broken] == ["product"]


def test_the_cheap_checks_pass_on_a_cpu(tmp_path: Path) -> None:
    cheap = ("environment", "ctc", "float32", "out-of-memory", "norm-statistics", "recurrent-ways")
    only = [argument for name in cheap for argument in ("--only", name)]
    code = gpu_check.main(["--out", str(tmp_path), "--device", "cpu", "--quick", *only])

    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 0, report
    assert {name: row["result"] for name, row in report["checks"].items()} == dict.fromkeys(report["checks"], "passed")
    assert set(report["checks"]) == set(cheap)


def test_branches_for_a_gpu_run_on_a_pretended_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.nn.RNNBase, "flatten_parameters", lambda network: None)  # asks cuDNN
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # as on a GPU
    by_name = {check.name: check for check in frame.CHECKS}
    with pretended_cuda():
        pretended = Setting(torch.device("cuda:0"), tmp_path, quick=True)
        for name in ("environment", "float32", "norm-statistics", "recurrent-ways"):
            row = frame.run_one(by_name[name], pretended)
            assert row["result"] == "passed", row

    assert set(pretended.precisions) == {"fp32", "bf16", "fp16"}


@pytest.mark.slow
def test_all_checks_pass_on_a_cpu(tmp_path: Path) -> None:
    code = gpu_check.main(["--out", str(tmp_path), "--device", "cpu", "--quick"])

    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 0, report
    assert len(report["checks"]) == len(frame.CHECKS)


def test_an_unknown_check_is_named_with_those_that_there_are(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main(["--out", str(tmp_path), "--device", "cpu", "--only", "ctx"])

    assert stopped.value.code == 2
    assert "no check ctx; there are: environment, ctc," in capsys.readouterr().err


def test_the_examples_in_its_docstrings_are_true() -> None:
    tried = doctest.testmod(profiling)
    assert tried.attempted >= 2
    assert not tried.failed


def test_the_page_lists_all_checks_in_their_order() -> None:
    page = (Path(__file__).parent.parent / "docs" / "gpu.md").read_text(encoding="utf-8")
    section = page.partition("## Check a GPU")[2]

    assert re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE) == [check.name for check in frame.CHECKS]
