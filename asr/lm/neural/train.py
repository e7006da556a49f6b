"""Train a neural language model by truncated back-propagation through time; a stopped training resumes exactly.

All randomness follows from (seed, epoch) and (seed, step), so no state of a generator is saved. What is saved beside
weights and optimiser is the state of every stream.

Axes: b streams, s numbers of a state.

Source: Williams & Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
Trajectories" (truncation); Mikolov et al. 2010.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.config import OptimConfig
from asr.errors import CheckpointError
from asr.files import held
from asr.lm.neural.config import RnnTrainConfig
from asr.lm.neural.folder import save_rnn, set_tensors, tensors_of
from asr.lm.neural.network import RnnModel, RnnNetwork, bits
from asr.lm.neural.record import begin_training
from asr.lm.neural.text import Corpus, Reading, Streams
from asr.lm.neural.update import PendingUpdate, RnnLearner, not_finite
from asr.machine import commit
from asr.model.checkpoint import has_state, load_state, save_state
from asr.model.model_files import split_by_prefix
from asr.runtime import Interrupt, generator, hardware, stable_seed, use_machine
from asr.training.metrics import MetricsFile
from asr.training.optim import learning_rate, load_optimizer, load_scaler, optimizer_tensors, scaler_tensors
from asr.training.progress import PhaseTimer, Watcher, read_progress

log = logging.getLogger(__name__)

#: with a small text, fewer streams are trained side by side, so that an epoch has at least this many windows
_LEAST_WINDOWS = 100
_LOG_EVERY = 100


@dataclass
class RnnProgress:
    """The state of a training."""

    epoch: int = 0
    #: windows of this epoch that are done
    window: int = 0
    step: int = 0
    loss_sum_nats: float = 0.0
    loss_count: int = 0
    #: the lowest bits per character of the held-out sentences, and the step of that measurement
    best_bits: float | None = None
    best_step: int = 0
    measured: int = 0
    since_best: int = 0
    seconds: float = 0.0
    done: bool = False


@dataclass(frozen=True)
class RnnReport:
    """The outcome of a training."""

    folder: Path
    progress: RnnProgress
    parameters: int
    interrupted: bool
    facts: dict[str, Any]


def train(reading: Reading, cfg: RnnTrainConfig, out: Path, watch: Watcher = lambda values: None) -> RnnReport:
    """Train in the folder ``out``, whose ``best`` is the model. A training of this text that was stopped is resumed.

    Raises:
        ConfigError: the folder holds another training, or something else; or another process trains there.
        DataError: it holds a training on another text.
        TrainingError: the loss is not finite.
        CheckpointError: a file cannot be written or read.
    """
    begin_training(out, reading, cfg)
    with held(out / "training.json", f"{out}: another process is training this model; stop it first"):
        return RnnTrainer(reading, cfg, out).run_to_end(watch)


class Unread(NamedTuple):
    """An update whose result is not read yet."""

    pending: PendingUpdate
    #: updates done, this one included
    step: int
    #: epochs done, with the part of the current one
    epoch: float
    #: seconds that the training has taken
    seconds: float


class RnnTrainer:
    """One training: learner, streams, progress."""

    def __init__(self, reading: Reading, cfg: RnnTrainConfig, out: Path) -> None:
        self.reading = reading
        self.cfg = cfg
        self.out = out
        self.machine = use_machine(cfg.device, cfg.precision, cfg.threads)
        torch.manual_seed(stable_seed(cfg.seed, "init"))
        self.network = RnnNetwork(cfg.network, reading.tokenizer.vocabulary_size).to(self.machine.device)
        self.model = RnnModel(self.network, reading.tokenizer)
        self.schedule = OptimConfig(lr=cfg.lr, warmup_fraction=cfg.warmup_fraction, decay="cosine")

        tokens = len(reading.train.tokens) + 2 * len(reading.train)
        streams = cfg.streams or max(1, min(64, tokens // (_LEAST_WINDOWS * cfg.window)))
        self.num_streams = min(streams, len(reading.train))
        self.learner = RnnLearner(self.network, cfg, self.machine, self.num_streams)
        #: training counts tokens; this turns nats per token into bits per character
        self.bits_per_nat = (len(reading.train.tokens) + len(reading.train)) / reading.train.characters / math.log(2)

        self.progress = RnnProgress()
        self.unread: deque[Unread] = deque()
        # A GPU is given an update before the numbers of the last one are read, so that it never waits for this program.
        self.ahead = 1 if self.machine.device.type == "cuda" else 0
        self.interrupt = Interrupt()
        self.timer = PhaseTimer()
        self.saved_at = time.perf_counter()
        self.metrics = MetricsFile(out / "metrics.jsonl", "run the same command again")
        self.commit_facts = commit()
        if has_state(out / "checkpoints"):
            self._load_checkpoint()

    def run_to_end(self, watch: Watcher) -> RnnReport:
        """Train until the training is complete or interrupted."""
        progress = self.progress
        with self.interrupt:
            self._cut_metrics()
            self._log_start()
            while not (progress.done or self.interrupt.asked):
                self._epoch(watch)
            self._save_checkpoint()

        interrupted = self.interrupt.asked and not progress.done
        if interrupted:
            log.info("stopped; the same command goes on from here")
        elif progress.best_bits is not None:
            log.info(
                f"best: {progress.best_bits:.4f} bits per character, after update {progress.best_step}: "
                f"{self.out / 'best'}"
            )
        return RnnReport(self.out, progress, self.model.num_parameters, interrupted, self._facts())

    def _epoch(self, watch: Watcher) -> None:
        """Train on the rest of the epoch, then measure; return earlier if interrupted, or stopped early."""
        progress, cfg, train_set = self.progress, self.cfg, self.reading.train
        order_n = generator(cfg.seed, "order", progress.epoch).permutation(len(train_set))
        streams = Streams(train_set, self.network.vocabulary_size, self.num_streams, cfg.window, order_n)
        self.network.train()
        self.timer.lap()

        while progress.window < len(streams):
            before = (progress.epoch + progress.window / len(streams)) / cfg.epochs
            after = (progress.epoch + (progress.window + 1) / len(streams)) / cfg.epochs
            lr = learning_rate(self.schedule, before, after)
            update = self.learner.update(*streams[progress.window], progress.step, lr)

            progress.window += 1
            progress.step += 1
            progress.seconds += self.timer.lap()
            done = progress.epoch + progress.window / len(streams)
            self.unread.append(Unread(update, progress.step, done, progress.seconds))
            self._record_updates(watch, self.ahead)

            if progress.window == len(streams):
                break
            # Measured before an interrupt or a checkpoint: a resumed training would not measure here.
            if progress.step % cfg.validate_every == 0:
                self._record_updates(watch)
                self._measure()
            if progress.done or self.interrupt.asked:
                self._record_updates(watch)
                return
            if time.perf_counter() - self.saved_at > cfg.checkpoint_every_s:
                self._record_updates(watch)
                self._save_checkpoint()

        self._record_updates(watch)
        progress.epoch += 1
        progress.window = 0
        progress.done = progress.epoch == cfg.epochs
        self._measure()
        progress.seconds += self.timer.lap()
        self._save_checkpoint()

    def _record_updates(self, watch: Watcher, ahead: int = 0) -> None:
        """Read the results of all updates but the last ``ahead``, and record them."""
        while len(self.unread) > ahead:
            self._record(self.unread.popleft(), watch)

    def _record(self, update: Unread, watch: Watcher) -> None:
        progress = self.progress
        targets = update.pending.targets
        loss_nats, grad_norm = update.pending.result()
        progress.loss_sum_nats += loss_nats
        progress.loss_count += targets
        train_bits = loss_nats / max(targets, 1) * self.bits_per_nat
        if update.step % _LOG_EVERY == 0:
            self.metrics.add(
                kind="train",
                step=update.step,
                epoch=progress.epoch + 1,
                bits=round(train_bits, 4),
                grad_norm=round(grad_norm, 4) if math.isfinite(grad_norm) else None,
                seconds=round(update.seconds, 2),
            )

        watch(
            {
                "epochs": self.cfg.epochs,
                "epoch": update.epoch,
                "bits": train_bits,
                "tokens": float(targets),
                "held_out": progress.best_bits or math.nan,
            }
        )

    def _measure(self) -> None:
        """Measure the held-out sentences, and save the model if they are more probable than ever."""
        progress = self.progress
        self.network.eval()
        self.model.forget_tables()
        held_out = held_out_bits(self.model, self.reading.held_out)
        self.network.train()
        if not math.isfinite(held_out):
            lr = self.learner.optimizer.param_groups[0]["lr"]
            raise not_finite(progress.step, "the held-out text has no finite probability", lr)

        is_best = progress.best_bits is None or held_out < progress.best_bits
        trained = progress.loss_sum_nats / max(progress.loss_count, 1) * self.bits_per_nat
        epoch = progress.epoch + bool(progress.window)
        progress.measured += 1
        progress.since_best = 0 if is_best else progress.since_best + 1
        progress.loss_sum_nats = 0.0
        progress.loss_count = 0
        log.info(
            f"epoch {epoch}, update {progress.step}: {trained:.4f} bits per character in training, "
            f"{held_out:.4f} held out{' (best)' if is_best else ''}"
        )
        self.metrics.add(
            kind="valid",
            step=progress.step,
            epoch=epoch,
            bits=round(trained, 4),
            held_out_bits=held_out,
            seconds=round(progress.seconds, 2),
        )
        if is_best:
            progress.best_bits = held_out
            progress.best_step = progress.step
            save_rnn(self.out / "best", self.network, self.reading.tokenizer, self._facts())
        if progress.since_best >= self.cfg.early_stop and not progress.done:
            log.info(f"stopping early: the held-out text is not more probable after {progress.since_best} measurements")
            progress.done = True

    def _facts(self) -> dict[str, Any]:
        progress, reading = self.progress, self.reading
        return {
            "epoch": progress.epoch,
            "step": progress.step,
            "seed": self.cfg.seed,
            "sentences": len(reading.train),
            "characters": reading.train.characters,
            "left_out": reading.left_out,
            "held_out_sentences": len(reading.held_out),
            "held_out_share": self.cfg.held_out,
            "held_out_bits_per_character": progress.best_bits,
            "precision": self.machine.precision,
            "seconds": round(progress.seconds, 1),
            "hardware": hardware(self.machine.device, self.machine.threads),
            **self.commit_facts,
        }

    def _save_checkpoint(self) -> None:
        learner = self.learner
        groups = {
            "model": tensors_of(self.network),
            "optimizer": optimizer_tensors(learner.optimizer),
            "scaler": scaler_tensors(learner.scaler),
        }
        tensors = {f"{group}.{k}": v for group, named in groups.items() for k, v in named.items()}
        tensors["states"] = learner.states_bs.cpu()
        save_state(self.out / "checkpoints", self.progress.step, tensors, vars(self.progress))
        self.saved_at = time.perf_counter()

    def _load_checkpoint(self) -> None:
        saved, skipped = load_state(self.out / "checkpoints")
        for line in skipped:
            log.warning("skipped a damaged checkpoint: %s", line)
        groups: dict[str, dict[str, Tensor]] = {"optimizer": {}, "scaler": {}, **split_by_prefix(saved.tensors)}
        try:
            self.progress = read_progress(RnnProgress, saved.state, saved.path / "state.json")
            set_tensors(self.network, groups["model"], saved.path)
            load_optimizer(self.learner.optimizer, groups["optimizer"])
            load_scaler(self.learner.scaler, groups["scaler"])
            self.learner.states_bs = groups["states"][""].to(self.machine.device)
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"not a checkpoint of this training ({error})", saved.path) from error

    def _cut_metrics(self) -> None:
        """Remove metrics of steps and measurements that a resumed training makes again."""
        measurements = count(1)
        progress = self.progress

        def is_kept(row: dict[str, Any]) -> bool:
            was_measured = row["kind"] != "valid" or next(measurements) <= progress.measured
            return was_measured and bool(row["step"] <= progress.step)

        self.metrics.keep(is_kept)

    def _log_start(self) -> None:
        progress, reading, machine = self.progress, self.reading, self.machine
        log.info(
            f"{self.model.num_parameters:,} parameters, {reading.tokenizer.vocabulary_size} tokens "
            f"({reading.tokenizer.kind}), {len(reading.train):,} sentences of {reading.train.characters:,} characters, "
            f"{len(reading.held_out):,} held out; {self.num_streams} streams, {machine.device}, {machine.precision}, "
            f"{machine.threads} threads"
        )
        if reading.left_out:
            shown = ", ".join(f"{c!r} in {n:,}" for c, n in reading.unknown.most_common(5))
            more = ", …" if len(reading.unknown) > 5 else ""
            log.warning(
                f"left out {reading.left_out:,} sentences with characters unknown to the tokenizer: {shown}{more}"
            )
        if progress.done:
            log.info("this training is complete: nothing left to do")
        elif progress.step:
            log.info(f"resuming after update {progress.step} (epoch {progress.epoch + 1})")


def held_out_bits(model: RnnModel, corpus: Corpus) -> float:
    """Return the bits per character of sentences, each scored by itself as in use."""
    total = float(model.score([corpus.sentence(n) for n in range(len(corpus))]).sum())
    return bits(total, corpus.characters)
