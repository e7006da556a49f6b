"""The machine, for code that may run without torch: cores and threads, memory, GPUs, and the record of a run."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asr
from asr.errors import AsrError

#: threads that were asked for in this process; 0: none were
_asked = 0
#: ``is_alone``: this thread takes no other core
_own = threading.local()
#: CUDA's driver, by the name of its library on each system; and where the driver of AMD's GPUs is
_CUDA_DRIVERS, _AMD_DRIVER = ("libcuda.so.1", "nvcuda.dll"), Path("/dev/kfd")
#: parts of what torch's allocators say: on CPU, on CPU with Linux's overcommitment, and on CUDA, where the driver and
#: Triton say the same; then the names of errors of cuBLAS (CUBLAS_STATUS_ALLOC_FAILED), of cuDNN 8
#: (CUDNN_STATUS_ALLOC_FAILED) and of cuDNN 9 (CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, …_HOST_…)
_NO_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "_ALLOCATION_FAILED",
)
#: what torch says when none of cuDNN's algorithms for a convolution has run, whatever the reason
_NO_ENGINE = "unable to find an engine"


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_threads(threads: int | None) -> int:
    """Set the threads of a computation (None: one per core that this process may use); return their number."""
    global _asked
    _asked = threads or usable_cores()
    set_in_torch()
    return _asked


def set_in_torch() -> None:
    """Tell torch the number that was asked for, if one was, and if torch is loaded."""
    torch = sys.modules.get("torch")
    if _asked and torch is not None and torch.get_num_threads() != _asked:
        torch.set_num_threads(_asked)


def num_threads() -> int:
    """Return how many threads a computation may use that begins in this thread.

    Where torch is loaded, it is torch's number, which a program may have set.
    """
    if getattr(_own, "is_alone", False):
        return 1
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    return _asked or (int(told) if told.isdecimal() and int(told) else usable_cores())


def pool_of(threads: int, name: str) -> ThreadPoolExecutor:
    """Make a pool whose threads compute alone: there is no barrier at which they would wait for each other."""
    return ThreadPoolExecutor(threads, name, initializer=_be_alone)


def _be_alone() -> None:
    _own.is_alone = True
    # Torch counts threads per thread: this one must not take the cores of the others.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@contextmanager
def needing_torch(what: str) -> Iterator[None]:
    """Import modules that load torch; where it is not installed, an AsrError says what needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise AsrError(f"{what} needs PyTorch, which is not installed: pip install asr-ctc") from error


def has_torch() -> bool:
    """Return true if torch is installed; it is not loaded."""
    with suppress(ModuleNotFoundError):
        return importlib.util.find_spec("torch") is not None
    return False


def may_have_gpu() -> bool:
    """Return true if a GPU's driver is installed, and torch, which alone can tell whether it can use it."""
    if not has_torch() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    for name in _CUDA_DRIVERS:
        with suppress(OSError):
            ctypes.CDLL(name)
            return True
    return _AMD_DRIVER.exists()


def free_gpu_memory() -> None:
    """Give the memory of a GPU that torch holds unused back to it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether an error of torch or numpy means that there is no memory left."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    if any(words in text for words in _NO_MEMORY):
        return True
    # torch tries one algorithm after the other, also after one that found no memory, and in the end names no reason
    # (Conv_v8.cpp, try_configs). If no allocation has failed, cuDNN has none for this dtype or this GPU.
    return _NO_ENGINE in text and torch is not None and torch.cuda.memory_stats().get("num_ooms", 0) > 0


def commit() -> dict[str, Any]:
    """Return the commit of the checkout that this runs from, and whether it has changes; None and None if installed."""
    unknown = {"commit": None, "dirty": None}
    folder = Path(asr.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return unknown

    import subprocess

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return unknown


def package_version(package: str) -> str | None:
    """Return the installed version of a package, None where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()
