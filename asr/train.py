"""Training: ``train(config) -> report``; the loop, readable in one sitting.

Axes: b batch, s steps, v vocabulary.

Everything random follows from (seed, epoch, step, utterance id), never from what ran before, so a run that was killed
and resumed from any checkpoint ends with the same weights, bit for bit on CPU.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr import header as headers
from asr import manifest as manifests
from asr.batch import Batch, Dropped, TrainingData, padding_fraction
from asr.checkpoint import (
    AcousticModel,
    build_model,
    has_state,
    load_state,
    model_tensors,
    save_model,
    save_state,
    set_model_tensors,
)  # fmt: skip
from asr.config import RunConfig
from asr.ctc import ctc_loss
from asr.doctor.start import check_start
from asr.errors import AsrError, CheckpointError, TrainingError
from asr.manifest import Manifest
from asr.optim import Average, learning_rate
from asr.pretrained import start_from
from asr.progress import Progress, Report, Watcher
from asr.run import RunFolder
from asr.runtime import (
    Interrupt,
    autocast,
    commit,
    environment,
    find_device,
    find_precision,
    hardware,
    keep_freed_memory,
    stable_seed,
    use_threads,
)
from asr.text import normalize
from asr.tokenizer import CharTokenizer
from asr.validate import DevSet, Validation
from asr.watchdog import diagnosis
from asr.wer import Score

log = logging.getLogger(__name__)


def train(cfg: RunConfig, data: Path, out: Path, watch: Watcher = lambda values: None) -> Report:
    """Trains a new run in the folder ``out`` on ``data``/train.jsonl, validating on ``data``/dev.jsonl.

    What the config leaves to the data (text normalisation, tokenizer) is looked up there, and kept with the run.

    Raises:
        ConfigError, DataError: what was asked cannot be trained; nothing has been computed yet.
        TrainingError: the loss is not finite.
        CheckpointError: a checkpoint cannot be written; the one before is kept.
    """
    read = manifests.read(data / "train.jsonl"), manifests.read(data / "dev.jsonl")
    header = headers.read(data)
    profile = headers.resolve_normalization(cfg.text.normalization, header)
    cfg = cfg.model_copy(update={"text": cfg.text.model_copy(update={"normalization": profile})})
    run = RunFolder(out)
    run.create(cfg, data, headers.tokenizer_for(cfg.text.tokenizer, data, header))
    with run.locked():
        try:
            trainer = Trainer(cfg, *read, run, resume=False)
        except AsrError:
            run.discard()
            raise
        return trainer.run_to_end(watch)


def resume(out: Path, data: Path | None = None, watch: Watcher = lambda values: None) -> Report:
    """Continues the run in the folder ``out`` from its newest whole checkpoint, exactly; without one, from the start.

    Raises:
        As ``train``; CheckpointError also when ``out`` holds no run.
    """
    run = RunFolder(out)
    cfg, folder = run.open(data)
    read = manifests.read(folder / "train.jsonl"), manifests.read(folder / "dev.jsonl")
    with run.locked():
        return Trainer(cfg, *read, run, resume=True).run_to_end(watch)


class Trainer:
    """One run: model, data, optimiser and progress, and the loop over them."""

    def __init__(self, cfg: RunConfig, train_set: Manifest, dev_set: Manifest, run: RunFolder, *, resume: bool) -> None:
        self.cfg, self.run = cfg, run
        self.device = find_device(cfg.train.device)
        self.precision = find_precision(cfg.train.precision, self.device)
        self.threads = use_threads(cfg.train.threads)
        keep_freed_memory()
        texts = [normalize(u.text, cfg.text.normalization) for u in train_set]
        tokenizer = run.read_tokenizer() or CharTokenizer.from_texts(texts)
        torch.manual_seed(stable_seed(cfg.train.seed, "init"))
        self.model: AcousticModel = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
        found = resume and has_state(run.checkpoints)
        if cfg.train.init is not None and not found:
            log.info("%s", start_from(self.model, Path(cfg.train.init)))
        self.data = TrainingData(train_set, tokenizer, self.model.extractor, self.model.network, cfg)
        self.dev = DevSet(dev_set, self.model, texts)
        #: what the doctor has to say of the data
        self.warnings = check_start(train_set, self.data.kept, dev_set, cfg.audio, cfg.text.normalization)
        self.model.network.to(self.device)
        self.network = self.model.network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), cfg.optim.lr, cfg.optim.betas, weight_decay=cfg.optim.weight_decay, fused=True
        )
        self.average = Average(self.network, cfg.train.ema_decay)
        self.progress = Progress()
        #: the commit that this process runs, asked for now: the checkout may change while it trains
        self.source = commit()
        self.phases_s: dict[str, float] = {}
        self.audio_s = 0.0
        self.interrupt = Interrupt()
        if found:
            self._load()
        elif cfg.features.normalization == "corpus" and cfg.train.init is None:
            self.data.fit_normalization()

    def run_to_end(self, watch: Watcher) -> Report:
        """The loop: epochs of steps, a validation and a checkpoint at each epoch's end."""
        with self.run.recording(self.progress.step), self.interrupt:
            self.run.cut_metrics(self.progress.step, self.progress.epoch)
            self._say_hello()
            while not (self.progress.done or self.interrupt.asked):
                self._epoch(watch)
            self._checkpoint()
            self.run.write_dropped(self._dropped())
            plan = self.data.plan(max(0, self.progress.epoch - 1))
            padding = padding_fraction(plan, self.data.manifest)
            report = Report(
                self.run.path,
                self.progress,
                self.phases_s,
                self.audio_s,
                padding,
                dict(self.data.features_s),
                len(self._dropped()),
                self.interrupt.asked,
            )
            for line in report.lines():
                log.info("%s", line)
            if self.interrupt.asked:
                log.info("stopped; go on with: asr train --resume %s", self.run.path)
        return report

    def _epoch(self, watch: Watcher) -> None:
        p, cfg = self.progress, self.cfg.train
        plan = self.data.plan(p.epoch)
        saved_at = began = time.perf_counter()
        self.network.train()
        batches = self.data.batches(plan[p.batch :])
        while (batch := self._timed("data", lambda: next(batches, None))) is not None:
            lr = learning_rate(self.cfg.optim, (p.epoch + (p.batch + 1) / len(plan)) / cfg.epochs)
            loss_nats, grad_norm = self._step(batch, lr)
            p.batch, p.step = p.batch + 1, p.step + 1
            p.loss_sum_nats += loss_nats * len(batch.ids)
            p.loss_count += len(batch.ids)
            self.audio_s += batch.duration_s
            now = time.perf_counter()
            p.seconds, began = p.seconds + now - began, now
            self.run.add_metrics(
                kind="train", step=p.step, epoch=p.epoch + 1, loss_nats=round(loss_nats, 4), lr=lr,
                grad_norm=round(grad_norm, 4), audio_s=round(batch.duration_s, 2), seconds=round(p.seconds, 2),
            )  # fmt: skip
            at_epoch = p.epoch + p.batch / len(plan)
            watch({"epochs": cfg.epochs, "epoch": at_epoch, "loss": loss_nats, "audio_s": self.audio_s})
            if self.interrupt.asked or p.step == cfg.max_steps:
                break
            if now - saved_at > cfg.checkpoint_every_s:
                self._checkpoint()
                saved_at = time.perf_counter()
        batches.close()
        if self.interrupt.asked and p.batch < len(plan) and p.step != cfg.max_steps:
            return
        # Before the validation, so that nothing that goes wrong in it costs a step. It is not in this checkpoint: a run
        # resumed from it validates (again), with the same result.
        self._checkpoint()
        p.epoch_losses_nats.append(p.loss_sum_nats / max(1, p.loss_count))
        p.epoch, p.batch, p.loss_sum_nats, p.loss_count = p.epoch + 1, 0, 0.0, 0
        p.done = p.epoch == cfg.epochs or p.step == cfg.max_steps
        if p.epoch % cfg.validate_every_epochs == 0 or p.done:
            self._validate(learning_rate(self.cfg.optim, p.epoch / cfg.epochs), len(plan) * cfg.epochs, watch)
            if cfg.early_stop is not None and p.validations_since_best >= cfg.early_stop:
                log.info("stopping early: no better dev WER for %d validations", p.validations_since_best)
                p.done = True
        p.seconds += time.perf_counter() - began

    def _step(self, batch: Batch, lr: float) -> tuple[float, float]:
        """One update; (mean loss of the batch in nats an utterance, gradient norm before clipping)."""
        cfg = self.cfg
        # Dropout's masks depend on the step alone: nothing of the generator's past needs to be saved.
        torch.manual_seed(stable_seed(cfg.train.seed, "dropout", self.progress.step))
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        def forward() -> tuple[Tensor, Tensor]:
            with autocast(self.precision, self.device):
                log_probs_bsv, num_steps_b = self.network(
                    batch.features_btf.to(self.device), batch.num_frames_b.to(self.device)
                )
            return log_probs_bsv, num_steps_b

        log_probs_bsv, num_steps_b = self._timed("forward", forward)
        losses_b = self._timed(
            "loss",
            lambda: ctc_loss(
                log_probs_bsv, num_steps_b, batch.targets_bu.to(self.device), batch.num_targets_b.to(self.device)
            ),
        )
        loss = losses_b.mean()
        self._timed("backward", loss.backward)
        return loss.item(), self._timed("optimizer", lambda: self._update(batch, losses_b, lr))

    def _update(self, batch: Batch, losses_b: Tensor, lr: float) -> float:
        clip = self.cfg.optim.clip_norm or math.inf
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip, foreach=True))
        if not math.isfinite(grad_norm):
            bad = [id_ for id_, one in zip(batch.ids, losses_b.tolist(), strict=True) if not math.isfinite(one)]
            names = ", ".join(bad or batch.ids)
            raise TrainingError(
                f"step {self.progress.step + 1}: {'the loss' if bad else 'the gradient'} is not finite "
                f"at learning rate {lr:.2e}, utterances {names}; the checkpoints before are whole: "
                "lower optim.lr, or look at these files"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.progress.step)
        return grad_norm

    def _validate(self, lr: float, total_steps: int, watch: Watcher) -> None:
        p = self.progress
        with self.average.in_place():
            found: Validation = self._timed("validate", self.dev.validate)
            p.best = sorted([*p.best, (found.wer, found.cer, p.epoch)])
            p.validations_since_best = 0 if p.best[0][2] == p.epoch else p.validations_since_best + 1
            self._report(found, lr, total_steps)
            watch({"epochs": self.cfg.train.epochs, "epoch": float(p.epoch), "wer": found.wer, "audio_s": self.audio_s})
            self._save(lambda: self._keep_best(found.score))

    def _report(self, found: Validation, lr: float, total_steps: int) -> None:
        p = self.progress
        now, loss_nats = found.health, p.epoch_losses_nats[-1]
        sample = min(found.score.per_utterance, key=lambda u: stable_seed("sample", u.id))
        log.info(
            "epoch %d: loss %.3f nats, dev WER %.2f %% CER %.2f %%, blank %.0f %%, emitted/reference %.2f%s",
            p.epoch, loss_nats, 100 * found.wer, 100 * found.cer, 100 * now.blank_fraction, now.emitted_ratio,
            " (best)" if p.validations_since_best == 0 else "",
        )  # fmt: skip
        log.info("  %s: '%s' for '%s'", sample.id, sample.hypothesis, sample.reference)
        warning = diagnosis(
            now, step=p.step, total_steps=total_steps, lr=lr, losses_nats=p.epoch_losses_nats,
            lost_case=self.dev.lost_case,
        )  # fmt: skip
        if warning:
            log.warning("%s", warning)
        self.run.add_metrics(
            kind="valid", step=p.step, epoch=p.epoch, loss_nats=round(loss_nats, 4), wer=found.wer, cer=found.cer,
            blank_fraction=round(now.blank_fraction, 4), emitted_ratio=round(now.emitted_ratio, 4),
            seconds=round(p.seconds, 2),
        )  # fmt: skip

    def _keep_best(self, result: Score) -> None:
        """Saves this epoch's model where it is among the best, and removes the one it pushes out."""
        p, keep = self.progress, self.cfg.train.keep_best
        kept, gone = p.best[:keep], p.best[keep:]
        p.best = kept
        if all(row[2] != p.epoch for row in kept):
            return
        hours = sum(self.data.manifest.utterances[i].duration_s for i in self.data.kept) / 3600
        self.model.training.update(
            epoch=p.epoch, step=p.step, seed=self.cfg.train.seed, train_hours=round(hours, 3),
            longest_s=max(self.data.manifest.utterances[i].duration_s for i in self.data.kept),
            precision=self.precision, dropped=len(self._dropped()), seconds=round(p.seconds, 1),
            hardware=hardware(self.device, self.threads), **self.source,
        )  # fmt: skip
        results = {"dev": {"wer": result.wer.to_json(), "cer": result.cer.to_json(), "utterances": result.utterances}}
        tensors = model_tensors(self.model)
        if keep > 1:
            save_model(self.run.checkpoints / f"best-epoch-{p.epoch:04d}", self.model, tensors, results)
            for _, _, epoch in gone:
                shutil.rmtree(self.run.checkpoints / f"best-epoch-{epoch:04d}", ignore_errors=True)
        if kept[0][2] == p.epoch:
            save_model(self.run.best, self.model, tensors, results)

    def _checkpoint(self) -> None:
        def save() -> None:
            tensors = {f"model.{k}": v for k, v in model_tensors(self.model).items()}
            for i, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{k}": v.detach().cpu() for k, v in values.items()}
            tensors |= {f"average.{k}": v.detach().cpu() for k, v in self.average.tensors.items()}
            save_state(self.run.checkpoints, self.progress.step, tensors, vars(self.progress))

        self._save(save)

    def _save(self, work: Callable[[], None]) -> None:
        try:
            self._timed("save", work)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; then: asr train --resume {self.run.path}") from error

    def _load(self) -> None:
        saved, skipped = load_state(self.run.checkpoints)
        for line in skipped:
            log.warning("skipped a damaged checkpoint: %s", line)
        by_prefix: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
        for name, tensor in saved.tensors.items():
            prefix, _, rest = name.partition(".")
            if prefix not in by_prefix:
                raise CheckpointError(f"holds a tensor '{name}' that no run of this version writes", saved.path)
            by_prefix[prefix][rest] = tensor
        expected = self._state_names(saved.state.get("step", 0)) if isinstance(saved.state, dict) else set()
        wrong = expected.symmetric_difference(n for n in saved.tensors if not n.startswith("model."))
        if wrong:
            raise CheckpointError(
                f"its tensors do not fit config.yaml ('{min(wrong)}'): was the config changed after the run began?",
                saved.path,
            )
        set_model_tensors(self.model, by_prefix["model"], saved.path)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in by_prefix["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.average.load(by_prefix["average"])
        try:
            self.progress = Progress(**{**saved.state, "best": [tuple(row) for row in saved.state["best"]]})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"not the progress of a run ({error})", saved.path / "state.json") from error

    def _state_names(self, step: int) -> set[str]:
        """Names of the tensors, beside the model's, that a checkpoint at a step holds."""
        names = {f"average.{k}" for k in self.average.tensors}
        if step:
            count = sum(1 for _ in self.network.parameters())
            names |= {f"optimizer.{i}.{k}" for i in range(count) for k in ("step", "exp_avg", "exp_avg_sq")}
        return names

    def _dropped(self) -> list[Dropped]:
        return [*self.data.dropped, *self.data.late]

    def _say_hello(self) -> None:
        p = self.progress
        self.run.write_environment(environment(self.device, self.precision, self.threads))
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
            log.info("this run is complete: nothing left to train")
        elif p.step:
            log.info("resuming after step %d (epoch %d, batch %d)", p.step, p.epoch + 1, p.batch)

    def _timed(self, phase: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.phases_s[phase] = self.phases_s.get(phase, 0.0) + time.perf_counter() - began
