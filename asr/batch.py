"""Utterances as the network takes them: samples read, features computed, several padded to one batch.

Axes: b batch, n samples, t frames, f bins, u targets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.data import audio
from asr.data.manifest import Manifest, Utterance
from asr.errors import DataError
from asr.model.contract import AnyExtractor

log = logging.getLogger(__name__)
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Padded utterances with their lengths.

    Shapes: (b, t, f), (b,), (b, u), (b,); int64 lengths; padding is 0.
    """

    features_btf: Tensor
    num_frames_b: Tensor
    targets_bu: Tensor
    num_targets_b: Tensor
    ids: tuple[str, ...]
    #: seconds of audio, padding not counted
    duration_s: float
    #: the same utterances under other masks, for train.consistency. Shapes: (b, t, f)
    twin_btf: Tensor | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """Some of its utterances, padded to the longest of them; of the seconds their part."""
        num_frames_b, num_targets_b = self.num_frames_b[start:stop], self.num_targets_b[start:stop]
        longest = int(num_frames_b.max())
        return Batch(
            self.features_btf[start:stop, :longest], num_frames_b,
            self.targets_bu[start:stop, : int(num_targets_b.max())], num_targets_b,
            self.ids[start:stop], self.duration_s * int(num_frames_b.sum()) / max(1, int(self.num_frames_b.sum())),
            None if self.twin_btf is None else self.twin_btf[start:stop, :longest],
        )  # fmt: skip

    @property
    def area(self) -> int:
        """Frames of one view, padding included."""
        return self.features_btf.shape[0] * self.features_btf.shape[1]


def empty_batch(bins: int) -> Batch:
    """For a process that has nothing to do while others have: one utterance of no frames, which has no name."""
    return Batch(
        torch.zeros(1, 1, bins), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64), (), 0.0,
    )  # fmt: skip


def load_wave(
    manifest: Manifest, utterance: Utterance, sample_rate_hz: int, resample: bool, logged_hz: set[int] | None = None
) -> audio.Wave:
    """The samples of one utterance at the model's rate.

    Raises:
        DataError: as ``audio.load``, or shorter than the manifest says; the utterance is named.
    """
    try:
        path = manifest.audio_path(utterance)
        wave, rate = audio.load(
            path, offset_s=utterance.offset_s, duration_s=utterance.duration_s, channel=utterance.channel
        )
        remedy = "resample the corpus, set audio.resample=true in training, or pass --resample in use"
        fitted = audio.at_rate(wave, rate, sample_rate_hz, resample, path, remedy)
        if rate != sample_rate_hz and logged_hz is not None and rate not in logged_hz:
            logged_hz.add(rate)
            log.info("resampling %d Hz audio to %d Hz (first: utt '%s')", rate, sample_rate_hz, utterance.id)
        return fitted
    except DataError as error:
        raise DataError(f"utt '{utterance.id}': {error}") from error


def extract(extractor: AnyExtractor, wave_n: audio.Wave, seed: int | None = None) -> Features:
    """Features of one utterance, computed alone: no neighbour in a batch can matter. Shapes: (n,) -> (t, f)."""
    dither = None if seed is None else torch.Generator().manual_seed(seed)
    device = extractor.device
    waves_bn, num_samples_b = torch.from_numpy(wave_n)[None].to(device), torch.tensor([len(wave_n)], device=device)
    features_btf, _ = extractor(waves_bn, num_samples_b, dither)
    features_tf: Features = features_btf[0].cpu().numpy()
    return features_tf


def pad(features: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """Stacks features of several lengths. Shapes: b times (t, f) -> (b, t, f), (b,)."""
    num_frames_b = torch.tensor([len(f) for f in features])
    features_btf = torch.zeros(len(features), int(num_frames_b.max()), features[0].shape[1])
    for i, one_tf in enumerate(features):
        features_btf[i, : len(one_tf)] = torch.from_numpy(one_tf)
    return features_btf, num_frames_b
