"""Training of a neural language model by truncated back-propagation through time; a stopped one goes on exactly.

All randomness follows from (seed, epoch) and (seed, step), so nothing of a generator's past is saved; what is saved
beside weights and optimiser is the state of every stream.

Axes: t steps of a window, b streams, s numbers of a state, v vocabulary.

Source: Williams & Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
Trajectories" (truncation); Mikolov et al. 2010.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from pydantic import Field
from torch import Tensor

from asr.config import OptimConfig, Stage, parse
from asr.data.tokenizer import FILE as TOKENIZER
from asr.errors import CheckpointError, ConfigError, DataError, TrainingError, nearest, os_reason
from asr.files import held, open_atomic, write_json
from asr.lm.neural.folder import save_rnn, set_tensors, tensors_of
from asr.lm.neural.network import RnnConfig, RnnModel, RnnNetwork, bits
from asr.lm.neural.text import NO_TARGET, Corpus, Reading, Streams
from asr.model.checkpoint import has_state, load_state, save_state
from asr.model.tensor_files import read_json
from asr.runtime import (
    Interrupt,
    autocast,
    commit,
    find_device,
    find_precision,
    generator,
    hardware,
    keep_freed_memory,
    stable_seed,
    use_threads,
)
from asr.training.optim import learning_rate

log = logging.getLogger(__name__)

#: windows an epoch, at least: with a small text, fewer streams are trained side by side
_LEAST_WINDOWS = 100
_LOG_EVERY = 100


class RnnTrainConfig(Stage):
    """How the network is trained."""

    epochs: int = Field(20, ge=1)
    seed: int = Field(1, ge=0, lt=2**31)
    #: steps after which back-propagation is cut; the state goes on
    window: int = Field(64, ge=1, le=4096)
    #: streams trained side by side; null: 64, or fewer so that an epoch of a small text has 100 updates
    streams: int | None = Field(None, ge=1, le=4096)
    lr: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    #: share of all updates over which the rate rises from 0; after it, a cosine to 0
    warmup_fraction: float = Field(0.03, ge=0, le=1)
    #: gradients are scaled down to this norm; 0 switches clipping off
    clip_norm: float = Field(1.0, ge=0)
    #: the share of sentences that are not trained on but measured on, chosen by their hashes
    held_out: float = Field(0.05, gt=0, lt=1)
    #: also measured after this many updates, in an epoch that has more
    validate_every: int = Field(5000, ge=1)
    #: stop when the held-out sentences have not become more probable for this many measurements
    early_stop: int = Field(3, ge=1)
    #: bf16: autocast with the loss in float32; auto: bf16 where the machine multiplies it natively
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    #: CPU threads; null: one a core
    threads: int | None = Field(None, ge=1)
    #: a checkpoint at least this often
    checkpoint_every_s: float = Field(300.0, gt=0)


@dataclass
class Progress:
    """Where a training is."""

    epoch: int = 0
    #: windows of this epoch already trained on
    window: int = 0
    step: int = 0
    loss_sum_nats: float = 0.0
    loss_count: int = 0
    #: bits a character of the held-out sentences, at its best, and after which step that was
    best_bits: float | None = None
    best_step: int = 0
    measured: int = 0
    since_best: int = 0
    seconds: float = 0.0
    done: bool = False


@dataclass(frozen=True)
class Report:
    """What a training came to."""

    folder: Path
    progress: Progress
    parameters: int
    interrupted: bool
    facts: dict[str, Any] = field(default_factory=dict)


#: called after every update with what a progress bar shows
Watcher = Callable[[dict[str, float]], None]


def configs(settings: Sequence[str], **values: Any) -> tuple[RnnConfig, RnnTrainConfig]:
    """Both configs, from ``key=value`` settings on top of values by name; None: not given.

    >>> configs(["lr=1e-3", "cell=gru"], hidden=64)[0].hidden
    64

    Raises:
        ConfigError: no ``=``, an unknown key, or a value that does not fit.
    """
    given = {key: value for key, value in values.items() if value is not None}
    for item in settings:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: expected key=value, for example lr=0.001")
        try:
            value = yaml.safe_load(text)
            # YAML 1.1 reads 3e-4 as a text
            given[key.strip()] = float(value) if isinstance(value, str) and value[:1].isdigit() else value
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--set {item}: the value cannot be read", key=key) from error
    kinds = RnnConfig, RnnTrainConfig
    known = [key for kind in kinds for key in kind.model_fields]
    for key in given:
        if key not in known:
            hint = nearest(key, known) or f" (known: {', '.join(known)})"
            raise ConfigError(f"--set {key}: unknown key{hint}", key=key)
    network, training = ({k: v for k, v in given.items() if k in kind.model_fields} for kind in kinds)
    return parse(RnnConfig, network, "language model"), parse(RnnTrainConfig, training, "language model")


def train(
    reading: Reading, cfg: RnnConfig, how: RnnTrainConfig, out: Path, watch: Watcher = lambda values: None
) -> Report:
    """Trains in the folder ``out``, whose ``best`` is the model; where the same training was stopped, goes on exactly.

    Raises:
        ConfigError: the folder holds another training, or something else.
        DataError: it holds a training on another text.
        TrainingError: the loss is not finite.
        CheckpointError: something cannot be written or read.
    """
    trainer = Trainer(reading, cfg, how, out)
    return trainer.run_to_end(watch)


class Trainer:
    """One training: network, optimiser, streams, progress."""

    def __init__(self, reading: Reading, cfg: RnnConfig, how: RnnTrainConfig, out: Path) -> None:
        self.reading, self.how, self.out = reading, how, out
        self.device = find_device(how.device)
        self.precision = find_precision(how.precision, self.device)
        self.threads = use_threads(how.threads)
        keep_freed_memory()
        known = _open(out, reading, cfg, how)
        torch.manual_seed(stable_seed(how.seed, "init"))
        self.network = RnnNetwork(cfg, reading.tokenizer.vocabulary_size).to(self.device)
        self.model = RnnModel(self.network, reading.tokenizer)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), how.lr, (0.9, 0.99), weight_decay=how.weight_decay, fused=True
        )
        tokens = len(reading.train.tokens) + 2 * len(reading.train)
        self.num_streams = how.streams or max(1, min(64, tokens // (_LEAST_WINDOWS * how.window)))
        self.num_streams = min(self.num_streams, len(reading.train))
        self.schedule = OptimConfig(lr=how.lr, warmup_fraction=how.warmup_fraction, decay="cosine")
        self.progress = Progress()
        #: after the last window; every stream of an epoch begins with a reset, so that they end with it
        self.states_bs = torch.zeros(self.num_streams, self.network.state_size, device=self.device)
        self.interrupt = Interrupt()
        self.source = commit()
        if known and has_state(out / "checkpoints"):
            self._load()

    def run_to_end(self, watch: Watcher) -> Report:
        """Trains until it is over, or until it is asked to stop.

        Raises:
            ConfigError: another process is training this model.
        """
        p = self.progress
        busy = f"{self.out}: another process is training this model; stop it first"
        with held(self.out / "training.json", busy), self.interrupt:
            self._cut_metrics()
            self._say_hello()
            while not (p.done or self.interrupt.asked):
                self._epoch(watch)
            self._checkpoint()
        if self.interrupt.asked and not p.done:
            log.info("stopped; the same command goes on from here")
        elif p.best_bits is not None:
            log.info("best: %.4f bits a character, after update %d: %s", p.best_bits, p.best_step, self.out / "best")
        return Report(self.out, p, self.model.num_parameters, self.interrupt.asked and not p.done, self._facts())

    def _epoch(self, watch: Watcher) -> None:
        p, how = self.progress, self.how
        order_n = generator(how.seed, "order", p.epoch).permutation(len(self.reading.train))
        streams = Streams(self.reading.train, self.network.vocabulary_size, self.num_streams, how.window, order_n)
        # characters a token, to say bits a character while training on tokens
        ratio = self.reading.train.characters / (len(self.reading.train.tokens) + len(self.reading.train))
        saved_at = began = time.perf_counter()
        self.network.train()
        while p.window < len(streams):
            before, after = ((p.epoch + done / len(streams)) / how.epochs for done in (p.window, p.window + 1))
            lr = learning_rate(self.schedule, before, after)
            loss, count, norm = self.update(*streams[p.window], lr, len(streams))
            p.window, p.step = p.window + 1, p.step + 1
            p.loss_sum_nats, p.loss_count = p.loss_sum_nats + loss, p.loss_count + count
            now = time.perf_counter()
            p.seconds, began = p.seconds + now - began, now
            bits_now = loss / max(count, 1) / math.log(2) / ratio
            if p.step % _LOG_EVERY == 0:
                self._add_metrics(kind="train", step=p.step, epoch=p.epoch + 1, bits=round(bits_now, 4),
                                  grad_norm=round(norm, 4), seconds=round(p.seconds, 2))  # fmt: skip
            watch({"epochs": how.epochs, "epoch": p.epoch + p.window / len(streams), "bits": bits_now,
                   "tokens": float(count), "held_out": p.best_bits or math.nan})  # fmt: skip
            if p.step % how.validate_every == 0 and p.window < len(streams):
                self._validate(ratio)
                if p.done:
                    return
            # After the measurement, which a training that goes on from here would not make.
            if self.interrupt.asked and p.window < len(streams):
                return
            if now - saved_at > how.checkpoint_every_s:
                self._checkpoint()
                saved_at = time.perf_counter()
        p.epoch, p.window = p.epoch + 1, 0
        p.done = p.epoch == how.epochs
        self._validate(ratio)
        p.seconds += time.perf_counter() - began
        self._checkpoint()

    def update(self, inputs_tb: Any, targets_tb: Any, lr: float, windows: int = 1) -> tuple[float, int, float]:
        """One update on a window: its loss in nats, its targets, and the gradient's norm before clipping."""
        # Dropout's masks depend on the step alone: nothing of the generator's past needs to be saved.
        torch.manual_seed(stable_seed(self.how.seed, "dropout", self.progress.step))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, count, self.states_bs = window_loss(self.network, inputs_tb, targets_tb, self.states_bs, self.precision)
        if not count:  # nothing but resets: the streams' tail
            return 0.0, 0, 0.0
        # over the whole window, so that one with few targets, at the streams' end, counts as little as it has
        (loss / targets_tb.size).backward()
        clip = self.how.clip_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip, foreach=True))
        if not math.isfinite(norm):
            raise TrainingError(
                f"update {self.progress.step + 1}: the gradient is not finite at learning rate {lr:.2e}; "
                "the model saved before is whole: lower lr (--set lr=0.001)"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach()), count, norm

    def _validate(self, ratio: float) -> None:
        p = self.progress
        self.network.eval()
        self.model.forget_tables()
        measured = held_out_bits(self.model, self.reading.held_out)
        self.network.train()
        if not math.isfinite(measured):
            lr = self.optimizer.param_groups[0]["lr"]
            raise TrainingError(
                f"update {p.step}: the held-out text has no finite probability at learning rate {lr:.2e}; "
                "the model saved before is whole: lower lr (--set lr=0.001)"
            )
        p.measured += 1
        better = p.best_bits is None or measured < p.best_bits
        p.since_best = 0 if better else p.since_best + 1
        trained = p.loss_sum_nats / max(p.loss_count, 1) / math.log(2) / ratio
        p.loss_sum_nats, p.loss_count = 0.0, 0
        log.info("epoch %d, update %d: %.4f bits a character in training, %.4f held out%s",
                 p.epoch + bool(p.window), p.step, trained, measured, " (best)" if better else "")  # fmt: skip
        self._add_metrics(kind="valid", step=p.step, epoch=p.epoch + bool(p.window), bits=round(trained, 4),
                          held_out_bits=measured, seconds=round(p.seconds, 2))  # fmt: skip
        if better:
            p.best_bits, p.best_step = measured, p.step
            save_rnn(self.out / "best", self.network, self.reading.tokenizer, self._facts())
        if p.since_best >= self.how.early_stop and not p.done:
            log.info("stopping early: the held-out text has not become more probable for %d measurements", p.since_best)
            p.done = True

    def _facts(self) -> dict[str, Any]:
        p, reading = self.progress, self.reading
        return {
            "epoch": p.epoch, "step": p.step, "seed": self.how.seed, "sentences": len(reading.train),
            "characters": reading.train.characters, "left_out": reading.left_out,
            "held_out_sentences": len(reading.held_out), "held_out_share": self.how.held_out,
            "held_out_bits_per_character": p.best_bits, "precision": self.precision, "seconds": round(p.seconds, 1),
            "hardware": hardware(self.device, self.threads), **self.source,
        }  # fmt: skip

    def _checkpoint(self) -> None:
        tensors = {f"model.{k}": v for k, v in tensors_of(self.network).items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v.detach().cpu() for k, v in values.items()}
        tensors["states"] = self.states_bs.cpu()
        save_state(self.out / "checkpoints", self.progress.step, tensors, vars(self.progress))

    def _load(self) -> None:
        saved, skipped = load_state(self.out / "checkpoints")
        for line in skipped:
            log.warning("skipped a damaged checkpoint: %s", line)
        by_prefix: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "states": {}}
        try:
            for name, tensor in saved.tensors.items():
                prefix, _, rest = name.partition(".")
                by_prefix[prefix][rest] = tensor
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in by_prefix["optimizer"].items():
                index, _, key = name.partition(".")
                state.setdefault(int(index), {})[key] = tensor
            self.progress = Progress(**saved.state)
            set_tensors(self.network, by_prefix["model"], saved.path)
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.states_bs = by_prefix["states"][""].to(self.device)
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"not a checkpoint of this training ({error})", saved.path) from error

    def _say_hello(self) -> None:
        p, reading = self.progress, self.reading
        log.info(
            "%s parameters, %d tokens (%s), %s sentences of %s characters, %s held out; %d streams, %s, %s, %d threads",
            f"{self.model.num_parameters:,}", reading.tokenizer.vocabulary_size, reading.tokenizer.kind,
            f"{len(reading.train):,}", f"{reading.train.characters:,}", f"{len(reading.held_out):,}",
            self.num_streams, self.device, self.precision, self.threads,
        )  # fmt: skip
        if reading.left_out:
            shown = ", ".join(f"{c!r} in {n:,}" for c, n in reading.unknown.most_common(5))
            log.warning("left out %s sentences with characters that the tokenizer does not know: %s%s",
                        f"{reading.left_out:,}", shown, ", …" if len(reading.unknown) > 5 else "")  # fmt: skip
        if p.done:
            log.info("this training is complete: nothing left to do")
        elif p.step:
            log.info("going on after update %d (epoch %d)", p.step, p.epoch + 1)

    def _add_metrics(self, **values: Any) -> None:
        path = self.out / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise CheckpointError(f"cannot write: {os_reason(error)}", path) from error

    def _cut_metrics(self) -> None:
        """Removes metrics of what a resumed training will do again."""
        path = self.out / "metrics.jsonl"
        if not path.exists():
            return
        kept, measured = [], 0
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                measured += row["kind"] == "valid"
                if row["step"] > self.progress.step or measured > self.progress.measured:
                    break
            except (ValueError, KeyError, TypeError):
                break  # a line cut short by a kill
            kept.append(line + "\n")
        with open_atomic(path) as file:
            file.writelines(kept)


