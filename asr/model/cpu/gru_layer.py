"""A whole GRU layer's training pass on CPU, both directions: projection, sequence-wise norm, recurrence, and back.

The same as ``asr.model.cpu.gru`` behind ``asr.model.norm`` (whose docstrings have the formulas), with fewer ways
through memory: the input of both directions is projected once, in one product; norm and cell are compiled sweeps
(``gru_loops``); recurrent weights are put once a pass into the order in which the processor reads them. Each direction
reads an utterance's rows in its own order, so nothing is reversed.

Axes: b batch, s steps, i inputs, h units, g gates (3 h: reset, update, candidate), w ways (directions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.model.cpu import gru_loops as loops
from asr.model.cpu.tiles import LANES
from asr.model.norm import EPS, Reduce, reduced

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """What does not change in a pass."""

    lengths: npt.NDArray[np.int64]
    steps: int
    size: int
    ways: int
    summed: bool
    threads: int

    @property
    def width(self) -> int:
        """Values a row that the layer gives."""
        return self.size if self.summed else self.ways * self.size

    def out_at(self, way: int) -> int:
        return 0 if self.summed else way * self.size


def can_run(hidden: int, dtype: torch.dtype) -> bool:
    """Whether a layer of so many units can be trained this way."""
    return hidden % LANES == 0 and dtype in (torch.float32, torch.bfloat16)


class GruLayer(torch.autograd.Function):
    """(x_bsi, w_input_wgi, w_hidden_wgh, bias_wg, bias_hidden_wg, norm_weight_wg or None, shape, reduce) to
    (out_bsh, mean_wg, var_wg): the directions' outputs side by side or summed, zero beyond an utterance's end, and the
    statistics of the projection (None without a norm).

    ``x_bsi`` and the first two weights have the dtype of the products, the others are float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x_bsi: Tensor, w_input_wgi: Tensor, w_hidden_wgh: Tensor, bias_wg: Tensor, bias_hidden_wg: Tensor,
        weight_wg: Tensor | None, shape: Shape, reduce: Reduce | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        batch, steps, inputs = x_bsi.shape
        x_ri = x_bsi.reshape(batch * steps, inputs)
        z_rw = x_ri @ w_input_wgi.flatten(0, 1).T.contiguous()  # a quarter faster than the transposed view
        scale_wg, shift_wg, mean_wg, var_wg, num_valid = torch.ones_like(bias_wg), bias_wg, None, None, None
        if weight_wg is not None:
            mean_wg, var_wg, num_valid = _moments(z_rw, shape, reduce)
            mean_wg, var_wg = mean_wg.view_as(bias_wg), var_wg.view_as(bias_wg)
            scale_wg = weight_wg * (var_wg + EPS).rsqrt()
            shift_wg = bias_wg - scale_wg * mean_wg
        outs = _outs(shape, x_bsi)
        made = _each_way(
            shape,
            lambda way: _walk(way, shape, z_rw, w_hidden_wgh[way], scale_wg, shift_wg, bias_hidden_wg, outs[way]),
        )
        ctx.shape, ctx.reduce = shape, reduce
        ctx.save_for_backward(
            x_ri, z_rw, w_input_wgi, w_hidden_wgh, weight_wg, mean_wg, var_wg, num_valid,
            *(tensor for pair in made for tensor in pair),
        )  # fmt: skip
        out_bsh = outs[0].add_(outs[1]) if shape.summed and shape.ways == 2 else outs[0]
        if weight_wg is not None:
            ctx.mark_non_differentiable(mean_wg, var_wg)
        return out_bsh, mean_wg, var_wg

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shape: Shape = ctx.shape
        x_ri, z_rw, w_input_wgi, w_hidden_wgh, weight_wg, mean_wg, var_wg, num_valid, *made = ctx.saved_tensors
        grad_bsh = grads[0].contiguous()
        at_gates_rw = torch.empty_like(z_rw)
        back = _each_way(shape, lambda way: _walk_back(
            way, shape, grad_bsh, w_hidden_wgh[way], made[2 * way], made[2 * way + 1], z_rw, at_gates_rw))  # fmt: skip
        gates, size = 3 * shape.size, shape.size
        sums_w7h = torch.stack([sums for _, sums in back])
        sum_wg, sum_z_wg = sums_w7h[:, :gates], sums_w7h[:, gates : 2 * gates]
        at_bias_hidden_wg = torch.cat([sum_wg[:, : 2 * size], sums_w7h[:, 2 * gates :]], 1)
        at_weight_wg, at_bias_wg = None, sum_wg
        if weight_wg is not None:
            inverse_std_wg = (var_wg + EPS).rsqrt()
            sum_hat_wg = (sum_z_wg - mean_wg * sum_wg) * inverse_std_wg
            # This process's own: weights' gradients are added up later, all at once.
            at_weight_wg = sum_hat_wg
            if ctx.reduce is not None:
                both = reduced(ctx.reduce, sum_wg.flatten(), sum_hat_wg.flatten())
                sum_wg, sum_hat_wg = (one.view_as(sum_wg) for one in both)
            scale_wg = weight_wg * inverse_std_wg
            slope_wg = -scale_wg * inverse_std_wg * sum_hat_wg / num_valid
            constant_wg = -scale_wg * sum_wg / num_valid - slope_wg * mean_wg
            factors = [_array(one.contiguous()) for one in (scale_wg, slope_wg, constant_wg)]
            width, to, z = at_gates_rw.shape[1], _array(at_gates_rw), _array(z_rw)
            _each_part(shape, lambda first, last: loops.through_norm(
                first, last, shape.steps, shape.lengths, width, to, z, *factors))  # fmt: skip
        at_x_bsi = None
        if ctx.needs_input_grad[0]:
            at_x_bsi = (at_gates_rw @ w_input_wgi.flatten(0, 1)).view(*grad_bsh.shape[:2], -1)
        at_w_input_wgi = (at_gates_rw.T @ x_ri).view_as(w_input_wgi)
        at_w_hidden_wgh = torch.stack([at_w for at_w, _ in back])
        return at_x_bsi, at_w_input_wgi, at_w_hidden_wgh, at_bias_wg, at_bias_hidden_wg, at_weight_wg, None, None


