"""Utterances padded to one batch, as training takes them.

Axes: b batch, t frames, f bins, u targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.utterance import Features


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
        """Return some of the utterances, padded to the longest of them, with their share of the seconds."""
        num_frames_b = self.num_frames_b[start:stop]
        num_targets_b = self.num_targets_b[start:stop]
        longest = int(num_frames_b.max())
        all_frames = max(1, int(self.num_frames_b.sum()))
        return Batch(
            features_btf=self.features_btf[start:stop, :longest],
            num_frames_b=num_frames_b,
            targets_bu=self.targets_bu[start:stop, : int(num_targets_b.max())],
            num_targets_b=num_targets_b,
            ids=self.ids[start:stop],
            duration_s=self.duration_s * int(num_frames_b.sum()) / all_frames,
            twin_btf=None if self.twin_btf is None else self.twin_btf[start:stop, :longest],
        )

    def pinned(self) -> Batch:
        """Return the batch in pinned memory, so that copies to a GPU need not wait for it."""
        return replace(
            self,
            features_btf=self.features_btf.pin_memory(),
            targets_bu=self.targets_bu.pin_memory(),
            twin_btf=None if self.twin_btf is None else self.twin_btf.pin_memory(),
        )

    @property
    def area(self) -> int:
        """Frames of one view, padding included."""
        return self.features_btf.shape[0] * self.features_btf.shape[1]


def empty_batch(bins: int) -> Batch:
    """Make a batch for a process that has nothing to do: one utterance of no frames, without an id."""
    no_length_b = torch.zeros(1, dtype=torch.int64)
    no_targets_bu = torch.zeros(1, 0, dtype=torch.int64)
    return Batch(torch.zeros(1, 1, bins), no_length_b, no_targets_bu, no_length_b, ids=(), duration_s=0.0)


def pad(features: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """Stack features of several lengths; also return the lengths. Shapes: b times (t, f) -> (b, t, f), (b,)."""
    features_btf = pad_sequence([torch.from_numpy(features_tf) for features_tf in features], batch_first=True)
    return features_btf, torch.tensor([len(features_tf) for features_tf in features])
