"""What training and use need of features of every kind, and the normalisation that several kinds share.

Axes: b batch, n samples, t frames, f bins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor, nn

from asr.config import FeatureConfig
from asr.errors import ConfigError

#: added to a bin's standard deviation: a bin that never changes (silence) becomes 0, not noise blown up
_STD_FLOOR = 1e-3


class Extractor(nn.Module):
    """Turns waves into features: what training needs of every kind."""

    #: samples per frame
    hop: int

    def __init__(self, cfg: FeatureConfig, sample_rate_hz: int) -> None:
        super().__init__()
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

    @property
    def device(self) -> torch.device:
        """Return the device that it computes on."""
        return torch.device("cpu")

    def use_device(self, device: torch.device | str) -> None:
        """Compute on the device of the network from now on, if that pays.

        It does not for most kinds: features are made one utterance at a time, and a core makes 1,000 seconds in one.
        """

    def describe(self) -> str:
        """Describe the features in a few words, for people."""
        every = f"{self.num_bins} values every {self.hop_s * 1000:g} ms"
        return f"{self.cfg.kind}, {every}, {self.cfg.normalization} normalization"

    def fingerprint(self) -> list[str]:
        """Return all that decides what comes out, as texts: settings, sample rate, and a checksum of the statistics."""
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy())
        return [self.cfg.model_dump_json(), str(self.sample_rate_hz), digest.hexdigest()]

    def num_frames(self, num_samples_b: Tensor) -> Tensor:
        """Count the frames of each wave. Shapes: (b,) -> (b,)."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return normalised features and the number of valid frames; frames beyond are zero.

        Shapes: (b, n), (b,) -> (b, t, f), (b,).

        Args:
            generator: draws the dither; without one there is none, as in use.
        """
        features_btf, num_frames_b = self.raw(waves_bn, num_samples_b, generator)
        return self.normalize(features_btf, num_frames_b), num_frames_b

    def raw(
        self, waves_bn: Tensor, num_samples_b: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute features before normalisation. Shapes: (b, n), (b,) -> (b, t, f), (b,)."""
        raise NotImplementedError

    def normalize(self, features_btf: Tensor, num_frames_b: Tensor) -> Tensor:
        """Bring features to a mean and variance; padding becomes, or stays, zero. Shapes: (b, t, f), (b,)."""
        raise NotImplementedError


class NormalizedExtractor(Extractor):
    """Turns waves into features that are brought to the mean and variance that ``cfg.normalization`` names.

    With ``corpus`` the buffers ``mean_f`` and ``std_f`` hold the statistics of the training set, which ``fit`` sets;
    they are saved with the model.
    """

    mean_f: Tensor
    std_f: Tensor

    def add_statistics(self, bins: int) -> None:
        """Add the buffers of the statistics."""
        self.register_buffer("mean_f", torch.zeros(bins))
        self.register_buffer("std_f", torch.ones(bins))

    @property
    def num_bins(self) -> int:
        """Values per frame, derivatives and context included."""
        return len(self.mean_f)

    @property
    def device(self) -> torch.device:
        """Return the device that it computes on."""
        return self.mean_f.device

    def normalize(self, features_btf: Tensor, num_frames_b: Tensor) -> Tensor:
        padded = len(features_btf) > 1 or int(num_frames_b[0]) < features_btf.shape[1]
        mask_bt1 = mask(num_frames_b, features_btf.shape[1])[:, :, None] if padded else 1.0
        if self.cfg.normalization == "utterance":
            count_b11 = num_frames_b.clamp(min=1)[:, None, None]
            mean_b1f = (features_btf * mask_bt1).sum(1, keepdim=True) / count_b11
            centred_btf = (features_btf - mean_b1f) * mask_bt1
            std_b1f = (centred_btf.square().sum(1, keepdim=True) / count_b11).sqrt()
            return centred_btf / (std_b1f + _STD_FLOOR)
        if self.cfg.normalization == "corpus":
            return (features_btf - self.mean_f) / self.std_f * mask_bt1
        return features_btf

    def fit(self, sums_f: Tensor, squares_f: Tensor, frames: int) -> None:
        """Set the corpus statistics from sums over all training frames (float64)."""
        mean_f = sums_f / frames
        variance_f = (squares_f / frames - mean_f.square()).clamp(min=0)
        self.mean_f.copy_(mean_f)
        self.std_f.copy_(variance_f.sqrt() + _STD_FLOOR)


def mask(num_b: Tensor, length: int) -> Tensor:
    """Return 1.0 inside and 0.0 beyond each length. Shapes: (b,) -> (b, length)."""
    return (torch.arange(length, device=num_b.device)[None, :] < num_b[:, None]).float()


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
