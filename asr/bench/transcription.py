"""Measure how fast a model transcribes on this machine, where the time goes, and how much the fast path gains.

Axes: n samples, s steps, v vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import torch

from asr.config import RunConfig
from asr.data import audio
from asr.data.audio import Wave
from asr.data.manifest import Channel
from asr.data.text import normalize
from asr.data.tokenizer import CharTokenizer
from asr.decode.choose import Decoder
from asr.decode.types import LogProbs
from asr.errors import DataError
from asr.infer import log_probs, pipeline
from asr.model.checkpoint import build_model
from asr.model.contract import AcousticModel, AnyNetwork
from asr.model.prepared import prepared
from asr.scoring.compare import Comparison, compare
from asr.scoring.info import UtteranceInfo
from asr.utterance import Features, extract

#: the parts of the work
PARTS = ("reading", "features", "network", "decoding")
_LETTERS = " 'abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Item:
    """Something to transcribe: a file or samples, with its reference text if that is known."""

    id: str
    path: Path | None = None
    wave_n: Wave | None = None
    reference: str | None = None
    offset_s: float = 0.0
    duration_s: float | None = None
    channel: Channel | None = None


@dataclass
class Clock:
    """Seconds of each part, over all threads; and of the audio."""

    #: the wall's time if parts come one after the other, a thread's own if they overlap
    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    #: length of what was read
    audio_s: float = 0.0
    _lock: Any = field(default_factory=Lock)

    def timed(self, part: str, work: Callable[..., Any], *args: Any) -> Any:
        """Do some work, and count its time under a part."""
        began = self.now()
        try:
            return work(*args)
        finally:
            spent = self.now() - began
            with self._lock:
                self.seconds[part] += spent


@dataclass(frozen=True)
class Round:
    """One pass over all items."""

    seconds: float
    audio_s: float
    parts: dict[str, float]
    texts: dict[str, str]


@dataclass(frozen=True)
class TranscriptionSpeed:
    """The rounds of one way of transcribing."""

    name: str
    decoder: str
    lm: str | None
    rounds: tuple[Round, ...]

    @property
    def seconds(self) -> float:
        """Time of a round, the median."""
        return statistics.median(done.seconds for done in self.rounds)

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of computing per second of audio."""
        return self.seconds / self.rounds[0].audio_s

    @property
    def texts(self) -> dict[str, str]:
        """The transcripts by item, the same in every round."""
        return self.rounds[0].texts

    def shares(self) -> dict[str, float]:
        """Return the share of each part in all processor time."""
        sums = {part: sum(done.parts[part] for done in self.rounds) for part in PARTS}
        whole = sum(sums.values()) or 1.0
        return {part: spent / whole for part, spent in sums.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the numbers for programs."""
        return {
            "path": self.name,
            "decoder": self.decoder,
            "lm": self.lm,
            "seconds": round(self.seconds, 4),
            "rounds_s": [round(done.seconds, 4) for done in self.rounds],
            "audio_s_per_s": round(1 / self.rtf, 2),
            "rtf": round(self.rtf, 6),
            "shares": {part: round(share, 4) for part, share in self.shares().items()},
        }


def measure_transcription(
    model: AcousticModel,
    items: Sequence[Item],
    decoders: Sequence[Decoder],
    *,
    rounds: int = 3,
    precision: str = "auto",
    plain_too: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> list[TranscriptionSpeed]:
    """Measure the fast path with each decoder, and with ``plain_too`` the plain one beside it, in alternating rounds.

    The plain path is float32, one file at a time, decoded after its network, on as many threads as torch may use. Every
    way has a first round that is not counted: in it code is compiled and memory found.

    Args:
        progress: called with the share that is done.

    Raises:
        DataError: a file cannot be used.
        ConfigError: this machine cannot do the precision.
    """
    fast = prepared(model, precision)
    ways: list[tuple[str, Decoder, Callable[[], Round]]] = []
    for decoder in decoders:
        if plain_too:
            ways.append(("plain", decoder, partial(_one_by_one, model, items, decoder)))
        ways.append(("fast", decoder, partial(_piped, fast, items, decoder)))

    kept: list[list[Round]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for place, (_, _, run) in enumerate(ways):
            done = run()
            if number:
                kept[place].append(done)
            progress((number * len(ways) + place + 1) / ((rounds + 1) * len(ways)))
    return [
        TranscriptionSpeed(name, decoder.name, decoder.lm, tuple(kept[place]))
        for place, (name, decoder, _) in enumerate(ways)
    ]


def compared(
    items: Sequence[Item], plain: TranscriptionSpeed, fast: TranscriptionSpeed, normalization: str
) -> Comparison | None:
    """Score both ways' texts against the references, A plain and B fast; None if a reference is not known."""
    rows = []
    for item in items:
        if item.reference is None:
            return None
        reference = normalize(item.reference, normalization)
        rows.append((item.id, reference, plain.texts[item.id], fast.texts[item.id]))
    return compare(rows, {item.id: UtteranceInfo("", item.duration_s or 0.0) for item in items})


def made_up(durations_s: Sequence[float], rate_hz: int, seed: int = 1) -> Iterator[Item]:
    """Make waves that move like speech: syllables of a changing voice, and pauses."""
    for number, duration_s in enumerate(durations_s):
        rng = np.random.default_rng((seed, number))
        count = max(1, round(duration_s * rate_hz))
        at_n = np.arange(count) / rate_hz

        # a voice whose pitch moves, four syllables per second, and some noise
        pitch_hz = 120 + 40 * np.sin(2 * np.pi * (0.3 * at_n + rng.random()))
        phase_n = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
        voice_n = sum(np.sin(k * phase_n) / k for k in range(1, 12))
        loud_n = np.clip(np.sin(2 * np.pi * (4 * at_n + rng.random())), 0, 1)
        wave_n = 0.1 * loud_n * voice_n + 0.01 * rng.standard_normal(count)
        yield Item(f"made-up-{number}", wave_n=wave_n.astype(np.float32), duration_s=count / rate_hz)


def random_model(cfg: RunConfig) -> AcousticModel:
    """Build a model of a config with random weights and the letters of English, for its speed only."""
    torch.manual_seed(cfg.train.seed)
    return build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(sorted(_LETTERS))))


