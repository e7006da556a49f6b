"""How well a language model predicts a text."""

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
        derived = ("tokens", "with_unknown", "without_unknown", "unknown_rate")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        return (
            f"perplexity {self.without_unknown:.2f} without unknown words, {self.with_unknown:.2f} with them\n"
            f"{self.words:,} words in {self.sentences:,} sentences, "
            f"{self.unknown_words:,} unknown ({self.unknown_rate:.2%})"
        )


def perplexity(model: NgramModel, lines: Iterable[str]) -> Perplexity:
    """The perplexity of a text, a sentence a line; every sentence starts after <s> and ends with </s>.

    Raises:
        DataError: there is no line.
    """
    from asr.lm.compiled.ngram import score_ids

    totals = np.zeros(2)
    sentences = words = unknown = 0
    tokens: list[int] = []
    ids, end = model._ids, model.end_id  # a look-up a word: worth not calling word_id

    def score() -> None:
        ids_w = np.array(tokens, np.int32)
        log_probs_w = np.empty(len(ids_w))
        score_ids(model.arrays, ids_w, end, model.begin_state, log_probs_w)
        totals[0] += log_probs_w.sum()
        totals[1] += log_probs_w[ids_w == model.unk_id].sum()

    for line in lines:
        # The text's own markers, if it has any, are no words of the model's.
        known = [i if (i := ids.get(word, 0)) > 2 else 0 for word in line.split()]
        sentences, words, unknown = sentences + 1, words + len(known), unknown + known.count(0)
        tokens += [*known, end]
        if len(tokens) >= _CHUNK:
            score()
            tokens.clear()
    if not sentences:
        raise DataError("no text to score: there is not one line")
    score()
    return Perplexity(sentences, words, unknown, float(totals[0]), float(totals[1]))
