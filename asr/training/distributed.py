"""Several processes that train one model: which one this is, how they agree, and what happens if one is lost.

``torchrun`` starts them and describes them in the environment. A single process is a ``ProcessGroup``, which agrees
with itself at no cost and does not load ``torch.distributed``.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asr.errors import AsrError, ConfigError, TrainingError
from asr.runtime import Interrupt
from asr.training.liveness import Liveness

log = logging.getLogger(__name__)
T = TypeVar("T")

#: the longest wait for the others at one point: the first process may validate or save, which is not a hang
_PATIENCE = timedelta(hours=6)
#: torchrun passes on a signal that the terminal has sent to all processes already
_SAME_SIGNAL_S = 5.0
#: what torchrun sets for each process
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class ProcessGroup:
    """The processes of a run, by rank from 0; the first one writes all files. This class: a single process.

    Args:
        advice: what to do if the run ends too early, the last part of a sentence.
    """

    rank = 0
    size = 1
    #: place of this process among those on its machine, and their number
    local_rank = 0
    local_size = 1

    def __init__(self, advice: str = "") -> None:
        self.advice = advice

    @property
    def is_first(self) -> bool:
        """Return true in the process that writes the files."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the name of this process's device for the name in the config."""
        return name

    def agree(self, *values: float, error: AsrError | None = None) -> list[tuple[float, ...]]:
        """Return the values of each process, by rank.

        Raises:
            AsrError: ``error`` of this process or of another one, the same in all.
        """
        if error is not None:
            raise error
        return [values]

    def gather(self, value: T) -> list[T]:
        """Return the value of each process, by rank; anything that can be pickled."""
        return [value]

    def everywhere(self, work: Callable[[], T]) -> T:
        """Do ``work`` in each process; an ``AsrError`` in one of them is raised in all."""
        return work()

    def from_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` in the first process only and return its result in all; its ``AsrError`` is raised in all."""
        return work()

    def any(self, value: bool) -> bool:
        """Check whether a value is true in any process."""
        return self.sum(float(value))[0] > 0

    def sum(self, *values: float) -> list[float]:
        """Return each value summed over the processes."""
        return [sum(column) for column in zip(*self.agree(*values), strict=True)]

    def check_alike(self, facts: Mapping[str, str]) -> None:
        """Check that the named facts are the same in all processes.

        Raises:
            ConfigError: the first difference from process 0; raised in all.
        """
        by_rank = self.gather(dict(facts))
        for rank, other in enumerate(by_rank):
            for key, value in other.items():
                first = by_rank[0][key]
                if value != first:
                    difference = "its content differs" if len(value) > 32 else f"{value} instead of {first}"
                    error = ConfigError(f"process {rank} has another {key} than process 0: {difference}")
                    self.agree(error=error)

    def connect(self, network: nn.Module) -> nn.Module:
        """Return the network as a module that adds up gradients, and batch norm's sums, over all processes."""
        return network

    def report_alone(self) -> None:
        """Claim the report of an error that the others do not have: they will only miss this process."""

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that turns the loss of another process into a ``TrainingError``."""
        return nullcontext()

    def interrupt(self) -> Interrupt:
        """Return a handler of Ctrl-C and SIGTERM."""
        return Interrupt()


class DistributedGroup(ProcessGroup):
    """One of several processes. All must make the same calls in the same order."""

    def __init__(self, rank: int, size: int, local_rank: int, local_size: int, advice: str = "") -> None:
        super().__init__(advice)
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.local_size = local_size
        self._liveness: Liveness | None = None

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
        """Join the process group.

        Raises:
            ConfigError: the other processes do not join.
        """
        import torch.distributed as dist

        has_device = torch.cuda.is_available() and self.local_rank < torch.cuda.device_count()
        on_cuda = has_device and dist.is_nccl_available()
        if on_cuda:
            torch.cuda.set_device(self.local_rank)

        try:
            # Small messages go from CPU to CPU on every device, so that they wait for no kernel.
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"cannot connect to the other {self.size - 1} processes ({_first_line(error)}); "
                "start them with torchrun"
            ) from error

        self._liveness = Liveness(self.rank, self.size, self.advice)
        self._liveness.start()

    def stop(self, *, cleanly: bool) -> None:
        """Leave the process group; ``cleanly`` waits for the others."""
        import torch.distributed as dist

        if self._liveness is not None:
            self._liveness.stop()
        if cleanly:
            self.agree()  # nobody leaves while another process still needs an answer
            self._liveness = None
            gc.collect()  # objects that hold the group: torch's threads must end before the interpreter does
            dist.destroy_process_group()

    def agree(self, *values: float, error: AsrError | None = None) -> list[tuple[float, ...]]:
        import torch.distributed as dist

        own = torch.tensor([float(error is not None), *values], dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        with self.guarded():
            dist.all_gather(rows, own)
        if any(float(row[0]) for row in rows):
            errors = self.gather(None if error is None else (type(error), str(error)))
            kind, message = next(found for found in errors if found is not None)
            shared = kind(message)
            _mark_reported(shared, not self.is_first)
            raise shared
        return [tuple(row[1:].tolist()) for row in rows]

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

    def connect(self, network: nn.Module) -> nn.Module:
        for module in network.modules():
            if hasattr(module, "reduce"):
                module.reduce = _Sum.apply
        with self.guarded():
            connected = nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
        # The running statistics of the norms are alike already: each is of the whole batch. Set here, because torch
        # 2.14 warns of the argument with this name, and torch 2.11 has no other.
        connected.broadcast_buffers = False
        return connected

    @contextmanager
    def guarded(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not _is_about_peers(error):
                raise
            lost = TrainingError(
                f"another process of this run has gone ({_first_line(error)}); the earlier checkpoints are whole"
                f"{self.advice}"
            )
            _mark_reported(lost, self._liveness is not None and not self._liveness.claim_report())
            raise lost from error

    def report_alone(self) -> None:
        if self._liveness is not None:
            self._liveness.claim_report()

    def interrupt(self) -> Interrupt:
        return _SharedInterrupt(self.is_first)


@contextmanager
def process_group(advice: str = "") -> Iterator[ProcessGroup]:
    """Join the processes that torchrun's environment describes; without it, this process is alone.

    Raises:
        ConfigError: the environment is incomplete, or the processes cannot connect.
    """
    if not has_others():
        yield ProcessGroup(advice)
        return

    try:
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in _NUMBERS)
    except KeyError as error:
        raise ConfigError(
            f"WORLD_SIZE says {os.environ['WORLD_SIZE']} processes, but {error} is not in the environment; "
            "start them with torchrun"
        ) from error
    except ValueError as error:
        raise ConfigError(f"WORLD_SIZE, RANK and the like must be whole numbers ({error}); start torchrun") from error

    group = DistributedGroup(rank, size, local_rank, local_size, advice)
    group.start()
    library = logging.getLogger("asr")
    level = library.level
    if not group.is_first:
        library.setLevel(logging.WARNING)

    try:
        yield group
    except BaseException:
        group.stop(cleanly=False)
        raise
    else:
        group.stop(cleanly=True)
    finally:
        library.setLevel(level)


def _mark_reported(error: AsrError, is_reported: bool) -> None:
    error.__dict__["is_reported"] = is_reported


def is_reported(error: AsrError) -> bool:
    """Check whether another rank reports this error."""
    return bool(error.__dict__.get("is_reported"))


def has_others() -> bool:
    """Check whether torchrun started this process beside others."""
    return (os.environ.get("WORLD_SIZE") or "1") != "1"


def starts_first() -> bool:
    """Check whether this process is the first of those that torchrun started, or alone."""
    return os.environ.get("RANK", "0") == "0"


class _Sum(torch.autograd.Function):
    """The sum of a vector over the processes. Each process's loss depends on it, so the gradient is a sum too."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:
        """Sum the vector over the processes."""
        return _summed(vector.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0].contiguous().clone())


def _summed(own: Tensor) -> Tensor:
    import torch.distributed as dist

    dist.all_reduce(own)
    return own


class _SharedInterrupt(Interrupt):
    """Ctrl-C reaches every process, some of them twice; only the first process writes to the log."""

    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self._is_first = is_first
        self._since_s = 0.0

    def _ask(self, number: int, frame: object) -> None:
        if self.asked and time.monotonic() - self._since_s < _SAME_SIGNAL_S:
            return
        self._since_s = time.monotonic()
        if self._is_first or self.asked:
            super()._ask(number, frame)
        self.asked = True


def _is_about_peers(error: RuntimeError) -> bool:
    import torch.distributed as dist

    kinds = (dist.DistError, dist.DistBackendError, dist.DistNetworkError)
    return isinstance(error, kinds) or any(
        word in str(error) for word in ("gloo", "NCCL", "ProcessGroup", "Connection")
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line.rpartition("] ")[2] or line
