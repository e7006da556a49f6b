"""Find out in under nine minutes whether training and transcription are right and fast on a GPU.

    python -m benchmarks.gpu_check --out DIR [--device cuda] [--data DATA] [--quick] [--only NAME] [--budget-s 540]

Each check prints one line and adds its numbers, with their limits, to ``DIR/report.json``, which is whole after every
check. A check that fails or raises does not stop the others. What matters most comes first; what does not fit into the
budget is left out and named. Exit code 1: a check failed.

It needs this repository (run it from its top folder) and what ``asr`` needs to train: torch with CUDA, triton, numpy,
numba, soundfile, safetensors, pydantic, PyYAML and rapidfuzz. ``docs/gpu.md`` says how to carry them to a machine
without a network. Without ``--data`` (a folder of ``asr prepare an4``) it makes its own speech. ``--device cpu
--quick`` tries the checks themselves in a minute, without what only a GPU has.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

#: what the command ``asr`` sets before torch is loaded; values of the user's own stay
ENVIRONMENT = {
    "GOMP_SPINCOUNT": "5000",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks that the arguments ask for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--data", type=Path, help="a folder of 'asr prepare'; default: speech is made up")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the checks themselves")
    parser.add_argument("--only", action="append", metavar="NAME", help="these checks only; may be repeated")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds in all (540)")
    parser.add_argument("--continue", dest="goes_on", action="store_true", help="leave out what the report has")
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import torch  # only now: it reads these variables when it is loaded

    from benchmarks.gpu.findings import Setting
    from benchmarks.gpu.frame import CHECKS, Report, run

    names = [check.name for check in CHECKS]
    unknown = sorted(set(args.only or ()) - set(names))
    if unknown:
        parser.error(f"no check {', '.join(unknown)}; there are: {', '.join(names)}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; --device cpu --quick tries the checks on the CPU")

    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # some of torch's functions ask for the number
    setting = Setting(device, args.out, args.data, args.quick)
    report = Report(args.out / "report.json", keep=args.goes_on)
    wanted = [check for check in CHECKS if not args.only or check.name in args.only]

    def restart() -> None:
        print("going on in a new process", flush=True)
        again = given if args.goes_on else [*given, "--continue"]
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_check", *again])

    return run(wanted, setting, report, args.budget_s, restart)


if __name__ == "__main__":
    sys.exit(main())
