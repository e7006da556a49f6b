"""The options of a decoder as one object, from the command line or a caller to what makes the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decode.decoder import Backend
    from asr.decode.tuned import Tuned


@dataclass(frozen=True)
class DecoderOptions:
    """Hold the options of a model's decoder. An option that is not given is as it was tuned for the model."""

    #: ``greedy`` or ``beam``; empty: beam search if it was tuned or if another option needs it, else greedy
    name: str = ""
    #: fields of ``BeamConfig`` that override the tuned or default values
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: an n-gram model's file in place of the tuned one; ``choose.NO_LM``: none
    lm: Path | None = None
    #: which implementation of the beam search; both find the same texts
    backend: Backend = "auto"
    #: whether beam search computes word confidences from the texts in its beam
    confidence: bool = False
    #: a neural language model's folder in place of the tuned one; ``choose.NO_LM``: none
    rescore: Path | None = None
    #: the neural model's weight in place of the tuned one; 0.5 where none was tuned
    rescore_weight: float | None = None
    #: settings and language model that came with the model, where nothing was tuned and no language model is given
    shipped: Tuned | None = None
    #: a file of hotwords (``asr.decode.hotword_file``); where ``settings`` has one of them, its weight counts
    hotword_file: Path | None = None
