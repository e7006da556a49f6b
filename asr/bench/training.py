"""Measure how fast a config trains on this machine, where the time goes, and how near the products come to the peak.

The step that is measured is training's own (``asr.training.step``), on batches from its own loader.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from asr.bench.plain import PlainTrainer
from asr.bench.transcription import made_up
from asr.config import RunConfig
from asr.data import manifest as manifests
from asr.data.manifest import Utterance
from asr.model.conv import strided_b
from asr.model.folded import strided
from asr.model.network import DeepSpeech2, Network
from asr.model.recurrent import RecurrentLayer
from asr.model.steps import steps_after
from asr.model.tdnn import WindowLayer, WindowNetwork
from asr.model.trainable import TrainableNetwork
from asr.runtime import DTYPES, hardware
from asr.training.trial import build_trial, endless_batches

#: the parts of a step, in order; together they are all of its time
PARTS = (
    "data",
    "convolution",
    "encoder",
    "output",
    "ctc",
    "output back",
    "encoder back",
    "convolution back",
    "optimiser",
)
#: the parts of convolutions and the encoder's layers
PRODUCTS = ("convolution", "encoder", "encoder back", "convolution back")
#: steps of one way before the other has its turn
_TURN = 4
_LETTERS = "abcdefghijklmnopqrstuvwxyz "
#: side of the matrices whose product is the peak
_SQUARE = 2048


@dataclass(frozen=True)
class Turn:
    """Some steps of one way."""

    audio_s: float
    seconds: float


@dataclass
class TrainingSpeed:
    """Hold the measures of a training: speed, shares, memory."""

    precision: str
    hardware: str
    threads: int
    parameters: int
    #: what was trained on, in words
    data: str
    #: means per batch: utterances, and seconds of audio
    batch: tuple[float, float] = (0.0, 0.0)
    steps: int = 0
    turns: list[Turn] = field(default_factory=list)
    plain: list[Turn] = field(default_factory=list)
    #: the plain way in the same precision as ours, on batches by length
    better_plain: list[Turn] = field(default_factory=list)
    #: seconds of each part
    parts: dict[str, float] = field(default_factory=dict)
    #: seconds of computing features, in threads beside the step
    features_s: float = 0.0
    #: operations of convolutions and the encoder (a multiplication and an addition are two); nan: not known
    operations: float = 0.0
    #: operations per second of the machine's best matrix product
    peak: float = 0.0

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(self.parts.values())

    @property
    def audio_s_per_s(self) -> float:
        """Seconds of audio per second, the median over turns."""
        return _median_rate(self.turns)

    @property
    def plain_audio_s_per_s(self) -> float | None:
        """The same of the plain way, if it was measured."""
        return _median_rate(self.plain) if self.plain else None

    @property
    def ratio(self) -> float | None:
        """Return the speed as a multiple of the plain way's."""
        plain = self.plain_audio_s_per_s
        return None if plain is None else self.audio_s_per_s / plain

    @property
    def better_plain_audio_s_per_s(self) -> float | None:
        """Seconds of audio per second of the better plain way, if it was measured."""
        return _median_rate(self.better_plain) if self.better_plain else None

    @property
    def better_ratio(self) -> float | None:
        """Return the speed as a multiple of the better plain way's."""
        plain = self.better_plain_audio_s_per_s
        return None if plain is None else self.audio_s_per_s / plain

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part in the time."""
        return {part: spent / self.seconds for part, spent in self.parts.items()}

    @property
    def of_peak(self) -> float:
        """The share of the peak that convolutions and encoder reach while they run; nan: not known."""
        spent = sum(self.parts[part] for part in PRODUCTS)
        return self.operations / spent / self.peak if spent else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the numbers for programs."""
        return {
            "audio_s_per_s": round(self.audio_s_per_s, 2),
            "shares": {part: round(share, 4) for part, share in self.shares.items()},
            "features_in_workers": round(self.features_s / self.seconds, 4),
            "of_peak": None if math.isnan(self.of_peak) else round(self.of_peak, 4),
            "peak_gflop_per_s": round(self.peak / 1e9, 1),
            "operations_per_step": None if math.isnan(self.operations) else round(self.operations / max(1, self.steps)),
            "steps": self.steps,
            "utterances_per_batch": round(self.batch[0], 2),
            "audio_s_per_batch": round(self.batch[1], 2),
            "data": self.data,
            "parameters": self.parameters,
            "precision": self.precision,
            "hardware": self.hardware,
            "threads": self.threads,
            "plain_audio_s_per_s": _rounded(self.plain_audio_s_per_s, 2),
            "ratio": _rounded(self.ratio, 3),
            "better_plain_audio_s_per_s": _rounded(self.better_plain_audio_s_per_s, 2),
            "better_ratio": _rounded(self.better_ratio, 3),
        }


