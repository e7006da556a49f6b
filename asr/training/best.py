"""What a validation leaves: lines in the log, a row of metrics, and the model where it is among the best."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.checkpoint import TrainableModel, model_tensors, save_model
from asr.config import TrainConfig
from asr.progress import Progress
from asr.run import RunFolder
from asr.runtime import stable_seed
from asr.training.data import TrainingData
from asr.training.watchdog import diagnosis
from asr.validate import Validation
from asr.wer import Score

log = logging.getLogger(__name__)


def report(
    found: Validation, p: Progress, run: RunFolder, *, lr: float, total_steps: int, lost_case: bool
) -> None:  # fmt: skip
    """Says what a validation found, and what is odd about it; a row of metrics.

    Raises:
        CheckpointError: the metrics cannot be written.
    """
    now, loss_nats = found.health, p.epoch_losses_nats[-1]
    sample = min(found.score.per_utterance, key=lambda u: stable_seed("sample", u.id))
    log.info(
        "epoch %d: loss %.3f nats, dev WER %.2f %% CER %.2f %%, blank %.0f %%, emitted/reference %.2f%s",
        p.epoch, loss_nats, 100 * found.wer, 100 * found.cer, 100 * now.blank_fraction, now.emitted_ratio,
        " (best)" if p.validations_since_best == 0 else "",
    )  # fmt: skip
    log.info("  %s: '%s' for '%s'", sample.id, sample.hypothesis, sample.reference)
    warning = diagnosis(
        now, step=p.step, total_steps=total_steps, lr=lr, losses_nats=p.epoch_losses_nats, lost_case=lost_case
    )
    if warning:
        log.warning("%s", warning)
    run.add_metrics(
        kind="valid", step=p.step, epoch=p.epoch, loss_nats=round(loss_nats, 4), wer=found.wer, cer=found.cer,
        blank_fraction=round(now.blank_fraction, 4), emitted_ratio=round(now.emitted_ratio, 4),
        seconds=round(p.seconds, 2),
    )  # fmt: skip


@dataclass(frozen=True)
class Best:
    """The best models of a run, by dev WER, and what they say of their making."""

    run: RunFolder
    model: TrainableModel
    data: TrainingData
    cfg: TrainConfig
    #: of every model of this process: precision, hardware, corpus, commit
    facts: dict[str, Any]

    def keep(self, result: Score, p: Progress) -> None:
        """Saves this epoch's model where it is among the best or the last, and removes those it pushes out.

        Raises:
            CheckpointError: it cannot be written; what was there is kept.
        """
        self._keep_best(result, p)
        if self.cfg.keep_last:
            self._save_as("epoch", result, p)
            for folder in sorted(self.run.checkpoints.glob("epoch-[0-9]*[0-9]"))[: -self.cfg.keep_last]:
                shutil.rmtree(folder, ignore_errors=True)

    def _keep_best(self, result: Score, p: Progress) -> None:
        keep = self.cfg.keep_best
        kept, gone = p.best[:keep], p.best[keep:]
        p.best = kept
        if all(row[2] != p.epoch for row in kept):
            return
        if keep > 1:
            self._save_as("best-epoch", result, p)
            for _, _, epoch in gone:
                shutil.rmtree(self.run.checkpoints / f"best-epoch-{epoch:04d}", ignore_errors=True)
        if kept[0][2] == p.epoch:
            self._save(self.run.best, result, p)

    def _save_as(self, name: str, result: Score, p: Progress) -> None:
        self._save(self.run.checkpoints / f"{name}-{p.epoch:04d}", result, p)

    def _save(self, folder: Path, result: Score, p: Progress) -> None:
        seconds = [self.data.manifest.utterances[i].duration_s for i in self.data.kept]
        self.model.training.update(
            epoch=p.epoch, step=p.step, seed=self.cfg.seed, train_hours=round(sum(seconds) / 3600, 3),
            longest_s=max(seconds), dropped=len(self.data.dropped) + len(self.data.late), seconds=round(p.seconds, 1),
            **self.facts,
        )  # fmt: skip
        results = {"dev": {"wer": result.wer.to_json(), "cer": result.cer.to_json(), "utterances": result.utterances}}
        save_model(folder, self.model, model_tensors(self.model), results)
