"""Training steps outside of a run, of which nothing is kept: for the learning-rate finder and ``asr bench``."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path

from asr.batch import Batch
from asr.config import RunConfig
from asr.data.manifest import read_split
from asr.runtime import use_machine
from asr.training.distributed import ProcessGroup
from asr.training.gradients import Timed
from asr.training.learner import build_learner, build_model_and_data, resolve
from asr.training.optim import dropout
from asr.training.step import Learner


def build_trial(cfg: RunConfig, data: Path, timed: Timed = nullcontext) -> Learner:
    """Build a new model and what trains it on the training set of a folder.

    Raises:
        ConfigError, DataError: as training does.
    """
    group = ProcessGroup()
    machine = use_machine(cfg.train.device, cfg.train.precision, cfg.train.threads)
    train_set = read_split(data, "train")
    cfg, tokenizer = resolve(cfg, data, train_set)
    model, training_data = build_model_and_data(cfg, train_set, tokenizer, group)
    learner = build_learner(model, training_data, machine, group, timed=timed)
    model.network.train()
    if cfg.train.dropout_schedule:  # as at the end of the warm-up, where the learning rate is highest
        model.network.set_dropout(dropout(cfg.train.dropout_schedule, cfg.optim.warmup_fraction))
    return learner


def endless_batches(learner: Learner) -> Generator[list[Batch], None, None]:
    """Yield the batches of each step, in the order of a run from its second epoch on. Close it: it runs threads."""
    epoch = 1  # the first one, 0, may be sorted by duration
    while True:
        with closing(learner.data.batches(learner.data.plan(epoch))) as batches:
            while step_batches := list(islice(batches, learner.cfg.train.accumulate)):
                yield step_batches
        epoch += 1
