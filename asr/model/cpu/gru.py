"""A GRU layer's training pass on CPU, with its backward pass written out.

Axes: d directions, s steps, b batch, i inputs, h units, g gates (3 h, in torch's order: reset, update, candidate).

Autograd through torch's GRU adds a rank-b update to the recurrent weight's gradient at every step. Once all hidden
states are known, the gates of all steps follow from two matrix products, and so does the weight's gradient; only the
gradient of the state has to walk back through time.

With  r = sigmoid(xr + hr), z = sigmoid(xz + hz), n = tanh(xn + r hn), h' = (1 - z) n + z h  and d = dL/dh':

    dL/d(xn) = d (1 - z)(1 - n^2)              dL/d(hn) = r dL/d(xn)
    dL/d(xz) = dL/d(hz) = d (h - n) z (1 - z)  dL/d(xr) = dL/d(hr) = hn r (1 - r) dL/d(xn)
    dL/dh    = d z + dL/d(hr, hz, hn) W_hidden

so every gate's gradient is d times a factor that needs no recursion.

Source: Cho et al. 2014, "Learning phrase representations", with torch's variant of the candidate (the reset gate acts
after the recurrent product, as cuDNN's does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

#: tensors a layer: x_sbi, w_input_gi, w_hidden_gh, bias_g, bias_hidden_g, gates_sbg
INPUTS = 6


class GruSequences(torch.autograd.Function):
    """Independent GRU layers of one shape (the directions of a layer), from zero states.

    Takes (x_sbi, w_input_gi, w_hidden_gh, bias_g, bias_hidden_g, gates_sbg) for each, gives (s, b, h) for each. The
    gates' input, gates = W_input x + bias, is what gets the gradient: it exists already where it was normalised, so
    neither pass projects again.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        layers = [tensors[i : i + INPUTS] for i in range(0, len(tensors), INPUTS)]
        outs = run_all(_run, [layer[:5] for layer in layers])
        saved = [(layer[2], layer[4], layer[5], out) for layer, out in zip(layers, outs, strict=True)]
        ctx.save_for_backward(*(tensor for one in saved for tensor in one))
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads_sbh: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        w_hidden_dgh, bias_hidden_dg = torch.stack(saved[0::4]), torch.stack(saved[1::4])
        gates_sdbg, out_sdbh = torch.stack(saved[2::4], dim=1), torch.stack(saved[3::4], dim=1)
        grads = _run_back(w_hidden_dgh, bias_hidden_dg, gates_sdbg, out_sdbh, torch.stack(grads_sbh, dim=1))
        # No gradient for x, W_input and its bias: theirs comes through the gates.
        return tuple(
            grad
            for w_hidden, bias_hidden, gates in zip(grads[0], grads[1], grads[2].unbind(1), strict=True)
            for grad in (None, None, w_hidden, None, bias_hidden, gates)
        )


