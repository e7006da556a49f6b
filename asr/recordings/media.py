"""Give recordings as streams: any format, length and channel count, as blocks of one channel at the wanted rate.

``asr.sound.reader`` reads files; samples in memory come in here too. Only a few blocks are in memory at a time.
Axes: n samples.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from asr.errors import DataError, os_reason
from asr.files import BLOCK
from asr.limits import PIPED_AUDIO, TEMPORARY_SPARE
from asr.recordings.arrays import recording_of_array
from asr.recordings.inputs import Part
from asr.sound.reader import open_recording, temporary_file
from asr.sound.recording import BLOCK_S, Recording, Wave, in_blocks

#: of standard input in memory; beyond it a temporary file
_SPOOL_BYTES = 64 << 20


class Stream:
    """Give one channel of a recording, or of a part of it, at the wanted rate, block by block; a context manager.

    ``duration_s`` is that of the part, known once all blocks were read. ``notes`` describe what is done to the audio.
    """

    def __init__(self, recording: Recording, rate_hz: int, part: Part, where: str | Path) -> None:
        self.rate_hz = rate_hz
        self._recording = recording
        self._part = part
        self._where = where
        self.duration_s = 0.0
        self.notes = recording.notes
        channels = recording.channels
        if channels > 1 and part.channel is None:
            self.notes += (f"{channels} channels mixed down",)
        elif channels > 1:
            self.notes += (f"channel {part.channel} of {channels}",)
        if recording.rate_hz != rate_hz:
            self.notes += (f"resampled from {recording.rate_hz} to {rate_hz} Hz",)

    @property
    def truncated(self) -> str:
        """Return why the audio is cut or damaged, if some of the part is missing; known once all blocks were read."""
        return self._recording.truncated

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, end ffmpeg, and remove temporary files; further calls do nothing."""
        self._recording.close()

    def blocks(self) -> Iterator[Wave]:
        """Yield the samples in blocks of ``BLOCK_S`` seconds, the last one shorter. Shapes: (n,) float32.

        Of audio that is cut or damaged, the samples that are there are given, and ``truncated`` says what is missing.

        Raises:
            DataError: there are no samples, values that are not numbers, or the audio ends before the part does.
        """
        num_samples = 0
        for wave_n in self._waves():
            num_samples += len(wave_n)
            yield wave_n
        if not num_samples:
            raise DataError("the audio has no samples", self._where)
        self.duration_s = num_samples / self.rate_hz

    def _waves(self) -> Iterator[Wave]:
        part = self._part
        waves = self._recording.waves(part.start_s, part.end_s, channel=part.channel or "mix")
        if self._recording.rate_hz == self.rate_hz:
            return waves
        resampled = _resampled(waves, self._recording.rate_hz, self.rate_hz)
        return in_blocks(resampled, round(BLOCK_S * self.rate_hz))


def _resampled(waves: Iterator[Wave], from_hz: int, to_hz: int) -> Iterator[Wave]:
    """Yield samples at another rate: the same, at the same quality, as ``audio.resampled`` gives of the whole."""
    import soxr

    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    for wave_n in waves:
        yield resampler.resample_chunk(wave_n)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def open_stream(
    source: str | Path | bytes | None, rate_hz: int, part: Part = Part(), name: str = "", *, pipes: bool = True
) -> Stream:
    """Open a recording: a file, the content of a file, or standard input (None).

    >>> with open_stream("talk.mp3", 16000, Part(channel=1, start_s=60)) as stream:     # doctest: +SKIP
    ...     for wave_n in stream.blocks():
    ...         print(len(wave_n))

    Args:
        name: of content or standard input, in errors.
        pipes: read a named pipe to its end; otherwise it is refused.

    Raises:
        DataError: missing, empty, not audio, cut, without sound, or without that part; the file is named.
    """
    where: str | Path = name or ("stdin" if source is None else "bytes")
    if isinstance(source, str | Path):
        source = where = Path(source)
    closing = ExitStack()
    try:
        content = source if isinstance(source, bytes) else _seekable(source, where, closing, pipes)
        return Stream(open_recording(content, where, closing), rate_hz, part, where)
    except BaseException:
        closing.close()
        raise


def open_array(
    samples: npt.ArrayLike, sample_rate_hz: int, rate_hz: int, part: Part = Part(), name: str = "array"
) -> Stream:
    """Give samples in memory as a stream: (n,) or (n, channels); int16, int32, uint8 or float in [-1, 1].

    Raises:
        DataError: empty, not finite, of another type or shape, or without that part.
    """
    return Stream(recording_of_array(samples, sample_rate_hz, name), rate_hz, part, name)


def _seekable(path: Path | None, where: str | Path, closing: ExitStack, pipes: bool) -> Path | bytes:
    """Return what can be read from any place: the file itself; all that comes out of a pipe or of standard input."""
    if path is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise DataError("no audio comes in: pipe a file into it (… < a.wav)", where)
        return _spooled(sys.stdin.buffer, where, closing)

    try:
        if not pipes or not path.is_fifo():
            return path
        with path.open("rb") as pipe:
            return _spooled(pipe, where, closing)
    except OSError as error:  # no permission to look; a name that is too long
        raise DataError(f"cannot read the audio: {os_reason(error)}", where) from error


def _spooled(pipe: BinaryIO, where: str | Path, closing: ExitStack) -> Path | bytes:
    """Return all that comes out of a pipe: in memory, or as a temporary file."""
    try:
        content = pipe.read(_SPOOL_BYTES)
        if len(content) < _SPOOL_BYTES:
            return content
        path = temporary_file(closing)
        with path.open("wb") as file:
            while content:
                file.write(content)
                if file.tell() > PIPED_AUDIO:
                    limit = f"more than {PIPED_AUDIO >> 30} GiB from a pipe, which is days of audio"
                    raise DataError(f"{limit}; write it to a file, and give that", where)
                if shutil.disk_usage(path.parent).free < TEMPORARY_SPARE:
                    remedy = "make room, or set TMPDIR to a folder on another disk"
                    raise DataError(f"the disk of {path.parent} is nearly full; {remedy}", where)
                content = pipe.read(BLOCK)
        return path
    except OSError as error:
        raise DataError(f"cannot be read to its end: {os_reason(error)}", where) from error
