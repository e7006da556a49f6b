"""Find out what a model or a training config expects of the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.config import AudioConfig, FeatureConfig, ModelConfig, RunConfig, TextConfig
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.targets import min_steps
from asr.data.text import normalize
from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import read_tokenizer
from asr.doctor.examination import Expected
from asr.errors import CheckpointError, ConfigError
from asr.features.build import build_extractor
from asr.machine import needing_torch
from asr.model.folder import find_model, published, read_model_config
from asr.model.steps import steps_of


def of_model(path: Path) -> Expected:
    """Return what the model in a folder, or a published one, expects; its weights are not read.

    Raises:
        CheckpointError: not a model folder, or damaged.
        ConfigError: no published model has that name.
    """
    if (module := published(path)) is not None:
        import torch

        known = module.describe(path)

        def num_steps(num_samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            steps_b: npt.NDArray[np.int64] = known.num_steps(torch.from_numpy(num_samples)).numpy()
            return steps_b

        return Expected(known.audio, known.text.normalization, known.tokenizer, num_steps, min_steps, None)
    folder = find_model(path)
    config = read_model_config(folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    try:
        return _expected(config.audio, config.text, config.features, config.model, tokenizer, None)
    except ConfigError as error:
        raise CheckpointError(str(error), folder / "config.json") from error


def of_config(cfg: RunConfig, folder: Path) -> Expected:
    """Return what training with a config on a folder's manifests expects.

    The normalisation and the subwords that come with the data are looked up in the folder; without subwords the
    vocabulary is the characters of the training set.

    Raises:
        ConfigError: the config cannot be trained.
        CheckpointError, DataError: the folder's ``prepared.json`` or ``tokenizer.json`` is damaged.
    """
    with needing_torch("to check data for a config"):
        from asr.model.start import resolve_start, start_tokenizer

    header = headers.read(folder)
    profile = headers.resolve_normalization(cfg.text.normalization, header)
    text = cfg.text.model_copy(update={"normalization": profile})
    cfg = resolve_start(cfg)
    texts = _texts(folder, profile)
    tokenizer = headers.tokenizer_for(cfg.text.tokenizer, folder, header, cfg.train.init, texts, start_tokenizer)
    return _expected(cfg.audio, text, cfg.features, cfg.model, tokenizer, cfg.batch.max_utterance_s)


def _texts(folder: Path, profile: str) -> Iterator[str]:
    for utterance in manifests.read_split(folder, "train"):
        yield normalize(utterance.text, profile)


def _expected(
    audio: AudioConfig,
    text: TextConfig,
    features: FeatureConfig,
    model: ModelConfig,
    tokenizer: Tokenizer | None,
    longest_s: float | None,
) -> Expected:
    extractor = build_extractor(features, audio.sample_rate_hz)

    def num_steps(num_samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return steps_of(model, extractor.num_frames(num_samples))

    return Expected(audio, text.normalization, tokenizer, num_steps, min_steps, longest_s)
