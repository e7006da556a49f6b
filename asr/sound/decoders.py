"""Decode sound: one stream through libsndfile, MP3 frame by frame, several streams in a row.

All read without seeking: python-soundfile seeks after every read, and in MP3 a seek loses the bits that a frame borrows
from those before it.
Axes: n samples, c channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from asr.sound.mpeg import Frames
from asr.sound.quiet import quiet_decoder
from asr.sound.splice import Spliced, reader_at

Samples = npt.NDArray[np.float32]
#: returns a name or an open file for soundfile to open; called again to start over
Open = Callable[[], Any]
#: more samples than any file has: for an unknown number (FLAC from a pipe) libsndfile returns 2 ** 63 - 1
_UNKNOWN = 1 << 60
#: samples per read: of sound to be skipped; near the place where a decoder gives up, as one read may lose this many
_BLOCK, _SMALL = 1 << 16, 256


class SoundDecoder(ABC):
    """Give decoded audio as it was recorded.

    ``frames``: the exact number of samples, or None. ``promised``: only the header says it, which may be wrong.
    ``truncated``: the reason why the file is cut, as far as its headers show it; ``damage``: the reason why the audio
    ended too early. ``notes`` describe what was done to read the file.
    """

    rate_hz: int
    channels: int
    frames: int | None
    promised = False
    format = ""
    truncated = ""
    damage = ""
    notes: tuple[str, ...] = ()

    @abstractmethod
    def seek(self, frame: int) -> int:
        """Go to that sample, and return the position: that sample, or the end."""

    @abstractmethod
    def read(self, frames: int) -> Samples:
        """Return the next samples, fewer only at the end. Shapes: (n, c)."""

    def close(self) -> None:  # noqa: B027 (some decoders have nothing to close)
        """Close what the decoder holds open."""


@cache
def _straight() -> Any:
    """Return python-soundfile's class with seeking disabled, so that it does not seek after each read."""
    import soundfile  # 0.1 s: only when audio is really read

    class Straight(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]  # soundfile may have no types
        def seekable(self) -> bool:
            return False

    return Straight


def reason_of(error: Exception) -> str:
    """Return libsndfile's message without its prefixes."""
    text = str(getattr(error, "error_string", None) or error)
    return " ".join(text.removeprefix("Error : ").split()).rstrip(".")


def pass_over(read: Callable[[int], Samples], frames: int, block: int = _BLOCK) -> int:
    """Read this many frames, a block at a time, discard them, and return how many there were."""
    left = frames
    while left and (got := len(read(min(left, block)))):
        left -= got
    return frames - left


class Sndfile(SoundDecoder):
    """Decode the files that libsndfile reads.

    Args:
        run_in_s: seconds that are decoded before the target of a seek and discarded.
        compared: the sizes in the header agree with that of the file, and so does the number of samples.

    Raises:
        SoundFileError, TypeError: the file is not audio (``errors``).
    """

    _file: Any = None
    _source: Any = None
    _at = 0
    _ended = False

    def __init__(self, opener: Open, run_in_s: float = 0.0, compared: bool = False) -> None:
        self._opener = opener
        self._reopen()
        self.rate_hz = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.format = str(self._file.format)
        self.frames = int(self._file.frames) if self._file.frames < _UNKNOWN else None
        # A compressed sound can be of any length for its size.
        self.promised = not compared or "ALAC" in str(self._file.subtype)
        self._run_in = round(run_in_s * self.rate_hz)
        self._seekable = self.frames is not None

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        """Return the errors of opening: python-soundfile's, and TypeError for a name in .raw, which states no rate."""
        import soundfile

        return soundfile.SoundFileError, TypeError

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if hasattr(self._source, "close"):
            self._source.close()

    def seek(self, frame: int) -> int:
        if self._ended or (frame < self._at and not self._seekable):
            self._reopen()  # a decoder that met damage may not come back from it
        if self._seekable and frame != self._at:
            start = max(0, frame - self._run_in)
            try:
                if self._file.seek(start) == start and pass_over(self._decoded, frame - start) == frame - start:
                    self._at = frame
                    return frame
            except self.errors():
                pass
            self._seekable = False  # the codec or the file cannot seek; its samples may be whole all the same
            self._reopen()

        pass_over(self.read, frame - self._at)
        return self._at

    def read(self, frames: int) -> Samples:
        if self.damage:
            return np.zeros((0, self.channels), np.float32)
        try:
            samples = self._decoded(frames)
        except self.errors() as error:
            samples = self._up_to_damage(frames)
            self.damage = f"truncated or damaged: cannot be decoded ({reason_of(error)}); fetch it again"
        self._at += len(samples)
        self._ended = len(samples) < frames
        return samples

    def _decoded(self, frames: int) -> Samples:
        samples: Samples = self._file.read(frames, dtype="float32", always_2d=True)
        return samples

    def _up_to_damage(self, frames: int) -> Samples:
        """Decode again the samples before the place where the decoder gave up, as it lost them."""
        parts = [np.zeros((0, self.channels), np.float32)]
        at = self._at
        self._reopen()
        try:
            if pass_over(self._decoded, at, _SMALL) == at:
                while frames and len(samples := self._decoded(min(frames, _SMALL))):
                    parts.append(samples)
                    frames -= len(samples)
        except self.errors():
            pass
        self._at = at
        return np.concatenate(parts)

    def _reopen(self) -> None:
        self.close()
        self._at = 0
        self._ended = False
        self.damage = ""
        self._source = self._opener()
        self._file = _straight()(self._source)


