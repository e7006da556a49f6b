"""The backward pass: torch's engine asks CUDA's driver for streams, so its nodes are called here one by one."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from tests.pretended.record import pretended
from tests.pretended.tensors import CudaTensor


def backward(tensors: Any, grads: Any, keep_graph: bool, create_graph: bool, inputs: Any, *_: Any, **__: Any) -> Any:
    """Run the nodes of a graph in torch's order, and check each gradient as torch's engine does."""
    if not any(isinstance(t, CudaTensor) for t in tensors):
        return _ENGINE(tensors, grads, keep_graph, create_graph, inputs, *_, **__)
    state = pretended()
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
            state.node = node.name()
            for i, grad in enumerate(grads_in):
                for hook in state.hooks.get((node, i), []):
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
            state.node = ""
    return tuple(got[node].get(number) for node, number in wanted)


def _add(got: dict[Any, dict[int, Any]], node: Any, number: int, grad: Any) -> None:
    if grad is None:
        return
    expected = node._input_metadata[number]
    if grad.device != expected.device:
        raise RuntimeError(
            f"{pretended().node} returned an invalid gradient: expected {expected.device}, got {grad.device}"
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


def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a torch.autograd.Function, and keep which of its arguments are tensors, which torch's engine knows."""
    out = _APPLY.__get__(None, cls)(*args, **kwargs)
    for tensor in out if isinstance(out, tuple) else (out,):
        node = getattr(tensor, "grad_fn", None)
        if node is not None and isinstance(node, torch.autograd.function.BackwardCFunction):
            node.pretended_inputs = [isinstance(arg, Tensor) for arg in args]
    return out


_ENGINE = torch.autograd._engine_run_backward


_APPLY = torch.autograd.Function.__dict__["apply"]
