"""The machine that a process runs on: device, precision, threads, interrupts, random seeds, versions."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import signal
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import asr
from asr.errors import ConfigError
from asr.machine import commit, cpu_name, package_version, set_in_torch, use_threads
from asr.model.precision import fp16_on_cpu

log = logging.getLogger(__name__)

# oneDNN keeps a compiled kernel, with its buffers, for each of the last 1,024 shapes. Utterances hardly ever repeat a
# shape, so gigabytes of kernels are never used again (docs/performance.md). This is read once, before the first kernel.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
# The number of threads may have been set before torch was loaded.
set_in_torch()

#: from glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
#: the dtype of products at each precision
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the first CUDA device, or the CPU.

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
    if device.type == "cpu":
        return device

    if not torch.cuda.is_available():
        raise ConfigError(f"device '{name}': no CUDA device is available here; use cpu or auto", key="train.device")

    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        have = "is only 1 CUDA device" if count == 1 else f"are only {count} CUDA devices"
        raise ConfigError(f"device '{name}': there {have} here", key="train.device")
    return device


def use_device(name: str) -> torch.device:
    """Find the device of a name, as ``find_device`` does, and set up this process to compute there.

    On CUDA the device becomes the current one, which cuBLAS and Triton go by. ``fp32`` is float32: by default torch
    rounds the inputs of convolutions and recurrent layers to TF32, which keeps 10 of 23 bits. Where torch has a choice,
    it takes algorithms that give the same bits every time.

    Raises:
        ConfigError: no such device on this machine.
    """
    device = find_device(name)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        _allow_tf32_in_cudnn(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.deterministic = True
        # Among others for the gradient of an embedding of few rows: torch 2.14 by itself adds it up in any order.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def _allow_tf32_in_cudnn(allowed: bool) -> None:
    """Let cuDNN's convolutions and recurrent layers compute float32 as TF32, or not."""
    # By both names: the older ones do not undo a caller's torch.backends.fp32_precision, and with the newer ones
    # alone torch.backends.cudnn.flags raises in torch 2.14.
    torch.backends.cudnn.allow_tf32 = allowed
    both: tuple[Any, Any] = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)  # type: ignore[attr-defined]
    for kernels in both:
        kernels.fp32_precision = "tf32" if allowed else "ieee"


def find_precision(name: str, device: torch.device) -> str:
    """Return the precision of a name on a device: ``fp32``, ``bf16`` or ``fp16``.

    ``auto`` is what the hardware multiplies natively: bf16, else fp16 on a GPU with tensor cores, else fp32.

    Args:
        device: as ``use_device`` returns it: torch answers for the current CUDA device.

    Raises:
        ConfigError: the device does not have this precision.
    """
    if device.type == "cpu":
        if name == "fp16":
            raise fp16_on_cpu()
        capabilities = torch.cpu.get_capabilities()
        has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return ("bf16" if has_bf16 else "fp32") if name == "auto" else name

    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and not has_bf16:
        gpu = torch.cuda.get_device_name(device)
        raise ConfigError(f"precision 'bf16': {gpu} does not multiply bfloat16; use fp16", key="train.precision")
    if name != "auto":
        return name
    if has_bf16:
        return "bf16"
    has_tensor_cores = torch.cuda.get_device_capability(device) >= (7, 0)
    return "fp16" if has_tensor_cores else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which the network runs at a precision, in this pass and in the backward pass after it."""
    if device.type == "cuda":
        # At bf16 and fp16 cuDNN computes nothing in float32, which the switch is for. But torch goes by it for the
        # recurrent kernels of every dtype but float16: switched off, those of bfloat16 use no tensor cores
        # (RNNDescriptor in ATen/cudnn/Descriptors.h). It stays as it is set here: the backward pass asks for it again.
        _allow_tf32_in_cudnn(precision != "fp32")
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=DTYPES[precision])


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for the copy or for the device.

    The copy leaves from pinned memory: from other memory, CUDA's driver would copy it first, and torch would wait.
    """
    if device.type != "cuda":
        return tensor.to(device)
    # Of rows with gaps between them, torch would first make a copy in ordinary memory.
    pinned = tensor if tensor.is_pinned() and tensor.is_contiguous() else tensor.contiguous().pin_memory()
    return pinned.to(device, non_blocking=True)


class LateNumbers:
    """Numbers that a device may still be computing; reading them does not wait for work that it was given since."""

    def __init__(self, values_n: Tensor) -> None:
        self._values_n = values_n.detach().to("cpu", non_blocking=True)
        self._copied = None
        if values_n.device.type == "cuda":
            # One that sleeps: by default CUDA waits in a loop, which takes a core from the threads that load batches.
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(values_n.device))

    def read(self) -> list[float]:
        """Return the numbers, once they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values_n.tolist()


@dataclass(frozen=True)
class Machine:
    """The set-up that a training runs on."""

    device: torch.device
    #: a key of ``DTYPES``
    precision: str
    #: of one operation of torch
    threads: int


def use_machine(device: str, precision: str, threads: int | None) -> Machine:
    """Find the device and precision of these names, and set up this process to train there.

    Raises:
        ConfigError: no such device on this machine, or it does not have this precision.
    """
    found = use_device(device)
    keep_freed_memory()
    return Machine(found, find_precision(precision, found), use_threads(threads))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step, instead of returning it to the system.

    This saves a tenth of a training step on CPU, whatever the size of its arrays: the system would clear each page
    anew. Other C libraries have no such switch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return

    mallopt(_M_MMAP_MAX, 0)  # else arrays above 32 MiB are mapped one by one, whatever the threshold
    mallopt(_M_TRIM_THRESHOLD, -1)


class Interrupt:
    """Handle Ctrl-C and SIGTERM while the block runs: ``asked`` turns true, so that work can stop where it can resume.

    A second signal stops at once. Outside the main thread, signals are not handled.
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
    """Return a 63-bit seed that depends on the parts alone, so that order and worker count change no data."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object) -> np.random.Generator:
    """Return a numpy Generator seeded by the parts."""
    return np.random.default_rng(stable_seed(*parts))


def environment(device: torch.device, precision: str, threads: int) -> dict[str, Any]:
    """Return versions, hardware and commit of this process, for the record of a run."""
    packages = ("torch", "torchaudio", "numpy", "librosa", "soundfile", "soxr", "rapidfuzz", "safetensors", "pydantic")
    return {
        "asr": asr.__version__,
        **commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in packages},
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": precision,
        **(_cuda_facts(device) if device.type == "cuda" else {}),
    }


def _cuda_facts(device: torch.device) -> dict[str, Any]:
    """Return what decides the bits that a GPU computes, beside the versions of packages."""
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "capability": f"{major}.{minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": _driver(),
        "tf32": _uses_tf32(),
        "deterministic": torch.backends.cudnn.deterministic,
        "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", os.environ.get("PYTORCH_ALLOC_CONF")),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def _uses_tf32() -> bool:
    """Check whether products of float32 are computed as TF32. In cuDNN they are not, see ``autocast``."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def _driver() -> str | None:
    """Return the version of NVIDIA's kernel driver; None where Linux's /proc does not tell."""
    with suppress(OSError):
        found = re.search(r"Kernel Module\D*([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
        return found and found[1]
    return None


def hardware(device: torch.device, threads: int) -> str:
    """Describe in a few words what the network runs on."""
    if device.type == "cuda":
        # The commands switch TF32 off; a program that calls the library may switch it on again.
        return torch.cuda.get_device_name(device) + (", float32 as TF32" if _uses_tf32() else "")
    return f"{threads} threads of {cpu_name()}"