def _moments(z_rw: Tensor, shape: Shape, reduce: Reduce | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each gate over the valid steps, and their number; of all processes together."""
    width, blocks = z_rw.shape[1], -(-shape.steps // loops.BLOCK)
    sums = z_rw.new_zeros(len(shape.lengths), blocks, 2, width, dtype=torch.float32)
    z, to = _array(z_rw), _array(sums)
    _each_part(
        shape, lambda first, last: loops.moments(first, last, shape.steps, shape.lengths, width, z, to)
    )  # fmt: skip
    sum_g, squares_g = sums.sum((0, 1))
    num_valid = sum_g.new_tensor([int(shape.lengths.sum())])
    if reduce is not None:
        sum_g, squares_g, num_valid = reduced(reduce, sum_g, squares_g, num_valid)
    mean_g = sum_g / num_valid
    return mean_g, (squares_g / num_valid - mean_g.square()).clamp(min=0), num_valid


def _outs(shape: Shape, x_bsi: Tensor) -> list[Tensor]:
    """Room for each direction's output: one array that both write into, where they lie side by side."""
    batch, steps, _ = x_bsi.shape
    if shape.summed:
        return [x_bsi.new_empty(batch, steps, shape.size) for _ in range(shape.ways)]
    return [x_bsi.new_empty(batch, steps, shape.width)] * shape.ways


def _walk(
    way: int, shape: Shape, z_rw: Tensor, w_hidden_gh: Tensor, scale_wg: Tensor, shift_wg: Tensor, bias_wg: Tensor,
    out_bsh: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One direction forward through time: its states, (s + 1, b, h), and what the way back needs."""
    batch, steps, size = len(shape.lengths), shape.steps, shape.size
    h_sbh = z_rw.new_empty(steps + 1, batch, size)
    h_sbh[0] = 0
    kept = z_rw.new_empty(steps, batch, loops.KEPT, size)
    product, own = _product(w_hidden_gh, batch), z_rw.new_zeros(batch, 3 * size)
    state, states = np.zeros(batch * size, np.float32), h_sbh.unbind(0)
    norm = [_array(one) for one in (scale_wg, shift_wg, bias_wg)]
    before = (steps, shape.lengths, way == 1, way, shape.ways, size, _array(z_rw), *norm)
    after = (state, _array(h_sbh), _array(out_bsh), shape.width, shape.out_at(way), _array(kept))
    step: Any = loops.step_forward
    for s in range(steps):
        if s:
            own = product(states[s])
        step(s, *before, own.data_ptr(), *after)
    return h_sbh, kept


def _walk_back(
    way: int, shape: Shape, grad_bsh: Tensor, w_hidden_gh: Tensor, h_sbh: Tensor, kept: Tensor, z_rw: Tensor,
    at_gates_rw: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One direction back through time: the gradient of its recurrent weights, and sums (7 h)."""
    batch, steps, size = len(shape.lengths), shape.steps, shape.size
    at_hidden = z_rw.new_empty(steps, batch, 3 * size)
    product, carry = _product(w_hidden_gh.T, batch), z_rw.new_zeros(batch, size)
    sums = torch.zeros(-(-steps // loops.BLOCK), loops.SUMS * size)
    before = (steps, shape.lengths, way == 1, way, shape.ways, size, _array(grad_bsh), shape.width, shape.out_at(way))
    after = (np.zeros(batch * size, np.float32), _array(kept), _array(z_rw), _array(at_hidden), _array(at_gates_rw),
             _array(sums))  # fmt: skip
    for s in range(steps - 1, -1, -1):
        loops.step_backward(s, *before, carry.data_ptr(), *after)
        if s:
            carry = product(at_hidden[s])
    return at_hidden.flatten(0, 1).T @ h_sbh[:-1].flatten(0, 1), sums.sum(0)


def _product(w_gh: Tensor, rows: int) -> Product:
    """``x -> x W^T`` for many x of so many rows."""
    mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        packed = torch.ops.mkldnn._reorder_linear_weight(w_gh.contiguous(), rows)
        run = torch.ops.mkldnn._linear_pointwise.default
        return lambda x: run(x, packed, None, "none", [], "")
    w_hg = w_gh.T.contiguous()
    return lambda x: x @ w_hg


def _each_way(shape: Shape, run: Callable[[int], Any]) -> list[Any]:
    """The directions, each on a core when there are several, as a time step is too little to share."""
    if shape.ways == 1 or shape.threads == 1:
        return [run(way) for way in range(shape.ways)]
    return _threaded(shape, run, range(shape.ways))


def _each_part(shape: Shape, run: Callable[[int, int], Any]) -> None:
    """Some of the utterances on each core."""
    count = min(shape.threads, len(shape.lengths))
    ends = [len(shape.lengths) * i // count for i in range(count + 1)]
    if count == 1:
        run(0, ends[-1])
    else:
        _threaded(shape, lambda i: run(ends[i], ends[i + 1]), range(count))


def _threaded(shape: Shape, run: Callable[[int], Any], over: Sequence[int]) -> list[Any]:
    def alone(i: int) -> Any:
        with torch.no_grad():
            return run(i)

    # Short-lived threads, 0.1 ms each: nothing global, and their thread count (a thread's own) cannot leak.
    with ThreadPoolExecutor(len(over), "asr-gru", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, over))


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """Its memory, flat, as the loops take it."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).view(-1).numpy().view(np.uint16)
    flat: npt.NDArray[Any] = tensor.view(-1).numpy()
    return flat
