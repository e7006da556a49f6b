"""Training steps outside of a run: the same as in one (``asr.training.step``), and nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from asr.batch import Batch
from asr.config import RunConfig
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.text import normalize
from asr.data.tokenizer import CharTokenizer
from asr.model.checkpoint import build_model
from asr.model.network import Network
from asr.runtime import find_device, find_precision, keep_freed_memory, stable_seed, use_threads
from asr.training.data import TrainingData
from asr.training.distributed import Group
from asr.training.optim import Average, dropout
from asr.training.planner import Planner, resolve_max_batch_s
from asr.training.pretrained import start_from
from asr.training.step import Done, Stepper, Timed


def _untimed(phase: str, work: Callable[[], Any]) -> Any:
    return work()


class Trial:
    """A new model on the training set of a folder; its batches in the order of a run's second epoch, and so on.

    Raises:
        ConfigError, DataError: as training does.
    """

    def __init__(self, cfg: RunConfig, data: Path, timed: Timed = _untimed) -> None:
        self.device = find_device(cfg.train.device)
        self.precision = find_precision(cfg.train.precision, self.device)
        self.threads = use_threads(cfg.train.threads)
        keep_freed_memory()
        train_set, header = manifests.read_split(data, "train"), headers.read(data)
        profile = headers.resolve_normalization(cfg.text.normalization, header)
        self.cfg = cfg = cfg.model_copy(update={"text": cfg.text.model_copy(update={"normalization": profile})})
        tokenizer = headers.tokenizer_for(cfg.text.tokenizer, data, header, cfg.train.init)
        tokenizer = tokenizer or CharTokenizer.from_texts([normalize(u.text, profile) for u in train_set])
        torch.manual_seed(stable_seed(cfg.train.seed, "init"))
        model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
        self.parameters = model.num_parameters
        self.network: Network = model.network
        self.data = TrainingData(train_set, tokenizer, model.extractor, self.network, cfg)
        if cfg.train.init is not None:
            start_from(model, Path(cfg.train.init))
        elif cfg.features.normalization == "corpus":
            self.data.views.fit_normalization(self.data.kept)
        self.network.to(self.device).train()
        optimizer = torch.optim.AdamW(
            self.network.parameters(), cfg.optim.lr, cfg.optim.betas, weight_decay=cfg.optim.weight_decay, fused=True
        )
        if cfg.batch.max_batch_s == "auto":
            planner = Planner(self.network, self.data, self.device, self.precision)
            self.data.max_batch_s = float(resolve_max_batch_s(planner, Group()))
        if cfg.train.dropout_schedule:  # as where the rate is at its highest
            self.network.set_dropout(dropout(cfg.train.dropout_schedule, cfg.optim.warmup_fraction))
        average = Average(self.network, cfg.train.ema_decay)
        self.stepper = Stepper(self.network, optimizer, average, cfg, self.device, self.precision, Group(), timed)
        #: steps that are done
        self.number = 0

    def step(self, batches: Sequence[Batch], lr: float) -> Done:
        """One update.

        Raises:
            TrainingError: the loss or the gradient is not finite.
        """
        done = self.stepper.step(batches, self.number, lr)
        self.number += 1
        return done

    def steps(self) -> Generator[list[Batch], None, None]:
        """The batches of each step, for ever. It is to be closed, as its loaders are threads."""
        epoch = 1  # the first, 0, may be in order of duration
        while True:
            with closing(self.data.batches(self.data.plan(epoch))) as batches:
                while some := list(islice(batches, self.cfg.train.accumulate)):
                    yield some
            epoch += 1
