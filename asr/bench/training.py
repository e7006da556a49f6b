"""How fast a config trains on this machine, where the time goes, and how near the products come to the peak.

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
from torch import Tensor

from asr.bench.plain import PlainTrainer
from asr.bench.transcription import made_up
from asr.config import ModelConfig, RunConfig
from asr.data import manifest as manifests
from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.model.conv import strided
from asr.model.network import DeepSpeech2, Network
from asr.model.recurrent import RecurrentLayer
from asr.model.tdnn import WindowLayer, WindowNetwork
from asr.runtime import hardware
from asr.training.trial import Trial

#: the parts of a step, in order; together they are all of its time
PARTS = ("data", "convolution", "encoder", "output", "ctc", "output back", "encoder back", "convolution back",
         "optimiser")  # fmt: skip
#: what convolutions and the encoder's layers take
PRODUCTS = ("convolution", "encoder", "encoder back", "convolution back")
#: steps of one way before the other has its turn
_TURN = 4
_LETTERS = "abcdefghijklmnopqrstuvwxyz "
#: side of the matrices whose product is the peak
_SQUARE = 2048


@dataclass
class Turn:
    """Some steps of one way."""

    audio_s: float = 0.0
    seconds: float = 0.0


@dataclass
class Measured:
    """What came out."""

    precision: str
    hardware: str
    threads: int
    parameters: int
    #: what was trained on, in words
    data: str
    #: utterances a batch, seconds a batch: means
    batch: tuple[float, float] = (0.0, 0.0)
    steps: int = 0
    turns: list[Turn] = field(default_factory=list)
    plain: list[Turn] = field(default_factory=list)
    #: seconds of each part
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    #: of the data's threads, beside the step
    features_s: float = 0.0
    #: operations of convolutions and the encoder (a multiplication and an addition are two), and the machine's best
    operations: float = 0.0
    peak: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def audio_s_per_s(self) -> float:
        return statistics.median(turn.audio_s / turn.seconds for turn in self.turns)

    @property
    def plain_audio_s_per_s(self) -> float | None:
        return statistics.median(turn.audio_s / turn.seconds for turn in self.plain) if self.plain else None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the plain way."""
        plain = self.plain_audio_s_per_s
        return None if plain is None else self.audio_s_per_s / plain

    @property
    def shares(self) -> dict[str, float]:
        return {part: spent / self.seconds for part, spent in self.parts.items()}

    @property
    def of_peak(self) -> float:
        """What convolutions and encoder reach of the peak, while they run."""
        spent = sum(self.parts[part] for part in PRODUCTS)
        return self.operations / spent / self.peak if spent else math.nan

    def to_json(self) -> dict[str, Any]:
        plain, ratio = self.plain_audio_s_per_s, self.ratio
        return {
            "audio_s_per_s": round(self.audio_s_per_s, 2),
            "shares": {part: round(share, 4) for part, share in self.shares.items()},
            "features_in_workers": round(self.features_s / self.seconds, 4),
            "of_peak": round(self.of_peak, 4),
            "peak_gflop_per_s": round(self.peak / 1e9, 1),
            "operations_per_step": round(self.operations / max(1, self.steps)),
            "steps": self.steps,
            "utterances_per_batch": round(self.batch[0], 2),
            "audio_s_per_batch": round(self.batch[1], 2),
            "data": self.data,
            "parameters": self.parameters,
            "precision": self.precision,
            "hardware": self.hardware,
            "threads": self.threads,
            "plain_audio_s_per_s": None if plain is None else round(plain, 2),
            "ratio": None if ratio is None else round(ratio, 3),
        }


