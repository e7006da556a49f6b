"""Audio files in and out: float32 samples in [-1, 1], one channel, at a stated rate.

Everything goes through libsndfile (WAV, FLAC, NIST SPHERE, MP3, Ogg Vorbis and Opus). Every error names the file.
"""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from asr import shards
from asr.errors import DataError, os_reason
from asr.files import write_bytes
from asr.manifest import Channel

Wave = npt.NDArray[np.float32]
#: more samples than any file has: of one that does not say how many (FLAC from a pipe) libsndfile tells 2 ** 63 - 1
UNKNOWN = 1 << 60
#: samples decoded at once where nobody knows how many there are
_BLOCK = 1 << 16
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    sample_rate_hz: int
    channels: int
    num_samples: int
    format: str

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate_hz


@cache
def _soundfile() -> Any:
    import soundfile  # 0.1 s: only when audio is really read

    return soundfile


def info(path: str | Path) -> AudioInfo:
    """What the header of an audio file says, without decoding it.

    The samples of a FLAC file that was written to a pipe are counted: its header does not know them.

    Raises:
        DataError: the file is missing, empty, shorter than its header says (WAV, SPHERE), or not audio that libsndfile
            reads.
    """
    path = Path(path)
    _check_present(path)
    soundfile = _soundfile()
    rate = 0
    try:
        with opened(path) as source, soundfile.SoundFile(source) as file:
            rate, channels, num_samples, kind = int(file.samplerate), int(file.channels), int(file.frames), file.format
            if not knows_end(file):
                num_samples = skip(file, UNKNOWN)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name in .raw, which states no rate
        raise DataError(_damaged(error) if rate else _unreadable(path, error), path) from error
    _check_whole(path)
    return AudioInfo(rate, channels, num_samples, str(kind))


def load(
    path: str | Path,
    *,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    channel: Channel | None = None,
) -> tuple[Wave, int]:
    """The samples of a file, or of a part of it, and their rate.

    Args:
        channel: what to take of several: one, counted from 1, or "mix", their average; None: there must be one.

    Shapes: (n,) float32 in [-1, 1].

    Raises:
        DataError: missing, empty, not audio, truncated, not finite, without that channel, or a part that lies outside
            the file.
    """
    path = Path(path)
    _check_present(path)
    soundfile = _soundfile()
    rate = 0
    try:
        with opened(path) as source, soundfile.SoundFile(source) as file:
            rate, channels, total = int(file.samplerate), int(file.channels), int(file.frames)
            start = round(offset_s * rate)
            wanted = max(0, total - start) if duration_s is None else round(duration_s * rate)
            if not knows_end(file):
                total = skip(file, start)
                parts = [np.zeros((0, channels), np.float32), *blocks(file, wanted)]
                total += sum(map(len, parts))  # where the file ends, if it ends before the part does
            if start and start >= total:
                raise DataError(f"starts at {offset_s:g} s, but the file ends at {total / rate:.2f} s", path)
            if knows_end(file):
                skip(file, start)
                samples = file.read(wanted, dtype="float32", always_2d=True)
            else:
                samples = np.concatenate(parts)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name in .raw, which states no rate
        raise DataError(_damaged(error) if rate else _unreadable(path, error), path) from error
    _check_whole(path)
    available = min(wanted, total - start)
    if len(samples) < available:
        raise DataError(
            f"truncated: the header promises {available:,} samples, only {len(samples):,} could be decoded", path
        )
    if len(samples) == 0:
        raise DataError("the audio has no samples", path)
    # 20 ms of slack: durations in manifests are rounded, and a codec's padding moves the end.
    if duration_s is not None and wanted - len(samples) > 0.02 * rate:
        raise DataError(
            f"the manifest says {offset_s + duration_s:.2f} s, but the file ends at {total / rate:.2f} s", path
        )
    wave = one_channel(samples, channel, path)
    if not np.isfinite(wave).all():
        bad = int(np.flatnonzero(~np.isfinite(wave))[0])
        raise DataError(f"sample {bad:,} is not a finite number; the file is damaged, write it again", path)
    return wave, rate


def one_channel(samples_nc: npt.NDArray[np.float32], channel: Channel | None, path: str | Path) -> Wave:
    """What is asked for of the channels: one, counted from 1, or "mix", their average. Shapes: (n, c) -> (n,).

    Raises:
        DataError: there is no such channel, or there are several and none is asked for.
    """
    channels = samples_nc.shape[1]
    if channel is None and channels > 1:
        raise DataError(
            f"{channels} channels, expected 1; 'asr prepare' takes --mix or --channel N, a manifest row \"channel\"",
            path,
        )
    if isinstance(channel, int) and channel > channels:
        raise DataError(f"channel {channel} is wanted, the audio has {channels}", path)
    if channel == "mix" and channels > 1:
        mixed: Wave = samples_nc.mean(axis=1, dtype=np.float32)
        return mixed
    return np.ascontiguousarray(samples_nc[:, channel - 1 if isinstance(channel, int) else 0])


def at_rate(wave_n: Wave, rate_hz: int, wanted_hz: int, resample: bool, path: Path, remedy: str) -> Wave:
    """The wave at the rate that a model wants.

    Args:
        remedy: what the user can do about another rate, for the error.

    Raises:
        DataError: it has another rate, and was not asked to be resampled.
    """
    if rate_hz == wanted_hz:
        return wave_n
    if not resample:
        raise DataError(f"{rate_hz} Hz audio, the model wants {wanted_hz} Hz; {remedy}", path)
    return resampled(wave_n, rate_hz, wanted_hz)


