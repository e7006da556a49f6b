"""Where the time of a step on a GPU goes: by what was computed, and how long the device had nothing to do."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.findings import Setting

#: Parts of a step, and words in the names of the operations that belong to them. The first that fits an operation or
#: one that it is a part of counts: the products within a recurrent operation are recurrent.
PARTS: dict[str, tuple[str, ...]] = {
    "ctc": ("ctc",),
    "recurrent": ("rnn", "gru", "lstm"),
    "convolution": ("conv",),
    "optimiser": ("adam", "_foreach", "optimizer"),
    "matmul": ("::mm", "::addmm", "::bmm", "::baddbmm", "::matmul", "::linear", "gemm", "cutlass", "nvjet"),
}
COPIES = "copies"
OTHER = "other"
#: calls of the CUDA runtime by which the host waits
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass
class Profile:
    """What a profiler saw of some steps; times in milliseconds per step."""

    steps: int
    parts_ms: dict[str, float] = field(default_factory=dict)
    #: time in which at least one kernel ran
    busy_ms: float = 0.0
    kernels: float = 0.0
    #: how often the host waited, by the call
    waits: dict[str, float] = field(default_factory=dict)
    #: the kernels that take the most time: name, milliseconds, number
    top: list[tuple[str, float, float]] = field(default_factory=list)
    #: kernels of the recurrent operations, by name
    recurrent: dict[str, float] = field(default_factory=dict)

    def shares(self, step_ms: float) -> dict[str, float]:
        """Return the share of each part in a step that takes so long without a profiler, and of idle time."""
        shares = {part: ms / step_ms for part, ms in self.parts_ms.items()}
        return shares | {"idle": max(0.0, 1 - self.busy_ms / step_ms)}


def profile_steps(setting: Setting, step: Callable[[], Any], steps: int = 3) -> Profile:
    """Run some steps under torch's profiler."""
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * setting.cuda]
    step()
    setting.synchronize()
    with profile(activities=activities) as seen:
        for _ in range(steps):
            step()
        setting.synchronize()
    return summarise(seen.events() or [], steps)


def summarise(events: Iterable[Any], steps: int) -> Profile:
    """Summarise the events of some steps. Without a device, the operations' own time on the CPU counts."""
    events = list(events)
    on_device = [event for event in events if _is_kernel(event)]
    out = Profile(steps)
    parts: Counter[str] = Counter()
    recurrent: Counter[str] = Counter()
    attributed: Counter[str] = Counter()

    for event in events:
        if on_device:
            for kernel in event.kernels if _is_cpu(event) else ():
                part = part_of([kernel.name, *chain(event)])
                parts[part] += kernel.duration
                attributed[kernel.name] += kernel.duration
                if part == "recurrent":
                    recurrent[kernel.name] += 1
        elif _is_cpu(event):
            parts[part_of(chain(event))] += event.self_cpu_time_total

    spent: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for event in on_device:
        spent[event.name] += event.time_range.elapsed_us()
        numbers[event.name] += 1
    for name, us in spent.items():  # launched outside of any operation of torch
        parts[part_of([name])] += max(0.0, us - attributed[name])

    per_step = 1000 * steps
    out.parts_ms = {part: us / per_step for part, us in parts.most_common()}
    out.busy_ms = covered((event.time_range.start, event.time_range.end) for event in on_device) / per_step
    out.kernels = sum(count for name, count in numbers.items() if not name.startswith("Mem")) / steps
    calls = Counter(event.name for event in events if event.name in _WAITS)
    out.waits = {name: count / steps for name, count in calls.items()}
    out.top = [(name[:90], us / per_step, numbers[name] / steps) for name, us in spent.most_common(15)]
    out.recurrent = {name[:120]: count / steps for name, count in recurrent.most_common(12)}
    return out


def _is_cpu(event: Any) -> bool:
    return event.device_type.name == "CPU"


def _is_kernel(event: Any) -> bool:
    return not _is_cpu(event) and not getattr(event, "is_user_annotation", False)


def chain(event: Any) -> Iterator[str]:
    """Yield the name of an operation and of those that it is a part of, from the inside."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def part_of(names: Iterable[str]) -> str:
    """Return the part that an operation belongs to, by its own name and those around it.

    >>> part_of(["sm90_xmma_gemm_bf16", "aten::_cudnn_rnn", "aten::gru"])
    'recurrent'
    """
    names = [name.lower() for name in names]
    if names[0].startswith("memcpy"):
        return COPIES
    for part, words in PARTS.items():
        if any(word in name for name in names for word in words):
            return part
    return OTHER


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of spans: on two streams, kernels run side by side.

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@contextmanager
def counting_waits(setting: Setting) -> Iterator[Counter[str]]:
    """Count the operations that make the host wait for the device while the block runs, by the line that calls them.

    Torch reports what it does itself; waits of the driver and of cuDNN are not seen. Nothing is counted on a CPU.
    """
    lines: Counter[str] = Counter()
    if not setting.cuda:
        yield lines
        return

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lines
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one in caught:
        if "synchroniz" in str(one.message):
            lines[f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}"] += 1
        else:  # not ours: said again
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def milliseconds(setting: Setting, work: Callable[[], Any], times: int = 5, before: int = 2) -> list[float]:
    """Time some work by the device's own clock, each time by itself; the first times are not counted."""
    for _ in range(before):
        work()
    setting.synchronize()
    if not setting.cuda:
        return [_wall_ms(work) for _ in range(times)]

    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    setting.synchronize()
    return [first.elapsed_time(second) for first, second in pairwise(marks)]


def _wall_ms(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def spread(values: Sequence[float]) -> list[float]:
    """Return the smallest and the largest value."""
    return [min(values), max(values)]
