"""Weights as the compiled loops of use take them. Nothing here needs numba.

Terms of a sum come in groups of 4 bytes: one float32, or two bf16 (as uint16).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.native import cpu

#: values of a vector: 512 bits
LANES = 16
GRU, LSTM, TANH = 0, 1, 2
Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
#: numbers as products take them: float32, or bf16 as uint16
Stored = npt.NDArray[Any]


class Weights(NamedTuple):
    """A matrix in blocks of 16 columns, with its bias.

    A sum goes over ``runs`` runs of ``groups`` groups of terms; in the input each run is contiguous.
    """

    #: (columns, runs x groups, 16, terms per group), flat
    values: Stored
    #: (16 columns,)
    bias: Floats
    #: blocks of 16 columns, and elements of ``values`` per block
    columns: int
    column: int
    runs: int
    groups: int


class Conv(NamedTuple):
    """A convolution with its norm folded in. A run of its weights is the values under the kernel in one frame."""

    weights: Weights
    kernel_t: int
    kernel_f: int
    stride_t: int
    stride_f: int
    channels_in: int
    channels: int
    bins_in: int
    bins: int
    #: the clipped ReLU is min(max(x, 0), clip)
    clip: np.float32


def features() -> frozenset[str]:
    """List what this processor can do, in LLVM's words."""
    return frozenset(word[1:] for word in cpu()[1].split(",") if word.startswith("+"))


def round_up(number: int, multiple: int) -> int:
    """Return the next multiple at or above a number."""
    return -(-number // multiple) * multiple
