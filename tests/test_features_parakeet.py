"""NeMo's log-mel features beside those of transformers' ParakeetFeatureExtractor, stored by make_parakeet.py."""

from __future__ import annotations

import librosa
import numpy as np
import pytest

from asr.config import FeatureConfig, RunConfig, parse
from asr.errors import ConfigError
from asr.features.build import build_extractor
from asr.features.parakeet import slaney_filters
from asr.training.feature_loader import _check_warp
from tests.make_parakeet import FOLDER, recordings

CONFIGS = {
    "16 kHz": (FeatureConfig(kind="parakeet"), 16_000),
    "8 kHz": (FeatureConfig(kind="parakeet", num_mels=64), 8_000),
}
#: theirs and ours are each up to 1e-4 from what float64 gives, in the bins that pre-emphasis makes quietest
CLOSE = {"atol": 2e-4, "rtol": 0}


def extract(name: str, wave_n: np.ndarray, seed: int | None = None, **changes: float) -> np.ndarray:
    """Features of one wave. Shapes: (n,) -> (t, f)."""
    cfg, rate_hz = CONFIGS[name]
    extractor = build_extractor(cfg.model_copy(update=changes), rate_hz)
    features_tf = extractor(wave_n, None if seed is None else np.random.default_rng(seed))
    assert len(features_tf) == extractor.num_frames(len(wave_n))
    return features_tf


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_those_of_transformers(name):
    stored = np.load(FOLDER / "features.npz")
    for what, wave_n in recordings().items():
        np.testing.assert_allclose(extract(name, wave_n), stored[f"{name}, {what}"], **CLOSE)


@pytest.mark.parametrize(("rate_hz", "fft", "mels"), [(16_000, 512, 80), (16_000, 512, 128), (1_600, 128, 12)])
def test_the_mel_filters_are_librosas(rate_hz, fft, mels):
    theirs_fb = librosa.filters.mel(sr=rate_hz, n_fft=fft, n_mels=mels).T
    np.testing.assert_allclose(slaney_filters(fft // 2 + 1, mels, rate_hz), theirs_fb, atol=1e-8)


def test_a_frame_alone_is_zero_and_shorter_recordings_have_none():
    # Its deviation is 0 for NeMo, and not a number for transformers.
    np.testing.assert_array_equal(extract("16 kHz", np.ones(160, np.float32)), np.zeros((1, 80)))
    assert extract("16 kHz", np.ones(159, np.float32)).shape == (0, 80)
    assert extract("16 kHz", np.zeros(0, np.float32)).shape == (0, 80)


def test_dither_is_drawn_in_training_only():
    wave_n = recordings()["short"]
    plain_tf, again_tf = extract("16 kHz", wave_n), extract("16 kHz", wave_n, dither=1e-2)
    np.testing.assert_array_equal(plain_tf, again_tf)
    drawn_tf = extract("16 kHz", wave_n, dither=1e-2, seed=1)
    assert 0.01 < np.abs(drawn_tf - plain_tf).mean() < 1
    np.testing.assert_array_equal(drawn_tf, extract("16 kHz", wave_n, dither=1e-2, seed=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization": "corpus"}, "features.normalization means nothing for kind: parakeet"),
        ({"preemphasis": 0.5}, "features.preemphasis means nothing for kind: parakeet"),
        ({"fft_samples": 256}, "a window of 400 and a hop of 160 samples do not fit an FFT of 256"),
        ({"hop_s": 1e-4, "fft_samples": 16_384}, "use a longer hop_s"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(changes, message):
    cfg, rate_hz = CONFIGS["16 kHz"]
    with pytest.raises(ConfigError, match=message):
        build_extractor(cfg.model_copy(update=changes), rate_hz)


def test_frequencies_cannot_be_warped():
    cfg = parse(RunConfig, {"features": {"kind": "parakeet"}, "augment": {"warp": 0.1}}, "config")
    with pytest.raises(ConfigError, match="not features with parakeet"):
        _check_warp(cfg)
