"""A CPU that says it is CUDA, so that the fast tests can run what a GPU would run, and see what would go wrong there.

    with pretended_cuda() as cuda:
        network.to("cuda:0")
        ...
        print(cuda.report())

Simulated, with torch's own dispatcher, so that autocast and autograd are those of CUDA:

- Tensors are on ``cuda:0``; operations between devices, generators of the CPU and ``numpy()`` fail as torch says it.
- What waits for the GPU is counted, by line: copies of ordinary memory both ways, also with ``non_blocking=True``, and
  what reads a value or a size back. A copy from or into pinned memory does not wait if it is asked not to.
- Streams and events: a read of what another stream may still be writing fails, a copy to the CPU has arrived only when
  the program has waited for it (until then it holds nonsense), and pinned memory must not change while it is copied.
- Sums in no fixed order (``unordered``), by which equal runs differ.
- The recurrent kernels: their dtype, that their state is contiguous, and whether their weights are one chunk. Under
  autocast torch casts them to float16 whatever was asked for.
- Running out of memory (``largest``, ``before_result``), ``torch.mm(..., out_dtype=...)``, GradScaler, ``fork_rng``;
  Triton's kernels, by its interpreter.

Not simulated: cuDNN's, cuBLAS's and Triton's own numbers and limits, their time, memory, several GPUs. In the backward
pass all is on one stream, as torch's engine keeps the streams of the forward pass in order by itself. Memory that is
freed while another stream uses it is not noticed.

Sources, in torch: ATen/native/cuda/Copy.cu (which copies wait), ATen/cudnn/AutocastRNN.cpp (float16),
ATen/native/cudnn/RNN.cpp (try_get_weight_buf: the chunk), torch.use_deterministic_algorithms (sums in any order).
"""

from __future__ import annotations

import heapq
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only

import asr
import asr.ctc

CUDA = torch.device("cuda:0")
_ASR = str(Path(asr.__file__).parent)
_SILENT = (str(Path(torch.__file__).parent), __file__)

#: operations whose result has a size, or is a number, that only the device knows
_READ_BACK = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "bincount",
)
#: operations that add up in any order, with atomics, unless torch.use_deterministic_algorithms is set
_UNORDERED = (
    "cumsum",
    "embedding_dense_backward",
    "index_add",
    "index_reduce",
    "put",
    "replication_pad1d_backward",
    "scatter_add",
    "scatter_reduce",
)
#: operations that always do
_ALWAYS_UNORDERED = ("_ctc_loss_backward", "histc", "reflection_pad1d_backward", "reflection_pad2d_backward")
#: operations that take no tensor of another device, not even a number
_STRICT = ("cat", "stack", "gather", "scatter", "index_select", "index_copy", "embedding")


@dataclass(frozen=True)
class RecurrentCall:
    """What reached one recurrent kernel. ``is_one_chunk``: torch need not copy the weights first."""

    cell: str
    dtype: torch.dtype
    is_contiguous: bool
    is_one_chunk: bool
    where: str


class CudaTensor(torch.Tensor):
    """A tensor of the pretended device; ``held`` is the one of the CPU that holds its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> CudaTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def register_hook(self, hook: Callable[[Any], Any]) -> Any:
        edge = torch.autograd.graph.get_gradient_edge(self)
        _state().hooks.setdefault((edge.node, edge.output_nr), []).append(hook)
        return mock.Mock(spec=["remove"])

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return self.detach().cpu().numpy()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def record_stream(self, stream: Any) -> None:
        assert isinstance(stream, Stream)

    def __format__(self, spec: str) -> str:
        return self.item().__format__(spec) if self.dim() == 0 else repr(self)

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.held!r})"

    def __deepcopy__(self, memo: Any) -> CudaTensor:
        copied = CudaTensor(self.held.detach().clone()).requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = copied
        return copied


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
        _state().wait("stream.synchronize", self.now())


class Event:
    """A place in a queue."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.seen: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        self.seen = (stream or _state().stream).now()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or _state().stream).wait_event(self)

    def query(self) -> bool:
        _state().host_after(self.seen)
        return True

    def synchronize(self) -> None:
        is_newest = any(self.seen.get(stream) == stream.done for stream in self.seen)
        _state().wait(f"event.synchronize{', and the device has nothing else to do' * is_newest}", self.seen)

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


_active: PretendedCuda | None = None


def _state() -> PretendedCuda:
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
    node = f"{_running_node} of " if _running_node else ""
    return node + (" < ".join(inside) or outside)


