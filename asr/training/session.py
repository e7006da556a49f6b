"""Build what a training works on: model, data, optimiser, validation and progress, from a config and a data folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

import asr
from asr.config import RunConfig
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Manifest
from asr.data.text import normalize
from asr.data.tokenizer import Tokenizer
from asr.doctor.start import check_start
from asr.errors import CheckpointError
from asr.machine import commit, usable_cores
from asr.model.checkpoint import TrainingState, has_state, load_state, save_state
from asr.model.start import origin_of
from asr.runtime import Interrupt, Machine, environment, hardware, use_machine
from asr.training.best import BestModels
from asr.training.data import Dropped
from asr.training.distributed import ProcessGroup
from asr.training.folder import RunFolder, data_record
from asr.training.learner import build_learner, build_model_and_data, resolve
from asr.training.memory import known_limits
from asr.training.planner import plan_memory
from asr.training.progress import PhaseTimer, Progress
from asr.training.restore import check_unchanged, restore, state_tensors
from asr.training.step import Learner
from asr.training.validate import DevSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The files that a run reads first. Without a tokenizer, its tokens are the characters of the training texts."""

    cfg: RunConfig
    train: Manifest
    dev: Manifest
    tokenizer: Tokenizer | None


def read_inputs(cfg: RunConfig, folder: Path) -> Inputs:
    """Read both manifests of a data folder, and look up there what the config leaves to the data.

    Raises:
        ConfigError, DataError: a manifest is missing or damaged, or the folder does not go with the config.
    """
    train, dev = manifests.read_split(folder, "train"), manifests.read_split(folder, "dev")
    cfg, tokenizer = resolve(cfg, folder, train)
    return Inputs(cfg, train, dev, tokenizer)


