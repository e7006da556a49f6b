"""What happened on the pretended device: waits, streams, copies under way, recurrent kernels."""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import asr

if TYPE_CHECKING:
    from tests.pretended.tensors import CudaTensor

CUDA = torch.device("cuda:0")
_ASR = str(Path(asr.__file__).parent)
_SILENT = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    str(Path(__file__).parent.parent / "pretend_cuda.py"),
)


@dataclass(frozen=True)
class RecurrentCall:
    """What reached one recurrent kernel. ``is_one_chunk``: torch need not copy the weights first."""

    cell: str
    dtype: torch.dtype
    is_contiguous: bool
    is_one_chunk: bool
    where: str


class Stream:
    """A queue of work. ``seen``: how much of each queue is done before what comes next in this one."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device = CUDA
        self.done = 0
        self.seen: dict[Stream, int] = {}

    def now(self) -> dict[Stream, int]:
        return {**self.seen, self: self.done}

    def after(self, seen: dict[Stream, int]) -> None:
        for stream, done in seen.items():
            self.seen[stream] = max(done, self.seen.get(stream, 0))

    def wait_stream(self, stream: Stream) -> None:
        self.after(stream.now())

    def wait_event(self, event: Event) -> None:
        self.after(event.seen)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pretended().wait("stream.synchronize", self.now())


class Event:
    """A place in a queue."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, **_: Any) -> None:
        self.seen: dict[Stream, int] = {}
        self.sleeps = blocking

    def record(self, stream: Stream | None = None) -> None:
        self.seen = (stream or pretended().stream).now()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or pretended().stream).wait_event(self)

    def query(self) -> bool:
        pretended().host_after(self.seen)
        return True

    def synchronize(self) -> None:
        is_newest = any(self.seen.get(stream) == stream.done for stream in self.seen)
        how = "" if self.sleeps else " in a loop"
        pretended().wait(f"event.synchronize{how}{', and the device has nothing else to do' * is_newest}", self.seen)

    def elapsed_time(self, other: Event) -> float:
        return 1.0


class PretendedCuda:
    """What happened on the pretended device."""

    def __init__(self) -> None:
        #: (what waited, line) -> how often
        self.waits: Counter[tuple[str, str]] = Counter()
        #: (operation, line) -> how often it added up in any order: two equal runs differ by it in their last digits
        self.unordered: Counter[tuple[str, str]] = Counter()
        self.recurrent_calls: list[RecurrentCall] = []
        #: (dtype, whether it may use tensor cores) of the recurrent kernels, in the forward and in the backward pass
        self.recurrent_math: set[tuple[torch.dtype, bool]] = set()
        #: names of Triton's kernels, in the order of their launches
        self.launches: list[str] = []
        #: an operation that makes a tensor of more elements than this runs out of memory
        self.largest: float = math.inf
        #: called with the name of each operation, and of the node of the backward pass; it may raise an error
        self.before_result: Callable[[str, str], None] | None = None
        self.operations = 0
        #: name of the node of the backward pass that is running
        self.node = ""

        self.default_stream = Stream()
        self.streams = threading.local()
        self.host_seen: dict[Stream, int] = {}
        self.pinned: dict[int, Any] = {}
        self.written: dict[int, tuple[Stream, int]] = {}
        self.read: dict[int, dict[Stream, int]] = {}
        self.copies: list[_Copy] = []
        #: of tensors: what is called with a gradient
        self.hooks: dict[tuple[Any, int], list[Callable[[Any], Any]]] = {}

    @contextmanager
    def counting(self) -> Iterator[Counter[tuple[str, str]]]:
        """Count the waits inside the block alone."""
        before, counted = self.waits.copy(), Counter[tuple[str, str]]()
        yield counted
        counted.update(self.waits - before)

    def report(self) -> str:
        """Return the waits with their lines, most frequent first, and what the recurrent kernels got."""
        lines = [f"{self.operations} operations, {self.waits.total()} waits", *lines_of(self.waits)]
        return "\n".join([*lines, *(f"{n:4d} x {call}" for call, n in Counter(self.recurrent_calls).items())])

    @property
    def stream(self) -> Stream:
        return getattr(self.streams, "current", self.default_stream)

    @stream.setter
    def stream(self, stream: Stream) -> None:
        self.streams.current = stream

    def wait(self, what: str, seen: dict[Stream, int] | None = None) -> None:
        """Count that the program waits for what is done, by default for all of the current stream."""
        self.waits[what, where()] += 1
        self.host_after(self.stream.now() if seen is None else seen)

    def host_after(self, seen: dict[Stream, int]) -> None:
        """Note that the program knows this much to be done: copies arrive, and may be used."""
        for stream, done in seen.items():
            self.host_seen[stream] = max(done, self.host_seen.get(stream, 0))
        copies, self.copies = self.copies, []
        for copy in copies:
            if self.host_seen.get(copy.stream, 0) >= copy.place:
                copy.finish()
            else:
                self.copies.append(copy)

    def check_streams(self, read: Sequence[CudaTensor], written: Sequence[CudaTensor]) -> None:
        """Check that what an operation on the current stream touches is ready there.

        Raises:
            RuntimeError: another stream may still be writing what is read, or using what is written.
        """
        stream = self.stream

        def check(problem: str, other: Stream, place: int) -> None:
            known = max(stream.seen.get(other, 0), self.host_seen.get(other, 0))
            if other is not stream and known < place:
                raise RuntimeError(f"{problem} another stream, without waiting for it, at {where()}")

        for pointer in _pointers([*read, *written]):
            if pointer in self.written:
                check("a tensor is used that was written on", *self.written[pointer])
        for pointer in _pointers(written):
            for other, place in self.read.get(pointer, {}).items():
                check("a tensor is overwritten that is read on", other, place)

    def track(self, read: Sequence[CudaTensor], written: Sequence[CudaTensor]) -> None:
        """Note an operation on the current stream. ``written`` includes what is made anew, at whatever address."""
        self.stream.done += 1
        for pointer in _pointers(written):
            self.written[pointer] = self.stream, self.stream.done
            self.read.pop(pointer, None)
        for pointer in _pointers(read):
            self.read.setdefault(pointer, {})[self.stream] = self.stream.done

    def copy_later(self, memory: Tensor, values: Tensor, *, to_cpu: bool) -> None:
        """Note a copy that goes on while the program runs; ``memory`` is on the CPU, and pinned."""
        self.pin(memory)
        self.copies.append(_Copy(self.stream, self.stream.done + 1, memory, values.detach().clone(), to_cpu, where()))
        if to_cpu:
            memory.fill_(_nonsense(memory.dtype))

    def pin(self, memory: Tensor) -> Tensor:
        """Note that memory of the CPU is pinned. It is held, so that its address is not used again."""
        storage = memory.untyped_storage()
        self.pinned[storage.data_ptr()] = storage
        return memory


