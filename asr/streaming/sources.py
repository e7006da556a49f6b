"""Where a live stream comes from: a microphone, or standard input. Blocks of samples with their rate.

Axes: n samples, c channels.
"""

from __future__ import annotations

import io
import queue
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from asr.errors import AsrError, ConfigError, DataError
from asr.limits import CHANNELS
from asr.recordings.arrays import check_rate

#: how much is read at a time
BLOCK_S = 0.1
Block = npt.NDArray[np.int16] | npt.NDArray[np.float32]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: kinds of WAV, with the bits of a sample
_READABLE = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32)}
#: what comes before the samples is not read beyond this
_LARGEST_CHUNK = 1 << 20
#: what else WAV holds
_OTHER_WAV = {2: "ADPCM", _FLOAT: "64-bit float", 6: "A-law", 7: "mu-law", 17: "ADPCM", 85: "MP3"}
#: how other files begin, as raw samples they would be noise; two bytes would be the first sample of some streams
_OTHER_FILES = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"NIST": "SPHERE",
    b"FORM": "AIFF",
    b".snd": "AU",
    b"caff": "CAF",
    b"riff": "Wave64",
    b"RIFX": "big-endian WAV",
    b"\x1aE\xdf\xa3": "WebM",
    b"ID3": "MP3",
}


@dataclass(frozen=True)
class Source:
    """Samples as they come, with their rate."""

    rate_hz: int
    blocks: Iterator[Block]
    #: nothing said what the samples are
    is_raw: bool = False


def from_pipe(pipe: BinaryIO, raw_hz: int) -> Source:
    """Read WAV, or samples without a header: 16-bit, little-endian, one channel.

    Args:
        raw_hz: the rate of samples without a header.

    Raises:
        DataError: nothing comes, or WAV of a kind that is not known, or another kind of file.
    """
    head = pipe.read(12)
    if not head:
        raise DataError("no samples came", "stdin")
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return _from_wav(_Joined(head, pipe))
    name = next((name for begin, name in _OTHER_FILES.items() if head.startswith(begin)), "")
    if name or head[4:8] == b"ftyp":
        raise DataError(f"{name or 'MP4'}; expected WAV or raw 16-bit samples (asr transcribe takes files)", "stdin")
    return Source(raw_hz, _raw_blocks(_Joined(head, pipe), 2 * round(raw_hz * BLOCK_S)), is_raw=True)


class _Joined(io.RawIOBase):
    """A pipe with what was read of it put back."""

    def __init__(self, head: bytes, pipe: BinaryIO) -> None:
        self._head = head
        self._pipe = pipe

    def read(self, size: int = -1) -> bytes:
        taken = self._head[:size]
        self._head = self._head[size:]
        return taken if len(taken) == size else taken + self._pipe.read(size - len(taken))


