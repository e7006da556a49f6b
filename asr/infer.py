"""The one forward pass of use: validation, evaluation and transcription all go through here.

Axes: s steps, v vocabulary, t frames, f bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from asr.batch import Features, extract, load_wave, pad
from asr.checkpoint import AcousticModel
from asr.decode.types import LogProbs
from asr.errors import AsrError, DataError
from asr.manifest import Manifest, Utterance

#: padded audio in one batch, seconds: it bounds the memory
BATCH_S = 80.0


def log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs]:
    """Log-probabilities of utterances as one padded batch; each is what it would be alone.

    Shapes: b times (t, f) -> b times (s, v).

    Raises:
        AsrError: the model is broken: a log-probability is not a number.
    """
    if not features:
        return []
    features_btf, num_frames_b = pad(features)
    model.network.eval()
    with torch.inference_mode():
        log_probs_bsv, num_steps_b = model.network(features_btf.to(model.device), num_frames_b.to(model.device))
    all_bsv = log_probs_bsv.float().cpu().numpy()
    for i, steps in enumerate(num_steps_b.tolist()):
        if np.isnan(all_bsv[i, :steps]).any():
            raise AsrError("the model gives values that are not numbers: its weights are damaged, or training diverged")
    return [all_bsv[i, :steps] for i, steps in enumerate(num_steps_b.tolist())]


def batched(durations_s: Sequence[float], batch_s: float = BATCH_S) -> Iterator[list[int]]:
    """Indexes in batches of like duration, none padded beyond ``batch_s`` (one longer utterance goes alone)."""
    batch: list[int] = []
    for i in sorted(range(len(durations_s)), key=durations_s.__getitem__):
        if batch and (len(batch) + 1) * durations_s[i] > batch_s:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def all_log_probs(model: AcousticModel, features: Sequence[Features]) -> list[LogProbs]:
    """Log-probabilities of any number of utterances, in their own order."""
    out: list[LogProbs] = [None] * len(features)  # type: ignore[list-item]
    for indexes in batched([len(one_tf) * model.extractor.cfg.hop_s for one_tf in features]):
        for i, one_sv in zip(indexes, log_probs(model, [features[i] for i in indexes]), strict=True):
            out[i] = one_sv
    return out


def of_manifest(model: AcousticModel, manifest: Manifest) -> Iterator[tuple[Utterance, LogProbs | DataError]]:
    """Each utterance of a manifest with its log-probabilities, or with why its audio cannot be used.

    They come in batches of like duration, so not in the manifest's order. Audio and features are held for one batch at
    a time: memory does not grow with the manifest.
    """
    rows = manifest.utterances
    said_hz: set[int] = set()
    for indexes in batched([u.duration_s for u in rows]):
        loaded: list[tuple[Utterance, Features]] = []
        for utterance in (rows[i] for i in indexes):
            try:
                wave_n = load_wave(manifest, utterance, model.audio.sample_rate_hz, model.audio.resample, said_hz)
            except DataError as error:
                yield utterance, error
                continue
            loaded.append((utterance, extract(model.extractor, wave_n)))
        every_sv = log_probs(model, [features_tf for _, features_tf in loaded])
        yield from ((utterance, one_sv) for (utterance, _), one_sv in zip(loaded, every_sv, strict=True))
