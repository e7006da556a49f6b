"""NeMo's log-mel features beside those of transformers' ParakeetFeatureExtractor, stored by make_parakeet.py."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

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
#: the logarithm of a quiet bin is about -16, where float32 has steps of 1e-6; the norm divides by 0.1 to 1
CLOSE = {"atol": 2e-5, "rtol": 0}


def extract(name: str, *waves: np.ndarray, seed: int | None = None, **changes: float) -> list[np.ndarray]:
    """Features of waves in one batch, whose padding is not a number. Shapes: (n,) each -> (t, f) each."""
    cfg, rate_hz = CONFIGS[name]
    rows = [torch.from_numpy(wave_n) for wave_n in waves]
    waves_bn = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=float("nan"))
    extractor = build_extractor(cfg.model_copy(update=changes), rate_hz)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    features_btf, num_frames_b = extractor(waves_bn, torch.tensor([len(row) for row in rows]), generator)
    assert torch.equal(num_frames_b, extractor.num_frames(torch.tensor([len(row) for row in rows])))
    return [features_btf[i, :frames].numpy() for i, frames in enumerate(num_frames_b.tolist())]


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_those_of_transformers_alone_and_in_a_batch(name):
    stored, waves = np.load(FOLDER / "features.npz"), recordings()
    together = extract(name, *waves.values())
    for (what, wave_n), batched_tf in zip(waves.items(), together, strict=True):
        np.testing.assert_allclose(extract(name, wave_n)[0], stored[f"{name}, {what}"], **CLOSE)
        np.testing.assert_allclose(batched_tf, stored[f"{name}, {what}"], **CLOSE)


@pytest.mark.parametrize(("rate_hz", "fft", "mels"), [(16_000, 512, 80), (16_000, 512, 128), (1_600, 128, 12)])
def test_the_mel_filters_are_librosas(rate_hz, fft, mels):
    theirs_fb = librosa.filters.mel(sr=rate_hz, n_fft=fft, n_mels=mels).T
    np.testing.assert_allclose(slaney_filters(fft // 2 + 1, mels, rate_hz).numpy(), theirs_fb, atol=1e-8)


def test_a_frame_alone_is_zero_and_shorter_recordings_have_none():
    # Its deviation is 0 for NeMo, and not a number for transformers.
    one_tf, none_tf = extract("16 kHz", np.ones(160, np.float32), np.ones(159, np.float32))
    np.testing.assert_array_equal(one_tf, np.zeros((1, 80)))
    assert none_tf.shape == (0, 80)
    assert extract("16 kHz", np.zeros(0, np.float32))[0].shape == (0, 80)


def test_dither_is_drawn_in_training_only():
    wave_n = recordings()["short"]
    plain_tf, again_tf = extract("16 kHz", wave_n)[0], extract("16 kHz", wave_n, dither=1e-2)[0]
    np.testing.assert_array_equal(plain_tf, again_tf)
    drawn_tf = extract("16 kHz", wave_n, dither=1e-2, seed=1)[0]
    assert 0.01 < np.abs(drawn_tf - plain_tf).mean() < 1
    np.testing.assert_array_equal(drawn_tf, extract("16 kHz", wave_n, dither=1e-2, seed=1)[0])


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
