"""Made-up speech that a small model learns in a minute: each letter is two tones in a little noise.

Axes: n samples.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.data.manifest import Utterance, write

Wave = npt.NDArray[np.float32]

RATE_HZ = 16000
LETTERS = "abcdefghijkl"
#: a letter takes between these, so that its length says nothing
LETTER_S = (0.07, 0.11)
GAP_S = 0.12
SPLITS = {"train": 320, "dev": 32, "test": 48}
QUICK_SPLITS = {"train": 96, "dev": 8, "test": 8}


def made_up_speech(folder: Path, splits: dict[str, int], seed: int = 1) -> Path:
    """Write a data folder: a manifest for each split, and its WAV files. The same seed gives the same bytes."""
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(splits.items()):
        random = np.random.default_rng((seed, number))
        rows = []
        for i in range(count):
            text = words(random)
            wave_n = say(text, random)
            name = f"{split}-{i:04d}"
            write_wave(folder / "wav" / f"{name}.wav", wave_n)
            rows.append(Utterance(name, f"wav/{name}.wav", len(wave_n) / RATE_HZ, text, f"speaker-{i % 8}"))
        write(folder / f"{split}.jsonl", rows)
    return folder


def words(random: np.random.Generator, longest: int = 5) -> str:
    """Draw one to ``longest`` words of two to four letters."""
    count = int(random.integers(1, longest + 1))
    return " ".join("".join(random.choice(list(LETTERS), int(random.integers(2, 5)))) for _ in range(count))


def say(text: str, random: np.random.Generator) -> Wave:
    """Return a wave for a text: two tones a letter, quiet between words."""
    pieces = [np.zeros(round(GAP_S * RATE_HZ))]
    for letter in text:
        seconds = GAP_S if letter == " " else random.uniform(*LETTER_S)
        at_n = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        if letter == " ":
            pieces.append(0.0 * at_n)
            continue
        place = LETTERS.index(letter)
        # Each tone of one row goes with each of another, as on a telephone's keys.
        low_hz, high_hz = 400 + 120 * (place % 4), 1200 + 300 * (place // 4)
        rise_n = np.minimum(1, np.minimum(at_n, at_n[::-1]) / 0.01)
        pieces.append(rise_n * (np.sin(2 * np.pi * low_hz * at_n) + np.sin(2 * np.pi * high_hz * at_n)))
    pieces.append(pieces[0])

    clean_n = 0.15 * random.uniform(0.5, 1.5) * np.concatenate(pieces)
    return (clean_n + 0.01 * random.standard_normal(len(clean_n))).astype(np.float32)


def write_wave(path: Path, wave_n: Wave) -> None:
    """Write 16-bit WAV with Python's own library, so that nothing else need be installed."""
    samples_n = np.round(np.clip(wave_n, -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples_n.tobytes())


def repeated_speech(folder: Path, rows: int, seconds: float, distinct: int = 16, seed: int = 1) -> Path:
    """Write a training set of many rows of one length over few files, for measures of speed."""
    random = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    texts = []
    for i in range(distinct):
        text, wave_n = _filled(random, round(seconds * RATE_HZ))
        write_wave(folder / "wav" / f"{i}.wav", wave_n)
        texts.append(text)

    utterances = [
        Utterance(f"row-{i:05d}", f"wav/{i % distinct}.wav", seconds, texts[i % distinct]) for i in range(rows)
    ]
    write(folder / "train.jsonl", utterances)
    return folder


def _filled(random: np.random.Generator, samples: int) -> tuple[str, Wave]:
    """Return words that fill about this many samples, and exactly so many samples."""
    spoken, pieces, left = [], [], samples
    while left > 0:
        word = words(random, longest=1)
        pieces.append(say(word, random))
        left -= len(pieces[-1])
        if left >= 0 or not spoken:
            spoken.append(word)
    return " ".join(spoken), np.concatenate(pieces)[:samples]
