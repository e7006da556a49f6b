"""Tokenizers: what all have in common, and characters as tokens (others: ``asr.data.subwords``, ``asr.data.pieces``).

The CTC blank is id 0 in every tokenizer; symbols start at 1. A character that the tokenizer does not know is an error
that shows it: dropping it silently would train on a transcript that nobody wrote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asr.errors import UNSAFE, ConfigError, DataError

BLANK_ID = 0
#: SentencePiece's mark of a word's start; in a token it is read as a space
WORD_START = "▁"


class Tokenizer(ABC):
    """Text to token ids and back. Id 0 is the blank, id ``i`` is ``symbols[i - 1]``."""

    #: ``char``, ``bpe``, ``unigram`` or ``pieces``
    kind: str
    #: what each token writes; subwords mark a word's start with ``WORD_START``
    symbols: tuple[str, ...]

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, the blank included."""
        return len(self.symbols) + 1

    @cached_property
    @abstractmethod
    def characters(self) -> dict[str, int]:
        """Every character that a text may have, with the first token that writes it; in the order of these ids."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without blanks.

        Raises:
            DataError: a character is not in the vocabulary; it is shown, with a hint if only its case differs.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the content of ``tokenizer.json``."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids (no blanks among them).

        Raises:
            ValueError: an id is the blank or outside the vocabulary.
        """
        bad = [i for i in ids if not 1 <= i <= len(self.symbols)]
        if bad:
            raise ValueError(f"token ids must be in 1..{len(self.symbols)} (0 is the blank), got {bad[:5]}")
        return "".join(self.symbols[i - 1] for i in ids)

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of the text that cannot be encoded, in order of appearance."""
        return list(dict.fromkeys(c for c in text if c not in self.characters))

    def unknown_message(self, text: str) -> str:
        """Return one line about the unknown characters of a text: which, where, and a hint if case is the cause."""
        known = self.characters
        unknown = self.unknown(text)
        shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        swapped = [c for c in unknown if c.swapcase() != c and c.swapcase() in known]
        hint = ""
        if swapped:
            other = "upper" if swapped[0].islower() else "lower"
            hint = f"; the vocabulary has the {other}-case form: set text.normalization={other}"

        excerpt = text if len(text) <= 40 else text[:40] + "…"
        return f"unknown character {shown} in {excerpt!r}; the vocabulary is {''.join(known)!r}{hint}"


def check_symbols(symbols: Sequence[str]) -> None:
    """Refuse a vocabulary in which a symbol is twice, or is what a terminal obeys: no text profile lets it through."""
    twice = [s for s, n in Counter(symbols).items() if n > 1]
    if twice:
        raise ConfigError(f"tokenizer: symbols must be distinct, got {twice} more than once")
    odd = [s for s in symbols if UNSAFE.search(s) or "\n" in s or "\t" in s]
    if odd:
        raise ConfigError(f"tokenizer: control characters and marks of direction are no symbols, got {odd[0]!r}")


@dataclass(frozen=True)
class CharTokenizer(Tokenizer):
    """Characters as tokens: id 0 is the blank, id ``i`` is ``symbols[i - 1]``.

    >>> t = CharTokenizer.from_texts(["a cab"])
    >>> t.symbols, t.encode("cab"), t.decode([4, 2, 3])
    ((' ', 'a', 'b', 'c'), [4, 2, 3], 'cab')
    """

    symbols: tuple[str, ...]
    kind: str = field(default="char", init=False, repr=False)

    def __post_init__(self) -> None:
        check_symbols(self.symbols)
        if any(len(s) != 1 for s in self.symbols):
            raise ConfigError("tokenizer: every symbol of a character tokenizer must be one character")

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> CharTokenizer:
        """Return a tokenizer of the characters that occur, in code point order: the same data give the same ids."""
        return cls(tuple(sorted(set().union(*texts))))

    @cached_property
    def characters(self) -> dict[str, int]:
        return {s: i for i, s in enumerate(self.symbols, start=1)}

    def encode(self, text: str) -> list[int]:
        try:
            return list(map(self.characters.__getitem__, text))
        except KeyError:
            raise DataError(self.unknown_message(text)) from None

    def to_json(self) -> dict[str, Any]:
        return {"kind": "char", "blank_id": BLANK_ID, "symbols": list(self.symbols)}
