"""Recordings as streams: any format, length and channel count, as blocks of one channel at the wanted rate.

libsndfile reads what it can (WAV, FLAC, NIST SPHERE, MP3, Ogg, AIFF, CAF, …), ffmpeg the rest where it is installed.
Only a few blocks are in memory at a time. Axes: n samples.
"""

from __future__ import annotations

import io
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from asr import audio, manifest, shards
from asr.audio import Wave
from asr.errors import DataError, os_reason
from asr.recordings import ffmpeg
from asr.recordings.inputs import Input, Part, find_inputs

__all__ = ["BLOCK_S", "Input", "Part", "Stream", "find_inputs", "open_array", "open_stream"]

#: what is read, resampled and given at once
BLOCK_S = 10.0
#: as in audio.load: durations in manifests are rounded, and a codec's padding moves the end
_SLACK_S = 0.02
#: of standard input in memory; beyond it a temporary file
_SPOOL_BYTES = 64 << 20
#: no speech is sampled more slowly: a header that says so is damaged
_LOWEST_HZ = 1000

Samples = npt.NDArray[np.float32]


class _Sound(Protocol):
    """Decoded audio as it was recorded. ``frames``: exact or None; ``duration_s``: as its container says, or None."""

    rate_hz: int
    channels: int
    frames: int | None
    duration_s: float | None

    def skip(self, frames: int) -> int:
        """Passes over frames at the start; how many there were."""

    def read(self, frames: int) -> Samples:
        """The next frames, fewer only at the end. Shapes: (n, channels)."""