def _one_by_one(model: AcousticModel, items: Sequence[Item], decoder: Decoder) -> Round:
    """Transcribe one item after the other, the network before the decoder."""
    clock = Clock(time.perf_counter)
    began = time.perf_counter()
    texts = {}
    for item in items:
        features_tf = _features(model, item, clock)
        one_sv = clock.timed("network", log_probs, model, [features_tf])[0]
        texts[item.id] = _decode(decoder, clock, one_sv)
    return Round(time.perf_counter() - began, clock.audio_s, clock.seconds, texts)


def _piped(model: AcousticModel, items: Sequence[Item], decoder: Decoder) -> Round:
    """Transcribe as ``asr transcribe`` does."""
    clock = Clock(time.thread_time)
    began = time.perf_counter()
    watched = replace(model, network=cast(AnyNetwork, _Watched(model.network, clock)))
    stream = ((item.id, _features(model, item, clock)) for item in items)
    texts = {}
    for id_, text in pipeline(watched, stream, partial(_decode, decoder, clock)):
        if isinstance(text, DataError):
            raise text
        texts[id_] = text
    return Round(time.perf_counter() - began, clock.audio_s, clock.seconds, texts)


def _features(model: AcousticModel, item: Item, clock: Clock) -> Features:
    wave_n = clock.timed("reading", _read, model, item)
    clock.audio_s += len(wave_n) / model.audio.sample_rate_hz
    features_tf: Features = clock.timed("features", extract, model.extractor, wave_n)
    return features_tf


def _decode(decoder: Decoder, clock: Clock, log_probs_sv: LogProbs) -> str:
    hypotheses = clock.timed("decoding", decoder.decode, log_probs_sv)
    return " ".join(hypotheses[0].text.split())


class _Watched:
    """A network whose time is counted."""

    def __init__(self, network: AnyNetwork, clock: Clock) -> None:
        self._network = network
        self._clock = clock

    def eval(self) -> _Watched:
        return self

    def each(self, features: Sequence[Features]) -> list[LogProbs]:
        every_sv: list[LogProbs] = self._clock.timed("network", self._network.each, features)
        return every_sv

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def _read(model: AcousticModel, item: Item) -> Wave:
    if item.wave_n is not None:
        return item.wave_n
    assert item.path is not None  # an item has samples or a path
    wave_n, rate_hz = audio.load(item.path, offset_s=item.offset_s, duration_s=item.duration_s, channel=item.channel)
    remedy = "convert it, or use --resample"
    return audio.at_rate(wave_n, rate_hz, model.audio.sample_rate_hz, model.audio.resample, item.path, remedy)
