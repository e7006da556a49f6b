"""An earlier tokenizer that also writes new texts: its tokens with their ids, and behind them new ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asr.data.pieces import PieceTokenizer
from asr.data.tokenizer import WORD_START, CharTokenizer, Tokenizer
from asr.errors import ConfigError


def extended(tokenizer: Tokenizer, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer with a new token for each character that the texts have and it cannot write.

    >>> extended(CharTokenizer(("b", "a")), ["cab", "add"]).symbols
    ('b', 'a', 'c', 'd')

    Raises:
        ConfigError: its tokens were learnt from texts (bpe, unigram): none can be added.
    """
    if isinstance(tokenizer, CharTokenizer):
        new = {c for text in texts for c in tokenizer.unknown(text)}
        return CharTokenizer((*tokenizer.symbols, *sorted(new)))
    if isinstance(tokenizer, PieceTokenizer):
        return _extended_pieces(tokenizer, list(texts))
    raise ConfigError(
        f"text.tokenizer: init+ adds tokens to characters and pieces, and those of train.init are of kind "
        f"{tokenizer.kind}: set it to init, or to char for a new vocabulary",
        key="text.tokenizer",
    )


def _extended_pieces(tokenizer: PieceTokenizer, texts: Sequence[str]) -> PieceTokenizer:
    # In two rounds: whether a space is missing shows once the letters are there.
    for _ in range(2):
        new = {c for text in texts for c in tokenizer.unknown(text)}
        begins_words = any(symbol[0] == WORD_START for symbol in tokenizer.symbols)
        symbols = [WORD_START if c == " " and begins_words else c for c in sorted(new)]
        tokenizer = PieceTokenizer((*tokenizer.symbols, *symbols))
    return tokenizer
