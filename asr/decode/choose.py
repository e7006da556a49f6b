"""The decoder that a command or a caller asks for, and what a record calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import greedy
from asr.decode.settings import BeamConfig
from asr.decode.types import Hypothesis, LogProbs
from asr.lm import ngram
from asr.text import Tokenizer


@dataclass(frozen=True)
class Decoder:
    """Log-probabilities to hypotheses, best first, never none."""

    name: str
    lm: str | None
    decode: Callable[[LogProbs], list[Hypothesis]]


def greedy_decoder(tokenizer: Tokenizer) -> Decoder:
    """Best path decoding."""
    return Decoder("greedy", None, lambda log_probs_sv: [greedy(log_probs_sv, tokenizer)])


def beam_decoder(tokenizer: Tokenizer, config: BeamConfig, lm_path: Path | None = None) -> Decoder:
    """Prefix beam search, with the n-gram model in a file when there is one.

    Raises:
        DataError: the language model cannot be read.
        ConfigError: tokenizer, language model, hotwords and lexicon do not fit together.
    """
    lm = None if lm_path is None else ngram.load(lm_path)
    search = BeamDecoder(tokenizer, config, lm)
    weights = "" if lm is None else f", alpha {config.alpha:g}, beta {config.beta:g}"
    return Decoder(f"beam {config.beam_width}{weights}", None if lm_path is None else str(lm_path), search.decode)
