"""What every check of a GPU shares: where it runs, and the numbers that it finds, with their limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from asr.machine import usable_cores
from asr.runtime import Machine, use_machine


@dataclass
class Findings:
    """The numbers of one check, and which of them are beyond their limits."""

    values: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def note(self, name: str, value: Any) -> None:
        """Report a value that has no limit."""
        self.values[name] = short(value)

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Report a number, which must not be above its limit (nor NaN)."""
        self._limit(name, value, "<=", limit, value <= limit)

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Report a number, which must not be below its limit (nor NaN)."""
        self._limit(name, value, ">=", limit, value >= limit)

    def holds(self, name: str, truth: bool) -> None:
        """Report whether something that must be true is."""
        self.values[name] = bool(truth)
        if not truth:
            self.broken.append(f"not so: {name}")

    def _limit(self, name: str, value: float, sign: str, limit: float, is_kept: bool) -> None:
        self.values[name] = {"is": short(value), "limit": f"{sign} {limit:g}"}
        if not is_kept:
            self.broken.append(f"{name}: {value:.3g}, must be {sign} {limit:g}")


def short(value: Any) -> Any:
    """Return a value with its numbers rounded to four digits, as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): short(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [short(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    if isinstance(value, str | int | bool) or value is None:
        return value
    return str(value)


@dataclass
class Setting:
    """Where the checks run.

    ``out`` is the folder of the report and of what the checks write; ``data`` a folder of ``asr prepare``, without one
    speech is made up. ``quick`` makes everything small, to try the checks themselves on a CPU.
    """

    device: torch.device
    out: Path
    data: Path | None = None
    quick: bool = False

    @property
    def cuda(self) -> bool:
        """Return true on a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def cpu(self) -> Machine:
        """Return the machine that results are compared with: this one's CPU, in float32."""
        return use_machine("cpu", "fp32", self.threads)

    @property
    def threads(self) -> int:
        """Return how many threads torch's operations on the CPU may have."""
        return 1 if self.quick else usable_cores()

    def machine(self, precision: str) -> Machine:
        """Return the device at a precision, set up as for training."""
        return use_machine(str(self.device), precision, self.threads)

    @cached_property
    def precisions(self) -> list[str]:
        """Return the precisions that this device trains in."""
        if not self.cuda:
            return ["fp32", "bf16"]
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        has_fp16 = torch.cuda.get_device_capability(self.device) >= (7, 0)
        return ["fp32", *["bf16"] * has_bf16, *["fp16"] * has_fp16]

    @property
    def best_precision(self) -> str:
        """Return bf16 where there is it, as ``auto`` does, else fp16 or fp32."""
        if not self.cuda:
            return "fp32"
        return self.precisions[1] if len(self.precisions) > 1 else "fp32"

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def folder(self, name: str) -> Path:
        """Make a folder below ``out``."""
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class Check:
    """A check by name, with the seconds that it is expected to take on a GPU of the H200's class."""

    name: str
    work: Callable[[Setting, Findings], None]
    seconds: float
