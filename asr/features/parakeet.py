"""NVIDIA NeMo's log-mel features, which Conformer, FastConformer and Parakeet models of its own are trained on.

Axes: b batch, n samples, t frames, f bins. Frame ``i`` is centred on sample ``i * hop``; the signal is taken as zero
outside itself, and a batch gives what each utterance gives alone.

Source: NeMo, ``nemo/collections/asr/parts/preprocessing/features.py``, class ``FilterbankFeatures``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asr.config import FeatureConfig
from asr.features.extractor import Extractor, check_keys, mask
from asr.features.spectra import frame_sizes, power_spectrum

#: the keys that mean something
_USED = {"window_s", "hop_s", "fft_samples", "num_mels", "dither"}
#: the share of a sample that is taken from the next
_PREEMPHASIS = 0.97
#: added to the energy of a bin before the logarithm, and to a bin's standard deviation
_ENERGY_FLOOR, _STD_FLOOR = 2.0**-24, 1e-5


class ParakeetExtractor(Extractor):
    """Turns waves into log-mel bins, each brought to mean 0 and deviation 1 over the utterance."""

    window: Tensor
    mel_fb: Tensor

    def __init__(self, cfg: FeatureConfig, sample_rate_hz: int) -> None:
        """Check that the settings fit together, and make window and filters.

        Raises:
            ConfigError: they do not fit together, or mean nothing here.
        """
        super().__init__(cfg, sample_rate_hz)
        check_keys(cfg, _USED)
        window, self.hop, self.fft = frame_sizes(cfg, sample_rate_hz)

        # The buffers are not saved: they follow from the config.
        self.register_buffer("window", torch.hann_window(window, periodic=False), persistent=False)
        filters_fb = slaney_filters(self.fft // 2 + 1, cfg.num_mels, sample_rate_hz)
        self.register_buffer("mel_fb", filters_fb, persistent=False)

    @property
    def num_bins(self) -> int:
        """Values per frame."""
        return self.mel_fb.shape[1]

    @property
    def device(self) -> torch.device:
        """Return the device that it computes on."""
        return self.window.device

    def num_frames(self, num_samples_b: Tensor) -> Tensor:
        """Count the frames of each wave: NeMo leaves out the one at the very end. Shapes: (b,) -> (b,)."""
        return num_samples_b // self.hop

    def raw(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        num_frames_b = self.num_frames(num_samples_b)
        most = int(num_frames_b.max()) if len(num_frames_b) else 0
        if not most:  # torch has no spectrogram of nothing
            return waves_bn.new_zeros(len(waves_bn), 0, self.num_bins), num_frames_b

        is_beyond_bn = mask(num_samples_b, waves_bn.shape[1]) == 0
        if self.cfg.dither and generator is not None:
            noise_bn = torch.randn(waves_bn.shape, generator=generator, dtype=waves_bn.dtype)
            waves_bn = waves_bn + self.cfg.dither * noise_bn.to(waves_bn.device)
        # The first sample stays as it is.
        waves_bn = torch.cat([waves_bn[:, :1], waves_bn[:, 1:] - _PREEMPHASIS * waves_bn[:, :-1]], dim=1)

        power_btf = power_spectrum(waves_bn.masked_fill(is_beyond_bn, 0.0), self.window, self.hop, self.fft)
        # In this order the sums are rounded as in transformers.
        features_bft = (self.mel_fb.T @ power_btf.transpose(1, 2) + _ENERGY_FLOOR).log()
        return features_bft.transpose(1, 2)[:, :most], num_frames_b

    def normalize(self, features_btf: Tensor, num_frames_b: Tensor) -> Tensor:
        mask_bt1 = mask(num_frames_b, features_btf.shape[1])[:, :, None]
        mean_b1f = (features_btf * mask_bt1).sum(1, keepdim=True) / num_frames_b.clamp(min=1)[:, None, None]
        centred_btf = (features_btf - mean_b1f) * mask_bt1
        # A frame alone has no deviation: NeMo then takes 0.
        variance_b1f = centred_btf.square().sum(1, keepdim=True) / (num_frames_b - 1).clamp(min=1)[:, None, None]
        return centred_btf / (variance_b1f.sqrt() + _STD_FLOOR)


#: Slaney's mel scale: so many Hz per mel up to mel 15 (1000 Hz), then so much of the frequency's logarithm
_HZ_PER_MEL, _KNEE_MEL, _LOG_PER_MEL = 200.0 / 3, 15.0, math.log(6.4) / 27


def slaney_filters(num_bins: int, num_mels: int, sample_rate_hz: int) -> Tensor:
    """Make triangles of equal area on Slaney's mel scale, up to half the sample rate. Shapes: (bins of the FFT, mels).

    Source: Slaney 1998, "Auditory Toolbox", version 2; the same numbers as ``librosa.filters.mel``.
    """
    top_hz = sample_rate_hz / 2
    knee_hz = _KNEE_MEL * _HZ_PER_MEL
    top_mel = top_hz / _HZ_PER_MEL if top_hz <= knee_hz else _KNEE_MEL + math.log(top_hz / knee_hz) / _LOG_PER_MEL
    corners_mel = torch.linspace(0, top_mel, num_mels + 2, dtype=torch.float64)
    above_hz = knee_hz * ((corners_mel - _KNEE_MEL) * _LOG_PER_MEL).exp()
    corners_hz = torch.where(corners_mel < _KNEE_MEL, corners_mel * _HZ_PER_MEL, above_hz)

    bins_hz = torch.linspace(0, top_hz, num_bins, dtype=torch.float64)
    away_hz = corners_hz[None, :] - bins_hz[:, None]
    widths_hz = corners_hz[1:] - corners_hz[:-1]
    rising = away_hz[:, :-2] / -widths_hz[:-1]
    falling = away_hz[:, 2:] / widths_hz[1:]
    triangles_fb = torch.minimum(rising, falling).clamp(min=0)
    return (triangles_fb * 2 / (corners_hz[2:] - corners_hz[:-2])).float()
