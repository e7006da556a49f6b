"""The training pass of a whole GRU layer on CPU, both directions: projection, norm, recurrence, and the way back.

It gives what ``asr.model.recurrent`` gives through torch's kernels (up to rounding) in less time:

- The input of both directions is projected once, in one product, and each direction reads an utterance's rows in its
  own order, so nothing is reversed.
- Norm and cell are compiled sweeps (``gru_loops``).
- The recurrent weights are put once per pass into the order in which the processor reads them.
- The backward pass is written out. Autograd adds a rank-b update to the recurrent weights' gradient at every step. Once
  all states are known, that gradient is one matrix product over all steps; only the gradient of the state has to walk
  back through time.

With  r = sigmoid(xr + hr), z = sigmoid(xz + hz), n = tanh(xn + r hn), h' = (1 - z) n + z h  and d = dL/dh':

    dL/d(xn) = d (1 - z)(1 - n^2)              dL/d(hn) = r dL/d(xn)
    dL/d(xz) = dL/d(hz) = d (h - n) z (1 - z)  dL/d(xr) = dL/d(hr) = hn r (1 - r) dL/d(xn)
    dL/dh    = d z + dL/d(hr, hz, hn) W_hidden

so the gradient of every gate is d times a factor that needs no recursion.

Axes: b batch, s steps, i inputs, h units, g gates (3 h: reset, update, candidate), r rows (b x s), w ways (directions).

Source: Cho et al. 2014, "Learning phrase representations", with torch's variant of the candidate (the reset gate acts
after the recurrent product, as in cuDNN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from asr.model.cpu import gru_loops as loops
from asr.model.cpu.packed import LANES, round_up
from asr.model.folded import EPS
from asr.model.norm import Reduce, reduced

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """Hold what does not change in a pass."""

    #: valid steps of each utterance
    lengths: npt.NDArray[np.int64]
    steps: int
    #: units of a direction, a multiple of ``LANES``
    size: int
    ways: int
    #: the directions' outputs are summed; else they lie side by side
    summed: bool
    threads: int

    def walk(self, way: int) -> loops.Walk:
        """Describe one direction to the compiled loops."""
        out_width = self.size if self.summed else self.ways * self.size
        out_at = 0 if self.summed else way * self.size
        return loops.Walk(self.lengths, self.steps, self.size, way, self.ways, out_width, out_at)


def can_run(x_bsi: Tensor) -> bool:
    """Check whether a layer can be trained here on this input: in float32 or bf16."""
    return _product_dtype(x_bsi) in (torch.float32, torch.bfloat16)


def run(directions: Sequence[Any], x_bsi: Tensor, mask_bs: Tensor, *, summed: bool) -> Tensor:
    """Run a GRU layer in training, with gradients, and take the norm's statistics into the running ones.

    Shapes: (b, s, i), (b, s) -> (b, s, h), or (b, s, 2 h) if the directions' outputs are not summed.

    Args:
        directions: one or two of ``asr.model.recurrent.Direction``.
    """
    dtype = _product_dtype(x_bsi)
    hidden = directions[0].hidden
    size = round_up(hidden, LANES)
    norms = [direction.norm for direction in directions if direction.norm is not None]
    biases_hidden = [torch.zeros_like(d.bias_g) if d.bias_hidden_g is None else d.bias_hidden_g for d in directions]
    shape = Shape(
        lengths=mask_bs.sum(1).numpy(),
        steps=x_bsi.shape[1],
        size=size,
        ways=len(directions),
        summed=summed,
        threads=torch.get_num_threads(),
    )

    def stacked(per_direction: Sequence[Tensor]) -> Tensor:
        return torch.stack([_with_more_units(tensor, hidden, size) for tensor in per_direction])

    # Units that were added have weights of zero: their state stays zero, and so do all their gradients.
    w_hidden_gh = [F.pad(d.w_hidden_gh.to(dtype), (0, size - hidden)) for d in directions]
    out_bsh, means_wg, vars_wg = GruLayer.apply(
        x_bsi.to(dtype),
        stacked([d.w_input_gi.to(dtype) for d in directions]),
        stacked(w_hidden_gh),
        stacked([d.bias_g for d in directions]),
        stacked(biases_hidden),
        stacked([norm.weight_g for norm in norms]) if norms else None,
        shape,
        norms[0].reduce if norms else None,
    )

    for way, norm in enumerate(norms):
        norm.remember(_first_units(means_wg[way], hidden, size), _first_units(vars_wg[way], hidden, size))
    return _first_units(out_bsh, hidden, size)


def _product_dtype(x_bsi: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_bsi.dtype


def _with_more_units(blocks: Tensor, hidden: int, size: int) -> Tensor:
    """Fill up each block of ``hidden`` rows with zeros to ``size`` rows."""
    if hidden == size:
        return blocks
    rows = blocks.view(-1, hidden, *blocks.shape[1:])
    around = [0, 0] * (rows.ndim - 2) + [0, size - hidden]
    return F.pad(rows, around).flatten(0, 1)


def _first_units(blocks: Tensor, hidden: int, size: int) -> Tensor:
    """Keep the first ``hidden`` values of each block of ``size`` in the last axis."""
    if hidden == size:
        return blocks
    return blocks.view(*blocks.shape[:-1], -1, size)[..., :hidden].flatten(-2)


class GruLayer(torch.autograd.Function):
    """A GRU layer from zero states: output, and the statistics of the projection (None without a norm).

    ``x_bsi`` and the first two weights have the dtype of the products, the others are float32. The output is zero
    beyond an utterance's end.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_bsi: Tensor,
        w_input_wgi: Tensor,
        w_hidden_wgh: Tensor,
        bias_wg: Tensor,
        bias_hidden_wg: Tensor,
        norm_weight_wg: Tensor | None,
        shape: Shape,
        reduce: Reduce | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run all directions, and keep the states that the gradients need. Shapes: as the names say."""
        x_ri = x_bsi.flatten(0, 1)
        z_rw = x_ri @ w_input_wgi.flatten(0, 1).T.contiguous()  # a quarter faster than with the transposed view

        scale_wg = torch.ones_like(bias_wg)
        shift_wg = bias_wg
        mean_wg, var_wg, num_valid = None, None, None
        if norm_weight_wg is not None:
            mean_wg, var_wg, num_valid = _moments(z_rw, shape, reduce)
            scale_wg = norm_weight_wg * (var_wg + EPS).rsqrt()
            shift_wg = bias_wg - scale_wg * mean_wg
            ctx.mark_non_differentiable(mean_wg, var_wg)

        outs = _outs(shape, x_bsi)
        norm = (scale_wg, shift_wg, bias_hidden_wg)
        walked = _each_way(shape, lambda way: _walk(way, shape, z_rw, w_hidden_wgh[way], norm, outs[way]))
        out_bsh = outs[0]
        if shape.summed and shape.ways == 2:
            out_bsh = out_bsh.add_(outs[1])

        states = [tensor for states_and_kept in walked for tensor in states_and_kept]
        ctx.shape = shape
        ctx.reduce = reduce
        ctx.save_for_backward(
            x_ri, z_rw, w_input_wgi, w_hidden_wgh, norm_weight_wg, mean_wg, var_wg, num_valid, *states
        )
        return out_bsh, mean_wg, var_wg

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shape: Shape = ctx.shape
        x_ri, z_rw, w_input_wgi, w_hidden_wgh, norm_weight_wg, mean_wg, var_wg, num_valid, *states = ctx.saved_tensors
        grad_bsh = grads[0].contiguous()
        at_gates_rw = torch.empty_like(z_rw)

        def walk_back(way: int) -> tuple[Tensor, Tensor]:
            h_sbh, kept = states[2 * way : 2 * way + 2]
            return _walk_back(way, shape, grad_bsh, w_hidden_wgh[way], h_sbh, kept, z_rw, at_gates_rw)

        back = _each_way(shape, walk_back)
        at_w_hidden_wgh = torch.stack([at_w for at_w, _ in back])
        sums_w7h = torch.stack([sums for _, sums in back])

        gates = 3 * shape.size
        sum_wg = sums_w7h[:, :gates]
        sum_z_wg = sums_w7h[:, gates : 2 * gates]
        # The biases of reset and update gate act like those of the input; the candidate's is behind the reset gate.
        at_bias_hidden_wg = torch.cat([sum_wg[:, : 2 * shape.size], sums_w7h[:, 2 * gates :]], 1)
        at_norm_weight_wg = None
        if norm_weight_wg is not None:
            inverse_std_wg = (var_wg + EPS).rsqrt()
            # This process's own sums: the weights' gradients of all processes are added up later.
            at_norm_weight_wg = (sum_z_wg - mean_wg * sum_wg) * inverse_std_wg
            norm = (norm_weight_wg, mean_wg, inverse_std_wg, num_valid)
            _through_norm(shape, at_gates_rw, z_rw, norm, (sum_wg, at_norm_weight_wg), ctx.reduce)

        at_x_bsi = None
        if ctx.needs_input_grad[0]:
            at_x_bsi = (at_gates_rw @ w_input_wgi.flatten(0, 1)).view(*grad_bsh.shape[:2], -1)
        at_w_input_wgi = (at_gates_rw.T @ x_ri).view_as(w_input_wgi)
        return at_x_bsi, at_w_input_wgi, at_w_hidden_wgh, sum_wg, at_bias_hidden_wg, at_norm_weight_wg, None, None


def _moments(z_rw: Tensor, shape: Shape, reduce: Reduce | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each gate, (w, g), over the valid steps of all processes, and their number."""
    width = z_rw.shape[1]
    blocks = -(-shape.steps // loops.BLOCK)
    sums = z_rw.new_zeros(len(shape.lengths), blocks, 2, width, dtype=torch.float32)
    arrays = (_array(z_rw), _array(sums))
    _each_part(shape, lambda first, last: loops.moments(first, last, shape.steps, shape.lengths, width, *arrays))

    sum_g, squares_g = sums.sum((0, 1))
    num_valid = sum_g.new_tensor([int(shape.lengths.sum())])
    if reduce is not None:
        sum_g, squares_g, num_valid = reduced(reduce, sum_g, squares_g, num_valid)
    mean_g = sum_g / num_valid
    var_g = (squares_g / num_valid - mean_g.square()).clamp(min=0)
    return mean_g.view(shape.ways, -1), var_g.view(shape.ways, -1), num_valid


def _through_norm(
    shape: Shape,
    at_gates_rw: Tensor,
    z_rw: Tensor,
    norm: tuple[Tensor, Tensor, Tensor, Tensor],
    sums: tuple[Tensor, Tensor],
    reduce: Reduce | None,
) -> None:
    """Turn gradients behind the norm into those of the projection, in place (the formula is in ``asr.model.norm``).

    Args:
        norm: (weight_wg, mean_wg, inverse_std_wg, num_valid).
        sums: of the gradients, and of their products with the normalised projection, (w, g) each.
    """
    weight_wg, mean_wg, inverse_std_wg, num_valid = norm
    sum_wg, sum_hat_wg = sums
    if reduce is not None:
        both = reduced(reduce, sum_wg.flatten(), sum_hat_wg.flatten())
        sum_wg, sum_hat_wg = (tensor.view_as(weight_wg) for tensor in both)

    scale_wg = weight_wg * inverse_std_wg
    slope_wg = -scale_wg * inverse_std_wg * sum_hat_wg / num_valid
    constant_wg = -scale_wg * sum_wg / num_valid - slope_wg * mean_wg
    factors = loops.NormBack(*(_array(tensor.contiguous()) for tensor in (scale_wg, slope_wg, constant_wg)))
    rows = (shape.steps, shape.lengths, z_rw.shape[1], _array(at_gates_rw), _array(z_rw))
    _each_part(shape, lambda first, last: loops.through_norm(first, last, *rows, factors))


def _outs(shape: Shape, x_bsi: Tensor) -> list[Tensor]:
    """Make room for each direction's output: one array for both if they lie side by side."""
    batch, steps, _ = x_bsi.shape
    if shape.summed:
        return [x_bsi.new_empty(batch, steps, shape.size) for _ in range(shape.ways)]
    return [x_bsi.new_empty(batch, steps, shape.ways * shape.size)] * shape.ways


def _walk(
    way: int,
    shape: Shape,
    z_rw: Tensor,
    w_hidden_gh: Tensor,
    norm: tuple[Tensor, Tensor, Tensor],
    out_bsh: Tensor,
) -> tuple[Tensor, Tensor]:
    """Walk one direction forward through time; return its states, (s + 1, b, h), and what the way back needs.

    Args:
        norm: scale, shift and the bias of the recurrent product, (w, g) each.
    """
    batch = len(shape.lengths)
    h_sbh = z_rw.new_empty(shape.steps + 1, batch, shape.size)
    h_sbh[0] = 0
    kept = z_rw.new_empty(shape.steps, batch, loops.KEPT, shape.size)
    scale, shift, bias = (_array(tensor) for tensor in norm)
    data = loops.Forward(
        z=_array(z_rw),
        scale=scale,
        shift=shift,
        bias=bias,
        state=np.zeros(batch * shape.size, np.float32),
        h=_array(h_sbh),
        out=_array(out_bsh),
        kept=_array(kept),
    )

    walk = shape.walk(way)
    product = _product(w_hidden_gh, batch)
    own = z_rw.new_zeros(batch, 3 * shape.size)
    states = h_sbh.unbind(0)
    for s in range(shape.steps):
        if s:
            own = product(states[s])
        loops.step_forward(s, walk, data, own.data_ptr())
    return h_sbh, kept


def _walk_back(
    way: int,
    shape: Shape,
    grad_bsh: Tensor,
    w_hidden_gh: Tensor,
    h_sbh: Tensor,
    kept: Tensor,
    z_rw: Tensor,
    at_gates_rw: Tensor,
) -> tuple[Tensor, Tensor]:
    """Walk one direction back through time; return the gradient of its recurrent weights, and sums (7 h)."""
    batch = len(shape.lengths)
    at_hidden = z_rw.new_empty(shape.steps, batch, 3 * shape.size)
    sums = torch.zeros(-(-shape.steps // loops.BLOCK), loops.SUMS * shape.size)
    data = loops.Backward(
        grad=_array(grad_bsh),
        state=np.zeros(batch * shape.size, np.float32),
        kept=_array(kept),
        z=_array(z_rw),
        at_hidden=_array(at_hidden),
        at_gates=_array(at_gates_rw),
        sums=_array(sums),
    )

    walk = shape.walk(way)
    product = _product(w_hidden_gh.T, batch)
    carry = z_rw.new_zeros(batch, shape.size)
    for s in range(shape.steps - 1, -1, -1):
        loops.step_backward(s, walk, data, carry.data_ptr())
        if s:
            carry = product(at_hidden[s])
    return at_hidden.flatten(0, 1).T @ h_sbh[:-1].flatten(0, 1), sums.sum(0)


def _product(w_gh: Tensor, rows: int) -> Product:
    """Return a function x -> x W^T, which is fast for many x of this many rows.

    The choice depends on the machine alone, not on a measurement, so that a run repeats bit for bit.
    """
    mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if mkldnn and (w_gh.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        packed = torch.ops.mkldnn._reorder_linear_weight(w_gh.contiguous(), rows)
        run = torch.ops.mkldnn._linear_pointwise.default
        return lambda x: run(x, packed, None, "none", [], "")
    w_hg = w_gh.T.contiguous()
    return lambda x: x @ w_hg


def _each_way(shape: Shape, run: Callable[[int], Any]) -> list[Any]:
    """Run the directions, each on a core of its own: a time step is too little to share."""
    return _in_threads(shape.threads, [partial(run, way) for way in range(shape.ways)])


def _each_part(shape: Shape, run: Callable[[int, int], Any]) -> None:
    """Run some of the utterances on each core."""
    count = min(shape.threads, len(shape.lengths))
    ends = [len(shape.lengths) * i // count for i in range(count + 1)]
    _in_threads(shape.threads, [partial(run, *part) for part in pairwise(ends)])


def _in_threads(threads: int, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    if threads == 1 or len(jobs) == 1:
        return [job() for job in jobs]

    def run(job: Callable[[], Any]) -> Any:
        with torch.no_grad():
            return job()

    # Short-lived threads, 0.1 ms each: nothing global, and their thread count (a thread's own) cannot leak.
    with ThreadPoolExecutor(len(jobs), "asr-gru", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(run, jobs))


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """Return a tensor's memory, flat, as the loops take it."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).view(-1).numpy().view(np.uint16)
    flat: npt.NDArray[Any] = tensor.view(-1).numpy()
    return flat
