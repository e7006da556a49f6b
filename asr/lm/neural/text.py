"""The text of a neural language model: sentences as tokens, held-out ones apart, windows of streams to train on.

Axes: n sentences, t steps of a window, b streams.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID, CharTokenizer, SubwordKind, SubwordTokenizer, Tokenizer
from asr.errors import ConfigError, DataError
from asr.lm.model import BEGIN, END, UNK

Ints = npt.NDArray[np.int64]
#: what words a text may not have, as n-gram models have none of them either
_SYMBOLS = frozenset((BEGIN, END, UNK))
#: no target there
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
    def lengths_n(self) -> Ints:
        """Tokens of each sentence."""
        return np.diff(self.starts_n)

    @property
    def characters(self) -> int:
        return int(self.characters_n.sum())

    def sentence(self, n: int) -> list[int]:
        row: list[int] = self.tokens[self.starts_n[n] : self.starts_n[n + 1]].tolist()
        return row


@dataclass
class Reading:
    """What was read: the tokenizer, sentences to train on and to measure on, and what was left out."""

    tokenizer: Tokenizer
    train: Corpus
    held_out: Corpus
    sha256: str
    #: sentences left out, and their unknown characters with how many sentences have them
    left_out: int = 0
    unknown: Counter[str] = field(default_factory=Counter)


def is_held_out(sentence: str, fraction: float) -> bool:
    """Whether a sentence is measured on: by its hash, so that the same sentence is never on both sides.

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
    kind: SubwordKind = "bpe",
    held_out: float = 0.05,
    progress: Callable[[int], None] = lambda sentences: None,
) -> Reading:
    """A text, a sentence a line, as tokens; white space is collapsed, an empty line is a sentence without words.

    Args:
        tokenizer: a sentence with characters that it does not know is left out and counted.
        subwords: without a tokenizer, train one of this size; else it is the characters of the text.
        held_out: the share of sentences to measure on.

    Raises:
        DataError: there are not two different sentences, or a word is ``<s>``, ``</s>`` or ``<unk>``.
        ConfigError: subwords of that number cannot be made of the text.
    """
    digest = hashlib.sha256()
    sides: tuple[_Side, _Side] = (_Side(), _Side())
    reading = Reading(tokenizer or CharTokenizer(()), sides[0].corpus(), sides[1].corpus(), "")
    rows: list[str] = []
    characters: dict[str, int] = {}  # ids in the order of appearance, made those of the tokenizer at the end

    def add(text: str) -> None:
        side = sides[is_held_out(text, held_out)]
        if tokenizer is not None:
            if unknown := tokenizer.unknown(text):
                reading.left_out += 1
                reading.unknown.update(unknown)
                return
            side.add(tokenizer.encode(text), text)
        else:
            side.add([characters.setdefault(c, len(characters) + 1) for c in text], text)

    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not _SYMBOLS.isdisjoint(words):
            symbol = next(word for word in words if word in _SYMBOLS)
            raise DataError(
                f"line {number:,} of the text has the word {symbol}, which a language model keeps for itself"
            )
        text = " ".join(words)
        digest.update(text.encode() + b"\n")
        if tokenizer is None and subwords is not None:
            rows.append(text)
        else:
            add(text)
        if number % 10_000 == 0:
            progress(number)
    if rows:
        try:
            tokenizer = reading.tokenizer = SubwordTokenizer.train([row for row in rows if row], subwords or 0, kind)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--vocab-size", "--subwords"), key="subwords") from error
        for row in rows:
            add(row)
    reading.train, reading.held_out = sides[0].corpus(), sides[1].corpus()
    reading.sha256 = digest.hexdigest()
    if tokenizer is None:
        reading.tokenizer = CharTokenizer(tuple(sorted(characters)))
        final = np.array([0, *reading.tokenizer.encode("".join(characters))])
        for corpus in (reading.train, reading.held_out):
            corpus.tokens = final[corpus.tokens].astype(corpus.tokens.dtype)
    _check(reading, held_out)
    return reading


def _check(reading: Reading, fraction: float) -> None:
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
    if not reading.tokenizer.symbols or not len(reading.train.tokens):
        raise DataError("no text to train a language model on: all lines are empty")


class _Side:
    """Sentences as they come in; two bytes a token as long as that is enough."""

    def __init__(self) -> None:
        self.tokens, self.lengths, self.characters = array("H"), array("q"), array("q")

    def add(self, tokens: Sequence[int], text: str) -> None:
        try:
            self.tokens.extend(tokens)
        except OverflowError:  # what fitted before the large one is in there already
            kept = sum(self.lengths)
            self.tokens = array("i", self.tokens[:kept])
            self.tokens.extend(tokens)
        self.lengths.append(len(tokens))
        self.characters.append(len(text) + 1)

    def corpus(self) -> Corpus:
        starts_n = np.concatenate([[0], np.cumsum(np.array(self.lengths, np.int64))]).astype(np.int64)
        return Corpus(np.array(self.tokens), starts_n, np.array(self.characters, np.int64))


class Streams:
    """One epoch: sentences in a random order, one behind the other in streams of the same length, cut into windows.

    Before each sentence stand the reset (``vocabulary_size``) and the boundary; behind the last of a stream, resets.
    """

    def __init__(self, corpus: Corpus, vocabulary_size: int, streams: int, window: int, order_n: Ints) -> None:
        self.window = window
        lengths_n = corpus.lengths_n[order_n] + 2
        ends_n = np.cumsum(lengths_n)
        # a sentence belongs to the stream that its middle falls into: streams of nearly the same length
        stream_n = np.minimum((ends_n - lengths_n / 2) * streams // ends_n[-1], streams - 1).astype(np.int64)
        starts_b = np.searchsorted(stream_n, np.arange(streams))
        before_n = ends_n - lengths_n
        first_b = np.append(before_n, ends_n[-1])[starts_b]
        at_n = before_n - first_b[stream_n]
        length = int((at_n + lengths_n).max())
        self.steps = -(-length // window) * window
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
        """Windows."""
        return self.steps // self.window

    def __getitem__(self, i: int) -> tuple[Ints, Ints]:
        """Inputs and targets of a window. Shapes: (t, b) both."""
        span = slice(i * self.window, (i + 1) * self.window)
        return self.inputs_bt[:, span].T.astype(np.int64), self.targets_bt[:, span].T.astype(np.int64)
