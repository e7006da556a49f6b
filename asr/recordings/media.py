"""Recordings as streams: any format, length and channel count, as blocks of one channel at the wanted rate.

``asr.sound.reader`` reads files; samples in memory come in here too. Only a few blocks are in memory at a time.
Axes: n samples.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from asr.data import manifest
from asr.errors import DataError, os_reason
from asr.recordings.inputs import Input, Part, find_inputs
from asr.sound.reader import LOWEST_HZ, Reader, Recording, Wave

__all__ = ["BLOCK_S", "Input", "Part", "Stream", "find_inputs", "open_array", "open_stream"]

#: what is read, resampled and given at once
BLOCK_S = 10.0
#: of standard input in memory; beyond it a temporary file
_SPOOL_BYTES = 64 << 20


class Stream:
    """One channel of a recording, or of a part of it, at the wanted rate, block by block. A context manager.

    ``duration_s`` is that of the part; None when it is not known before the end; from a container that ffmpeg reads
    good to about 0.1 s; exact once all blocks were read. ``notes`` say in words what is done to the audio.
    """

    def __init__(
        self, recording: Recording, rate_hz: int, part: Part, name: str, where: str | Path, closing: ExitStack
    ) -> None:
        self.name, self.rate_hz = name, rate_hz
        self._recording, self._part, self._where, self._closing = recording, part, where, closing
        self._read = False
        from_hz, channels = recording.rate_hz, recording.channels
        if part.channel is not None and part.channel > channels:
            raise DataError(f"channel {part.channel} is wanted, the audio has {channels}", where)
        self.duration_s = self._expected_s()
        notes = list(recording.notes)
        if channels > 1:
            notes.append(
                f"{channels} channels mixed down" if part.channel is None else f"channel {part.channel} of {channels}"
            )
        if from_hz != rate_hz:
            notes.append(f"resampled from {from_hz} to {rate_hz} Hz")
        self.notes = tuple(notes)

    @property
    def truncated(self) -> str:
        """Why the audio is cut or damaged, so that not all of the part is there; known when all blocks were read."""
        return self._recording.truncated

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, ends ffmpeg, removes what was spooled. Again: does nothing."""
        self._closing.close()

    def blocks(self) -> Iterator[Wave]:
        """The samples, ``BLOCK_S`` seconds at a time, the last ones fewer; once.

        Shapes: (n,) float32.

        Of audio that is cut or damaged it gives what there is; ``truncated`` then says why that is not all.

        Raises:
            DataError: there are no samples, values that are not numbers, or the audio ends before the part does.
        """
        if self._read:
            raise ValueError("the blocks of a stream can be read once; open it again")
        self._read = True
        num_samples = 0
        for wave_n in self._resampled():
            num_samples += len(wave_n)
            yield wave_n
        if not num_samples:
            raise DataError("the audio has no samples", self._where)
        self.duration_s = num_samples / self.rate_hz

    def _expected_s(self) -> float | None:
        from_hz = self._recording.rate_hz
        start, stop = self._recording.span(self._part.start_s, self._part.end_s)
        if stop is not None:
            return (stop - start) / from_hz
        if self._recording.duration_s is not None:
            return max(0.0, self._recording.duration_s - start / from_hz)
        return None

    def _mono(self) -> Iterator[Wave]:
        """The part's samples of one channel, at the recording's rate."""
        part = self._part
        return self._recording.waves(part.start_s, part.end_s, channel=part.channel or "mix", block_s=BLOCK_S)

    def _resampled(self) -> Iterator[Wave]:
        if self._recording.rate_hz == self.rate_hz:
            yield from self._mono()
            return
        import soxr

        # The quality of audio.resampled; the samples are the same as those of the whole in one go.
        resampler = soxr.ResampleStream(self._recording.rate_hz, self.rate_hz, 1, dtype="float32", quality="HQ")
        size = round(BLOCK_S * self.rate_hz)
        ready: Wave = np.zeros(0, np.float32)
        for wave_n in self._mono():
            ready = np.concatenate([ready, resampler.resample_chunk(wave_n)])
            while len(ready) >= size:
                yield ready[:size]
                ready = ready[size:]
        ready = np.concatenate([ready, resampler.resample_chunk(np.zeros(0, np.float32), last=True)])
        for start in range(0, len(ready), size):
            yield ready[start : start + size]


def open_stream(source: str | Path | bytes | None, rate_hz: int, part: Part = Part(), name: str = "") -> Stream:
    """A recording, ready to be read: a file, the content of a file, or standard input (None).

    >>> with open_stream("talk.mp3", 16000, Part(channel=1, start_s=60)) as stream:     # doctest: +SKIP
    ...     for wave_n in stream.blocks():
    ...         print(len(wave_n))

    Raises:
        DataError: missing, empty, not audio, cut, without sound, or without that part; the file is named.
    """
    where: str | Path = (
        Path(source) if isinstance(source, str | Path) else name or ("stdin" if source is None else "bytes")
    )
    _check(part, where)
    with ExitStack() as closing:
        content: Path | bytes
        if isinstance(source, bytes):
            content = source
        elif source is None:
            content = _spooled(_standard_input(where), where, closing)
        else:
            content = Path(source)
            try:
                if content.is_fifo():
                    with content.open("rb") as pipe:
                        content = _spooled(pipe, where, closing)
            except OSError as error:  # no permission to look; a name that is too long
                raise DataError(f"cannot read the audio: {os_reason(error)}", where) from error
        reader = closing.enter_context(Reader(content, where))
        return Stream(reader, rate_hz, part, name or str(where), where, closing.pop_all())
    raise AssertionError


