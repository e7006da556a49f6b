"""Several processes that train one model: who they are, what they agree on, and what happens when one is lost.

``torchrun`` starts them and says in the environment who is who. One process is a ``Group`` of its own: it agrees with
itself at no cost, and ``torch.distributed`` stays out of it.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asr.errors import AsrError, ConfigError, TrainingError
from asr.runtime import Interrupt

log = logging.getLogger(__name__)
T = TypeVar("T")

#: a process says so often that it lives, and is given up when it was not heard of for so long
BEAT_S, LOST_S = 5.0, 40.0
#: the longest wait for the others at one point: a validation or a checkpoint by the first process, not a hang
_PATIENCE = timedelta(hours=6)
#: torchrun passes a signal on that the terminal sent to all processes already
_SAME_SIGNAL_S = 5.0


class Group:
    """The processes of a run, by rank from 0; the first one writes what is written. This class: one process alone."""

    rank, size = 0, 1
    #: what to do when the run has ended too early, as a part of a sentence
    way_on = ""
    #: processes on this machine, and which of them this is
    local_rank, local_size = 0, 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> str:
        """The name of the device for this process, of the one that the config names."""
        return name

    def agree(self, *values: float, error: AsrError | None = None) -> list[tuple[float, ...]]:
        """The values that each process gave, by rank.

        Raises:
            AsrError: ``error`` of this process or of another one; in all of them the same.
        """
        if error is not None:
            raise error
        return [values]

    def gather(self, value: T) -> list[T]:
        """What each process gave, by rank; anything that can be pickled."""
        return [value]

    def everywhere(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in this process; an ``AsrError`` in one of them is raised in all."""
        return work()

    def from_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process, which alone does it; its ``AsrError`` is raised in all."""
        return work()

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return value

    def sum(self, *values: float) -> list[float]:
        """The values, each added up over the processes."""
        return [sum(column) for column in zip(*self.agree(*values), strict=True)]

    def check_alike(self, own: Mapping[str, str]) -> None:
        """Refuses processes that would not compute the same: ``own`` names what must be alike.

        Raises:
            ConfigError: the first difference from process 0, in all of them.
        """
        every = self.gather(dict(own))
        for rank, other in enumerate(every):
            for key, value in other.items():
                if value != every[0][key]:
                    what = "its content differs" if len(value) > 32 else f"{value}, and there {every[0][key]}"
                    self.agree(error=ConfigError(f"process {rank} has another {key} than process 0: {what}"))

    def join(self, network: nn.Module) -> nn.Module:
        """The network as a module whose gradients are those of all processes, and whose norms see all their batches."""
        return network

    def alone(self, error: AsrError) -> AsrError:
        """An error that the others do not have: they will only miss this process."""
        return error

    def guarded(self) -> AbstractContextManager[None]:
        """A context in which the loss of another process is a ``TrainingError``."""
        return nullcontext()

    def interrupt(self) -> Interrupt:
        return Interrupt()


class Ranks(Group):
    """Several processes. All must make the same calls in the same order."""

    def __init__(self, rank: int, size: int, local_rank: int, local_size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._heart: _Heartbeat | None = None

    def device(self, name: str) -> str:
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return "cpu"
        if name not in ("auto", "cuda"):
            raise ConfigError(
                f"train.device '{name}' for {self.size} processes: each takes a device of its own; use cuda or auto",
                key="train.device",
            )
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise ConfigError(
                f"{self.local_size} processes on a machine with {count} CUDA devices; start one for each",
                key="train.device",
            )
        return f"cuda:{self.local_rank}"

    def start(self) -> None:
        """Meets the others.

        Raises:
            ConfigError: they do not come.
        """
        import torch.distributed as dist

        on_cuda = torch.cuda.is_available() and self.local_rank < torch.cuda.device_count() and dist.is_nccl_available()
        if on_cuda:
            torch.cuda.set_device(self.local_rank)
        try:
            # Small messages go from CPU to CPU, whatever the device: they wait for no kernel.
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"cannot meet the other {self.size - 1} processes ({_first_line(error)}); start them with torchrun"
            ) from error
        self._heart = _Heartbeat(self)
        self._heart.start()

    def stop(self, *, cleanly: bool) -> None:
        import torch.distributed as dist

        if self._heart is not None:
            self._heart.stopped.set()
            self._heart.join(2 * BEAT_S)  # a thread in a call of torch's would not survive the interpreter's end
        if cleanly:
            self.agree()  # nobody leaves while another still needs an answer
            self._heart = None
            gc.collect()  # what still holds the group: torch's threads must end before the interpreter does
            dist.destroy_process_group()

    def agree(self, *values: float, error: AsrError | None = None) -> list[tuple[float, ...]]:
        import torch.distributed as dist

        own = torch.tensor([float(error is not None), *values], dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        with self.guarded():
            dist.all_gather(rows, own)
        if any(float(row[0]) for row in rows):
            said = next(one for one in self.gather(None if error is None else (type(error), str(error))) if one)
            kind, message = said
            raise self._marked(kind(message))
        return [tuple(row[1:].tolist()) for row in rows]

    def _marked(self, error: AsrError) -> AsrError:
        """Only one process need say it."""
        if not self.is_first:
            error.__dict__["is_said"] = True
        return error

    def gather(self, value: T) -> list[T]:
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self.guarded():
            dist.all_gather_object(values, value)
        return values

    def everywhere(self, work: Callable[[], T]) -> T:
        error, result = None, None
        try:
            result = work()
        except AsrError as caught:
            error = caught
        self.agree(error=error)
        return result  # type: ignore[return-value]  # without an error it is there

    def from_first(self, work: Callable[[], T]) -> T:
        import torch.distributed as dist

        result: list[Any] = self.everywhere(lambda: [work()] if self.is_first else [None])
        with self.guarded():
            dist.broadcast_object_list(result, src=0)
        value: T = result[0]
        return value

    def any(self, value: bool) -> bool:
        return self.sum(float(value))[0] > 0

    def join(self, network: nn.Module) -> nn.Module:
        for module in network.modules():
            if hasattr(module, "reduce"):
                module.reduce = _Sum.apply
        with self.guarded():
            joined = nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
        # The norms' running statistics are alike already: each is of the whole batch. Set here, because torch 2.14
        # warns of the argument with this name, and torch 2.11 has no other.
        joined.broadcast_buffers = False
        return joined

    @contextmanager
    def guarded(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not _is_about_peers(error):
                raise
            raise self._lost(_first_line(error)) from error

    def _lost(self, reason: str) -> TrainingError:
        said = f"another process of this run has gone ({reason}); the checkpoints before are whole{self.way_on}"
        error = TrainingError(said)
        if self._heart is not None and not self._heart.is_first_to_say():
            error.__dict__["is_said"] = True
        return error

    def alone(self, error: AsrError) -> AsrError:
        if self._heart is not None:
            self._heart.is_first_to_say()
        return error

    def interrupt(self) -> Interrupt:
        return _SharedInterrupt(self.is_first)


@contextmanager
def joined() -> Iterator[Group]:
    """The group that this process belongs to, by torchrun's environment; without one, a group of one.

    Raises:
        ConfigError: the environment is not whole, or the processes do not meet.
    """
    if (os.environ.get("WORLD_SIZE") or "1") == "1":
        yield Group()
        return
    try:
        numbers = [int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    except KeyError as error:
        raise ConfigError(
            f"WORLD_SIZE says {os.environ['WORLD_SIZE']} processes, but {error} is not in the environment; "
            "start them with torchrun"
        ) from error
    except ValueError as error:
        raise ConfigError(f"WORLD_SIZE, RANK and the like must be whole numbers ({error}); start torchrun") from error
    ranks = Ranks(*numbers)
    ranks.start()
    library = logging.getLogger("asr")
    level = library.level
    if not ranks.is_first:
        library.setLevel(logging.WARNING)
    try:
        yield ranks
    except BaseException:
        ranks.stop(cleanly=False)
        raise
    else:
        ranks.stop(cleanly=True)
    finally:
        library.setLevel(level)


def is_said(error: AsrError) -> bool:
    """Whether another process says it."""
    return bool(error.__dict__.get("is_said"))


def has_others() -> bool:
    """Whether torchrun started this process beside others."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def starts_first() -> bool:
    """Whether this process is the first of those that torchrun started, or alone."""
    return os.environ.get("RANK", "0") == "0"


