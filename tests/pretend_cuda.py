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

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.optim.optimizer as optimizers
import torch.utils._foreach_utils as foreach
from torch import Tensor
from torch.utils._pytree import tree_map_only

import asr.ctc
from tests.pretended import record
from tests.pretended.backward import apply, backward
from tests.pretended.layers import Ctc, recurrent
from tests.pretended.record import CUDA, Event, PretendedCuda, Stream, counting, lines_of, where
from tests.pretended.tensors import CudaTensor, Mode, is_cuda

__all__ = ["CUDA", "CudaTensor", "PretendedCuda", "Stream", "counting", "lines_of", "pretended_cuda"]


class _Generator(torch.Generator):
    """A generator of the device, whose numbers are those of the CPU's."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls if is_cuda(device) else torch._C.Generator)

    device = CUDA  # type: ignore[assignment]


@contextmanager
def pretended_cuda(*, triton: bool = False) -> Iterator[PretendedCuda]:
    """Pretend while the block runs that this machine has one GPU of a recent kind (bf16, 80 GiB).

    Args:
        triton: run Triton's kernels in its interpreter. Without it, torch computes the CTC loss, which is faster.
    """
    state = PretendedCuda()
    torch._C._ensureCUDADeviceGuardSet()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()

    with ExitStack() as stack:
        for owner, name, stand_in in _replacements(state):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        if not triton:
            stack.enter_context(mock.patch.object(asr.ctc, "_kernels", _answering(Ctc)))
        stack.enter_context(_switches_kept())
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_pretending())
        record.pretend(state)
        stack.callback(record.pretend, None)
        yield state
        state.host_after(state.default_stream.now())


@contextmanager
def _pretending() -> Iterator[None]:
    """Pretend in this thread."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") makes its tensor on the CPU first
    try:
        with Mode():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


@contextmanager
def _switches_kept() -> Iterator[None]:
    """Put torch's switches back that asr.runtime.use_device sets; some slow operations of the CPU down."""
    cudnn, matmul, filling = torch.backends.cudnn, torch.backends.cuda.matmul, torch.utils.deterministic
    before = cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32, filling.fill_uninitialized_memory
    asked, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic, matmul.allow_tf32, filling.fill_uninitialized_memory = before
        torch.use_deterministic_algorithms(asked, warn_only=warns)


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
        yield torch._VF, cell, recurrent(cell)
    yield torch.autograd, "_engine_run_backward", backward
    yield torch.autograd.Function, "apply", classmethod(apply)
    # torch asks for the exact types of parameters before it uses its operations on many tensors.
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
