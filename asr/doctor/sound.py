"""Read the headers of many audio files at once, and measure the samples of utterances block by block.

Axes: n samples, t frames, f bins.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from asr.data import audio, shards
from asr.data.manifest import Channel
from asr.errors import DataError
from asr.sound.reader import open_recording
from asr.sound.recording import one_channel

#: a header is 70 to 120 microseconds of computing, most of it under Python's lock; four threads hide a slow disk
_HEADER_THREADS = 4
#: items that a thread takes at a time: to hand over one file costs as much as its header
_CHUNK = 64
#: 20 ms frames, below -60 dBFS: under the noise of any room, so nobody speaks there
_FRAME_S, _SILENT = 0.02, 1e-3
_BLOCK_S = 30.0
#: telephone speech has nothing above this; the spectrum is that of frames of this many samples
_TELEPHONE_HZ, _SPECTRUM = 4200.0, 512
#: -0.13 dBFS: a clipped wave stays there; 8-bit full scale (127/128) is above it
_FULL_SCALE = 0.985
#: bytes that are compared before whole files are
_PIECE = 4096

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")
Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """Hold the facts of a file; with a ``code`` (of ``findings.KINDS``) it cannot be used, and ``why``.

    ``truncated``: why it is cut; rows that end before the cut can be used.
    """

    rate_hz: int = 0
    channels: int = 0
    num_samples: int = 0
    num_bytes: int = 0
    code: str = ""
    why: str = ""
    truncated: str = ""

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.rate_hz

    def samples_in(self, seconds: float) -> int:
        """Return the number of samples in this many seconds."""
        return round(seconds * self.rate_hz)


@dataclass(frozen=True, slots=True)
class SampleStatistics:
    """Hold statistics of the samples of an utterance; with a ``code`` they cannot be used, and ``why``.

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
    #: share of the power above the telephone's band; 1 for silence, and for a rate that is a telephone's
    high: float = 1.0
    key: tuple[int, ...] = ()
    code: str = ""
    why: str = ""


def read_headers(paths: Sequence[str], advance: Advance) -> dict[str, AudioHeader]:
    """Read the headers of files; return them by path."""
    headers = _in_threads(read_header, paths, _CHUNK, _HEADER_THREADS, advance)
    return dict(zip(paths, headers, strict=True))


def read_header(path: str) -> AudioHeader:
    """Read what a file holds: its rate, channels and length, and whether it is cut."""
    try:
        info = audio.info(path, keep_truncated=True)
        num_bytes = shards.num_bytes(path)
    except DataError as error:
        why = str(error).removeprefix(f"{path}: ")
        try:
            shards.container(path).stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a name that no file can have
            return AudioHeader(code="audio-missing", why="no such file")
        except OSError:  # a name that is too long, a folder without permission
            return AudioHeader(code="audio-unreadable", why=why)
        return AudioHeader(code="audio-truncated" if why.startswith("truncated") else "audio-unreadable", why=why)
    except OSError as error:  # gone since
        return AudioHeader(code="audio-missing", why=str(error.strerror).lower())
    return AudioHeader(
        info.sample_rate_hz,
        info.channels,
        info.num_samples,
        num_bytes,
        code="" if info.num_samples else "audio-empty",
        why="" if info.num_samples else "a header without samples",
        truncated=info.truncated,
    )


def measure_all(spans: Sequence[tuple[str, int, int, Channel | None]], advance: Advance) -> Iterator[SampleStatistics]:
    """Measure the samples of (path, first sample, number of samples, channel), in order, in a thread per core."""
    return _in_threads(lambda span: measure_samples(*span), spans, 8, os.cpu_count() or 1, advance)


