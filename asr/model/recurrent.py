"""Recurrent layers: tanh, GRU or LSTM, in one or two directions, exact under padding.

Axes: b batch, s steps, i inputs, h units, g gates (gates x units).

A bidirectional layer is two one-direction layers; the backward one reads each utterance reversed within its own
length. That gives what packed sequences give, at the speed of padded ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.model.folded import GATES
from asr.model.norm import InputNorm
from asr.runtime import to_device


class Direction(nn.Module):
    """One direction of one recurrent layer: torch's own kernel, with the input norm folded into its weights."""

    def __init__(self, cell: str, inputs: int, hidden: int, norm: bool) -> None:
        super().__init__()
        self.cell = cell
        self.hidden = hidden
        gates = GATES[cell] * hidden

        self.w_input_gi = nn.Parameter(torch.empty(gates, inputs))
        self.w_hidden_gh = nn.Parameter(torch.empty(gates, hidden))
        self.bias_g = nn.Parameter(torch.zeros(gates))
        # The GRU's candidate has a second bias inside the reset gate's product; the other cells need only one.
        self.bias_hidden_g = nn.Parameter(torch.zeros(gates)) if cell == "gru" else None
        self.norm = InputNorm(gates) if norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier input weights and an orthogonal recurrent matrix for each gate; set the LSTM's forget bias to 1.

        Source: Saxe et al. 2014 (orthogonal); Jozefowicz et al. 2015, section 4 (forget bias).
        """
        for block_hi in torch.split(self.w_input_gi, self.hidden):
            nn.init.xavier_uniform_(block_hi)
        for block_hh in torch.split(self.w_hidden_gh, self.hidden):
            nn.init.orthogonal_(block_hh)
        nn.init.zeros_(self.bias_g)
        if self.cell == "lstm":
            # torch's order of gates: input, forget, cell, output
            nn.init.ones_(self.bias_g[self.hidden : 2 * self.hidden])

    def weights(self, x_sbi: Tensor, num_valid: Tensor) -> list[Tensor]:
        """Return the input and recurrent weights and their biases, in torch's order, with the norm folded in.

        Shapes: (s, b, i), () -> (g, i), (g, h), (g,), (g,).

        Args:
            x_sbi: the input, which the norm needs for its statistics in training; padding must be zero.
            num_valid: number of steps in the batch that are not padding.
        """
        folded = None if self.norm is None else self.norm.fold(x_sbi, self.w_input_gi, num_valid)
        return self.folded_weights(folded)

    def folded_weights(self, norm: tuple[Tensor, Tensor] | None) -> list[Tensor]:
        """Return the weights with a norm folded in that is given as (scale_g, shift_g)."""
        w_input_gi: Tensor = self.w_input_gi
        bias_g: Tensor = self.bias_g
        if norm is not None:
            scale_g, shift_g = norm
            w_input_gi = scale_g[:, None] * w_input_gi
            bias_g = bias_g + shift_g
        bias_hidden_g = torch.zeros_like(bias_g) if self.bias_hidden_g is None else self.bias_hidden_g
        return [w_input_gi, self.w_hidden_gh, bias_g, bias_hidden_g]

    def forward(self, x_sbi: Tensor, num_valid: Tensor) -> Tensor:
        """Run the direction from a zero state. Shapes: (s, b, i), () -> (s, b, h)."""
        weights = self.weights(x_sbi, num_valid)
        if torch.is_autocast_enabled(x_sbi.device.type):
            # Cast here, as autocast does not reach into torch's recurrent kernels on every device.
            dtype = torch.get_autocast_dtype(x_sbi.device.type)
            x_sbi = x_sbi.to(dtype)
            weights = [weight.to(dtype) for weight in weights]
        return self.recur(x_sbi, weights)

    def recur(self, x_sbi: Tensor, weights: list[Tensor]) -> Tensor:
        """Run torch's kernel from a zero state, all in one dtype. Shapes: (s, b, i) -> (s, b, h)."""
        state_1bh = x_sbi.new_zeros(1, x_sbi.shape[1], self.hidden)
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        options = (True, 1, 0.0, self.training, False, False)
        if self.cell == "lstm":
            out_sbh = torch._VF.lstm(x_sbi, (state_1bh, state_1bh), weights, *options)[0]
        elif self.cell == "gru":
            out_sbh = torch._VF.gru(x_sbi, state_1bh, weights, *options)[0]
        else:
            out_sbh = torch._VF.rnn_tanh(x_sbi, state_1bh, weights, *options)[0]
        return out_sbh


