"""Compiled spectra: equal to float64's, and the same bits wherever a frame is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st

from asr.config import FeatureConfig
from asr.features.compiled.lanes import LANES, log
from asr.features.compiled.plan import can_transform
from asr.features.extractor import standardized
from asr.features.frames import FeatureExtractor
from asr.features.spectra import LogSpectra, cosine_window
from asr.jit import compiled
from asr.model.cpu.vectors import load, store
from tests.builders import noise, sine

RATE_HZ = 16_000


def spectra(fft: int, window: int, hop: int = 160, **more: object) -> LogSpectra:
    """Logarithms of spectra whose floor no bin is under."""
    return LogSpectra(cosine_window(window, 0.5), hop, fft, **{"filters_fm": None, "floor": 1e-30, **more})


def exact_power(wave_n: np.ndarray, frames: int, fft: int, window: int, hop: int) -> np.ndarray:
    """The power spectrum in float64, by frames that are centred as the formula says. Shapes: (n,) -> (t, f)."""
    padded_n = np.concatenate([np.zeros(fft // 2), wave_n, np.zeros(frames * hop + fft)])
    at_n = (fft - window) // 2 + np.arange(window)
    window_n = cosine_window(window, 0.5).astype(np.float64)
    rows = [np.bincount(at_n, padded_n[t * hop + at_n] * window_n, fft) for t in range(frames)]
    return np.abs(scipy.fft.rfft(np.array(rows))) ** 2


@pytest.mark.parametrize(
    ("fft", "window"),
    [(512, 400), (16, 16), (32, 31), (320, 320), (400, 400), (480, 401), (600, 400), (1024, 512), (50, 3), (54, 54),
     (2048, 2000), (448, 400), (26, 20)],
)  # fmt: skip
def test_spectra_of_every_size_are_float64s(fft, window):
    wave_n = noise(0.5) + sine(0.5, 440.0)
    ours_tf = np.exp(spectra(fft, window)(wave_n, 51).astype(np.float64))
    exact_tf = exact_power(wave_n, 51, fft, window, 160)
    # An FFT in float32 rounds at 1e-7 of the largest bin; a logarithm of 8 at 5e-7.
    np.testing.assert_allclose(np.sqrt(ours_tf), np.sqrt(exact_tf), rtol=1e-6, atol=4e-7 * np.sqrt(exact_tf.max()))


def test_sizes_with_factors_above_five_go_another_way():
    assert all(can_transform(fft) for fft in (16, 320, 400, 480, 512, 600, 131_072))
    assert not any(can_transform(fft) for fft in (448, 26, 511))


@pytest.mark.parametrize("kind", ["spectrogram", "log_mel", "mfcc"])
def test_both_ways_give_the_same_features(kind):
    extractor = FeatureExtractor(FeatureConfig(kind=kind, normalization="none"), RATE_HZ)
    wave_n = noise(0.3) + sine(0.3, 300.0)
    spectra = extractor.spectra
    padded_n = np.pad(wave_n, (spectra.before, spectra.fft))
    one_tf, other_tf = spectra(wave_n, 31), spectra._through_numpy(padded_n, 31)
    # 2e-3 in the log for bins of a spectrum that are far below the tone, see above
    np.testing.assert_allclose(one_tf, other_tf, atol=2e-3 if kind == "spectrogram" else 1e-4, rtol=0)


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_a_frame_has_the_same_bits_whatever_comes_before_and_after(before, frames, seed):
    random = np.random.default_rng(seed)
    wave_n = random.normal(size=32).astype(np.float32)
    others = random.normal(size=100 * 32).astype(np.float32)
    extractor = spectra(32, 32, hop=32)
    moved_n = np.concatenate([others[: before * 32], np.zeros(32, np.float32), wave_n, others[: frames * 32]])
    # The window reaches 16 samples back from the wave's first one, where both have zeros.
    np.testing.assert_array_equal(extractor(moved_n, before + 2)[-1], extractor(wave_n, 1)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_stays_where_it_is(bad):
    wave_n = noise(0.5)
    wave_n[4000] = bad
    extractor = FeatureExtractor(FeatureConfig(normalization="none"), RATE_HZ)
    with np.errstate(invalid="ignore"):
        features_tf = extractor(wave_n)
    clean_tf = extractor(noise(0.5))
    touched = np.abs(np.arange(len(features_tf)) * 160 - 4000) < 200
    assert np.isnan(features_tf[touched]).all()
    np.testing.assert_array_equal(features_tf[~touched], clean_tf[~touched])


def test_power_too_large_for_float32_is_infinite():
    features_tf = spectra(32, 32)(np.full(1000, 1e20, np.float32), 5)
    assert np.isposinf(features_tf[:, 0]).all()


def test_a_floor_below_the_smallest_number_gives_no_infinity():
    silent_tf = spectra(32, 32, floor=1e-300)(np.zeros(1000, np.float32), 5)
    np.testing.assert_allclose(silent_tf, np.log(np.finfo(np.float32).tiny), rtol=1e-6)


@compiled
def _logs(x_n: np.ndarray, out_n: np.ndarray) -> None:
    for i in range(0, len(x_n), LANES):
        store(out_n, i, log(load(x_n, i)))


def test_logarithms_are_good_to_two_units_in_the_last_place():
    powers_n = 2.0 ** np.random.default_rng(0).uniform(-126, 127, 2**18)
    near_one_n = np.random.default_rng(1).uniform(0.7, 1.5, 2**18)
    x_n = np.concatenate([powers_n, near_one_n, np.full(LANES, 1.0)]).astype(np.float32)
    ours_n = np.empty_like(x_n)
    _logs(x_n, ours_n)
    exact_n = np.log(x_n.astype(np.float64))
    assert (np.abs(ours_n - exact_n) <= 2 * np.spacing(np.abs(exact_n).astype(np.float32))).all()
    assert not ours_n[-LANES:].any()


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 1]), st.integers(0, 2**31))
def test_the_norm_of_an_utterance_is_float64s(frames, bins, spare, seed):
    features_tf = np.random.default_rng(seed).normal(-8, 3, (frames, bins)).astype(np.float32)
    ours_tf = standardized(features_tf, 1e-3, spare)
    away_tf = features_tf - features_tf.mean(0, dtype=np.float64)
    deviation_f = np.sqrt(np.square(away_tf).sum(0) / max(frames - spare, 1))
    # The mean is rounded to 1e-6; few frames may differ as little as the floor.
    np.testing.assert_allclose(ours_tf, away_tf / (deviation_f + 1e-3), atol=1e-6 / (deviation_f.min() + 1e-3))


def test_features_load_neither_torch_nor_numba_once_they_are_compiled():
    extractor = FeatureExtractor(FeatureConfig(), RATE_HZ)
    extractor(noise(0.1))  # compiled at the latest now
    script = (
        "import numpy, sys\n"
        "from asr.config import FeatureConfig\n"
        "from asr.features.frames import FeatureExtractor\n"
        "extractor = FeatureExtractor(FeatureConfig(), 16000)\n"
        "assert extractor(numpy.zeros(0, 'f')).shape == (0, 80)\n"
        "assert extractor(numpy.zeros(1600, 'f')).shape == (11, 80)\n"
        "sys.exit(', '.join({'torch', 'numba', 'scipy'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
