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
from asr.training.joined import join_waves
from asr.training.plan import Row
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
        self._cache: dict[Row, Features] = {}
        self._cache_left = cfg.batch.feature_cache_mib * 2**20

    def features(self, row: Row, epoch: int) -> Features:
        """Return the features of what is trained on as one utterance, distorted but not yet masked. Shapes: (t, f)."""
        cached = self._cache.get(row)
        if cached is not None:
            return cached

        began = time.perf_counter()
        cfg, id_ = self.cfg, row.name(self.manifest)
        wave_n = self._wave(row, epoch)
        if self._distort.active:
            wave_n = self._distort(wave_n, generator(cfg.train.seed, "distort", epoch, id_))
        dither_seed = None
        if cfg.features.dither > 0:
            dither_seed = stable_seed(cfg.train.seed, "dither", epoch, id_)
        # Joined utterances are others in each epoch.
        is_fixed = dither_seed is None and not self._distort.active and len(row.parts) == 1
        with fits_into_memory(self.manifest.utterances[row.parts[0][0]]):
            features_tf = self.files(wave_n) if is_fixed else extract(self.extractor, wave_n, dither_seed)

        if is_fixed and self._cache_left >= features_tf.nbytes:
            self._cache_left -= features_tf.nbytes
            self._cache[row] = features_tf
        self.seconds[epoch] += time.perf_counter() - began
        return features_tf

    def _wave(self, row: Row, epoch: int) -> audio.Wave:
        """Return the samples of a row at its speeds, its utterances joined. Shapes: (n,)."""
        rate_hz, waves = self.cfg.audio.sample_rate_hz, []
        for index, speed in row.parts:
            utterance = self.manifest.utterances[index]
            wave_n = load_wave(self.manifest, utterance, rate_hz, self.cfg.audio.resample, self._said_hz)
            waves.append(wave_n if speed == 1.0 else audio.change_speed(wave_n, speed, rate_hz))
        if len(waves) == 1:
            return waves[0]
        return join_waves(
            waves, row.pauses_s, rate_hz, generator(self.cfg.train.seed, "pause", epoch, row.name(self.manifest))
        )

    def augment(self, features_tf: Features, row: Row, epoch: int, *view: str) -> Features:
        """Warp and mask features for an epoch; joined utterances have as many masks in time as they would alone.

        Shapes: (t, f) -> (t, f).

        Args:
            view: a name makes the draws differ from those without one.
        """
        cfg, seed = self.cfg, self.cfg.train.seed
        id_ = row.name(self.manifest)
        if cfg.augment.warp:
            factor = 1 + cfg.augment.warp * generator(seed, "warp", epoch, id_, *view).uniform(-1, 1)
            features_tf = self._warp(features_tf, factor)

        spec = cfg.augment.spec
        if len(row.parts) > 1:
            spec = spec.model_copy(update={"time_masks": len(row.parts) * spec.time_masks})
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

    def read_ahead(self, rows: Iterable[Row]) -> None:
        """Ask for the audio of these utterances in tar files before it is read."""
        missing = [index for row in rows if row not in self._cache for index, _ in row.parts]
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