def measure_samples(path: str, start: int, count: int, channel: Channel | None = None) -> SampleStatistics:
    """Measure the samples from ``start`` on, ``count`` of them, or up to the end if it is negative.

    Of several channels that no manifest row chose from the first is taken.
    """
    sums = _Sums()
    try:
        with open_recording(Path(path)) as reader:
            wanted = count if count >= 0 else None
            if reader.frames is not None:
                rest = reader.frames - start
                wanted = max(0, rest if wanted is None else min(wanted, rest))

            # Blocks hold whole frames, so that sums over blocks are those of the whole.
            frame = max(1, round(_FRAME_S * reader.rate_hz))
            block = frame * max(1, reader.block(_BLOCK_S) // frame)
            reader.skip(start)
            while wanted is None or sums.num_samples < wanted:
                samples = reader.read(block if wanted is None else min(block, wanted - sums.num_samples))
                if not len(samples):
                    break
                wave_n = np.ascontiguousarray(one_channel(samples, channel or 1))
                if not np.isfinite(wave_n).all():
                    return SampleStatistics(code="audio-not-finite", why="holds NaN or infinity")
                sums.add(wave_n, frame, reader.rate_hz)

            # A file that is known to be cut is a finding by its header.
            damage = reader.damage
    except DataError as error:
        return SampleStatistics(code="audio-truncated", why=str(error).removeprefix(f"{path}: "))

    if not damage and wanted is not None and sums.num_samples < wanted:
        damage = f"{sums.num_samples:,} of {wanted:,} samples can be decoded"
    if damage:
        return SampleStatistics(code="audio-truncated", why=damage)
    return sums.statistics()


class _Sums:
    """Sums over the blocks of an utterance."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.clipped = 0
        self.frames = 0
        self.silent = 0
        self.checksum = 0
        self.peak = 0.0
        self.sum = 0.0
        self.squares = 0.0
        self.power = 0.0
        self.high = 0.0
        self.low = math.inf
        self.most = -math.inf

    def add(self, wave_n: audio.Wave, frame: int, rate_hz: int) -> None:
        """Add a block; all but the last have a whole number of frames."""
        self.num_samples += len(wave_n)
        self.low = min(self.low, float(wave_n.min()))
        self.most = max(self.most, float(wave_n.max()))
        peak = float(np.abs(wave_n).max())
        self.peak = max(self.peak, peak)
        if peak >= _FULL_SCALE:
            self.clipped += _count_clipped(wave_n)

        precise_n = wave_n.astype(np.float64)
        self.sum += float(wave_n.sum(dtype=np.float64))
        self.squares += float(np.dot(precise_n, precise_n))
        self.checksum = zlib.crc32(wave_n.data, self.checksum)

        frames_tn = wave_n[: len(wave_n) // frame * frame].reshape(-1, frame)
        power_t = np.einsum("tn,tn->t", frames_tn, frames_tn) / frame
        self.frames += len(power_t)
        # around its own mean: an offset is no sound
        self.silent += int((power_t - frames_tn.mean(axis=1) ** 2 < _SILENT**2).sum())

        if rate_hz > 2.5 * _TELEPHONE_HZ:
            frames_tn = wave_n[: len(wave_n) // _SPECTRUM * _SPECTRUM].reshape(-1, _SPECTRUM)
            power_tf = np.abs(np.fft.rfft(frames_tn * np.hanning(_SPECTRUM), axis=1)) ** 2
            self.power += float(power_tf.sum())
            self.high += float(power_tf[:, math.ceil(_TELEPHONE_HZ * _SPECTRUM / rate_hz) :].sum())

    def statistics(self) -> SampleStatistics:
        n = max(1, self.num_samples)
        mean = self.sum / n
        return SampleStatistics(
            num_samples=self.num_samples,
            peak=self.peak,
            mean=mean,
            deviation=math.sqrt(max(0.0, self.squares / n - mean**2)),
            constant=self.low >= self.most,
            clipped=self.clipped / n,
            silent=self.silent / max(1, self.frames),
            high=self.high / self.power if self.power else 1.0,
            key=(self.num_samples, self.checksum, hash(self.squares)),
        )


def _count_clipped(wave_n: npt.NDArray[np.float32]) -> int:
    """Count the samples in runs of three or more at full scale: a peak alone is no clipping."""
    at_n = np.abs(wave_n) >= _FULL_SCALE
    middle_n = np.zeros_like(at_n)
    middle_n[1:-1] = at_n[:-2] & at_n[1:-1] & at_n[2:]
    run_n = middle_n.copy()
    run_n[:-1] |= middle_n[1:]
    run_n[1:] |= middle_n[:-1]
    return int(run_n.sum())


def same_content(headers: Mapping[str, AudioHeader], advance: Advance) -> dict[str, str]:
    """Return for each file the first one with the same bytes, which may be the file itself.

    Only files that agree in size and length are read: a piece from the middle, then those that still agree as a whole.
    """
    first = {path: path for path in headers}
    usable = [path for path, header in headers.items() if not header.code]
    for of_one_size in _groups(usable, lambda path: (headers[path].num_bytes, headers[path].num_samples)):
        for candidates in _groups(of_one_size, lambda path: _digest(path, headers[path].num_bytes)):
            for same in _groups(candidates, lambda path: _digest(path, None)):
                first |= dict.fromkeys(same, same[0])
            advance(len(candidates))
    return first


def _groups(paths: Sequence[str], key: Callable[[str], K]) -> list[list[str]]:
    """Return the paths that share their key with another, together and in order."""
    by_key: dict[K, list[str]] = {}
    for path in paths:
        by_key.setdefault(key(path), []).append(path)
    return [group for group in by_key.values() if len(group) > 1]


def _digest(path: str, num_bytes: int | None) -> bytes:
    """Digest a piece from the middle of a file of that size, or all of it; files that cannot be read all differ."""
    digest = blake2b(digest_size=16)
    try:
        with shards.open_bytes(path) as file:
            if num_bytes is not None:
                file.seek(num_bytes // 2)
                digest.update(file.read(_PIECE))
            else:
                while block := file.read(1 << 20):
                    digest.update(block)
    except (OSError, DataError):
        digest.update(os.fsencode(path))
    return digest.digest()


def _in_threads(work: Callable[[T], R], items: Sequence[T], chunk: int, threads: int, advance: Advance) -> Iterator[R]:
    def do_chunk(start: int) -> list[R]:
        return [work(item) for item in items[start : start + chunk]]

    pool = ThreadPoolExecutor(threads, "asr-doctor")
    try:
        for results in pool.map(do_chunk, range(0, len(items), chunk)):
            yield from results
            advance(len(results))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
