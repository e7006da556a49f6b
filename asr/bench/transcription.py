"""How fast a model transcribes on this machine, where the time goes, and how much the fast path gains.

Axes: n samples, s steps, v vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import torch

from asr.batch import Features, extract
from asr.config import RunConfig
from asr.data import audio
from asr.data.audio import Wave
from asr.data.manifest import Channel
from asr.data.text import normalize
from asr.data.tokenizer import CharTokenizer
from asr.decode.choose import Decoder
from asr.decode.types import LogProbs
from asr.infer import log_probs, pipeline, prepared
from asr.model.checkpoint import AcousticModel, build_model
from asr.model.contract import AnyNetwork
from asr.scoring.compare import Comparison, compare
from asr.scoring.info import UtteranceInfo

#: the parts that a second of work is counted under
PARTS = ("reading", "features", "network", "decoding")
_LETTERS = " 'abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Item:
    """Something to transcribe: a file, or samples made for it; ``reference`` where it is known."""

    id: str
    path: Path | None = None
    wave_n: Wave | None = None
    reference: str | None = None
    offset_s: float = 0.0
    duration_s: float | None = None
    channel: Channel | None = None


@dataclass
class Clock:
    """Seconds of each part, over all threads."""

    #: the wall's where parts come one after the other, a thread's own where they overlap
    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    _lock: Any = field(default_factory=Lock)

    def timed(self, part: str, work: Callable[..., Any], *args: Any) -> Any:
        """What the work gives; its time is counted under the part."""
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
class Measured:
    """The rounds of one way of transcribing."""

    name: str
    decoder: str
    lm: str | None
    rounds: tuple[Round, ...]

    @property
    def seconds(self) -> float:
        """Of a round: the median."""
        return statistics.median(one.seconds for one in self.rounds)

    @property
    def rtf(self) -> float:
        """Seconds of computing for each second of audio."""
        return self.seconds / self.rounds[0].audio_s

    @property
    def texts(self) -> dict[str, str]:
        return self.rounds[0].texts

    def shares(self) -> dict[str, float]:
        """What part of all processor time each part takes."""
        sums = {part: sum(one.parts[part] for one in self.rounds) for part in PARTS}
        whole = sum(sums.values()) or 1.0
        return {part: spent / whole for part, spent in sums.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.name,
            "decoder": self.decoder,
            "lm": self.lm,
            "seconds": round(self.seconds, 4),
            "rounds_s": [round(one.seconds, 4) for one in self.rounds],
            "audio_s_per_s": round(1 / self.rtf, 2),
            "rtf": round(self.rtf, 6),
            "shares": {part: round(share, 4) for part, share in self.shares().items()},
        }


def measure(
    model: AcousticModel,
    items: Sequence[Item],
    decoders: Sequence[Decoder],
    *,
    rounds: int = 3,
    precision: str = "auto",
    plain_too: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Measured]:
    """The fast path with each decoder, and with ``plain_too`` the plain one beside it, in rounds that alternate.

    The plain path is float32, one file at a time, decoded after its network, on as many threads as torch may use. Every
    way has a first round that is not counted: in it code is compiled and memory found.

    Raises:
        DataError: a file cannot be used.
        ConfigError: this machine cannot do the precision.
    """
    fast = prepared(model, precision)
    ways: list[tuple[str, Decoder, Callable[[], Round]]] = []
    for decoder in decoders:
        if plain_too:
            ways.append(("plain", decoder, _round(model, items, decoder, _one_by_one)))
        ways.append(("fast", decoder, _round(fast, items, decoder, _piped)))
    kept: list[list[Round]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for place, (_, _, run) in enumerate(ways):
            one = run()
            if number:
                kept[place].append(one)
            progress((number * len(ways) + place + 1) / ((rounds + 1) * len(ways)))
    return [
        Measured(name, decoder.name, decoder.lm, tuple(done))
        for (name, decoder, _), done in zip(ways, kept, strict=True)
    ]


def compared(items: Sequence[Item], plain: Measured, fast: Measured, normalization: str) -> Comparison | None:
    """Both ways' texts against the references, A plain and B fast; None where a reference is not known."""
    rows = [
        (one.id, normalize(one.reference, normalization), plain.texts[one.id], fast.texts[one.id])
        for one in items
        if one.reference is not None
    ]
    if len(rows) < len(items):
        return None
    return compare(rows, {one.id: UtteranceInfo("", one.duration_s or 0.0) for one in items})