class Stream:
    """One channel of a recording, or of a part of it, at the wanted rate, block by block. A context manager.

    ``duration_s`` is that of the part; None when it is not known before the end; from a container that ffmpeg reads
    good to about 0.1 s; exact once all blocks were read. ``notes`` say in words what is done to the audio.
    """

    def __init__(
        self, sound: _Sound, rate_hz: int, part: Part, name: str, where: str | Path, closing: ExitStack
    ) -> None:
        self.name, self.rate_hz = name, rate_hz
        self._sound, self._where, self._closing = sound, where, closing
        self._channel = part.channel
        self._read = False
        from_hz, channels = sound.rate_hz, sound.channels
        if from_hz < _LOWEST_HZ:
            raise DataError(f"its header says {from_hz} Hz, which is no rate of speech; the file is damaged", where)
        if part.channel is not None and part.channel > channels:
            raise DataError(f"channel {part.channel} is wanted, the audio has {channels}", where)
        self._start, self._stop = self._bounds(part)
        self.duration_s = self._expected_s()
        notes = ["decoded by ffmpeg"] if isinstance(sound, ffmpeg.Decoder) else []
        if channels > 1:
            notes.append(
                f"{channels} channels mixed down" if part.channel is None else f"channel {part.channel} of {channels}"
            )
        if from_hz != rate_hz:
            notes.append(f"resampled from {from_hz} to {rate_hz} Hz")
        self.notes = tuple(notes)

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

        Raises:
            DataError: the audio is damaged or cut, holds values that are not numbers, or ends before the part does.
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

    def _bounds(self, part: Part) -> tuple[int, int | None]:
        """First and last sample of the part, at the recording's rate; None: to the end, wherever it is."""
        from_hz, total = self._sound.rate_hz, self._sound.frames
        start = round(part.start_s * from_hz)
        stop = None if part.end_s is None else start + round((part.end_s - part.start_s) * from_hz)
        if stop == start:
            raise DataError("the part is shorter than a sample", self._where)
        if total is None:
            return start, stop
        if not total:
            raise DataError("the audio has no samples", self._where)
        self._check_reaches(total, start, stop)
        if stop is None or stop > total or (start == 0 and total - stop <= _SLACK_S * from_hz):
            stop = total  # a duration that was rounded must not cut the last samples, here as in training
        return start, stop

    def _check_reaches(self, total: int, start: int, stop: int | None) -> None:
        from_hz = self._sound.rate_hz
        if start and start >= total:
            raise DataError(
                f"the part starts at {start / from_hz:.2f} s, the audio ends at {total / from_hz:.2f} s", self._where
            )
        if stop is not None and stop - total > _SLACK_S * from_hz:
            raise DataError(
                f"the part ends at {stop / from_hz:.2f} s, the audio at {total / from_hz:.2f} s", self._where
            )

    def _expected_s(self) -> float | None:
        from_hz = self._sound.rate_hz
        if self._stop is not None:
            return (self._stop - self._start) / from_hz
        if self._sound.duration_s is not None:
            return max(0.0, self._sound.duration_s - self._start / from_hz)
        return None

    def _mono(self) -> Iterator[Wave]:
        """The part's samples of one channel, at the recording's rate."""
        from_hz = self._sound.rate_hz
        at = self._sound.skip(self._start) if self._start else 0
        if at < self._start:
            self._check_reaches(at, self._start, self._stop)
        ended = False
        while not ended and (self._stop is None or at < self._stop):
            wanted = round(BLOCK_S * from_hz)
            wanted = wanted if self._stop is None else min(wanted, self._stop - at)
            samples = self._sound.read(wanted)
            ended = len(samples) < wanted
            wave: Wave = (
                np.ascontiguousarray(samples[:, (self._channel or 1) - 1])
                if self._channel or self._sound.channels == 1
                else samples.mean(axis=1, dtype=np.float32)
            )
            if not np.isfinite(wave).all():
                bad = at + int(np.flatnonzero(~np.isfinite(wave))[0])
                raise DataError(
                    f"sample {bad:,} is not a finite number; the file is damaged, write it again", self._where
                )
            at += len(wave)
            if len(wave):
                yield wave
        if ended and self._sound.frames is not None:
            raise DataError(
                f"truncated: the header promises {self._sound.frames:,} samples, only {at:,} could be decoded",
                self._where,
            )
        if ended:
            self._check_reaches(at, self._start, self._stop)

    def _resampled(self) -> Iterator[Wave]:
        if self._sound.rate_hz == self.rate_hz:
            yield from self._mono()
            return
        import soxr

        # The quality of audio.resampled; the samples are the same as those of the whole in one go.
        resampler = soxr.ResampleStream(self._sound.rate_hz, self.rate_hz, 1, dtype="float32", quality="HQ")
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
        sound = _open_sound(content, where, closing)
        return Stream(sound, rate_hz, part, name or str(where), where, closing.pop_all())
    raise AssertionError


def open_array(
    samples: npt.ArrayLike, sample_rate_hz: int, rate_hz: int, part: Part = Part(), name: str = "array"
) -> Stream:
    """Samples in memory as a stream: (n,) or (n, channels); int16, int32, uint8 or float in [-1, 1].

    Raises:
        DataError: empty, not finite, of another type or shape, or without that part.
    """
    _check(part, name)
    return Stream(_Array(samples, sample_rate_hz, name), rate_hz, part, name, name, ExitStack())


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


def _open_sound(content: Path | bytes, where: str | Path, closing: ExitStack) -> _Sound:
    suffix = Path(where).suffix.lower()
    if isinstance(content, Path):
        audio._check_present(content)
        try:
            shards.open_bytes(content).close()
        except OSError as error:
            raise DataError(f"cannot read the audio: {os_reason(error)}", where) from error
    elif not content:
        raise DataError("is empty (0 bytes)", where)
    program = ffmpeg.available()
    why = ""
    if program is None or suffix not in ffmpeg.SUFFIXES:
        soundfile = audio._soundfile()
        try:
            return _Sndfile(content, where, closing)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name in .raw, which states no rate
            why = audio._reason(error)
    if program is None and suffix in ffmpeg.SUFFIXES:
        raise DataError(f"{suffix} is read through ffmpeg, which is not on the PATH; {ffmpeg.INSTALL}", where)
    if program is None:
        readable = "WAV, FLAC, SPHERE, MP3 and Ogg are, most others where ffmpeg is installed (it is not)"
        raise DataError(f"not audio that can be read ({why}); {readable}", where)
    if isinstance(content, Path) and shards.is_member(content):
        with shards.open_bytes(content) as file:
            content = file.read()
    if isinstance(content, bytes):
        path = _temporary(closing)
        path.write_bytes(content)
        content = path
    decoder = ffmpeg.Decoder(program, content, where)
    closing.callback(decoder.close)
    return decoder


