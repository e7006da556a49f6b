"""A tokenizer of ours in the files of ``transformers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer

#: names for the blank: the first that is no token of the model is taken
_BLANKS = ("<pad>", "[PAD]", "<blank>", "[BLANK]")
_SPACE = "|"


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the files of a tokenizer whose ids are ours, by name."""
    settings = _settings(tokenizer)
    blank = settings["pad_token"]
    settings["processor_class"] = "Wav2Vec2Processor"
    # Wav2Vec2CTCTokenizer loses the spaces beside tokens of several letters, and knows no other sign for them than "|".
    if any(len(symbol) > 1 or symbol == _SPACE for symbol in tokenizer.symbols):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        merge = {"type": "CTC", "pad_token": blank, "word_delimiter_token": WORD_START, "cleanup": False}
        return {"tokenizer.json": _pieces(tokenizer, blank, [merge]), "tokenizer_config.json": settings}

    tokens = [blank, *(_SPACE if symbol == " " else symbol for symbol in tokenizer.symbols)]
    settings |= {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": _SPACE, "do_lower_case": False}
    return {
        "vocab.json": {token: i for i, token in enumerate(tokens)},
        "tokenizer_config.json": settings | {"replace_word_delimiter_char": " "},
    }


def parakeet_tokenizer_files(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the same for ``ParakeetTokenizer``, which merges repeats and drops blanks by itself."""
    settings = _settings(tokenizer)
    settings |= {"tokenizer_class": "ParakeetTokenizer", "processor_class": "ParakeetProcessor"}
    document = _pieces(tokenizer, settings["pad_token"])
    return {"tokenizer.json": document, "tokenizer_config.json": settings}


def _settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what ``tokenizer_config.json`` has for all kinds."""
    return {
        "pad_token": next(name for name in _BLANKS if name not in tokenizer.symbols),
        # None: with names, transformers would give them ids above the network's outputs.
        "bos_token": None,
        "eos_token": None,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
    }


def _pieces(tokenizer: Tokenizer, blank: str, merge: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of pieces of words, in the format of the library ``tokenizers``.

    All pieces have one score, so that a text is written with the fewest of them.

    Args:
        merge: decoders that make tokens of steps.
    """
    words = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": True}
    has_words = any(symbol[0] == WORD_START for symbol in tokenizer.symbols)
    # Without any decoder, tokens would be written with spaces between them.
    decoders = [*merge, words] if has_words else [*merge] or [{"type": "Fuse"}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": BLANK_ID,
                "content": blank,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": words if has_words else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "Unigram",
            "unk_id": None,
            "vocab": [[blank, 0.0], *([symbol, -1.0] for symbol in tokenizer.symbols)],
            "byte_fallback": False,
        },
    }
