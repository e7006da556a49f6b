"""No words out of silence: what is judged to be speech, by sound alone, and what follows for texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from asr import Recognizer
from asr.cli import commands
from asr.data.manifest import read
from asr.evaluate import evaluate
from asr.infer import of_manifest
from asr.model.checkpoint import load_model
from asr.recordings.speech import NO_SPEECH_THRESHOLD, measure, no_speech_prob, second_opinion, without_words
from tests.builders import sine, tones, write_wav
from tests.models import save_random_model

RATE_HZ = 16000


def seconds(length_s: float) -> np.ndarray:
    return np.arange(round(length_s * RATE_HZ)) / RATE_HZ


def white(length_s: float, level_db: float, seed: int = 0) -> np.ndarray:
    samples_n = np.random.default_rng(seed).standard_normal(round(length_s * RATE_HZ))
    return (10 ** (level_db / 20) * samples_n).astype(np.float32)


def coloured(length_s: float, slope: float) -> np.ndarray:
    spectrum_f = np.fft.rfft(white(length_s, -20))
    hz = np.maximum(np.fft.rfftfreq(round(length_s * RATE_HZ), 1 / RATE_HZ), 30)
    return np.fft.irfft(spectrum_f * (hz / 1000) ** (-slope / 2), round(length_s * RATE_HZ)).astype(np.float32)


def both(length_s: float, *hz: float) -> np.ndarray:
    return sum(sine(length_s, one) for one in hz) * np.float32(0.3)


def chords(length_s: float) -> np.ndarray:
    """Four notes at a time with their harmonics, a new chord each second, attack and decay."""
    out = []
    for second in range(round(length_s)):
        root = 130.8 * 2 ** ((0, 5, 7, 9)[second % 4] / 12)
        t = seconds(1.0)
        notes = (root * 2 ** (k / 12) for k in (0, 4, 7, 12))
        chord = sum(np.sin(2 * np.pi * note * h * t) / h for note in notes for h in (1, 2, 3, 4))
        out.append(0.1 * chord * np.minimum(1, t / 0.02) * np.exp(-t))
    return np.concatenate(out).astype(np.float32)


def arpeggio(length_s: float) -> np.ndarray:
    """Notes of a frequency modulated bell, four a second."""
    t = seconds(0.25)
    out = []
    for i in range(round(length_s * 4)):
        hz = 220 * 2 ** ((0, 4, 7, 12, 7, 4)[i % 6] / 12)
        bell = np.sin(2 * np.pi * hz * t + 3 * np.exp(-6 * t) * np.sin(4 * np.pi * hz * t))
        out.append(0.2 * bell * np.exp(-5 * t))
    return np.concatenate(out).astype(np.float32)


def dialled(length_s: float) -> np.ndarray:
    """Digits on a telephone: two tones for a tenth of a second each, and as much of nothing."""
    digits = ((697, 1209), (770, 1336), (852, 1477), (941, 1336))
    gap = np.zeros(RATE_HZ // 10, np.float32)
    return np.concatenate([one for i in range(round(length_s * 5)) for one in (both(0.1, *digits[i % 4]), gap)])


def wind(length_s: float) -> np.ndarray:
    knots = np.exp(np.random.default_rng(0).standard_normal(round(length_s * 2) + 2))
    gusts = np.interp(seconds(length_s) * 2, np.arange(len(knots)), knots)
    return (coloured(length_s, 1.5) * gusts * 0.3).astype(np.float32)


def spoken(length_s: float, seed: int = 0) -> np.ndarray:
    """Like speech: a gliding voice through moving formants, syllables of 0.2 s, a hiss before every third."""
    rng = np.random.default_rng(seed)
    t = seconds(length_s)
    syllable_n = np.minimum((t * 5).astype(int), round(length_s * 5) - 1)
    inside_n = t * 5 - (t * 5).astype(int)
    hz = 120 * 2 ** (rng.uniform(-3, 3, syllable_n[-1] + 1)[syllable_n] / 12 - 0.25 * inside_n + 0.1 * np.sin(2 * t))
    phase_n = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    first, second = (rng.uniform(*limits, syllable_n[-1] + 1)[syllable_n] for limits in ((300, 800), (1000, 2400)))
    voice_n = np.zeros(len(t))
    for h in range(1, 34):
        weight_n = np.exp(-(((h * hz - first) / 150) ** 2)) + 0.5 * np.exp(-(((h * hz - second) / 200) ** 2)) + 0.003
        voice_n += weight_n * np.sin(h * phase_n)
    hiss_n = np.diff(white(length_s, -20, seed), prepend=0.0) * (syllable_n % 3 == 0) * (inside_n < 0.35)
    return (0.2 * voice_n * np.sin(np.pi * inside_n) ** 0.5 * (inside_n > 0.1) + hiss_n).astype(np.float32)


SOUNDS = {
    "zeros": lambda s: np.zeros(round(s * RATE_HZ), np.float32),
    "dither at -60 dBFS": lambda s: white(s, -60),
    "dither of 16 bits": lambda s: (np.round(white(s, 0) * 0.6) / 32768).astype(np.float32),
    "white noise": lambda s: white(s, -20),
    "pink noise": lambda s: coloured(s, 1),
    "brown noise": lambda s: coloured(s, 2),
    "dial tone": lambda s: both(s, 350, 440),
    "hum": lambda s: both(s, 50, 100, 150, 250) + white(s, -50),
    "fax tone": lambda s: both(s, 2100),
    "dialled digits": dialled,
    "wind": wind,
    "chords": chords,
    "arpeggio": arpeggio,
}


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("length_s", [1.0, 3.0, 12.0])
def test_what_nobody_says_is_no_speech_at_any_level_and_rate(name, length_s):
    wave_n = SOUNDS[name](length_s)
    assert no_speech_prob(wave_n, RATE_HZ) > 0.8
    assert no_speech_prob(wave_n[::2].copy(), RATE_HZ // 2) > NO_SPEECH_THRESHOLD


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length_s", [1.0, 3.0, 12.0])
def test_a_voice_is_speech_also_quiet_in_noise_and_over_a_telephone(seed, length_s):
    wave_n = spoken(length_s, seed)
    assert no_speech_prob(wave_n, RATE_HZ) < 0.1
    assert no_speech_prob((np.round(wave_n * 0.01 * 32768) / 32768).astype(np.float32), RATE_HZ) < 0.1
    noisy_n = wave_n + white(length_s, 20 * np.log10(np.sqrt(np.mean(wave_n**2))) - 10)
    assert no_speech_prob(noisy_n, RATE_HZ) < NO_SPEECH_THRESHOLD
    telephone_n = soxr.resample(wave_n, RATE_HZ, 8000)
    assert no_speech_prob(telephone_n, 8000) < NO_SPEECH_THRESHOLD


def test_a_voice_in_a_long_noise_is_found():
    wave_n = white(30.0, -30)
    wave_n[20 * RATE_HZ : 22 * RATE_HZ] += spoken(2.0)
    assert no_speech_prob(wave_n, RATE_HZ) < NO_SPEECH_THRESHOLD
    assert no_speech_prob(wave_n[: 18 * RATE_HZ], RATE_HZ) > 0.8


@given(st.integers(0, 3000), st.sampled_from([1000, 8000, 11025, 16000, 44100]), st.integers(0, 2**31))
def test_any_samples_at_any_rate_have_a_probability(count, rate_hz, seed):
    wave_n = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    for samples_n in (wave_n, 1e30 * wave_n, 0 * wave_n):
        assert 0 <= no_speech_prob(samples_n, rate_hz) <= 1


def test_no_sound_has_no_measures_and_a_sound_has_finite_ones():
    assert measure(np.zeros(RATE_HZ, np.float32), RATE_HZ) is None
    assert no_speech_prob(np.zeros(0, np.float32), RATE_HZ) == 1
    assert all(np.isfinite(measure(spoken(1.0), RATE_HZ)))


def test_log_probabilities_without_words_are_surely_blank_and_sum_to_one():
    blank_sv = without_words(np.zeros((3, 29), np.float32))
    assert blank_sv.dtype == np.float32 and blank_sv.shape == (3, 29)
    assert np.exp(blank_sv.astype(np.float64)).sum(axis=1) == pytest.approx(1)
    assert (blank_sv.argmax(axis=1) == 0).all() and blank_sv[:, 0] == pytest.approx(0, abs=1e-6)


def test_a_network_that_is_sure_of_its_tokens_counts_in_doubt_and_only_then():
    sure_sv = np.log(np.array([[0.98, 0.01, 0.01], [0.02, 0.96, 0.02], [0.02, 0.03, 0.95]], np.float32))
    unsure_sv = np.log(np.array([[0.98, 0.01, 0.01], [0.3, 0.6, 0.1], [0.02, 0.03, 0.95]], np.float32))
    assert second_opinion(0.9, sure_sv) < 0.2 < NO_SPEECH_THRESHOLD < second_opinion(0.995, sure_sv)
    assert second_opinion(1.0, sure_sv) == pytest.approx(1)
    assert second_opinion(0.9, unsure_sv) == 0.9
    assert second_opinion(0.9, sure_sv[:1]) == 0.9  # nothing but blank


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "m")


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
@pytest.mark.parametrize("length_s", [2.0, 50.0])
def test_noise_gives_no_text_and_speech_does_short_and_long_with_each_decoder(folder, decoder, length_s):
    recognizer = Recognizer.load(folder, "cpu", decoder=decoder)
    noise = recognizer.transcribe(wind(length_s), RATE_HZ)
    assert (noise.text, noise.segments) == ("", ()) and noise.no_speech_prob > 0.8
    said = recognizer.transcribe(spoken(length_s), RATE_HZ)
    assert said.text and said.no_speech_prob < 0.1
    assert all(0 <= segment.no_speech_prob <= NO_SPEECH_THRESHOLD for segment in said.segments)
    assert recognizer.transcribe(np.zeros(round(length_s * RATE_HZ)), RATE_HZ).no_speech_prob == 1


def test_a_threshold_of_one_lets_everything_through(folder):
    everything = Recognizer.load(folder, "cpu", no_speech_threshold=1)
    result = everything.transcribe(both(2.0, 350, 440), RATE_HZ)
    assert result.text and result.segments[0].no_speech_prob == result.no_speech_prob > 0.8


def test_a_segment_has_the_probability_of_its_own_piece(folder):
    wave_n = np.concatenate([wind(8.0), np.zeros(3 * RATE_HZ), spoken(4.0), np.zeros(3 * RATE_HZ), arpeggio(8.0)])
    recognizer = Recognizer.load(folder, "cpu")
    (only_speech,) = recognizer.transcribe_all([(wave_n, RATE_HZ)], longest_s=8)
    assert only_speech.text
    assert all(segment.start_s > 10.5 and segment.end_s < 15.5 for segment in only_speech.segments)
    recognizer.no_speech_threshold = 1
    (all_text,) = recognizer.transcribe_all([(wave_n, RATE_HZ)], longest_s=8)
    for segment in all_text.segments:
        assert (segment.no_speech_prob < 0.1) == (10.5 < segment.start_s < 15.5)


def test_the_same_probability_in_any_order_batch_and_number_of_threads(folder):
    recognizer = Recognizer.load(folder, "cpu")
    waves = [(make(2.5), RATE_HZ) for make in (*SOUNDS.values(), spoken)]
    alone = [next(recognizer.transcribe_all([one])) for one in waves]
    for options in ({"batch_s": 0.5}, {"batch_s": 200.0, "jobs": 3}):
        assert list(recognizer.transcribe_all(waves, **options)) == alone
    assert list(recognizer.transcribe_all(waves[::-1]))[::-1] == alone


def test_evaluation_gives_the_texts_of_transcription(folder, tmp_path):
    rows = []
    for name, wave_n in (("noise", white(2.0, -20)), ("speech", spoken(2.0)), ("tone", both(2.0, 350, 440))):
        write_wav(tmp_path / f"{name}.wav", wave_n)
        rows.append({"id": name, "audio_path": f"{name}.wav", "duration_s": 2.0, "text": "abc"})
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = load_model(folder, "cpu")
    scored = evaluate(model, read(path))
    recognizer = Recognizer(model)
    for one in scored.score.per_utterance:
        assert one.hypothesis == recognizer.transcribe(tmp_path / f"{one.id}.wav").text
        assert bool(one.hypothesis) == (one.id == "speech")
    for utterance, one_sv in of_manifest(model, read(path), no_speech_threshold=1):
        wave_n = recognizer.load_wave(tmp_path / f"{utterance.id}.wav")
        assert one_sv == pytest.approx(recognizer.log_probs(wave_n), abs=1e-4)  # in another batch: rounding


def test_the_command_writes_the_number_and_takes_a_threshold(folder, tmp_path):
    path = write_wav(tmp_path / "noise.wav", white(3.0, -20))
    done = CliRunner().invoke(commands(), ["transcribe", str(folder), str(path), "--json"])
    (one,) = json.loads(done.stdout)["transcripts"]
    assert (one["text"], one["segments"]) == ("", []) and one["no_speech_prob"] > 0.8
    done = CliRunner().invoke(
        commands(), ["transcribe", str(folder), str(path), "--json", "--no-speech-threshold", "1"]
    )
    (one,) = json.loads(done.stdout)["transcripts"]
    assert one["text"] and one["segments"][0]["no_speech_prob"] == one["no_speech_prob"]


def test_a_melody_of_test_tones_is_no_word():
    assert no_speech_prob(tones("d", np.random.default_rng(0)), RATE_HZ) > NO_SPEECH_THRESHOLD
