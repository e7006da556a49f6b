"""Train a neural language model by truncated back-propagation through time; a stopped training resumes exactly.

All randomness follows from (seed, epoch) and (seed, step), so no state of a generator is saved. What is saved beside
weights and optimiser is the state of every stream.

Axes: t steps of a window, b streams, s numbers of a state, v vocabulary.

Source: Williams & Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
Trajectories" (truncation); Mikolov et al. 2010.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asr.config import OptimConfig
from asr.data.tokenizer_file import FILE as TOKENIZER
from asr.errors import CheckpointError, ConfigError, DataError, TrainingError, os_reason
from asr.files import held, write_json
from asr.lm.neural.config import RnnTrainConfig
from asr.lm.neural.folder import save_rnn, set_tensors, tensors_of
from asr.lm.neural.network import RnnModel, RnnNetwork, bits
from asr.lm.neural.text import NO_TARGET, Corpus, Reading, Streams
from asr.model.checkpoint import has_state, load_state, save_state
from asr.model.tensor_files import read_json, split_by_prefix
from asr.runtime import Interrupt, autocast, commit, generator, hardware, stable_seed, use_machine
from asr.training.metrics import MetricsFile
from asr.training.optim import learning_rate, load_optimizer, optimizer_tensors
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
    _open(out, reading, cfg)
    with held(out / "training.json", f"{out}: another process is training this model; stop it first"):
        return RnnTrainer(reading, cfg, out).run_to_end(watch)


class RnnTrainer:
    """One training: network, optimiser, streams, progress."""

    def __init__(self, reading: Reading, cfg: RnnTrainConfig, out: Path) -> None:
        self.reading = reading
        self.cfg = cfg
        self.out = out
        self.machine = use_machine(cfg.device, cfg.precision, cfg.threads)
        torch.manual_seed(stable_seed(cfg.seed, "init"))
        self.network = RnnNetwork(cfg.network, reading.tokenizer.vocabulary_size).to(self.machine.device)
        self.model = RnnModel(self.network, reading.tokenizer)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), cfg.lr, (0.9, 0.99), weight_decay=cfg.weight_decay, fused=True
        )
        self.schedule = OptimConfig(lr=cfg.lr, warmup_fraction=cfg.warmup_fraction, decay="cosine")

        tokens = len(reading.train.tokens) + 2 * len(reading.train)
        streams = cfg.streams or max(1, min(64, tokens // (_LEAST_WINDOWS * cfg.window)))
        self.num_streams = min(streams, len(reading.train))
        #: after the last window; every stream of an epoch begins with a reset, so it does not matter at an epoch's end
        self.states_bs = torch.zeros(self.num_streams, self.network.state_size, device=self.machine.device)
        #: training counts tokens; this turns nats per token into bits per character
        self.bits_per_nat = (len(reading.train.tokens) + len(reading.train)) / reading.train.characters / math.log(2)

        self.progress = RnnProgress()
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
            loss, targets, grad_norm = self.update(*streams[progress.window], lr)

            progress.window += 1
            progress.step += 1
            progress.loss_sum_nats += loss
            progress.loss_count += targets
            progress.seconds += self.timer.lap()
            self._record_step(loss / max(targets, 1) * self.bits_per_nat, targets, grad_norm, len(streams), watch)

            if progress.window == len(streams):
                break
            # Measured before an interrupt or a checkpoint: a resumed training would not measure here.
            if progress.step % cfg.validate_every == 0:
                self._measure()
            if progress.done or self.interrupt.asked:
                return
            if time.perf_counter() - self.saved_at > cfg.checkpoint_every_s:
                self._save_checkpoint()

        progress.epoch += 1
        progress.window = 0
        progress.done = progress.epoch == cfg.epochs
        self._measure()
        progress.seconds += self.timer.lap()
        self._save_checkpoint()

    def _record_step(self, train_bits: float, targets: int, grad_norm: float, windows: int, watch: Watcher) -> None:
        progress = self.progress
        if progress.step % _LOG_EVERY == 0:
            self.metrics.add(
                kind="train",
                step=progress.step,
                epoch=progress.epoch + 1,
                bits=round(train_bits, 4),
                grad_norm=round(grad_norm, 4),
                seconds=round(progress.seconds, 2),
            )

        watch(
            {
                "epochs": self.cfg.epochs,
                "epoch": progress.epoch + progress.window / windows,
                "bits": train_bits,
                "tokens": float(targets),
                "held_out": progress.best_bits or math.nan,
            }
        )

    def update(self, inputs_tb: Any, targets_tb: Any, lr: float) -> tuple[float, int, float]:
        """Make one update on a window; return its loss in nats, its targets, and the gradient's norm before clipping.

        Raises:
            TrainingError: the gradient is not finite.
        """
        # The masks of dropout depend on the step alone, so that no state of the generator need be saved.
        torch.manual_seed(stable_seed(self.cfg.seed, "dropout", self.progress.step))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, targets, self.states_bs = window_loss(
            self.network, inputs_tb, targets_tb, self.states_bs, self.machine.precision
        )
        if not targets:  # nothing but resets: the streams' tail
            return 0.0, 0, 0.0

        # Divided by the size of the whole window: one with few targets, at the streams' end, counts little.
        (loss / targets_tb.size).backward()
        clip = self.cfg.clip_norm or math.inf
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip, foreach=True))
        if not math.isfinite(grad_norm):
            self._fail(self.progress.step + 1, "the gradient is not finite")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach()), targets, grad_norm

    def _fail(self, step: int, what: str) -> None:
        lr = self.optimizer.param_groups[0]["lr"]
        raise TrainingError(
            f"update {step}: {what} at learning rate {lr:.2e}; the model saved before is whole: "
            "lower lr (--set lr=0.001)"
        )

    def _measure(self) -> None:
        """Measure the held-out sentences, and save the model if they are more probable than ever."""
        progress = self.progress
        self.network.eval()
        self.model.forget_tables()
        held_out = held_out_bits(self.model, self.reading.held_out)
        self.network.train()
        if not math.isfinite(held_out):
            self._fail(progress.step, "the held-out text has no finite probability")

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
        groups = {"model": tensors_of(self.network), "optimizer": optimizer_tensors(self.optimizer)}
        tensors = {f"{group}.{k}": v for group, named in groups.items() for k, v in named.items()}
        tensors["states"] = self.states_bs.cpu()
        save_state(self.out / "checkpoints", self.progress.step, tensors, vars(self.progress))
        self.saved_at = time.perf_counter()

    def _load_checkpoint(self) -> None:
        saved, skipped = load_state(self.out / "checkpoints")
        for line in skipped:
            log.warning("skipped a damaged checkpoint: %s", line)
        groups: dict[str, dict[str, Tensor]] = {"optimizer": {}, **split_by_prefix(saved.tensors)}
        try:
            self.progress = read_progress(RnnProgress, saved.state, saved.path / "state.json")
            set_tensors(self.network, groups["model"], saved.path)
            load_optimizer(self.optimizer, groups["optimizer"])
            self.states_bs = groups["states"][""].to(self.machine.device)
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


def window_loss(
    network: RnnNetwork, inputs_tb: Any, targets_tb: Any, states_bs: Tensor, precision: str
) -> tuple[Tensor, int, Tensor]:
    """Return the loss summed over a window in nats, the number of its targets, and the states after it, detached.

    Shapes: (t, b), (t, b), (b, s).
    """
    device = states_bs.device
    inputs = torch.from_numpy(np.ascontiguousarray(inputs_tb)).to(device)
    targets = torch.from_numpy(np.ascontiguousarray(targets_tb)).to(device)
    with autocast(precision, device):
        logits_tbv, after_bs = network(inputs, states_bs)
    loss = F.cross_entropy(logits_tbv.float().flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
    return loss, int((targets_tb != NO_TARGET).sum()), after_bs.detach()


def held_out_bits(model: RnnModel, corpus: Corpus) -> float:
    """Return the bits per character of sentences, each scored by itself as in use."""
    total = float(model.score([corpus.sentence(n) for n in range(len(corpus))]).sum())
    return bits(total, corpus.characters)


def _open(out: Path, reading: Reading, cfg: RnnTrainConfig) -> None:
    """Check that the folder holds this very training; if it holds nothing, begin the training there.

    Raises:
        ConfigError, DataError: it holds another training, or something else.
    """
    path = out / "training.json"
    # without the keys that only say how it is computed
    settings = cfg.model_dump(mode="json", exclude={"device", "threads", "checkpoint_every_s"})
    record = {"format_version": 1, "text_sha256": reading.sha256, "settings": settings}
    advice = "choose another --out, or remove this folder"
    if path.exists():
        _compare(out, record, reading, advice)
        return
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"{out} holds something else; {advice}")

    try:
        # The record comes first: a kill after it leaves a training that has begun.
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        write_json(out / TOKENIZER, reading.tokenizer.to_json())
    except OSError as error:
        raise CheckpointError(f"cannot write: {os_reason(error)}", out) from error


def _compare(out: Path, record: dict[str, Any], reading: Reading, advice: str) -> None:
    before = read_json(out / "training.json")
    try:
        for key, value in record["settings"].items():
            was = before["settings"][key]
            if was != value:
                raise ConfigError(f"{out} holds a training with {key} {was}, now it is {value}; {advice}", key=key)
        same_text = before["text_sha256"] == reading.sha256
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"not the record of a training; {advice}", out / "training.json") from error

    if not (out / TOKENIZER).exists():  # killed before it was written
        write_json(out / TOKENIZER, reading.tokenizer.to_json())
    if not same_text or read_json(out / TOKENIZER) != reading.tokenizer.to_json():
        what = "tokenizer" if same_text else "text"
        raise DataError(f"{out} holds a training on another {what}, which this would not continue; {advice}")
