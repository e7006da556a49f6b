"""A time-delay network: dilated convolutions over time, batch norm over valid steps, clipped ReLU.

Axes: b batch, s steps, r rows, k taps, i inputs, h units.

A row is a valid step: the steps of all utterances of a batch, one utterance after the other. Layers work on rows, so
padding is never computed, enters no statistic, and cannot be seen: a tap outside its utterance reads zero.

Source: Waibel et al. 1989, "Phoneme recognition using time-delay neural networks"; Peddinti et al. 2015, "A time delay
neural network architecture for efficient modeling of long temporal contexts" (dilation, there "sub-sampling").
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.limits import check_step
from asr.model.conv import step_mask
from asr.model.network import Network
from asr.model.norm import InputNorm
from asr.model.parts import added
from asr.model.trainable import count
from asr.runtime import to_device


class WindowLayer(nn.Module):
    """clip(BN(W window)): each window is the ``kernel`` rows around its middle one, ``dilation`` steps apart."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        norm: bool,
        relu_clip: float,
        kernel: int = 1,
        dilation: int = 1,
        stride: int = 1,
    ) -> None:
        super().__init__()
        check_step("a window", kernel * inputs)
        self.kernel = kernel
        self.dilation = dilation
        self.stride = stride
        self.relu_clip = relu_clip
        self.w_hki = nn.Parameter(torch.empty(hidden, kernel, inputs))
        nn.init.kaiming_uniform_(self.w_hki, nonlinearity="relu")
        self.bias_h = nn.Parameter(torch.zeros(hidden))
        self.norm = InputNorm(hidden) if norm else None

    def forward(self, rows_ri: Tensor, num_b: Tensor) -> tuple[Tensor, Tensor]:
        """Compute ceil(s / stride) rows of each utterance of s rows. Shapes: (r, i), (b,) -> (r', h), (b,)."""
        if torch.is_autocast_enabled(rows_ri.device.type):
            # Before windows are made, which repeat each row ``kernel`` times; autocast would do it after.
            rows_ri = rows_ri.to(torch.get_autocast_dtype(rows_ri.device.type))
        if self.kernel > 1 or self.stride > 1:
            taps_rk, num_b = taps(num_b, self.kernel, self.dilation, self.stride)
            taps_rk = to_device(taps_rk, rows_ri.device)
            outside = len(rows_ri)
            # By an embedding, whose backward pass adds up what is read several times faster than that of an index.
            rows_ri = F.embedding(taps_rk, F.pad(rows_ri, (0, 0, 0, 1)), padding_idx=outside).flatten(1)
        return F.hardtanh(self._project(rows_ri), 0.0, self.relu_clip), num_b

    def _project(self, rows_ri: Tensor) -> Tensor:
        """Return BN(W x) + bias, or W x + bias without a norm. Shapes: (r, i) -> (r, h)."""
        w_hi: Tensor = self.w_hki.flatten(1)
        if self.norm is None:
            return F.linear(rows_ri, w_hi, self.bias_h)
        # The norm's axes are (s, b, i): one row per step, in a batch of one.
        x_r1i = rows_ri[:, None]
        num_valid = torch.full((), len(rows_ri), device=rows_ri.device)
        if self.norm.training:
            return self.norm.normalized_projection(x_r1i, w_hi, self.bias_h, num_valid)[:, 0]
        scale_h, shift_h = self.norm.fold(x_r1i, w_hi, num_valid)
        return F.linear(rows_ri, scale_h[:, None] * w_hi, self.bias_h + shift_h)


class WindowNetwork(Network):
    """A stack of window layers. Its input and output are padded; in between are rows."""

    def windows(self) -> Iterator[dict[str, int]]:
        """Yield ``kernel``, ``dilation`` and ``stride`` of each layer, as ``WindowLayer`` takes them."""
        raise NotImplementedError

    def add_layers(self, inputs: int) -> int:
        cfg = self.cfg
        self.layers = nn.ModuleList()
        for window in self.windows():
            self.layers.append(WindowLayer(inputs, cfg.hidden, norm=cfg.norm, relu_clip=cfg.relu_clip, **window))
            inputs = cfg.hidden
        return inputs

    def encode(self, x_bsi: Tensor, num_steps_b: Tensor) -> tuple[Tensor, Tensor]:
        rows_ri = x_bsi.flatten(0, 1)[_valid_rows(num_steps_b, x_bsi.shape[1], x_bsi.device)]
        num_b = num_steps_b
        for i, layer in enumerate(self.layers):
            out_rh, num_b = layer(self.dropout(rows_ri), num_b)
            # From the second layer on input and output have one size. What is added is the input without dropout.
            rows_ri = rows_ri + out_rh if self.cfg.residual and i else out_rh

        steps = -(-x_bsi.shape[1] // self.cfg.time_strides[-1])
        out_rh = rows_ri.new_zeros(len(num_b) * steps, self.cfg.hidden)
        out_rh = out_rh.index_copy(0, _valid_rows(num_b, steps, x_bsi.device), rows_ri)
        return out_rh.view(len(num_b), steps, self.cfg.hidden), num_b

    def layer_rows(self) -> Iterator[tuple[str, str, int]]:
        for i, (window, layer) in enumerate(zip(self.windows(), self.layers, strict=True), start=1):
            numbers = "".join(f", {name} {value}" for name, value in window.items())
            shape = f"{self.cfg.hidden} units{numbers}{added(self.cfg, i)}"
            yield f"{self.cfg.encoder} {i}", shape, count(layer)


class TimeDelayNetwork(WindowNetwork):
    """``model.encoder: tdnn``. Kernels and dilations are lists; the last value holds for all layers after it."""

    def windows(self) -> Iterator[dict[str, int]]:
        tdnn = self.cfg.tdnn
        for i in range(self.cfg.layers):
            window = {
                "kernel": tdnn.kernels[min(i, len(tdnn.kernels) - 1)],
                "dilation": tdnn.dilations[min(i, len(tdnn.dilations) - 1)],
            }
            if i == 0 and tdnn.stride > 1:
                window["stride"] = tdnn.stride
            yield window


def _valid_rows(num_b: Tensor, steps: int, device: torch.device) -> Tensor:
    """Return the places of the valid steps in the rows of a padded batch. Shapes: (b,) on the CPU -> (r,)."""
    return to_device(step_mask(num_b, steps).flatten().nonzero()[:, 0], device)


def taps(num_b: Tensor, kernel: int, dilation: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return the rows that each window reads, and the number of windows of each utterance.

    A tap outside its utterance reads the row past the last one. Shapes: (b,) -> (r', k), (b,).

    >>> taps(torch.tensor([3, 1]), kernel=3, dilation=1, stride=2)[0].tolist()
    [[4, 0, 1], [1, 2, 4], [4, 3, 4]]
    """
    num_windows_b = (num_b + stride - 1) // stride
    utterance_r = torch.repeat_interleave(num_windows_b)
    first_window_b = num_windows_b.cumsum(0) - num_windows_b
    first_row_b = num_b.cumsum(0) - num_b

    middle_r = stride * (torch.arange(len(utterance_r), device=num_b.device) - first_window_b[utterance_r])
    at_rk = middle_r[:, None] + dilation * (torch.arange(kernel, device=num_b.device) - kernel // 2)
    inside_rk = (at_rk >= 0) & (at_rk < num_b[utterance_r, None])
    return torch.where(inside_rk, at_rk + first_row_b[utterance_r, None], num_b.sum()), num_windows_b
