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

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class GruSequence(torch.autograd.Function):
    """(s, b, i), (g, i), (g, h), (g,), (g,) -> (s, b, h), from a zero state."""

    @staticmethod
    def forward(
        ctx: Any, x_sbi: Tensor, w_input_gi: Tensor, w_hidden_gh: Tensor, bias_g: Tensor, bias_hidden_g: Tensor
    ) -> Tensor:
        state_1bh = x_sbi.new_zeros(1, x_sbi.shape[1], w_hidden_gh.shape[1])
        weights = [w_input_gi, w_hidden_gh, bias_g, bias_hidden_g]
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        out_sbh: Tensor = torch._VF.gru(x_sbi, state_1bh, weights, True, 1, 0.0, False, False, False)[0]
        ctx.save_for_backward(x_sbi, *weights, out_sbh)
        return out_sbh

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        x_sbi, w_input_gi, w_hidden_gh, bias_g, bias_hidden_g, out_sbh = ctx.saved_tensors
        steps, batch, hidden = out_sbh.shape
        # bf16 products, float32 sums and factors; float64 stays float64 (for gradient checks)
        wide = torch.promote_types(out_sbh.dtype, torch.float32)
        previous_sbh = torch.cat([out_sbh.new_zeros(1, batch, hidden), out_sbh[:-1]])
        to_hidden_sbh, from_x, update_sbh = _factors(
            F.linear(x_sbi, w_input_gi, bias_g).to(wide),
            F.linear(previous_sbh, w_hidden_gh, bias_hidden_g).to(wide),
            previous_sbh.to(wide),
        )
        grad_sbh = grad_outputs[0].to(wide, copy=True)
        narrow = out_sbh.dtype
        at_state_bh = grad_sbh[-1]
        for step in range(steps - 1, 0, -1):
            gates_b3h = (to_hidden_sbh[step] * at_state_bh[:, None, :]).to(narrow)
            carry_bh = (gates_b3h.view(batch, 3 * hidden) @ w_hidden_gh).to(wide)
            at_state_bh = grad_sbh[step - 1].add_(carry_bh).addcmul_(at_state_bh, update_sbh[step])
        at_hidden_rg = (to_hidden_sbh * grad_sbh[:, :, None, :]).to(narrow).view(steps * batch, 3 * hidden)
        # The candidate's input gets no reset gate; the other two gates' gradients are the same on both sides.
        at_input_rg = at_hidden_rg.clone()
        at_input_rg[:, 2 * hidden :] = (from_x * grad_sbh).view(steps * batch, hidden)
        grad_x_sbi = (at_input_rg @ w_input_gi).view_as(x_sbi) if ctx.needs_input_grad[0] else None
        return (  # type: ignore[return-value]  # None where no gradient is wanted
            grad_x_sbi,
            at_input_rg.T @ x_sbi.reshape(steps * batch, -1),
            at_hidden_rg.T @ previous_sbh.view(steps * batch, hidden),
            at_input_rg.sum(0, dtype=wide).to(narrow),
            at_hidden_rg.sum(0, dtype=wide).to(narrow),
        )


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
