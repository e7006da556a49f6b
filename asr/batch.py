"""Utterances as the network takes them: read the samples, compute the features, pad several to one batch.

Axes: b batch, n samples, t frames, f bins, u targets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.data import audio
from asr.data.manifest import Manifest, Utterance
from asr.errors import DataError
from asr.model.contract import AnyExtractor
from asr.runtime import is_out_of_memory

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


@contextmanager
def fits_into_memory(utterance: Utterance) -> Iterator[None]:
    """Turn a lack of memory into an error of one utterance, which is held in memory as a whole.

    Raises:
        DataError: the utterance is named.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        length = f"{utterance.duration_s / 60:,.0f} minutes"
        problem = f"utt '{utterance.id}': {length} as one utterance do not fit into the memory; cut it into parts"
        raise DataError(problem) from error


def load_wave(
    manifest: Manifest, utterance: Utterance, sample_rate_hz: int, resample: bool, logged_hz: set[int] | None = None
) -> audio.Wave:
    """Load the samples of one utterance at the model's rate.

    Args:
        resample: resample audio of another rate, which is an error otherwise.
        logged_hz: rates whose resampling has been logged already.

    Raises:
        DataError: as ``audio.load``, or shorter than the manifest says; the utterance is named.
    """
    remedy = "resample the corpus, set audio.resample=true in training, or pass --resample in use"
    path = manifest.audio_path(utterance)
    with fits_into_memory(utterance):
        try:
            wave_n, rate_hz = audio.load(
                path, offset_s=utterance.offset_s, duration_s=utterance.duration_s, channel=utterance.channel
            )
            wave_n = audio.at_rate(wave_n, rate_hz, sample_rate_hz, resample, path, remedy)
        except DataError as error:
            raise DataError(f"utt '{utterance.id}': {error}") from error

    if rate_hz != sample_rate_hz and logged_hz is not None and rate_hz not in logged_hz:
        logged_hz.add(rate_hz)
        log.info("resampling %d Hz audio to %d Hz (first: utt '%s')", rate_hz, sample_rate_hz, utterance.id)
    return wave_n


def extract(extractor: AnyExtractor, wave_n: audio.Wave, seed: int | None = None) -> Features:
    """Compute the features of one utterance. Shapes: (n,) -> (t, f).

    Args:
        seed: of the dither; without one there is none.
    """
    return extractor(wave_n, None if seed is None else np.random.default_rng(seed))


def pad(features: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """Stack features of several lengths; also return the lengths. Shapes: b times (t, f) -> (b, t, f), (b,)."""
    features_btf = pad_sequence([torch.from_numpy(features_tf) for features_tf in features], batch_first=True)
    return features_btf, torch.tensor([len(features_tf) for features_tf in features])
