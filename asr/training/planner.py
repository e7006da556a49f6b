"""Find out what fits into memory before training: try the largest batch, or search for the largest that fits.

A dry run is the forward and backward pass of a batch of zeros. Weights, running statistics and random state are the
same afterwards. On a GPU where the largest batch does not fit, the convolutions' values are not kept for the backward
pass, which computes them again; if that is not enough, the batch is halved.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from asr.batch import Batch
from asr.errors import ConfigError
from asr.heartbeat import heartbeat
from asr.machine import is_out_of_memory
from asr.model.trainable import TrainableNetwork
from asr.runtime import Machine
from asr.training.data import TrainingData
from asr.training.distributed import ProcessGroup
from asr.training.gradients import gradients, halves
from asr.training.memory import peak_bytes, reset_peak, total_bytes, used_bytes
from asr.training.optim import KeptTensors

log = logging.getLogger(__name__)
GIB = 2**30
#: share of the memory that is used; the rest is for batches that are a little larger, and for other programs
USABLE = 0.9
#: the search for the largest batch ends when it is known up to this factor
_CLOSE = 1.05
#: on a CPU the search tries no more padded seconds than these
_CPU_CAP_S = 3600.0


class MemoryPlanner:
    """Make dry runs in this process."""

    def __init__(
        self, network: TrainableNetwork, data: TrainingData, machine: Machine, optimizer: torch.optim.Optimizer
    ) -> None:
        self.network = network
        self.data = data
        self.machine = machine
        self.optimizer = optimizer
        self.device = machine.device
        #: (padded frames, bytes at the peak) of dry runs, each larger than those before
        self.points: list[tuple[int, int]] = []
        self.weight_bytes = sum(p.nbytes for p in network.parameters() if p.requires_grad)
        self.is_checkpointed = data.cfg.train.activation_checkpointing is True
        #: in use before the first dry run
        self.base_bytes = used_bytes(machine.device)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes that AdamW will still take, for two numbers per weight from the first step on."""
        return sum(2 * p.nbytes for p in self._weights_without_state())

    def _weights_without_state(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad and p not in self.optimizer.state]

    def measure(self, batch: Batch) -> int | None:
        """Return the bytes at the peak of a dry run, without ``optimizer_bytes``; None if memory ran out, or would."""
        total = total_bytes(self.device)
        if self.device.type == "cpu" and total and self.predict(batch.area) > total:
            return None  # Linux does not refuse memory: it ends the process

        began = time.perf_counter()
        measured = None

        def line() -> str:
            return f"memory: trying a batch of {_shape(batch)} for {time.perf_counter() - began:.0f} s"

        with heartbeat(line), self._undone(), self.network.all_layers():
            reset_peak(self.device)
            try:
                with self._room_for_optimizer() as held_bytes:
                    gradients(self.network, batch, len(batch.ids), self.machine)
                    measured = peak_bytes(self.device) - held_bytes
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise

        # After a larger batch, a smaller one would count the memory that the allocator still holds.
        if measured is not None and (not self.points or batch.area > self.points[-1][0]):
            self.points.append((batch.area, measured))
        return measured

    @contextmanager
    def _room_for_optimizer(self) -> Iterator[int]:
        """On a GPU, hold the memory that AdamW will take, so that the dry run has as much as later steps; yield bytes.

        On a CPU, memory that is not written to is none.
        """
        held = []
        if self.device.type == "cuda":
            held = [torch.empty_like(p) for p in self._weights_without_state() for _ in range(2)]
        yield sum(tensor.nbytes for tensor in held)

    def predict(self, area: float) -> float:
        """Predict the peak of a batch of this many padded frames, from a line through the smallest and largest tried.

        With one point, all memory but that of the weights' gradients is taken to grow with the frames, which is rather
        too much.
        """
        if not self.points:
            return 0.0

        first_area, first_peak = self.points[0]
        if len(self.points) == 1:
            first_area, first_peak = 0, self.base_bytes + self.weight_bytes
        last_area, last_peak = self.points[-1]
        per_frame = max(0.0, (last_peak - first_peak) / (last_area - first_area))
        return last_peak + per_frame * (area - last_area)

    def measure_smallest_first(self, batch: Batch) -> None:
        """On a CPU, measure the last utterance of a batch, to predict whether the whole batch fits."""
        if self.device.type == "cpu" and not self.points:
            self.measure(batch.rows(len(batch.ids) - 1, len(batch.ids)))

    @property
    def may_checkpoint(self) -> bool:
        """Return true if activation checkpointing is off, and the config leaves it to the memory."""
        return (
            self.data.cfg.train.activation_checkpointing == "auto"
            and self.device.type == "cuda"
            and self.network.has_checkpointing
            and not self.is_checkpointed
        )

    def checkpoint_activations(self, batch: Batch) -> None:
        """Turn activation checkpointing on, and log what it saves in a batch."""
        part = batch
        while (before := self.measure(part)) is None and len(part.ids) > 1:
            part = halves(part)[1]
        self.is_checkpointed = True
        self.network.set_checkpointing(True)
        self.points.clear()
        after = self.measure(part)

        saved = ""
        if before is not None and after is not None:
            saved = f" saves about {(before - after) * batch.area / part.area / GIB:.2f} GiB ({_shape(batch)}) and"
        log.info(
            "memory: the largest batches do not fit. Activation checkpointing of the convolutions is switched on, which"
            f"{saved} computes them twice; no result changes"
        )

    def exceeds_memory(self, measured: int | None) -> bool:
        """Check whether the largest batch of any epoch needs more than there is.

        Args:
            measured: bytes at the peak of the first epoch's largest batch.
        """
        if measured is None:
            return True
        peak = max(measured, self.predict_possible(self.data.max_batch_s))
        return peak + self.optimizer_bytes > (total_bytes(self.device) or math.inf)

    def fits(self, max_batch_s: float) -> bool:
        """Check whether batches of this many padded seconds leave a reserve of the memory."""
        batch = self.largest(max_batch_s)
        self.measure_smallest_first(batch)
        measured = self.measure(batch)
        total = total_bytes(self.device)
        if measured is None or not total:
            return measured is not None

        peak = max(measured, self.predict_possible(max_batch_s))
        return peak + self.optimizer_bytes <= USABLE * total

    def predict_possible(self, max_batch_s: float) -> float:
        """Predict the peak of the largest batch of any epoch, which may be larger than the first epoch's."""
        return self.predict(self.data.largest_s(max_batch_s) / self.data.extractor.hop_s)

    def largest(self, max_batch_s: float | None = None) -> Batch:
        """Return a batch of zeros of the shape of the first epoch's largest one, of this process's part of it."""
        parts = [self.data.own_part(batch) for batch in self.data.plan(0, max_batch_s)]
        return self.data.zeros(max(parts, key=self.data.padded_s))

    def find_max_batch_s(self) -> float:
        """Return the largest ``batch.max_batch_s`` that fits, in whole seconds; 0 if not even one utterance fits.

        It is at most ``batch.max_utterances`` of the longest utterance.
        """
        longest_s = self.data.longest_s
        cap_s = float(math.ceil(self.data.cfg.batch.max_utterances * longest_s))
        if self.device.type == "cpu":
            cap_s = min(cap_s, _CPU_CAP_S)
        return find_largest(self.fits, math.ceil(longest_s), cap_s)

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Undo what the block does to statistics, gradients and random state."""
        statistics = KeptTensors(self.network.buffers())
        was_training = self.network.training
        devices = [self.device] if self.device.type == "cuda" else []
        self.network.train()

        try:
            with torch.random.fork_rng(devices):
                yield
        finally:
            self.network.zero_grad()
            self.network.train(was_training)
            statistics.put_back()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def find_largest(fits: Callable[[float], bool], start: float, cap: float) -> float:
    """Return the largest number up to ``cap`` that fits, to 5 %, by doubling and bisection; 0 if ``start`` does not.

    >>> find_largest(lambda seconds: seconds < 700, 20, 2000) in range(660, 700)
    True
    """
    low = min(start, cap)
    if not fits(low):
        return 0

    high = low
    while low < cap:
        high = min(2 * low, cap)
        if not fits(high):
            break
        low = high

    while high > low * _CLOSE and high - low > 1:
        # above low, which may be no whole number
        middle = max(math.floor((low + high) / 2), math.floor(low) + 1)
        if fits(middle):
            low = middle
        else:
            high = middle

    return math.floor(low)


def plan_memory(planner: MemoryPlanner, group: ProcessGroup) -> float:
    """Try the largest batch, in halves if it must be, and log the result.

    Returns the padded frames that are too many at once; infinite if the largest batch fits.
    """
    batch = planner.largest()
    shape = _shape(batch)
    if len(batch.ids) > 1:
        planner.measure_smallest_first(batch)
    measured = planner.measure(batch)
    if group.any(planner.may_checkpoint and planner.exceeds_memory(measured)):
        planner.checkpoint_activations(batch)
        measured = planner.measure(batch)

    too_many = math.inf
    while measured is None and len(batch.ids) > 1:
        too_many = min(too_many, batch.area)
        batch = halves(batch)[1]  # the longer utterances
        measured = planner.measure(batch)
    too_many = min(row[0] for row in group.agree(too_many))

    halved = "computed in halves, each with its own batch norm statistics"
    if measured is None:
        also = f"; batches are {halved}" if too_many < math.inf else ""
        log.info(f"memory: utterance {batch.ids[0]} may not fit, even alone{also}")
    elif too_many < math.inf:
        log.info(
            f"memory: the largest batch ({shape}) does not fit at once: it and others like it are {halved}; a lower "
            "batch.max_batch_s avoids that"
        )
    else:
        peak = measured + planner.optimizer_bytes
        most = max(peak, planner.predict_possible(planner.data.max_batch_s) + planner.optimizer_bytes)
        total = total_bytes(planner.device)
        log.info(
            f"memory: the largest batch ({shape}) takes {peak / GIB:.2f} GiB at its peak, the largest that the "
            f"configuration allows about {most / GIB:.2f} GiB{f' of {total / GIB:.1f} GiB' if total else ''}"
        )
    return too_many


def resolve_max_batch_s(planner: MemoryPlanner, group: ProcessGroup) -> float:
    """Find the number that ``batch.max_batch_s: auto`` stands for: the least of those that fit in each process.

    Raises:
        ConfigError: not even one utterance fits.
    """
    found_s = min(row[0] for row in group.agree(planner.find_max_batch_s()))
    if not found_s and planner.may_checkpoint:
        planner.checkpoint_activations(planner.largest(1.0))
        found_s = min(row[0] for row in group.agree(planner.find_max_batch_s()))
    if not found_s:
        raise ConfigError(
            "batch.max_batch_s=auto: not even the longest utterance fits into memory; lower batch.max_utterance_s",
            key="batch.max_batch_s",
        )

    log.info("batch.max_batch_s=auto: %g s fit into memory", found_s)
    return float(found_s)


def _shape(batch: Batch) -> str:
    return f"{len(batch.ids)} x {batch.features_btf.shape[1]:,} frames"