def run_all(run: Callable[..., Tensor], layers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Torch's own forward passes: each on a core when there are several, as a time step is too little to share."""
    if len(layers) == 1 or torch.get_num_threads() == 1:
        return [run(*layer) for layer in layers]

    def alone(layer: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return run(*layer)

    # Short-lived threads, 0.1 ms each: nothing global, and their thread count (a thread's own) cannot leak.
    with ThreadPoolExecutor(len(layers), "asr-gru", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, layers))


def _run(x_sbi: Tensor, *weights: Tensor) -> Tensor:
    state_1bh = x_sbi.new_zeros(1, x_sbi.shape[1], weights[1].shape[1])
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    out_sbh: Tensor = torch._VF.gru(x_sbi, state_1bh, list(weights), True, 1, 0.0, False, False, False)[0]
    return out_sbh


def _run_back(
    w_hidden_dgh: Tensor, bias_hidden_dg: Tensor, gates_sdbg: Tensor, out_sdbh: Tensor, grad_out_sdbh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (w_hidden_dgh, bias_hidden_dg, gates_sdbg), all directions in one walk back through time."""
    steps, directions, batch, hidden = out_sdbh.shape
    # bf16 products, float32 sums and factors; float64 stays float64 (for gradient checks)
    narrow, wide = out_sdbh.dtype, torch.promote_types(out_sdbh.dtype, torch.float32)
    previous_sdbh = torch.cat([out_sdbh.new_zeros(1, directions, batch, hidden), out_sdbh[:-1]])
    previous_drh = previous_sdbh.transpose(0, 1).reshape(directions, steps * batch, hidden)
    recurrent_drg = torch.baddbmm(bias_hidden_dg[:, None], previous_drh, w_hidden_dgh.transpose(1, 2))
    recurrent_dsbg = recurrent_drg.view(directions, steps, batch, 3 * hidden)
    # Contiguous in the walk's order: a transposed view would make every sweep below a strided one.
    recurrent_sdbg = recurrent_dsbg.transpose(0, 1).to(wide, memory_format=torch.contiguous_format)
    factors = _factors(gates_sdbg.to(wide), recurrent_sdbg, previous_sdbh.to(wide))
    to_hidden_sdb3h, from_x_sdbh, update_sdbh = factors
    grad_sdbh = grad_out_sdbh.to(wide, copy=True)
    _walk_back(grad_sdbh, to_hidden_sdb3h, update_sdbh, w_hidden_dgh)
    at_hidden_sdb3h = to_hidden_sdb3h.mul_(grad_sdbh[:, :, :, None, :])
    at_hidden_drg = at_hidden_sdb3h.to(narrow).transpose(0, 1).reshape(directions, steps * batch, 3 * hidden)
    grad_w_hidden_dgh = at_hidden_drg.transpose(1, 2) @ previous_drh
    grad_bias_hidden_dg = at_hidden_sdb3h.sum((0, 2)).view(directions, 3 * hidden).to(bias_hidden_dg.dtype)
    # The candidate's input gets no reset gate; the other two gates' gradients are the same on both sides.
    torch.mul(from_x_sdbh, grad_sdbh, out=at_hidden_sdb3h[:, :, :, 2])
    return grad_w_hidden_dgh, grad_bias_hidden_dg, at_hidden_sdb3h.view_as(gates_sdbg).to(gates_sdbg.dtype)


def _walk_back(grad_sdbh: Tensor, to_hidden_sdb3h: Tensor, update_sdbh: Tensor, w_hidden_dgh: Tensor) -> None:
    """Adds to each state's gradient, in place, what comes back to it from the later ones."""
    directions, batch, hidden = grad_sdbh.shape[1:]
    # The one loop that is run thousands of times a second: views and buffers are made outside it.
    grads, factors, updates = grad_sdbh.unbind(0), to_hidden_sdb3h.unbind(0), update_sdbh.unbind(0)
    gates_db3h = w_hidden_dgh.new_empty(directions, batch, 3, hidden)
    gates_dbg, carry_dbh = gates_db3h.view(directions, batch, 3 * hidden), w_hidden_dgh.new_empty(grads[0].shape)
    for step in range(len(grads) - 1, 0, -1):
        at_state_dbh = grads[step]
        torch.mul(factors[step], at_state_dbh[:, :, None, :], out=gates_db3h)
        torch.bmm(gates_dbg, w_hidden_dgh, out=carry_dbh)
        grads[step - 1].add_(carry_dbh).addcmul_(at_state_dbh, updates[step])


def _factors(input_sdbg: Tensor, recurrent_sdbg: Tensor, previous_sdbh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What multiplies dL/dh': (s, d, b, 3, h) at the recurrent side, (s, d, b, h) at the candidate's input, z.

    In place where it can be: these are sweeps over memory, and each temporary is one more.
    """
    hidden = previous_sdbh.shape[-1]
    both = slice(0, 2 * hidden)
    reset, update = (input_sdbg[..., both] + recurrent_sdbg[..., both]).sigmoid_().chunk(2, dim=3)
    input_n, recurrent_n = input_sdbg[..., 2 * hidden :], recurrent_sdbg[..., 2 * hidden :]
    candidate = torch.addcmul(input_n, reset, recurrent_n).tanh_()
    keep = 1 - update
    to_hidden = keep.new_empty(*keep.shape[:3], 3, hidden)
    at_reset, at_update, at_recurrent_n = to_hidden.unbind(3)
    torch.sub(previous_sdbh, candidate, out=at_update).mul_(update).mul_(keep)
    at_candidate = torch.addcmul(keep, keep * candidate, candidate, value=-1)  # keep (1 - n^2)
    torch.mul(at_candidate, reset, out=at_recurrent_n)
    torch.mul(at_recurrent_n, recurrent_n, out=at_reset).addcmul_(at_reset, reset, value=-1)  # ... (1 - r)
    return to_hidden, at_candidate, update
