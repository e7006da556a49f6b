"""The n-gram model that stands in a folder of Hugging Face, in ``language_model/`` as pyctcdecode writes it.

pyctcdecode gives a word ``alpha * (log10 p + offset) * ln 10 + beta``, the offset for unknown words only, and the end
of a sentence ``alpha * log10 p * ln 10``. Unknown are words outside the model or outside ``unigrams.txt``. So its
alpha and beta are ours as they are; the offset is in log10 and under alpha there, and neither of both here.

Source: pyctcdecode 0.5.0, ``language_model.py`` (``LanguageModel.score``).
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from asr.config import Stage, parse
from asr.decode.settings import BeamConfig
from asr.decode.tuned import Tuned
from asr.errors import CheckpointError, ConfigError
from asr.lm.arrays import LN10
from asr.model.model_files import read_object

log = logging.getLogger(__name__)

FOLDER = "language_model"
_ATTRIBUTES = "attrs.json"
_UNIGRAMS = "unigrams.txt"
_SUFFIXES = (".arpa", ".arpa.gz", ".bin", ".binary", ".gz")


class _Attributes(Stage):
    """The content of ``attrs.json``; the defaults are pyctcdecode's. The bounds are those of ``BeamConfig``."""

    alpha: float = Field(0.5, ge=0, le=10)
    beta: float = Field(1.5, ge=-100, le=100)
    #: added to the log10 probability of a word that the model does not know
    unk_score_offset: float = Field(-10.0, ge=-1000, le=0)
    #: whether the beginning and the end of a sentence count; here they always do
    score_boundary: bool = True


def find_language_model(folder: Path) -> Path | None:
    """Return the file of the n-gram model in a folder, if there is one."""
    found = [p for p in (folder / FOLDER).glob("[!.]*") if p.name.endswith(_SUFFIXES) and p.is_file()]
    return min(found, default=None)


def shipped_settings(folder: Path) -> Tuned | None:
    """Return the decoder settings that come with a model: its n-gram model and weights; None: there are none.

    Raises:
        CheckpointError: ``attrs.json`` is damaged.
    """
    path = find_language_model(folder)
    if path is None:
        return None
    attributes = _read_attributes(path.with_name(_ATTRIBUTES))
    if not attributes.score_boundary:
        log.warning(
            "%s: asks for scores without the beginning and the end of sentences (score_boundary); here they count",
            path.with_name(_ATTRIBUTES),
        )
    words = path.with_name(_UNIGRAMS)
    config = BeamConfig(
        alpha=attributes.alpha,
        beta=attributes.beta,
        unknown_log_prob=max(-100.0, attributes.alpha * attributes.unk_score_offset * LN10),
        fusion="word",
    )
    return Tuned(
        config=config,
        lm=str(path.absolute()),
        lm_bytes=path.stat().st_size,
        lm_words=str(words.absolute()) if words.is_file() else None,
    )


def _read_attributes(path: Path) -> _Attributes:
    if not path.is_file():
        return _Attributes()
    document = read_object(path)
    try:
        return parse(
            _Attributes, {key: document[key] for key in _Attributes.model_fields if key in document}, path.name
        )
    except ConfigError as error:
        raise CheckpointError(f"{error}; use --lm none to decode without the language model", path.parent) from error
