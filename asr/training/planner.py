"""Memory, before it runs out: what the largest batch takes, and the largest that fits.

A dry run is forward and backward of a batch of zeros; weights, running statistics and random state are as before.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from asr.batch import Batch
from asr.errors import ConfigError
from asr.files import write_json
from asr.heartbeat import heartbeat
from asr.model.network import Network
from asr.model.norm import Reduce
from asr.training.data import Planned, TrainingData
from asr.training.distributed import Group
from asr.training.step import gradients, halves, is_out_of_memory

log = logging.getLogger(__name__)
GIB = 2**30
#: of the memory; the rest is for batches that are a little larger, and for what else the machine does
USABLE = 0.9
#: ``auto`` looks no closer than this factor, and no further than this on a CPU (an hour of audio at once)
_CLOSE, _CPU_CAP_S = 1.05, 3600.0


class Planner:
    """Dry runs of one process."""

    def __init__(self, network: Network, data: TrainingData, device: torch.device, precision: str) -> None:
        self.network, self.data, self.device, self.precision = network, data, device, precision
        #: (padded frames, bytes at the peak) of dry runs, each larger than those before
        self.points: list[tuple[int, int]] = []
        self.weight_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
        #: in use before the first dry run
        self.base_bytes = used_bytes(device)

    def measure(self, batch: Batch) -> int | None:
        """Forward and backward of a batch: bytes at the peak; None when memory ran out, or would have."""
        total = total_bytes(self.device)
        if self.device.type == "cpu" and total and self.predicted(batch.area) > total:
            return None  # Linux does not refuse: it ends the process
        measured, began = None, time.perf_counter()

        def trying() -> str:
            return f"memory: a batch of {_shape(batch)} is tried, for {time.perf_counter() - began:.0f} s so far"

        with heartbeat(trying), self._undone():
            reset_peak(self.device)
            try:
                gradients(self.network, batch, len(batch.ids), self.device, self.precision, lambda phase, work: work())
                measured = peak_bytes(self.device)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        # A smaller one after a larger one would count what the larger one has left to the allocator.
        if measured is not None and (not self.points or batch.area > self.points[-1][0]):
            self.points.append((batch.area, measured))
        return measured

    def predicted(self, area: float) -> float:
        """The peak of a batch of so many padded frames, along the line through the smallest and the largest tried.

        From one alone, as if all that it took (but for the weights' gradients) grew with the frames: rather too much.
        """
        if not self.points:
            return 0.0
        last_area, last_peak = self.points[-1]
        if len(self.points) > 1:
            area_0, peak_0 = self.points[0]
            a_frame = max(0.0, (last_peak - peak_0) / (last_area - area_0))
        else:
            a_frame = max(0.0, (last_peak - self.base_bytes - self.weight_bytes) / last_area)
        return last_peak + a_frame * (area - last_area)

    def fits(self, max_batch_s: float) -> bool:
        """Whether batches of so many padded seconds leave a reserve of the memory."""
        batch = self.largest(max_batch_s)
        if self.device.type == "cpu" and not self.points:
            self.measure(batch.rows(len(batch.ids) - 1, len(batch.ids)))
        measured, total = self.measure(batch), total_bytes(self.device)
        if measured is None or not total:
            return measured is not None
        # Another epoch's plan may fill the seconds better than the first one's.
        peak = max(measured, self.predicted(self.possible_s(max_batch_s) / self.data.cfg.features.hop_s))
        return peak + 2 * self.weight_bytes <= USABLE * total

    def possible_s(self, max_batch_s: float) -> float:
        """Padded seconds of the largest batch that a plan can hold, of what one process has of it."""
        data = self.data
        most_s = min(max_batch_s, min(data.cfg.batch.max_utterances, len(data.kept)) * self.longest_s)
        return max(self.longest_s, most_s / data.share[1])

    @property
    def longest_s(self) -> float:
        """Seconds of the longest utterance, at the slowest speed."""
        data = self.data
        return max(data.manifest.utterances[i].duration_s for i in data.kept) / min(1.0, *data.cfg.augment.speeds)

    def zeros(self, planned: Planned) -> Batch:
        """A batch of the shape of a planned one; nothing is read for it."""
        rate, rows = self.data.extractor.sample_rate_hz, self.data.manifest.utterances
        samples = [round(rows[index].duration_s * rate / speed) for index, speed in planned.items]
        num_frames_b = self.data.extractor.num_frames(torch.tensor(samples, dtype=torch.int64))
        targets = [self.data.targets[index] for index, _ in planned.items]
        num_targets_b = torch.tensor([len(one) for one in targets], dtype=torch.int64)
        targets_bu = torch.ones(len(targets), int(num_targets_b.max()), dtype=torch.int64)
        for i, one in enumerate(targets):
            targets_bu[i, : len(one)] = torch.tensor(one)
        features_btf = torch.zeros(len(targets), int(num_frames_b.max()), self.data.extractor.num_bins)
        ids = tuple(rows[i].id for i, _ in planned.items)
        twin_btf = features_btf if self.data.cfg.train.consistency else None
        return Batch(features_btf, num_frames_b, targets_bu, num_targets_b, ids, 0.0, twin_btf)

    def largest(self, max_batch_s: float | None = None) -> Batch:
        """A batch of the shape of the largest one of the first epoch, of what this process has of it."""
        planned = max((self.data.own(one) for one in self.data.plan(0, max_batch_s)), key=self._area_s)
        # With fewer utterances than processes, this one may have none: it measures another's.
        return self.zeros(planned if planned.items else Planned(((self.data.kept[0], 1.0),), 0))

    def _area_s(self, planned: Planned) -> float:
        rows = self.data.manifest.utterances
        return len(planned.items) * max((rows[i].duration_s / speed for i, speed in planned.items), default=0.0)

    def find_max_batch_s(self) -> float:
        """The largest ``batch.max_batch_s`` that fits, in whole seconds from 1 on; 0 when not even one utterance does.

        No larger than ``batch.max_utterances`` of the longest utterance.
        """
        cap_s = float(math.ceil(self.data.cfg.batch.max_utterances * self.longest_s))
        if self.device.type == "cpu":
            cap_s = min(cap_s, _CPU_CAP_S)
        return find_largest(self.fits, math.ceil(self.longest_s), cap_s)

    @contextmanager
    def _undone(self) -> Iterator[None]:
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        training, random = self.network.training, torch.get_rng_state()
        on_cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.network.train()
        try:
            with _by_itself(self.network):
                yield
        finally:
            self.network.zero_grad()
            self.network.train(training)
            with torch.no_grad():
                for buffer, value in zip(self.network.buffers(), buffers, strict=True):
                    buffer.copy_(value)
            torch.set_rng_state(random)
            if on_cuda is not None:
                torch.cuda.set_rng_state(on_cuda, self.device)
                torch.cuda.empty_cache()


def find_largest(fits: Callable[[float], bool], start: float, cap: float) -> float:
    """The largest number up to ``cap`` that fits, to 5 %, by doubling and bisection; 0 when ``start`` does not.

    >>> find_largest(lambda seconds: seconds < 700, 20, 2000) in range(660, 700)
    True
    """
    start = min(start, cap)
    if not fits(start):
        return 0
    low, high = start, start
    while low < cap:
        high = min(2 * low, cap)
        if not fits(high):
            break
        low = high
    while high > low * _CLOSE and high - low > 1:
        middle = max(math.floor((low + high) / 2), math.floor(low) + 1)  # above low, which may be no whole number
        if fits(middle):
            low = middle
        else:
            high = middle
    return math.floor(low)


def plan_memory(planner: Planner, group: Group) -> tuple[float, list[str]]:
    """Tries the largest batch; (padded frames that are too many at once, lines for the log).

    Raises:
        ConfigError: no utterance fits.
    """
    batch, too_many = planner.largest(), math.inf
    shape = _shape(batch)
    if planner.device.type == "cpu" and len(batch.ids) > 1:
        planner.measure(batch.rows(len(batch.ids) - 1, len(batch.ids)))  # for a guess at the whole
    while (measured := planner.measure(batch)) is None and len(batch.ids) > 1:
        too_many = min(too_many, batch.area)
        batch = halves(batch)[1]  # the longer ones
    too_many = min(row[0] for row in group.agree(too_many))
    if measured is None:
        line = f"memory: utterance {batch.ids[0]} may not fit, even alone"
        if too_many < math.inf:
            line += "; batches are computed in halves, each with batch norm statistics of its own"
        return too_many, [line]
    # What AdamW keeps is there from the first step on.
    peak, total = measured + 2 * planner.weight_bytes, total_bytes(planner.device)
    possible = planner.possible_s(planner.data.max_batch_s) / planner.data.cfg.features.hop_s
    most = max(peak, int(planner.predicted(possible)) + 2 * planner.weight_bytes)
    lines = [
        f"memory: the largest batch ({shape}) takes {peak / GIB:.2f} GiB at its peak, the largest that the "
        f"configuration allows about {most / GIB:.2f} GiB{f' of {total / GIB:.1f} GiB' if total else ''}"
    ]
    if too_many < math.inf:
        lines = [
            f"memory: the largest batch ({shape}) does not fit at once: it and others like it are computed in halves, "
            "each with batch norm statistics of its own; a lower batch.max_batch_s avoids that"
        ]
    return too_many, lines


def resolve_max_batch_s(planner: Planner, group: Group) -> float:
    """What ``batch.max_batch_s: auto`` means here: the least of what fits in each process.

    Raises:
        ConfigError: not even one utterance fits.
    """
    found = min(row[0] for row in group.agree(planner.find_max_batch_s()))
    if not found:
        raise ConfigError(
            "batch.max_batch_s=auto: not even the longest utterance fits into memory; lower batch.max_utterance_s",
            key="batch.max_batch_s",
        )
    return found


def known_limits(run: Path) -> tuple[float, list[str]]:
    """What ran out of memory in a run of several processes, which ends then.

    The padded frames that were too many at once (infinite: none were), and utterances that do not fit alone.
    """
    try:
        known = json.loads((run / "memory.json").read_text(encoding="utf-8"))
        return float(known["too_many_frames"] or math.inf), [str(id_) for id_ in known["left_out"]]
    except (OSError, ValueError, LookupError, TypeError):
        return math.inf, []


def remember(run: Path, batch: Batch) -> bool:
    """Writes into ``memory.json``, which a run that is resumed goes by, that a batch ran out of memory.

    False: it cannot, on a machine that does not see the run's folder.
    """
    too_many, left_out = known_limits(run)
    if len(batch.ids) > 1:
        too_many = min(too_many, batch.area)
    else:
        left_out = sorted({*left_out, *batch.ids})
    known = {"too_many_frames": None if too_many == math.inf else int(too_many), "left_out": left_out}
    with suppress(OSError):
        if run.is_dir():
            write_json(run / "memory.json", known)
            return True
    return False


def _shape(batch: Batch) -> str:
    return f"{len(batch.ids)} x {batch.features_btf.shape[1]:,} frames"


@contextmanager
def _by_itself(network: Network) -> Iterator[None]:
    """The norms ask no other process."""
    norms: list[tuple[Any, Reduce | None]] = [(m, m.reduce) for m in network.modules() if hasattr(m, "reduce")]  # type: ignore[misc]
    for module, _ in norms:
        module.reduce = None
    try:
        yield
    finally:
        for module, reduce in norms:
            module.reduce = reduce


def used_bytes(device: torch.device) -> int:
    """Memory in use: torch's on a CUDA device, this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def reset_peak(device: torch.device) -> None:
    """Forgets the peak so far, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # from Linux's proc(5)
    except OSError:
        return


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use since ``reset_peak``."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def total_bytes(device: torch.device) -> int:
    """What this process can have: of the device's memory, or of the machine's or its container's; 0: not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    available = _kib(Path("/proc/meminfo"), "MemAvailable")
    if not available:
        return 0
    limits = [available + _status("VmRSS")]
    for limit, use in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, used = ((Path("/sys/fs/cgroup") / name).read_text().strip() for name in (limit, use))
        except OSError:
            continue
        if most.isdigit() and used.isdigit():
            limits.append(max(0, int(most) - int(used)) + _status("VmRSS"))
    return min(limits)


def _status(field: str) -> int:
    return _kib(Path("/proc/self/status"), field) or _max_rss()


def _kib(path: Path, field: str) -> int:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0


def _max_rss() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
