"""Tokens of one or several letters, as other toolkits' vocabularies have them: phonemes, digraphs, parts of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer, check_symbols
from asr.errors import ConfigError, DataError
from asr.limits import TOKEN_LETTERS, TOKENS


@dataclass(frozen=True)
class PieceTokenizer(Tokenizer):
    """Tokens of one or several letters: id 0 is the blank, id ``i`` is ``symbols[i - 1]``.

    A text is written by the longest token that fits at each place, if the rest can be written behind it. A space is a
    token of its own; or tokens that begin a word have ``WORD_START`` first, and so has the first word of a text.

    >>> t = PieceTokenizer((" ", "t", "ʃ", "tʃ", "a"))
    >>> t.encode("tʃa ta"), t.decode([4, 5, 1, 2])
    ([4, 5, 1, 2, 5], 'tʃa t')
    """

    symbols: tuple[str, ...]
    kind: str = field(default="pieces", init=False, repr=False)

    def __post_init__(self) -> None:
        check_symbols(self.symbols)
        if len(self.symbols) > TOKENS:
            raise ConfigError(f"tokenizer: {len(self.symbols):,} tokens, at most {TOKENS:,}")
        for symbol in self.symbols:
            if not symbol:
                raise ConfigError("tokenizer: a token is empty")
            if len(symbol) > TOKEN_LETTERS:
                raise ConfigError(
                    f"tokenizer: a token of {len(symbol):,} letters, at most {TOKEN_LETTERS}: {symbol[:20]!r}…"
                )
            if WORD_START in symbol[1:] or (" " in symbol and symbol != " "):
                raise ConfigError(f"tokenizer: a token may have a space only at its start, as '▁', got {symbol!r}")

    @cached_property
    def characters(self) -> dict[str, int]:
        first: dict[str, int] = {}
        for written, i in self._ids.items():
            for c in written:
                first.setdefault(c, i)
        return first

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The token that writes a text by itself."""
        return {symbol.replace(WORD_START, " "): i for i, symbol in enumerate(self.symbols, start=1)}

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """Map a character to the lengths of the tokens that begin with it, the longest first."""
        lengths: dict[str, set[int]] = {}
        for written in self._ids:
            lengths.setdefault(written[0], set()).add(len(written))
        return {c: sorted(own, reverse=True) for c, own in lengths.items()}

    @cached_property
    def _begins_words(self) -> bool:
        return any(symbol[0] == WORD_START for symbol in self.symbols)

    def encode(self, text: str) -> list[int]:
        text = self._as_spaced(text)
        lengths = self._tokens_at(text)
        if text and not lengths[0]:
            raise DataError(self.unknown_message(text.removeprefix(" ")))

        ids = []
        at = 0
        while at < len(text):
            ids.append(self._ids[text[at : at + lengths[at]]])
            at += lengths[at]
        return ids

    def _as_spaced(self, text: str) -> str:
        """Return the text with the unseen space before its first word, unless it can only be written without."""
        if not self._begins_words or not text or text[0] == " ":
            return text
        spaced = f" {text}"
        return text if self._tokens_at(text)[0] and not self._tokens_at(spaced)[0] else spaced

    def _tokens_at(self, text: str) -> list[int]:
        """Return, for each place, the length of the longest token behind which the rest can be written; 0: none."""
        lengths = [0] * len(text)
        for start in reversed(range(len(text))):
            for length in self._lengths.get(text[start], ()):
                end = start + length
                rest_fits = end == len(text) or (end < len(text) and lengths[end])
                if rest_fits and text[start:end] in self._ids:
                    lengths[start] = length
                    break
        return lengths

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        return text.replace(WORD_START, " ").removeprefix(" ") if self._begins_words else text

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters at which no token fits, in order; none if all of the text can be written."""
        text = self._as_spaced(text)
        if not text or self._tokens_at(text)[0]:
            return []

        unknown: dict[str, None] = {}
        at = 0
        while at < len(text):
            length = next((n for n in self._lengths.get(text[at], ()) if text[at : at + n] in self._ids), 0)
            if not length:
                unknown[text[at]] = None
            at += length or 1
        # The letter behind a space is what no token begins with, if there is one.
        if self._begins_words and len(unknown) > 1:
            unknown.pop(" ", None)
        return list(unknown)

    def unknown_message(self, text: str) -> str:
        message = super().unknown_message(text)
        inside = next((c for c in self.unknown(text) if c in self.characters), None)
        if inside is None:
            return message
        return f"{message}; {inside!r} is only part of tokens, such as {self.symbols[self.characters[inside] - 1]!r}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": "pieces", "blank_id": BLANK_ID, "symbols": list(self.symbols)}