def open_array(
    samples: npt.ArrayLike, sample_rate_hz: int, rate_hz: int, part: Part = Part(), name: str = "array"
) -> Stream:
    """Samples in memory as a stream: (n,) or (n, channels); int16, int32, uint8 or float in [-1, 1].

    Raises:
        DataError: empty, not finite, of another type or shape, or without that part.
    """
    _check(part, name)
    recording = Recording(_Array(samples, sample_rate_hz, name), name)
    return Stream(recording, rate_hz, part, name, name, ExitStack())


def _check(part: Part, where: str | Path) -> None:
    if part.channel is not None and part.channel < 1:
        raise DataError(f"channel {part.channel} is wanted; channels count from 1", where)
    end_s = math.inf if part.end_s is None else part.end_s
    if not 0 <= part.start_s < math.inf or math.isnan(end_s):
        raise DataError(
            f"a part from {part.start_s:g} to {end_s:g} s; seconds from the start of the file are wanted", where
        )
    if max(part.start_s, end_s if part.end_s is not None else 0.0) > manifest.LONGEST_S:
        raise DataError(f"a part from {part.start_s:g} to {end_s:g} s: no recording is so long", where)
    if end_s <= part.start_s:
        raise DataError(f"the part would end at {end_s:g} s, not after its start at {part.start_s:g} s", where)
    if math.isinf(end_s) and part.end_s is not None:
        raise DataError("the part's end is infinite; leave it away for the end of the file", where)


def _standard_input(where: str | Path) -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError("no audio comes in: pipe a file into it (… < a.wav)", where)
    return sys.stdin.buffer


def _spooled(pipe: BinaryIO, where: str | Path, closing: ExitStack) -> Path | bytes:
    """All that comes out of a pipe, so that it can be read from any place: in memory, or as a temporary file."""
    try:
        content = pipe.read(_SPOOL_BYTES)
        if len(content) < _SPOOL_BYTES:
            return content
        path = _temporary(closing)
        with path.open("wb") as file:
            while content:
                file.write(content)
                content = pipe.read(1 << 20)
        return path
    except OSError as error:
        raise DataError(f"cannot be read to its end: {os_reason(error)}", where) from error


def _temporary(closing: ExitStack) -> Path:
    handle, path = tempfile.mkstemp(prefix="asr-")
    os.close(handle)
    closing.callback(Path(path).unlink, missing_ok=True)
    return Path(path)


class _Array:
    """Samples in memory, scaled block by block."""

    duration_s: float | None = None
    damage = ""

    def __init__(self, samples: npt.ArrayLike, sample_rate_hz: int, name: str) -> None:
        try:
            array = np.asarray(samples)
        except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths; tensors on a device
            raise DataError(f"not an array of samples ({error})", name) from error
        if array.ndim not in (1, 2):
            raise DataError(f"samples of shape {array.shape}; expected (n,) or (n, channels)", name)
        if array.ndim == 2 and array.shape[1] > array.shape[0]:
            raise DataError(
                f"samples of shape {array.shape}: channels first? expected (n, channels), so give samples.T", name
            )
        if not array.size:
            raise DataError("the array has no samples", name)
        if array.dtype.kind != "f" and array.dtype not in (np.int16, np.int32, np.uint8):
            raise DataError(f"samples of type {array.dtype}; expected int16, int32, uint8, or float in [-1, 1]", name)
        rate: Any = sample_rate_hz
        if not isinstance(rate, int | float | np.number) or not LOWEST_HZ <= rate < math.inf or rate != int(rate):
            raise DataError(
                f"a sample rate of {sample_rate_hz} Hz; expected a whole number, at least {LOWEST_HZ}", name
            )
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError("the array holds values that are not finite numbers (NaN or infinity)", name)
        if array.dtype.kind == "f" and max(-low, high) > 100:
            raise DataError(f"floats up to {max(-low, high):g}; expected [-1, 1]: divide 16-bit values by 32768", name)
        self._array = array if array.ndim == 2 else array[:, None]
        self._at = 0
        self.rate_hz, self.channels = int(sample_rate_hz), self._array.shape[1]
        self.frames: int | None = len(self._array)

    def seek(self, frame: int) -> int:
        self._at = frame
        return frame

    def read(self, frames: int) -> npt.NDArray[np.float32]:
        block = self._array[self._at : self._at + frames]
        self._at += len(block)
        if block.dtype.kind == "f":
            return block.astype(np.float32)
        full_scale = {1: 128.0, 2: 32768.0, 4: 2147483648.0}[block.dtype.itemsize]
        middle = 128.0 if block.dtype == np.uint8 else 0.0
        scaled: npt.NDArray[np.float32] = ((block.astype(np.float64) - middle) / full_scale).astype(np.float32)
        return scaled
