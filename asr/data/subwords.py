"""Pieces of words as tokens, trained by SentencePiece."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer, check_symbols
from asr.errors import CheckpointError, ConfigError, DataError

SubwordKind = Literal["bpe", "unigram"]
#: SentencePiece's name of the unknown piece: it does not split this text into characters
_UNKNOWN = "<unk>"


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

    @cached_property
    def characters(self) -> dict[str, int]:
        # Every character has a piece of its own: training asks for all, and what it gives is checked.
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

    def encode(self, text: str) -> list[int]:
        if any(c not in self.characters for c in text):
            raise DataError(self.unknown_message(text))
        ids: list[int] = self._sentencepiece.encode(text)
        if ids and not BLANK_ID < min(ids) <= max(ids) <= len(self.symbols):
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


def load_processor(model: bytes) -> Any:
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
