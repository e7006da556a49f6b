"""Runs of several processes, for tests: one program that imports torch once and forks the processes of every run.

``python -m tests.processes DATA JOBS``: JOBS is a JSON list of jobs, each a dictionary with ``run`` (a folder),
``size`` (processes) and ``settings`` of a run that is trained, or resumed where the folder holds one. ``act`` lists
``[rank, row, what]``: when the run has so many rows of metrics, the process is sent a signal (``KILL``, ``TERM``,
``STOP``) or, with ``oom``, runs out of memory at its next batch. It prints a JSON list with ``codes`` (exit codes by
rank), ``said`` (stderr by rank) and ``seconds`` from the first act to the end for each job.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rapidfuzz.distance  # noqa: F401  # what the children would import, once for all
import soundfile  # noqa: F401
import soxr  # noqa: F401
import torch
import torch._dynamo
import torch.distributed

import asr.training.step
from asr import config as configs
from asr import train as training
from asr.errors import AsrError, DataError
from asr.training.distributed import is_reported, process_group


def main() -> None:
    data, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    print(json.dumps([_do(data, job) for job in jobs]))


def _do(data: Path, job: dict[str, Any]) -> dict[str, Any]:
    size = job.get("size", 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        pids = [_start(data, job, rank, size, port, Path(folder)) for rank in range(size)]
        codes: dict[int, int] = {}
        acts, acted_at = list(job.get("act", ())), time.monotonic()
        while len(codes) < size:
            for rank, pid in enumerate(pids):
                if rank not in codes:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        codes[rank] = os.waitstatus_to_exitcode(status)
            if acts and _rows(Path(job["run"])) >= acts[0][1]:
                rank, _, what = acts.pop(0)
                acted_at = time.monotonic()
                if rank not in codes:
                    os.kill(pids[rank], signal.SIGUSR1 if what == "oom" else getattr(signal, f"SIG{what}"))
            if set(codes) | {rank for rank, _, what in job.get("act", ()) if what == "STOP"} == set(range(size)):
                for rank in set(range(size)) - set(codes):
                    os.kill(pids[rank], signal.SIGKILL)
            time.sleep(0.002)
        said = [(Path(folder) / f"{rank}").read_text() for rank in range(size)]
    return {"codes": [codes[r] for r in range(size)], "said": said, "seconds": time.monotonic() - acted_at}


def _rows(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _start(data: Path, job: dict[str, Any], rank: int, size: int, port: int, folder: Path) -> int:
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        file = (folder / str(rank)).open("w", buffering=1)
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
        logging.basicConfig(stream=file, level=logging.INFO, format="%(levelname)s %(message)s", force=True)
        if size > 1:
            os.environ |= {
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        _arm()
        code = globals()[job["call"]](rank) if "call" in job else _train(data, job)
    except AsrError as error:
        code = 2
        if not is_reported(error):
            print(f"asr: {error}", file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _train(data: Path, job: dict[str, Any]) -> int:
    run, watch = Path(job["run"]), lambda values: None
    if (run / "config.yaml").exists():
        report = training.resume(run, watch=watch)
    else:
        report = training.train(configs.RunConfig.model_validate(job["settings"]), data, run, watch)
    return 130 if report.interrupted else 0


def _arm() -> None:
    """A signal that makes the next batch run out of memory."""
    real, armed = asr.training.step.gradients, []

    def gradients(*args: Any, **more: Any) -> Any:
        if armed and args[1].ids:
            armed.clear()
            raise torch.OutOfMemoryError("out of memory, as asked")
        return real(*args, **more)

    asr.training.step.gradients = gradients  # type: ignore[assignment]
    signal.signal(signal.SIGUSR1, lambda number, frame: armed.append(1))


def agreements(rank: int) -> int:
    """What a group of processes promises."""
    with process_group() as group:
        size = group.size
        assert group.agree(rank, 2.5) == [(float(r), 2.5) for r in range(size)]
        assert group.sum(rank, 1) == [sum(range(size)), size]
        assert group.any(rank == size - 1) and not group.any(False)
        assert group.gather({"rank": rank}) == [{"rank": r} for r in range(size)]
        assert group.from_first(lambda: f"from {rank}") == "from 0"
        assert group.everywhere(lambda: rank) == rank
        for first_only in (False, True):

            def fail(first_only: bool = first_only) -> None:
                if first_only or rank == 1:
                    raise DataError("bad", "file.wav")

            try:
                (group.from_first if first_only else group.everywhere)(fail)
            except DataError as error:
                assert str(error) == "file.wav: bad" and is_reported(error) == (rank > 0), error
            else:
                raise AssertionError("no error")
        joined_gradients(group)
    return 0


def joined_gradients(group: Any) -> None:
    """Gradients and running statistics of processes together are those of one with the whole batch."""
    from dataclasses import replace

    from asr.batch import Batch, empty_batch
    from asr.config import ModelConfig
    from asr.model.build import build_network
    from asr.runtime import Machine
    from asr.training.gradients import gradients

    small = {"conv": [{"channels": 3, "kernel_tf": [5, 5], "stride_tf": [2, 2]}], "layers": 2, "hidden": 6}
    kinds = [
        {"cell": "gru"},
        {"cell": "gru", "bidirectional": False, "lookahead_steps": 2},
        {"cell": "lstm"},
        {"cell": "tanh", "merge": "concat"},
        {"cell": "gru", "norm": False},
        {"encoder": "tdnn"},
        {"encoder": "mlp"},
        {"encoder": "conformer", "conv": [], "conformer": {"heads": 2, "subsampling_channels": 4, "inter_layers": [1]}},
    ]
    machine = Machine(torch.device("cpu"), "fp32", 1)
    lengths = torch.tensor([30, 25, 17, 22, 9])
    torch.manual_seed(0)
    whole = Batch(
        torch.randn(5, 30, 8),
        lengths,
        torch.randint(1, 5, (5, 2)),
        torch.tensor([2, 2, 1, 2, 1]),
        ("a", "b", "c", "d", "e"),
        1.0,
    )
    whole.features_btf.mul_((torch.arange(30)[None] < lengths[:, None])[:, :, None])
    # of four processes the last has nothing
    cuts = [(0, 1), (1, 4), (4, 5)] if group.size > 2 else [(0, 2), (2, 5)]
    mine = whole.rows(*cuts[group.rank]) if group.rank < len(cuts) else empty_batch(8)
    for kind in kinds:
        cfg = ModelConfig.model_validate({**small, **kind})
        torch.manual_seed(1)
        one, many = build_network(cfg, 8, 5).train(), build_network(cfg, 8, 5).train()
        many.load_state_dict(one.state_dict())
        gradients(one, whole, 5, machine, inter_weight=0.3)
        if group.rank:  # joining makes them alike
            with torch.no_grad():
                many.output.weight.add_(1.0)
        gradients(group.connect(many), mine, 5 / group.size, machine, inter_weight=0.3)
        scale = max(float(p.grad.abs().max()) for p in one.parameters() if p.grad is not None)
        for (name, left), right in zip(one.named_parameters(), many.parameters(), strict=True):
            assert left.grad is not None and right.grad is not None, (kind, name)
            worst = float((left.grad - right.grad).abs().max())
            assert worst < 1e-5 * scale, (kind, name, worst, scale)
        for (name, left), right in zip(one.named_buffers(), many.buffers(), strict=True):
            assert torch.allclose(left.float(), right.float(), rtol=1e-5, atol=1e-6), (kind, name)
    assert replace(mine).ids == mine.ids


if __name__ == "__main__":
    main()
