"""Audio as the doctor sees it: the headers of many files at once, and the samples of an utterance, block by block.

Axes: n samples, t frames, f bins.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from asr.data import audio, shards
from asr.data.manifest import Channel
from asr.errors import DataError
from asr.sound.reader import Reader, one_channel

#: a header is 70 to 120 microseconds of computing, most of it under Python's lock; four threads hide a slow disk
_HEADER_THREADS = 4
_CHUNK = 64
#: 20 ms frames, below -60 dBFS: under the noise of any room, so nobody speaks there
_FRAME_S, _SILENT = 0.02, 1e-3
_BLOCK_S = 30.0
#: Of telephone speech nothing is above; the spectrum is that of frames of so many samples.
_TELEPHONE_HZ, _SPECTRUM = 4200.0, 512
#: -0.13 dBFS: a clipped wave stays there; 8-bit full scale (127/128) is above it
_FULL_SCALE = 0.985

T = TypeVar("T")
R = TypeVar("R")
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds; with a ``code`` (of ``findings.KINDS``) it cannot be used, and ``why``.

    ``truncated``: why it is cut; rows that end before the cut can be used.
    """

    rate_hz: int = 0
    channels: int = 0
    frames: int = 0
    num_bytes: int = 0
    code: str = ""
    why: str = ""
    truncated: str = ""


@dataclass(frozen=True, slots=True)
class Sound:
    """What the samples of an utterance are like; with a ``code`` they cannot be used, and ``why``.

    Units: full scale is 1; ``clipped``, ``silent`` and ``high`` are fractions. ``key`` is equal for equal samples.
    """

    num_samples: int = 0
    peak: float = 0.0
    mean: float = 0.0
    deviation: float = 0.0
    #: all samples are equal
    constant: bool = False
    clipped: float = 0.0
    silent: float = 0.0
    #: of the power, what is above the telephone's band; 1 where the rate says it itself, and of silence
    high: float = 1.0
    key: tuple[int, ...] = ()
    code: str = ""
    why: str = ""


def read_headers(paths: Sequence[str], advance: Advance) -> list[Header]:
    """The headers of files, in order."""
    return list(_in_threads(read_header, paths, _CHUNK, _HEADER_THREADS, advance))


def measure_all(spans: Sequence[tuple[str, int, int, Channel | None]], advance: Advance) -> Iterator[Sound]:
    """What the samples of (path, first sample, number of samples, channel) are like, in order.

    They are decoded in one thread per core.
    """
    return _in_threads(lambda span: measure(*span), spans, 8, os.cpu_count() or 1, advance)


def read_header(path: str) -> Header:
    """What a file holds: its rate, channels and length, and whether it is cut."""
    try:
        info = audio.info(path, keep_truncated=True)
        num_bytes = shards.num_bytes(path)
    except DataError as error:
        why = str(error).removeprefix(f"{path}: ")
        try:
            shards.container(path).stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a name that no file can have
            return Header(code="audio-missing", why="no such file")
        except OSError:  # a name that is too long, a folder without permission
            return Header(code="audio-unreadable", why=why)
        return Header(code="audio-truncated" if why.startswith("truncated") else "audio-unreadable", why=why)
    except OSError as error:  # gone since
        return Header(code="audio-missing", why=str(error.strerror).lower())
    if not info.num_samples:
        return Header(info.sample_rate_hz, info.channels, 0, num_bytes, "audio-empty", "a header without samples")
    return Header(info.sample_rate_hz, info.channels, info.num_samples, num_bytes, truncated=info.truncated)


def measure(path: str, start: int, count: int, channel: Channel | None = None) -> Sound:
    """What the samples are like, from ``start`` on, ``count`` of them or up to the end when it is negative.

    Of several channels that no manifest row chose from the first is taken.
    """
    tally = _Tally()
    try:
        with Reader(Path(path)) as reader:
            left = count if count >= 0 else None
            if reader.frames is not None:
                left = max(0, reader.frames - start if left is None else min(left, reader.frames - start))
            wanted = left
            frame = max(1, round(_FRAME_S * reader.rate_hz))
            block = frame * round(_BLOCK_S / _FRAME_S)
            reader.skip(start)
            while left != 0:
                samples = reader.read(block if left is None else min(block, left))
                if not len(samples):
                    break
                left = None if left is None else left - len(samples)
                tally.add(one_channel(samples, channel or 1), frame, reader.rate_hz)
                if not tally.is_finite:
                    return Sound(code="audio-not-finite", why="holds NaN or infinity")
            # A file that is known to be cut is a finding by its header.
            damage = reader.damage
    except DataError as error:
        return Sound(code="audio-truncated", why=str(error).removeprefix(f"{path}: "))
    if damage or (wanted is not None and tally.num_samples < wanted):
        why = damage or f"{tally.num_samples:,} of {wanted:,} samples can be decoded"
        return Sound(code="audio-truncated", why=why)
    return tally.sound()


