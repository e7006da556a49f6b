"""The kind of graph that is asked for."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """The input of a graph, and how its weights are stored."""

    #: samples, of which the graph computes the features itself
    features: bool = False
    #: a piece at a time, with its state as inputs and outputs
    streaming: bool = False
    #: fp32 or fp16
    weights: str = "fp32"
