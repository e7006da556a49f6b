"""The memory of a device: how much is in use, how much there is, what did not fit into it.

On a CUDA device the numbers are those of torch, on a CPU those of this process. Torch takes a GPU's memory in segments,
of which some is in use and some is kept for later. A peak is of the segments: gaps that nothing fits into count too.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import torch

from asr.batch import Batch
from asr.files import read_json, write_json


def used_bytes(device: torch.device) -> int:
    """Return the memory in use."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _process_bytes("VmRSS")


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far, where the system can."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # segments without a use would count
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # from Linux's proc(5)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that was taken since ``reset_peak``."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _process_bytes("VmHWM")


def total_bytes(device: torch.device) -> int:
    """Return the memory that this process can have: of the device, or of the machine or container; 0 if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)

    available = _proc_bytes(Path("/proc/meminfo"), "MemAvailable")
    if not available:
        return 0

    # Control groups (version 2, version 1) may limit a container to less than the machine has.
    free_bytes = [available]
    for limit_file, use_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # ValueError: "max", no limit
            limit = int(Path("/sys/fs/cgroup", limit_file).read_text())
            use = int(Path("/sys/fs/cgroup", use_file).read_text())
            free_bytes.append(max(0, limit - use))

    return min(free_bytes) + _process_bytes("VmRSS")


def _process_bytes(field: str) -> int:
    value = _proc_bytes(Path("/proc/self/status"), field)
    if value:
        return value
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, in bytes


def _proc_bytes(path: Path, field: str) -> int:
    """Read a size from a file of Linux's /proc; return 0 if there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def known_limits(run: Path) -> tuple[float, list[str]]:
    """Read from ``memory.json`` what ran out of memory in a run of several processes, which ends then.

    Returns the padded frames that were too many at once (infinite if none were) and the utterances that do not fit
    alone.
    """
    try:
        known = read_json(run / "memory.json")
        return float(known["too_many_frames"] or math.inf), [str(id_) for id_ in known["left_out"]]
    except (OSError, ValueError, LookupError, TypeError):
        return math.inf, []


def remember_limit(run: Path, batch: Batch) -> bool:
    """Write into ``memory.json`` that a batch ran out of memory, for the run when it is resumed.

    Returns false if it cannot be written: this machine does not see the folder of the run.
    """
    too_many, left_out = known_limits(run)
    if len(batch.ids) > 1:
        too_many = min(too_many, batch.area)
    else:
        left_out = sorted({*left_out, *batch.ids})
    with suppress(OSError):
        if run.is_dir():
            frames = None if too_many == math.inf else int(too_many)
            write_json(run / "memory.json", {"too_many_frames": frames, "left_out": left_out})
            return True

    return False