class _Tally:
    """Sums over the blocks of an utterance."""

    def __init__(self) -> None:
        self.num_samples = self.clipped = self.frames = self.silent = self.checksum = 0
        self.peak = self.sum = self.squares = self.power = self.high = 0.0
        self.low, self.most = math.inf, -math.inf
        self.is_finite = True

    def add(self, wave_n: audio.Wave, frame: int, rate_hz: int) -> None:
        """A block; all but the last have a whole number of frames."""
        peak = float(np.abs(wave_n).max())
        if not math.isfinite(peak):
            self.is_finite = False
            return
        self.num_samples += len(wave_n)
        self.peak = max(self.peak, peak)
        self.sum += float(wave_n.sum(dtype=np.float64))
        wave_n = np.ascontiguousarray(wave_n)
        precise_n = wave_n.astype(np.float64)
        self.squares += float(np.dot(precise_n, precise_n))
        self.low, self.most = min(self.low, float(wave_n.min())), max(self.most, float(wave_n.max()))
        self.checksum = zlib.crc32(wave_n.data, self.checksum)
        if peak >= _FULL_SCALE:
            self.clipped += _clipped(wave_n)
        whole = wave_n[: len(wave_n) // frame * frame].reshape(-1, frame)
        power = np.einsum("tn,tn->t", whole, whole) / frame
        self.frames += len(power)
        # around its own mean: an offset is no sound
        self.silent += int((power - whole.mean(axis=1) ** 2 < _SILENT**2).sum())
        if rate_hz > 2.5 * _TELEPHONE_HZ:
            self._add_spectrum(wave_n, rate_hz)

    def _add_spectrum(self, wave_n: audio.Wave, rate_hz: int) -> None:
        frames_tn = wave_n[: len(wave_n) // _SPECTRUM * _SPECTRUM].reshape(-1, _SPECTRUM)
        power_tf = np.abs(np.fft.rfft(frames_tn * np.hanning(_SPECTRUM), axis=1)) ** 2
        self.power += float(power_tf.sum())
        self.high += float(power_tf[:, math.ceil(_TELEPHONE_HZ * _SPECTRUM / rate_hz) :].sum())

    def sound(self) -> Sound:
        n = self.num_samples
        mean = self.sum / n if n else 0.0
        deviation = math.sqrt(max(0.0, self.squares / n - mean**2)) if n else 0.0
        silent = self.silent / self.frames if self.frames else 0.0
        key = (n, self.checksum, hash(self.squares))
        high = self.high / self.power if self.power else 1.0
        return Sound(n, self.peak, mean, deviation, self.low >= self.most, self.clipped / max(1, n), silent, high, key)


def _clipped(wave_n: npt.NDArray[np.float32]) -> int:
    """Samples at full scale that have two neighbours there, or are such neighbours: a peak alone is no clipping."""
    at_n = np.abs(wave_n) >= _FULL_SCALE
    middle_n = np.zeros_like(at_n)
    middle_n[1:-1] = at_n[:-2] & at_n[1:-1] & at_n[2:]
    run_n = middle_n.copy()
    run_n[:-1] |= middle_n[1:]
    run_n[1:] |= middle_n[:-1]
    return int(run_n.sum())


def same_content(paths: Sequence[str], headers: Sequence[Header], advance: Advance) -> list[int]:
    """For each file the place of the first one with the same bytes (its own when there is none before).

    Only files that agree in size and length are read: a piece from the middle, then those that still agree as a whole.
    """
    first = list(range(len(paths)))
    groups = _groups(
        [i for i, h in enumerate(headers) if not h.code], lambda i: (headers[i].num_bytes, headers[i].frames)
    )
    groups = [piece for group in groups for piece in _groups(group, lambda i: _digest(paths[i], headers[i].num_bytes))]
    for group in groups:
        for same in _groups(group, lambda i: _digest(paths[i], None)):
            for i in same[1:]:
                first[i] = same[0]
        advance(len(group))
    return first


def _groups(items: Sequence[int], key: Callable[[int], Any]) -> list[list[int]]:
    """Those of the items that share their key with another, together and in order."""
    by_key: dict[Any, list[int]] = {}
    for item in items:
        by_key.setdefault(key(item), []).append(item)
    return [group for group in by_key.values() if len(group) > 1]


def _digest(path: str, num_bytes: int | None) -> bytes:
    """Of 4 KiB in the middle of a file of that size, or of all of it; what cannot be read is like nothing else."""
    digest = blake2b(digest_size=16)
    try:
        with shards.open_bytes(path) as file:
            if num_bytes is not None:
                file.seek(num_bytes // 2)
                digest.update(file.read(4096))
            else:
                while block := file.read(1 << 20):
                    digest.update(block)
    except (OSError, DataError):
        digest.update(os.fsencode(path))
    return digest.digest()


def _in_threads(work: Callable[[T], R], items: Sequence[T], chunk: int, threads: int, advance: Advance) -> Iterator[R]:
    def several(start: int) -> list[R]:
        return [work(item) for item in items[start : start + chunk]]

    # By chunks: handing over one file at a time costs as much as its header.
    pool = ThreadPoolExecutor(threads, "asr-doctor")
    try:
        for results in pool.map(several, range(0, len(items), chunk)):
            yield from results
            advance(len(results))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
