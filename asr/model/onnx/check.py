"""Compare a graph with the network that it was written from, before anybody relies on it.

Axes: b batch, n samples, t frames, s steps, f bins, v vocabulary.
"""

from __future__ import annotations

import numpy as np

from asr.errors import AsrError
from asr.model.onnx.graph import Floats
from asr.model.onnx.session import Session, Stream
from asr.model.trainable import TrainableModel
from asr.utterance import extract

#: the most that a log-probability of a graph in float32 may differ
_TOLERANCE = 1e-4
#: frames of utterances that are batches of their own: padded, with one of no frames and one of a single frame; alone
_BATCHES: tuple[tuple[int, ...], ...] = ((157, 90, 0, 33, 1), (301, 299), (64,))


def largest_difference(model: TrainableModel, session: Session, *, from_samples: bool) -> float:
    """Return the largest difference of a log-probability between a graph and its network, on made-up utterances.

    Batches are padded with values that are not numbers, and hold utterances without frames.

    Raises:
        AsrError: the graph gives another number of steps, or something that is no number.
    """
    rng = np.random.default_rng(0)
    differences = []
    for lengths in _BATCHES:
        if session.states and from_samples:
            # A stream cannot know that it was empty: its first frame is at its start.
            lengths = tuple(length for length in lengths if length)
        if from_samples:
            given = [_sound(rng, length * model.extractor.hop, model.audio.sample_rate_hz) for length in lengths]
            features = [extract(model.extractor, wave_n) for wave_n in given]
        else:
            bins = model.extractor.num_bins
            features = given = [rng.standard_normal((length, bins)).astype(np.float32) for length in lengths]
        answers = [in_pieces(session, one) for one in given] if session.states else session.run(given)
        for ours_sv, features_tf in zip(answers, features, strict=True):
            differences.append(_difference(ours_sv, model.network.each([features_tf])[0]))
    return float(np.max(differences))  # which is no number if any is none


def check(model: TrainableModel, session: Session, *, from_samples: bool) -> float:
    """Return ``largest_difference``, which must be small.

    Raises:
        AsrError: it is not, and the graph must not be used.
    """
    worst = largest_difference(model, session, from_samples=from_samples)
    if not worst <= _TOLERANCE:
        raise AsrError(
            f"the graph's log-probabilities differ from the network's by {worst:.1e}, more than {_TOLERANCE:.0e}: "
            "nothing was written; please report this model's config.json"
        )
    return worst


def in_pieces(session: Session, utterance: Floats) -> Floats:
    """Return a streaming graph's answers to an utterance in pieces of growing lengths, the first and last empty."""
    stream = Stream(session)
    answers = [stream.push(utterance[:0], is_last=False)]
    start, length = 0, 1
    while start < len(utterance):
        answers.append(stream.push(utterance[start : start + length], is_last=False))
        start += length
        length = 2 * length + 1
    answers.append(stream.push(utterance[:0], is_last=True))
    return np.concatenate(answers)


def _difference(ours_sv: Floats, theirs_sv: Floats) -> float:
    if ours_sv.shape != theirs_sv.shape:
        raise AsrError(f"the graph gives {ours_sv.shape}, the network {theirs_sv.shape}: nothing was written")
    return float(np.abs(ours_sv - theirs_sv).max(initial=0.0))


def _sound(rng: np.random.Generator, length: int, rate_hz: int) -> Floats:
    """Make a voice-like sound: harmonics of a gliding tone, louder and softer, over a little noise. Shapes: (n,)."""
    at_s = np.arange(length) / rate_hz
    phase_n = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.3 * at_s)) / rate_hz
    harmonics = sum(np.sin(k * phase_n) / k for k in range(1, 20))
    loudness_n = 0.5 + 0.5 * np.sin(2 * np.pi * 2.1 * at_s)
    wave_n = 0.2 * loudness_n * harmonics + 0.003 * rng.standard_normal(length)
    return wave_n.astype(np.float32)
