"""What a module offers that knows the published models of one kind, such as ``hf:NAME``.

Axes: b batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from asr.config import AudioConfig, TextConfig
from asr.data.tokenizer import Tokenizer
from asr.decode.tuned import Tuned
from asr.model.contract import AcousticModel, AnyExtractor
from asr.model.trainable import ModelStages, TrainableModel


class Description(Protocol):
    """Hold what is known of a published model without its weights."""

    @property
    def extractor(self) -> AnyExtractor: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def audio(self) -> AudioConfig: ...

    @property
    def text(self) -> TextConfig: ...

    @property
    def training(self) -> dict[str, Any]:
        """Return its making, as ``config.json`` of a model folder has it."""

    @property
    def stride(self) -> int:
        """Samples per step."""

    @property
    def num_steps(self) -> Callable[[Tensor], Tensor]:
        """Count the steps of utterances of so many samples. Shapes: (b,) -> (b,)."""


class Published(Protocol):
    """A module that knows the published models whose MODEL begins with one prefix."""

    def describe(self, model: str | Path) -> Description:
        """Describe a model; its weights are not needed."""

    def load(self, model: str | Path, device: torch.device | str) -> AcousticModel:
        """Load a model in evaluation mode, and fetch what is not here."""

    def start_stages(self, model: str | Path) -> ModelStages:
        """Return the config of a model's network as one of ours; a ConfigError if it cannot be trained here."""

    def load_to_train(self, model: str | Path) -> TrainableModel:
        """Load a model's network as one of ours."""

    def parts(self, model: str | Path) -> list[tuple[str, str, int]]:
        """List (part, shape, parameters) of a model's network in order, for people."""

    def settings_folder(self, model: str | Path) -> Path:
        """Return the folder of what was tuned for a model; it need not exist."""

    def shipped_settings(self, model: str | Path) -> Tuned | None:
        """Return the decoder settings that come with a model, if any do."""