@dataclass(frozen=True)
class _Copy:
    """A copy from or into pinned memory that the program has not waited for."""

    stream: Stream
    place: int
    memory: Tensor
    values: Tensor
    to_cpu: bool
    where: str

    def finish(self) -> None:
        """Let the values arrive, or check that what was copied to the device has stayed the same."""
        if self.to_cpu:
            self.memory.copy_(self.values)
        elif not torch.equal(_bytes(self.memory), _bytes(self.values)):
            raise RuntimeError(f"pinned memory changed while it was copied to the device, at {self.where}")


def _nonsense(dtype: torch.dtype) -> float:
    if dtype.is_floating_point:
        return float("nan")
    return 1 if dtype == torch.bool else torch.iinfo(dtype).max


#: the device that is pretended now
_active: PretendedCuda | None = None


def pretend(state: PretendedCuda | None) -> None:
    """Make this the device that is pretended from now on; None: no device."""
    global _active
    assert state is None or _active is None, "the device is pretended already"
    _active = state


def pretended() -> PretendedCuda:
    assert _active is not None, "the pretended device is gone: this ran outside of pretended_cuda()"
    return _active


@contextmanager
def counting() -> Iterator[Counter[tuple[str, str]]]:
    """Count the waits inside the block, where a device is pretended; on the CPU nothing waits."""
    if _active is None:
        yield Counter()
        return
    with _active.counting() as counted:
        yield counted


def lines_of(waits: Counter[tuple[str, str]]) -> list[str]:
    """Return one line for each kind and place of wait, most frequent first."""
    return [f"{n:4d} x {what} at {place}" for (what, place), n in waits.most_common()]


def where() -> str:
    """Return the lines of asr that are running, innermost first; without any, that of the caller of torch."""
    frame, outside, inside = sys._getframe(1), "", []
    while frame is not None and len(inside) < 3:
        path = frame.f_code.co_filename
        if path.startswith(_ASR):
            inside.append(f"{path.removeprefix(_ASR)[1:]}:{frame.f_lineno}")
        elif not outside and not path.startswith(_SILENT):
            outside = f"{Path(path).name}:{frame.f_lineno}"
        frame = frame.f_back
    node = f"{_active.node} of " if _active is not None and _active.node else ""
    return node + (" < ".join(inside) or outside)


def _pointers(tensors: Sequence[CudaTensor]) -> set[int]:
    return {tensor.held.untyped_storage().data_ptr() for tensor in tensors} - {0}


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)
