"""The perplexity of a text under an n-gram model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asr.errors import DataError
from asr.lm.model import NgramModel

#: tokens scored at a time
_CHUNK = 200_000


@dataclass(frozen=True)
class Perplexity:
    """A text's log-probability under a model, the ends of sentences counted as words.

    Units: ``log_prob`` in nats, over all tokens; ``unknown_log_prob`` the part of the unknown words.
    """

    sentences: int
    words: int
    unknown_words: int
    log_prob: float
    unknown_log_prob: float

    @property
    def tokens(self) -> int:
        """Words and sentence ends."""
        return self.words + self.sentences

    @property
    def with_unknown(self) -> float:
        """Perplexity of all tokens, each unknown word with the probability of <unk>."""
        return math.exp(min(700.0, -self.log_prob / self.tokens))

    @property
    def without_unknown(self) -> float:
        """Perplexity of the known words and the sentence ends. Contexts with unknown words stay as they are."""
        known = self.tokens - self.unknown_words
        return math.exp(min(700.0, (self.unknown_log_prob - self.log_prob) / known))

    @property
    def unknown_rate(self) -> float:
        """The fraction of words that the model does not know."""
        return self.unknown_words / self.words if self.words else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the perplexities that are derived of them."""
        derived = ("tokens", "with_unknown", "without_unknown", "unknown_rate")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        return (
            f"perplexity {self.without_unknown:.2f} without unknown words, {self.with_unknown:.2f} with them\n"
            f"{self.words:,} words in {self.sentences:,} sentences, "
            f"{self.unknown_words:,} unknown ({self.unknown_rate:.2%})"
        )


def perplexity(model: NgramModel, lines: Iterable[str]) -> Perplexity:
    """Return the perplexity of a text, a sentence per line; every sentence starts after <s> and ends with </s>.

    Raises:
        DataError: there is no line.
    """
    counts = np.zeros(3, np.int64)  # sentences, words, unknown words
    log_probs = np.zeros(2)  # of all tokens, of unknown words
    chunk: list[int] = []

    def score() -> None:
        ids_w = np.array(chunk, np.int32)
        log_probs_w = model.score_ids(ids_w)
        ends = int((ids_w == model.end_id).sum())
        unknown_w = ids_w == model.unk_id
        counts[:] += ends, len(ids_w) - ends, unknown_w.sum()
        log_probs[:] += log_probs_w.sum(), log_probs_w[unknown_w].sum()
        chunk.clear()

    for line in lines:
        chunk += model.sentence_ids(line.split())
        if len(chunk) >= _CHUNK:
            score()
    if chunk:
        score()
    sentences, words, unknown = counts.tolist()
    if not sentences:
        raise DataError("no text to score: there is not one line")
    return Perplexity(sentences, words, unknown, *log_probs.tolist())
