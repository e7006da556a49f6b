"""Checks of what a person runs: training, a kill and a resume, transcription, memory that runs out, language models.

Axes: t steps of a window, b streams.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from asr.batch import Batch
from asr.config import RunConfig
from asr.data.manifest import read_split
from asr.model.checkpoint import load_model
from asr.runtime import generator
from asr.scoring.wer import score
from asr.train import resume, train
from asr.training import step as training_step
from asr.training.step import Learner, PendingStep, StepResult
from asr.training.trial import build_trial
from asr.transcribe import Recognizer
from benchmarks.gpu.equality import recurrent_calls
from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.profiling import counting_waits, profile_steps
from benchmarks.gpu.small import small_config, some_batch, speech_folder
from benchmarks.gpu.speech import words


class Stepping:
    """Make steps on the same few batches, and read each result after the next step began, as training does."""

    def __init__(self, learner: Learner, batches: Sequence[Sequence[Batch]]) -> None:
        self.learner = learner
        self.batches = batches
        self.number = 0
        self._before: PendingStep | None = None

    def __call__(self) -> StepResult | None:
        """Make a step; return the result of the one before."""
        batches = self.batches[self.number % len(self.batches)]
        pending = self.learner.step(batches, self.number, self.learner.cfg.optim.lr)
        before, self._before = self._before, pending
        self.number += 1
        return None if before is None else before.result()

    def audio_s(self, steps: int) -> float:
        """Return the seconds of audio of the next steps."""
        places = [i % len(self.batches) for i in range(self.number, self.number + steps)]
        return sum(batch.duration_s for place in places for batch in self.batches[place])


def stepping(setting: Setting, cfg: RunConfig, folder: Path, batches: int = 3) -> Stepping:
    """Build a learner, and load a few batches of the second epoch."""
    learner = build_trial(cfg, folder)
    plan = learner.data.plan(1)
    size = cfg.train.accumulate
    groups = [plan[i * size : (i + 1) * size] for i in range(batches)]
    return Stepping(learner, [[learner.data.load(one) for one in group] for group in groups if group])


# --- waits ---

#: settings that add something to a step
_STEPS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "average, dropout": ("train.ema_decay=0.99", "model.dropout=0.1"),
    "two views, smoothing": ("train.consistency=0.2", "train.label_smoothing=0.1", "augment.spec.time_masks=2"),
    "two batches, lstm": ("train.accumulate=2", "model.cell=lstm"),
    "tdnn": ("model.encoder=tdnn",),
}


def waits(setting: Setting, found: Findings) -> None:
    """Count how often a training step waits for the device: at most once, for the numbers of the step before."""
    folder = speech_folder(setting)
    for name, settings in _STEPS.items():
        cfg = small_config(setting, f"train.precision={setting.best_precision}", *settings)
        step = stepping(setting, cfg, folder)
        for _ in range(4):  # kernels are chosen and compiled, and memory found
            step()
        setting.synchronize()
        steps = 4
        with counting_waits(setting) as lines:
            for _ in range(steps):
                step()
        found.at_most(f"{name}: waits of a step that torch reports", sum(lines.values()) / steps, 1)
        if lines:
            found.note(f"{name}: lines", {line: count / steps for line, count in lines.most_common(12)})
        if setting.cuda and name == "plain":
            calls = profile_steps(setting, step).waits
            found.note(f"{name}: waiting calls of the runtime in a step", calls)
            waiting = calls.get("cudaStreamSynchronize", 0) + calls.get("cudaEventSynchronize", 0)
            found.at_most(f"{name}: waits of a step that the profiler sees", waiting, 1)


# --- training, kill and resume ---


class _Killed(Exception):
    pass


def train_and_resume(setting: Setting, found: Findings) -> None:
    """Train on the speech; then the same, killed in the middle of the third epoch and resumed."""
    folder = speech_folder(setting)
    epochs = 12
    cfg = small_config(setting, f"train.precision={setting.best_precision}", f"train.epochs={epochs}")
    whole, cut = setting.out / "run", setting.out / "cut"
    for run in (whole, cut):
        shutil.rmtree(run, ignore_errors=True)

    began = time.perf_counter()
    report = train(cfg, folder, whole)
    seconds = time.perf_counter() - began
    losses = report.progress.epoch_losses_nats
    found.note("losses by epoch", losses)
    found.note("audio-s/s, validation and checkpoints included", report.audio_s / seconds)
    found.at_most("last loss as a share of the first", losses[-1] / losses[0], 0.2)
    if setting.data is None:
        found.at_most("WER on the dev set", report.progress.best[0].wer, 0.7 if setting.quick else 0.25)
    else:
        found.note("WER on the dev set", report.progress.best[0].wer)

    steps_per_epoch = report.progress.step // epochs
    last = 3 * steps_per_epoch - steps_per_epoch // 2

    def kill(values: dict[str, float]) -> None:
        if values.get("step", 0) >= last:
            raise _Killed

    try:
        train(cfg, folder, cut, kill)
    except _Killed:
        again = resume(cut).progress
    found.holds("the resumed run makes as many steps", again.step == report.progress.step)
    apart = max(abs(a - b) / a for a, b in zip(losses, again.epoch_losses_nats, strict=True))
    found.note("losses by epoch, resumed against uninterrupted: largest relative difference", apart)
    found.holds("the resumed run ends with the same bits", _weights_alike(whole, cut))


def _weights_alike(first: Path, second: Path) -> bool:
    one, other = (load_model(run, "cpu").network.state_dict() for run in (first, second))
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- transcription ---


def transcribe(setting: Setting, found: Findings) -> None:
    """Compare the texts of the trained model on the device with those on the CPU, at each precision, and the speed."""
    model = setting.out / "run"
    if not (model / "best").is_dir():
        cfg = small_config(setting, f"train.precision={setting.best_precision}", "train.epochs=10")
        shutil.rmtree(model, ignore_errors=True)
        train(cfg, speech_folder(setting), model)
    test = read_split(speech_folder(setting), "test")
    rows = test.utterances[:200]
    files = [test.audio_path(row) for row in rows]
    expected = _texts(Recognizer.load(model, "cpu", decoder="greedy", precision="fp32"), files)
    found.note("WER on the CPU", _wer([row.text for row in rows], expected))

    times = 1 if setting.quick else max(1, 2000 // max(1, round(sum(row.duration_s for row in rows))))
    for precision in [*setting.precisions] if setting.cuda else ["fp32"]:
        recognizer = Recognizer.load(model, str(setting.device), decoder="greedy", precision=precision)
        texts = _texts(recognizer, files)
        changed = sum(a != b for a, b in zip(expected, texts, strict=True))
        # Two hypotheses of nearly the same probability may change places by rounding.
        most = 1 if precision == "fp32" else max(2, len(files) // 20)
        found.at_most(f"{precision}: texts of {len(files)} that differ from the CPU's", changed, most)
        began = time.perf_counter()
        _texts(recognizer, files * times)
        spent = time.perf_counter() - began
        found.note(f"{precision}: audio-s/s, reading included", times * sum(row.duration_s for row in rows) / spent)


def _texts(recognizer: Recognizer, files: Sequence[str | Path]) -> list[str]:
    return [one.text for one in recognizer.transcribe([str(file) for file in files])]


def _wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    rows = zip(map(str, range(len(references))), references, hypotheses, strict=True)
    rate = score(rows).wer.rate
    return math.nan if rate is None else rate


# --- memory that runs out ---


def out_of_memory(setting: Setting, found: Findings) -> None:
    """Allow less memory than a batch needs: it must be computed in halves, and training must go on.

    On a CPU, which has no such limit, the error is raised in its place.
    """
    cfg = small_config(setting, f"train.precision={setting.best_precision}", "model.layers=2")
    learner = build_trial(cfg, speech_folder(setting))
    vocabulary = learner.model.tokenizer.vocabulary_size
    size, seconds = (4, 0.5) if setting.quick else (64, 10.0)
    batch = some_batch(learner.model.extractor.num_bins, vocabulary, size, seconds)
    half = batch.rows(0, size // 2)
    for number in range(2):
        learner.step([half], number, 1e-4).result()

    before = learner.model.network.output.weight.detach().clone()
    with _less_memory(setting, learner, half, batch, found):
        for number in range(2, 4):
            result = learner.step([batch], number, 1e-4).result()
            found.holds(f"step {number}: the loss is finite", math.isfinite(result.loss_nats))
            found.holds(f"step {number}: all utterances are in it", result.utterances == size)
    found.at_most("too many frames, from now on", learner.too_many_frames, batch.area)
    found.holds("the weights have moved", not torch.equal(before, learner.model.network.output.weight))
    result = learner.step([half], 4, 1e-4).result()
    found.holds("with all memory again, training goes on", math.isfinite(result.loss_nats))


@contextmanager
def _less_memory(setting: Setting, learner: Learner, half: Batch, whole: Batch, found: Findings) -> Iterator[None]:
    """Allow more than half of a batch needs, and less than the whole one."""
    if not setting.cuda:
        real = training_step.gradients

        def failing(network: Any, batch: Batch, *args: Any, **options: Any) -> Any:
            if batch.area > half.area:
                raise torch.OutOfMemoryError("CUDA out of memory. (raised by this check)")
            return real(network, batch, *args, **options)

        with mock.patch.object(training_step, "gradients", failing):
            yield
        return

    needed = []
    for batch in (half, whole):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
        learner.step([batch], 1, 1e-4).result()
        needed.append(torch.cuda.max_memory_reserved(setting.device))
    # Of the whole batch without the holes that the allocator leaves: it closes them before it gives up.
    needed[1] = torch.cuda.max_memory_allocated(setting.device)
    torch.cuda.empty_cache()
    found.note("GiB for half of the batch, and for all of it", [size / 2**30 for size in needed])
    total = torch.cuda.mem_get_info(setting.device)[1]
    torch.cuda.set_per_process_memory_fraction(sum(needed) / 2 / total, setting.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setting.device)


# --- a neural language model ---


def language_model(setting: Setting, found: Findings) -> None:
    """Train a language model for some updates: the dtype of its kernels, waits, tokens per second."""
    from asr.lm.neural.config import read_config
    from asr.lm.neural.text import Streams, read
    from asr.lm.neural.train import RnnTrainer

    random = np.random.default_rng(1)
    reading = read([words(random) for _ in range(200 if setting.quick else 20_000)])
    hidden = 16 if setting.quick else 1024
    for cell in ("lstm", "gru"):
        precision = setting.best_precision
        cfg = read_config(
            [], cell=cell, layers=2, hidden=hidden, embed=hidden, device=str(setting.device), precision=precision
        )
        trainer = RnnTrainer(reading, cfg, setting.folder(f"lm-{cell}"))
        order_n = generator(1, "order").permutation(len(reading.train))
        streams = Streams(reading.train, trainer.network.vocabulary_size, trainer.num_streams, cfg.window, order_n)
        trainer.network.train()
        update = _Updating(trainer.learner, streams)

        with recurrent_calls() as seen:
            update()
        found.note(f"{cell}: kernels' dtypes", dict(seen))
        if setting.cuda:
            wrong = {"bf16": ": float16", "fp16": ": bfloat16", "fp32": "float16"}[precision]
            found.holds(f"{cell}: no kernel in another dtype", not any(wrong in text for text in seen))
        _measure_updates(setting, found, cell, update, trainer.num_streams * cfg.window)


class _Updating:
    """Make updates of a language model, and read each result after the next update began, as training does."""

    def __init__(self, learner: Any, streams: Any) -> None:
        self._learner = learner
        self._streams = streams
        self._number = 0
        self._before: Any = None

    def __call__(self) -> None:
        window = self._streams[self._number % len(self._streams)]
        pending = self._learner.update(*window, self._number, 1e-3)
        if self._before is not None:
            self._before.result()
        self._before = pending
        self._number += 1


def _measure_updates(setting: Setting, found: Findings, cell: str, update: Callable[[], Any], tokens: int) -> None:
    for _ in range(3):
        update()
    setting.synchronize()
    steps = 3 if setting.quick else 20
    with counting_waits(setting) as lines:
        for _ in range(4):
            update()
    found.at_most(f"{cell}: waits of an update", sum(lines.values()) / 4, 1)
    if lines:
        found.note(f"{cell}: lines", {line: count / 4 for line, count in lines.most_common(8)})
    setting.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        update()
    setting.synchronize()
    found.note(f"{cell}: tokens/s", steps * tokens / (time.perf_counter() - began))
