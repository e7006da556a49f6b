"""Tokenizers: characters, or subword pieces trained by SentencePiece.

The CTC blank is id 0 in every tokenizer; symbols start at 1. A character that the tokenizer does not know is an error
that shows it: dropping it silently would train on a transcript that nobody wrote.
"""

from __future__ import annotations

import base64
import io
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from asr.errors import CheckpointError, ConfigError, DataError, os_reason

BLANK_ID = 0
#: SentencePiece's mark of a word's start; in a token it is read as a space
WORD_START = "▁"
FILE = "tokenizer.json"

SubwordKind = Literal["bpe", "unigram"]


class Tokenizer(ABC):
    """Text to token ids and back. Id 0 is the blank, id ``i`` is ``symbols[i - 1]``."""

    #: ``char``, ``bpe`` or ``unigram``
    kind: str
    #: what each token writes; subwords mark a word's start with ``WORD_START``
    symbols: tuple[str, ...]

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, the blank included."""
        return len(self.symbols) + 1

    @cached_property
    @abstractmethod
    def _characters(self) -> dict[str, int]:
        """Every character that a text may have, in the order of its id."""

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
        return list(dict.fromkeys(c for c in text if c not in self._characters))

    def unknown_message(self, text: str) -> str:
        """Return one line about the unknown characters of a text: which, where, and a hint if case is the cause."""
        known = self._characters
        unknown = self.unknown(text)
        shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        swapped = [c for c in unknown if c.swapcase() != c and c.swapcase() in known]
        hint = ""
        if swapped:
            other = "upper" if swapped[0].islower() else "lower"
            hint = f"; the vocabulary has the {other}-case form: set text.normalization={other}"

        excerpt = text if len(text) <= 40 else text[:40] + "…"
        return f"unknown character {shown} in {excerpt!r}; the vocabulary is {''.join(known)!r}{hint}"


def _refuse_repeats(symbols: Sequence[str]) -> None:
    twice = [s for s, n in Counter(symbols).items() if n > 1]
    if twice:
        raise ConfigError(f"tokenizer: symbols must be distinct, got {twice} more than once")


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
        _refuse_repeats(self.symbols)
        if any(len(s) != 1 for s in self.symbols):
            raise ConfigError("tokenizer: every symbol of a character tokenizer must be one character")

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> CharTokenizer:
        """Return a tokenizer of the characters that occur, in code point order: the same data give the same ids."""
        return cls(tuple(sorted(set().union(*texts))))

    @cached_property
    def _characters(self) -> dict[str, int]:
        return {s: i for i, s in enumerate(self.symbols, start=1)}

    def encode(self, text: str) -> list[int]:
        try:
            return list(map(self._characters.__getitem__, text))
        except KeyError:
            raise DataError(self.unknown_message(text)) from None

    def to_json(self) -> dict[str, Any]:
        return {"kind": "char", "blank_id": BLANK_ID, "symbols": list(self.symbols)}


@dataclass(frozen=True)
class SubwordTokenizer(Tokenizer):
    """Pieces of words as tokens, by SentencePiece's BPE or unigram model.

    SentencePiece's own id 0, the unknown piece, never comes out: its place is the blank's, and every other id is the
    same in both. Decoding needs the pieces alone; encoding needs the SentencePiece model, which is read on first use.

    Source: Sennrich et al. 2016 (BPE); Kudo 2018 (unigram); Kudo and Richardson 2018 (SentencePiece).
    """

    kind: SubwordKind
    symbols: tuple[str, ...]
    #: a SentencePiece model as its own file format has it
    model: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _refuse_repeats(self.symbols)
        if not all(self.symbols):
            raise ConfigError("tokenizer: a piece is empty")

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int, kind: SubwordKind = "bpe") -> SubwordTokenizer:
        """Train a tokenizer of ``vocabulary_size`` tokens, the blank included, that can write every text.

        The same texts in any order give the same tokenizer. Pieces do not cross spaces.

        Raises:
            ConfigError: the texts have too many characters, or too few words, for the size; the line says what fits.
            DataError: there is no text, or a character that SentencePiece keeps to itself.
        """
        rows = sorted(row for text in texts if (row := " ".join(text.split())))
        if not rows:
            raise DataError("no text to train a tokenizer on")
        characters = set("".join(rows))

        for c in sorted(characters):
            if c in f"{WORD_START}\u2585\0" or "\ud800" <= c <= "\udfff":
                row = next(row for row in rows if c in row)
                raise DataError(f"character {c!r} (U+{ord(c):04X}) in {row[:40]!r}: SentencePiece keeps it to itself")

        least = len(characters - {" "}) + 2  # and the mark of a word's start, and the blank
        if vocabulary_size < least:
            raise ConfigError(
                f"a vocabulary of {vocabulary_size} tokens is too small: the texts have {len(characters)} characters, "
                f"so at least {least} are needed; give --vocab-size {least} or more"
            )

        model = _train_sentencepiece(rows, vocabulary_size, kind)
        tokenizer = cls(kind, tuple(_pieces(_processor(model))), model)
        lost = tokenizer.unknown("".join(sorted(characters)))
        if lost:  # SentencePiece leaves out sentences that it finds odd
            raise DataError(f"SentencePiece leaves out the character {lost[0]!r} (U+{ord(lost[0]):04X})")
        return tokenizer

    @cached_property
    def _characters(self) -> dict[str, int]:
        # Every character has a piece of its own: training asks for all, and what it gives is checked.
        written = (s.replace(WORD_START, " ") for s in self.symbols)
        return dict(sorted((s, i) for i, s in enumerate(written, start=1) if len(s) == 1))

    @cached_property
    def _sentencepiece(self) -> Any:
        try:
            processor = _processor(self.model)
        except ValueError as error:
            raise CheckpointError(f"tokenizer: its SentencePiece model is damaged ({error})") from error
        if tuple(_pieces(processor)) != self.symbols:
            raise CheckpointError("tokenizer: its pieces are not those of its SentencePiece model")
        return processor

    def encode(self, text: str) -> list[int]:
        if any(c not in self._characters for c in text):
            raise DataError(self.unknown_message(text))
        ids: list[int] = self._sentencepiece.encode(text)
        if BLANK_ID in ids:
            raise CheckpointError(f"tokenizer: its SentencePiece model cannot write {text!r}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids).replace(WORD_START, " ").removeprefix(" ")

    def to_json(self) -> dict[str, Any]:
        model = base64.b64encode(self.model).decode("ascii")
        return {"kind": self.kind, "blank_id": BLANK_ID, "pieces": list(self.symbols), "sentencepiece": model}


def _train_sentencepiece(rows: Sequence[str], vocabulary_size: int, kind: SubwordKind) -> bytes:
    import sentencepiece  # only where it is needed: character models never load it

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(rows),
            model_writer=model,
            model_type=kind,
            vocab_size=vocabulary_size,  # its unknown piece takes the blank's id
            unk_id=BLANK_ID,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            character_coverage=1.0,  # every character: nothing may become unknown
            normalization_rule_name="identity",  # ours came before
            remove_extra_whitespaces=False,  # so that decoding undoes encoding
            max_sentence_length=2**30,  # bytes; longer ones would be left out
            num_threads=1,  # the model file says how many: one on every machine
            minloglevel=2,
        )
    except RuntimeError as error:
        found = re.search(r"Vocabulary size too high .* value <= (\d+)", str(error))
        if found:
            raise ConfigError(
                f"a vocabulary of {vocabulary_size} tokens is too large for these texts: "
                f"at most {found[1]} are possible; give --vocab-size {found[1]} or less"
            ) from error
        raise ConfigError(f"SentencePiece cannot train a {kind} of {vocabulary_size} tokens: {error}") from error

    return model.getvalue()


def _processor(model: bytes) -> Any:
    """Load a SentencePiece model; a ValueError says why it is none."""
    import sentencepiece

    if not model:  # taken without a word, and every call then writes to stderr
        raise ValueError("it is empty")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError("not in SentencePiece's format") from error


def _pieces(processor: Any) -> list[str]:
    return [processor.id_to_piece(i) for i in range(1, processor.get_piece_size())]


def tokenizer_from_json(data: Any, path: Path) -> Tokenizer:
    """Return the tokenizer that the content of a ``tokenizer.json`` describes.

    Raises:
        CheckpointError: it is not a description this version knows.
    """
    kinds = ("char", *get_args(SubwordKind))
    kind: Any = data.get("kind") if isinstance(data, dict) else type(data).__name__
    if not isinstance(data, dict) or kind not in kinds:
        expected = ", ".join(f"'{k}'" for k in kinds)
        raise CheckpointError(f"not a tokenizer this version knows (kind {kind!r}, expected one of {expected})", path)
    if data.get("blank_id", BLANK_ID) != BLANK_ID:
        raise CheckpointError(f"blank_id must be {BLANK_ID}, got {data['blank_id']!r}", path)
    key = "symbols" if kind == "char" else "pieces"
    symbols = data.get(key)
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
        raise CheckpointError(f"{key} must be a list of strings", path)

    try:
        if kind == "char":
            return CharTokenizer(tuple(symbols))
        model = base64.b64decode(data.get("sentencepiece", ""), validate=True)
        return SubwordTokenizer(kind, tuple(symbols), model)
    except (TypeError, ValueError) as error:
        raise CheckpointError("sentencepiece must be a model file in base64", path) from error
    except ConfigError as error:
        raise CheckpointError(str(error), path) from error


def find_tokenizer(path: Path) -> Path:
    """Return the file of a tokenizer: the path itself, or that of a model or data folder, or of a run's best model."""
    folder = path / "best" if (path / "best" / FILE).is_file() else path
    return folder / FILE if folder.is_dir() else folder


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` file.

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
