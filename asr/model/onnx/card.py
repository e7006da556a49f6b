"""What the ``config.json`` of an exported folder says of the graph beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from asr.config import Stage

#: the graph's file
MODEL = "model.onnx"


class ExportFacts(Stage):
    """The part ``export`` of a ``config.json``, which a model folder of weights does not have."""

    format: Literal["onnx"]
    #: the version that wrote it
    asr: str
    #: of the graph's file
    sha256: str
    #: the graph takes samples, not features
    features_in_graph: bool
    #: the graph takes a piece at a time, with its state as inputs and outputs
    streaming: bool
    #: how they are stored; products are float32
    weights: Literal["fp32", "fp16"]
    #: number of the network's weights
    parameters: int = Field(ge=0)
    #: of a log-probability of the graph from the network's, measured on made-up utterances before it was written
    max_difference: float = Field(ge=0)
    #: mean_f and std_f of the training set, where the graph takes features
    statistics: dict[str, list[float]] = Field(default_factory=dict)
    #: error rates, as far as they were measured on the model
    results: dict[str, Any] = Field(default_factory=dict)
    corpus: str | None = None
    licence: str | None = None