def window_loss(
    network: RnnNetwork, inputs_tb: Any, targets_tb: Any, states_bs: Tensor, precision: str
) -> tuple[Tensor, int, Tensor]:
    """The loss summed over a window in nats, how many targets it has, and the states after it, cut off from it.

    Shapes: (t, b), (t, b), (b, s).
    """
    device = states_bs.device
    inputs, targets = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (inputs_tb, targets_tb))
    with autocast(precision, device):
        logits_tbv, after_bs = network(inputs, states_bs)
    loss = F.cross_entropy(logits_tbv.float().flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
    return loss, int((targets_tb != NO_TARGET).sum()), after_bs.detach()


def held_out_bits(model: RnnModel, corpus: Corpus) -> float:
    """Bits a character of sentences, each scored by itself as in use."""
    total = float(model.score([corpus.sentence(n) for n in range(len(corpus))]).sum())
    return bits(total, corpus.characters)


def _open(out: Path, reading: Reading, cfg: RnnConfig, how: RnnTrainConfig) -> bool:
    """Whether the folder holds this very training; if it holds none, its record is written.

    Raises:
        ConfigError, DataError: it holds another one, or another thing.
    """
    path = out / "training.json"
    elsewise = {"device", "threads", "checkpoint_every_s"}  # how it is computed, not what
    settings = cfg.model_dump(mode="json") | how.model_dump(mode="json", exclude=elsewise)
    record = {"format_version": 1, "text_sha256": reading.sha256, "settings": settings}
    elsewhere = "choose another --out, or remove this folder"
    if path.exists():
        before = read_json(path)
        try:
            changed = [key for key, value in settings.items() if before["settings"][key] != value]
            text = before["text_sha256"]
            same_tokens = read_json(out / TOKENIZER) == reading.tokenizer.to_json()
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"not the record of a training; {elsewhere}", path) from error
        if changed:
            key = changed[0]
            was = before["settings"][key]
            raise ConfigError(
                f"{out} holds a training with {key} {was}, now it is {settings[key]}; {elsewhere}", key=key
            )
        if text != reading.sha256 or not same_tokens:
            what = "text" if text != reading.sha256 else "tokenizer"
            raise DataError(f"{out} holds a training on another {what}, which this would not continue; {elsewhere}")
        return True
    if out.is_file() or (out.is_dir() and not _is_unbegun(out)):
        raise ConfigError(f"{out} holds something else; {elsewhere}")
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_json(out / TOKENIZER, reading.tokenizer.to_json())
        write_json(path, record)
    except OSError as error:
        raise CheckpointError(f"cannot write: {os_reason(error)}", out) from error
    return False


def _is_unbegun(out: Path) -> bool:
    """Whether a folder is empty, or as a kill leaves it before the record of the training is written."""
    names = {path.name for path in out.iterdir()}
    return not names or (
        "checkpoints" in names and names <= {"checkpoints", TOKENIZER} and not any((out / "checkpoints").iterdir())
    )