def _pointers(tensors: Sequence[CudaTensor]) -> set[int]:
    return {tensor.held.untyped_storage().data_ptr() for tensor in tensors} - {0}


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Mode(TorchDispatchMode):
    """Sees what makes tensors of the device out of none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if CudaTensor in types or _is_cuda(kwargs.get("device")) or kwargs.get("pin_memory"):
            return _dispatch(func, args, kwargs)
        return func(*args, **kwargs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes seconds


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one of torch's operations on the values, as CUDA would."""
    flat = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    inputs = [t for t in flat if isinstance(t, CudaTensor)]
    name = func._schema.name.removeprefix("aten::")
    device = kwargs.get("device")
    is_out_cuda = bool(inputs) if device is None else _is_cuda(device)
    if not inputs and not is_out_cuda:
        return _state().pin(func(*args, **{**kwargs, "pin_memory": False}))

    if func._can_decompose():  # in inference mode torch leaves it to us to take composed operations apart
        with _Mode():
            return func.decompose(*args, **kwargs)
    if name in ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss"):  # asked by torch.ctc_loss
        return False

    state = _state()
    state.operations += 1
    late = _check_and_count(state, name, func, flat, inputs, args, kwargs, is_out_cuda)
    written = _written(func, args, kwargs)
    if not func.is_view:
        state.check_streams(inputs, written)

    kernel = _STAND_INS.get(name, func)
    if func._schema.overload_name.startswith("dtype"):  # products with out_dtype=
        kernel = _wide_product(name)
    real_args, real_kwargs = tree_map_only(CudaTensor, lambda t: t.held, (args, kwargs))
    if device is not None:
        real_kwargs["device"] = torch.device("cpu")
    real_kwargs.pop("pin_memory", None)
    if state.before_result is not None:
        state.before_result(name, _running_node)
    result = kernel(*real_args, **real_kwargs)
    if any(t.numel() > state.largest for t in tree_flatten(result)[0] if isinstance(t, Tensor)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if late:
        source = flat[-1]
        if isinstance(source, CudaTensor):
            memory = args[0] if name == "copy_" else result
            state.copy_later(memory, source.held.to(memory.dtype), to_cpu=True)
        else:
            state.copy_later(source, source, to_cpu=False)

    known = {id(t.held): t for t in inputs}

    def wrap(t: Tensor) -> Tensor:
        if id(t) in known:  # changed in place
            return known[id(t)]
        return CudaTensor(t) if is_out_cuda else t

    wrapped = args[0] if name == "copy_" else tree_map_only(Tensor, wrap, result)
    assert all(t.shape == t.held.shape for t in written), f"{name} changes a shape in place, which is not pretended"
    if not func.is_view:
        state.track(inputs, [*written, *(t for t in tree_flatten(wrapped)[0] if isinstance(t, CudaTensor))])
    return wrapped


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[CudaTensor]:
    """Return the tensors that an operation writes into."""
    if not func._schema.is_mutable:
        return []
    named = zip(func._schema.arguments, [*args, *[None] * len(func._schema.arguments)], strict=False)
    into = [kwargs.get(a.name, value) for a, value in named if a.alias_info is not None and a.alias_info.is_write]
    return [t for t in tree_flatten(into)[0] if isinstance(t, CudaTensor)]


def _check_and_count(
    state: PretendedCuda,
    name: str,
    func: Any,
    flat: Sequence[Tensor],
    inputs: Sequence[CudaTensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_out_cuda: bool,
) -> bool:
    """Refuse what CUDA refuses, and count what waits; return whether this is a copy that goes on in the background."""
    if name in ("_to_copy", "copy_"):
        to_cpu = isinstance(flat[-1], CudaTensor) and (not is_out_cuda or not isinstance(flat[0], CudaTensor))
        to_cuda = not isinstance(flat[-1], CudaTensor)
        if not (to_cpu or to_cuda):
            return False
        memory = flat[0] if to_cpu and name == "copy_" else None if to_cpu else flat[-1]
        is_asked = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        # Without memory of the caller's own, torch makes pinned memory for a copy to the CPU that is not to wait.
        is_pinned = memory is None or memory.is_pinned()
        if is_asked and is_pinned:
            return True
        way = "copy to the CPU" if to_cpu else "copy to the device"
        state.wait(f"{way}, {'pinned, but not non_blocking' if is_pinned and memory is not None else 'pageable'}")
        return False

    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu', at {where()}")

    others = [t for t in flat if not isinstance(t, CudaTensor)]
    indexes = list(args[1]) if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
    if inputs and others:
        strict = name.startswith(_STRICT) or name.startswith("_foreach")
        allowed = [*indexes, *(flat[2:] if "ctc_loss" in name else [])]  # lengths
        mixed = [t for t in others if (t.dim() or strict) and not any(t is one for one in allowed)]
        if mixed:
            found = ", ".join(f"{t.device} {tuple(t.shape)}" for t in flat)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({name}: {found}, at {where()})"
            )
    for index in indexes:
        if index is None:
            continue
        if not isinstance(index, CudaTensor):
            state.wait("index by a tensor of the CPU")
        is_filling = name != "index" and args[2].numel() == 1  # which torch turns into masked_fill
        if index.dtype in (torch.bool, torch.uint8) and not is_filling:
            state.wait("index by a mask (nonzero)")

    is_asked = torch.are_deterministic_algorithms_enabled()
    kind = name.removesuffix("_")
    if (kind in _ALWAYS_UNORDERED or (kind in _UNORDERED and not is_asked)) and flat[0].is_floating_point():
        state.unordered[name, where()] += 1
    if name in _READ_BACK or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        state.wait(name.removeprefix("_"))
    if name in ("_ctc_loss", "_ctc_loss_backward"):
        for _ in range(3):
            state.wait(f"{name.removeprefix('_')} (copies of its own)")
    return False


# what only CUDA has


def _wide_product(name: str) -> Callable[..., Tensor]:
    """Return mm, bmm, addmm or baddbmm with ``out_dtype``: products of narrow numbers, added up in float32."""
    narrow = getattr(torch, name)

    def product(*args: Any) -> Tensor:
        *tensors, out_dtype = args
        assert out_dtype in (torch.float32, tensors[0].dtype), "CUDA has float32 and the dtype of the arguments"
        wide: Tensor = narrow(*(t.to(out_dtype) for t in tensors))
        return wide

    return product


class _Recurrence(torch.autograd.Function):
    """A recurrent kernel: torch's own of the CPU in float32, from and to the dtype of CUDA's."""

    @staticmethod
    def forward(ctx: Any, kernel: Any, num_states: int, options: Any, *tensors: CudaTensor) -> tuple[Tensor, ...]:
        leaves = [t.held.detach().float().requires_grad_() for t in tensors]
        x, *states = leaves[: 1 + num_states]
        with torch.enable_grad(), _disable_current_modes():
            out = kernel(x, tuple(states) if num_states > 1 else states[0], leaves[1 + num_states :], *options)
        ctx.leaves, ctx.out = leaves, out
        _note_math(tensors[0].dtype)
        return tuple(CudaTensor(o.detach().to(tensors[0].dtype)) for o in out)

    @staticmethod
    def backward(ctx: Any, *grads: CudaTensor) -> tuple[Tensor | None, ...]:
        _note_math(grads[0].dtype)
        with torch.enable_grad(), _disable_current_modes():
            found = torch.autograd.grad(ctx.out, ctx.leaves, [g.held.float() for g in grads], allow_unused=True)
        return None, None, None, *(g if g is None else CudaTensor(g.to(grads[0].dtype)) for g in found)


def _note_math(dtype: torch.dtype) -> None:
    """Note whether torch allows a recurrent kernel tensor cores: it asks for TF32 with every dtype but float16."""
    _state().recurrent_math.add((dtype, dtype == torch.float16 or torch.backends.cudnn.rnn.fp32_precision == "tf32"))


def _recurrent(cell: str) -> Callable[..., Any]:
    """Return what stands for torch._VF.gru, lstm or rnn_tanh, which ask CUDA's driver before they dispatch."""
    real = getattr(torch._VF, cell)

    def call(x: Tensor, state: Any, weights: Any, *options: Any) -> Any:
        if not isinstance(x, CudaTensor):
            return real(x, state, weights, *options)
        states = list(state) if isinstance(state, tuple) else [state]
        is_one_chunk = _is_one_chunk(weights)
        if torch.is_autocast_enabled("cuda"):
            x, *states = (t.to(torch.float16) for t in (x, *states))
            weights, is_one_chunk = [w.to(torch.float16) for w in weights], False
        if {t.dtype for t in (x, *states, *weights)} != {x.dtype}:
            raise RuntimeError(f"Input and parameter tensors are not the same dtype, at {where()}")
        is_contiguous = all(t.is_contiguous() for t in (x, *states))
        if not all(t.is_contiguous() for t in states):
            raise RuntimeError(f"rnn: hx is not contiguous, at {where()}")
        _state().recurrent_calls.append(RecurrentCall(cell, x.dtype, is_contiguous, is_one_chunk, where()))
        tensors = [x, *states, *weights]
        _state().check_streams(tensors, [])
        out = _Recurrence.apply(real, len(states), options, *tensors)
        _state().track(tensors, out)
        return out

    return call


def _is_one_chunk(weights: Sequence[Tensor]) -> bool:
    """Check that weights lie as cuDNN wants them: from the start of one storage all matrices, then all biases."""
    storage = weights[0].untyped_storage()
    place = 0
    for weight in [*(w for w in weights if w.dim() == 2), *(w for w in weights if w.dim() == 1)]:
        if weight.data_ptr() != storage.data_ptr() + place * weight.element_size() or not weight.is_contiguous():
            return False
        place += weight.numel()
    return place * weights[0].element_size() <= storage.nbytes()


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return torch._log_softmax(x.float() if half_to_float else x, dim, False)


def _flatten_weights(weights: list[Tensor], *_: Any) -> Tensor:
    """Move the weights of a torch.nn.RNN into one chunk."""
    in_order = [*(w for w in weights if w.dim() == 2), *(w for w in weights if w.dim() == 1)]
    chunk = torch.cat([w.detach().flatten() for w in in_order])
    for weight, part in zip(in_order, chunk.split([w.numel() for w in in_order]), strict=True):
        weight.set_(part.view(weight.shape))
    return chunk


class _Ctc(torch.autograd.Function):
    """The CTC loss of a GPU, computed by torch on the CPU: Triton's interpreter takes seconds for a batch."""

    MOST_LABELS = 8191

    @staticmethod
    def forward(ctx: Any, log_probs_bsv: CudaTensor, *lengths_and_targets: Tensor) -> CudaTensor:
        held_bsv = log_probs_bsv.held.detach().requires_grad_()
        with torch.enable_grad(), _disable_current_modes():
            losses_b = asr.ctc.ctc_loss(held_bsv, *lengths_and_targets)
            (ctx.grad_bsv,) = torch.autograd.grad(losses_b.sum(), held_bsv)
        return CudaTensor(losses_b.detach())

    @staticmethod
    def backward(ctx: Any, grad_b: CudaTensor) -> tuple[Tensor | None, ...]:
        return CudaTensor(ctx.grad_bsv * grad_b.held[:, None, None]), None, None, None

    @staticmethod
    def ctc_loss(log_probs_bsv: CudaTensor, *lengths_and_targets: Tensor) -> Tensor:
        devices = [t.device.type for t in (log_probs_bsv, *lengths_and_targets)]
        assert devices == ["cuda", "cpu", "cpu", "cpu"], devices
        losses_b: Tensor = _Ctc.apply(log_probs_bsv.float(), *lengths_and_targets)
        return losses_b


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, *options: Any) -> tuple[Tensor, ...]:
    return *torch.native_batch_norm(x, weight, bias, mean, var, *options), x.new_empty(0, dtype=torch.uint8)