class RecurrentLayer(nn.Module):
    """One layer of the stack, in one direction or in two whose outputs are summed or concatenated."""

    def __init__(self, cell: str, inputs: int, hidden: int, *, bidirectional: bool, merge: str, norm: bool) -> None:
        super().__init__()
        self.cell = cell
        self.merge = merge
        self.forward_direction = Direction(cell, inputs, hidden, norm)
        self.backward_direction = Direction(cell, inputs, hidden, norm) if bidirectional else None
        self.output_size = 2 * hidden if bidirectional and merge == "concat" else hidden

    @property
    def directions(self) -> list[Direction]:
        """The forward direction, and the backward one if there is one."""
        if self.backward_direction is None:
            return [self.forward_direction]
        return [self.forward_direction, self.backward_direction]

    def forward(self, x_bsi: Tensor, mask_bs: Tensor, reversal_bs: Tensor) -> Tensor:
        """Return the layer's output, zero in the padding. Shapes: (b, s, i), (b, s), (b, s) -> (b, s, h or 2 h).

        Args:
            x_bsi: the input; padding must be zero.
            mask_bs: true inside each utterance.
            reversal_bs: as ``reversal`` gives it.
        """
        # Norms that are not trained take their running statistics, which the layer below does not know.
        by_batch = all(d.norm is None or d.norm.training for d in self.directions)
        if self.cell == "gru" and self.training and by_batch and x_bsi.device.type == "cpu":
            from asr.model.cpu import gru_layer  # loads numba in 0.3 s, which only training on CPU needs

            if gru_layer.can_run(x_bsi):
                return gru_layer.run(self.directions, x_bsi, mask_bs, summed=self.merge == "sum")

        if x_bsi.device.type == "cuda":
            from asr.model.cuda import recurrent

            return recurrent.run(self.directions, x_bsi, mask_bs, reversal_bs, summed=self.merge == "sum")

        num_valid = mask_bs.sum()
        out_bsh = self._run(self.forward_direction, x_bsi, num_valid)
        if self.backward_direction is not None:
            back_bsh = self._run(self.backward_direction, flip_within(x_bsi, reversal_bs), num_valid)
            back_bsh = flip_within(back_bsh, reversal_bs)
            out_bsh = out_bsh + back_bsh if self.merge == "sum" else torch.cat([out_bsh, back_bsh], dim=2)
        return out_bsh * mask_bs[:, :, None].to(out_bsh.dtype)

    @staticmethod
    def _run(direction: Direction, x_bsi: Tensor, num_valid: Tensor) -> Tensor:
        """Put time first, as torch's kernels want it, and back. Shapes: (b, s, i), () -> (b, s, h)."""
        out_sbh: Tensor = direction(x_bsi.transpose(0, 1).contiguous(), num_valid)
        return out_sbh.transpose(0, 1)


def reversal(num_steps_b: Tensor, length: int) -> Tensor:
    """Return for each step the index of its mirror image in the utterance; padding maps to itself.

    Shapes: (b,) -> (b, s).
    """
    at_s = torch.arange(length, device=num_steps_b.device)[None, :]
    mirrored_bs = num_steps_b[:, None] - 1 - at_s
    return torch.where(mirrored_bs >= 0, mirrored_bs, at_s)


def flip_within(x_bsi: Tensor, reversal_bs: Tensor) -> Tensor:
    """Reverse each utterance in time within its own length. Shapes: (b, s, i), (b, s) -> (b, s, i)."""
    return x_bsi.gather(1, reversal_bs[:, :, None].expand(x_bsi.shape))


class Chunks:
    """Utterances cut into chunks, each of which is an utterance to the layers: no state passes its borders.

    Axes: c chunks, k steps of a chunk.

    Source: Audhkhasi et al. 2019, "Forget a bit to learn better: Soft forgetting for CTC-based automatic speech
    recognition", section 2.
    """

    def __init__(self, num_steps_b: Tensor, longest: int, chunk_steps: int) -> None:
        """Plan the chunks of utterances with these lengths, which are on the CPU, padded to the longest one."""
        self.longest = longest
        self.chunk_steps = chunk_steps
        starts = torch.arange(0, longest, chunk_steps)
        num_steps_c = (num_steps_b[:, None] - starts).clamp(0, chunk_steps).flatten()
        self._all = len(num_steps_c)
        # What is all padding is no chunk, but for a batch without a step.
        self._chosen_c = num_steps_c.nonzero()[:, 0] if num_steps_c.any() else torch.arange(self._all)
        self.num_steps_c = num_steps_c[self._chosen_c]

    def cut(self, x_bsi: Tensor) -> Tensor:
        """Return the chunks of the utterances. Shapes: (b, s, i) -> (c, k, i)."""
        x_bsi = F.pad(x_bsi, (0, 0, 0, -self.longest % self.chunk_steps))
        x_cki = x_bsi.reshape(self._all, self.chunk_steps, x_bsi.shape[2])
        return x_cki.index_select(0, to_device(self._chosen_c, x_bsi.device))

    def join(self, x_ckh: Tensor) -> Tensor:
        """Put chunks together to utterances. Shapes: (c, k, h) -> (b, s, h)."""
        units = x_ckh.shape[2]
        all_ckh = x_ckh.new_zeros(self._all, self.chunk_steps, units)
        all_ckh = all_ckh.index_copy(0, to_device(self._chosen_c, x_ckh.device), x_ckh)
        padded = self.longest + -self.longest % self.chunk_steps
        return all_ckh.reshape(-1, padded, units)[:, : self.longest]


class Lookahead(nn.Module):
    """Row convolution: each unit sees itself and its next ``steps`` values through weights of its own.

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
        """Convolve each unit over time; padding must be zero. Shapes: (b, s, h) -> (b, s, h)."""
        x_bhs = F.pad(x_bsh.transpose(1, 2), (0, self.steps))
        out_bhs = F.conv1d(x_bhs, self.weight_h1k, groups=self.weight_h1k.shape[0])
        return out_bhs.transpose(1, 2).contiguous()
