"""A model of the Hugging Face hub as a MODEL: what it is, and its network with weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.config import AudioConfig, TextConfig
from asr.data.tokenizer import Tokenizer
from asr.errors import CheckpointError
from asr.model.hf.config import NORMALIZE_EPS, HfConfig, read_config
from asr.model.hf.folder import locate
from asr.model.hf.names import parse
from asr.model.hf.network import HfNetwork, plan
from asr.model.hf.vocabulary import HfVocabulary, read_vocabulary
from asr.model.hf.weights import read_file_tensors, read_weights
from asr.model.waves import WaveConfig, WaveExtractor, parts_of, unpadded_steps


@dataclass(frozen=True)
class HfDescription:
    """All that is known of a model without the values of its weights."""

    #: as it was given, with ``hf:``
    name: str
    folder: Path
    #: of a model that has one adapter for each
    language: str | None
    config: HfConfig
    vocabulary: HfVocabulary
    extractor: WaveExtractor
    audio: AudioConfig
    text: TextConfig
    #: its making, as ``config.json`` of a model folder has it
    training: dict[str, Any]
    #: samples per step
    stride: int
    num_steps: Callable[[Tensor], Tensor]

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokens of the network's outputs."""
        return self.vocabulary.tokenizer


def describe(model: str | Path) -> HfDescription:
    """Describe ``hf:FOLDER_OR_NAME[#language]``; of its weights, only the names and shapes are read.

    Raises:
        CheckpointError: a file is missing or damaged, or it is no model that writes text with CTC.
        AsrError: as ``locate``.
    """
    name = parse(model)
    folder = locate(name)
    config = read_config(folder)
    if config.shape is None:
        raise CheckpointError(f"needs transformers: {config.why_other}", folder)
    tensors, path = read_file_tensors(folder, config, name.language)
    head = tensors["lm_head.weight"]
    vocabulary = read_vocabulary(folder, len(head), name.language)
    layers = [(conv.kernel, conv.stride) for conv in config.shape.convs]
    stored = str(head.dtype).removeprefix("torch.")
    return HfDescription(
        name=str(model),
        folder=folder,
        language=name.language,
        config=config,
        vocabulary=vocabulary,
        extractor=WaveExtractor(WaveConfig(normalize=config.normalize, eps=NORMALIZE_EPS)),
        audio=AudioConfig(sample_rate_hz=config.sample_rate_hz),
        text=TextConfig(normalization=vocabulary.profile),
        training={
            "source": f"{config.architecture} in {path}",
            "weights": stored if stored == "float32" else f"{stored} in the file, float32 in use",
        },
        stride=math.prod(stride for _, stride in layers),
        num_steps=partial(unpadded_steps, layers),
    )


def load_network(known: HfDescription) -> HfNetwork:
    """Load the network of a model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the weights are damaged, or not those of the network that ``config.json`` describes.
    """
    tensors = read_weights(known.folder, known.config, known.language)
    model = plan(known.config, len(tensors["aux.weight"]))
    model.load_state_dict(tensors, assign=True)
    return HfNetwork(known.config, model, known.vocabulary.columns, known.vocabulary.silent).eval()


def parts(known: HfDescription) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of a model's network in order, for people."""
    tokens, silent = len(known.vocabulary.columns), len(known.vocabulary.silent)
    *rows, (output, _, parameters) = parts_of(plan(known.config, tokens + silent))
    shape = f"{tokens} tokens with the blank" + (f", {silent} outputs that write nothing" if silent else "")
    return [*rows, (output, shape, parameters)]