def _batch_norm_backward(x: Tensor, grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *statistics, eps, _ = rest
    out: tuple[Tensor, ...] = torch.ops.aten.native_batch_norm_backward(grad, x, *statistics, True, eps, [True] * 3)
    return out


_STAND_INS: dict[str, Callable[..., Any]] = {
    "cudnn_batch_norm": _batch_norm,
    "cudnn_batch_norm_backward": _batch_norm_backward,
    "_log_softmax": _log_softmax,
    "_cudnn_rnn_flatten_weight": _flatten_weights,
}


# the backward pass: torch's engine asks CUDA's driver for streams, so the nodes are called here one by one

_running_node = ""


def _backward(tensors: Any, grads: Any, keep_graph: bool, create_graph: bool, inputs: Any, *_: Any, **__: Any) -> Any:
    """Run the nodes of a graph in torch's order, and check each gradient as torch's engine does."""
    global _running_node
    if not any(isinstance(t, CudaTensor) for t in tensors):
        return _ENGINE(tensors, grads, keep_graph, create_graph, inputs, *_, **__)
    roots = [torch.autograd.graph.get_gradient_edge(t) for t in tensors]
    assert not create_graph, "gradients of gradients are not pretended"
    wanted = [torch.autograd.graph.get_gradient_edge(t)[:2] for t in inputs]

    # how many gradients each node has to wait for
    missing: Counter[Any] = Counter()
    stack = list({root.node for root in roots})
    nodes = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                missing[node] += 1
                if node not in nodes:
                    nodes.add(node)
                    stack.append(node)

    got: dict[Any, dict[int, Any]] = {node: {} for node in nodes}
    for (node, number, *_), grad in zip(roots, grads, strict=True):
        _add(got, node, number, grad)
    ready = [(-node._sequence_nr(), i, node) for i, node in enumerate(nodes) if not missing[node]]
    heapq.heapify(ready)
    order = len(nodes)
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[2]
            grads_in = [got[node].get(i) for i in range(len(node._input_metadata))]
            if inputs and "AccumulateGrad" in node.name():
                continue
            _running_node = node.name()
            for i, grad in enumerate(grads_in):
                for hook in _state().hooks.get((node, i), []):
                    grads_in[i] = grad = grad if (changed := hook(grad)) is None else changed
            grads_out = _call(node, grads_in) if any(g is not None for g in grads_in) else ()
            for i, (after, number) in enumerate(node.next_functions):
                if after is None:
                    continue
                if i < len(grads_out):
                    _add(got, after, number, grads_out[i])
                missing[after] -= 1
                if not missing[after]:
                    order += 1
                    heapq.heappush(ready, (-after._sequence_nr(), order, after))
            _running_node = ""
    return tuple(got[node].get(number) for node, number in wanted)


def _add(got: dict[Any, dict[int, Any]], node: Any, number: int, grad: Any) -> None:
    if grad is None:
        return
    expected = node._input_metadata[number]
    if grad.device != expected.device:
        raise RuntimeError(
            f"{_running_node} returned an invalid gradient: expected {expected.device}, got {grad.device}"
        )
    if grad.shape != expected.shape:
        grad = grad.sum_to_size(expected.shape)
    grad = grad.to(expected.dtype)
    before = got[node].get(number)
    got[node][number] = grad if before is None else before + grad


def _call(node: Any, grads: list[Any]) -> tuple[Any, ...]:
    """Call a node of torch's own, or the backward pass of a torch.autograd.Function."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        out = node(*grads)
        return out if isinstance(out, tuple) else (out,)

    for i, (grad, expected) in enumerate(zip(grads, node._input_metadata, strict=True)):
        if grad is None:
            grads[i] = torch.zeros(expected.shape, dtype=expected.dtype, device=expected.device)
    out = node.apply(*grads)
    out = out if isinstance(out, tuple) else (out,)
    return tuple(grad for grad, is_tensor in zip(out, node.pretended_inputs, strict=False) if is_tensor)


_ENGINE = torch.autograd._engine_run_backward


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a torch.autograd.Function, and keep which of its arguments are tensors, which torch's engine knows."""
    out = _APPLY.__get__(None, cls)(*args, **kwargs)
    for tensor in out if isinstance(out, tuple) else (out,):
        node = getattr(tensor, "grad_fn", None)
        if node is not None and isinstance(node, torch.autograd.function.BackwardCFunction):
            node.pretended_inputs = [isinstance(arg, Tensor) for arg in args]
    return out


_APPLY = torch.autograd.Function.__dict__["apply"]


class _Generator(torch.Generator):
    """A generator of the device, whose numbers are those of the CPU's."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls if _is_cuda(device) else torch._C.Generator)

    device = CUDA  # type: ignore[assignment]


@contextmanager
def pretended_cuda(*, triton: bool = False) -> Iterator[PretendedCuda]:
    """Pretend while the block runs that this machine has one GPU of a recent kind (bf16, 80 GiB).

    Args:
        triton: run Triton's kernels in its interpreter. Without it, torch computes the CTC loss, which is faster.
    """
    global _active
    assert _active is None, "the device is pretended already"
    state = PretendedCuda()
    torch._C._ensureCUDADeviceGuardSet()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()

    with ExitStack() as stack:
        for owner, name, stand_in in _replacements(state):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        if not triton:
            stack.enter_context(mock.patch.object(asr.ctc, "_kernels", _answering(_Ctc)))
        stack.callback(_set_repeatable, *_repeatable())
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        stack.enter_context(_switches_kept())
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_pretending())
        _active = state
        stack.callback(_forget)
        yield state
        state.host_after(state.default_stream.now())


@contextmanager
def _switches_kept() -> Iterator[None]:
    """Put torch's switches for CUDA back, which the program sets."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32 = before


@contextmanager
def _pretending() -> Iterator[None]:
    """Pretend in this thread."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") makes its tensor on the CPU first
    try:
        with _Mode():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _repeatable() -> tuple[bool, bool, bool]:
    enabled = torch.are_deterministic_algorithms_enabled()
    return (
        enabled,
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def _set_repeatable(enabled: bool, warn_only: bool, fill: bool) -> None:
    """Set back what asr.runtime.use_device sets, which slows some operations of the CPU down."""
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def _forget() -> None:
    global _active
    _active = None


def _replacements(state: PretendedCuda) -> Iterator[tuple[Any, str, Any]]:
    """Yield (module or class, name, stand-in) of all that would ask CUDA's driver."""
    gib = 2**30
    for name, answer in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
        "is_initialized": True,
        "get_device_name": "pretended CUDA",
        "get_device_capability": (9, 0),
        "is_current_stream_capturing": False,
        "memory_allocated": gib,
        "memory_reserved": gib,
        "max_memory_allocated": 2 * gib,
        "max_memory_reserved": 2 * gib,
        "mem_get_info": (70 * gib, 80 * gib),
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        **dict.fromkeys(("_lazy_init", "init", "set_device", "set_rng_state", "manual_seed", "manual_seed_all")),
        **dict.fromkeys(("reset_peak_memory_stats", "reset_accumulated_memory_stats")),
        **dict.fromkeys(("_exchange_device", "_maybe_exchange_device"), 0),
    }.items():
        yield torch.cuda, name, _answering(answer)

    @contextmanager
    def on(stream: Stream | None) -> Iterator[None]:
        before = state.stream
        state.stream = stream or before
        try:
            yield
        finally:
            state.stream = before

    yield torch.cuda, "synchronize", lambda *_: state.wait("torch.cuda.synchronize")
    yield torch.cuda, "empty_cache", lambda: state.wait("torch.cuda.empty_cache")
    yield torch.cuda, "Stream", Stream
    yield torch.cuda, "Event", Event
    yield torch.cuda, "stream", on
    yield torch.cuda, "set_stream", lambda stream: setattr(state, "stream", stream)
    yield torch.cuda, "current_stream", lambda *_: state.stream
    yield torch.cuda, "default_stream", lambda *_: state.default_stream
    yield torch, "Generator", _Generator

    def pin_memory(tensor: Tensor, device: Any = None) -> Tensor:
        if isinstance(tensor, CudaTensor):
            raise RuntimeError("cannot pin a tensor of the device: only dense CPU tensors can be pinned")
        return state.pin(tensor.clone())

    yield torch.Tensor, "pin_memory", pin_memory
    yield torch.Tensor, "is_pinned", lambda tensor, device=None: tensor.untyped_storage().data_ptr() in state.pinned

    for cell in ("rnn_tanh", "gru", "lstm"):
        yield torch._VF, cell, _recurrent(cell)
    yield torch.autograd, "_engine_run_backward", _backward
    yield torch.autograd.Function, "apply", classmethod(_apply)
    # torch asks for the exact types of parameters before it uses its operations on many tensors.
    import torch.optim.optimizer as optimizers
    import torch.utils._foreach_utils as foreach

    yield optimizers, "_foreach_supported_types", [*optimizers._foreach_supported_types, CudaTensor]
    yield foreach, "_has_foreach_support", lambda tensors, device: True

    run = threading.Thread.run

    def run_in_mode(thread: threading.Thread) -> None:
        with _pretending():
            run(thread)

    yield threading.Thread, "run", run_in_mode
    yield from _of_triton(state)


def _answering(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer


def _of_triton(state: PretendedCuda) -> Iterator[tuple[Any, str, Any]]:
    """Yield the stand-in for a launch in Triton's interpreter, where it is installed and imported as one."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    launch = interpreter.GridExecutor.__call__

    def launched(executor: Any, *args: Any, **kwargs: Any) -> Any:
        state.launches.append(executor.fn.__name__)
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        on_cpu = [t for t in tensors if not isinstance(t, CudaTensor) and not t.is_pinned()]
        if on_cpu:
            raise ValueError(f"Pointer argument cannot be accessed from Triton (cpu tensor?), at {where()}")
        state.check_streams(tensors, tensors)
        state.track(tensors, tensors)
        real_args, real_kwargs = tree_map_only(CudaTensor, lambda t: t.held, (args, kwargs))
        return launch(executor, *real_args, **real_kwargs)

    yield interpreter.GridExecutor, "__call__", launched
