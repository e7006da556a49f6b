"""wav2vec 2.0 and its kin as a network of ours: the body, and an output layer over our tokens.

Axes: b batch, t frames (samples here), s steps, h units, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from asr.config import ModelConfig
from asr.errors import ConfigError
from asr.model.trainable import TrainableNetwork
from asr.model.wav2vec2.body import Wav2Vec2Body


class Wav2Vec2Network(TrainableNetwork):
    """Samples to log-probabilities. Its weights are ``body.…``, by Hugging Face's names, and ``output.…``."""

    is_alone_on_cpu = True

    def __init__(self, cfg: ModelConfig, bins: int, vocabulary_size: int) -> None:
        """Build it with random weights.

        Raises:
            ConfigError: the config has no sizes for it; or it would not get samples.
        """
        super().__init__(cfg, bins, vocabulary_size)
        shape = cfg.wav2vec2.shape
        if shape is None:
            raise ConfigError(
                "model.wav2vec2.shape is missing: start from a model that has one (--init hf:FOLDER_OR_NAME)",
                key="model.wav2vec2.shape",
            )
        if bins != 1:
            raise ConfigError(
                f"encoder: wav2vec2 takes samples, got {bins} values per frame: set features.kind=wave",
                key="features.kind",
            )
        self.body = Wav2Vec2Body(shape, cfg.wav2vec2, cfg.dropout)
        self.output = nn.Linear(shape.hidden_size, vocabulary_size)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def set_dropout(self, p: float) -> None:
        self.body.dropout.p = p

    def set_checkpointing(self, on: bool) -> None:
        self.body.is_checkpointed = on

    @contextmanager
    def all_layers(self) -> Iterator[None]:
        encoder = self.body.encoder
        layer_drop, encoder.layer_drop = encoder.layer_drop, 0.0
        try:
            yield
        finally:
            encoder.layer_drop = layer_drop

    def part_rows(self) -> Iterator[tuple[str, str, int]]:
        return self.body.part_rows()

    def log_probs(self, features_btf: Tensor, num_frames_b: Tensor) -> tuple[Tensor, Tensor]:
        values_bsh, num_steps_b = self.body(features_btf[:, :, 0], num_frames_b)
        return self.answers(self.body.dropout(values_bsh)), num_steps_b

    def answers(self, values_bsh: Tensor) -> Tensor:
        """Return the log-probabilities for what the body gave. Shapes: (b, s, h) -> (b, s, v)."""
        logits_bsv: Tensor = self.output(values_bsh)
        return logits_bsv.float().log_softmax(-1)
