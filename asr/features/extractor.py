"""What training and use need of features of every kind, and the normalisation that several kinds share.

Axes: b batch, n samples, t frames, f bins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.native import Native

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
#: by name, what is saved with a model
Statistics = dict[str, npt.NDArray[Any]]

_standardize = Native("asr.features.compiled.spectra", "standardize")
#: added to a bin's standard deviation: a bin that never changes (silence) becomes 0, not noise blown up
_STD_FLOOR = 1e-3


class Extractor:
    """Turns the wave of one utterance into features: what training needs of every kind."""

    #: samples per frame
    hop: int

    def __init__(self, cfg: FeatureConfig, sample_rate_hz: int) -> None:
        self.cfg = cfg
        self.sample_rate_hz = sample_rate_hz

    @property
    def hop_s(self) -> float:
        """Seconds per frame."""
        return self.hop / self.sample_rate_hz

    @property
    def num_bins(self) -> int:
        """Values per frame."""
        raise NotImplementedError

    def use_device(self, device: object) -> None:
        """Compute on the device of the network from now on, a ``torch.device`` or its name, if that pays.

        It does not for most kinds: a core makes the features of thousands of seconds in one.
        """

    def describe(self) -> str:
        """Describe the features in a few words, for people."""
        every = f"{self.num_bins} values every {self.hop_s * 1000:g} ms"
        return f"{self.cfg.kind}, {every}, {self.cfg.normalization} normalization"

    def statistics(self) -> Statistics:
        """Return what is saved with the model, by name: what the config does not say."""
        return {}

    def set_statistics(self, statistics: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set what ``statistics`` gave; copies are kept."""

    def fingerprint(self) -> list[str]:
        """Return all that decides what comes out, as texts: settings, sample rate, and a checksum of the statistics."""
        digest = hashlib.sha256()
        for name, values in self.statistics().items():
            digest.update(name.encode())
            digest.update(values.tobytes())
        return [self.cfg.model_dump_json(), str(self.sample_rate_hz), digest.hexdigest()]

    def num_frames(self, num_samples: Longs | int) -> Longs:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""
        raise NotImplementedError

    def __call__(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Compute normalised features. Shapes: (n,) -> (t, f).

        Args:
            dither: draws the dither; without one there is none, as in use.
        """
        return self.normalize(self.raw(wave_n, dither))

    def raw(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Compute features before normalisation. Shapes: (n,) -> (t, f)."""
        raise NotImplementedError

    def normalize(self, features_tf: Floats) -> Floats:
        """Bring features to a mean and variance. Shapes: (t, f) -> (t, f)."""
        raise NotImplementedError

    def with_dither(self, wave_n: Floats, dither: np.random.Generator | None) -> Floats:
        """Add what ``cfg.dither`` asks for, if there is a generator to draw it. Shapes: (n,) -> (n,)."""
        if not self.cfg.dither or dither is None:
            return wave_n
        return wave_n + np.float32(self.cfg.dither) * dither.standard_normal(len(wave_n), np.float32)


class NormalizedExtractor(Extractor):
    """Turns waves into features that are brought to the mean and variance that ``cfg.normalization`` names.

    With ``corpus``, ``mean_f`` and ``std_f`` hold the statistics of the training set, which ``fit`` sets; they are
    saved with the model.
    """

    mean_f: Floats
    std_f: Floats

    def add_statistics(self, bins: int) -> None:
        """Add statistics that change nothing."""
        self.mean_f = np.zeros(bins, np.float32)
        self.std_f = np.ones(bins, np.float32)

    @property
    def num_bins(self) -> int:
        """Values per frame, derivatives and context included."""
        return len(self.mean_f)

    def statistics(self) -> Statistics:
        """Return mean and deviation, which every model has, whether they are used or not."""
        return {"mean_f": self.mean_f, "std_f": self.std_f}

    def set_statistics(self, statistics: Mapping[str, npt.NDArray[Any]]) -> None:
        self.mean_f = np.array(statistics["mean_f"], np.float32)
        self.std_f = np.array(statistics["std_f"], np.float32)

    def normalize(self, features_tf: Floats) -> Floats:
        if self.cfg.normalization == "corpus":
            return (features_tf - self.mean_f) / self.std_f
        if self.cfg.normalization == "utterance":
            return standardized(features_tf, _STD_FLOOR)
        return features_tf

    def fit(self, sums_f: npt.NDArray[np.float64], squares_f: npt.NDArray[np.float64], frames: int) -> None:
        """Set the corpus statistics from sums over all training frames."""
        mean_f = sums_f / frames
        variance_f = np.maximum(squares_f / frames - np.square(mean_f), 0)
        self.mean_f = mean_f.astype(np.float32)
        self.std_f = (np.sqrt(variance_f) + _STD_FLOOR).astype(np.float32)


def standardized(features_tf: Floats, floor: float, spare: int = 0) -> Floats:
    """Bring each bin to mean 0 and deviation 1 over the frames. Shapes: (t, f) -> (t, f).

    Args:
        floor: added to the deviation.
        spare: the sum of squares is divided by so many frames less than there are, though by one at least.
    """
    if not len(features_tf):
        return features_tf
    bins = features_tf.shape[1]
    standard_tf = np.empty(features_tf.shape, np.float32)
    room = np.empty(bins), np.empty(bins, np.float32), np.empty(bins, np.float32)
    _standardize(np.ascontiguousarray(features_tf), floor, spare, standard_tf, *room)
    return standard_tf


def check_keys(cfg: FeatureConfig, used: Collection[str]) -> None:
    """Refuse a setting that means nothing for this kind of features.

    Raises:
        ConfigError: a key that is not ``used`` is set; it is named.
    """
    for key, field in type(cfg).model_fields.items():
        if key != "kind" and key not in used and getattr(cfg, key) != field.default:
            raise ConfigError(
                f"features.{key} means nothing for kind: {cfg.kind}; leave it out (used are {', '.join(sorted(used))})",
                key=f"features.{key}",
            )
