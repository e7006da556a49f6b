"""Read samples in memory as a recording: arrays of any usual type, scaled to [-1, 1].

Axes: n samples, c channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.errors import DataError
from asr.limits import SAMPLE_RATE_HZ
from asr.sound.decoders import Samples, SoundDecoder
from asr.sound.recording import LOWEST_HZ, Recording

#: floats above this are 16-bit values that were not divided, not loud samples
_LARGEST = 100


def recording_of_array(samples: npt.ArrayLike, sample_rate_hz: int, name: str) -> Recording:
    """Return samples as a recording: (n,) or (n, c); int16, int32, uint8 or float in [-1, 1].

    Raises:
        DataError: empty, not finite, of another type or shape, or at a rate that no speech has.
    """
    array_nc = _checked(samples, name)
    return Recording(_ArrayDecoder(array_nc, check_rate(sample_rate_hz, name)), name)


def live_samples(samples: npt.ArrayLike, name: str = "stream") -> Samples:
    """Return a part of a live stream as float32 in [-1, 1]; it may be empty. Shapes: (n,).

    Raises:
        DataError: not finite, or of another type or shape than ``recording_of_array`` takes.
    """
    if not np.size(samples):
        return np.zeros(0, np.float32)
    array_nc = _checked(samples, name)
    if array_nc.shape[1] > 1:
        raise DataError(f"samples of shape {array_nc.shape}; expected (n,): one channel", name)
    return _scaled(array_nc[:, 0])


def check_rate(rate_hz: Any, name: str = "stream") -> int:
    """Return a sample rate that speech may have.

    Raises:
        DataError: it is none.
    """
    is_number = isinstance(rate_hz, int | float | np.number)
    if not is_number or not LOWEST_HZ <= rate_hz <= SAMPLE_RATE_HZ or rate_hz != int(rate_hz):
        raise DataError(f"a sample rate of {rate_hz} Hz; expected a whole number, at least {LOWEST_HZ}", name)
    return int(rate_hz)


def _scaled(samples: npt.NDArray[Any]) -> Samples:
    """Return samples of any type as float32 in [-1, 1]."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
    middle = full_scale if samples.dtype == np.uint8 else 0.0
    scaled: Samples = ((samples.astype(np.float64) - middle) / full_scale).astype(np.float32)
    return scaled


def _checked(samples: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Return the samples as an array of shape (n, c)."""
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths; tensors on a device
        raise DataError(f"not an array of samples ({error})", name) from error

    shape = array.shape
    if array.ndim not in (1, 2):
        raise DataError(f"samples of shape {shape}; expected (n,) or (n, channels)", name)
    if array.ndim == 2 and shape[1] > shape[0]:
        raise DataError(f"samples of shape {shape}: channels first? expected (n, channels), so give samples.T", name)
    if not array.size:
        raise DataError("the array has no samples", name)

    is_float = array.dtype.kind == "f"
    if not is_float and array.dtype not in (np.int16, np.int32, np.uint8):
        raise DataError(f"samples of type {array.dtype}; expected int16, int32, uint8, or float in [-1, 1]", name)
    peak = max(-float(array.min()), float(array.max()))
    if not math.isfinite(peak):
        raise DataError("the array holds values that are not finite numbers (NaN or infinity)", name)
    if is_float and peak > _LARGEST:
        raise DataError(f"floats up to {peak:g}; expected [-1, 1]: divide 16-bit values by 32768", name)
    return array.reshape(len(array), -1)


class _ArrayDecoder(SoundDecoder):
    """Scale samples in memory, block by block."""

    def __init__(self, array_nc: npt.NDArray[Any], rate_hz: int) -> None:
        self._array_nc = array_nc
        self._at = 0
        self.rate_hz = rate_hz
        self.frames, self.channels = array_nc.shape

    def seek(self, frame: int) -> int:
        self._at = frame
        return frame

    def read(self, frames: int) -> Samples:
        block_nc = self._array_nc[self._at : self._at + frames]
        self._at += len(block_nc)
        return _scaled(block_nc)
