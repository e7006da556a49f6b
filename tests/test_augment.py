"""SpecAugment: bands and stretches of zeros within the configured widths, drawn from the given generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.config import FeatureConfig, SpecAugmentConfig
from asr.training.augment import bin_centres_hz, spec_augment, warp_frequencies

HOP_S = 0.01


def ones(frames: int = 100, bins: int = 40) -> np.ndarray:
    return np.ones((frames, bins), np.float32)


def augment(features_tf: np.ndarray, seed: int = 0, **settings: float) -> np.ndarray:
    return spec_augment(features_tf, SpecAugmentConfig(**settings), HOP_S, np.random.default_rng(seed))


def runs(zero_s: np.ndarray) -> list[int]:
    """Widths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], zero_s.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


def test_the_input_is_left_alone_and_no_masks_change_nothing():
    features_tf = ones()
    out_tf = augment(features_tf, freq_masks=2, time_masks=2)
    assert (features_tf == 1).all()
    assert not (out_tf == 1).all()
    np.testing.assert_array_equal(augment(features_tf), features_tf)


def test_the_generator_alone_decides():
    settings = {"freq_masks": 2, "time_masks": 2}
    np.testing.assert_array_equal(augment(ones(), 1, **settings), augment(ones(), 1, **settings))
    assert any((augment(ones(), 1, **settings) != augment(ones(), s, **settings)).any() for s in (2, 3))


@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 60), st.integers(1, 45))
def test_one_frequency_mask_is_one_band_over_all_frames_no_wider_than_configured(seed, frames, width, bins):
    out_tf = augment(ones(frames, bins), seed, freq_masks=1, freq_width_bins=width)
    if not frames:
        return
    assert (out_tf == out_tf[:1]).all(), "the same in every frame"
    widths = runs(out_tf[0] == 0)
    assert len(widths) <= 1
    assert sum(widths) <= min(width, bins)


@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 2))
def test_what_is_hidden_is_hidden_in_derivatives_and_neighbours_too(seed, context, deltas):
    """A frame's number and a bin's number stand in every value: wherever they stand, they are hidden or none is."""
    frames, bins, width = 30, 7, (2 * context + 1) * (1 + deltas)
    frame_t = np.clip(np.arange(frames)[:, None] + np.arange(-context, context + 1), 0, frames - 1)
    numbers = 1 + frame_t[:, :, None, None] * bins + np.arange(bins)  # place, derivative, bin
    features_tf = np.broadcast_to(numbers, (frames, 2 * context + 1, 1 + deltas, bins)).reshape(frames, width * bins)
    cfg = SpecAugmentConfig(freq_masks=1, freq_width_bins=4, time_masks=1, time_width_s=0.1, time_width_fraction=0.3)
    random = np.random.default_rng(seed)
    out_tf = spec_augment(features_tf.astype(np.float32), cfg, HOP_S, random, bins=bins, context=context)
    hidden = set(features_tf[out_tf == 0].tolist())
    assert not hidden & set(out_tf[out_tf != 0].tolist())
    alone_tf = spec_augment(ones(frames, bins), cfg, HOP_S, np.random.default_rng(seed))
    middle = out_tf.reshape(frames, 2 * context + 1, 1 + deltas, bins)[:, context, 0]
    np.testing.assert_array_equal(middle == 0, alone_tf == 0)


def test_what_is_hidden_can_be_filled_with_another_value():
    fill_f = np.arange(40, dtype=np.float32) - 10
    settings = SpecAugmentConfig(freq_masks=2, time_masks=2)
    features_tf = np.full((100, 40), 99, np.float32)
    out_tf = spec_augment(features_tf, settings, HOP_S, np.random.default_rng(3), fill_f=fill_f)
    zero_tf = spec_augment(features_tf, settings, HOP_S, np.random.default_rng(3))
    assert (zero_tf == 0).any()
    np.testing.assert_array_equal(out_tf, np.where(zero_tf == 0, fill_f, features_tf))


