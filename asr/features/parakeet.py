"""NVIDIA NeMo's log-mel features, which Conformer, FastConformer and Parakeet models of its own are trained on.

Axes: n samples, t frames, f bins, m mel filters. Frame ``i`` is centred on sample ``i * hop``; the signal is taken as
zero outside itself.

Source: NeMo, ``nemo/collections/asr/parts/preprocessing/features.py``, class ``FilterbankFeatures``.
"""

from __future__ import annotations

import math

import numpy as np

from asr.config import FeatureConfig
from asr.features.extractor import Extractor, Floats, Longs, check_keys, standardized
from asr.features.spectra import LogSpectra, cosine_window, frame_sizes, triangles

#: the keys that mean something
_USED = {"window_s", "hop_s", "fft_samples", "num_mels", "dither"}
#: the share of a sample that is taken from the next
_PREEMPHASIS = 0.97
#: added to the energy of a bin before the logarithm, and to a bin's standard deviation
_ENERGY_FLOOR, _STD_FLOOR = 2.0**-24, 1e-5


class ParakeetExtractor(Extractor):
    """Turns waves into log-mel bins, each brought to mean 0 and deviation 1 over the utterance."""

    def __init__(self, cfg: FeatureConfig, sample_rate_hz: int) -> None:
        """Check that the settings fit together, and make window and filters.

        Raises:
            ConfigError: they do not fit together, or mean nothing here.
        """
        super().__init__(cfg, sample_rate_hz)
        check_keys(cfg, _USED)
        window, self.hop, self.fft = frame_sizes(cfg, sample_rate_hz)
        self.window_n = cosine_window(window, 0.5, is_periodic=False)
        self.mel_fm = slaney_filters(self.fft // 2 + 1, cfg.num_mels, sample_rate_hz)
        # No floor: what is added is one.
        self._spectra = LogSpectra(self.window_n, self.hop, self.fft, self.mel_fm, added=_ENERGY_FLOOR, floor=0.0)

    @property
    def num_bins(self) -> int:
        """Values per frame."""
        return int(self.mel_fm.shape[1])

    def num_frames(self, num_samples: Longs | int) -> Longs:
        """Count the frames of each wave: NeMo leaves out the one at the very end. Shapes: (b,) -> (b,)."""
        return np.asarray(num_samples) // self.hop

    def raw(self, wave_n: Floats, dither: np.random.Generator | None = None) -> Floats:
        """Compute features before normalisation. Shapes: (n,) -> (t, f)."""
        wave_n = self.with_dither(wave_n, dither)
        # The first sample stays as it is.
        wave_n = np.concatenate([wave_n[:1], wave_n[1:] - np.float32(_PREEMPHASIS) * wave_n[:-1]])
        return self._spectra(wave_n, int(self.num_frames(len(wave_n))))

    def normalize(self, features_tf: Floats) -> Floats:
        """Bring each bin to mean 0 and deviation 1. A frame alone has no deviation: NeMo then takes 0."""
        return standardized(features_tf, _STD_FLOOR, spare=1)


#: Slaney's mel scale: so many Hz per mel up to mel 15 (1000 Hz), then so much of the frequency's logarithm
_HZ_PER_MEL, _KNEE_MEL, _LOG_PER_MEL = 200.0 / 3, 15.0, math.log(6.4) / 27


def slaney_filters(num_bins: int, num_mels: int, sample_rate_hz: int) -> Floats:
    """Make triangles of equal area on Slaney's mel scale, up to half the sample rate. Shapes: (bins of the FFT, mels).

    Source: Slaney 1998, "Auditory Toolbox", version 2; the same numbers as ``librosa.filters.mel``.
    """
    top_hz = sample_rate_hz / 2
    knee_hz = _KNEE_MEL * _HZ_PER_MEL
    top_mel = top_hz / _HZ_PER_MEL if top_hz <= knee_hz else _KNEE_MEL + math.log(top_hz / knee_hz) / _LOG_PER_MEL
    corners_mel = np.linspace(0, top_mel, num_mels + 2)
    above_hz = knee_hz * np.exp((corners_mel - _KNEE_MEL) * _LOG_PER_MEL)
    corners_hz = np.where(corners_mel < _KNEE_MEL, corners_mel * _HZ_PER_MEL, above_hz)
    triangles_fm, widths_hz = triangles(corners_hz, np.linspace(0, top_hz, num_bins))
    return (triangles_fm * 2 / widths_hz).astype(np.float32)