def _raw_blocks(pipe: _Joined, size: int) -> Iterator[Block]:
    while content := pipe.read(size):
        yield np.frombuffer(content[: len(content) // 2 * 2], "<i2")


def _from_wav(pipe: _Joined) -> Source:
    """Read the header of a WAV, up to its samples; the sizes in it may be wrong, as they are in a stream."""
    pipe.read(12)
    form = b""
    while True:
        name, size = pipe.read(4), int.from_bytes(pipe.read(4), "little")
        if name == b"data" and form:
            break
        content = pipe.read(min(size + size % 2, _LARGEST_CHUNK))
        if len(name) < 4 or len(content) < size:
            raise DataError("a WAV whose header is cut or damaged", "stdin")
        if name == b"fmt ":
            form = content
    kind, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", form.ljust(16, b"\0")[:16])
    if kind == _EXTENSIBLE:
        kind = int.from_bytes(form[24:26], "little")
    if (kind, bits) not in _READABLE:
        what = _OTHER_WAV.get(kind, f"{bits}-bit" if kind == _PCM else f"kind {kind}")
        raise DataError(f"a WAV of {what} samples; expected PCM or 32-bit floats (asr transcribe takes files)", "stdin")
    if not 1 <= channels <= CHANNELS:
        raise DataError(f"a WAV of {channels:,} channels; expected 1 to {CHANNELS:,}", "stdin")
    return Source(check_rate(rate_hz, "stdin"), _wav_blocks(pipe, kind, bits // 8, channels, round(rate_hz * BLOCK_S)))


def _wav_blocks(pipe: _Joined, kind: int, width: int, channels: int, frames: int) -> Iterator[Block]:
    while content := pipe.read(frames * width * channels):
        content = content[: len(content) // (width * channels) * width * channels]
        samples_n = np.frombuffer(content, "<f4") if kind == _FLOAT else _scaled(content, width)
        yield samples_n if channels == 1 else samples_n.reshape(-1, channels).mean(axis=1, dtype=np.float32)


def _scaled(content: bytes, width: int) -> npt.NDArray[np.float32]:
    """Return PCM samples of so many bytes each as floats in [-1, 1]."""
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    # the highest bytes of 32-bit numbers
    wide = np.zeros((len(content) // width, 4), np.uint8)
    wide[:, 4 - width :] = np.frombuffer(content, np.uint8).reshape(-1, width)
    return np.asarray(wide.view("<i4")[:, 0] / 2.0**31, np.float32)


def check_microphone(name: str) -> None:
    """Look for a microphone; the name is as ``microphone`` takes it.

    Raises:
        AsrError: there is no library for microphones.
        ConfigError: there is no such microphone.
    """
    _find(_sounddevice(), name)


@contextmanager
def microphone(name: str, rate_hz: int) -> Iterator[Source]:
    """Record one channel until the block ends.

    Args:
        name: a number or a part of a name from ``devices``; empty: the system's default.
        rate_hz: is asked for; a microphone that does not have it gives its own.

    Raises:
        AsrError: there is no library for microphones.
        ConfigError: there is no such microphone, or it cannot be opened.
    """
    sound = _sounddevice()
    device, usual_hz = _find(sound, name)
    blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()

    def take(recorded_nc: npt.NDArray[np.float32], frames: int, time: object, status: object) -> None:
        blocks.put(recorded_nc[:, 0].copy())

    try:
        sound.check_input_settings(device, 1, "float32", samplerate=rate_hz)
    except sound.PortAudioError:
        rate_hz = usual_hz
    with ExitStack() as recording:
        try:
            stream = sound.InputStream(
                rate_hz,
                device=device,
                channels=1,
                dtype="float32",
                blocksize=round(rate_hz * BLOCK_S),
                callback=take,
                finished_callback=lambda: blocks.put(None),
            )
            recording.enter_context(stream)
        except sound.PortAudioError as error:
            raise ConfigError(f"the microphone cannot be opened: {error}") from error
        yield Source(rate_hz, _recorded(blocks))


def _recorded(blocks: queue.SimpleQueue[Block | None]) -> Iterator[Block]:
    while (recorded_n := blocks.get()) is not None:
        yield recorded_n


def _find(sound: Any, name: str) -> tuple[int | str | None, int]:
    """Return a microphone as the library takes it, and its usual rate."""
    device = int(name) if name.isdecimal() else name or None
    try:
        return device, round(sound.query_devices(device, "input")["default_samplerate"])
    except (sound.PortAudioError, ValueError) as error:
        if not name or not devices():
            raise ConfigError("no microphone was found (- reads standard input)") from error
        raise ConfigError(f"--microphone {name}: none or several of those that --list-devices shows") from error


def devices() -> list[tuple[int, str, int, bool]]:
    """Return what can record: number, name, usual rate, and whether it is the default.

    Raises:
        AsrError: there is no library for microphones.
    """
    sound = _sounddevice()
    default = sound.default.device[0]
    return [
        (number, str(facts["name"]), round(facts["default_samplerate"]), number == default)
        for number, facts in enumerate(sound.query_devices())
        if facts["max_input_channels"] > 0
    ]


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise AsrError("a microphone needs sounddevice: pip install sounddevice") from error
    except OSError as error:  # it looks for PortAudio when it is loaded
        raise AsrError("a microphone needs the library PortAudio: sudo apt install libportaudio2") from error
    return sounddevice