@given(st.integers(0, 10**6), st.integers(0, 120), st.floats(0, 1), st.floats(0, 1))
def test_one_time_mask_is_one_stretch_over_all_bins_within_both_limits(seed, frames, width_s, fraction):
    out_tf = augment(ones(frames, 3), seed, time_masks=1, time_width_s=width_s, time_width_fraction=fraction)
    assert (out_tf == out_tf[:, :1]).all(), "the same in every bin"
    widths = runs(out_tf[:, 0] == 0)
    assert len(widths) <= 1
    assert sum(widths) <= min(round(width_s / HOP_S), fraction * frames)


def test_every_width_and_every_place_is_drawn():
    drawn = [augment(ones(10, 6), seed, freq_masks=1, freq_width_bins=3)[0] == 0 for seed in range(300)]
    assert {sum(runs(one)) for one in drawn} == {0, 1, 2, 3}
    assert np.any(drawn, axis=0).all(), "edge bins included"
    drawn = [
        augment(ones(10, 6), seed, time_masks=1, time_width_s=1.0, time_width_fraction=0.3)[:, 0] == 0
        for seed in range(300)
    ]
    assert {sum(runs(one)) for one in drawn} == {0, 1, 2, 3}
    assert np.any(drawn, axis=0).all(), "first and last frame included"


@pytest.mark.parametrize("kind", ["freq", "time"])
def test_several_masks_are_drawn_apart(kind):
    settings = {"freq_masks": 3, "freq_width_bins": 4} if kind == "freq" else {"time_masks": 3}
    rows = [augment(ones(), seed, **settings) == 0 for seed in range(50)]
    most = max(len(runs(row[0] if kind == "freq" else row[:, 0])) for row in rows)
    assert most == 3


def test_masked_values_are_zero_and_all_others_are_kept():
    features_tf = np.random.default_rng(0).uniform(1, 2, (50, 20)).astype(np.float32)
    out_tf = augment(features_tf, freq_masks=1, time_masks=1, time_width_fraction=0.5)
    assert out_tf.dtype == np.float32
    kept = out_tf != 0
    np.testing.assert_array_equal(out_tf[kept], features_tf[kept])
    assert 0 < kept.sum() < kept.size


CENTRES_HZ = bin_centres_hz(FeatureConfig(), 16000, 80)


def test_bins_lie_where_the_filters_of_the_features_have_their_peaks(torchaudio):
    filters_mf = torchaudio.functional.melscale_fbanks(2049, 20.0, 8000.0, 80, 16000).numpy()
    peaks_hz = filters_mf.argmax(axis=0) * 8000 / 2048
    np.testing.assert_allclose(CENTRES_HZ, peaks_hz, atol=8000 / 2048)
    linear_hz = bin_centres_hz(FeatureConfig(kind="spectrogram"), 16000, 257)
    np.testing.assert_allclose(linear_hz[[0, 128, 256]], [0, 4000, 8000])


@given(st.floats(0.8, 1.25), st.integers(20, 50))
def test_warping_moves_a_tone_by_its_factor(factor, at):
    tone_tf = np.zeros((3, 80), np.float32)
    tone_tf[:, at] = 1
    warped_tf = warp_frequencies(tone_tf, factor, CENTRES_HZ)
    expected_hz = CENTRES_HZ[at] / factor
    if expected_hz < CENTRES_HZ[-2]:
        found_hz = (warped_tf[0] * CENTRES_HZ).sum() / warped_tf[0].sum()
        assert (
            abs(np.interp(found_hz, CENTRES_HZ, np.arange(80)) - np.interp(expected_hz, CENTRES_HZ, np.arange(80))) < 1
        )


def test_a_factor_of_one_changes_nothing_and_the_input_is_left_alone():
    features_tf = np.random.default_rng(0).normal(size=(7, 80)).astype(np.float32)
    before = features_tf.copy()
    np.testing.assert_allclose(warp_frequencies(features_tf, 1.0, CENTRES_HZ), features_tf, atol=1e-6)
    out_tf = warp_frequencies(features_tf, 1.2, CENTRES_HZ)
    assert out_tf.shape == features_tf.shape and out_tf.dtype == np.float32 and np.isfinite(out_tf).all()
    np.testing.assert_array_equal(features_tf, before)
