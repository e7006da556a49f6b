"""The text of a neural language model: sentences as tokens, held-out ones apart, windows of streams to train on.

Axes: n sentences, t steps of a window, b streams.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer import BLANK_ID, CharTokenizer, Tokenizer
from asr.errors import ConfigError, DataError
from asr.lm.arrays import BEGIN, END, UNK

Ints = npt.NDArray[np.int64]
#: words that a text may not have, as for n-gram models
_SYMBOLS = frozenset((BEGIN, END, UNK))
#: marks a step without a target
NO_TARGET = -1


@dataclass
class Corpus:
    """Sentences as tokens, one behind the other. Shapes: ``starts_n`` has one more, the end."""

    tokens: npt.NDArray[Any]
    starts_n: Ints
    #: characters of each sentence, its end counted as one
    characters_n: Ints

    def __len__(self) -> int:
        return len(self.characters_n)

    @property
    def characters(self) -> int:
        return int(self.characters_n.sum())

    def sentence(self, n: int) -> list[int]:
        row: list[int] = self.tokens[self.starts_n[n] : self.starts_n[n + 1]].tolist()
        return row


@dataclass(frozen=True)
class Reading:
    """A text as tokens: the tokenizer, sentences to train on and to measure on, and what was left out."""

    tokenizer: Tokenizer
    train: Corpus
    held_out: Corpus
    sha256: str
    #: sentences left out, and their unknown characters with how many sentences have them
    left_out: int
    unknown: Counter[str]


def is_held_out(sentence: str, fraction: float) -> bool:
    """Decide by its hash whether a sentence is measured on, so that the same sentence is never on both sides.

    >>> sum(is_held_out(f"sentence {i}", 0.1) for i in range(1000))
    97
    """
    digest = hashlib.blake2b(sentence.encode(), digest_size=8, person=b"held out").digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def read(
    lines: Iterable[str],
    tokenizer: Tokenizer | None = None,
    *,
    subwords: int | None = None,
    held_out: float = 0.05,
    progress: Callable[[int], None] = lambda sentences: None,
) -> Reading:
    """Read a text, a sentence per line, as tokens. White space is collapsed; an empty line is a sentence without words.

    Args:
        tokenizer: A sentence with characters that it does not know is left out and counted.
        subwords: Without a tokenizer, train one of this size; else it is the characters of the text.
        held_out: The share of sentences to measure on.

    Raises:
        DataError: there are not two different sentences, or a word is ``<s>``, ``</s>`` or ``<unk>``.
        ConfigError: subwords of that number cannot be made of the text.
    """
    texts = _collapse(lines, progress)
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    if tokenizer is None:
        tokenizer = _make_tokenizer(texts, subwords)

    sides: tuple[list[str], list[str]] = ([], [])
    unknown: Counter[str] = Counter()
    for text in texts:
        if strange := tokenizer.unknown(text):
            unknown.update(strange)
        else:
            sides[is_held_out(text, held_out)].append(text)
    train, measured = (_encode(side, tokenizer) for side in sides)
    left_out = len(texts) - len(train) - len(measured)
    reading = Reading(tokenizer, train, measured, digest.hexdigest(), left_out, unknown)
    _check(reading, held_out)
    return reading


def _collapse(lines: Iterable[str], progress: Callable[[int], None]) -> list[str]:
    """Return the lines with single spaces between words; refuse a text with the model's own symbols."""
    texts = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not _SYMBOLS.isdisjoint(words):
            symbol = next(word for word in words if word in _SYMBOLS)
            raise DataError(
                f"line {number:,} of the text has the word {symbol}, which a language model keeps for itself"
            )
        texts.append(" ".join(words))
        if number % 10_000 == 0:
            progress(number)
    return texts


def _make_tokenizer(texts: Sequence[str], subwords: int | None) -> Tokenizer:
    """Return the characters of a text as tokens, or subwords trained on it."""
    if subwords is None:
        return CharTokenizer(tuple(sorted(set().union(*texts))))
    try:
        return SubwordTokenizer.train([text for text in texts if text], subwords)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--vocab-size", "--subwords"), key="subwords") from error


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> Corpus:
    tokens = array("H" if tokenizer.vocabulary_size <= 2**16 else "i")
    lengths = array("q")
    for text in texts:
        ids = tokenizer.encode(text)
        tokens.extend(ids)
        lengths.append(len(ids))
    starts_n = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(np.array(tokens), starts_n, np.array([len(text) + 1 for text in texts], np.int64))


def _check(reading: Reading, fraction: float) -> None:
    """Refuse a text that leaves nothing to train on or nothing to measure on."""
    count = len(reading.train) + len(reading.held_out)
    if not count:
        why = ""
        if reading.left_out:
            shown = ", ".join(repr(c) for c, _ in reading.unknown.most_common(5))
            symbols = "".join(s for s in reading.tokenizer.symbols if len(s) == 1)
            why = f": all {reading.left_out:,} have unknown characters ({shown}; the tokenizer writes {symbols!r})"
        raise DataError(f"no text to train a language model on: there is not one usable line{why}")
    if not len(reading.train) or not len(reading.held_out):
        raise DataError(
            f"too little text: of {count:,} sentences {len(reading.held_out):,} are held out to measure on "
            f"(a share of {fraction:g}, by their hashes); give more text or another held_out"
        )
    if not len(reading.train.tokens):
        raise DataError("no text to train a language model on: all lines are empty")


class Streams:
    """One epoch: sentences in a random order, one behind the other in streams of the same length, cut into windows.

    Before each sentence stand the reset (``vocabulary_size``) and the boundary; behind the last of a stream, resets.
    """

    def __init__(self, corpus: Corpus, vocabulary_size: int, streams: int, window: int, order_n: Ints) -> None:
        self.window = window
        lengths_n = np.diff(corpus.starts_n)[order_n] + 2
        ends_n = np.cumsum(lengths_n)
        before_n = ends_n - lengths_n

        # A sentence belongs to the stream that its middle falls into: streams of nearly the same length.
        stream_n = np.minimum((ends_n - lengths_n / 2) * streams // ends_n[-1], streams - 1).astype(np.int64)
        starts_b = np.searchsorted(stream_n, np.arange(streams))
        first_b = np.append(before_n, ends_n[-1])[starts_b]
        at_n = before_n - first_b[stream_n]

        length = int((at_n + lengths_n).max())
        self.steps = math.ceil(length / window) * window
        kind = np.int32 if vocabulary_size >= 2**15 else np.int16
        self.inputs_bt = np.full((streams, self.steps), vocabulary_size, kind)
        self.targets_bt = np.full((streams, self.steps), NO_TARGET, kind)
        for place, n in enumerate(order_n.tolist()):
            tokens = corpus.tokens[corpus.starts_n[n] : corpus.starts_n[n + 1]]
            b, t = stream_n[place], at_n[place] + 1
            self.inputs_bt[b, t] = BLANK_ID
            self.inputs_bt[b, t + 1 : t + 1 + len(tokens)] = tokens
            self.targets_bt[b, t : t + len(tokens)] = tokens
            self.targets_bt[b, t + len(tokens)] = BLANK_ID

    def __len__(self) -> int:
        """Return the number of windows."""
        return self.steps // self.window

    def __getitem__(self, i: int) -> tuple[Ints, Ints]:
        """Return inputs and targets of a window. Shapes: (t, b) both."""
        span = slice(i * self.window, (i + 1) * self.window)
        return self.inputs_bt[:, span].T.astype(np.int64), self.targets_bt[:, span].T.astype(np.int64)
