"""The outcome of a validation: lines in the log, a row of metrics, and the model if it is among the best."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.config import RunConfig, TrainConfig
from asr.model.checkpoint import TrainableModel, model_tensors, save_model
from asr.runtime import stable_seed
from asr.training.data import TrainingData
from asr.training.folder import RunFolder
from asr.training.progress import Progress, Validated
from asr.training.validate import Validation
from asr.training.watchdog import diagnosis

log = logging.getLogger(__name__)


def rank_validation(found: Validation, progress: Progress) -> None:
    """Put a validation in its place among the best ones, and count those since the rates last improved."""
    latest = Validated(found.wer, found.cer, found.loss_nats, progress.epoch)
    # Rates only: a dev loss that still falls slowly does not put off early stopping.
    is_better = all((latest.wer, latest.cer) < (other.wer, other.cer) for other in progress.best)
    progress.validations_since_best = 0 if is_better else progress.validations_since_best + 1
    progress.best = sorted([*progress.best, latest], key=lambda validated: validated.rank)


def report_validation(
    found: Validation,
    progress: Progress,
    run: RunFolder,
    *,
    lr: float,
    total_steps: int,
    frozen_steps: int,
    lost_case: bool,
) -> None:
    """Log what a validation found and what is odd about it, and add a row of metrics.

    Raises:
        CheckpointError: the metrics cannot be written.
    """
    health = found.health
    row: dict[str, Any] = {"kind": "valid", "step": progress.step, "epoch": progress.epoch}
    trained = "the model that training starts from"
    if progress.epoch:
        row["loss_nats"] = round(progress.epoch_losses_nats[-1], 4)
        trained = f"loss {progress.epoch_losses_nats[-1]:.3f} nats"
    dev_loss = "" if found.loss_nats is None else f" loss {found.loss_nats:.3f} nats"
    best = " (best)" if progress.best[0].epoch == progress.epoch else ""
    log.info(
        f"epoch {progress.epoch}: {trained}, dev WER {100 * found.wer:.2f} % CER {100 * found.cer:.2f} %{dev_loss}, "
        f"blank {100 * health.blank_fraction:.0f} %, emitted/reference {health.emitted_ratio:.2f}{best}"
    )
    sample = min(found.score.per_utterance, key=lambda u: stable_seed("sample", u.id))
    log.info("  %s: '%s' for '%s'", sample.id, sample.hypothesis, sample.reference)
    if progress.epoch:
        warning = diagnosis(
            health,
            step=progress.step,
            total_steps=total_steps,
            frozen_steps=frozen_steps,
            lr=lr,
            losses_nats=progress.epoch_losses_nats,
            lost_case=lost_case,
        )
        if warning:
            log.warning("%s", warning)

    run.add_metrics(
        **row,
        dev_loss_nats=None if found.loss_nats is None else round(found.loss_nats, 4),
        wer=found.wer,
        cer=found.cer,
        blank_fraction=round(health.blank_fraction, 4),
        emitted_ratio=round(health.emitted_ratio, 4),
        seconds=round(progress.seconds, 2),
    )


def warn_if_not_better(progress: Progress, cfg: RunConfig) -> None:
    """Warn if no epoch was better on dev than the model that the run started from."""
    if progress.done and progress.epoch and progress.best and not progress.best[0].epoch:
        remedy = f"lower optim.lr (now {cfg.optim.lr:.1e})"
        if progress.best[0].wer >= 1:  # perhaps it has not learnt enough yet
            remedy += ", train longer (train.epochs)"
            remedy += ", freeze for fewer steps (train.freeze)" * any(cfg.train.freeze.values())
        log.warning(
            f"training did not help: no epoch was better on dev than {cfg.train.init}, the model that it started from "
            f"(WER {progress.best[0].wer:.2%}), which best/ holds unchanged; {remedy}, or look at the data: asr doctor"
        )


@dataclass(frozen=True)
class BestModels:
    """Keep the best models of a run, by dev WER, and those of the last epochs."""

    run: RunFolder
    model: TrainableModel
    data: TrainingData
    cfg: TrainConfig
    #: saved with every model: precision, hardware, corpus, commit
    facts: dict[str, Any]

    def keep(self, found: Validation, progress: Progress) -> None:
        """Save this epoch's model if it is among the best or the last ones, and remove those it displaces.

        The model that training started from can be the best one, but counts as none of the last epochs.

        Raises:
            CheckpointError: it cannot be written; the earlier models are kept.
        """
        kept = progress.best[: self.cfg.keep_best]
        displaced = progress.best[self.cfg.keep_best :]
        progress.best = kept
        checkpoints = self.run.checkpoints

        if any(validated.epoch == progress.epoch for validated in kept):
            if self.cfg.keep_best > 1:
                self._save(checkpoints / f"best-epoch-{progress.epoch:04d}", found, progress)
                for validated in displaced:
                    shutil.rmtree(checkpoints / f"best-epoch-{validated.epoch:04d}", ignore_errors=True)
            if kept[0].epoch == progress.epoch:
                self._save(self.run.best, found, progress)

        if self.cfg.keep_last and progress.epoch:
            self._save(checkpoints / f"epoch-{progress.epoch:04d}", found, progress)
            for folder in sorted(checkpoints.glob("epoch-[0-9]*[0-9]"))[: -self.cfg.keep_last]:
                shutil.rmtree(folder, ignore_errors=True)

    def _save(self, folder: Path, found: Validation, progress: Progress) -> None:
        seconds = [self.data.manifest.utterances[i].duration_s for i in self.data.kept]
        self.model.training.update(
            epoch=progress.epoch,
            step=progress.step,
            seed=self.cfg.seed,
            train_hours=round(sum(seconds) / 3600, 3),
            longest_s=self.data.longest_of(max(0, progress.epoch - 1)),
            joined=self.data.cfg.augment.joined.share,
            dropped=len(self.data.dropped) + len(self.data.late),
            seconds=round(progress.seconds, 1),
            **self.facts,
        )
        dev = {
            "wer": found.score.wer.to_json(),
            "cer": found.score.cer.to_json(),
            "loss_nats": found.loss_nats,
            "utterances": found.score.utterances,
        }
        save_model(folder, self.model, model_tensors(self.model), {"dev": dev})
