"""One update of the weights: forward, loss and backward of a batch, in parts where it must be, then the optimiser.

Axes: b batch, s steps, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr.batch import Batch, empty_batch
from asr.config import RunConfig
from asr.ctc import confidence_penalty, consistency_loss, ctc_loss
from asr.errors import TrainingError
from asr.model.network import Network
from asr.runtime import autocast, stable_seed
from asr.training.distributed import Group
from asr.training.optim import Average

#: what torch's allocators say, on CPU before Linux's overcommitment and after, and on CUDA
_NO_MEMORY = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "out of memory")
#: a phase's name and its work -> what the work gives; the time it took is somebody's
Timed = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Done:
    """What a step did: mean loss in nats an utterance, gradient norm before clipping, utterances, seconds of audio.

    Without utterances (none of them fits into memory) nothing was done.
    """

    loss_nats: float
    grad_norm: float
    utterances: int
    audio_s: float


@dataclass(frozen=True)
class TooLarge:
    """What ran out of memory."""

    batch: Batch
    reason: str


class Stepper:
    """Network and optimiser, and how a batch changes them.

    The loss is the mean over all utterances of a step: those of all its batches, and of all processes. Batch norm's
    statistics are of what goes through the network at once: a batch, of all processes together, or a part of one.
    """

    def __init__(
        self, network: Network, optimizer: torch.optim.Optimizer, average: Average, cfg: RunConfig,
        device: torch.device, precision: str, group: Group, timed: Timed,
    ) -> None:  # fmt: skip
        self.network, self.optimizer, self.average, self.cfg = network, optimizer, average, cfg
        self.device, self.precision, self.group, self.timed = device, precision, group, timed
        #: the network through which gradients of all processes come
        self.joined: nn.Module = network
        #: padded frames that did not fit into memory at once: as many or more are halved beforehand
        self.too_many = math.inf
        #: told of a batch that ran out of memory, whole; whether a run that is resumed will know of it
        self.said: Callable[[TooLarge], bool] = lambda large: True
        #: told of an utterance that alone does not fit
        self.left_out: Callable[[str], None] = lambda id_: None

    def step(self, batches: Sequence[Batch], number: int, lr: float) -> Done:
        """One update; ``number`` counts the steps before it.

        Raises:
            TrainingError: loss or gradient is not finite, or memory ran out in one of several processes.
        """
        # Dropout's masks depend on the step alone: nothing of the generator's past needs to be saved.
        rank = self.group.rank
        seed = stable_seed(self.cfg.train.seed, "dropout", number, *([rank] if rank else []))
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = lr
        parts = self._parts(batches)
        before = [buffer.clone() for buffer in self.network.buffers()]
        while True:
            torch.manual_seed(seed)
            utterances, audio_s = self.group.sum(
                sum(len(part.ids) for part in parts), sum(part.duration_s for part in parts)
            )
            if not utterances:
                return Done(0.0, 0.0, 0, 0.0)
            losses: list[Tensor] = []
            large = None
            for at, part in enumerate(parts):
                try:
                    losses.append(self._gradients(part, utterances, is_last=at == len(parts) - 1))
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    large = TooLarge(part, str(error).strip().splitlines()[0])
                # Not in the handler: there, the error still holds what it was that filled the memory.
                if large is not None:
                    break
            if large is None:
                break
            parts[at : at + 1] = self._smaller(large)
            self.optimizer.zero_grad()
            with torch.no_grad():
                for buffer, value in zip(self.network.buffers(), before, strict=True):
                    buffer.copy_(value)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        all_b = torch.cat(losses) if len(losses) > 1 else losses[0]
        ids = [id_ for part in parts for id_ in part.ids]
        loss_nats = self.group.sum((all_b.sum() / utterances).item())[0]
        grad_norm = self.timed("optimizer", lambda: self._update(ids, all_b, number, lr))
        return Done(loss_nats, grad_norm, int(utterances), audio_s)

    def _parts(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches, those that are known not to fit in parts; in all processes equally many parts of each."""
        whole: list[list[Batch]] = []
        for batch in batches:
            parts = list(self._fitting(batch))
            if self.group.size > 1:
                most = int(max(row[0] for row in self.group.agree(len(parts))))
                while len(parts) < most:
                    parts.append(empty_batch(batch.features_btf.shape[2]))
            whole.append(parts)
        return [part for parts in whole for part in parts if part.ids or self.group.size > 1]

    def _fitting(self, batch: Batch) -> Iterator[Batch]:
        if batch.area < self.too_many or len(batch.ids) < 2:
            yield batch
            return
        for half in halves(batch):
            yield from self._fitting(half)

    def _smaller(self, large: TooLarge) -> list[Batch]:
        """What is tried in place of what was too large."""
        known = False
        if large.batch.ids:
            self.too_many = min(self.too_many, large.batch.area)
            known = self.said(large)
        if self.group.size > 1:
            # The others are in the middle of this batch, and cannot be asked to begin it again.
            names = ", ".join(large.batch.ids) or "a batch without utterances"
            then = f"resumed, {'such batches are halved' if len(large.batch.ids) > 1 else 'it is left out'}"
            if not known:
                then = "lower batch.max_batch_s or batch.max_utterance_s, as here nothing could be written into the run"
            raise self.group.alone(
                TrainingError(
                    f"process {self.group.rank} ran out of memory ({large.reason}) at {names}; "
                    f"{then}{self.group.way_on}"
                )
            )
        if len(large.batch.ids) > 1:
            return halves(large.batch)
        self.left_out(large.batch.ids[0])
        return []

    def _gradients(self, part: Batch, utterances: float, *, is_last: bool) -> Tensor:
        """Adds the gradient of a part; its losses."""
        with self._kept_back(is_last):
            return gradients(
                self.joined, part, utterances / self.group.size, self.device, self.precision, self.timed,
                self.cfg.train.label_smoothing, self.cfg.train.consistency,
            )  # fmt: skip

    def _kept_back(self, is_last: bool) -> AbstractContextManager[None]:
        """Gradients go to the other processes once a step."""
        if self.group.size == 1:
            return nullcontext()
        no_sync: Callable[[], AbstractContextManager[None]] = nullcontext if is_last else self.joined.no_sync  # type: ignore[assignment]
        return _both(self.group.guarded(), no_sync())

    def _update(self, ids: Sequence[str], losses_b: Tensor, number: int, lr: float) -> float:
        clip = self.cfg.optim.clip_norm or math.inf
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip, foreach=True))
        if not math.isfinite(grad_norm):
            bad = [id_ for id_, one in zip(ids, losses_b.tolist(), strict=True) if not math.isfinite(one)]
            every = self.group.gather((bad, list(ids)))
            bad = [id_ for one, _ in every for id_ in one]
            names = ", ".join(bad or (id_ for _, one in every for id_ in one))
            error = TrainingError(
                f"step {number + 1}: {'the loss' if bad else 'the gradient'} is not finite "
                f"at learning rate {lr:.2e}, utterances {names}; the checkpoints before are whole: "
                "lower optim.lr, or look at these files"
            )
            self.group.agree(error=error)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(number)
        return grad_norm