class _Sndfile:
    """What libsndfile reads."""

    duration_s: float | None = None

    def __init__(self, content: Path | bytes, where: str | Path, closing: ExitStack) -> None:
        self._where = where
        if isinstance(content, bytes):
            raw: BinaryIO = io.BytesIO(content)
            size = len(content)
        else:
            raw, size = closing.enter_context(shards.open_bytes(content)), shards.num_bytes(content)
        source: Any
        if (head := _head_with_size(raw, size)) is not None:
            source = _Headed(raw, head)
        else:
            source = closing.enter_context(audio.opened(content)) if isinstance(content, Path) else io.BytesIO(content)
        self._file: Any = closing.enter_context(audio._soundfile().SoundFile(source))
        if head is None:
            raw.seek(0)
            audio.check_whole(raw, size, Path(where))
        self.rate_hz, self.channels = int(self._file.samplerate), int(self._file.channels)
        self.frames: int | None = int(self._file.frames) if audio.knows_end(self._file) else None

    def skip(self, frames: int) -> int:
        soundfile = audio._soundfile()
        if self.frames is None:
            return ffmpeg.pass_over(self.read, frames, round(BLOCK_S * self.rate_hz))
        try:
            return int(self._file.seek(frames))
        except soundfile.SoundFileError as error:
            raise self._damaged(error) from error

    def read(self, frames: int) -> Samples:
        soundfile = audio._soundfile()
        try:
            samples: Samples = self._file.read(frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise self._damaged(error) from error
        return samples

    def _damaged(self, error: Exception) -> DataError:
        return DataError(audio._damaged(error), self._where)


def _head_with_size(file: BinaryIO, num_bytes: int) -> bytes | None:
    """What a WAV should begin with whose data were said to have 0 bytes, since it was not known yet, and go on to its
    end: written to a pipe, or by a recorder that was killed. None: it is no such file."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    start, promised = audio._wav_data(file)
    if promised or start >= num_bytes:
        return None
    file.seek(start)
    name, size = file.read(4), int.from_bytes(file.read(4), "little")
    if name.isalnum() and start + 8 + size + size % 2 == num_bytes:
        return None  # no samples indeed, and a chunk that says who made it
    file.seek(0)
    head, unknown = file.read(start), b"\xff" * 4
    return b"RIFF" + unknown + head[8 : start - 4] + unknown


class _Headed(io.RawIOBase):
    """A file with other first bytes."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file, self._head = file, head
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()
        content = self._file.read(len(buffer))
        own = self._head[at : at + len(content)]
        buffer[: len(content)] = own + content[len(own) :]
        return len(content)


class _Array:
    """Samples in memory, scaled block by block."""

    duration_s: float | None = None

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
        if not isinstance(rate, int | float | np.number) or not _LOWEST_HZ <= rate < math.inf or rate != int(rate):
            raise DataError(
                f"a sample rate of {sample_rate_hz} Hz; expected a whole number, at least {_LOWEST_HZ}", name
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

    def skip(self, frames: int) -> int:
        self._at = frames
        return frames

    def read(self, frames: int) -> Samples:
        block = self._array[self._at : self._at + frames]
        self._at += len(block)
        if block.dtype.kind == "f":
            return block.astype(np.float32)
        full_scale = {1: 128.0, 2: 32768.0, 4: 2147483648.0}[block.dtype.itemsize]
        middle = 128.0 if block.dtype == np.uint8 else 0.0
        scaled: Samples = ((block.astype(np.float64) - middle) / full_scale).astype(np.float32)
        return scaled
