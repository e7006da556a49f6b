"""Augmentation of training waves: gain, reverberation, noise. The input of a function is not changed.

Axes: n samples, r samples of an impulse response.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from asr.config import AugmentConfig
from asr.data import audio
from asr.data.audio import Wave
from asr.errors import ConfigError, DataError
from asr.files import visible

_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph")
#: noises and impulse responses kept in memory by each run, in bytes
_KEPT_BYTES = 512 * 2**20


class Distorter:
    """Change the waves of training utterances: reverberation first, then noise, then gain.

    Raises:
        ConfigError: a folder of noises or impulse responses is missing, or holds no audio.
    """

    def __init__(self, cfg: AugmentConfig, sample_rate_hz: int) -> None:
        self.cfg = cfg
        self.rate = sample_rate_hz
        self._noises = _files(cfg.noise.folder, "augment.noise.folder")
        self._rooms = _files(cfg.reverb.folder, "augment.reverb.folder")
        self._loaded: OrderedDict[Path, Wave] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Return true if any wave may be changed."""
        cfg = self.cfg
        return cfg.noise.probability > 0 or cfg.reverb.probability > 0 or cfg.gain_db != (0.0, 0.0)

    def __call__(self, wave_n: Wave, random: np.random.Generator) -> Wave:
        """Change a wave as the draws decide. Shapes: (n,) -> (n,).

        Raises:
            DataError: a noise or an impulse response cannot be read.
        """
        cfg = self.cfg
        # A generator for each, so that the probability of one does not change the draws of the others.
        rooms, noises, level = random.spawn(3)

        if rooms.random() < cfg.reverb.probability:
            wave_n = reverberate(wave_n, self._room(rooms))
        if noises.random() < cfg.noise.probability:
            snr_db = noises.uniform(*cfg.noise.snr_db)
            wave_n = add_noise(wave_n, self._noise(len(wave_n), noises), snr_db)
        if cfg.gain_db != (0.0, 0.0):
            gain = 10 ** (level.uniform(*cfg.gain_db) / 20)
            wave_n = (wave_n * np.float32(gain)).astype(np.float32, copy=False)
        return wave_n

    def _noise(self, size: int, random: np.random.Generator) -> Wave:
        if not self._noises:
            return colored_noise(size, random.uniform(0, 2), random)
        path = self._noises[int(random.integers(len(self._noises)))]
        noise_n = self._load(path)
        start = int(random.integers(len(noise_n)))
        return np.take(noise_n, np.arange(start, start + size), mode="wrap")  # a short noise is repeated

    def _room(self, random: np.random.Generator) -> Wave:
        if not self._rooms:
            cfg = self.cfg.reverb
            return room_response(random.uniform(*cfg.rt60_s), random.uniform(*cfg.direct_db), self.rate, random)
        return self._load(self._rooms[int(random.integers(len(self._rooms)))])

    def _load(self, path: Path) -> Wave:
        """Load a noise or an impulse response at the rate of training; the latest ones stay in memory."""
        with self._lock:
            if path in self._loaded:
                self._loaded.move_to_end(path)
                return self._loaded[path]

        wave_n, rate = audio.load(path)
        wave_n = audio.resampled(wave_n, rate, self.rate)
        if not len(wave_n):
            raise DataError(f"too short: no sample is left at {self.rate} Hz; remove the file", path)

        with self._lock:
            self._loaded[path] = wave_n
            while len(self._loaded) > 1 and sum(one.nbytes for one in self._loaded.values()) > _KEPT_BYTES:
                self._loaded.popitem(last=False)

        return wave_n


def add_noise(wave_n: Wave, noise_n: Wave, snr_db: float) -> Wave:
    """Add noise at ``snr_db`` decibels below the mean power of the wave; silence is unchanged. Shapes: (n,), (n,)."""
    power = _mean_power(wave_n)
    noise_power = _mean_power(noise_n)
    if power == 0 or noise_power == 0:
        return wave_n
    scale = np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    out: Wave = (wave_n + np.float32(scale) * noise_n).astype(np.float32, copy=False)
    return out


def reverberate(wave_n: Wave, response_r: Wave) -> Wave:
    """Convolve a wave with the response of a room. The direct sound keeps its place, and the wave its power.

    Shapes: (n,), (r,) -> (n,).
    """
    power = _mean_power(wave_n)
    size = 1 << (len(wave_n) + len(response_r) - 2).bit_length()
    convolved_n = np.fft.irfft(np.fft.rfft(wave_n, size) * np.fft.rfft(response_r, size), size)
    direct = int(np.abs(response_r).argmax())
    heard_n: Wave = convolved_n[direct : direct + len(wave_n)].astype(np.float32)

    new_power = _mean_power(heard_n)
    if power and new_power:
        heard_n *= np.float32(np.sqrt(power / new_power))
        return heard_n
    return wave_n


def _mean_power(wave_n: Wave) -> float:
    return float(np.mean(np.square(wave_n)))


def colored_noise(size: int, slope: float, random: np.random.Generator) -> Wave:
    """Make Gaussian noise whose power falls with frequency^slope: 0 is white, 1 pink, 2 brown. Shapes: (n,)."""
    spectrum = np.fft.rfft(random.standard_normal(size, dtype=np.float32))
    frequency = np.maximum(np.arange(len(spectrum)), 1) / size
    out: Wave = np.fft.irfft(spectrum * frequency ** (-slope / 2), size).astype(np.float32)
    return out


def room_response(rt60_s: float, direct_db: float, sample_rate_hz: int, random: np.random.Generator) -> Wave:
    """Make the response of a room: the direct sound, then noise that falls by 60 dB in ``rt60_s``.

    The noise is weaker than the direct sound by ``direct_db`` in all.

    Source: Polack's model of late reverberation (Habets 2007, section 2.1).
    """
    size = max(2, round(rt60_s * sample_rate_hz))
    response_r = random.standard_normal(size) * 10 ** (-3 * np.arange(size) / size)
    response_r[: max(1, round(0.002 * sample_rate_hz))] = 0  # nothing is nearer than a third of a metre
    energy = float(np.sum(np.square(response_r))) or 1.0
    response_r *= np.sqrt(10 ** (-direct_db / 10) / energy)
    response_r[0] = 1.0
    return response_r.astype(np.float32)


def _files(folder: str | None, key: str) -> tuple[Path, ...]:
    if folder is None:
        return ()

    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"{folder}: no such folder of audio files", key=key)

    found = tuple(p for p in visible(path, "**/*") if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise ConfigError(f"{folder}: no audio in it ({' '.join(_SUFFIXES)})", key=key)
    return found
