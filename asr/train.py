"""Train a model: ``train(config, data, out)`` and ``resume(out)``. This page is the loop.

Everything random follows from (seed, epoch, step, utterance id), not from what ran before. So a run that was killed and
resumed from any checkpoint ends with the same weights, bit for bit on CPU. Under ``torchrun`` every process loads its
part of each batch; the first process writes the run's folder.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

from asr.config import RunConfig
from asr.data.manifest import read_split
from asr.errors import AsrError, DataError
from asr.heartbeat import heartbeat
from asr.training.best import rank_validation, report_validation, warn_if_not_better
from asr.training.distributed import process_group
from asr.training.folder import RunFolder
from asr.training.optim import dropout, learning_rate
from asr.training.progress import Pace, Progress, Report, Watcher
from asr.training.record import Unread, record_steps
from asr.training.session import Inputs, Session, build_session, read_inputs

log = logging.getLogger(__name__)


def train(cfg: RunConfig, data: Path, out: Path, watch: Watcher = lambda values: None) -> Report:
    """Train a new run in the folder ``out`` on ``data``/train.jsonl, with validation on ``data``/dev.jsonl.

    What the config leaves to the data (text normalisation, tokenizer) is looked up there, and kept with the run.

    Raises:
        ConfigError, DataError: the config cannot be trained on these data; nothing has been computed.
        TrainingError: the loss is not finite, or another process of the run was lost.
        CheckpointError: a checkpoint cannot be written; the one before is kept.
    """
    run = RunFolder(out)
    with process_group(f"; go on with: {run.resume_command}") as group, ExitStack() as lock:
        inputs = group.everywhere(lambda: read_inputs(cfg, data))
        group.from_first(lambda: run.create(inputs.cfg, data, inputs.tokenizer))
        group.from_first(lambda: lock.enter_context(run.locked()))
        try:
            session = build_session(inputs, run, group, resuming=False)
        except AsrError:
            if group.is_first:
                run.discard()
            raise

        return train_session(session, watch)


def resume(out: Path, data: Path | None = None, watch: Watcher = lambda values: None) -> Report:
    """Continue the run in the folder ``out`` exactly, from its newest whole checkpoint; without one, from the start.

    Raises:
        As ``train``; CheckpointError also if ``out`` holds no run.
    """
    run = RunFolder(out)
    with process_group(f"; go on with: {run.resume_command}") as group, ExitStack() as lock:
        # Only the first process must see the run's folder; all must see the manifests and the audio.
        cfg, folder = group.from_first(lambda: run.open(data))
        tokenizer = group.from_first(run.read_tokenizer)
        train_set, dev_set = group.everywhere(lambda: (read_split(folder, "train"), read_split(folder, "dev")))
        inputs = Inputs(cfg, train_set, dev_set, tokenizer)
        group.from_first(lambda: lock.enter_context(run.locked()))
        session = build_session(inputs, run, group, resuming=True)
        return train_session(session, watch)


def train_session(session: Session, watch: Watcher) -> Report:
    """Train until the run is complete or interrupted."""
    progress, group, interrupt = session.progress, session.group, session.interrupt
    pace = Pace(watch if group.is_first else lambda values: None)

    def progress_line() -> str:
        return f"validating epoch {progress.epoch}" if session.timer.current == "validate" else pace.line()

    with session.recording(), interrupt:
        if group.is_first:
            session.run.cut_metrics(progress.step, progress.epoch if progress.best else -1)
            session.log_start()
        if not progress.done:
            session.plan_memory()
            with session.learner.connected(progress.step), heartbeat(progress_line):
                if session.cfg.train.init is not None and not progress.step and not progress.best:
                    validate(session, pace)  # epoch 0: the model that training starts from
                while not (progress.done or group.any(interrupt.asked)):
                    train_epoch(session, pace)

        session.save_checkpoint()
        return report_end(session)


def train_epoch(session: Session, watch: Watcher) -> None:
    """Train on the rest of the epoch, then validate; return earlier if any process was interrupted."""
    learner, progress, group, timer = session.learner, session.progress, session.group, session.timer
    plan = learner.data.plan(progress.epoch)
    interrupted = False
    unread: deque[Unread] = deque()
    # A GPU is given a step before the numbers of the step before are read, so that it never waits for this program.
    ahead = 1 if learner.machine.device.type == "cuda" else 0
    timer.lap()
    learner.model.network.train()

    with closing(learner.data.batches(plan[progress.batch :])) as batches:
        while progress.batch < len(plan) and not session.is_over and not interrupted:
            # one update of the weights
            with timer("data"):
                step_batches = group.everywhere(lambda: list(islice(batches, session.cfg.train.accumulate)))
            done = min(progress.batch + session.cfg.train.accumulate, len(plan))
            lr = set_schedules(session, progress.batch / len(plan), done / len(plan))
            step = learner.step(step_batches, progress.step, lr)

            # the record of it
            progress.step += 1
            progress.batch = done
            progress.seconds += timer.lap()
            unread.append(Unread(step, progress.step, lr, progress.epoch + done / len(plan), progress.seconds))
            error = record_steps(session, unread, watch, ahead)

            # all processes stop, or save, if one has to
            is_due = group.is_first and time.perf_counter() - session.saved_at > session.cfg.train.checkpoint_every_s
            answers = group.agree(session.interrupt.asked, is_due, error=error)
            interrupted = any(asked for asked, _ in answers)
            if not interrupted and any(due for _, due in answers):
                group.agree(error=record_steps(session, unread, watch))
                session.save_checkpoint()

    group.agree(error=record_steps(session, unread, watch))

    if not interrupted or progress.batch == len(plan) or session.is_over:
        end_epoch(session, watch)
        progress.seconds += timer.lap()


def set_schedules(session: Session, before: float, after: float) -> float:
    """Set the dropout of a step, and return its learning rate; ``before`` and ``after`` are shares of the epoch."""
    cfg, epoch = session.cfg, session.progress.epoch
    done_before = (epoch + before) / cfg.train.epochs
    done_after = (epoch + after) / cfg.train.epochs
    if cfg.train.dropout_schedule:
        session.learner.model.network.set_dropout(dropout(cfg.train.dropout_schedule, done_before))
    return learning_rate(cfg.optim, done_before, done_after)


def end_epoch(session: Session, watch: Watcher) -> None:
    """Validate if it is due, behind a checkpoint, and decide whether the run is complete."""
    progress, cfg, data = session.progress, session.cfg.train, session.learner.data
    session.share_dropped()
    # Before a validation, so that an error in it costs no step. A run resumed from this checkpoint validates again,
    # with the same result. Other epochs may last a second: their steps are saved by the clock.
    done_epochs = progress.epoch + (progress.batch > 0)
    if done_epochs % cfg.validate_every_epochs == 0 or done_epochs >= cfg.epochs or session.is_over:
        session.save_checkpoint()
    if progress.batch and not progress.loss_count:
        why = f"; the first: {data.late[0].id}: {data.late[0].why}" if data.late else ""
        error = DataError(f"nothing of epoch {progress.epoch + 1} could be trained on{why}", data.manifest.path)
        session.group.agree(error=error)

    is_new = progress.batch > 0  # false if the run is resumed with fewer epochs than are done
    if is_new:
        progress.epoch_losses_nats.append(progress.loss_sum_nats / progress.loss_count)
        progress.epoch += 1
        progress.batch = 0
        progress.loss_sum_nats = 0.0
        progress.loss_count = 0

    progress.done = session.is_over

    is_due = progress.epoch % cfg.validate_every_epochs == 0
    if (is_due and is_new) or (progress.done and not is_due):
        validate(session, watch)
        if cfg.early_stop is not None and progress.validations_since_best >= cfg.early_stop:
            log.info("stopping early: no better dev WER for %d validations", progress.validations_since_best)
            progress.done = True


def validate(session: Session, watch: Watcher) -> None:
    """Validate in the first process, and keep the model if it is among the best; all processes learn the result."""
    progress, cfg, learner = session.progress, session.cfg, session.learner

    def validate_and_keep() -> Progress:
        done = progress.epoch / cfg.train.epochs
        with learner.average.in_place():
            with session.timer("validate"):
                found = session.dev.validate()
            rank_validation(found, progress)
            report_validation(
                found,
                progress,
                session.run,
                lr=learning_rate(cfg.optim, done, done),
                total_steps=session.total_steps,
                frozen_steps=max((until or 0 for until in cfg.train.freeze.values()), default=0),
                lost_case=session.dev.lost_case,
            )
            watch(
                {
                    "epochs": cfg.train.epochs,
                    "epoch": float(progress.epoch),
                    "wer": found.wer,
                    "audio_s": session.audio_s,
                }
            )
            with session.saving():
                session.best.keep(found, progress)

        return progress

    vars(progress).update(vars(session.group.from_first(validate_and_keep)))


def report_end(session: Session) -> Report:
    """Log the report of the run, and return it."""
    progress, data, run = session.progress, session.learner.data, session.run
    interrupted = session.group.any(session.interrupt.asked) and not progress.done
    session.share_dropped()
    report = Report(
        run=run.path,
        progress=progress,
        phases_s=session.timer.seconds,
        audio_s=session.audio_s,
        padding=data.padding_fraction(data.plan(max(0, progress.epoch - 1))),
        features_s=dict(data.loader.seconds),
        num_dropped=len(session.dropped),
        interrupted=interrupted,
    )
    for line in report.lines():
        log.info("%s", line)
    warn_if_not_better(progress, session.cfg)
    if interrupted:
        log.info("stopped; go on with: %s", run.resume_command)
    return report
