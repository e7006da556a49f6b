"""The perplexity of a text under a neural language model, comparable with that under an n-gram model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from asr.data.tokenizer import Tokenizer
from asr.errors import DataError
from asr.lm.neural.network import RnnModel, bits

#: sentences scored at a time
_CHUNK = 4096


@dataclass
class RnnPerplexity:
    """A text's log-probability under a model.

    An unknown character, which the model cannot write, is left out of its word and counted.

    Units: ``log_prob`` in nats, over all sentences and their ends.
    """

    sentences: int = 0
    words: int = 0
    #: those scored, spaces between words included, ends of sentences not
    characters: int = 0
    log_prob: float = 0.0
    unknown_characters: int = 0
    #: words that an unknown character was left out of
    unknown_words: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def bits_per_character(self) -> float:
        """Bits per character, the end of a sentence counted as one."""
        return bits(self.log_prob, self.characters + self.sentences)

    @property
    def perplexity(self) -> float:
        """Perplexity per word, the end of a sentence counted as one: as an n-gram model's with its unknown words."""
        return math.exp(min(700.0, -self.log_prob / (self.words + self.sentences)))

    def to_json(self) -> dict[str, Any]:
        """Return the counts and what is derived of them, unknown characters by frequency."""
        derived = {"bits_per_character": self.bits_per_character, "perplexity": self.perplexity}
        return asdict(self) | {"unknown": dict(self.unknown.most_common())} | derived

    def __str__(self) -> str:
        text = (
            f"{self.bits_per_character:.4f} bits per character, perplexity {self.perplexity:.2f} per word\n"
            f"{self.words:,} words, {self.characters:,} characters in {self.sentences:,} sentences"
        )
        if not self.unknown_characters:
            return text
        shown = ", ".join(f"{c!r} {n:,} times" for c, n in self.unknown.most_common(5))
        more = ", …" if len(self.unknown) > 5 else ""
        unknown = f"{self.unknown_characters:,} unknown characters left out, in {self.unknown_words:,} words"
        return f"{text}\n{unknown}: {shown}{more}"


def perplexity(
    model: RnnModel, lines: Iterable[str], progress: Callable[[int], None] = lambda sentences: None
) -> RnnPerplexity:
    """Return the perplexity of a text, a sentence per line, each scored by itself.

    Raises:
        DataError: there is no line, or the model knows not one of its characters.
    """
    result = RnnPerplexity()
    chunk: list[str] = []

    def score() -> None:
        result.log_prob += float(model.score_texts(chunk).sum())
        chunk.clear()
        progress(result.sentences)

    for line in lines:
        chunk.append(_count_line(result, model.tokenizer, line.split()))
        if len(chunk) == _CHUNK:
            score()
    if not result.sentences:
        raise DataError("no text to score: there is not one line")
    result.unknown_characters = result.unknown.total()
    if result.unknown_characters and not result.characters:
        some = "".join(c for c, _ in result.unknown.most_common(20))
        raise DataError(f"the model knows not one character of the text: {model.tokenizer.unknown_message(some)}")
    score()
    return result


def _count_line(result: RnnPerplexity, tokenizer: Tokenizer, words: list[str]) -> str:
    """Count a line, and return it as the model can write it."""
    unknown = set(tokenizer.unknown("".join(words)))
    kept = words
    if unknown:
        kept = ["".join(c for c in word if c not in unknown) for word in words]
        result.unknown.update(c for word in words for c in word if c in unknown)
        result.unknown_words += sum(old != new for old, new in zip(words, kept, strict=True))
    text = " ".join(word for word in kept if word)
    if " " in tokenizer.unknown(text):  # a model of single words
        result.unknown[" "] += text.count(" ")
        text = text.replace(" ", "")

    result.sentences += 1
    result.words += len(words)
    result.characters += len(text)
    return text
