"""Recurrent layers: tanh, GRU or LSTM, in one or two directions, exact under padding.

Axes: b batch, s steps, i inputs, h units, g gates (gates x units).

A bidirectional layer is two one-direction layers; the backward one reads each utterance reversed within its own
length. That gives what packed sequences give, at the speed of padded ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.model.cpu.gru import GruSequences
from asr.model.cpu.tanh import TanhSequences
from asr.model.norm import InputNorm

GATES = {"tanh": 1, "gru": 3, "lstm": 4}
#: cells whose backward pass is written out for CPU
_BY_HAND: dict[str, type[torch.autograd.Function]] = {"gru": GruSequences, "tanh": TanhSequences}


class Direction(nn.Module):
    """One direction of one recurrent layer, through torch's own kernel, the input norm folded into its weights."""

    def __init__(self, cell: str, inputs: int, hidden: int, norm: bool) -> None:
        super().__init__()
        self.cell, self.hidden = cell, hidden
        gates = GATES[cell] * hidden
        self.w_input_gi = nn.Parameter(torch.empty(gates, inputs))
        self.w_hidden_gh = nn.Parameter(torch.empty(gates, hidden))
        self.bias_g = nn.Parameter(torch.zeros(gates))
        # The GRU's candidate has a second bias inside the reset gate's product; the other cells fold theirs into one.
        self.bias_hidden_g = nn.Parameter(torch.zeros(gates)) if cell == "gru" else None
        self.norm = InputNorm(gates) if norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier input weights, an orthogonal recurrent matrix for each gate, LSTM forget bias 1.

        Source: Saxe et al. 2014 (orthogonal); Jozefowicz et al. 2015, section 4 (forget bias).
        """
        for block_hi in torch.split(self.w_input_gi, self.hidden):
            nn.init.xavier_uniform_(block_hi)
        for block_hh in torch.split(self.w_hidden_gh, self.hidden):
            nn.init.orthogonal_(block_hh)
        nn.init.zeros_(self.bias_g)
        if self.cell == "lstm":
            nn.init.ones_(self.bias_g[self.hidden : 2 * self.hidden])  # torch's gate order: input, forget, cell, output

    def prepare(self, x_sbi: Tensor, num_valid: Tensor, gates_wanted: bool) -> tuple[list[Tensor], Tensor | None]:
        """Input and recurrent weights and their biases in torch's order, the norm folded in; and the gates' input.

        The gates' input is the normalised projection with its bias, (s, b, g), where it is wanted, else None.
        """
        w_gi: Tensor = self.w_input_gi
        bias_g: Tensor = self.bias_g
        gates_sbg = None
        if self.norm is not None:
            if gates_wanted:
                scale_g, shift_g, gates_sbg = self.norm.gates(x_sbi, w_gi, bias_g, num_valid)
            else:
                scale_g, shift_g = self.norm.fold(x_sbi, w_gi, num_valid)
            w_gi, bias_g = scale_g[:, None] * w_gi, bias_g + shift_g
        elif gates_wanted:
            gates_sbg = F.linear(x_sbi, w_gi, bias_g)
        bias_hidden_g = torch.zeros_like(bias_g) if self.bias_hidden_g is None else self.bias_hidden_g
        return [w_gi, self.w_hidden_gh, bias_g, bias_hidden_g], gates_sbg

    def forward(self, x_sbi: Tensor, weights: Sequence[Tensor]) -> Tensor:
        state_1bh = x_sbi.new_zeros(1, x_sbi.shape[1], self.hidden)
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        options = (True, 1, 0.0, self.training, False, False)
        if self.cell == "lstm":
            out_sbh = torch._VF.lstm(x_sbi, (state_1bh, state_1bh), list(weights), *options)[0]
        else:
            run = torch._VF.gru if self.cell == "gru" else torch._VF.rnn_tanh
            out_sbh = run(x_sbi, state_1bh, list(weights), *options)[0]
        result: Tensor = out_sbh
        return result


class RecurrentLayer(nn.Module):
    """One layer of the stack. Shapes: (b, s, i), mask (b, s), reversal (b, s) -> (b, s, h or 2 h)."""

    def __init__(self, cell: str, inputs: int, hidden: int, *, bidirectional: bool, merge: str, norm: bool) -> None:
        super().__init__()
        self.cell, self.merge, self.hidden = cell, merge, hidden
        self.forward_direction = Direction(cell, inputs, hidden, norm)
        self.backward_direction = Direction(cell, inputs, hidden, norm) if bidirectional else None
        self.output_size = 2 * hidden if bidirectional and merge == "concat" else hidden

    @property
    def directions(self) -> list[Direction]:
        back = self.backward_direction
        return [self.forward_direction] if back is None else [self.forward_direction, back]

    def forward(self, x_bsi: Tensor, mask_bs: Tensor, reversal_bs: Tensor) -> Tensor:
        if self.cell == "gru" and self.training and x_bsi.device.type == "cpu":
            from asr.model.cpu import gru_layer  # numba: 0.3 s that use has no need of

            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_bsi.dtype
            if gru_layer.can_run(self.hidden, dtype):
                return self._train_gru(x_bsi.to(dtype), mask_bs)
        num_valid = mask_bs.sum()
        directions, inputs = self.directions, [x_bsi]
        if len(directions) == 2:
            inputs.append(flip_within(x_bsi, reversal_bs))
        inputs = [x.transpose(0, 1).contiguous() for x in inputs]
        by_hand = self.cell in _BY_HAND and self.training and x_bsi.device.type == "cpu"
        prepared = [d.prepare(x, num_valid, by_hand) for d, x in zip(directions, inputs, strict=True)]
        weights, gates = [ws for ws, _ in prepared], [g for _, g in prepared]
        if torch.is_autocast_enabled(x_bsi.device.type):
            # By hand, as autocast does not reach into torch's recurrent kernels on every device.
            dtype = torch.get_autocast_dtype(x_bsi.device.type)
            inputs, weights = [x.to(dtype) for x in inputs], [[w.to(dtype) for w in ws] for ws in weights]
        if by_hand:
            flat = [t for x, ws, g in zip(inputs, weights, gates, strict=True) for t in (x, *ws, g)]
            outs = _BY_HAND[self.cell].apply(*flat)
        else:
            outs = [d(x, ws) for d, x, ws in zip(directions, inputs, weights, strict=True)]
        out_bsh: Tensor = outs[0].transpose(0, 1)
        if len(outs) == 2:
            back_bsh = flip_within(outs[1].transpose(0, 1), reversal_bs)
            out_bsh = out_bsh + back_bsh if self.merge == "sum" else torch.cat([out_bsh, back_bsh], dim=2)
        return out_bsh * mask_bs[:, :, None].to(out_bsh.dtype)

    def _train_gru(self, x_bsi: Tensor, mask_bs: Tensor) -> Tensor:
        """The same in training on CPU, both directions at once."""
        from asr.model.cpu import gru_layer

        ways, norms = self.directions, [d.norm for d in self.directions if d.norm is not None]
        shape = gru_layer.Shape(
            mask_bs.sum(1).numpy(), x_bsi.shape[1], self.hidden, len(ways), self.merge == "sum",
            torch.get_num_threads(),
        )  # fmt: skip
        out_bsh, means_wg, vars_wg = gru_layer.GruLayer.apply(
            x_bsi,
            torch.stack([d.w_input_gi.to(x_bsi.dtype) for d in ways]),
            torch.stack([d.w_hidden_gh.to(x_bsi.dtype) for d in ways]),
            torch.stack([d.bias_g for d in ways]),
            torch.stack([torch.zeros_like(d.bias_g) if d.bias_hidden_g is None else d.bias_hidden_g for d in ways]),
            torch.stack([norm.weight_g for norm in norms]) if norms else None,
            shape,
            norms[0].reduce if norms else None,
        )
        for norm, mean_g, var_g in zip(norms, means_wg if norms else (), vars_wg if norms else (), strict=True):
            norm.remember(mean_g, var_g)
        return out_bsh  # type: ignore[no-any-return]


def reversal(num_steps_b: Tensor, length: int) -> Tensor:
    """For each step the index of its mirror image in the utterance; padding maps to itself. Shapes: (b,) -> (b, s)."""
    at_s = torch.arange(length, device=num_steps_b.device)[None, :]
    mirrored_bs = num_steps_b[:, None] - 1 - at_s
    return torch.where(mirrored_bs >= 0, mirrored_bs, at_s)


def flip_within(x_bsi: Tensor, reversal_bs: Tensor) -> Tensor:
    """Each utterance reversed in time within its own length; its own inverse."""
    return x_bsi.gather(1, reversal_bs[:, :, None].expand(x_bsi.shape))


class Lookahead(nn.Module):
    """Row convolution: each unit sees itself and its next ``steps`` values through weights of its own.

    Shapes: (b, s, h) -> (b, s, h); padding must be zero.

    Source: Deep Speech 2, section 3.5.
    """

    def __init__(self, units: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.weight_h1k = nn.Parameter(torch.empty(units, 1, steps + 1))
        nn.init.uniform_(self.weight_h1k, -((steps + 1) ** -0.5), (steps + 1) ** -0.5)
        with torch.no_grad():
            self.weight_h1k[:, :, 0] += 1.0  # starts near the identity

    def forward(self, x_bsh: Tensor) -> Tensor:
        x_bhs = F.pad(x_bsh.transpose(1, 2), (0, self.steps))
        out_bhs = F.conv1d(x_bhs, self.weight_h1k, groups=self.weight_h1k.shape[0])
        return out_bhs.transpose(1, 2).contiguous()
