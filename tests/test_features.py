"""Features: equal to librosa's, and as many frames as the formula says."""

from __future__ import annotations

import subprocess
import sys

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr import utterance
from asr.config import FeatureConfig
from asr.errors import ConfigError
from asr.features.frames import FeatureExtractor, _slopes, cosines, mel_filters
from tests.builders import noise, sine

RATE_HZ = 16000
KINDS = ("spectrogram", "log_mel", "mfcc")
#: a cheap front-end: 64-sample windows every 32 samples
SMALL = {"window_s": 0.004, "hop_s": 0.002, "num_mels": 6, "num_ceps": 4, "low_hz": 0.0}


def extract(cfg: FeatureConfig, wave_n: np.ndarray, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Features of one wave alone. Shapes: (n,) -> (t, f)."""
    return FeatureExtractor(cfg, rate_hz)(wave_n)


def speech_like(duration_s: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Noise and a tone: every bin is far above the power floor."""
    return noise(duration_s, rate_hz) + sine(duration_s, 440.0, rate_hz)


def librosa_power_ft(wave_n: np.ndarray, cfg: FeatureConfig, rate_hz: int) -> np.ndarray:
    stft = librosa.stft(
        wave_n.astype(np.float64),
        n_fft=FeatureExtractor(cfg, rate_hz).fft,
        hop_length=round(cfg.hop_s * rate_hz),
        win_length=round(cfg.window_s * rate_hz),
        window=cfg.window,
        center=True,
        pad_mode="constant",
    )
    return np.abs(stft) ** 2


def librosa_log_mel_ft(wave_n: np.ndarray, cfg: FeatureConfig, rate_hz: int) -> np.ndarray:
    mel_fb = librosa.filters.mel(
        sr=rate_hz,
        n_fft=FeatureExtractor(cfg, rate_hz).fft,
        n_mels=cfg.num_mels,
        fmin=cfg.low_hz,
        fmax=cfg.high_hz or rate_hz / 2,
        htk=True,
        norm=None,
        dtype=np.float64,
    )
    return np.log(mel_fb @ librosa_power_ft(wave_n, cfg, rate_hz))


# Parity with librosa


@pytest.mark.parametrize("rate_hz", [8000, 16000])
@pytest.mark.parametrize("window", ["hann", "hamming"])
def test_the_power_spectrogram_is_librosas(window, rate_hz):
    cfg = FeatureConfig(kind="spectrogram", window=window, power_floor=1e-30, normalization="none")
    wave_n = speech_like(rate_hz=rate_hz)
    expected_tf = librosa_power_ft(wave_n, cfg, rate_hz).T
    ours_tf = np.exp(extract(cfg, wave_n, rate_hz).astype(np.float64))
    # A float32 FFT rounds at 1e-7 of the frame's largest bin (the tone), whatever the bin; 2e-6 leaves room.
    np.testing.assert_allclose(
        np.sqrt(ours_tf), np.sqrt(expected_tf), rtol=1e-4, atol=2e-6 * np.sqrt(expected_tf.max())
    )


@pytest.mark.parametrize(
    "cfg",
    [
        FeatureConfig(normalization="none"),
        FeatureConfig(normalization="none", num_mels=23, low_hz=100.0, high_hz=3400.0, window="hamming"),
        FeatureConfig(normalization="none", num_mels=40, fft_samples=1024, window_s=0.032, hop_s=0.016),
    ],
    ids=["default", "telephone band", "long FFT"],
)
@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_log_mel_is_librosas(cfg, rate_hz):
    wave_n = speech_like(rate_hz=rate_hz)
    # 1e-4 in the log: an FFT in float32; a wrong mel scale or window differs by more than 0.1
    np.testing.assert_allclose(
        extract(cfg, wave_n, rate_hz), librosa_log_mel_ft(wave_n, cfg, rate_hz).T, atol=1e-4, rtol=0
    )


def test_mfcc_is_the_orthonormal_dct_of_log_mel():
    cfg = FeatureConfig(kind="mfcc", num_mels=40, num_ceps=13, normalization="none")
    wave_n = speech_like()
    ours_tf = extract(cfg, wave_n)
    log_mel_ft = librosa_log_mel_ft(wave_n, cfg, RATE_HZ)
    # 1e-4 a log-mel value, and an orthonormal DCT keeps the size of errors: a few of them add up
    np.testing.assert_allclose(ours_tf, librosa.feature.mfcc(S=log_mel_ft, n_mfcc=13).T, atol=5e-4, rtol=0)
    np.testing.assert_allclose(ours_tf, scipy.fft.dct(log_mel_ft.T, norm="ortho")[:, :13], atol=5e-4, rtol=0)


def test_deltas_are_librosas_with_the_ends_repeated():
    base = FeatureConfig(kind="mfcc", normalization="none")
    wave_n = speech_like(0.2)
    static_tf = extract(base, wave_n)
    ours_tf = extract(base.model_copy(update={"deltas": 1}), wave_n)
    assert ours_tf.shape[1] == 2 * static_tf.shape[1]
    np.testing.assert_array_equal(ours_tf[:, :13], static_tf)
    expected_ft = librosa.feature.delta(static_tf.T.astype(np.float64), width=5, mode="nearest")
    # 1e-4: float32 differences of values of size 50
    np.testing.assert_allclose(ours_tf[:, 13:], expected_ft.T, atol=1e-4)


def slope(values_tf: np.ndarray) -> np.ndarray:
    """The regression slope over five frames, of the inner frames."""
    at = {k: values_tf[2 + k : len(values_tf) - 2 + k] for k in (-2, -1, 1, 2)}
    return ((at[1] - at[-1]) + 2 * (at[2] - at[-2])) / 10


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
def test_delta_deltas_are_deltas_of_deltas_as_if_the_ends_went_on(frames):
    base = FeatureConfig(**SMALL, kind="mfcc", normalization="none")
    wave_n = noise(0.002 * (frames - 1) + 0.0001)
    static_tf = extract(base, wave_n).astype(np.float64)
    assert len(static_tf) == frames
    extended_tf = np.pad(static_tf, ((4, 4), (0, 0)), mode="edge")
    delta_tf = slope(extended_tf)
    expected_tf = np.concatenate([static_tf, delta_tf[2:-2], slope(delta_tf)], axis=1)
    ours_tf = extract(base.model_copy(update={"deltas": 2}), wave_n)
    np.testing.assert_allclose(ours_tf, expected_tf, atol=1e-5)  # float32, values of size 10


def test_context_stacks_the_neighbours_in_order_of_time():
    base = FeatureConfig(**SMALL, normalization="none")
    wave_n = noise(0.02)
    static_tf = extract(base, wave_n)
    stacked_tf = extract(base.model_copy(update={"context_frames": 2}), wave_n)
    padded_tf = np.pad(static_tf, ((2, 2), (0, 0)), mode="edge")
    expected_tf = np.concatenate([padded_tf[i : i + len(static_tf)] for i in range(5)], axis=1)
    np.testing.assert_array_equal(stacked_tf, expected_tf)


def test_preemphasis_is_a_difference_of_samples():
    wave_n = noise(0.05)
    emphasised_n = wave_n - 0.97 * np.concatenate([wave_n[:1], wave_n[:-1]])
    plain = FeatureConfig(normalization="none")
    ours_tf = extract(plain.model_copy(update={"preemphasis": 0.97}), wave_n)
    np.testing.assert_allclose(ours_tf, extract(plain, emphasised_n), atol=1e-4)  # float32 samples in another order


def test_power_below_the_floor_is_raised_to_it():
    features_tf = extract(FeatureConfig(normalization="none", power_floor=1e-3), np.zeros(1600, np.float32))
    np.testing.assert_allclose(features_tf, np.log(1e-3), rtol=1e-6)


# Frames


HOP = 160


@pytest.mark.parametrize("samples", [0, 1, 2, HOP - 1, HOP, HOP + 1, 2 * HOP, 399, 400, 401, 16000, 16001])
@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_formula_counts_the_frames(kind, samples):
    cfg = FeatureConfig(kind=kind)
    extractor = FeatureExtractor(cfg, RATE_HZ)
    expected = len(range(0, samples + 1, HOP)) if samples else 0
    assert extractor(np.ones(samples, np.float32)).shape == (expected, extractor.num_bins)
    assert int(extractor.num_frames(samples)) == expected
    num_frames_b = extractor.num_frames(np.array([samples, 0]))
    assert num_frames_b.tolist() == [expected, 0]
    assert num_frames_b.dtype == np.int64


@given(st.integers(0, 2000), st.sampled_from([0.002, 0.0031, 0.004]), st.sampled_from([None, 64, 100]))
def test_the_frame_formula_holds_for_any_hop_and_fft(samples, hop_s, fft):
    cfg = FeatureConfig(kind="spectrogram", window_s=0.004, hop_s=hop_s, fft_samples=fft, deltas=1)
    extractor = FeatureExtractor(cfg, RATE_HZ)
    expected = len(range(0, samples + 1, round(hop_s * RATE_HZ))) if samples else 0
    assert len(extractor(np.ones(samples, np.float32))) == extractor.num_frames(samples) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deltas", [0, 1, 2])
@pytest.mark.parametrize("context", [0, 3])
def test_the_bin_formula_counts_the_bins(kind, deltas, context):
    cfg = FeatureConfig(kind=kind, deltas=deltas, context_frames=context)
    base = {"spectrogram": 257, "log_mel": 80, "mfcc": 13}[kind]
    expected = base * (1 + deltas) * (1 + 2 * context)
    assert FeatureExtractor(cfg, RATE_HZ).num_bins == expected
    assert extract(cfg, noise(0.03)).shape[1] == expected


def test_frames_are_centred_on_multiples_of_the_hop():
    wave_n = np.zeros(1600, np.float32)
    wave_n[5 * HOP] = 1.0
    cfg = FeatureConfig(kind="spectrogram", normalization="none")
    assert extract(cfg, wave_n).sum(axis=1).argmax() == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_the_same_bits_in_any_recording(kind):
    extractor = FeatureExtractor(FeatureConfig(kind=kind, normalization="none"), RATE_HZ)
    wave_n = speech_like(3.0)
    long_tf, cut_tf = extractor(wave_n), extractor(wave_n[50 * HOP : 250 * HOP])
    inside = slice(2, -2)  # no window there reaches beyond an end
    np.testing.assert_array_equal(cut_tf[inside], long_tf[50:][: len(cut_tf)][inside])


def test_the_wave_given_is_left_alone():
    wave_n = np.ones(100, np.float32)
    wave_n.flags.writeable = False
    FeatureExtractor(FeatureConfig(**SMALL, preemphasis=0.97, dither=0.1), RATE_HZ)(wave_n, np.random.default_rng(0))


# Normalisation


@pytest.mark.parametrize("kind", KINDS)
def test_utterance_normalisation_gives_mean_0_and_variance_1(kind):
    features_tf = extract(FeatureConfig(kind=kind), noise(1.0)).astype(np.float64)
    np.testing.assert_allclose(features_tf.mean(axis=0), 0, atol=1e-4)  # float32 sums of 100 frames
    # the floor of 1e-3 on standard deviations of about 0.3 and more takes up to 0.7 % off the variance
    np.testing.assert_allclose(features_tf.var(axis=0), 1, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 159, 160, 4000])
