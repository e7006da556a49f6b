"""The tokens of a NeMo model: which column of its head writes what. The blank is the last column.

Columns that write nothing (``<unk>`` and other marks of SentencePiece) are left out: the others share what they have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr.data.pieces import PieceTokenizer
from asr.data.subwords import SubwordTokenizer, load_processor
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.limits import TOKENS
from asr.model.hf.vocabulary import guess_profile


@dataclass(frozen=True)
class NemoVocabulary:
    """The tokens of a model, and the columns of its head that they are read from."""

    tokenizer: Tokenizer
    #: the column of each of our ids: the blank first
    columns: tuple[int, ...]
    #: the profile that brings ordinary text to the model's letters: a guess
    profile: str
    #: what a person should know of it
    note: str


def of_labels(labels: tuple[str, ...], outputs: int, path: Path) -> NemoVocabulary:
    """Return the vocabulary of a model whose config lists its letters.

    Raises:
        CheckpointError: they are not as many as the head has outputs, or no tokens.
    """
    _check_count(len(labels), outputs, path)
    try:
        is_char = all(len(label) == 1 for label in labels)
        tokenizer: Tokenizer = CharTokenizer(labels) if is_char else PieceTokenizer(labels)
    except ConfigError as error:
        raise CheckpointError(str(error), path) from error
    return _vocabulary(tokenizer, range(outputs - 1), outputs)


def of_sentencepiece(model: bytes, outputs: int, path: Path) -> NemoVocabulary:
    """Return the vocabulary of a model with pieces of words, by its SentencePiece model.

    Raises:
        CheckpointError: the SentencePiece model is damaged, or has not as many pieces as the head has outputs.
    """
    try:
        processor = load_processor(model)
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    except ValueError as error:  # a piece that is not UTF-8, too
        raise CheckpointError(f"its tokenizer is no whole SentencePiece model ({error})", path) from error
    _check_count(len(pieces), outputs, path)

    marks = (processor.is_unknown, processor.is_control, processor.is_unused, processor.is_byte)
    written = [i for i in range(len(pieces)) if not any(is_mark(i) for is_mark in marks)]
    symbols = tuple(pieces[i] for i in written)
    try:
        # Our tokenizer has the blank in the place of the unknown piece, which is the first nearly always.
        if written == list(range(1, len(pieces))):
            is_bpe = all(processor.get_score(i).is_integer() for i in written)  # ranks; of unigrams, log-probabilities
            tokenizer: Tokenizer = SubwordTokenizer("bpe" if is_bpe else "unigram", symbols, model)
        else:
            tokenizer = PieceTokenizer(symbols)
    except ConfigError as error:
        raise CheckpointError(str(error), path) from error
    return _vocabulary(tokenizer, written, outputs)


def _check_count(tokens: int, outputs: int, path: Path) -> None:
    if outputs > TOKENS:
        raise CheckpointError(f"the head has {outputs:,} outputs, at most {TOKENS:,} are read", path)
    if tokens + 1 != outputs:
        raise CheckpointError(
            f"the head has {outputs:,} outputs, which are not the {tokens:,} tokens of its vocabulary and the blank",
            path,
        )


def _vocabulary(tokenizer: Tokenizer, written: range | list[int], outputs: int) -> NemoVocabulary:
    profile, why = guess_profile(tokenizer.symbols)
    note = f"text normalization {profile} is a guess from it ({why})"
    if silent := outputs - 1 - len(written):
        note += f"; outputs that write nothing, left out: {silent}"
    return NemoVocabulary(tokenizer, (outputs - 1, *written), profile, note)
