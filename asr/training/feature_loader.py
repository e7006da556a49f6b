"""Features of training utterances as the network sees them in an epoch: distorted, warped and masked, all by seed.

Axes: n samples, t frames, f bins.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from asr.config import RunConfig
from asr.data import audio, shards
from asr.data.manifest import Manifest
from asr.errors import ConfigError
from asr.features.extractor import Extractor, NormalizedExtractor
from asr.runtime import generator, stable_seed
from asr.training.augment import bin_centres_hz, spec_augment, warp_frequencies
from asr.training.distort import Distorter
from asr.training.feature_files import FeatureFiles
from asr.utterance import Features, extract, fits_into_memory, load_wave


class FeatureLoader:
    """Load features of a manifest's utterances for training; those that do not change by epoch are kept in memory.

    Everything random depends on (seed, epoch, utterance id) alone.

    Raises:
        ConfigError: ``augment.warp`` or ``augment.spec`` is set and means nothing for features of this kind.
    """

    def __init__(self, manifest: Manifest, extractor: Extractor, cfg: RunConfig) -> None:
        self.manifest = manifest
        self.extractor = extractor
        self.cfg = cfg
        self._distort = Distorter(cfg.augment, cfg.audio.sample_rate_hz)
        _check_spec(cfg)
        if cfg.augment.warp:
            _check_warp(cfg)
            self._centres_hz = bin_centres_hz(cfg.features, cfg.audio.sample_rate_hz, extractor.num_bins)
        #: sample rates for which the log says already that they are resampled
        self._said_hz: set[int] = set()
        #: seconds of computing features, by epoch (from 0), summed over all workers
        self.seconds: defaultdict[int, float] = defaultdict(float)
        #: makes the features of an utterance that are the same in each epoch
        self.files = FeatureFiles(extractor, cfg.batch.feature_folder)
        self._cache: dict[tuple[int, float], Features] = {}
        self._cache_left = cfg.batch.feature_cache_mib * 2**20

    def features(self, index: int, speed: float, epoch: int) -> Features:
        """Return the features of one utterance, distorted but not yet masked. Shapes: (t, f)."""
        cached = self._cache.get((index, speed))
        if cached is not None:
            return cached

        began = time.perf_counter()
        cfg, utterance = self.cfg, self.manifest.utterances[index]
        wave_n = load_wave(self.manifest, utterance, cfg.audio.sample_rate_hz, cfg.audio.resample, self._said_hz)
        if speed != 1.0:
            wave_n = audio.change_speed(wave_n, speed, cfg.audio.sample_rate_hz)
        if self._distort.active:
            wave_n = self._distort(wave_n, generator(cfg.train.seed, "distort", epoch, utterance.id))
        dither_seed = None
        if cfg.features.dither > 0:
            dither_seed = stable_seed(cfg.train.seed, "dither", epoch, utterance.id)
        is_fixed = dither_seed is None and not self._distort.active
        with fits_into_memory(utterance):
            features_tf = self.files(wave_n) if is_fixed else extract(self.extractor, wave_n, dither_seed)

        if is_fixed and self._cache_left >= features_tf.nbytes:
            self._cache_left -= features_tf.nbytes
            self._cache[index, speed] = features_tf
        self.seconds[epoch] += time.perf_counter() - began
        return features_tf

    def augment(self, features_tf: Features, index: int, epoch: int, *view: str) -> Features:
        """Warp and mask features for an epoch. Shapes: (t, f) -> (t, f).

        Args:
            view: a name makes the draws differ from those without one.
        """
        cfg, seed = self.cfg, self.cfg.train.seed
        id_ = self.manifest.utterances[index].id
        if cfg.augment.warp:
            factor = 1 + cfg.augment.warp * generator(seed, "warp", epoch, id_, *view).uniform(-1, 1)
            features_tf = self._warp(features_tf, factor)

        spec = cfg.augment.spec
        if spec.freq_masks or spec.time_masks:
            context = cfg.features.context_frames
            # zero is the mean of normalised features only
            is_raw = cfg.features.normalization == "none" and len(features_tf)
            features_tf = spec_augment(
                features_tf,
                spec,
                self.extractor.hop_s,
                generator(seed, "spec", epoch, id_, *view),
                bins=self.extractor.num_bins // (1 + cfg.features.deltas) // (1 + 2 * context),
                context=context,
                fill_f=features_tf.mean(0) if is_raw else None,
            )
        return features_tf

    def _warp(self, features_tf: Features, factor: float) -> Features:
        if self.cfg.features.normalization != "corpus":
            return warp_frequencies(features_tf, factor, self._centres_hz)
        # The mean of the corpus belongs to a bin, not to what another vocal tract puts there.
        assert isinstance(self.extractor, NormalizedExtractor)
        mean_f, std_f = self.extractor.mean_f, self.extractor.std_f
        raw_tf = features_tf * std_f + mean_f
        warped_tf: Features = (warp_frequencies(raw_tf, factor, self._centres_hz) - mean_f) / std_f
        return warped_tf

    def read_ahead(self, items: Iterable[tuple[int, float]]) -> None:
        """Ask for the audio of these utterances in tar files before it is read."""
        missing = [index for index, speed in items if (index, speed) not in self._cache]
        shards.read_ahead(self.manifest.audio_path(self.manifest.utterances[index]) for index in missing)

    def fit_normalization(self, rows: Iterable[int]) -> None:
        """Set the extractor's corpus statistics from these utterances, in order."""
        assert isinstance(self.extractor, NormalizedExtractor)  # no other kind has them
        sums_f = np.zeros(self.extractor.num_bins)
        squares_f = np.zeros(self.extractor.num_bins)
        frames = 0
        for index in rows:
            utterance = self.manifest.utterances[index]
            wave_n = load_wave(self.manifest, utterance, self.cfg.audio.sample_rate_hz, self.cfg.audio.resample)
            raw_tf = self.extractor.raw(wave_n).astype(np.float64)
            sums_f += raw_tf.sum(0)
            squares_f += np.square(raw_tf).sum(0)
            frames += len(raw_tf)

        self.extractor.fit(sums_f, squares_f, frames)


def _check_warp(cfg: RunConfig) -> None:
    """Raise a ConfigError if the values of a frame are not all bins of a spectrum."""
    features = cfg.features
    is_other = features.kind not in ("log_mel", "spectrogram")
    kinds = {features.kind: is_other, "deltas": features.deltas, "context_frames": features.context_frames}
    for name, is_used in kinds.items():
        if is_used:
            raise ConfigError(
                f"augment.warp needs log_mel or spectrogram frames alone, not features with {name}: set augment.warp=0",
                key="augment.warp",
            )


def _check_spec(cfg: RunConfig) -> None:
    """Raise a ConfigError if the frames to mask are samples."""
    if cfg.features.kind == "wave" and (cfg.augment.spec.freq_masks or cfg.augment.spec.time_masks):
        raise ConfigError(
            "augment.spec masks frames of features, and features.kind: wave has samples; leave it out, and mask inside "
            "the network (model.wav2vec2.mask_time_probability, mask_channel_probability)",
            key="augment.spec",
        )
