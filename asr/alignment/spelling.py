"""Write a text as a model would write it, with the way back to the words of its author."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from asr.data.text import NORMALIZATIONS, normalize
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.errors import DataError


class Spelling(NamedTuple):
    """Hold a text as the model writes it, and as its author did."""

    #: normalised
    text: str
    #: each word as its author wrote it, and how many normalised words it is
    words: list[tuple[str, int]]
    #: marks of the author between the words that nobody says, such as a dash
    unspoken: list[str]


def spell_for(tokenizer: Tokenizer, text: str, normalization: str) -> Spelling:
    """Return a text under a normalisation profile, as the tokenizer can write it.

    A letter that the tokenizer has in the other case only is taken in that case.

    Raises:
        DataError: the tokenizer cannot write it; the characters and their words are named, with what to do.
    """
    whole = in_case_of(tokenizer, normalize(text, normalization))
    if tokenizer.unknown(whole):
        raise DataError(_unknown_characters(text, tokenizer, normalization))

    author_words = text.split()
    sizes = [len(normalize(word, normalization).split()) for word in author_words]
    if sum(sizes) != len(whole.split()):  # a profile that looks beyond the word: the normalised words are taken
        return Spelling(whole, [(word, 1) for word in whole.split()], [])
    words = [(word, size) for word, size in zip(author_words, sizes, strict=True) if size]
    unspoken = [word for word, size in zip(author_words, sizes, strict=True) if not size]
    return Spelling(whole, words, unspoken)


def in_case_of(tokenizer: Tokenizer, text: str) -> str:
    """Return the text with letters that the tokenizer cannot write in the other case, if it can write that."""
    swapped = {c: c.swapcase() for c in tokenizer.unknown(text)}
    return text.translate({ord(c): other for c, other in swapped.items() if set(other) <= tokenizer.characters.keys()})


def _unknown_characters(text: str, tokenizer: Tokenizer, normalization: str) -> str:
    """Return one line about the characters of a text that the model cannot write."""
    word_of: dict[str, str] = {}
    for word in normalize(text, normalization).split():
        for c in tokenizer.unknown(in_case_of(tokenizer, word)):
            word_of.setdefault(c, word)
    if not word_of:  # words, but no space between them
        return "the text has several words, and the model's vocabulary no space: give one word"

    first = itertools.islice(word_of.items(), 3)
    named = ", ".join(f"{c!r} (U+{ord(c):04X}) in the word {word!r}" for c, word in first)
    more = f", and {len(word_of) - 3:,} more" if len(word_of) > 3 else ""
    known = "".join(dict.fromkeys(c for symbol in tokenizer.symbols for c in symbol if c != WORD_START))
    known = repr(known[:60]) + ("…" if len(known) > 60 else "")
    return f"unknown character {named}{more}; the model writes {known}: {_remedy(text, tokenizer, len(word_of))}"


def _remedy(text: str, tokenizer: Tokenizer, num_unknown: int) -> str:
    """Say how to write the text: under the profile that leaves the fewest unknown characters, if it helps."""
    under = {profile: normalize(text, profile) for profile in NORMALIZATIONS}
    left = {profile: tokenizer.unknown(in_case_of(tokenizer, own)) for profile, own in under.items()}
    best = min(left, key=lambda profile: (len(left[profile]), len(tokenizer.unknown(under[profile]))))
    if len(left[best]) >= num_unknown:
        return "write it as it is spoken, in letters of the model"

    remedy = f"use --normalization {best} (in Python normalization={best!r})"
    if left[best]:
        rest = ", ".join(map(repr, left[best][:5])) + (", …" if len(left[best]) > 5 else "")
        remedy += f", and write {rest} as it is spoken"
    return remedy
