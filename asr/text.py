"""Text in and out of token ids: normalisation profiles and the tokenizer.

The CTC blank is id 0 by definition, in every tokenizer; symbols start at 1. A symbol that the tokenizer does not know
is an error that shows it: dropping it silently would train on a transcript that nobody wrote.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import CheckpointError, ConfigError, DataError, nearest, os_reason

BLANK_ID = 0

#: name -> what it does, in the order in which the steps are applied
NORMALIZATIONS = {
    "none": "text is used as it stands, surrounding and repeated white space apart",
    "upper": "upper case, Unicode NFC",
    "lower": "lower case, Unicode NFC",
}


def normalize(text: str, profile: str) -> str:
    """The text under a normalisation profile, with white space collapsed to single spaces.

    >>> normalize(" Yes,  it is ", "upper")
    'YES, IT IS'

    Raises:
        ConfigError: the profile is unknown.
    """
    if profile not in NORMALIZATIONS:
        raise ConfigError(
            f"unknown text normalization '{profile}' (known: {', '.join(NORMALIZATIONS)})"
            f"{nearest(profile, NORMALIZATIONS)}",
            key="text.normalization",
        )
    if profile != "none":
        text = unicodedata.normalize("NFC", text)
        text = text.upper() if profile == "upper" else text.lower()
        text = unicodedata.normalize("NFC", text)  # changing case can decompose: U+0390 has no upper-case form
    return " ".join(text.split())


@dataclass(frozen=True)
class CharTokenizer:
    """Characters as tokens: id 0 is the blank, id ``i`` is ``symbols[i - 1]``.

    >>> t = CharTokenizer.from_texts(["a cab"])
    >>> t.symbols, t.encode("cab"), t.decode([4, 2, 3])
    ((' ', 'a', 'b', 'c'), [4, 2, 3], 'cab')
    """

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.symbols)) != len(self.symbols):
            twice = [s for s, n in Counter(self.symbols).items() if n > 1]
            raise ConfigError(f"tokenizer: symbols must be distinct, got {twice} more than once")
        if any(len(s) != 1 for s in self.symbols):
            raise ConfigError("tokenizer: every symbol of a character tokenizer must be one character")

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> CharTokenizer:
        """A tokenizer of exactly the characters that occur, in code point order: the same data give the same ids."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls(tuple(sorted(seen)))

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, the blank included."""
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without blanks.

        Raises:
            DataError: a character is not in the vocabulary; it is shown, with a hint when only its case differs.
        """
        ids = self._ids()
        try:
            return [ids[c] for c in text]
        except KeyError:
            raise DataError(self.unknown_message(text)) from None

    def _ids(self) -> dict[str, int]:
        cached: dict[str, int] | None = self.__dict__.get("_ids_cache")
        if cached is None:
            cached = {s: i for i, s in enumerate(self.symbols, start=1)}
            object.__setattr__(self, "_ids_cache", cached)
        return cached

    def unknown(self, text: str) -> list[str]:
        """The distinct characters of the text that have no id, in order of appearance."""
        ids = self._ids()
        return list(dict.fromkeys(c for c in text if c not in ids))

    def unknown_message(self, text: str) -> str:
        """One line about the unknown characters of a text: which, where, and a hint when case is the cause."""
        unknown = self.unknown(text)
        ids = self._ids()
        shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        swapped = [c for c in unknown if c.swapcase() != c and c.swapcase() in ids]
        hint = ""
        if swapped:
            other = "upper" if swapped[0].islower() else "lower"
            hint = f"; the vocabulary has the {other}-case form: set text.normalization={other}"
        excerpt = text if len(text) <= 40 else text[:40] + "…"
        return f"unknown character {shown} in {excerpt!r}; the vocabulary is {''.join(self.symbols)!r}{hint}"

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids (no blanks among them).

        Raises:
            ValueError: an id is the blank or outside the vocabulary.
        """
        bad = [i for i in ids if not 1 <= i <= len(self.symbols)]
        if bad:
            raise ValueError(f"token ids must be in 1..{len(self.symbols)} (0 is the blank), got {bad[:5]}")
        return "".join(self.symbols[i - 1] for i in ids)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "char", "blank_id": BLANK_ID, "symbols": list(self.symbols)}


Tokenizer = CharTokenizer


def tokenizer_from_json(data: Any, path: Path) -> Tokenizer:
    """The tokenizer described by ``tokenizer.json``'s content.

    Raises:
        CheckpointError: it is not a description this version knows.
    """
    if not isinstance(data, dict) or data.get("kind") != "char":
        got = data.get("kind") if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(f"not a tokenizer this version knows (kind {got!r}, expected 'char')", path)
    if data.get("blank_id", BLANK_ID) != BLANK_ID:
        raise CheckpointError(f"blank_id must be {BLANK_ID}, got {data['blank_id']!r}", path)
    symbols = data.get("symbols")
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
        raise CheckpointError("symbols must be a list of strings", path)
    try:
        return CharTokenizer(tuple(symbols))
    except ConfigError as error:
        raise CheckpointError(str(error), path) from error


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json`` file.

    Raises:
        CheckpointError: the file is missing, unreadable, or not a tokenizer.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read: {os_reason(error)}", path) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON ({error})", path) from error
    return tokenizer_from_json(data, path)