class _Sum(torch.autograd.Function):
    """The sum of a vector over the processes. Each process's loss depends on it, so the gradient is a sum too."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:
        import torch.distributed as dist

        total = vector.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        import torch.distributed as dist

        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class _SharedInterrupt(Interrupt):
    """Ctrl-C reaches every process, some twice; one speaks for all."""

    def __init__(self, speaks: bool) -> None:
        super().__init__()
        self._speaks, self._since_s = speaks, 0.0

    def _ask(self, number: int, frame: object) -> None:
        if self.asked and time.monotonic() - self._since_s < _SAME_SIGNAL_S:
            return
        self._since_s = time.monotonic()
        if self._speaks or self.asked:
            super()._ask(number, frame)
        self.asked = True


class _Heartbeat(threading.Thread):
    """Says that this process lives, listens whether the others do, and ends this one when one of them does not.

    A process that waits for a machine that is gone waits in torch, where no exception reaches it.
    """

    def __init__(self, group: Ranks) -> None:
        import torch.distributed as dist

        super().__init__(name="asr-heartbeat", daemon=True)
        self.group, self.stopped = group, threading.Event()
        # A connection of its own: the group's is busy while it waits.
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=30)
        )

    def run(self) -> None:
        others = [rank for rank in range(self.group.size) if rank != self.group.rank]
        counts = dict.fromkeys(others, 0)
        # Silence is counted in own beats, not by the clock: where all were frozen together, nobody is lost.
        silent = dict.fromkeys(others, 0)
        while not self.stopped.wait(BEAT_S):
            try:
                self._store.add(f"asr/beat/{self.group.rank}", 1)
                now = {rank: self._store.add(f"asr/beat/{rank}", 0) for rank in others}
            except RuntimeError:
                # torchrun itself, or the first process
                self._give_up("the process that holds them together cannot be reached")
                return
            for rank, count in now.items():
                silent[rank] = silent[rank] + 1 if counts[rank] == count else 0
                counts[rank] = count
                if silent[rank] * BEAT_S >= LOST_S:
                    self._give_up(f"process {rank} has not been heard of for {LOST_S:g} s")
                    return

    def _give_up(self, reason: str) -> None:
        if self.stopped.is_set():
            return
        if self.is_first_to_say():
            log.error("%s; the checkpoints before are whole%s", reason, self.group.way_on)
        os._exit(2)

    def is_first_to_say(self) -> bool:
        try:
            return self._store.add("asr/said", 1) == 1
        except RuntimeError:
            return True


def _is_about_peers(error: RuntimeError) -> bool:
    import torch.distributed as dist

    kinds = (dist.DistError, dist.DistBackendError, dist.DistNetworkError)
    text = str(error)
    return isinstance(error, kinds) or any(word in text for word in ("gloo", "NCCL", "ProcessGroup", "Connection"))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line.rpartition("] ")[2] or line
