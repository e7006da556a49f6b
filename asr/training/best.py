"""What a validation leaves: lines in the log, a row of metrics, and the model where it is among the best."""

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


def enter(found: Validation, p: Progress) -> None:
    """Puts a validation in its place among the best ones, and counts those since the rates were last bettered."""
    now = Validated(found.wer, found.cer, found.loss_nats, p.epoch)
    # Rates only: early stopping is not put off by a dev loss that still creeps.
    is_better = all((now.wer, now.cer) < (one.wer, one.cer) for one in p.best)
    p.validations_since_best = 0 if is_better else p.validations_since_best + 1
    p.best = sorted([*p.best, now], key=lambda one: one.rank)


def report(found: Validation, p: Progress, run: RunFolder, *, lr: float, total_steps: int, lost_case: bool) -> None:
    """Says what a validation found, and what is odd about it; a row of metrics.

    Raises:
        CheckpointError: the metrics cannot be written.
    """
    now = found.health
    trained = f"loss {p.epoch_losses_nats[-1]:.3f} nats" if p.epoch else "the model that training starts from"
    dev_loss = "" if found.loss_nats is None else f" loss {found.loss_nats:.3f} nats"
    sample = min(found.score.per_utterance, key=lambda u: stable_seed("sample", u.id))
    log.info(
        "epoch %d: %s, dev WER %.2f %% CER %.2f %%%s, blank %.0f %%, emitted/reference %.2f%s",
        p.epoch, trained, 100 * found.wer, 100 * found.cer, dev_loss, 100 * now.blank_fraction, now.emitted_ratio,
        " (best)" if p.best[0].epoch == p.epoch else "",
    )  # fmt: skip
    log.info("  %s: '%s' for '%s'", sample.id, sample.hypothesis, sample.reference)
    row: dict[str, Any] = {"kind": "valid", "step": p.step, "epoch": p.epoch}
    if p.epoch:
        row["loss_nats"] = round(p.epoch_losses_nats[-1], 4)
        warning = diagnosis(
            now, step=p.step, total_steps=total_steps, lr=lr, losses_nats=p.epoch_losses_nats, lost_case=lost_case
        )
        if warning:
            log.warning("%s", warning)
    run.add_metrics(
        **row,
        dev_loss_nats=None if found.loss_nats is None else round(found.loss_nats, 4),
        wer=found.wer,
        cer=found.cer,
        blank_fraction=round(now.blank_fraction, 4),
        emitted_ratio=round(now.emitted_ratio, 4),
        seconds=round(p.seconds, 2),
    )


def not_bettered(p: Progress, cfg: RunConfig) -> str | None:
    """A warning where no epoch was better on dev than the model that the run started from."""
    if not (p.done and p.epoch and p.best) or p.best[0].epoch:
        return None
    return (
        f"training did not help: no epoch was better on dev than {cfg.train.init}, the model that it started from "
        f"(WER {p.best[0].wer:.2%}), which best/ holds as it was; lower optim.lr (now {cfg.optim.lr:.1e}), or look at "
        "the data: asr doctor"
    )


@dataclass(frozen=True)
class Best:
    """The best models of a run, by dev WER, and what they say of their making."""

    run: RunFolder
    model: TrainableModel
    data: TrainingData
    cfg: TrainConfig
    #: of every model of this process: precision, hardware, corpus, commit
    facts: dict[str, Any]

    def keep(self, found: Validation, p: Progress) -> None:
        """Saves this epoch's model where it is among the best or the last, and removes those it pushes out.

        The model that training started from can be the best, but is none of the last epochs.

        Raises:
            CheckpointError: it cannot be written; what was there is kept.
        """
        self._keep_best(found, p)
        if self.cfg.keep_last and p.epoch:
            self._save_as("epoch", found, p)
            for folder in sorted(self.run.checkpoints.glob("epoch-[0-9]*[0-9]"))[: -self.cfg.keep_last]:
                shutil.rmtree(folder, ignore_errors=True)

    def _keep_best(self, found: Validation, p: Progress) -> None:
        keep = self.cfg.keep_best
        kept, gone = p.best[:keep], p.best[keep:]
        p.best = kept
        if all(one.epoch != p.epoch for one in kept):
            return
        if keep > 1:
            self._save_as("best-epoch", found, p)
            for one in gone:
                shutil.rmtree(self.run.checkpoints / f"best-epoch-{one.epoch:04d}", ignore_errors=True)
        if kept[0].epoch == p.epoch:
            self._save(self.run.best, found, p)

    def _save_as(self, name: str, found: Validation, p: Progress) -> None:
        self._save(self.run.checkpoints / f"{name}-{p.epoch:04d}", found, p)

    def _save(self, folder: Path, found: Validation, p: Progress) -> None:
        seconds = [self.data.manifest.utterances[i].duration_s for i in self.data.kept]
        self.model.training.update(
            epoch=p.epoch, step=p.step, seed=self.cfg.seed, train_hours=round(sum(seconds) / 3600, 3),
            longest_s=max(seconds), dropped=len(self.data.dropped) + len(self.data.late), seconds=round(p.seconds, 1),
            **self.facts,
        )  # fmt: skip
        result = found.score
        dev = {
            "wer": result.wer.to_json(),
            "cer": result.cer.to_json(),
            "loss_nats": found.loss_nats,
            "utterances": result.utterances,
        }
        results = {"dev": dev}
        save_model(folder, self.model, model_tensors(self.model), results)
