"""Waves as if recorded elsewhere: exact levels, nothing moved in time, the draws of the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import AugmentConfig
from asr.data import audio
from asr.errors import ConfigError, DataError
from asr.training.distort import Distorter, add_noise, colored_noise, reverberate, room_response
from tests.builders import noise, sine, write_wav

RATE = 16000
EVERYTHING = {"noise": {"probability": 1}, "reverb": {"probability": 1}, "gain_db": (-6, 6)}


def power(wave_n: np.ndarray) -> float:
    return float(np.mean(np.square(wave_n, dtype=np.float64)))


def distorted(wave_n, seed=0, **cfg):
    return Distorter(AugmentConfig.model_validate(cfg), RATE)(wave_n, np.random.default_rng(seed))


@given(st.floats(-10, 40), st.integers(0, 1000))
def test_noise_lies_as_far_below_the_speech_as_asked(snr_db, seed):
    speech_n, noise_n = sine(0.2), colored_noise(3200, 1.0, np.random.default_rng(seed))
    added_n = add_noise(speech_n, noise_n, snr_db) - speech_n
    assert 10 * np.log10(power(speech_n) / power(added_n)) == pytest.approx(snr_db, abs=0.1)


def test_silence_gets_no_noise_and_no_room():
    silence_n = np.zeros(1000, np.float32)
    for out_n in (add_noise(silence_n, noise(1000 / RATE), 10), reverberate(silence_n, np.ones(5, np.float32))):
        np.testing.assert_array_equal(out_n, silence_n)


@pytest.mark.parametrize(("slope", "octave_db"), [(0.0, 0.0), (1.0, 3.01), (2.0, 6.02)])
def test_noise_falls_with_frequency_as_its_colour_says(slope, octave_db):
    spectrum = np.abs(np.fft.rfft(colored_noise(1 << 18, slope, np.random.default_rng(1)))) ** 2
    low, high = spectrum[4096:8192].mean(), spectrum[8192:16384].mean()
    assert 10 * np.log10(low / high) == pytest.approx(octave_db, abs=0.2)


def test_a_room_with_nothing_but_the_direct_sound_changes_nothing_and_an_echo_comes_after():
    click_n = np.zeros(800, np.float32)
    click_n[100] = 1
    np.testing.assert_allclose(reverberate(click_n, np.array([1.0], np.float32)), click_n, atol=1e-6)
    late = np.zeros(300, np.float32)
    late[[0, 200]] = 1, 0.5
    heard_n = reverberate(click_n, late)
    assert np.abs(heard_n).argmax() == 100  # the direct sound stays where it was
    assert heard_n[300] == pytest.approx(0.5 * heard_n[100], rel=1e-3)
    assert power(heard_n) == pytest.approx(power(click_n), rel=1e-4)


def test_a_response_that_begins_late_does_not_shift_the_speech():
    click_n = np.zeros(800, np.float32)
    click_n[100] = 1
    late = np.zeros(50, np.float32)
    late[30] = 1
    assert np.abs(reverberate(click_n, late)).argmax() == 100
    late[[30, 40]] = -1, 0.5  # a microphone of the other polarity: the echo is not the direct sound
    assert np.abs(reverberate(click_n, late)).argmax() == 100


@given(st.floats(0.05, 1.0), st.floats(0, 20), st.integers(0, 100))
def test_a_made_up_room_has_the_direct_sound_and_the_decay_asked_for(rt60_s, direct_db, seed):
    response_r = room_response(rt60_s, direct_db, RATE, np.random.default_rng(seed))
    assert response_r[0] == 1 and len(response_r) == round(rt60_s * RATE)
    assert 10 * np.log10(1 / np.sum(np.square(response_r[1:], dtype=np.float64))) == pytest.approx(direct_db, abs=0.2)
    tail = np.square(response_r[len(response_r) // 2 :].astype(np.float64))
    first, second = tail[: len(tail) // 2].mean(), tail[len(tail) // 2 :].mean()
    assert 10 * np.log10(first / second) == pytest.approx(15, abs=4)  # a quarter of 60 dB


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(400, 5000))
def test_length_and_type_stay_the_generator_decides_and_the_input_is_left_alone(seed, size):
    wave_n = noise(size / RATE)
    before = wave_n.copy()
    once, again = distorted(wave_n, seed, **EVERYTHING), distorted(wave_n, seed, **EVERYTHING)
    np.testing.assert_array_equal(once, again)
    assert once.shape == wave_n.shape and once.dtype == np.float32 and np.isfinite(once).all()
    assert not np.array_equal(once, distorted(wave_n, seed + 1, **EVERYTHING))
    np.testing.assert_array_equal(wave_n, before)


def test_nothing_asked_is_nothing_done():
    assert not Distorter(AugmentConfig(), RATE).active
    wave_n = sine(0.1)
    np.testing.assert_array_equal(distorted(wave_n), wave_n)
    for key in ("noise", "reverb"):
        assert Distorter(AugmentConfig.model_validate({key: {"probability": 0.1}}), RATE).active


def test_more_of_one_distortion_does_not_change_the_draws_of_another():
    wave_n = sine(0.2)
    alone = distorted(wave_n, 5, noise={"probability": 1})
    with_gain = distorted(wave_n, 5, noise={"probability": 1}, gain_db=(6, 6))
    np.testing.assert_allclose(with_gain, alone * np.float32(10 ** (6 / 20)), rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_and_room_do_not_change_the_gain_that_is_drawn(tmp_path, seed):
    wave_n, click_n = sine(0.2), np.zeros(8, np.float32)
    click_n[0] = 0.9
    write_wav(tmp_path / "click.wav", click_n)
    gain_only = distorted(wave_n, seed, gain_db=(-12, 12))
    with_noise = distorted(wave_n, seed, gain_db=(-12, 12), noise={"probability": 1, "snr_db": (60, 60)})
    with_room = distorted(wave_n, seed, gain_db=(-12, 12), reverb={"probability": 1, "folder": str(tmp_path)})
    for out_n in (with_noise, with_room):
        assert power(out_n) == pytest.approx(power(gain_only), rel=0.01)


def test_the_probability_is_the_share_of_utterances():
    wave_n, cfg = sine(0.05), AugmentConfig.model_validate({"noise": {"probability": 0.3}})
    distorter = Distorter(cfg, RATE)
    changed = sum(not np.array_equal(distorter(wave_n, np.random.default_rng(s)), wave_n) for s in range(1000))
    assert 250 < changed < 350


def test_noises_and_rooms_of_a_folder_are_taken_at_the_models_rate(tmp_path):
    write_wav(tmp_path / "noise" / "deep" / "hum.wav", sine(0.5, 1000, rate_hz=8000), 8000)
    speech_n = sine(2.0, 300)
    out_n = distorted(speech_n, noise={"probability": 1, "folder": str(tmp_path / "noise"), "snr_db": (0, 0)})
    spectrum = np.abs(np.fft.rfft(out_n - speech_n))
    assert spectrum.argmax() * RATE / len(out_n) == pytest.approx(1000, abs=10)
    response = np.zeros(400, np.float32)
    response[[0, 399]] = 0.9, 0.45
    write_wav(tmp_path / "room" / "r.wav", response)
    click_n = np.zeros(2000, np.float32)
    click_n[100] = 0.5
    heard_n = distorted(click_n, reverb={"probability": 1, "folder": str(tmp_path / "room")})
    assert sorted(np.argsort(np.abs(heard_n))[-2:]) == [100, 499]


def test_a_missing_or_empty_folder_is_refused_before_training(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, why in (("none", "no such folder"), ("empty", "no audio in it")):
        cfg = AugmentConfig.model_validate({"noise": {"probability": 1, "folder": str(tmp_path / folder)}})
        with pytest.raises(ConfigError, match=why):
            Distorter(cfg, RATE)


def test_a_damaged_noise_names_its_file(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(DataError, match=r"bad\.wav"):
        distorted(sine(0.1), noise={"probability": 1, "folder": str(tmp_path)})


@pytest.mark.parametrize("kind", ["noise", "reverb"])
def test_a_file_of_which_no_sample_is_left_is_named(tmp_path, kind):
    write_wav(tmp_path / "n.wav", noise(1)[:1], 48000)
    with pytest.raises(DataError, match=r"n\.wav: too short: no sample is left at 16000 Hz"):
        distorted(sine(0.1), **{kind: {"probability": 1, "folder": str(tmp_path)}})


def test_a_noise_begins_anywhere_and_a_short_one_is_repeated(tmp_path):
    write_wav(tmp_path / "n.wav", np.arange(1, 9001, dtype=np.float32) / 10000)
    written_n, _ = audio.load(tmp_path / "n.wav")
    cfg = AugmentConfig.model_validate({"noise": {"probability": 1, "folder": str(tmp_path)}})
    distorter = Distorter(cfg, RATE)
    starts = set()
    for seed in range(5):
        for size in (100, 20_000):
            got_n = distorter._noise(size, np.random.default_rng(seed))
            starts.add(start := int(np.flatnonzero(written_n == got_n[0])[0]))
            np.testing.assert_array_equal(got_n, np.resize(np.roll(written_n, -start), size))
    assert len(starts) == 5


def test_noises_in_memory_keep_to_their_bytes(tmp_path, monkeypatch):
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", noise(0.1, seed=i))  # 6,400 bytes each
    monkeypatch.setattr("asr.training.distort._KEPT_BYTES", 13_000)
    distorter = Distorter(AugmentConfig.model_validate({"noise": {"folder": str(tmp_path)}}), RATE)
    paths = [tmp_path / f"{i}.wav" for i in range(4)]
    for path in (paths[0], paths[1], paths[0], paths[2]):
        distorter._load(path)
    assert list(distorter._loaded) == [paths[0], paths[2]], "what was not asked for lately goes"
    monkeypatch.setattr("asr.training.distort._KEPT_BYTES", 10)
    assert len(distorter._load(paths[3])) == 1600 and list(distorter._loaded) == [paths[3]]


def test_a_range_the_wrong_way_round_is_refused():
    for cfg in ({"gain_db": (3, -3)}, {"noise": {"snr_db": (20, 5)}}, {"reverb": {"rt60_s": (0.5, 0.2)}}):
        with pytest.raises(ValueError, match=r"lower number first|two rising numbers"):
            AugmentConfig.model_validate(cfg)
