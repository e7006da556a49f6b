"""Audio files in and out: float32 samples in [-1, 1], one channel, at a stated rate.

``asr.sound.reader`` reads WAV, FLAC, NIST SPHERE, MP3, Ogg, AIFF, W64, … by libsndfile, and M4A, MP4, WebM, … by ffmpeg
if it is installed. Every error names the file.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.data.manifest import Channel
from asr.errors import DataError, os_reason
from asr.files import write_bytes
from asr.limits import UTTERANCE_SAMPLES
from asr.sound.decoders import reason_of
from asr.sound.reader import open_recording
from asr.sound.recording import Wave

__all__ = ["AudioInfo", "Wave", "at_rate", "change_speed", "info", "load", "resampled", "save"]


@dataclass(frozen=True)
class AudioInfo:
    """The facts of a file. ``truncated``: why it is cut (empty: it is whole)."""

    sample_rate_hz: int
    channels: int
    num_samples: int
    format: str
    truncated: str = ""

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate_hz


def info(path: str | Path, *, keep_truncated: bool = False) -> AudioInfo:
    """Return rate, channels, and length to the sample of a file.

    It is decoded only if nothing else tells the length: FLAC that was written to a pipe or is cut, and what ffmpeg
    reads.

    Args:
        keep_truncated: describe a file that is cut by the part that it holds; ``truncated`` says why it is cut.

    Raises:
        DataError: the file is missing, empty, cut, or not audio that can be read.
    """
    with open_recording(Path(path)) as reader:
        num_samples = reader.measure()
        if reader.truncated and not (keep_truncated and num_samples):
            raise DataError(reader.truncated, path)
        return AudioInfo(reader.rate_hz, reader.channels, num_samples, reader.format, reader.truncated)


def load(
    path: str | Path,
    *,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    channel: Channel | None = None,
) -> tuple[Wave, int]:
    """Return the samples of a file, or of a part of it, and their rate.

    A part that ends within 20 ms of the file's end, and begins at its start, is the whole file: durations are rounded.

    Args:
        channel: the channel to take of several, counted from 1, or "mix", their average; None: there must be one.

    Shapes: (n,) float32 in [-1, 1].

    Raises:
        DataError: missing, empty, not audio, not finite, without that channel, or more than 20 ms of the part are
            missing, because the file is cut or ends before; or it is too long for the memory.
    """
    path = Path(path)
    with open_recording(path) as reader:
        if channel is None and reader.channels > 1:
            raise DataError(
                f"{reader.channels} channels, expected 1; 'asr prepare' takes --mix or --channel N, a manifest row "
                '"channel"',
                path,
            )

        # A length that is known is refused before anything is decoded.
        known_s = (reader.frames or 0) / reader.rate_hz - offset_s if duration_s is None else duration_s
        _check_length(known_s * reader.rate_hz, reader.rate_hz, path)
        end_s = None if duration_s is None else offset_s + duration_s
        waves: list[Wave] = []
        num_samples = 0
        for wave_n in reader.waves(offset_s, end_s, channel=channel or 1, whole=True):
            waves.append(wave_n)
            num_samples += len(wave_n)
            _check_length(num_samples, reader.rate_hz, path)
        return waves[0] if len(waves) == 1 else np.concatenate(waves), reader.rate_hz


def _check_length(num_samples: float, rate_hz: int, path: Path) -> None:
    """Refuse what is too long to be held in memory as one utterance."""
    if num_samples > UTTERANCE_SAMPLES:
        raise DataError(
            f"{UTTERANCE_SAMPLES / rate_hz / 3600:.1f} hours or more are too long for one utterance; cut it into parts "
            "(offset_s, duration_s), or use 'asr transcribe', which reads recordings of any length",
            path,
        )


def at_rate(wave_n: Wave, rate_hz: int, wanted_hz: int, resample: bool, path: Path, remedy: str) -> Wave:
    """Return the wave at the rate that a model wants.

    Args:
        remedy: what the user can do about another rate, for the error.

    Raises:
        DataError: it has another rate, and ``resample`` is false.
    """
    if rate_hz == wanted_hz:
        return wave_n
    if not resample:
        raise DataError(f"{rate_hz} Hz audio, the model wants {wanted_hz} Hz; {remedy}", path)
    return resampled(wave_n, rate_hz, wanted_hz)


def resampled(wave_n: Wave, from_hz: float, to_hz: float) -> Wave:
    """Return the wave at another rate (soxr, high quality: alias-free to 91 % of the lower Nyquist frequency).

    Shapes: (n,) -> (about n * to_hz / from_hz,)
    """
    if from_hz == to_hz:
        return wave_n
    import soxr

    out: Wave = soxr.resample(wave_n, from_hz, to_hz, quality="HQ").astype(np.float32, copy=False)
    return out


def change_speed(wave_n: Wave, speed: float, sample_rate_hz: int) -> Wave:
    """Return the wave played ``speed`` times as fast: shorter and higher for a factor above 1.

    Source: Ko et al. 2015, "Audio augmentation for speech recognition" (resampling, not time stretching).
    """
    return resampled(wave_n, sample_rate_hz * speed, sample_rate_hz)


def save(path: str | Path, wave_n: Wave, sample_rate_hz: int) -> None:
    """Write a mono file as 16-bit PCM, atomically; the suffix decides the container (``.wav``, ``.flac``).

    Raises:
        DataError: the file cannot be written.
    """
    import soundfile  # 0.1 s: only when audio is really written

    path = Path(path)
    # rounded here: libsndfile rounds down in WAV, a bias of half a step, and to the nearest in FLAC
    steps_n = np.clip(np.rint(np.asarray(wave_n, np.float64) * 32768), -32768, 32767).astype(np.int16)
    # through memory: libsndfile does not say why a file cannot be written
    content = io.BytesIO()
    try:
        soundfile.write(content, steps_n, sample_rate_hz, subtype="PCM_16", format=path.suffix[1:].upper())
    except (soundfile.SoundFileError, TypeError, ValueError) as error:  # the last two: a suffix it cannot write
        raise DataError(f"cannot write the audio: {reason_of(error)}; .wav and .flac can be written", path) from error

    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise DataError(f"cannot write the audio: {os_reason(error)}", path) from error