@dataclass
class Session:
    """A run in progress: a learner with its validation, progress and folder."""

    learner: Learner
    group: ProcessGroup
    run: RunFolder
    dev: DevSet
    best: BestModels
    progress: Progress
    timer: PhaseTimer
    interrupt: Interrupt
    #: lines to warn with when training starts
    warnings: list[str]
    #: seconds of audio that this process's steps have trained on
    audio_s: float = 0.0
    saved_at: float = field(default_factory=time.perf_counter)

    @property
    def cfg(self) -> RunConfig:
        """Return the config as it is trained."""
        return self.learner.cfg

    @property
    def is_over(self) -> bool:
        """Return true if all epochs or steps that the config asks for are done."""
        cfg = self.cfg.train
        return self.progress.epoch >= cfg.epochs or (cfg.max_steps is not None and self.progress.step >= cfg.max_steps)

    @property
    def total_steps(self) -> int:
        """Return how many steps the whole run has, if every epoch has as many as this one."""
        cfg = self.cfg.train
        plan = self.learner.data.plan(max(0, self.progress.epoch - 1))
        steps = math.ceil(len(plan) / cfg.accumulate) * cfg.epochs
        return steps if cfg.max_steps is None else min(steps, cfg.max_steps)

    @property
    def dropped(self) -> list[Dropped]:
        """Return the utterances left out, before the first epoch and since."""
        return [*self.learner.data.dropped, *self.learner.data.late]

    def recording(self) -> AbstractContextManager[None]:
        """Return a context in which the first process writes the log of the run."""
        return self.run.recording(self.progress.step) if self.group.is_first else nullcontext()

    def share_dropped(self) -> None:
        """Tell all processes which utterances each has left out; the first one writes them down."""
        data = self.learner.data
        gathered = [dropped for late in self.group.gather(data.late) for dropped in late]
        data.late = list({dropped.id: dropped for dropped in gathered}.values())
        if self.group.is_first:
            self.run.write_dropped(self.dropped)

    def plan_memory(self) -> None:
        """Find out which batches do not fit into memory, from a dry run and from what is known of this run."""
        learner, progress = self.learner, self.progress
        known_frames, left_out = self.group.from_first(lambda: known_limits(self.run.path))
        for id_ in left_out:
            if self.group.is_first:
                learner.data.drop_large(id_)
            else:
                learner.data.too_large.add(id_)

        too_many = plan_memory(learner.planner, self.group)
        # A resumed run halves the batches that it halved before, however much memory is free now.
        known_frames = min(known_frames, progress.too_many_frames or math.inf)
        learner.too_many_frames = min(known_frames, too_many)
        if progress.step and too_many < known_frames:
            log.warning(
                f"less memory is free than when the run began: batches of {too_many:,.0f} padded frames are halved "
                "from here on, each half with its own batch norm statistics; the result is not what it would have been"
            )
        if known_frames < math.inf:
            log.info(f"memory: batches of {known_frames:,.0f} padded frames ran out of it before and are halved")

    def save_checkpoint(self) -> None:
        """Save everything that is needed to resume from here.

        Raises:
            CheckpointError: it cannot be written; the one before is kept.
        """
        learner, progress = self.learner, self.progress
        progress.late = [(dropped.id, dropped.why) for dropped in learner.data.late]
        progress.too_large = sorted(learner.data.too_large)
        if math.isfinite(learner.too_many_frames):
            progress.too_many_frames = learner.too_many_frames

        def save() -> None:
            tensors = state_tensors(learner)
            with self.saving():
                save_state(self.run.checkpoints, progress.step, tensors, vars(progress))

        self.group.from_first(save)
        self.saved_at = time.perf_counter()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Count the time of the block as saving; tell how to go on if a model or a checkpoint cannot be written."""
        try:
            with self.timer("save"):
                yield
        except CheckpointError as error:
            raise CheckpointError(f"{error}; then: {self.run.resume_command}") from error

    def log_start(self) -> None:
        """Write the environment, and log what is trained, on what, and from where."""
        learner, progress = self.learner, self.progress
        machine, model = learner.machine, learner.model
        facts = environment(machine.device, machine.precision, machine.threads)
        self.run.write_environment({**facts, "processes": self.group.size})
        log.info(
            f"{model.num_parameters:,} parameters, {model.tokenizer.vocabulary_size} tokens ({model.tokenizer.kind}), "
            f"text normalization {model.text.normalization}, {machine.device}, {machine.precision}, "
            f"{machine.threads} threads"
        )
        if frozen := learner.freezing.summary():
            log.info(frozen)
        for part, until in self.cfg.train.freeze.items():
            if until is not None and until >= (total := self.total_steps):
                log.warning(
                    f"train.freeze: {part} is frozen for {until:,} steps, and this run has {total:,}, so it is never "
                    f"trained: lower train.freeze.{part}, or raise train.epochs"
                )
        self.run.write_dropped(self.dropped)
        for line in learner.data.summary():
            log.info("%s", line)
        for line in self.warnings:
            log.warning("%s", line)
        if self.dev.lost_case:
            log.warning("the dev text is in another letter case than the training text; set text.normalization")
        if progress.done:
            log.info(
                f"this run is complete: nothing left to train (epochs done: {progress.epoch}, "
                f"train.epochs in {self.run.config}: {self.cfg.train.epochs})"
            )
        elif progress.step:
            log.info(f"resuming after step {progress.step} (epoch {progress.epoch + 1}, batch {progress.batch})")


def build_session(inputs: Inputs, run: RunFolder, group: ProcessGroup, *, resuming: bool) -> Session:
    """Build a run; every process of the group calls this. The newest checkpoint is restored if the run has one.

    Raises:
        AsrError: the run cannot be trained or resumed; the same error in all processes.
    """
    # all processes must have the same versions, precision and manifests
    commit_facts = commit()  # now, as the checkout may change while the run trains
    machine = group.everywhere(lambda: _find_machine(inputs.cfg, group))
    if group.size > 1:
        group.check_alike(group.everywhere(lambda: _facts_to_compare(inputs, machine)))

    # the model, its data, and checks of them
    timer = PhaseTimer()
    model, data = group.everywhere(lambda: build_model_and_data(inputs.cfg, inputs.train, inputs.tokenizer, group))
    train_texts = (normalize(u.text, inputs.cfg.text.normalization) for u in inputs.train)
    dev = group.everywhere(lambda: DevSet(inputs.dev, model, list(train_texts), machine.precision, data.loader.files))
    warnings = group.from_first(
        lambda: check_start(inputs.train, data.kept, inputs.dev, model.audio, model.text.normalization)
    )

    # the weights: from the newest checkpoint, or new ones
    saved = group.from_first(lambda: _newest_state(run)) if resuming else None
    learner = build_learner(model, data, machine, group, timed=timer, run=run.path, has_checkpoint=saved is not None)
    cfg = learner.cfg
    if cfg != inputs.cfg:
        group.from_first(lambda: run.write_config(cfg))
    warnings += group.from_first(
        lambda: check_unchanged(run.path / "started.json", cfg, model.tokenizer, has_state=saved is not None)
    )

    # the folder, with the models that are kept
    place = hardware(machine.device, machine.threads)
    facts = {
        "corpus": headers.corpus_title(inputs.train.path.parent),
        "precision": machine.precision,
        "hardware": f"{group.size} processes: {place}" if group.size > 1 else place,
        **commit_facts,
    }
    if cfg.train.init is not None:
        facts["started_from"] = origin_of(cfg.train.init)
    best = BestModels(run, model, data, cfg.train, facts)
    session = Session(learner, group, run, dev, best, Progress(), timer, group.interrupt(), warnings)
    if saved is not None:
        _restore(session, saved)
    return session


def _find_machine(cfg: RunConfig, group: ProcessGroup) -> Machine:
    threads = cfg.train.threads
    if threads is None and group.local_size > 1:
        threads = max(1, usable_cores() // group.local_size)
    return use_machine(group.device(cfg.train.device), cfg.train.precision, threads)


def _facts_to_compare(inputs: Inputs, machine: Machine) -> dict[str, str]:
    """Return what must be the same in all processes."""
    record = data_record(inputs.train.path.parent)
    return {
        "asr version": asr.__version__,
        "torch version": torch.__version__,
        "precision": machine.precision,
        "train.jsonl": record["train"],
        "dev.jsonl": record["dev"],
    }


def _newest_state(run: RunFolder) -> TrainingState | None:
    """Load the newest whole checkpoint; None if the run was stopped before the first one."""
    if not has_state(run.checkpoints):
        return None
    saved, skipped = load_state(run.checkpoints)
    for line in skipped:
        log.warning("skipped a damaged checkpoint: %s", line)
    return saved


def _restore(session: Session, saved: TrainingState) -> None:
    """Restore a checkpoint, with the utterances left out; reopen a complete run if the config now asks for more."""
    learner = session.learner
    progress = session.group.everywhere(lambda: restore(saved, learner))
    session.progress = progress
    learner.data.late = [Dropped(*row) for row in progress.late]
    learner.data.too_large.update(progress.too_large)
    patience = session.cfg.train.early_stop
    is_out_of_patience = patience is not None and progress.validations_since_best >= patience
    progress.done = progress.done and (session.is_over or is_out_of_patience)
