"""Recurrent cells one step at a time, as their papers write them (gates in torch's order).

Axes: s steps, i inputs, g gates, h units; one utterance, no batch.
"""

import torch
from torch import Tensor


def run(cell: str, projected_sg: Tensor, w_hidden_gh: Tensor, bias_hidden_g: Tensor | None = None) -> Tensor:
    """States after each step from a zero state, given W x + b of every step. Shapes: (s, g), (g, h) -> (s, h)."""
    hidden = w_hidden_gh.shape[1]
    state_h = memory_h = projected_sg.new_zeros(hidden)
    states = []
    for step_g in projected_sg:
        recurrent_g = w_hidden_gh @ state_h
        if bias_hidden_g is not None:
            recurrent_g = recurrent_g + bias_hidden_g
        if cell == "tanh":
            state_h = torch.tanh(step_g + recurrent_g)
        elif cell == "gru":
            xr, xz, xn = step_g.split(hidden)
            hr, hz, hn = recurrent_g.split(hidden)
            update_h = torch.sigmoid(xz + hz)
            candidate_h = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
            state_h = (1 - update_h) * candidate_h + update_h * state_h
        else:
            i, f, c, o = (step_g + recurrent_g).split(hidden)
            memory_h = torch.sigmoid(f) * memory_h + torch.sigmoid(i) * torch.tanh(c)
            state_h = torch.sigmoid(o) * torch.tanh(memory_h)
        states.append(state_h)
    return torch.stack(states)