def test_silence_becomes_zero(kind, samples):
    features_tf = extract(FeatureConfig(kind=kind, deltas=2, preemphasis=0.97), np.zeros(samples, np.float32))
    # float32 rounding of a mean of logs of size 18 (mfcc: 160), over the floor of 1e-3
    np.testing.assert_allclose(features_tf, 0, atol=0.2 if kind == "mfcc" else 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_is_one_frame_of_zeros_once_normalised(kind):
    features_tf = extract(FeatureConfig(kind=kind, deltas=1), np.array([0.5], np.float32))
    assert features_tf.shape[0] == 1
    assert not features_tf.any()


def fit(extractor: FeatureExtractor, *waves: np.ndarray) -> None:
    """Set corpus statistics."""
    all_tf = np.concatenate([extractor.raw(wave_n) for wave_n in waves]).astype(np.float64)
    extractor.fit(all_tf.sum(0), np.square(all_tf).sum(0), len(all_tf))


def test_corpus_statistics_give_mean_0_and_variance_1_over_the_corpus():
    extractor = FeatureExtractor(FeatureConfig(normalization="corpus"), RATE_HZ)
    waves = [speech_like(0.2), noise(0.3, seed=1, amplitude=0.01)]
    fit(extractor, *waves)
    all_tf = np.concatenate([extractor(wave_n) for wave_n in waves]).astype(np.float64)
    np.testing.assert_allclose(all_tf.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(all_tf.std(axis=0), 1, atol=5e-3)  # the floor of 1e-3 on standard deviations of 1 to 4
    # one utterance alone is not of mean 0: the statistics are the corpus's
    quiet_tf = all_tf[-30:]
    assert quiet_tf.mean() < -0.5


def test_corpus_statistics_travel_by_name():
    cfg = FeatureConfig(normalization="corpus")
    fitted, fresh = FeatureExtractor(cfg, RATE_HZ), FeatureExtractor(cfg, RATE_HZ)
    fit(fitted, speech_like(0.3))
    assert fitted.statistics().keys() == {"mean_f", "std_f"}
    wave_n = noise(0.1)
    assert not np.array_equal(fresh(wave_n), fitted(wave_n))
    assert fresh.fingerprint() != fitted.fingerprint()
    fresh.set_statistics(fitted.statistics())
    assert np.array_equal(fresh(wave_n), fitted(wave_n))
    assert fresh.fingerprint() == fitted.fingerprint()


def test_a_bin_that_never_changes_does_not_blow_up_under_corpus_statistics():
    extractor = FeatureExtractor(FeatureConfig(normalization="corpus"), RATE_HZ)
    silence = np.zeros(1600, np.float32)
    fit(extractor, silence)
    assert np.abs(extractor(silence)).max() < 0.02  # float32 rounding of a mean of size 18, over the floor of 1e-3


# Dither


def test_dither_is_drawn_only_with_a_generator_and_is_reproducible():
    extractor = FeatureExtractor(FeatureConfig(dither=1e-3, normalization="none"), RATE_HZ)
    wave_n = sine(0.1)
    plain_tf, first_tf, again_tf, other_tf = (utterance.extract(extractor, wave_n, seed) for seed in (None, 1, 1, 2))
    assert np.array_equal(plain_tf, extractor(wave_n))
    assert np.array_equal(first_tf, again_tf)
    assert not np.array_equal(first_tf, other_tf)
    assert not np.array_equal(first_tf, plain_tf)


def test_dither_has_the_configured_deviation():
    cfg = FeatureConfig(kind="spectrogram", dither=0.01, normalization="none", power_floor=1e-30)
    features_tf = FeatureExtractor(cfg, RATE_HZ)(np.zeros(32000, np.float32), np.random.default_rng(0))
    # E|X|^2 of white noise = variance x sum of squared window; 3 %: 200 frames x 257 bins (half of them overlapping)
    expected = 0.01**2 * np.square(scipy.signal.get_window("hann", 400)).sum()
    assert np.exp(features_tf[2:-2, 1:-1]).mean() == pytest.approx(expected, rel=0.03)


def test_no_dither_is_drawn_when_it_is_off():
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    FeatureExtractor(FeatureConfig(), RATE_HZ)(np.ones(400, np.float32), generator)
    assert generator.bit_generator.state == before


# What cannot be


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"num_mels": 200}, "features.num_mels", r"\d+ of 200 mel filters lie between FFT bins .* than 512"),
        (
            {"high_hz": 8001.0},
            "features.high_hz",
            r"low_hz < high_hz <= 8000 \(half the sample rate\), got 20 and 8001",
        ),
        ({"low_hz": 4000.0, "high_hz": 300.0}, "features.high_hz", "got 4000 and 300"),
        ({"kind": "mfcc", "num_mels": 20, "num_ceps": 21}, "features.num_ceps", "num_ceps 21 is more than num_mels 20"),
        ({"fft_samples": 256}, "features", "a window of 400 .* do not fit an FFT of 256"),
        ({"fft_samples": 513}, "features.fft_samples", "must be even, got 513"),
        ({"hop_s": 0.00001}, "features", "a hop of 0 samples"),
        ({"window_s": 0.00005}, "features", "a window of 1 "),
        (
            {"hop_s": 0.0001, "fft_samples": 4096},
            "features.hop_s",
            r"an FFT of 4096 every 2 samples gives .* at most 8,388,608; use a longer",
        ),
        ({"window_s": 0.00001}, "features", "a window of 0 "),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, key, message):
    with pytest.raises(ConfigError, match=message) as caught:
        FeatureExtractor(FeatureConfig(**settings), RATE_HZ)
    assert caught.value.key == key


