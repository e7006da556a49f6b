"""Checks of the machine: what it is, whether float32 is float32, and how often a step waits for the device.

Axes: b batch, s steps, i inputs, c channels.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.machine import commit, usable_cores
from benchmarks.gpu.findings import Findings, Setting

_VARIABLES = ("PYTORCH_", "CUBLAS_", "CUDNN_", "CUDA_", "NCCL_", "NVIDIA_", "TORCH_", "TRITON_", "OMP_")
_PACKAGES = ("torch", "triton", "numpy", "numba", "numba-cuda", "soundfile", "safetensors", "pydantic", "rapidfuzz")


def environment(setting: Setting, found: Findings) -> None:
    """Report what runs here; fail where an important part is missing."""
    found.note("python", platform.python_version())
    found.note("platform", platform.platform())
    found.note("cores", usable_cores())
    found.note("memory GiB", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    found.note("packages", {name: _version(name) for name in _PACKAGES})
    found.note("commit", commit())
    found.note("built for CUDA", torch.version.cuda)
    found.note("TF32", tf32_settings())
    found.note("variables", {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)})
    found.note("precisions", setting.precisions)
    if not setting.cuda:
        return

    free, total = torch.cuda.mem_get_info(setting.device)
    found.note("device", torch.cuda.get_device_name(setting.device))
    found.note("devices", torch.cuda.device_count())
    found.note("capability", list(torch.cuda.get_device_capability(setting.device)))
    found.note("processors", torch.cuda.get_device_properties(setting.device).multi_processor_count)
    found.note("driver", _driver())
    found.note("cuDNN", torch.backends.cudnn.version())
    found.note("NCCL", attempted(lambda: torch.cuda.nccl.version()))
    found.note("allocator", attempted(lambda: torch.cuda.get_allocator_backend()))
    found.note("memory of the GPU, GiB", {"free": free / 2**30, "total": total / 2**30})
    found.holds("cuDNN is there", torch.backends.cudnn.is_available())
    found.holds("Triton compiles (TRITON_INTERPRET is not 1)", os.environ.get("TRITON_INTERPRET", "0") != "1")


def tf32_settings() -> dict[str, Any]:
    """Return what torch says of TF32, by its old names and its new ones (where both are set, reading one may fail)."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "matmul": attempted(lambda: cuda.fp32_precision),
        "conv": attempted(lambda: cudnn.conv.fp32_precision),  # type: ignore[attr-defined]
        "rnn": attempted(lambda: cudnn.rnn.fp32_precision),  # type: ignore[attr-defined]
        "matmul, old name": attempted(lambda: cuda.allow_tf32),
        "cudnn, old name": attempted(lambda: cudnn.allow_tf32),
    }


def attempted(ask: Callable[[], Any]) -> Any:
    """Return an answer, or the error in words: not every version of torch has every question."""
    try:
        return ask()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _driver() -> str | None:
    """Return the version of the kernel's driver."""
    with suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text().strip()
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    return None


def full_float32(setting: Setting, found: Findings) -> None:
    """Compare a product, a convolution and a GRU in fp32 with float64 on the CPU: TF32 would be 1,000 times off."""
    setting.machine("fp32")
    found.note("TF32 as training sets it", tf32_settings())
    random = torch.Generator().manual_seed(1)
    size = 64 if setting.quick else 512
    x_sbi = torch.randn(40, 16, size, generator=random)
    image_bcts = torch.randn(4, 8, 100, 80, generator=random)

    def compare(name: str, module: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            exact = _first(module.double()(x.double()))
            here = _first(module.float().to(setting.device)(x.to(setting.device)))
        # TF32 has 10 bits: 5e-4 in each factor. Float32 sums of some hundred products stay below 1e-6.
        found.at_most(f"{name}: relative error", distance(exact, here), 2e-5)

    torch.manual_seed(1)
    compare("product", nn.Linear(size, size), x_sbi)
    compare("convolution", nn.Conv2d(8, 16, (11, 21), padding=(5, 10)), image_bcts)
    compare("GRU", nn.GRU(size, size), x_sbi)


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def distance(exact: Tensor, here: Tensor) -> float:
    """Return how far a tensor is from the exact one, relative to the norm of the exact one."""
    exact, here = exact.detach().double().cpu(), here.detach().double().cpu()
    return float((here - exact).norm() / exact.norm().clamp(min=1e-30))


def worst_share(exact_b: Tensor, here_b: Tensor) -> float:
    """Return the largest relative difference of two vectors of losses."""
    return float(((here_b.double() - exact_b).abs() / exact_b.abs().clamp(min=1)).max())
