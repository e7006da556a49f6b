"""The machine: device, precision, threads, random seeds, and a report of what ran where."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import logging
import os
import platform
import signal
import subprocess
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import asr
from asr.errors import ConfigError

log = logging.getLogger(__name__)

# oneDNN keeps a compiled kernel, with its buffers, for each of the last 1,024 shapes that it met. Utterances of all
# lengths hardly ever repeat one: gigabytes of kernels that nobody uses again (docs/performance.md). It reads this once,
# before it makes the first.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

#: from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def find_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the first CUDA device, or the CPU.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{name}' (auto, cpu, cuda, cuda:1)", key="train.device") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}': only cpu and cuda are supported", key="train.device")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{name}': no CUDA device is available here; use cpu or auto", key="train.device")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        have = "is only 1 CUDA device" if count == 1 else f"are only {count} CUDA devices"
        raise ConfigError(f"device '{name}': there {have} here", key="train.device")
    return device


def find_precision(name: str, device: torch.device) -> str:
    """``bf16`` or ``fp32``; ``auto`` takes bf16 where the hardware multiplies it natively."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which the network runs at a precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(threads: int | None) -> int:
    """Sets torch's intra-op threads (None: one a core this process may use); the number in use."""
    threads = threads or usable_cores()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


@dataclass(frozen=True)
class Machine:
    """What a training runs on. ``precision``: bf16 or fp32; ``threads``: torch's, of one operation."""

    device: torch.device
    precision: str
    threads: int


def use_machine(device: str, precision: str, threads: int | None) -> Machine:
    """Find the device and precision of these names, and set up this process to train there.

    Raises:
        ConfigError: no such device on this machine.
    """
    found = find_device(device)
    keep_freed_memory()
    return Machine(found, find_precision(precision, found), use_threads(threads))


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed for the next step, instead of giving it back and faulting it in anew.

    Worth a tenth of a training step on CPU, whose arrays of a few MiB come and go. Other C libraries have no such
    switch: nothing happens there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes; larger arrays are still mapped one by one
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class Interrupt:
    """Ctrl-C and SIGTERM as a question: ``asked`` turns true, and the work stops where it can be continued.

    Used as a context; a second signal stops at once. In another thread than the main one, signals are left alone.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("finishing this step, then saving (once more to stop at once)")


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on the parts alone, so that neither order nor worker count changes the data."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object) -> np.random.Generator:
    """A numpy Generator seeded by the parts."""
    return np.random.default_rng(stable_seed(*parts))


def environment(device: torch.device, precision: str, threads: int) -> dict[str, Any]:
    """Versions, hardware and source state of this process, for the record of a run."""
    packages = ("torch", "torchaudio", "numpy", "librosa", "soundfile", "soxr", "jiwer", "safetensors", "pydantic")
    return {
        "asr": asr.__version__,
        **commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in packages},
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": precision,
    }


def hardware(device: torch.device, threads: int) -> str:
    """What the network runs on, in a few words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{threads} threads of {_cpu_name()}"


def commit() -> dict[str, Any]:
    """The commit of the checkout this package runs from and whether it has changes; None and None when installed."""
    folder = Path(asr.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def package_version(package: str) -> str | None:
    """Return the installed version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()