def gradients(
    network: nn.Module, batch: Batch, count: float, device: torch.device, precision: str, timed: Timed,
    smoothing: float = 0.0, consistency: float = 0.0,
) -> Tensor:  # fmt: skip
    """Adds to the gradients that of the sum of a batch's losses over ``count``; the losses. Shapes: (b,).

    Args:
        smoothing: the share of the confidence penalty in what is minimised; the losses that come back are without it.
        consistency: the weight of the disagreement between the two views of a batch that has them, likewise. Loss and
            penalty are means of both views.
    """
    views, features_btf = 1, batch.features_btf
    if batch.twin_btf is not None:
        views, features_btf = 2, torch.cat([features_btf, batch.twin_btf])
    num_frames_b, targets_bu, num_targets_b = (
        one.repeat(views, *[1] * (one.dim() - 1)) for one in (batch.num_frames_b, batch.targets_bu, batch.num_targets_b)
    )

    def forward() -> tuple[Tensor, Tensor]:
        with autocast(precision, device):
            log_probs_bsv, num_steps_b = network(features_btf.to(device), num_frames_b.to(device))
        return log_probs_bsv, num_steps_b

    log_probs_bsv: Tensor
    log_probs_bsv, num_steps_b = timed("forward", forward)
    if not batch.ids:
        timed("backward", lambda: _backward(log_probs_bsv.sum() * 0.0))
        return log_probs_bsv.new_zeros(0)
    losses_b: Tensor = timed(
        "loss",
        lambda: ctc_loss(log_probs_bsv, num_steps_b, targets_bu.to(device), num_targets_b.to(device)),
    )
    losses_b = losses_b.view(views, -1).mean(0)
    total = losses_b.sum()
    if smoothing:
        total = (1 - smoothing) * total + smoothing * confidence_penalty(log_probs_bsv, num_steps_b).sum() / views
    if views == 2:
        first_bsv, second_bsv = log_probs_bsv.chunk(2)
        total = total + consistency * consistency_loss(first_bsv, second_bsv, num_steps_b[: len(losses_b)]).sum()
    timed("backward", lambda: _backward(total / count))
    return losses_b.detach()


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def halves(batch: Batch) -> list[Batch]:
    middle = len(batch.ids) // 2
    return [batch.rows(0, middle), batch.rows(middle, len(batch.ids))]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is torch's, on CUDA or CPU, or numpy's way to say that there is no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


@contextmanager
def _both(outer: AbstractContextManager[None], inner: AbstractContextManager[None]) -> Iterator[None]:
    with outer, inner:
        yield
