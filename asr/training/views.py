"""What the network sees of a training utterance in an epoch: its features, distorted, warped, masked, all by seed.

Axes: n samples, t frames, f bins.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from asr.batch import Features, extract, load_wave
from asr.config import RunConfig
from asr.data import audio, shards
from asr.data.manifest import Manifest
from asr.errors import ConfigError
from asr.features import FeatureExtractor
from asr.runtime import generator, stable_seed
from asr.training.augment import bin_centres_hz, spec_augment, warp_frequencies
from asr.training.distort import Distorter


class Views:
    """Features of a manifest's utterances for training; those that no draw changes are kept in memory.

    Everything random depends on (seed, epoch, utterance id) alone.
    """

    def __init__(self, manifest: Manifest, extractor: FeatureExtractor, cfg: RunConfig) -> None:
        """
        Raises:
            ConfigError: ``augment.warp`` with features that are not bins of a spectrum.
        """
        self.manifest, self.extractor, self.cfg = manifest, extractor, cfg
        self._distort = Distorter(cfg.augment, cfg.audio.sample_rate_hz)
        self._centres_hz = _centres_hz(cfg, extractor.num_bins) if cfg.augment.warp else None
        #: sample rates of which it was said that they are resampled
        self._said_hz: set[int] = set()
        #: of computing features, by epoch (from 0), over all workers
        self.seconds: defaultdict[int, float] = defaultdict(float)
        self._cache: dict[tuple[int, float], Features] = {}
        self._cache_left = cfg.batch.feature_cache_mib * 2**20

    def features(self, index: int, speed: float, epoch: int) -> Features:
        """Of one utterance of the manifest, distorted but not yet masked. Shapes: (t, f)."""
        cached = self._cache.get((index, speed))
        if cached is not None:
            return cached
        began = time.perf_counter()
        utterance = self.manifest.utterances[index]
        rate = self.cfg.audio.sample_rate_hz
        wave_n = load_wave(self.manifest, utterance, rate, self.cfg.audio.resample, self._said_hz)
        if speed != 1.0:
            wave_n = audio.change_speed(wave_n, speed, rate)
        if self._distort.active:
            wave_n = self._distort(wave_n, generator(self.cfg.train.seed, "distort", epoch, utterance.id))
        dither = self.cfg.features.dither > 0
        seed = stable_seed(self.cfg.train.seed, "dither", epoch, utterance.id) if dither else None
        features_tf = extract(self.extractor, wave_n, seed)
        if not dither and not self._distort.active and self._cache_left >= features_tf.nbytes:
            self._cache_left -= features_tf.nbytes
            self._cache[index, speed] = features_tf
        self.seconds[epoch] += time.perf_counter() - began
        return features_tf

    def view(self, one_tf: Features, index: int, epoch: int, *which: str) -> Features:
        """Features as the network sees them in this epoch: warped and masked. Shapes: (t, f) -> (t, f)."""
        seed, spec, id_ = self.cfg.train.seed, self.cfg.augment.spec, self.manifest.utterances[index].id
        if self._centres_hz is not None:
            factor = 1 + self.cfg.augment.warp * generator(seed, "warp", epoch, id_, *which).uniform(-1, 1)
            one_tf = self._warped(one_tf, factor, self._centres_hz)
        if spec.freq_masks or spec.time_masks:
            features = self.cfg.features
            context = features.context_frames
            one_tf = spec_augment(
                one_tf, spec, features.hop_s, generator(seed, "spec", epoch, id_, *which),
                bins=self.extractor.num_bins // (1 + features.deltas) // (1 + 2 * context), context=context,
                # zero is the mean of normalised features only
                fill_f=one_tf.mean(0) if features.normalization == "none" and len(one_tf) else None,
            )  # fmt: skip
        return one_tf

    def _warped(self, one_tf: Features, factor: float, centres_f: npt.NDArray[np.float64]) -> Features:
        if self.cfg.features.normalization != "corpus":
            return warp_frequencies(one_tf, factor, centres_f)
        # the corpus's mean is that of a bin, not of what another vocal tract puts there
        mean_f, std_f = self.extractor.mean_f.numpy(), self.extractor.std_f.numpy()
        warped_tf: Features = (warp_frequencies(one_tf * std_f + mean_f, factor, centres_f) - mean_f) / std_f
        return warped_tf

    def read_ahead(self, items: Iterable[tuple[int, float]]) -> None:
        """Tells the shards what is wanted next."""
        missing = [index for index, speed in items if (index, speed) not in self._cache]
        shards.read_ahead(self.manifest.audio_path(self.manifest.utterances[index]) for index in missing)

    def fit_normalization(self, rows: Iterable[int]) -> None:
        """Sets the extractor's corpus statistics from these utterances, in order."""
        sums_f = torch.zeros(self.extractor.num_bins, dtype=torch.float64)
        squares_f, frames = sums_f.clone(), 0
        for index in rows:
            utterance = self.manifest.utterances[index]
            wave_n = load_wave(self.manifest, utterance, self.cfg.audio.sample_rate_hz, self.cfg.audio.resample)
            raw_btf, _ = self.extractor.raw(torch.from_numpy(wave_n)[None], torch.tensor([len(wave_n)]))
            sums_f += raw_btf[0].double().sum(0)
            squares_f += raw_btf[0].double().square().sum(0)
            frames += raw_btf.shape[1]
        self.extractor.fit(sums_f, squares_f, frames)


def _centres_hz(cfg: RunConfig, bins: int) -> npt.NDArray[np.float64]:
    """The frequency of each value of a frame, for ``augment.warp``. Shapes: (f,).

    Raises:
        ConfigError: values of a frame are not all bins of a spectrum.
    """
    features = cfg.features
    if features.kind == "mfcc" or features.deltas or features.context_frames:
        what = "mfcc" if features.kind == "mfcc" else "deltas" if features.deltas else "context_frames"
        raise ConfigError(
            f"augment.warp needs log_mel or spectrogram frames alone, not features with {what}: set augment.warp=0",
            key="augment.warp",
        )
    return bin_centres_hz(features, cfg.audio.sample_rate_hz, bins)