def test_half_the_sample_rate_itself_is_allowed():
    FeatureExtractor(FeatureConfig(high_hz=8000.0), RATE_HZ)
    with pytest.raises(ConfigError, match="<= 4000"):
        FeatureExtractor(FeatureConfig(high_hz=8000.0), 8000)


# --- against torchaudio, which is not loaded in use: that takes a third of a second -----------------------------------


@pytest.mark.parametrize(
    "arguments", [(257, 20.0, 8000.0, 80, 16000), (129, 0.0, 3800.0, 23, 8000), (513, 60.0, 11025.0, 128, 22050)]
)
def test_filters_and_cosines_are_torchaudios(torchaudio, arguments):
    theirs_fm = torchaudio.functional.melscale_fbanks(*arguments)
    theirs_mc = torchaudio.functional.create_dct(13, arguments[3], norm="ortho")
    # Theirs are rounded on the way, at corners of up to 11,025 Hz.
    np.testing.assert_allclose(mel_filters(*arguments), theirs_fm, atol=2e-5)
    np.testing.assert_allclose(cosines(13, arguments[3]), theirs_mc, atol=1e-6)


@given(st.integers(1, 30), st.integers(0, 2**31))
def test_derivatives_are_torchaudios(torchaudio, length, seed):
    values_tf = np.random.default_rng(seed).normal(size=(length, 3)).astype(np.float32)
    theirs_ft = torchaudio.functional.compute_deltas(torch.from_numpy(values_tf.T.copy()))
    np.testing.assert_allclose(_slopes(np.pad(values_tf, ((2, 2), (0, 0)), mode="edge")), theirs_ft.T, atol=1e-6)


def test_no_torch_is_loaded_for_features():
    script = "import asr.features.build, sys; sys.exit(any(name.startswith('torch') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