def _median_rate(turns: list[Turn]) -> float:
    return statistics.median(turn.audio_s / turn.seconds for turn in turns)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def measure_training(
    cfg: RunConfig,
    data: Path,
    words: str,
    *,
    compare: bool = False,
    minutes: float = 1.0,
    steps: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> TrainingSpeed:
    """Train for some minutes, or for this many steps (each way), and forget it.

    The first two steps of each way are not counted: in them code is compiled and memory found. With ``compare`` ours
    and the two ways of ``asr.bench.plain`` take turns of four steps.

    Args:
        data: a folder with train.jsonl; ``words`` describes it in the report.
        progress: called with the share that is done.

    Raises:
        ConfigError, DataError: as training does.
    """
    with _Timed(cfg, data).running() as ours:
        trial = ours.trial
        machine = trial.machine
        hardware_name = hardware(machine.device, machine.threads)
        found = TrainingSpeed(machine.precision, hardware_name, machine.threads, trial.model.num_parameters, words)
        others: list[tuple[list[Turn], PlainTrainer]] = []
        if compare:
            setting = (trial.data, trial.model.network, machine.device)
            others.append((found.plain, PlainTrainer(*setting)))
            better = PlainTrainer(*setting, precision=machine.precision, by_length=True)
            others.append((found.better_plain, better))
        found.peak = peak(machine.precision, machine.device)
        for _ in range(2):
            ours.step()
            for _, other in others:
                other.step()

        ours.forget()
        began = time.perf_counter()
        share = 0.0
        while share < 1:
            count = _TURN if steps is None else min(_TURN, steps - found.steps)
            found.turns.append(_turn(ours.step, count, machine.device))
            for turns, other in others:
                turns.append(_turn(lambda way=other: way.step()[0], count, machine.device))  # type: ignore[misc]
            found.steps += count
            share = (time.perf_counter() - began) / (60 * minutes) if steps is None else found.steps / steps
            progress(min(1.0, share))

        found.peak = max(found.peak, peak(machine.precision, machine.device))
        found.parts = ours.clock.seconds()
        found.operations = ours.operations
        found.features_s = ours.features_s
        found.batch = (ours.utterances / found.steps, ours.audio_s / found.steps)
    return found


def _turn(step: Callable[[], float], count: int, device: torch.device) -> Turn:
    """Time some steps of one way; each returns its seconds of audio."""
    began = time.perf_counter()
    audio_s = sum(step() for _ in range(count))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Turn(audio_s, time.perf_counter() - began)


def made_up_data(cfg: RunConfig, folder: Path, seconds: float) -> str:
    """Write a training set of sounds that move like speech, all of one length, with random letters; describe it."""
    rate_hz = cfg.audio.sample_rate_hz
    random = np.random.default_rng(cfg.train.seed)
    rows = []
    for item in made_up([seconds] * (2 * cfg.batch.max_utterances), rate_hz, cfg.train.seed):
        path = folder / f"{item.id}.wav"
        soundfile.write(path, item.wave_n, rate_hz, subtype="PCM_16")
        text = "".join(random.choice(list(_LETTERS), max(1, round(6 * seconds))))
        text = " ".join(text.split()) or "a"
        rows.append(Utterance(id=item.id, audio_path=str(path), duration_s=seconds, text=text))
    manifests.write(folder / "train.jsonl", rows)
    return f"made-up utterances of {seconds:g} s"


class _Timed:
    """A training step as ``asr.train`` does it, with a clock on its parts."""

    def __init__(self, cfg: RunConfig, data: Path) -> None:
        self.trial = build_trial(cfg, data, self._timed)
        self.clock = _Clock(self.trial.machine.device)
        self._loading = endless_batches(self.trial)
        self._steps = 0
        self.forget()

    @contextmanager
    def running(self) -> Iterator[_Timed]:
        """Watch the network, and stop the loader in the end."""
        with _watched(self.trial.model.network, self.clock), closing(self._loading):
            yield self

    def forget(self) -> None:
        """Begin to count anew."""
        self.clock.forget()
        self.operations = 0.0
        self.audio_s = 0.0
        self.utterances = 0
        self._features_before = sum(self.trial.data.loader.seconds.values())

    @property
    def features_s(self) -> float:
        """Seconds of computing features, over all threads."""
        return sum(self.trial.data.loader.seconds.values()) - self._features_before

    def step(self) -> float:
        """Update the weights once; return the seconds of audio."""
        self.clock.start()
        batches = next(self._loading)
        self.clock.until("data")
        done = self.trial.step(batches, self._steps, self.trial.cfg.optim.lr)
        self._steps += 1
        self.clock.until("optimiser")

        for batch in batches:
            views = 1 if batch.twin_btf is None else 2
            self.operations += views * training_operations(self.trial.model.network, batch.num_frames_b)
        self.utterances += done.utterances
        self.audio_s += done.audio_s
        return done.audio_s

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Mark the end of a phase of a training step as the end of a part (hooks mark those within a phase)."""
        yield
        back = "convolution back" if self.trial.cfg.model.conv else "encoder back"
        self.clock.until({"forward": "output", "loss": "ctc", "backward": back, "optimizer": "optimiser"}[phase])


class _Clock:
    """Seconds of each part: by the wall on CPU, by events on a GPU, which runs behind."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.forget()

    def forget(self) -> None:
        """Set all parts to zero."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._events: list[tuple[str, Any, Any]] = []
        self._last: Any = None

    def start(self) -> None:
        """Begin a step."""
        self._last = self._now()

    def until(self, part: str) -> None:
        """Count what has passed since the last mark under this part."""
        now = self._now()
        if self.device.type == "cuda":
            self._events.append((part, self._last, now))
        elif self._last is not None:
            self._seconds[part] += now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part."""
        if self._events:
            torch.cuda.synchronize(self.device)
        for part, first, second in self._events:
            self._seconds[part] += first.elapsed_time(second) / 1000
        self._events = []
        return self._seconds

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


@contextmanager
def _watched(network: TrainableNetwork, clock: _Clock) -> Iterator[None]:
    """Mark the end of the front-end, if there is one, and of the encoder, forward and back."""

    def front_end(module: Any, args: Any, result: Any) -> None:
        clock.until("convolution")
        if result[0].requires_grad:
            result[0].register_hook(lambda grad: clock.until("encoder back"))

    def output(module: Any, args: Any) -> None:
        clock.until("encoder")
        if args[0].requires_grad:
            args[0].register_hook(lambda grad: clock.until("output back"))

    hooks = [network.output.register_forward_pre_hook(output)]
    if isinstance(network, Network) and network.cfg.conv:
        hooks.append(network.front_end.register_forward_hook(front_end))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def training_operations(network: TrainableNetwork, num_frames_b: Tensor) -> float:
    """Count the operations of the products of convolutions and encoder in a training step; nan: not known.

    A multiplication and an addition are two. Each layer goes forward once and back twice, but the first of all needs no
    gradient of its input, so it goes back once. Padding, the output layer and everything that is no product count
    nothing.
    """
    if not isinstance(network, Network):
        return math.nan
    products = list(_products(network, num_frames_b))
    return 6.0 * sum(products) - 2.0 * products[0]


def _products(network: Network, num_b: Tensor) -> Iterator[float]:
    """Count the multiplications of each layer, forward."""
    bins = network.bins
    for conv in network.front_end.convs:
        assert isinstance(conv, nn.Conv2d)
        num_b = strided_b(num_b, conv.kernel_size[0], conv.stride[0])
        bins = strided(bins, conv.kernel_size[1], conv.stride[1])
        yield float(num_b.sum()) * bins * conv.weight.numel()

    assert isinstance(network, DeepSpeech2 | WindowNetwork)
    for layer in network.layers:
        if isinstance(layer, WindowLayer):
            num_b = steps_after((layer.stride,), num_b)
            weights = layer.w_hki.numel()
        else:
            assert isinstance(layer, RecurrentLayer)
            weights = sum(way.w_input_gi.numel() + way.w_hidden_gh.numel() for way in layer.directions)
        yield float(num_b.sum()) * weights


def peak(precision: str, device: torch.device, tries: int = 5) -> float:
    """Return the operations per second of the machine's best matrix product, the best of several."""
    dtype = DTYPES[precision]
    size = _SQUARE if device.type == "cpu" else 4 * _SQUARE
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best = math.inf
    for _ in range(tries):
        began = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