class MpegDecoder(SoundDecoder):
    """Decode the frames of an MP3 file, all of one format.

    Args:
        file: the file that has the frames.
    """

    format = "MP3"

    def __init__(self, frames: Frames, file: BinaryIO) -> None:
        self._frames = frames
        self._source = file
        self._decoder: Sndfile | None = None
        self._at = 0
        self.rate_hz = frames.format.rate_hz
        self.channels = frames.format.channels
        self.frames: int = frames.num_samples

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None

    def seek(self, frame: int) -> int:
        self._at = min(frame, self.frames)
        self.close()
        return self._at

    def read(self, frames: int) -> Samples:
        try:
            with quiet_decoder():
                decoder = self._decoder = self._decoder or self._opened()
                samples = decoder.read(min(frames, self.frames - self._at))
        except Sndfile.errors():  # frames by their headers, and nothing in them
            self.damage = "truncated or damaged: its MP3 frames cannot be decoded; fetch it again"
            return np.zeros((0, self.channels), np.float32)
        self._at += len(samples)
        self.damage = decoder.damage
        return samples

    def _opened(self) -> Sndfile:
        """Return the decoder, placed before the next sample that is wanted."""
        sample = self._at + self._frames.lead
        first = self._frames.first_for(sample)
        # libsndfile computes a length from the size of the file and its first frame, and reads no further.
        claimed = 4096 + len(self._frames.sizes) * int(self._frames.sizes.max())
        parts = self._frames.parts(self._source, first)
        decoder = Sndfile(lambda: Spliced(reader_at(self._source), parts, claimed))
        pass_over(decoder.read, sample - first * self._frames.format.samples)
        return decoder


class Chain(SoundDecoder):
    """Decode several streams in a row, at the rate and with the channels of the first."""

    def __init__(self, decoders: Sequence[SoundDecoder]) -> None:
        first = decoders[0]
        self.rate_hz = first.rate_hz
        self.channels = first.channels
        self.format = first.format
        self._decoders = [
            decoder if (decoder.rate_hz, decoder.channels) == (self.rate_hz, self.channels) else _Fitted(decoder, first)
            for decoder in decoders
        ]
        lengths = [decoder.frames for decoder in self._decoders]
        self.frames = None if None in lengths else sum(length or 0 for length in lengths)
        self.promised = any(decoder.promised for decoder in decoders)
        self._i = 0

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.close()

    def seek(self, frame: int) -> int:
        start = 0
        self._i = 0
        self.damage = ""
        while self._i < len(self._decoders) - 1:
            length = self._decoders[self._i].frames
            if length is None or frame < start + length:
                break
            start += length
            self._i += 1

        for later in self._decoders[self._i + 1 :]:
            later.seek(0)
        return start + self._decoders[self._i].seek(frame - start)

    def read(self, frames: int) -> Samples:
        parts = []
        while True:
            decoder = self._decoders[self._i]
            parts.append(decoder.read(frames))
            frames -= len(parts[-1])
            self.damage = self.damage or decoder.damage
            if not frames or self._i == len(self._decoders) - 1:
                return parts[0] if len(parts) == 1 else np.concatenate(parts)
            self._i += 1


class _Fitted(SoundDecoder):
    """Convert a stream to the rate and channels of another one."""

    def __init__(self, decoder: SoundDecoder, like: SoundDecoder) -> None:
        self._decoder = decoder
        self.rate_hz = like.rate_hz
        self.channels = like.channels
        total = decoder.frames
        self.frames = None if total is None else round(total * self.rate_hz / decoder.rate_hz)
        self.seek(0)

    def close(self) -> None:
        self._decoder.close()

    def seek(self, frame: int) -> int:
        import soxr

        self._decoder.seek(0)
        self._resampler = soxr.ResampleStream(
            self._decoder.rate_hz, self.rate_hz, self.channels, dtype="float32", quality="HQ"
        )
        self._ready = np.zeros((0, self.channels), np.float32)
        self._ended = False
        self._at = 0
        return pass_over(self.read, frame)

    def read(self, frames: int) -> Samples:
        if self.frames is not None:
            frames = min(frames, self.frames - self._at)
        parts = [self._ready]
        held = len(self._ready)
        while held < frames and not self._ended:
            samples = self._decoder.read(_BLOCK)
            self._ended = len(samples) < _BLOCK
            self.damage = self._decoder.damage
            parts.append(self._resampler.resample_chunk(self._with_channels(samples), last=self._ended))
            held += len(parts[-1])

        all_nc = np.concatenate(parts)
        out = all_nc[:frames]
        self._ready = all_nc[frames:]
        if self._ended and not self.damage and self.frames is not None and len(out) < frames:
            out = np.pad(out, ((0, frames - len(out)), (0, 0)))  # the resampler's own rounding of the length
        self._at += len(out)
        return out

    def _with_channels(self, samples: Samples) -> Samples:
        if samples.shape[1] == self.channels:
            return samples
        mixed = samples.mean(axis=1, dtype=np.float32, keepdims=True)
        return np.ascontiguousarray(np.broadcast_to(mixed, (len(mixed), self.channels)))
