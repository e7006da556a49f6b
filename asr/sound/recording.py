"""Read sound in parts: the samples of any stretch, and the reason if the audio is cut.

A part has the same samples as that stretch of the whole, bit for bit, in every format. (Opus: a decoder that starts
inside the recording converges to the same samples within a second, which is decoded and discarded; the remaining
difference is below 1e-4.) A cut or damaged file gives the samples that it holds, with the reason. Axes: n samples, c
channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from asr.data.manifest import Channel
from asr.errors import DataError
from asr.limits import CHANNELS, RECORDING_S, SAMPLE_RATE_HZ
from asr.sound.decoders import Samples, SoundDecoder

Wave = npt.NDArray[np.float32]
#: durations in manifests and tables are rounded, and a codec's padding moves the end
SLACK_S = 0.02
#: seconds that are decoded, resampled and given at a time
BLOCK_S = 10.0
#: no speech has a lower sample rate: a header with one is damaged
LOWEST_HZ = 1000
#: values in a block of several channels: 10 s of 8 channels at 192 kHz are less
_BLOCK_VALUES = 1 << 24


class Recording:
    """Hold decoded sound that can be read from any place; a context manager.

    ``frames`` is the exact number of samples, or None if it is known only at the end. ``truncated`` is the reason why
    the sound is cut or damaged, as far as it is known so far (empty: whole). ``notes`` describe what was done to read
    it. ``format`` is libsndfile's name of the format, or ``ffmpeg``.

    Args:
        where: its name in errors.
        closing: what ``close`` closes.

    Raises:
        DataError: its rate is none of speech, or it has more channels or hours than any recording.
    """

    def __init__(self, decoder: SoundDecoder, where: str | Path, closing: ExitStack | None = None) -> None:
        if problem := _impossible(decoder):
            raise DataError(f"its header says {problem}; the file is damaged", where)
        self._decoder = decoder
        self._where = where
        self._closing = closing or ExitStack()
        self._at = 0
        self.rate_hz = decoder.rate_hz
        self.channels = decoder.channels
        self.frames = decoder.frames
        self.format = decoder.format
        self.truncated = decoder.truncated
        self.notes = decoder.notes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and end ffmpeg; further calls do nothing."""
        self._closing.close()

    @property
    def damage(self) -> str:
        """Return the reason why a decoder gave up, once it did."""
        return self._decoder.damage

    def skip(self, frame: int) -> int:
        """Go to a frame, counted from the start of the file; return the position: that frame, or the end."""
        self._at = self._decoder.seek(frame) if frame != self._at else frame
        return self._at

    def read(self, frames: int) -> Samples:
        """Return the next frames, fewer only at the end; an early end sets ``truncated``. Shapes: (n, c)."""
        samples = self._decoder.read(frames)
        self._at += len(samples)
        if self._at > RECORDING_S * self.rate_hz:
            raise DataError(f"is longer than {RECORDING_S // 86400} days, the most that is read; cut it", self._where)
        if len(samples) < frames:
            self._note_end()
        return samples

    def _note_end(self) -> None:
        """Set ``truncated`` if the end came too early."""
        self.truncated = self.truncated or self._decoder.damage
        if not self.truncated and self.frames is not None and self._at < self.frames:
            self.truncated = (
                f"truncated: the header promises {self.frames:,} samples, only {self._at:,} could be decoded"
            )

    def measure(self) -> int:
        """Return the number of samples that are there; decode everything if nothing else tells it."""
        if self.frames is not None and self._is_complete(self.frames):
            return self.frames
        self.truncated = ""
        self.skip(0)
        block = self.block()
        while len(self.read(block)) == block:
            pass
        return self._at

    def block(self, seconds: float = BLOCK_S) -> int:
        """Return the frames to read at a time: this many seconds, or fewer if there are very many channels."""
        return max(1, min(round(seconds * self.rate_hz), _BLOCK_VALUES // self.channels))

    def _is_complete(self, frames: int) -> bool:
        """Check whether the last sample is there, where nothing but the header says so."""
        if not self._decoder.promised or not frames:
            return True
        # FLAC counts to the sample. The times in Ogg may go beyond the last sample by a rounding, as a row's may.
        last = frames - 1 if self.format == "FLAC" else max(0, frames - 1 - round(SLACK_S * self.rate_hz))
        return self.skip(last) == last and len(self.read(1)) == 1

    def waves(
        self, start_s: float = 0.0, end_s: float | None = None, *, channel: Channel, whole: bool = False
    ) -> Iterator[Wave]:
        """Yield the samples of a part, in blocks of ``BLOCK_S``. Shapes: (n,).

        Args:
            channel: the channel, counted from 1, or "mix", the average of all.
            whole: raise an error if a cut file lacks some of the part; else yield the samples that are there, and
                ``truncated`` is the reason why some are missing.

        Raises:
            DataError: no samples, samples that are not finite, no such channel, or a part that the file lacks.
        """
        if isinstance(channel, int) and channel > self.channels:
            raise DataError(f"channel {channel} is wanted, the audio has {self.channels}", self._where)
        start, stop = self._span(start_s, end_s, whole)
        if self.skip(start) < start:
            self._note_end()
            self._check_reaches(self._at, start, stop, whole)

        block = self.block()
        slack = round(SLACK_S * self.rate_hz) if start == 0 and self.frames is None else 0
        ended = False
        while not ended and (stop is None or self._at < stop):
            at = self._at
            wanted = block if stop is None else min(block, stop - at)
            samples = self.read(wanted)
            ended = len(samples) < wanted
            if slack and not ended and self._at == stop:
                samples = np.concatenate([samples, self._rest(slack)])
            if len(samples):
                yield self._finite(one_channel(samples, channel), at)

        if ended:
            self._check_reaches(self._at, start, stop, whole)
        if self._at == start:
            raise DataError(self.truncated or "the audio has no samples", self._where)

    def _rest(self, slack: int) -> Samples:
        """Return the samples after the end of the part, if the file ends within the slack of a rounded duration."""
        samples = self.read(slack + 1)
        return samples if len(samples) <= slack else samples[:0]

    def _span(self, start_s: float, end_s: float | None, whole: bool = False) -> tuple[int, int | None]:
        """Return the first and last sample of a part (as in ``waves``); None: to the end, wherever it is.

        Raises:
            DataError: there is no such part, as far as is known so far.
        """
        start = round(start_s * self.rate_hz)
        stop = None if end_s is None else start + round((end_s - start_s) * self.rate_hz)
        if stop == start:
            raise DataError("the part is shorter than a sample", self._where)
        total = self.frames
        if total is None:
            return start, stop

        if not total:
            raise DataError(self.truncated or "the audio has no samples", self._where)
        if stop is None and whole and self.truncated:
            raise DataError(self.truncated, self._where)
        self._check_reaches(total, start, stop, whole)
        if stop is None or stop > total or (start == 0 and total - stop <= SLACK_S * self.rate_hz):
            stop = total  # a duration that was rounded must not cut the last samples
        return start, stop

    def _check_reaches(self, total: int, start: int, stop: int | None, whole: bool) -> None:
        """Check that the part is there; ``total``: the end of the file."""
        start_s, end_s = start / self.rate_hz, total / self.rate_hz
        beyond = stop is not None and stop - total > SLACK_S * self.rate_hz
        starts_beyond = start > 0 and start >= total
        if self.truncated and (starts_beyond or (whole and (beyond or stop is None))):
            raise DataError(self.truncated, self._where)
        if starts_beyond:
            raise DataError(f"the part starts at {start_s:.2f} s, the audio ends at {end_s:.2f} s", self._where)
        if beyond and stop is not None and not self.truncated:
            raise DataError(f"the part ends at {stop / self.rate_hz:.2f} s, the audio at {end_s:.2f} s", self._where)

    def _finite(self, wave_n: Wave, at: int) -> Wave:
        if not np.isfinite(wave_n).all():
            bad = at + int(np.flatnonzero(~np.isfinite(wave_n))[0])
            raise DataError(f"sample {bad:,} is not a finite number; the file is damaged, write it again", self._where)
        return wave_n


def _impossible(decoder: SoundDecoder) -> str:
    """Return what no recording has; empty if it is a possible one."""
    if not LOWEST_HZ <= decoder.rate_hz <= SAMPLE_RATE_HZ:
        return f"{decoder.rate_hz} Hz, which is no rate of speech"
    if not 1 <= decoder.channels <= CHANNELS:
        return f"{decoder.channels:,} channels, expected {CHANNELS:,} or fewer"
    if decoder.frames is not None and decoder.frames > RECORDING_S * decoder.rate_hz:
        days = RECORDING_S // 86400
        return f"{decoder.frames:,} samples at {decoder.rate_hz} Hz, more than {days} days, the most that is read"
    return ""


def one_channel(samples_nc: npt.NDArray[np.float32], channel: Channel) -> Wave:
    """Return one channel, counted from 1, or "mix", the average of all. Shapes: (n, c) -> (n,)."""
    if channel == "mix" and samples_nc.shape[1] > 1:
        mixed: Wave = samples_nc.mean(axis=1, dtype=np.float32)
        return mixed
    return np.ascontiguousarray(samples_nc[:, 0 if channel == "mix" else channel - 1])


def in_blocks(waves: Iterable[Wave], size: int) -> Iterator[Wave]:
    """Yield the samples of all arrays in arrays of one size, the last one shorter."""
    held: list[Wave] = []
    count = 0
    for wave_n in waves:
        held.append(wave_n)
        count += len(wave_n)
        if count >= size:
            all_n = np.concatenate(held)
            whole = count - count % size
            yield from np.split(all_n[:whole], whole // size)
            held = [all_n[whole:]]
            count -= whole
    if count:
        yield np.concatenate(held)
