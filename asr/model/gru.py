"""A GRU layer's training pass on CPU, with its backward pass written out.

Axes: s steps, b batch, i inputs, h units, g gates (3 h, in torch's order: reset, update, candidate).

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
import torch.nn.functional as F
from torch import Tensor

#: tensors a layer: x_sbi, w_input_gi, w_hidden_gh, bias_g, bias_hidden_g, gates_sbg
_INPUTS = 6


class GruSequences(torch.autograd.Function):
    """Independent GRU layers (the directions of one layer), from zero states, each on a core of its own.

    Takes (x_sbi, w_input_gi, w_hidden_gh, bias_g, bias_hidden_g, gates_sbg) for each, gives (s, b, h) for each. The
    gates' input, gates = W_input x + bias, is what gets the gradient: it exists already where it was normalised, so
    neither pass projects again. A time step is too little work to be split over cores; two directions are not.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        layers = [tensors[i : i + _INPUTS] for i in range(0, len(tensors), _INPUTS)]
        outs = _each(_run, [layer[:5] for layer in layers])
        saved = [(layer[2], layer[4], layer[5], out) for layer, out in zip(layers, outs, strict=True)]
        ctx.save_for_backward(*(tensor for one in saved for tensor in one))
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads_sbh: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        work = [(*saved[4 * i : 4 * i + 4], grad_sbh) for i, grad_sbh in enumerate(grads_sbh)]
        # No gradient for x, W_input and its bias: theirs comes through the gates.
        return tuple(
            grad
            for w_hidden, bias_hidden, gates in _each(_run_back, work)
            for grad in (None, None, w_hidden, None, bias_hidden, gates)
        )


def _each(function: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> list[Any]:
    """The function's results for each of the arguments, at the same time when torch may use several threads."""
    if len(arguments) == 1 or torch.get_num_threads() == 1:
        return [function(*one) for one in arguments]

    def alone(one: Sequence[Any]) -> Any:
        with torch.no_grad():
            return function(*one)

    # Short-lived threads, 0.1 ms each: nothing global, and their thread count (a thread's own) cannot leak.
    with ThreadPoolExecutor(len(arguments), "asr-gru", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, arguments))


def _run(x_sbi: Tensor, *weights: Tensor) -> Tensor:
    state_1bh = x_sbi.new_zeros(1, x_sbi.shape[1], weights[1].shape[1])
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    out_sbh: Tensor = torch._VF.gru(x_sbi, state_1bh, list(weights), True, 1, 0.0, False, False, False)[0]
    return out_sbh


def _run_back(
    w_hidden_gh: Tensor, bias_hidden_g: Tensor, gates_sbg: Tensor, out_sbh: Tensor, grad_out_sbh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (w_hidden_gh, bias_hidden_g, gates_sbg)."""
    steps, batch, hidden = out_sbh.shape
    # bf16 products, float32 sums and factors; float64 stays float64 (for gradient checks)
    narrow, wide = out_sbh.dtype, torch.promote_types(out_sbh.dtype, torch.float32)
    previous_sbh = torch.cat([out_sbh.new_zeros(1, batch, hidden), out_sbh[:-1]])
    recurrent_sbg = F.linear(previous_sbh, w_hidden_gh, bias_hidden_g).to(wide)
    to_hidden_sb3h, from_x_sbh, update_sbh = _factors(gates_sbg.to(wide), recurrent_sbg, previous_sbh.to(wide))
    grad_sbh = grad_out_sbh.to(wide, copy=True)
    at_state_bh = grad_sbh[-1]
    for step in range(steps - 1, 0, -1):
        gates_b3h = (to_hidden_sb3h[step] * at_state_bh[:, None, :]).to(narrow)
        carry_bh = (gates_b3h.view(batch, 3 * hidden) @ w_hidden_gh).to(wide)
        at_state_bh = grad_sbh[step - 1].add_(carry_bh).addcmul_(at_state_bh, update_sbh[step])
    at_hidden_sb3h = to_hidden_sb3h.mul_(grad_sbh[:, :, None, :])
    at_hidden_rg = at_hidden_sb3h.to(narrow).view(steps * batch, 3 * hidden)
    grad_w_hidden_gh = at_hidden_rg.T @ previous_sbh.view(steps * batch, hidden)
    grad_bias_hidden_g = at_hidden_sb3h.sum((0, 1)).view(3 * hidden).to(bias_hidden_g.dtype)
    # The candidate's input gets no reset gate; the other two gates' gradients are the same on both sides.
    torch.mul(from_x_sbh, grad_sbh, out=at_hidden_sb3h[:, :, 2])
    return grad_w_hidden_gh, grad_bias_hidden_g, at_hidden_sb3h.view(steps, batch, 3 * hidden).to(gates_sbg.dtype)


def _factors(input_sbg: Tensor, recurrent_sbg: Tensor, previous_sbh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What multiplies dL/dh': (s, b, 3, h) at the recurrent side, (s, b, h) at the candidate's input, (s, b, h) z."""
    input_r, input_z, input_n = input_sbg.chunk(3, dim=2)
    recurrent_r, recurrent_z, recurrent_n = recurrent_sbg.chunk(3, dim=2)
    reset = torch.sigmoid(input_r + recurrent_r)
    update = torch.sigmoid(input_z + recurrent_z)
    candidate = torch.tanh(torch.addcmul(input_n, reset, recurrent_n))
    keep = 1 - update
    at_candidate = keep * (1 - candidate.square())
    at_update = (previous_sbh - candidate) * update * keep
    at_recurrent_n = at_candidate * reset
    at_reset = at_recurrent_n * recurrent_n * (1 - reset)
    return torch.stack([at_reset, at_update, at_recurrent_n], dim=2), at_candidate, update
