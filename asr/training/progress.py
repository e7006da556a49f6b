"""The state of a training run, the report at its end, and the line that tells its progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import FailFast, TypeAdapter, ValidationError

from asr.errors import CheckpointError
from asr.files import json_text
from asr.heartbeat import time_left

P = TypeVar("P")

#: called after every step with the numbers that a progress bar shows
Watcher = Callable[[dict[str, float]], None]


class Validated(NamedTuple):
    """The scores on the dev set after an epoch; epoch 0 is the model that training starts from.

    ``loss_nats`` is the mean CTC loss per utterance; None if it is unknown.
    """

    wer: float
    cer: float
    loss_nats: float | None
    epoch: int

    @property
    def rank(self) -> tuple[float, float, float, int]:
        """Return a key that sorts the best first.

        Among equal WERs the lower CER is better, which falls long before the first word is right; then the lower loss,
        which still falls when all words are right; then the later epoch.

        >>> later, sooner = Validated(0.0, 0.0, 1.5, epoch=9), Validated(0.0, 0.0, 2.5, epoch=3)
        >>> min(sooner, later, key=lambda one: one.rank).epoch
        9
        """
        return self.wer, self.cer, math.inf if self.loss_nats is None else self.loss_nats, -self.epoch


@dataclass
class Progress:
    """The state of a run: all that is needed, beside tensors, to resume it exactly."""

    epoch: int = 0
    #: batches of this epoch that are done
    batch: int = 0
    step: int = 0
    #: sums over the epoch so far, for its mean loss
    loss_sum_nats: float = 0.0
    loss_count: int = 0
    epoch_losses_nats: Annotated[list[float], FailFast()] = field(default_factory=list)
    #: the best validations, best first
    best: Annotated[list[Validated], FailFast()] = field(default_factory=list)
    #: validations since WER, or CER at the same WER, last improved
    validations_since_best: int = 0
    seconds: float = 0.0
    done: bool = False
    #: (id, reason) of utterances left out after the start
    late: Annotated[list[tuple[str, str]], FailFast()] = field(default_factory=list)
    #: those of them that do not fit into memory alone
    too_large: Annotated[list[str], FailFast()] = field(default_factory=list)
    #: batches of this many padded frames are halved; None: no limit is known
    too_many_frames: float | None = None


def read_progress(kind: type[P], state: dict[str, Any], path: Path) -> P:
    """Return the progress, a dataclass, that the ``state.json`` at a path holds.

    Raises:
        CheckpointError: it is of something else, or has a value of another type.
    """
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    if foreign := set(state) - known:
        raise CheckpointError(f"not the progress of a run (it has '{min(foreign)}')", path)
    if missing := {"epoch", "step"} - set(state):
        raise CheckpointError(f"not the progress of a run (it has no '{min(missing)}')", path)
    try:
        progress = TypeAdapter(kind).validate_json(json.dumps(state), strict=True)
        if odd := [name for name, value in vars(progress).items() if isinstance(value, int) and not 0 <= value < 2**53]:
            raise ValueError(f"{odd[0]}: a number out of range")
        json_text(vars(progress))  # not-a-number would only be found when it is written again
    except ValueError as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise CheckpointError(f"not the progress of a run ({reason})", path) from error
    return progress


class PhaseTimer:
    """Count the wall seconds of each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        #: the phase that is running
        self.current = ""
        self._lap_began = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        self.current = phase
        began = time.perf_counter()
        try:
            yield
        finally:
            self.current = ""
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began

    def lap(self) -> float:
        """Return the seconds since the last call."""
        began, self._lap_began = self._lap_began, time.perf_counter()
        return self._lap_began - began


@dataclass(frozen=True)
class Report:
    """The outcome of a run. ``phases_s``: wall seconds by phase, of this process."""

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
        """Seconds of audio per second of training, without validation and saving."""
        training_s = sum(seconds for phase, seconds in self.phases_s.items() if phase not in ("validate", "save"))
        return self.audio_s / max(1e-9, training_s)

    def lines(self) -> list[str]:
        """Return the report for people."""
        progress = self.progress
        total = max(1e-9, sum(self.phases_s.values()))
        phases = sorted(self.phases_s.items(), key=lambda phase: -phase[1])
        shares = ", ".join(f"{name} {seconds / total:.1%}" for name, seconds in phases)
        lines = [
            f"{progress.epoch} epochs, {progress.step:,} steps, {progress.seconds / 60:.1f} min; "
            f"{self.audio_s_per_s:.0f} audio-s/s, {self.padding:.1%} padding",
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
        if progress.best:
            best = progress.best[0]
            when = f"after epoch {best.epoch}" if best.epoch else "before the first epoch"
            lines.append(f"best dev WER {best.wer:.2%} {when}: {self.run / 'best'}")
        return lines


class Pace:
    """Pass on the numbers of each step to a watcher, and make a line of the log of them."""

    def __init__(self, watch: Watcher) -> None:
        self._watch = watch
        self._values: dict[str, float] = {}
        self._began_s = time.perf_counter()
        #: time when the first step was done, and the share of the run that was done then
        self._first: tuple[float, float] | None = None

    def __call__(self, values: dict[str, float]) -> None:
        self._values = {**self._values, **values}
        if self._first is None and "share" in values:
            self._first = time.perf_counter(), values["share"]
        self._watch(values)

    def line(self) -> str:
        """Return epoch, step, loss, seconds of audio per second, and the time left at this speed."""
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
