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
    token of its own, or stands at the start of tokens that begin a word; a text then begins with it, unseen.

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
            if " " in symbol[1:] or WORD_START in symbol:
                raise ConfigError(f"tokenizer: a token may have a space only at its start (and no '▁'), got {symbol!r}")

    @cached_property
    def _characters(self) -> dict[str, int]:
        first: dict[str, int] = {}
        for i, symbol in enumerate(self.symbols, start=1):
            for c in symbol:
                first.setdefault(c, i)
        return first

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols, start=1)}

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """The lengths of the tokens that begin with a character, the longest first."""
        lengths: dict[str, set[int]] = {}
        for symbol in self.symbols:
            lengths.setdefault(symbol[0], set()).add(len(symbol))
        return {c: sorted(own, reverse=True) for c, own in lengths.items()}

    @cached_property
    def _begins_words(self) -> bool:
        """Whether tokens hold the space before a word, together with letters."""
        return any(len(symbol) > 1 and symbol[0] == " " for symbol in self.symbols)

    def encode(self, text: str) -> list[int]:
        spaced = self._with_first_space(text)
        lengths = self._tokens_at(spaced)
        if spaced and not lengths[0]:
            raise DataError(self.unknown_message(text))

        ids = []
        at = 0
        while at < len(spaced):
            ids.append(self._ids[spaced[at : at + lengths[at]]])
            at += lengths[at]
        return ids

    def _with_first_space(self, text: str) -> str:
        return f" {text}" if self._begins_words and text and text[0] != " " else text

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
        return text.removeprefix(" ") if self._begins_words else text

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters at which no token fits, in order; none if all of the text can be written."""
        text = self._with_first_space(text)
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
        inside = next((c for c in self.unknown(text) if c in self._characters), None)
        if inside is None:
            return message
        return f"{message}; {inside!r} is only part of tokens, such as {self.symbols[self._characters[inside] - 1]!r}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": "pieces", "blank_id": BLANK_ID, "symbols": list(self.symbols)}
