"""Tensors that say they are on CUDA, and what torch's operations do with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from tests.pretended.operations import STAND_INS, wide_product
from tests.pretended.record import CUDA, PretendedCuda, Stream, pretended, where

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
        pretended().hooks.setdefault((edge.node, edge.output_nr), []).append(hook)
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


class Mode(TorchDispatchMode):
    """Sees what makes tensors of the device out of none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if CudaTensor in types or is_cuda(kwargs.get("device")) or kwargs.get("pin_memory"):
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
    is_out_cuda = bool(inputs) if device is None else is_cuda(device)
    if not inputs and not is_out_cuda:
        return pretended().pin(func(*args, **{**kwargs, "pin_memory": False}))

    if func._can_decompose():  # in inference mode torch leaves it to us to take composed operations apart
        with Mode():
            return func.decompose(*args, **kwargs)
    if name in ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss"):  # asked by torch.ctc_loss
        return False

    state = pretended()
    state.operations += 1
    is_late = bool(flat) and _is_late_copy(state, name, flat, args, kwargs, is_out_cuda)
    if name not in ("_to_copy", "copy_"):
        indexes = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        lengths = flat[2:] if "ctc_loss" in name else ()
        _refuse_others(name, flat, (*indexes, *lengths), kwargs)
        _count(state, name, flat, indexes, args, kwargs)
    written = _written(func, args, kwargs)
    if not func.is_view:
        state.check_streams(inputs, written)

    kernel = STAND_INS.get(name, func)
    if func._schema.overload_name.startswith("dtype"):  # products with out_dtype=
        kernel = wide_product(name)
    real_args, real_kwargs = tree_map_only(CudaTensor, lambda t: t.held, (args, kwargs))
    if device is not None:
        real_kwargs["device"] = torch.device("cpu")
    real_kwargs.pop("pin_memory", None)
    if state.before_result is not None:
        state.before_result(name, state.node)
    result = kernel(*real_args, **real_kwargs)
    if any(t.numel() > state.largest for t in tree_flatten(result)[0] if isinstance(t, Tensor)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if is_late:
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


def _is_late_copy(state: PretendedCuda, name: str, flat: Sequence[Tensor], args: Any, kwargs: Any, to: bool) -> bool:
    """Check whether this is a copy between the devices that goes on in the background; count one that waits.

    Args:
        to: the result is on the device.
    """
    source, target = flat[-1], flat[0] if name == "copy_" else None
    is_to_cpu = isinstance(source, CudaTensor)
    if name not in ("_to_copy", "copy_") or is_to_cpu == (to if target is None else isinstance(target, CudaTensor)):
        return False

    is_asked = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
    # Without memory of the caller's own, torch makes pinned memory for a copy to the CPU that is not to wait.
    memory = target if is_to_cpu else source
    is_pinned = is_asked if memory is None else memory.is_pinned()
    if is_asked and is_pinned:
        return True
    way = "copy to the CPU" if is_to_cpu else "copy to the device"
    state.wait(f"{way}, {'pinned, but not non_blocking' if is_pinned else 'pageable'}")
    return False


def _refuse_others(name: str, flat: Sequence[Tensor], allowed: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Raise what torch raises for tensors of the CPU beside those of the device, and for a generator of the CPU."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu', at {where()}")

    others = [t for t in flat if not isinstance(t, CudaTensor) and not any(t is one for one in allowed)]
    takes_numbers = not name.startswith((*_STRICT, "_foreach"))
    if len(others) < len(flat) and any(t.dim() or not takes_numbers for t in others):
        found = ", ".join(f"{t.device} {tuple(t.shape)}" for t in flat)
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({name}: {found}, at {where()})"
        )


def _count(state: PretendedCuda, name: str, flat: Sequence[Tensor], indexes: Any, args: Any, kwargs: Any) -> None:
    """Count what waits for the device, and what adds up in any order."""
    is_filling = "index_put" in name and args[2].numel() == 1  # which torch turns into masked_fill
    for index in indexes:
        if index is not None and not isinstance(index, CudaTensor):
            state.wait("index by a tensor of the CPU")
        if index is not None and index.dtype in (torch.bool, torch.uint8) and not is_filling:
            state.wait("index by a mask (nonzero)")
    if name in _READ_BACK or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        state.wait(name.removeprefix("_"))
    if name in ("_ctc_loss", "_ctc_loss_backward"):
        for _ in range(3):
            state.wait(f"{name.removeprefix('_')} (copies of its own)")

    kind = name.removesuffix("_")
    is_unordered = kind in _UNORDERED and not torch.are_deterministic_algorithms_enabled()
    if (is_unordered or kind in _ALWAYS_UNORDERED) and flat[0].is_floating_point():
        state.unordered[name, where()] += 1


def is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"
