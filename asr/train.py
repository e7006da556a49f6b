"""Training: ``train(config) -> report``; the loop, readable in one sitting.

Everything random follows from (seed, epoch, step, utterance id), never from what ran before, so a run that was killed
and resumed from any checkpoint ends with the same weights, bit for bit on CPU. Under ``torchrun`` every process goes
through the same batches, each with its part of every one; the first process writes the run's folder.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import asr
from asr.batch import Batch
from asr.config import RunConfig
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Manifest
from asr.data.text import normalize
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.doctor.start import check_start
from asr.errors import AsrError, CheckpointError, DataError, command
from asr.heartbeat import heartbeat
from asr.model.checkpoint import (
    TrainableModel,
    TrainingState,
    build_model,
    has_state,
    load_state,
    model_tensors,
    save_state,
    set_model_tensors,
)
from asr.runtime import (
    commit,
    environment,
    find_device,
    find_precision,
    hardware,
    keep_freed_memory,
    stable_seed,
    usable_cores,
    use_threads,
)
from asr.training.best import Best, enter, not_bettered
from asr.training.best import report as report_validation
from asr.training.data import Dropped, TrainingData, padding_fraction
from asr.training.distributed import Group, joined
from asr.training.folder import RunFolder, data_record
from asr.training.optim import Average, dropout, learning_rate
from asr.training.planner import Planner, known_limits, plan_memory, remember, resolve_max_batch_s
from asr.training.pretrained import start_from
from asr.training.progress import Pace, Progress, Report, Watcher
from asr.training.restore import check_unchanged, restore, state_tensors
from asr.training.step import Done, Stepper, TooLarge
from asr.training.validate import DevSet, Validation

log = logging.getLogger(__name__)


def train(cfg: RunConfig, data: Path, out: Path, watch: Watcher = lambda values: None) -> Report:
    """Trains a new run in the folder ``out`` on ``data``/train.jsonl, validating on ``data``/dev.jsonl.

    What the config leaves to the data (text normalisation, tokenizer) is looked up there, and kept with the run.

    Raises:
        ConfigError, DataError: what was asked cannot be trained; nothing has been computed yet.
        TrainingError: the loss is not finite, or another process of the run was lost.
        CheckpointError: a checkpoint cannot be written; the one before is kept.
    """

    def look() -> tuple[tuple[Manifest, Manifest], RunConfig, Tokenizer | None]:
        read = manifests.read_split(data, "train"), manifests.read_split(data, "dev")
        header = headers.read(data)
        profile = headers.resolve_normalization(cfg.text.normalization, header)
        resolved = cfg.model_copy(update={"text": cfg.text.model_copy(update={"normalization": profile})})
        return read, resolved, headers.tokenizer_for(cfg.text.tokenizer, data, header, cfg.train.init)

    run = RunFolder(out)
    with joined() as group, ExitStack() as held:
        read, resolved, tokenizer = group.everywhere(look)
        group.from_first(lambda: run.create(resolved, data, tokenizer))
        group.from_first(lambda: held.enter_context(run.locked()))
        try:
            trainer = group.everywhere(lambda: Trainer(resolved, *read, run, tokenizer, group))
            trainer.prepare(resuming=False)
        except AsrError:
            if group.is_first:
                run.discard()
            raise
        return trainer.run_to_end(watch)


def resume(out: Path, data: Path | None = None, watch: Watcher = lambda values: None) -> Report:
    """Continues the run in the folder ``out`` from its newest whole checkpoint, exactly; without one, from the start.

    Raises:
        As ``train``; CheckpointError also when ``out`` holds no run.
    """
    run = RunFolder(out)
    with joined() as group, ExitStack() as held:
        # Only the first process must see the run's folder; the manifests and the audio all of them.
        cfg, folder = group.from_first(lambda: run.open(data))
        read = group.everywhere(
            lambda: (manifests.read_split(folder, "train"), manifests.read_split(folder, "dev"))
        )  # fmt: skip
        group.from_first(lambda: held.enter_context(run.locked()))
        tokenizer = group.from_first(run.read_tokenizer)
        trainer = group.everywhere(lambda: Trainer(cfg, *read, run, tokenizer, group))
        trainer.prepare(resuming=True)
        return trainer.run_to_end(watch)


class Trainer:
    """One run: model, data, optimiser and progress, and the loop over them.

    ``prepare`` comes after the constructor, which asks nothing of other processes.
    """

    stepper: Stepper

    def __init__(
        self, cfg: RunConfig, train_set: Manifest, dev_set: Manifest, run: RunFolder, tokenizer: Tokenizer | None,
        group: Group,
    ) -> None:  # fmt: skip
        self.cfg, self.run, self.group = cfg, run, group
        group.way_on = f"; go on with: {command('train', '--resume', run.path)}"
        self.device = find_device(group.device(cfg.train.device))
        self.precision = find_precision(cfg.train.precision, self.device)
        threads = cfg.train.threads
        if threads is None and group.local_size > 1:
            threads = max(1, usable_cores() // group.local_size)
        self.threads = use_threads(threads)
        keep_freed_memory()
        texts = [normalize(u.text, cfg.text.normalization) for u in train_set]
        tokenizer = tokenizer or CharTokenizer.from_texts(texts)
        torch.manual_seed(stable_seed(cfg.train.seed, "init"))
        self.model: TrainableModel = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
        self.network = self.model.network
        share = (group.rank, group.size)
        self.data = TrainingData(train_set, tokenizer, self.model.extractor, self.network, cfg, share)
        self.dev = DevSet(dev_set, self.model, texts)
        #: what the doctor has to say of the data
        self.warnings: list[str] = []
        if group.is_first:
            self.warnings = check_start(train_set, self.data.kept, dev_set, cfg.audio, cfg.text.normalization)
        self.progress = Progress()
        #: the commit that this process runs, asked for now: the checkout may change while it trains
        self.source = commit()
        self.corpus = headers.corpus_title(train_set.path.parent)
        self.phases_s: dict[str, float] = {}
        #: what is being done
        self.phase = ""
        self.audio_s = 0.0
        self.interrupt = group.interrupt()

    def prepare(self, *, resuming: bool) -> None:
        """Weights, optimiser and progress: new, or as the newest whole checkpoint has them.

        Raises:
            AsrError: the checkpoint or what it needs is not as it was; the processes are not alike.
        """
        group, cfg = self.group, self.cfg
        if group.size > 1:
            group.check_alike(group.everywhere(self._likeness))
        found = group.from_first(lambda: resuming and has_state(self.run.checkpoints))
        saved = group.from_first(self._newest) if found else None
        if saved is None:
            self._begin()
        self.network.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), cfg.optim.lr, cfg.optim.betas, weight_decay=cfg.optim.weight_decay, fused=True
        )
        self.average = Average(self.network, cfg.train.ema_decay)
        planner = Planner(self.network, self.data, self.device, self.precision)
        if saved is None and cfg.batch.max_batch_s == "auto":
            found_s = float(resolve_max_batch_s(planner, group))
            log.info("batch.max_batch_s=auto: %g s fit into memory", found_s)
            self.data.max_batch_s = found_s
            self.cfg = cfg = cfg.model_copy(update={"batch": cfg.batch.model_copy(update={"max_batch_s": found_s})})
            group.from_first(lambda: self.run.write_config(cfg))
        started = self.run.path / "started.json"
        self.warnings += group.from_first(
            lambda: check_unchanged(started, cfg, self.model.tokenizer, has_state=saved is not None)
        )
        if saved is not None:
            self.progress = group.everywhere(lambda: restore(saved, self.model, self.optimizer, self.average))
            self._resume_from(self.progress)
        self.stepper = Stepper(
            self.network, self.optimizer, self.average, cfg, self.device, self.precision, group, self._timed
        )
        self.stepper.said, self.stepper.left_out = self._say_too_large, self._leave_out
        self.planner = planner
        size, place = group.size, hardware(self.device, self.threads)
        facts = {
            "corpus": self.corpus, "precision": self.precision,
            "hardware": f"{size} processes: {place}" if size > 1 else place, **self.source,
        }  # fmt: skip
        self.best = Best(self.run, self.model, self.data, cfg.train, facts)

    def _resume_from(self, p: Progress) -> None:
        """What was left out, is again; and what was complete, may not be by the config as it is now."""
        self.data.late = [Dropped(*row) for row in p.late]
        self.data.too_large.update(p.too_large)
        patience = self.cfg.train.early_stop
        p.done = p.done and (self._is_over or (patience is not None and p.validations_since_best >= patience))

    @property
    def _is_over(self) -> bool:
        """Whether there were as many epochs, or steps, as there are to be; with a changed config more, perhaps."""
        p, cfg = self.progress, self.cfg.train
        return p.epoch >= cfg.epochs or (cfg.max_steps is not None and p.step >= cfg.max_steps)

    def _likeness(self) -> dict[str, str]:
        """What must be alike in all processes."""
        record = data_record(self.data.manifest.path.parent)
        return {
            "asr version": asr.__version__, "torch version": torch.__version__, "precision": self.precision,
            "train.jsonl": record["train"], "dev.jsonl": record["dev"],
        }  # fmt: skip

    def _newest(self) -> TrainingState:
        saved, skipped = load_state(self.run.checkpoints)
        for line in skipped:
            log.warning("skipped a damaged checkpoint: %s", line)
        return saved

    def _begin(self) -> None:
        """The weights and statistics that a run begins with, made by the first process."""

        def make() -> dict[str, torch.Tensor]:
            if self.cfg.train.init is not None:
                log.info("%s", start_from(self.model, Path(self.cfg.train.init)))
            elif self.cfg.features.normalization == "corpus":
                self.data.views.fit_normalization(self.data.kept)
            return model_tensors(self.model)

        tensors = self.group.from_first(make)
        if not self.group.is_first:
            set_model_tensors(self.model, tensors, self.run.path)

    def run_to_end(self, watch: Watcher) -> Report:
        """The loop: epochs of steps, a validation and a checkpoint at each epoch's end."""
        p, group = self.progress, self.group
        with self._recording(), self.interrupt:
            if group.is_first:
                self.run.cut_metrics(p.step, p.epoch if p.best else -1)
                self._say_hello()
            if not p.done:
                self.stepper.joined = group.join(self.network)
                self._plan_memory()
            pace = Pace(watch if group.is_first else lambda values: None)
            with heartbeat(lambda: f"validating epoch {p.epoch}" if self.phase == "validate" else pace.line()):
                if not p.done:
                    self._validate_start(pace)
                while not (p.done or group.any(self.interrupt.asked)):
                    self._epoch(pace)
            self._checkpoint()
            interrupted = group.any(self.interrupt.asked) and not p.done
            plan = self.data.plan(max(0, p.epoch - 1))
            padding = padding_fraction(plan, self.data.manifest)
            self._share_dropped()
            report = Report(
                self.run.path, p, self.phases_s, self.audio_s, padding, dict(self.data.views.seconds),
                len(self._dropped()), interrupted,
            )  # fmt: skip
            for line in report.lines():
                log.info("%s", line)
            if warning := not_bettered(p, self.cfg):
                log.warning("%s", warning)
            self.stepper.joined = self.network
            if interrupted:
                log.info("stopped; go on with: %s", command("train", "--resume", self.run.path))
        return report

    def _recording(self) -> AbstractContextManager[None]:
        return self.run.recording(self.progress.step) if self.group.is_first else nullcontext()

    def _plan_memory(self) -> None:
        known, left_out = self.group.from_first(lambda: known_limits(self.run.path))
        for id_ in left_out:
            if self.group.is_first:
                self._leave_out(id_)
            else:
                self.data.too_large.add(id_)
        too_many, lines = plan_memory(self.planner, self.group)
        # As it was, however much memory is free today; less, where that is necessary.
        begun = self.progress.too_many_frames
        known = min(known, begun or math.inf)
        self.stepper.too_many = min(known, too_many)
        if self.progress.step and too_many < known:
            log.warning(
                "less memory is free than when the run began: batches of %s padded frames are halved from here on, "
                "each half with batch norm statistics of its own; the result is not what it would have been",
                f"{too_many:,.0f}",
            )  # fmt: skip
        if known < math.inf:
            lines.append(f"memory: batches of {known:,.0f} padded frames ran out of it before and are halved")
        for line in lines:
            log.info("%s", line)

    def _say_too_large(self, large: TooLarge) -> bool:
        """Whether a run that is resumed will know of it."""
        names, shape = ", ".join(large.batch.ids), large.batch.features_btf.shape
        if len(large.batch.ids) > 1:
            log.warning(
                "out of memory at a batch of %d x %d frames (%s): %s; it is computed in halves, each with batch norm "
                "statistics of its own, and so are others as large", *shape[:2], large.reason, names,
            )  # fmt: skip
        return self.group.size == 1 or remember(self.run.path, large.batch)

    def _leave_out(self, id_: str) -> None:
        self.data.drop_large(id_, "it does not fit into memory, even alone")

    def _epoch(self, watch: Watcher) -> None:
        p, cfg = self.progress, self.cfg.train
        plan = self.data.plan(p.epoch)
        saved_at = began = time.perf_counter()
        self.network.train()
        asked = False
        with closing(self.data.batches(plan[p.batch :])) as batches:
            while p.batch < len(plan) and not self._is_over:
                some = self._next(batches)
                batch = min(p.batch + cfg.accumulate, len(plan))
                before, after = ((p.epoch + done / len(plan)) / cfg.epochs for done in (p.batch, batch))
                lr = learning_rate(self.cfg.optim, before, after)
                if cfg.dropout_schedule:
                    self.network.set_dropout(dropout(cfg.dropout_schedule, before))
                done = self._step(some, lr)
                p.batch, p.step = batch, p.step + 1
                p.loss_sum_nats += done.loss_nats * done.utterances
                p.loss_count += done.utterances
                self.audio_s += done.audio_s
                now = time.perf_counter()
                p.seconds, began = p.seconds + now - began, now
                failure = self._record(done, lr) if self.group.is_first and done.utterances else None
                at_epoch = p.epoch + p.batch / len(plan)
                share = max(at_epoch / cfg.epochs, p.step / (cfg.max_steps or math.inf))
                watch({"epochs": cfg.epochs, "epoch": at_epoch, "step": p.step, "share": share,
                       "loss": done.loss_nats, "audio_s": self.audio_s})  # fmt: skip
                due = self.group.is_first and now - saved_at > cfg.checkpoint_every_s
                answers = self.group.agree(self.interrupt.asked, due, error=failure)
                asked, is_due = any(row[0] for row in answers), any(row[1] for row in answers)
                if asked:
                    break
                if is_due:
                    self._checkpoint()
                    saved_at = time.perf_counter()
        if asked and p.batch < len(plan) and not self._is_over:
            return
        self._end_epoch(len(plan), watch)
        p.seconds += time.perf_counter() - began

    def _end_epoch(self, batches: int, watch: Watcher) -> None:
        p, cfg = self.progress, self.cfg.train
        self._share_dropped()
        # Before the validation, so that nothing that goes wrong in it costs a step. It is not in this checkpoint: a run
        # resumed from it validates (again), with the same result.
        self._checkpoint()
        if p.batch and not p.loss_count:
            why = f"; the first: {self.data.late[0].id}: {self.data.late[0].why}" if self.data.late else ""
            nothing = DataError(f"nothing of epoch {p.epoch + 1} could be trained on{why}", self.data.manifest.path)
            self.group.agree(error=nothing)
        is_new = p.batch > 0  # not: resumed with fewer epochs than there were, at the end of one
        if is_new:
            p.epoch_losses_nats.append(p.loss_sum_nats / p.loss_count)
            p.epoch, p.batch, p.loss_sum_nats, p.loss_count = p.epoch + 1, 0, 0.0, 0
        p.done = self._is_over
        is_due = p.epoch % cfg.validate_every_epochs == 0
        if (is_due and is_new) or (p.done and not is_due):
            vars(p).update(self.group.from_first(lambda: self._validate(batches, watch)))
            if cfg.early_stop is not None and p.validations_since_best >= cfg.early_stop:
                log.info("stopping early: no better dev WER for %d validations", p.validations_since_best)
                p.done = True

    def _next(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of the next step."""
        count = self.cfg.train.accumulate
        some: list[Batch] = self._timed("data", lambda: self.group.everywhere(lambda: list(islice(batches, count))))
        return some

    def _step(self, batches: list[Batch], lr: float) -> Done:
        return self.stepper.step(batches, self.progress.step, lr)

    def _record(self, done: Done, lr: float) -> AsrError | None:
        """Adds a row of metrics; what went wrong."""
        p = self.progress
        try:
            self.run.add_metrics(
                kind="train", step=p.step, epoch=p.epoch + 1, loss_nats=round(done.loss_nats, 4), lr=lr,
                grad_norm=round(done.grad_norm, 4), audio_s=round(done.audio_s, 2), seconds=round(p.seconds, 2),
            )  # fmt: skip
        except CheckpointError as error:
            return error
        return None

    def _validate_start(self, watch: Watcher) -> None:
        """A model that training starts from is validated as epoch 0: what comes of it is measured against it."""
        p = self.progress
        if self.cfg.train.init is not None and not p.step and not p.best:
            batches = len(self.data.plan(0))
            vars(p).update(self.group.from_first(lambda: self._validate(batches, watch)))

    def _validate(self, batches: int, watch: Watcher) -> dict[str, Any]:
        """The progress with this validation in it; an epoch has so many batches."""
        p, cfg = self.progress, self.cfg.train
        done, steps = p.epoch / cfg.epochs, -(-batches // cfg.accumulate) * cfg.epochs
        lr = learning_rate(self.cfg.optim, done, done)
        with self.average.in_place():
            found: Validation = self._timed("validate", self.dev.validate)
            enter(found, p)
            report_validation(found, p, self.run, lr=lr, total_steps=steps, lost_case=self.dev.lost_case)
            watch({"epochs": cfg.epochs, "epoch": float(p.epoch), "wer": found.wer, "audio_s": self.audio_s})
            self._save(lambda: self.best.keep(found, p))
        return vars(p)

    def _checkpoint(self) -> None:
        p = self.progress
        p.late = [(one.id, one.why) for one in self.data.late]
        p.too_large = sorted(self.data.too_large)
        if math.isfinite(self.stepper.too_many):
            p.too_many_frames = self.stepper.too_many

        def save() -> None:
            tensors = state_tensors(self.model, self.optimizer, self.average)
            save_state(self.run.checkpoints, p.step, tensors, vars(p))

        self.group.from_first(lambda: self._save(save))

    def _save(self, work: Callable[[], None]) -> None:
        try:
            self._timed("save", work)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; then: {command('train', '--resume', self.run.path)}") from error

    def _dropped(self) -> list[Dropped]:
        return [*self.data.dropped, *self.data.late]

    def _share_dropped(self) -> None:
        """What each process has left out becomes known to all; the first writes it down."""
        if self.group.size > 1:
            every = [one for rows in self.group.gather(self.data.late) for one in rows]
            self.data.late = list({one.id: one for one in every}.values())
        if self.group.is_first:
            self.run.write_dropped(self._dropped())

    def _say_hello(self) -> None:
        p = self.progress
        self.run.write_environment(
            {**environment(self.device, self.precision, self.threads), "processes": self.group.size}
        )
        log.info(
            "%s parameters, %d tokens (%s), text normalization %s, %s, %s, %d threads",
            f"{self.model.num_parameters:,}", self.model.tokenizer.vocabulary_size, self.model.tokenizer.kind,
            self.model.text.normalization, self.device, self.precision, self.threads,
        )  # fmt: skip
        self.run.write_dropped(self._dropped())
        for line in self.data.summary():
            log.info("%s", line)
        for line in self.warnings:
            log.warning("%s", line)
        if self.dev.lost_case:
            log.warning("the dev text is in another letter case than the training text; set text.normalization")
        if p.done:
            log.info(
                "this run is complete: nothing left to train (epochs done: %d, train.epochs in %s: %d)",
                p.epoch, self.run.config, self.cfg.train.epochs,
            )  # fmt: skip
        elif p.step:
            log.info("resuming after step %d (epoch %d, batch %d)", p.step, p.epoch + 1, p.batch)

    def _timed(self, phase: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        self.phase = phase
        try:
            return work()
        finally:
            self.phase = ""
            self.phases_s[phase] = self.phases_s.get(phase, 0.0) + time.perf_counter() - began
