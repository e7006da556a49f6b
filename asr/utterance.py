"""One utterance as a network takes it: read the samples, compute the features.

Axes: n samples, t frames, f bins.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from asr.data import audio
from asr.data.manifest import Manifest, Utterance
from asr.errors import DataError
from asr.machine import is_out_of_memory
from asr.model.contract import AnyExtractor

log = logging.getLogger(__name__)
Features = npt.NDArray[np.float32]


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
