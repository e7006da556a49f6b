"""One update of the weights: forward pass, loss and backward pass of each batch, then the optimiser.

A batch that does not fit into memory is computed in halves.

Axes: b batch, s steps, v vocabulary.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.batch import Batch, empty_batch
from asr.config import RunConfig
from asr.errors import TrainingError
from asr.machine import is_out_of_memory
from asr.model.checkpoint import TrainableModel
from asr.runtime import LateNumbers, Machine, generator, stable_seed
from asr.training.data import TrainingData
from asr.training.distributed import ProcessGroup
from asr.training.freezing import Freezing
from asr.training.gradients import Timed, gradients, halves
from asr.training.memory import remember_limit
from asr.training.optim import (
    KeptTensors,
    MovingAverage,
    PullToStart,
    forget_incomplete_state,
    gradient_scaler,
    is_overflow,
    scale_of,
    set_learning_rate,
)
from asr.training.planner import GIB, MemoryPlanner

log = logging.getLogger(__name__)


class StepResult(NamedTuple):
    """The outcome of a step.

    ``loss_nats`` is the mean per utterance, ``grad_norm`` is taken before clipping. All are 0 if no utterance of the
    step fits into memory: the weights have not changed. Nor have they if ``grad_norm`` is not finite: float16 had not
    the range for this step's gradients.
    """

    loss_nats: float
    grad_norm: float
    utterances: int
    audio_s: float


@dataclass(frozen=True)
class PendingStep:
    """A step that a GPU may still be computing.

    Read the result after the next step was begun: then the GPU never waits for the program.
    """

    utterances: int
    audio_s: float
    #: waits for the result; raises a TrainingError if loss or gradient is not finite. Every process must call it.
    result: Callable[[], StepResult]


@dataclass
class Learner:
    """A model, the data that it learns from, and the optimiser that changes it.

    The loss is the mean over all utterances of a step: of all its batches and of all processes. The statistics of batch
    norm are those of what passes through the network at once: a batch, of all processes together, or a part of it.
    """

    cfg: RunConfig
    model: TrainableModel
    #: an utterance that does not fit into memory alone is left out of these data
    data: TrainingData
    machine: Machine
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    freezing: Freezing
    start: PullToStart
    planner: MemoryPlanner
    group: ProcessGroup
    timed: Timed = nullcontext
    #: folder of the run, in which one of several processes writes down what does not fit into its memory
    run: Path | None = None
    #: batches of this many padded frames do not fit into memory: they are halved beforehand
    too_many_frames: float = math.inf
    #: the network as a module that adds up the gradients of all processes; None: not connected
    connected_network: nn.Module | None = None
    #: multiplies the gradients by a scale where they pass through float16; else it does nothing
    scaler: torch.amp.GradScaler = field(init=False)
    _statistics: KeptTensors = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = gradient_scaler(self.machine)
        self._statistics = KeptTensors(self.model.network.buffers())

    @contextmanager
    def connected(self, steps: int) -> Iterator[None]:
        """Connect the network with those of the other processes while the block runs.

        Args:
            steps: made before.
        """
        self.freezing.apply(steps)
        self.connected_network = self.group.connect(self.model.network)
        try:
            yield
        finally:
            self.connected_network = None

    def _freeze(self, steps: int) -> None:
        """Freeze what is frozen after this many steps, and connect the processes again if that has changed."""
        if self.freezing.apply(steps) and self.connected_network is not None:
            # Those before wait for the gradients that were asked for before, until they are gone.
            self.connected_network = None
            gc.collect()
            self.connected_network = self.group.connect(self.model.network)

    def step(self, batches: Sequence[Batch], number: int, lr: float) -> PendingStep:
        """Make one update; ``number`` counts the steps before it.

        Raises:
            TrainingError: one of several processes ran out of memory, or the optimiser.
        """
        set_learning_rate(self.optimizer, lr)
        self._freeze(number)
        self.model.network.chunk_steps = self._chunk_steps(number)
        # The masks of dropout depend on the step alone, so that no state of the generator need be saved.
        rank = [self.group.rank] if self.group.rank else []
        seed = stable_seed(self.cfg.train.seed, "dropout", number, *rank)

        parts = self._split_large(batches)
        self._statistics.keep()
        while True:
            torch.manual_seed(seed)
            own = sum(len(part.ids) for part in parts), sum(part.duration_s for part in parts)
            utterances, audio_s = self.group.sum(*own)
            if not utterances:
                return PendingStep(0, 0.0, lambda: StepResult(0.0, 0.0, 0, 0.0))

            losses, out_of_memory = self._add_gradients(parts, utterances)
            if not out_of_memory:
                break

            failed = len(losses)
            parts[failed : failed + 1] = self._smaller(parts[failed], out_of_memory)
            self._undo()

        losses_b = torch.cat(losses)
        ids = [id_ for part in parts for id_ in part.ids]
        with self.timed("optimizer"):
            grad_norm = self._update(number)
        numbers = LateNumbers(torch.stack([losses_b.sum() / utterances, grad_norm, scale_of(self.scaler, grad_norm)]))

        def result() -> StepResult:
            own_loss_nats, norm, scale = numbers.read()
            loss_nats = self.group.sum(own_loss_nats)[0]
            # The norm, the sum and the scale are the same in all processes, and so is what follows.
            if not math.isfinite(norm) and not is_overflow(self.scaler, loss_nats, scale):
                self._fail_not_finite(ids, losses_b, number, lr)
            return StepResult(loss_nats, norm, int(utterances), audio_s)

        return PendingStep(int(utterances), audio_s, result)

    def _chunk_steps(self, number: int) -> int:
        """Draw after how many steps recurrent layers start anew in an update, the same in all processes; 0: never."""
        if self.cfg.train.chunk_s is None:
            return 0
        chunk_s = generator(self.cfg.train.seed, "chunk", number).uniform(*self.cfg.train.chunk_s)
        return max(1, round(chunk_s / (self.model.extractor.hop_s * self.model.network.stride)))

    def _split_large(self, batches: Sequence[Batch]) -> list[Batch]:
        """Split the batches that are known to be too large, into equally many parts in all processes."""
        all_parts: list[Batch] = []
        for batch in batches:
            parts = [part for part in self._fitting_parts(batch) if part.ids]
            # What no process has is no part: norms have no statistics of it.
            most = int(max(row[0] for row in self.group.agree(len(parts))))
            all_parts += parts + [empty_batch(batch.features_btf.shape[2])] * (most - len(parts))

        return all_parts

    def _fitting_parts(self, batch: Batch) -> Iterator[Batch]:
        if batch.area < self.too_many_frames or len(batch.ids) < 2:
            yield batch
            return
        for half in halves(batch):
            yield from self._fitting_parts(half)

    def _add_gradients(self, parts: Sequence[Batch], utterances: float) -> tuple[list[Tensor], str]:
        """Add the gradients of the parts, up to one that runs out of memory.

        Returns the losses of each part, and torch's reason if the next part ran out of memory.
        """
        losses: list[Tensor] = []
        for place, part in enumerate(parts):
            try:
                with self._exchanging(is_last=place == len(parts) - 1):
                    losses.append(
                        gradients(
                            self.connected_network or self.model.network,
                            part,
                            utterances / self.group.size,
                            self.machine,
                            scaler=self.scaler,
                            timed=self.timed,
                            smoothing=self.cfg.train.label_smoothing,
                            consistency=self.cfg.train.consistency,
                            inter_weight=self.cfg.train.inter_weight,
                        )
                    )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # Only the text is kept: the error itself holds the tensors that filled the memory.
                return losses, str(error).strip().splitlines()[0]

        return losses, ""

    @contextmanager
    def _exchanging(self, *, is_last: bool) -> Iterator[None]:
        """Exchange gradients with the other processes once per step, after the last part."""
        with ExitStack() as stack:
            stack.enter_context(self.group.guarded())
            if isinstance(self.connected_network, nn.parallel.DistributedDataParallel) and not is_last:
                stack.enter_context(self.connected_network.no_sync())
            yield

    def _undo(self) -> None:
        """Forget the gradients of a step that failed, and set the running statistics back."""
        self.optimizer.zero_grad()
        self._statistics.put_back()
        if self.machine.device.type == "cuda":
            torch.cuda.empty_cache()

    def _smaller(self, batch: Batch, reason: str) -> list[Batch]:
        """Return what to try in place of a batch that ran out of memory.

        Raises:
            TrainingError: there are several processes. The others have computed a part of this step.
        """
        ids = ", ".join(batch.ids)
        if len(batch.ids) > 1:
            rows, frames = batch.features_btf.shape[:2]
            log.warning(
                f"out of memory at a batch of {rows} x {frames} frames ({reason}): {ids}; it is computed in halves, "
                "each with its own batch norm statistics, and so are other batches of this size"
            )
            self.too_many_frames = min(self.too_many_frames, batch.area)
        if self.group.size > 1:
            is_remembered = bool(batch.ids) and self.run is not None and remember_limit(self.run, batch)
            after = "such batches are halved" if len(batch.ids) > 1 else "it is left out"
            then = f"when resumed, {after}"
            if not is_remembered:
                then = (
                    "lower batch.max_batch_s or batch.max_utterance_s, as this process cannot write to the run folder"
                )
            self.group.report_alone()
            raise TrainingError(
                f"process {self.group.rank} ran out of memory ({reason}) at {ids or 'a batch without utterances'}; "
                f"{then}{self.group.advice}"
            )
        if len(batch.ids) > 1:
            return halves(batch)

        self.data.drop_large(batch.ids[0])
        return []

    def _update(self, number: int) -> Tensor:
        """Clip the gradient, step, and return the norm before clipping. Shapes: ()."""
        self.scaler.unscale_(self.optimizer)
        clip = self.cfg.optim.clip_norm or math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.network.parameters(), clip, foreach=True)
        self._step_optimizer()
        self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update(number)
        return grad_norm

    def _step_optimizer(self) -> None:
        """Update the weights. The first time AdamW takes memory, of which none may be left.

        Raises:
            TrainingError: not even what the batch has left behind is enough. No weight has changed.
        """
        reason = ""
        for _ in range(2):
            try:
                self.scaler.step(self.optimizer)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).strip().splitlines()[0]
            forget_incomplete_state(self.optimizer)
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()

        self.group.report_alone()
        raise TrainingError(
            f"out of memory in the optimiser ({reason}): AdamW needs {self.planner.optimizer_bytes / GIB:.2f} GiB more "
            "for two numbers per weight; free memory that other programs use, or train a smaller network "
            f"(model.hidden, model.layers){self.group.advice}"
        )

    def _fail_not_finite(self, ids: Sequence[str], losses_b: Tensor, number: int, lr: float) -> None:
        """Raise a TrainingError with the utterances of all processes whose loss is not finite."""
        bad = [id_ for id_, loss in zip(ids, losses_b.tolist(), strict=True) if not math.isfinite(loss)]
        gathered = self.group.gather((bad, list(ids)))
        all_bad = [id_ for bad_of_one, _ in gathered for id_ in bad_of_one]
        all_ids = [id_ for _, ids_of_one in gathered for id_ in ids_of_one]
        error = TrainingError(
            f"step {number + 1}: {'the loss' if all_bad else 'the gradient'} is not finite at learning rate {lr:.2e}, "
            f"utterances {', '.join(all_bad or all_ids)}; the earlier checkpoints are whole: lower optim.lr, or look "
            "at these files"
        )
        self.group.agree(error=error)
