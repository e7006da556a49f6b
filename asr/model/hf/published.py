"""``hf:FOLDER_OR_NAME[#language]`` as a kind of MODEL: the functions that ``asr.model.published`` asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from asr.decode.tuned import Tuned
from asr.model.contract import AcousticModel
from asr.model.hf import language_model
from asr.model.hf import load as networks
from asr.model.hf.card import read_card
from asr.model.hf.folder import locate
from asr.model.hf.load import HfDescription
from asr.model.hf.names import parse
from asr.model.hf.names import settings_folder as settings_folder
from asr.model.hf.start import load_to_train as load_to_train
from asr.model.hf.start import start_stages as start_stages


def describe(model: str | Path) -> HfDescription:
    """Describe a model; of its weights only names and shapes are read.

    Raises:
        CheckpointError: a file is missing, damaged or refused, or the model does not write text with CTC.
        AsrError: it cannot be fetched.
    """
    known = networks.describe(model)
    made = known.training | read_card(known.folder)
    if known.language:
        made["language"] = known.language
    return replace(known, training=made)


def load(model: str | Path, device: torch.device | str = "cpu") -> AcousticModel:
    """Load a model in evaluation mode; fetch it if it is not here.

    Raises:
        CheckpointError: as ``describe``; or the weights are not those of the network that is described.
        AsrError: it cannot be fetched.
    """
    known = describe(model)
    network = networks.load_network(known).to(device)
    return AcousticModel(network, known.extractor, known.tokenizer, known.audio, known.text, known.training)


def parts(model: str | Path) -> list[tuple[str, str, int]]:
    """List (part, shape, parameters) of a model's network in order, for people."""
    return networks.parts(describe(model))


def shipped_settings(model: str | Path) -> Tuned | None:
    """Return the decoder settings of the n-gram model in the model's folder; None: there is none that can be used.

    Raises:
        CheckpointError: ``attrs.json`` is damaged.
    """
    return language_model.shipped_settings(locate(parse(model)))
