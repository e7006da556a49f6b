"""Features of a stream: samples in pieces of any length, frames as soon as all their samples are there.

The frames are those of the whole recording, to the last bit, however it is cut.

Axes: n samples, t frames, f bins.
"""

from __future__ import annotations

import numpy as np

from asr.features.extractor import Floats
from asr.features.frames import FeatureExtractor


class FrameStream:
    """The features of one recording while it comes in."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        """Begin a recording; ``why_not`` says which extractors can."""
        self._extractor = extractor
        self._spectra = extractor.spectra
        #: from the first sample of the next frame's window on
        self._samples_n = np.zeros(self._spectra.before, np.float32)
        self._num_samples = 0
        self._num_frames = 0
        #: the last sample before the next one, as the pre-emphasis sees it
        self._previous = np.float32(0)
        #: spectra that later frames still see beside them
        self._reach = extractor.reach
        self._seen_tf: Floats | None = None

    def feed(self, wave_n: Floats) -> Floats:
        """Take samples, and return the frames that are complete now. Shapes: (n,) -> (t, f)."""
        if len(wave_n):
            self._samples_n = np.concatenate([self._samples_n, self._emphasized(wave_n)])
            self._num_samples += len(wave_n)
        window, hop = len(self._spectra.window_n), self._spectra.hop
        ready = max(0, (len(self._samples_n) - window) // hop + 1)
        return self._with_neighbours(self._take(ready), is_last=False)

    def finish(self) -> Floats:
        """Return the frames that are left: beyond its end the recording is zero. Shapes: -> (t, f)."""
        left = int(self._extractor.num_frames(self._num_samples)) - self._num_frames
        missing = max(0, self._spectra.samples_of(left) - len(self._samples_n))
        self._samples_n = np.concatenate([self._samples_n, np.zeros(missing, np.float32)])
        return self._with_neighbours(self._take(left), is_last=True)

    def _emphasized(self, wave_n: Floats) -> Floats:
        if not self._extractor.cfg.preemphasis:
            return wave_n
        first = wave_n[0] if not self._num_samples else self._previous
        self._previous = wave_n[-1]
        return self._extractor.emphasized(wave_n, first)

    def _take(self, frames: int) -> Floats:
        """Compute the next spectra, and forget the samples that no later one sees."""
        spectra_tf = self._spectra.of_windows(self._samples_n, frames)
        self._samples_n = self._samples_n[frames * self._spectra.hop :]
        self._num_frames += frames
        return spectra_tf

    def _with_neighbours(self, spectra_tf: Floats, is_last: bool) -> Floats:
        """Append what frames take from those beside them, and normalise."""
        reach = self._reach
        if not reach:
            return self._extractor.normalize(spectra_tf)
        if self._seen_tf is None:
            if not len(spectra_tf):
                return np.zeros((0, self._extractor.num_bins), np.float32)
            self._seen_tf = np.repeat(spectra_tf[:1], reach, axis=0)
        seen_tf = np.concatenate([self._seen_tf, spectra_tf])
        if is_last:
            seen_tf = np.concatenate([seen_tf, np.repeat(seen_tf[-1:], reach, axis=0)])
        self._seen_tf = seen_tf[max(0, len(seen_tf) - 2 * reach) :]
        if len(seen_tf) <= 2 * reach:
            return np.zeros((0, self._extractor.num_bins), np.float32)
        return self._extractor.normalize(self._extractor.neighbourhoods(seen_tf))


def why_not(extractor: object) -> str:
    """Say why features of a stream cannot be had from an extractor; nothing: they can."""
    if not isinstance(extractor, FeatureExtractor):
        return "its features need whole recordings"
    if extractor.cfg.normalization == "utterance":
        return "features.normalization: utterance needs whole recordings"
    if not extractor.spectra.is_exact:
        return f"features.fft_samples: {extractor.fft} has a factor above 5"
    if extractor.hop > len(extractor.spectra.window_n):
        return "features.hop_s is longer than features.window_s"
    return ""


def delay_s(extractor: FeatureExtractor, frames_ahead: int) -> float:
    """Return how long after a moment's sound a network that looks so many frames ahead can know of it."""
    half_window_s = len(extractor.spectra.window_n) / 2 / extractor.sample_rate_hz
    return (frames_ahead + extractor.reach) * extractor.hop_s + half_window_s
