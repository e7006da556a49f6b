"""The one place where Triton kernels are launched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def launch(kernel: Any, grid: tuple[int, ...], *args: Tensor | int, **constants: int | bool) -> None:
    """Start a Triton kernel on the device of its first argument. Triton itself takes the process's current device."""
    with torch.cuda.device_of(args[0]):  # type: ignore[no-untyped-call]
        kernel[grid](*args, **constants)