def made_up(durations_s: Sequence[float], rate_hz: int, seed: int = 1) -> Iterator[Item]:
    """Waves that move like speech, where none is at hand: syllables of a changing voice, and pauses."""
    for number, duration_s in enumerate(durations_s):
        rng = np.random.default_rng((seed, number))
        count = max(1, round(duration_s * rate_hz))
        at_n = np.arange(count) / rate_hz
        pitch_hz = 120 + 40 * np.sin(2 * np.pi * (0.3 * at_n + rng.random()))
        phase_n = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
        voice_n = sum(np.sin(k * phase_n) / k for k in range(1, 12))
        loud_n = np.clip(np.sin(2 * np.pi * (4 * at_n + rng.random())), 0, 1)
        wave_n = 0.1 * loud_n * voice_n + 0.01 * rng.standard_normal(count)
        yield Item(f"made-up-{number}", wave_n=wave_n.astype(np.float32), duration_s=count / rate_hz)


def random_model(cfg: RunConfig) -> AcousticModel:
    """A model of a config with random weights and the letters of English: for its speed only."""
    torch.manual_seed(cfg.train.seed)
    return build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(sorted(_LETTERS))))


def _round(
    model: AcousticModel, items: Sequence[Item], decoder: Decoder, way: Callable[..., dict[str, str]]
) -> Callable[[], Round]:
    def run() -> Round:
        clock, length_s = Clock(time.perf_counter if way is _one_by_one else time.thread_time), [0.0]

        def features_of(item: Item) -> Features:
            wave_n = clock.timed("reading", _read, model, item)
            length_s[0] += len(wave_n) / model.audio.sample_rate_hz
            features_tf: Features = clock.timed("features", extract, model.extractor, wave_n)
            return features_tf

        began = time.perf_counter()
        texts = way(model, items, decoder, features_of, clock)
        return Round(time.perf_counter() - began, length_s[0], clock.seconds, texts)

    return run


def _one_by_one(
    model: AcousticModel, items: Sequence[Item], decoder: Decoder, features_of: Any, clock: Clock
) -> dict[str, str]:
    texts = {}
    for item in items:
        one_sv = clock.timed("network", log_probs, model, [features_of(item)])[0]
        texts[item.id] = _text(clock.timed("decoding", decoder.decode, one_sv))
    return texts


def _piped(
    model: AcousticModel, items: Sequence[Item], decoder: Decoder, features_of: Any, clock: Clock
) -> dict[str, str]:
    def decode(one_sv: LogProbs) -> str:
        return _text(clock.timed("decoding", decoder.decode, one_sv))

    watched = replace(model, network=cast(AnyNetwork, _Watched(model.network, clock)))
    return dict(pipeline(watched, ((item.id, features_of(item)) for item in items), decode))


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


def _text(hypotheses: Sequence[Any]) -> str:
    return " ".join(hypotheses[0].text.split())


def _read(model: AcousticModel, item: Item) -> Wave:
    if item.wave_n is not None:
        return item.wave_n
    assert item.path is not None  # an item has samples or a path
    wave_n, rate_hz = audio.load(item.path, offset_s=item.offset_s, duration_s=item.duration_s, channel=item.channel)
    remedy = "convert it, or use --resample"
    return audio.at_rate(wave_n, rate_hz, model.audio.sample_rate_hz, model.audio.resample, item.path, remedy)
