"""The settings of a neural language model's training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from asr.config import parse, split_setting
from asr.lm.neural.network import RnnConfig


class RnnTrainConfig(RnnConfig):
    """The shape of the network, and how it is trained."""

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
    #: share of sentences that are held out to measure on, chosen by their hashes
    held_out: float = Field(0.05, gt=0, lt=1)
    #: also measured after this many updates, in an epoch that has more
    validate_every: int = Field(5000, ge=1)
    #: stop when the held-out sentences have not become more probable for this many measurements
    early_stop: int = Field(3, ge=1)
    #: as train.precision of an acoustic model
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    #: CPU threads; null: one per core
    threads: int | None = Field(None, ge=1)
    #: a checkpoint at least this often
    checkpoint_every_s: float = Field(300.0, gt=0)

    @property
    def network(self) -> RnnConfig:
        """Return the shape of the network alone."""
        return RnnConfig(**self.model_dump(include=set(RnnConfig.model_fields)))


def read_config(settings: Sequence[str], **values: Any) -> RnnTrainConfig:
    """Return the config of ``key=value`` settings on top of values by name; None: not given.

    >>> read_config(["lr=1e-3", "cell=gru"], hidden=64).hidden
    64

    Raises:
        ConfigError: no ``=``, an unknown key, or a value that does not fit.
    """
    given = {key: value for key, value in values.items() if value is not None}
    for item in settings:
        key, value = split_setting(item, example="lr=0.001")
        given[key] = value
    return parse(RnnTrainConfig, given, "language model")
