"""Pieces of words as tokens, trained by SentencePiece: here, or elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer, check_symbols
from asr.errors import CheckpointError, ConfigError, DataError, os_reason
from asr.limits import TOKENS

SubwordKind = Literal["bpe", "unigram"]
#: SentencePiece's name of the unknown piece: it does not split this text into characters
_UNKNOWN = "<unk>"


@dataclass(frozen=True)
class SubwordTokenizer(Tokenizer):
    """Pieces of words as tokens, by SentencePiece's BPE or unigram model.

    The tokens are the model's pieces that write text, in its order. Others never come out: the unknown piece (of models
    trained here it is id 0, so that every other id is the same in both), control symbols such as ``<s>``, and bytes.
    Decoding needs the pieces alone; encoding needs the SentencePiece model, which is read on first use.

    Source: Sennrich et al. 2016 (BPE); Kudo 2018 (unigram); Kudo and Richardson 2018 (SentencePiece).
    """

    kind: SubwordKind
    symbols: tuple[str, ...]
    #: a SentencePiece model as its own file format has it
    model: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_symbols(self.symbols)
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

        # A character that is in this mark alone would become unknown with it.
        if lost := set(_UNKNOWN) & characters - set("".join(rows).replace(_UNKNOWN, "")):
            c = min(lost)
            raise DataError(
                f"character {c!r} (U+{ord(c):04X}) is only in '{_UNKNOWN}': SentencePiece keeps it to itself"
            )

        least = len(characters - {" "}) + 2  # and the mark of a word's start, and the blank
        if vocabulary_size < least:
            raise ConfigError(
                f"a vocabulary of {vocabulary_size} tokens is too small: the texts have {len(characters)} characters, "
                f"so at least {least} are needed; give --vocab-size {least} or more"
            )

        model = _train_sentencepiece(rows, vocabulary_size, kind)
        tokenizer = cls(kind, tuple(_pieces(load_processor(model))), model)
        left_out = tokenizer.unknown("".join(sorted(characters)))
        if left_out:  # SentencePiece leaves out sentences that it finds odd
            raise DataError(f"SentencePiece leaves out the character {left_out[0]!r} (U+{ord(left_out[0]):04X})")
        return tokenizer

    @classmethod
    def read(cls, path: Path) -> SubwordTokenizer:
        """Read a SentencePiece model that was trained elsewhere; its own normalisation stays part of encoding.

        Raises:
            ConfigError: the file is missing, is no such model, is one of characters or whole words, or has a piece that
                no decoder here takes, as one with a space inside. The line names the file.
        """
        try:
            model = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot read: {os_reason(error)}") from error
        try:
            processor = load_processor(model)
            pieces = tuple(_pieces(processor))
            kind = _model_type(model)
        except ValueError as error:  # a piece that is not UTF-8 too
            raise ConfigError(f"{path}: not a SentencePiece model ({error}); expected the .model file") from error

        if kind not in ("bpe", "unigram"):
            hint = "; for characters leave --tokenizer out" if kind == "char" else ""
            raise ConfigError(f"{path}: a SentencePiece model of type {kind}, expected bpe or unigram{hint}")
        if not 0 < len(pieces) <= TOKENS:
            raise ConfigError(f"{path}: {len(pieces):,} pieces that write text, expected 1 to {TOKENS:,}")
        for piece in pieces:
            if WORD_START in piece[1:] or " " in piece:
                raise ConfigError(
                    f"{path}: the piece {piece!r} has a space inside or at its end, and beam search takes spaces at "
                    "the start only; train with split_by_whitespace=true and treat_whitespace_as_suffix=false"
                )
        try:
            return cls(cast(SubwordKind, kind), pieces, model)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @cached_property
    def characters(self) -> dict[str, int]:
        # Every character has a piece of its own: training asks for all, here and (but for rare ones) elsewhere.
        written = (s.replace(WORD_START, " ") for s in self.symbols)
        return dict(sorted((s, i) for i, s in enumerate(written, start=1) if len(s) == 1))

    @cached_property
    def _sentencepiece(self) -> Any:
        try:
            processor = load_processor(self.model)
            pieces = tuple(_pieces(processor))
        except ValueError as error:  # a piece that is not UTF-8 too
            raise CheckpointError(f"tokenizer: its SentencePiece model is damaged ({error})") from error
        if pieces != self.symbols:
            raise CheckpointError("tokenizer: its pieces are not those of its SentencePiece model")
        return processor

    @cached_property
    def _own_ids(self) -> dict[int, int]:
        """Our id of each of SentencePiece's that writes text."""
        return {piece: i for i, piece in enumerate(_written(self._sentencepiece), start=1)}

    def encode(self, text: str) -> list[int]:
        if self.unknown(text):
            raise DataError(self.unknown_message(text))
        ids = self._ids(text)
        if BLANK_ID in ids:
            raise CheckpointError(f"tokenizer: its SentencePiece model cannot write {text!r}")
        return ids

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text, with the blank's in place of what no token writes."""
        encoded = self._sentencepiece.encode(text)  # first: it refuses a model that is not ours
        own = self._own_ids
        return [own.get(i, BLANK_ID) for i in encoded]

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters that cannot be encoded, in order, as the model's own rules write them."""
        unknown = super().unknown(text)
        if not unknown or any(c == WORD_START or "\ud800" <= c <= "\udfff" for c in unknown):
            return unknown
        # The model's own rules may bring a character to its pieces, or a piece of several letters write it.
        if BLANK_ID not in self._ids(text):
            return []
        normalized = self._sentencepiece.normalize(text).replace(WORD_START, " ")
        return super().unknown(normalized) or unknown

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


def load_processor(model: bytes) -> Any:
    """Load a SentencePiece model; a ValueError says why it is none."""
    import sentencepiece

    if not model:  # taken without a word, and every call then writes to stderr
        raise ValueError("it is empty")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError("not in SentencePiece's format") from error


def _written(processor: Any) -> list[int]:
    """Return SentencePiece's ids of the pieces that write text."""
    marks = (processor.is_unknown, processor.is_control, processor.is_unused, processor.is_byte)
    return [i for i in range(processor.get_piece_size()) if not any(is_mark(i) for is_mark in marks)]


def _pieces(processor: Any) -> list[str]:
    return [processor.id_to_piece(i) for i in _written(processor)]


def _model_type(model: bytes) -> str:
    """Return a model's type: trainer_spec (field 2) . model_type (field 3) of its protocol buffer, unigram if unset.

    Source: sentencepiece_model.proto. The package's own reader of it needs protobuf, which nothing else here does.
    """
    types = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
    number = 1
    for spec in _fields(model).get(2, []):
        number = _fields(spec).get(3, [number])[-1]
    return types.get(number, f"number {number}")


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Return the values of a protocol buffer's message by field: numbers, or bytes.

    Raises:
        ValueError: it is cut, or has a wire type that the format gave up.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message):
                raise ValueError("it is cut")
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    fields: dict[int, list[Any]] = {}
    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            fields.setdefault(number, []).append(varint())
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire}")
        size = varint() if wire == 2 else {1: 8, 5: 4}[wire]
        if at + size > len(message):
            raise ValueError("it is cut")
        fields.setdefault(number, []).append(message[at : at + size])
        at += size
    return fields