def resampled(wave_n: Wave, from_hz: float, to_hz: float) -> Wave:
    """The wave at another rate (soxr, high quality: alias-free to 91 % of the lower Nyquist frequency).

    Shapes: (n,) -> (about n * to_hz / from_hz,)
    """
    if from_hz == to_hz:
        return wave_n
    import soxr

    out: Wave = soxr.resample(wave_n, from_hz, to_hz, quality="HQ").astype(np.float32, copy=False)
    return out


def change_speed(wave_n: Wave, speed: float, sample_rate_hz: int) -> Wave:
    """The wave played ``speed`` times as fast: shorter and higher for a factor above 1.

    Source: Ko et al. 2015, "Audio augmentation for speech recognition" (resampling, not time stretching).
    """
    return resampled(wave_n, sample_rate_hz * speed, sample_rate_hz)


def save(path: str | Path, wave_n: Wave, sample_rate_hz: int) -> None:
    """Writes a mono file as 16-bit PCM, atomically; the suffix decides the container (``.wav``, ``.flac``).

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    soundfile = _soundfile()
    # Through memory: libsndfile does not say why a file cannot be written.
    content = io.BytesIO()
    try:
        soundfile.write(content, wave_n, sample_rate_hz, subtype="PCM_16", format=path.suffix[1:].upper())
    except (soundfile.SoundFileError, TypeError, ValueError) as error:  # the last two: a suffix it cannot write
        raise DataError(f"cannot write the audio: {_reason(error)}; .wav and .flac can be written", path) from error
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise DataError(f"cannot write the audio: {os_reason(error)}", path) from error


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """What soundfile takes for a path: the file's name, or the bytes of a member of a tar file (``asr.shards``)."""
    if not shards.is_member(path):
        yield _name(Path(path))
        return
    with shards.open_bytes(path) as file:
        yield file


def knows_end(file: Any) -> bool:
    """Whether an open sound file knows how long it is; one that does not is read with ``blocks`` until none comes."""
    if file.frames < UNKNOWN:
        return True
    file.seekable = lambda: False  # or soundfile seeks after each read, which fails at an unknown end
    return False


def blocks(file: Any, count: int, size: int = _BLOCK) -> Iterator[npt.NDArray[np.float32]]:
    """The next samples of an open sound file, up to ``count`` of them, fewer only where it ends.

    Shapes: (n, channels), n = ``size`` in all but the last.
    """
    while count > 0 and len(block := file.read(min(size, count), dtype="float32", always_2d=True)):
        yield block
        count -= len(block)


def skip(file: Any, count: int) -> int:
    """Passes over samples of a sound file that was just opened; how many there were."""
    if knows_end(file):
        return int(file.seek(count)) if count else 0
    return sum(map(len, blocks(file, count)))


def _check_present(path: Path) -> None:
    if shards.is_member(path):
        if not shards.num_bytes(path):
            raise DataError("the file is empty (0 bytes)", path)
        return
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the audio: {os_reason(error)}", path) from error
    except ValueError as error:  # a NUL or half a surrogate pair: no file can have that name
        raise DataError(f"cannot read the audio: the name is impossible ({error})", path) from error
    if path.is_dir():
        raise DataError("is a folder, expected an audio file", path)
    if not path.is_file():
        raise DataError("is a pipe or a device, expected an audio file", path)
    if size == 0:
        raise DataError("the file is empty (0 bytes)", path)


def _name(path: Path) -> bytes | str:
    """A file's name as soundfile takes it: any bytes where the system allows any."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _unreadable(path: Path, error: Exception) -> str:
    try:
        with shards.open_bytes(path):
            pass
    except OSError as reason:
        return f"cannot read the audio: {os_reason(reason)}"
    return f"not audio that can be read ({_reason(error)}); WAV, FLAC, SPHERE, MP3 and Ogg are"


def _damaged(error: Exception) -> str:
    return f"truncated or damaged: cannot be decoded ({_reason(error)}); fetch it again"


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", None) or error)
    return " ".join(text.removeprefix("Error : ").split()).rstrip(".")


def _check_whole(path: Path) -> None:
    """An error when a WAV or SPHERE file is shorter than its header says.

    libsndfile trusts the file's size over the header, so a download that was cut would pass as a shorter recording.
    """
    with shards.open_bytes(path) as file:
        check_whole(file, shards.num_bytes(path), path)


def check_whole(file: BinaryIO, num_bytes: int, path: Path) -> None:
    """The same of an open file that holds so many bytes; the path is for the error."""
    head = file.read(1024)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        start, promised = _wav_data(file)
    elif head[:8] == b"NIST_1A\n":
        start, promised = _sphere_data(head)
    else:
        return
    held = max(0, num_bytes - start)
    # 64 bytes: some writers count the header into the data. 0x7FFF0000 and above: written to a pipe, size unknown.
    if held + 64 < promised < 0x7FFF0000:
        raise DataError(
            f"truncated: the header promises {promised:,} bytes of samples, the file holds {held:,}; fetch it again",
            path,
        )


def _wav_data(file: BinaryIO) -> tuple[int, int]:
    """Where the data chunk starts, and how many bytes it is said to have."""
    position = 12
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return position, 0
        name, num_bytes = struct.unpack("<4sI", head)
        if name == b"data":
            return position + 8, num_bytes
        position += 8 + num_bytes + num_bytes % 2


def _sphere_data(head: bytes) -> tuple[int, int]:
    """Where the samples start, and how many bytes they are said to have."""
    fields = {words[0]: words[2] for words in map(bytes.split, head[:1024].split(b"\n")) if len(words) == 3}
    try:
        samples, width, channels = (
            int(fields.get(k, b"1")) for k in (b"sample_count", b"sample_n_bytes", b"channel_count")
        )
        return int(head[8:16]), samples * width * channels
    except ValueError:
        return 0, 0
