"""Build a learner: a model, its training data and its optimiser, from a config and a data folder."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from asr.config import RunConfig, override
from asr.data import prepared as headers
from asr.data.manifest import Manifest
from asr.data.text import normalize
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.model.checkpoint import TrainableModel, build_model, model_tensors, set_model_tensors
from asr.model.hf.names import whole_name
from asr.model.start import resolve_start, start_tokenizer
from asr.runtime import Machine, stable_seed
from asr.training.data import TrainingData
from asr.training.distributed import ProcessGroup
from asr.training.freezing import Freezing
from asr.training.gradients import Timed
from asr.training.optim import MovingAverage, PullToStart, build_optimizer
from asr.training.planner import MemoryPlanner, resolve_max_batch_s
from asr.training.pretrained import start_from
from asr.training.step import Learner

log = logging.getLogger(__name__)


def resolve(cfg: RunConfig, folder: Path, train: Manifest) -> tuple[RunConfig, Tokenizer | None]:
    """Look up what the config leaves to others: the data folder's text and tokenizer, the network of ``train.init``."""
    cfg = resolve_start(cfg)
    header = headers.read(folder)
    profile = headers.resolve_normalization(cfg.text.normalization, header)
    texts = (normalize(u.text, profile) for u in train)
    tokenizer = headers.tokenizer_for(cfg.text.tokenizer, folder, header, cfg.train.init, texts, start_tokenizer)
    return override(_with_whole_names(cfg), [f"text.normalization={profile}"]), tokenizer


def _with_whole_names(cfg: RunConfig) -> RunConfig:
    """Return a config that means the same in any working folder, as that of a model must."""
    if cfg.features.hf is None:
        return cfg
    return cfg.model_copy(update={"features": cfg.features.model_copy(update={"hf": whole_name(cfg.features.hf)})})


def build_model_and_data(
    cfg: RunConfig, train: Manifest, tokenizer: Tokenizer | None, group: ProcessGroup
) -> tuple[TrainableModel, TrainingData]:
    """Build a model with random weights, and the training data for its features and tokens."""
    if tokenizer is None:
        tokenizer = CharTokenizer.from_texts(normalize(u.text, cfg.text.normalization) for u in train)
    torch.manual_seed(stable_seed(cfg.train.seed, "init"))
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
    data = TrainingData(train, tokenizer, model.extractor, model.network, cfg, group.rank, group.size)
    return model, data


def build_learner(
    model: TrainableModel,
    data: TrainingData,
    machine: Machine,
    group: ProcessGroup,
    *,
    timed: Timed = nullcontext,
    run: Path | None = None,
    has_checkpoint: bool = False,
) -> Learner:
    """Build a learner; every process of the group calls this.

    Args:
        run: folder of the run, if there is one.
        has_checkpoint: a checkpoint will replace the weights and statistics, so none are made.

    Raises:
        AsrError: the config cannot be trained; the same error in all processes.
    """
    cfg, network = data.cfg, model.network
    model.extractor.use_device(machine.device)
    if not has_checkpoint:
        tensors = group.from_first(lambda: _first_tensors(model, data))
        if not group.is_first:
            set_model_tensors(model, tensors, data.manifest.path)

    network.to(machine.device)
    data.load_for(machine.device, group.local_size)
    freezing = Freezing(network, cfg.train.freeze)
    freezing.apply(math.inf)  # memory is planned for all that is ever trained
    optimizer = build_optimizer(network, cfg.optim)
    if cfg.optim.decay_towards == "start" and cfg.train.init is None:
        log.warning("optim.decay_towards is start, and train.init names no model: weights are pulled to random ones")
    start = PullToStart(network, optimizer, cfg.optim.weight_decay if cfg.optim.decay_towards == "start" else 0.0)
    average = MovingAverage(network, cfg.train.ema_decay)
    network.set_checkpointing(cfg.train.activation_checkpointing is True)
    planner = MemoryPlanner(network, data, machine, optimizer)
    if not has_checkpoint and cfg.batch.max_batch_s == "auto":
        data.max_batch_s = resolve_max_batch_s(planner, group)
        cfg = override(cfg, [f"batch.max_batch_s={data.max_batch_s}"])
    return Learner(cfg, model, data, machine, optimizer, average, freezing, start, planner, group, timed=timed, run=run)


def _first_tensors(model: TrainableModel, data: TrainingData) -> dict[str, Tensor]:
    """Make the weights and feature statistics that a run begins with."""
    if data.cfg.train.init is not None:
        log.info("%s", start_from(model, Path(data.cfg.train.init)))
    elif data.cfg.features.normalization == "corpus":
        data.loader.fit_normalization(data.kept)
    return model_tensors(model)
