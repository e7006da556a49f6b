"""A tanh layer's training pass on CPU, with its backward pass written out.

Axes: d directions, s steps, b batch, i inputs, h units.

As for the GRU (``asr.model.cpu.gru``). With  h = tanh(a), a = W_input x + W_hidden h' + bias:

    dL/da = dL/dh (1 - h^2)      dL/dh' = dL/da W_hidden
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asr.model.cpu.gru import INPUTS, run_all


class TanhSequences(torch.autograd.Function):
    """Independent tanh layers of one shape (the directions of a layer), from zero states.

    Takes (x_sbi, w_input_hi, w_hidden_hh, bias_h, bias_hidden_h, gates_sbh) for each, gives (s, b, h) for each; the
    second bias is zero. The gradient goes to ``gates_sbh`` and ``w_hidden_hh``, as ``GruSequences`` has it.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        layers = [tensors[i : i + INPUTS] for i in range(0, len(tensors), INPUTS)]
        outs = run_all(_run, [layer[:5] for layer in layers])
        saved = [(layer[2], out) for layer, out in zip(layers, outs, strict=True)]
        ctx.gates_dtype = layers[0][5].dtype
        ctx.save_for_backward(*(tensor for one in saved for tensor in one))
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads_sbh: Tensor) -> tuple[Tensor | None, ...]:
        w_hidden_dhh = torch.stack(ctx.saved_tensors[0::2])
        out_sdbh = torch.stack(ctx.saved_tensors[1::2], dim=1)
        steps, directions, batch, hidden = out_sdbh.shape
        # bf16 products, float32 sums; float64 stays float64 (for gradient checks)
        wide_sdbh = out_sdbh.to(torch.promote_types(out_sdbh.dtype, torch.float32))
        slopes = torch.addcmul(wide_sdbh.new_ones(()), wide_sdbh, wide_sdbh, value=-1)
        at_sdbh = torch.stack(grads_sbh, dim=1).to(wide_sdbh.dtype)
        grad_sdbh = torch.empty_like(out_sdbh)
        inputs, outputs, kept = at_sdbh.unbind(0), grad_sdbh.unbind(0), slopes.unbind(0)
        carry_dbh = torch.empty_like(outputs[0])
        for step in range(steps - 1, -1, -1):
            inputs[step].mul_(kept[step])
            if step:
                outputs[step].copy_(inputs[step])
                torch.bmm(outputs[step], w_hidden_dhh, out=carry_dbh)
                inputs[step - 1].add_(carry_dbh)
        at_drh = grad_sdbh[1:].transpose(0, 1).reshape(directions, (steps - 1) * batch, hidden)
        previous_drh = out_sdbh[:-1].transpose(0, 1).reshape(directions, (steps - 1) * batch, hidden)
        grad_w_dhh = at_drh.transpose(1, 2) @ previous_drh
        return tuple(
            grad
            for w_hidden, gates in zip(grad_w_dhh, at_sdbh.to(ctx.gates_dtype).unbind(1), strict=True)
            for grad in (None, None, w_hidden, None, None, gates)
        )


def _run(x_sbi: Tensor, *weights: Tensor) -> Tensor:
    state_1bh = x_sbi.new_zeros(1, x_sbi.shape[1], weights[1].shape[1])
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    out_sbh: Tensor = torch._VF.rnn_tanh(x_sbi, state_1bh, list(weights), True, 1, 0.0, False, False, False)[0]
    return out_sbh
