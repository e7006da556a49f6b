"""Connected spoken digits, synthesised here and now by espeak-ng: 1,260 utterances of three to five digits.

No download and no archive; the voices of a split are in no other split. A small model learns it in half a minute, so it
is good for a first run and for end-to-end tests; the results say nothing about human speech.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.corpora.recipe import Corpus, Recipe, Request, stable_hash
from asr.data import audio
from asr.data.manifest import Utterance
from asr.heartbeat import counted

from .synth import Espeak, Wave

SAMPLE_RATE_HZ = 16000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# A speaker is an accent and a variant. Every variant speaks every accent: US, British (called "en"), Scottish,
# Received Pronunciation, Caribbean. Digits differ between them: four with and without its r, one as wun and won.
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029")

# The variants of espeak-ng that sound like people: f1-f5, m1-m7 and others of normal formants; none of whispers,
# robots and Klatt voices, and of near-twins (linda of belinda, aunty of f4, Mike of m3) only one. By sex in the order
# of stable_hash("digits/<variant>"), the first two are in test, the third in dev, the rest in train.
VARIANTS = {
    "train": (
        *("f3", "f4", "f5", "Annie", "grandma", "shelby"),
        *("m1", "m2", "m3", "m6", "m7", "Alex", "Denis", "Mario", "max", "robert"),
    ),
    "dev": ("f2", "m4"),
    "test": ("belinda", "f1", "grandpa", "m5"),
}

#: utterances of each speaker: 80 x 12 = 960 train, 10 x 10 = 100 dev, 20 x 10 = 200 test
PER_VOICE = {"train": 12, "dev": 10, "test": 10}


def prepare(request: Request, per_voice: Mapping[str, int] = PER_VOICE) -> Corpus:
    """Synthesise ``train``, ``dev`` and ``test``: the same bytes at every run on a machine."""
    espeak = Espeak()
    plans = [plan for split, count in per_voice.items() for plan in plan_split(split, count)]
    rows: dict[str, list[Utterance]] = {split: [] for split in per_voice}
    with counted("synthesising utterances", len(plans)) as advance:
        for plan in plans:
            wave = render(espeak, plan)
            path = Path("audio") / plan.split / f"{plan.id}.wav"
            audio.save(request.out / path, wave, SAMPLE_RATE_HZ)
            duration_s = round(len(wave) / SAMPLE_RATE_HZ, 4)
            meta = {"rate_wpm": plan.rate_wpm, "pitch": plan.pitch, "snr_db": round(plan.snr_db, 1)}
            rows[plan.split].append(Utterance(plan.id, path.as_posix(), duration_s, plan.text, plan.voice, meta=meta))
            advance(1)

    return Corpus(rows)


@dataclass(frozen=True)
class Plan:
    """The sound of one utterance.

    Units: ``pitch`` and ``pitch_range`` are espeak-ng's (50 is the voice's own), ``word_gap`` its 10 ms; ``level_db``
    is the speech's RMS against full scale, ``snr_db`` that RMS against the noise's.
    """

    id: str
    split: str
    voice: str
    text: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    word_gap: int
    level_db: float
    snr_db: float
    noise_width: int
    lead_s: float
    trail_s: float


def plan_split(split: str, per_voice: int) -> Iterator[Plan]:
    """Yield the plans of a split: each depends on its id alone."""
    for accent in ACCENTS:
        for variant in VARIANTS[split]:
            for number in range(1, per_voice + 1):
                id_ = f"{accent}-{variant}-{number:02d}"
                rng = _generator(id_, "plan")
                yield Plan(
                    id=id_,
                    split=split,
                    voice=f"{accent}+{variant}",
                    text=" ".join(rng.choice(DIGITS, size=rng.integers(3, 5, endpoint=True))),
                    rate_wpm=int(rng.integers(130, 210, endpoint=True)),  # 175 is espeak-ng's normal
                    pitch=int(rng.integers(35, 65, endpoint=True)),  # about 0.8 to 1.2 times the voice's own
                    pitch_range=int(rng.integers(35, 65, endpoint=True)),
                    word_gap=int(rng.integers(0, 8, endpoint=True)),
                    level_db=float(rng.uniform(-32, -20)),
                    snr_db=float(rng.uniform(20, 40)),  # a quiet room; below 15 dB it would be work to recognise
                    noise_width=int(rng.integers(1, 8, endpoint=True)),
                    lead_s=float(rng.uniform(0.05, 0.35)),
                    trail_s=float(rng.uniform(0.05, 0.35)),
                )


def render(espeak: Espeak, plan: Plan) -> Wave:
    """Return the samples of a plan: speech at its level, silence around it, and noise under all of it.

    Shapes: (n,) float32 in (-1, 1), at SAMPLE_RATE_HZ.
    """
    speech = espeak.speak(
        plan.text,
        plan.voice,
        rate_wpm=plan.rate_wpm,
        pitch=plan.pitch,
        pitch_range=plan.pitch_range,
        volume=50,  # at 100 the louder variants reach full scale, and espeak-ng's gain control pumps
        word_gap=plan.word_gap,
    )
    speech = audio.resampled(speech, espeak.sample_rate_hz, SAMPLE_RATE_HZ)
    rms = 10 ** (plan.level_db / 20)
    speech *= rms / _rms(speech)

    lead = round(plan.lead_s * SAMPLE_RATE_HZ)
    trail = round(plan.trail_s * SAMPLE_RATE_HZ)
    noise = _generator(plan.id, "noise").standard_normal(lead + len(speech) + trail)
    # a moving average darkens the noise: rooms and microphones are not all of one colour
    noise = np.convolve(noise, np.ones(plan.noise_width), mode="same")
    wave = noise * (rms * 10 ** (-plan.snr_db / 20) / _rms(noise))
    wave[lead : lead + len(speech)] += speech
    # 0.95: the few whose crests are above full scale at their level are set lower, never clipped
    return (wave * min(1.0, 0.95 / np.abs(wave).max())).astype(np.float32)


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def _generator(id_: str, purpose: str) -> np.random.Generator:
    # stable_hash has 56 bits: all of them make the seed
    return np.random.default_rng(int(stable_hash(f"digits/{id_}/{purpose}") * 2**56))


RECIPE = Recipe(
    name="digits",
    title="Synthetic connected digits (espeak-ng)",
    hours=0.7,
    sample_rate_hz=SAMPLE_RATE_HZ,
    licence="synthetic audio, no rights claimed; made by espeak-ng (GPL-3.0-or-later)",
    homepage="https://github.com/espeak-ng/espeak-ng",
    prepare=prepare,
)
