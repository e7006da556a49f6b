"""Where a training run is, and what it did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from asr.heartbeat import time_left


class Validated(NamedTuple):
    """What a model does on the dev set, after which epoch; epoch 0 is the model that training starts from.

    ``loss_nats``: mean CTC loss of an utterance; None where it is not known.
    """

    wer: float
    cer: float
    loss_nats: float | None
    epoch: int

    @property
    def rank(self) -> tuple[float, float, float, int]:
        """Sorts the best first.

        Among equal WERs the lower CER is better, which falls long before the first word is right; then the lower loss,
        which still falls when all is right; then the later epoch.

        >>> later, sooner = Validated(0.0, 0.0, 1.5, epoch=9), Validated(0.0, 0.0, 2.5, epoch=3)
        >>> min(sooner, later, key=lambda one: one.rank).epoch
        9
        """
        return self.wer, self.cer, math.inf if self.loss_nats is None else self.loss_nats, -self.epoch


@dataclass
class Progress:
    """Where a run is: all that must be known, beside tensors, to go on exactly."""

    epoch: int = 0
    #: batches of this epoch already trained on
    batch: int = 0
    step: int = 0
    #: sums over the epoch so far, for its mean loss
    loss_sum_nats: float = 0.0
    loss_count: int = 0
    epoch_losses_nats: list[float] = field(default_factory=list)
    #: the best validations, best first
    best: list[Validated] = field(default_factory=list)
    #: validations since WER, or CER at the same WER, was last bettered
    validations_since_best: int = 0
    seconds: float = 0.0
    done: bool = False
    #: (utterance, why) of those that were left out after the start
    late: list[tuple[str, str]] = field(default_factory=list)
    #: those of them that do not fit into memory alone, and the padded frames from which on batches are halved
    too_large: list[str] = field(default_factory=list)
    too_many_frames: float | None = None


@dataclass(frozen=True)
class Report:
    """What a run did. ``phases_s``: wall seconds by phase, of this process."""

    run: Path
    progress: Progress
    phases_s: dict[str, float]
    audio_s: float
    padding: float
    #: seconds of computing features, by epoch (from 0)
    features_s: dict[int, float]
    #: utterances left out, before the first epoch and since
    num_dropped: int
    interrupted: bool

    @property
    def audio_s_per_s(self) -> float:
        return self.audio_s / max(1e-9, sum(v for k, v in self.phases_s.items() if k not in ("validate", "save")))

    def lines(self) -> list[str]:
        """The report for people."""
        p, total = self.progress, max(1e-9, sum(self.phases_s.values()))
        shares = ", ".join(f"{k} {v / total:.1%}" for k, v in sorted(self.phases_s.items(), key=lambda kv: -kv[1]))
        lines = [
            f"{p.epoch} epochs, {p.step:,} steps, {p.seconds / 60:.1f} min; {self.audio_s_per_s:.0f} audio-s/s, "
            f"{self.padding:.1%} padding",
            f"time: {shares}",
        ]
        if self.features_s:
            first = min(self.features_s)
            later_s = sum(self.features_s.values()) - self.features_s[first]
            lines.append(
                f"features, in worker threads: {self.features_s[first]:.1f} s in epoch {first + 1}, {later_s:.1f} s "
                f"in all later ones ({later_s / total:.2%} of the time)"
            )
        if self.num_dropped:
            lines.append(f"left out {self.num_dropped:,} utterances: {self.run / 'dropped.jsonl'}")
        if p.best:
            best = p.best[0]
            when = f"after epoch {best.epoch}" if best.epoch else "before the first epoch"
            lines.append(f"best dev WER {best.wer:.2%} {when}: {self.run / 'best'}")
        return lines


#: called after every step with what a progress bar shows
Watcher = Callable[[dict[str, float]], None]


class Pace:
    """A watcher that hands on what it is told, and makes a line of the log of it: where a run is, and how fast."""

    def __init__(self, watch: Watcher) -> None:
        self._watch = watch
        self._values: dict[str, float] = {}
        self._began_s = time.perf_counter()
        #: when the first step was done, and the share of the run that was done then
        self._first: tuple[float, float] | None = None

    def __call__(self, values: dict[str, float]) -> None:
        self._values = {**self._values, **values}
        if self._first is None and "share" in values:
            self._first = time.perf_counter(), values["share"]
        self._watch(values)

    def line(self) -> str:
        """Epoch, step, loss, seconds of audio per second, and how long the rest takes at this speed."""
        now, values = time.perf_counter(), self._values
        if self._first is None:
            return f"the first step is not done after {now - self._began_s:.0f} s"
        parts = [
            f"epoch {values['epoch']:.2f} of {values['epochs']:g}",
            f"step {values['step']:,.0f}",
            f"loss {values['loss']:.3f} nats",
            f"{values['audio_s'] / (now - self._began_s):.1f} audio-s/s",
        ]
        first_s, first_share = self._first
        done = values["share"] - first_share
        if done > 0:
            parts.append(time_left(now - first_s, done, 1 - first_share))
        return ", ".join(parts)
