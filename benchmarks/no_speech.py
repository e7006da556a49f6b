"""Words that a model writes for sounds without speech, and the cost of the no-speech decision in speech.

    python -m benchmarks.no_speech MODEL [MANIFEST ...] [--babble MANIFEST] [--decoder greedy|beam]

The first table gives the words per minute for synthetic sounds (silence, noise, signals, music), without and with the
decision of ``asr.recordings.speech``: one minute of each as one recording, and as twenty files of three seconds. None
of these sounds was used to fit the decision. The next tables give the word error rate of each manifest, without and
with it: unchanged, scaled by 0.01, over a telephone, and in white noise and babble (of ``--babble``'s voices) at 10 and
5 dB.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from asr.data import manifest as manifests
from asr.data.audio import Wave
from asr.data.text import normalize
from asr.recordings.speech import NO_SPEECH_THRESHOLD
from asr.scoring.wer import format_ends, percent, score
from asr.transcribe import Recognizer, Transcript
from asr.utterance import load_wave

Floats = npt.NDArray[np.float64]
RATE_HZ = 16000
_SECONDS = 60
_rng = np.random.default_rng(12)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.no_speech", description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("manifests", nargs="*", type=Path)
    parser.add_argument("--babble", type=Path, help="a manifest of other speakers, for the noise of voices")
    parser.add_argument("--decoder", default="")
    args = parser.parse_args()
    recognizer = Recognizer.load(args.model, "cpu", decoder=args.decoder)
    report_sounds(recognizer)
    for path in args.manifests:
        report_speech(recognizer, path, args.babble)


def report_sounds(recognizer: Recognizer) -> None:
    print("| sound | one recording: words/min before | with | files of 3 s: words/min before | with |")
    print("|---|---|---|---|---|")
    rows = []
    for name, make in SOUNDS.items():
        wave_n = at_level(make(_SECONDS), LEVELS_DB.get(name, -20.0))
        files = np.split(wave_n, _SECONDS // 3)
        row = [words(recognizer, part, threshold) for part in ([wave_n], files) for threshold in (1, None)]
        rows.append(row)
        print(f"| {name} | {' | '.join(map(str, row))} |", flush=True)
    print(f"| mean of {len(rows)} | {' | '.join(f'{mean:.1f}' for mean in np.mean(rows, axis=0))} |")


def report_speech(recognizer: Recognizer, path: Path, babble: Path | None) -> None:
    manifest = manifests.read(path)
    profile = recognizer.model.text.normalization
    print(f"\n{path}\n")
    print("| speech | WER % before | with [95 %] | utterances without text before | with |")
    print("|---|---|---|---|---|")
    for name, waves in conditions(list(load(path)), [] if babble is None else list(load(babble))):
        results = []
        for threshold in (1, None):
            texts = [one.text for one in transcripts(recognizer, waves, threshold)]
            rows = ((u.id, normalize(u.text, profile), t) for u, t in zip(manifest, texts, strict=True))
            results.append((score(rows).wer, sum(not text for text in texts)))
        (before, empty_before), (after, empty_after) = results
        interval = format_ends((after.low, after.high))
        cells = (name, percent(before.rate), f"{percent(after.rate)} {interval}", empty_before, empty_after)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def load(path: Path) -> Iterator[Wave]:
    manifest = manifests.read(path)
    for utterance in manifest:
        yield load_wave(manifest, utterance, RATE_HZ, resample=True)


def conditions(waves: list[Wave], voices: list[Wave]) -> Iterator[tuple[str, list[Wave]]]:
    yield "as it is", waves
    yield "scaled by 0.01, 16 bits", [(np.round(w * 0.01 * 32768) / 32768).astype(np.float32) for w in waves]
    yield "at 8 kHz", [soxr.resample(soxr.resample(w, RATE_HZ, 8000), 8000, RATE_HZ) for w in waves]
    for snr_db in (10, 5):
        yield f"white noise, {snr_db} dB", [in_noise(w, _rng.standard_normal(len(w)), snr_db) for w in waves]
        if voices:
            yield f"babble, {snr_db} dB", [in_noise(w, six_voices(voices, len(w)), snr_db) for w in waves]


def in_noise(wave_n: Wave, noise_n: Floats, snr_db: float) -> Wave:
    gain = np.sqrt(np.mean(wave_n**2) / np.mean(noise_n**2)) * 10 ** (-snr_db / 20)
    return (wave_n + gain * noise_n).astype(np.float32)


def six_voices(voices: list[Wave], count: int) -> Floats:
    out_n = np.zeros(count)
    for _ in range(6):
        parts = [voices[i] / voices[i].std() for i in _rng.integers(0, len(voices), 2 + count // RATE_HZ)]
        out_n += np.resize(np.concatenate(parts), count)
    return out_n


def words(recognizer: Recognizer, waves: list[Wave], threshold: float | None) -> int:
    return sum(len(one.text.split()) for one in transcripts(recognizer, waves, threshold))


def transcripts(recognizer: Recognizer, waves: list[Wave], threshold: float | None) -> Iterator[Transcript]:
    """Transcribe with the default threshold, or the given one."""
    recognizer.no_speech_threshold = NO_SPEECH_THRESHOLD if threshold is None else threshold
    for result in recognizer.transcribe_all([(wave_n, RATE_HZ) for wave_n in waves]):
        assert isinstance(result, Transcript), result
        yield result


# Sounds


def at_level(wave_n: Floats, level_db: float) -> Wave:
    size = float(np.sqrt(np.mean(wave_n**2)))
    return (wave_n * (10 ** (level_db / 20) / size if size else 1)).astype(np.float32)


def clock(length_s: float) -> Floats:
    return np.arange(round(length_s * RATE_HZ)) / RATE_HZ


def tones(length_s: float, *hz: float) -> Floats:
    return np.sum([np.sin(2 * np.pi * one * clock(length_s)) for one in hz], axis=0)


def coloured(length_s: float, slope: float) -> Floats:
    """Make noise whose power falls with this power of the frequency: 0 white, 1 pink, 2 brown."""
    count = round(length_s * RATE_HZ)
    hz = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 30.0)
    out_n: Floats = np.fft.irfft(np.fft.rfft(_rng.standard_normal(count)) * (hz / 1000) ** (-slope / 2), count)
    return out_n / out_n.std()


def wavering(length_s: float, per_s: float) -> Floats:
    """Make a slow random curve."""
    knots = _rng.standard_normal(round(length_s * per_s) + 2)
    return np.interp(clock(length_s) * per_s, np.arange(len(knots)), knots)


def sequence(length_s: float, step_s: float, note: Callable[[int], Floats]) -> Floats:
    """Make notes one after the other; each rings on into the next ones."""
    out_n = np.zeros(round(length_s * RATE_HZ))
    for i in range(int(length_s / step_s)):
        start = round(i * step_s * RATE_HZ)
        note_n = note(i)[: len(out_n) - start]
        out_n[start : start + len(note_n)] += note_n
    return out_n


def pitch_hz(semitones: float) -> float:
    return float(110 * 2 ** (semitones / 12))


def harmonic(hz: float, length_s: float, decay_per_s: float, weights: tuple[float, ...]) -> Floats:
    t = clock(length_s)
    shape_n = np.minimum(1, t / 0.008) * np.minimum(1, (length_s - t) / 0.01) * np.exp(-decay_per_s * t)
    return shape_n * sum(w * np.sin(2 * np.pi * k * hz * t) for k, w in enumerate(weights, start=1))


def plucked(hz: float, length_s: float) -> Floats:
    """Make the sound of a plucked string (Karplus and Strong): noise in a loop that is smoothed at each turn."""
    period = round(RATE_HZ / hz)
    rounds = [_rng.uniform(-1, 1, period)]
    for _ in range(int(length_s * RATE_HZ / period)):
        last = rounds[-1]
        rounds.append(0.498 * (last + np.roll(last, 1)))
    return np.concatenate(rounds)


def drum(i: int) -> Floats:
    t = clock(0.25)
    kick = np.sin(2 * np.pi * (45 * t + 6 * (1 - np.exp(-30 * t)))) * np.exp(-14 * t)
    snare = _rng.standard_normal(len(t)) * np.exp(-20 * t) * 0.5
    hat = np.diff(_rng.standard_normal(len(t)), prepend=0) * np.exp(-70 * t) * 0.2
    return hat + (kick if i % 4 == 0 else 0) + (snare if i % 4 == 2 else 0)


def melody(i: int) -> float:
    steps = (0, 2, 4, 5, 7, 9, 11, 12)
    return pitch_hz(12 + steps[int(_rng.integers(len(steps)))] + (12 if i % 5 == 4 else 0))


def chord(i: int, weights: tuple[float, ...], length_s: float, decay_per_s: float) -> Floats:
    root = 3 + (0, 5, 7, 9)[i % 4]
    return np.sum([harmonic(pitch_hz(root + k), length_s, decay_per_s, weights) for k in (0, 4, 7, 12)], axis=0)


def bell(i: int) -> Floats:
    t, hz = clock(1.2), melody(i)
    return np.sin(2 * np.pi * hz * t + 4 * np.exp(-3 * t) * np.sin(2 * np.pi * 1.4 * hz * t)) * np.exp(-3 * t)


def clicks(length_s: float, per_s: float) -> Floats:
    out_n = 1e-3 * _rng.standard_normal(round(length_s * RATE_HZ))
    at = _rng.integers(0, len(out_n) - 400, round(length_s * per_s))
    for start in at:
        out_n[start : start + 400] += _rng.standard_normal(400) * np.exp(-np.arange(400) / 80)
    return out_n


def gated(wave_n: Floats, on_s: float, off_s: float) -> Floats:
    return wave_n * (clock(len(wave_n) / RATE_HZ) % (on_s + off_s) < on_s)


def swept(length_s: float, low_hz: float, high_hz: float, every_s: float) -> Floats:
    hz = low_hz + (high_hz - low_hz) * (clock(length_s) % every_s / every_s)
    return np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ)


def keyed(length_s: float) -> Floats:
    """Make frequency shift keying of 300 bits per second, as of fax machines."""
    bits = np.repeat(_rng.integers(0, 2, round(length_s * 300) + 1), RATE_HZ // 300 + 1)[: round(length_s * RATE_HZ)]
    return np.sin(2 * np.pi * np.cumsum(np.where(bits, 1650, 1850)) / RATE_HZ)


def dialled(i: int) -> Floats:
    low, high = (697, 770, 852, 941)[i % 4], (1209, 1336, 1477)[int(_rng.integers(3))]
    return tones(0.1, low, high)


#: all sounds are at -20 dBFS, except these
LEVELS_DB = {"dither": -60.0, "clicks": -35.0, "faint hum": -50.0}
SOUNDS: dict[str, Callable[[float], Floats]] = {
    "digital silence": lambda s: np.zeros(round(s * RATE_HZ)),
    "dither": lambda s: coloured(s, 0),
    "white noise": lambda s: coloured(s, 0),
    "pink noise": lambda s: coloured(s, 1),
    "brown noise": lambda s: coloured(s, 2),
    "faint hum": lambda s: tones(s, 60, 120, 180, 300) + 0.05 * coloured(s, 0),
    "fan": lambda s: coloured(s, 1.2) * (1 + 0.1 * np.sin(9 * clock(s))) + 0.1 * tones(s, 118, 236),
    "gusts of wind": lambda s: coloured(s, 1.6) * np.exp(wavering(s, 1.0)),
    "surf": lambda s: coloured(s, 0.8) * (0.1 + np.sin(0.6 * clock(s)) ** 4),
    "noise at the rate of syllables": lambda s: coloured(s, 0.8) * (0.1 + np.sin(2 * np.pi * 2 * clock(s)) ** 2),
    "clicks": lambda s: clicks(s, 5),
    "clatter": lambda s: clicks(s, 40),
    "dial tone": lambda s: tones(s, 350, 440),
    "busy tone": lambda s: gated(tones(s, 480, 620), 0.5, 0.5),
    "ringing tone": lambda s: gated(tones(s, 440, 480), 2, 4),
    "digits dialled": lambda s: sequence(s, 0.2, dialled),
    "fax call": lambda s: gated(tones(s, 1100), 0.5, 3),
    "fax data": keyed,
    "sweeps": lambda s: swept(s, 400, 3400, 2),
    "music: chords": lambda s: sequence(s, 1.5, lambda i: chord(i, (1, 0.5, 0.3, 0.2), 1.5, 1.0)),
    "music: organ": lambda s: sequence(s, 1.0, lambda i: chord(i, (1, 1, 0.3, 0.7), 1.0, 0.0)),
    "music: arpeggio": lambda s: sequence(
        s, 0.25, lambda i: harmonic(pitch_hz(12 + (0, 4, 7, 12, 7, 4)[i % 6]), 0.3, 4, (1, 0.6, 0.4, 0.2))
    ),
    "music: piano tune": lambda s: sequence(s, 0.4, lambda i: harmonic(melody(i), 1.0, 3, (1, 0.6, 0.4, 0.25, 0.1))),
    "music: fast tune": lambda s: sequence(s, 0.12, lambda i: harmonic(melody(i), 0.12, 0, (1, 0, 0.33, 0, 0.2))),
    "music: plucked strings": lambda s: sequence(s, 0.3, lambda i: plucked(melody(i), 0.8)),
    "music: bells": lambda s: sequence(s, 0.5, bell),
    "music: drum loop": lambda s: sequence(s, 0.25, drum),
    "music: chords, tune and drums": lambda s: (
        sequence(s, 2.0, lambda i: chord(i, (1, 0.5, 0.3, 0.2), 2.0, 0.5)) / 4
        + sequence(s, 0.5, lambda i: harmonic(melody(i), 0.6, 3, (1, 0.6, 0.4)))
        + sequence(s, 0.25, drum)
    ),
}


if __name__ == "__main__":
    main()