def measure(
    cfg: RunConfig,
    data: Path,
    words: str,
    *,
    compare: bool = False,
    minutes: float = 1.0,
    steps: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Measured:
    """Trains for some minutes, or for so many steps (each way), and forgets it.

    The first two steps of each way are not counted: in them code is compiled and memory found. With ``compare`` both
    ways take turns of four steps.

    Args:
        data: a folder with train.jsonl; ``words`` says of it what the report shall say.

    Raises:
        ConfigError, DataError: as training does.
    """
    with _Ours(cfg, data).running() as ours:
        trial = ours.trial
        precision, device = trial.precision, trial.device
        found = Measured(precision, hardware(device, trial.threads), trial.threads, trial.parameters, words)
        plain = PlainTrainer(trial.data, trial.network, device) if compare else None
        found.peak = peak(precision, device)
        for _ in range(2):
            ours.step()
            if plain is not None:
                plain.step()
        ours.forget()
        end = time.perf_counter() + 60 * minutes
        while steps is None or found.steps < steps:
            count = _TURN if steps is None else min(_TURN, steps - found.steps)
            found.turns.append(_turn(ours.step, count, device))
            if plain is not None:
                found.plain.append(_turn(lambda: plain.step()[0], count, device))
            found.steps += count
            left = 1 - (end - time.perf_counter()) / (60 * minutes)
            progress(left if steps is None else found.steps / steps)
            if steps is None and left >= 1:
                break
        found.peak = max(found.peak, peak(precision, device))
        found.parts, found.operations, found.features_s = ours.clock.seconds(), ours.operations, ours.features_s
        found.batch = (ours.utterances / found.steps, ours.audio_s / found.steps)
    return found


def _turn(step: Callable[[], float], count: int, device: torch.device) -> Turn:
    turn, began = Turn(), time.perf_counter()
    for _ in range(count):
        turn.audio_s += step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    turn.seconds = time.perf_counter() - began
    return turn


def made_up_data(cfg: RunConfig, folder: Path, seconds: float) -> str:
    """Writes a training set of sounds that move like speech, all as long, with letters for texts; says what it is."""
    rate, count = cfg.audio.sample_rate_hz, 2 * cfg.batch.max_utterances
    random = np.random.default_rng(cfg.train.seed)
    rows = []
    for item in made_up([seconds] * count, rate, cfg.train.seed):
        path = folder / f"{item.id}.wav"
        soundfile.write(path, item.wave_n, rate, subtype="PCM_16")
        text = "".join(random.choice(list(_LETTERS), max(1, round(6 * seconds))))
        text = " ".join(text.split()) or "a"
        rows.append(Utterance(id=item.id, audio_path=str(path), duration_s=seconds, text=text))
    manifests.write(folder / "train.jsonl", rows)
    return f"made-up utterances of {seconds:g} s"


class _Ours:
    """A training step as ``asr.train`` does it, with a clock on its parts."""

    def __init__(self, cfg: RunConfig, data: Path) -> None:
        self.trial = Trial(cfg, data, self._timed)
        self.clock = _Clock(self.trial.device)
        self._loading = self.trial.steps()
        self.forget()

    @contextmanager
    def running(self) -> Iterator[_Ours]:
        with _watched(self.trial.network, self.clock), closing(self._loading):
            yield self

    def forget(self) -> None:
        self.clock.forget()
        self.operations = self.audio_s = 0.0
        self.utterances = 0
        self._features_before = sum(self.trial.data.views.seconds.values())

    @property
    def features_s(self) -> float:
        return sum(self.trial.data.views.seconds.values()) - self._features_before

    def step(self) -> float:
        """One update; seconds of audio."""
        self.clock.start()
        batches = next(self._loading)
        self.clock.until("data")
        done = self.trial.step(batches, self.trial.cfg.optim.lr)
        self.clock.until("optimiser")
        for batch in batches:
            views = 1 if batch.twin_btf is None else 2
            self.operations += views * training_operations(self.trial.network, batch.num_frames_b)
        self.utterances += done.utterances
        self.audio_s += done.audio_s
        return done.audio_s

    def _timed(self, phase: str, work: Callable[[], Any]) -> Any:
        result = work()
        back = "convolution back" if self.trial.cfg.model.conv else "encoder back"
        self.clock.until({"forward": "output", "loss": "ctc", "backward": back, "optimizer": "optimiser"}[phase])
        return result


class _Clock:
    """Seconds of each part: of the wall on CPU, by events on a GPU, which runs behind."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.forget()

    def forget(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._marks: list[tuple[str, Any]] = []
        self._last: Any = None

    def start(self) -> None:
        self._last = self._now()

    def until(self, part: str) -> None:
        """What has passed since the last mark was this part."""
        now = self._now()
        if self.device.type == "cuda":
            self._marks.append((part, (self._last, now)))
        elif self._last is not None:
            self._seconds[part] += now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        if self._marks:
            torch.cuda.synchronize(self.device)
            for part, (first, second) in self._marks:
                self._seconds[part] += first.elapsed_time(second) / 1000
            self._marks = []
        return self._seconds

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


@contextmanager
def _watched(network: Network, clock: _Clock) -> Iterator[None]:
    """Marks the end of the front-end and of the encoder, forward and back."""

    def front_end(module: Any, args: Any, result: Any) -> None:
        clock.until("convolution")
        if result[0].requires_grad:
            result[0].register_hook(lambda grad: clock.until("encoder back"))

    def output(module: Any, args: Any) -> None:
        clock.until("encoder")
        if args[0].requires_grad:
            args[0].register_hook(lambda grad: clock.until("output back"))

    hooks = [network.output.register_forward_pre_hook(output)]
    if network.cfg.conv:
        hooks.append(network.front_end.register_forward_hook(front_end))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def training_operations(network: Network, num_frames_b: Tensor) -> float:
    """Operations of the products of convolutions and encoder in a training step: forward once, back twice.

    A multiplication and an addition are two. The first layer of all needs no gradient of its input, so it goes back
    once; padding, the output layer and everything that is no product count nothing.
    """
    layers = [*_conv_products(network.cfg, network.bins, num_frames_b), *_encoder_products(network, num_frames_b)]
    return sum(2.0 * count * (3 if i else 2) for i, count in enumerate(layers))


def _conv_products(cfg: ModelConfig, bins: int, num_b: Tensor) -> Iterator[float]:
    """Multiplications of each convolution, forward."""
    channels = 1
    for layer in cfg.conv:
        (kernel_t, kernel_f), (stride_t, stride_f) = layer.kernel_tf, layer.stride_tf
        num_b = (num_b + stride_t - 1) // stride_t
        bins = strided(bins, kernel_f, stride_f)
        yield float(num_b.sum()) * bins * layer.channels * channels * kernel_t * kernel_f
        channels = layer.channels


def _encoder_products(network: Network, num_b: Tensor) -> Iterator[float]:
    """Multiplications of each layer of the encoder, forward: of its input, and of its state where it has one."""
    for conv in network.cfg.conv:
        num_b = (num_b + conv.stride_tf[0] - 1) // conv.stride_tf[0]
    if isinstance(network, DeepSpeech2):
        for layer in network.layers:
            assert isinstance(layer, RecurrentLayer)
            yield float(num_b.sum()) * sum(w.w_input_gi.numel() + w.w_hidden_gh.numel() for w in layer.directions)
    elif isinstance(network, WindowNetwork):
        for window, layer in zip(network.windows(), network.layers, strict=True):
            assert isinstance(layer, WindowLayer)
            num_b = (num_b + window.get("stride", 1) - 1) // window.get("stride", 1)
            yield float(num_b.sum()) * layer.w_hki.numel()
    else:
        raise ConfigError(f"bench train cannot count what a {type(network).__name__} computes")


def peak(precision: str, device: torch.device, tries: int = 5) -> float:
    """Operations a second of the machine's best matrix product: the best of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = _SQUARE if device.type == "cpu" else 4 * _SQUARE
    a, b = torch.randn(size, size, device=device).to(dtype), torch.randn(size, size, device=device).to(dtype)
    best = math.inf
    for _ in range(tries):
        clock = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - clock)
    return 2 * size**3 / best
