"""The words of a text and their ids, in blocks of lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from asr.errors import DataError
from asr.lm.arrays import BEGIN, END, UNK, Ints

BEGIN_ID, END_ID = 1, 2
#: words that a text may not have; readers of ARPA files take the last for <unk>
SYMBOLS = (UNK, BEGIN, END, "<UNK>")
#: what ``str.split`` takes for white space, beyond ASCII
_SPACES = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
#: characters that are turned into ids at a time
_BLOCK = 1 << 21


@dataclass(frozen=True)
class TextBlock:
    """Some lines of text as ids, each between those of <s> and </s>."""

    tokens: Ints
    num_lines: int


class TextWords:
    """The words of a text by id, in the order in which they came; <unk>, <s> and </s> are the first three.

    Args:
        skip_symbols: Leave out <s>, </s> and <unk> in the text, which are an error otherwise.
    """

    def __init__(self, skip_symbols: bool = False) -> None:
        from asr.lm.compiled.text import hash_text  # compiles

        self.words = [UNK, BEGIN, END]
        self._skip_symbols = skip_symbols
        self._hashes = np.full(1 << 16, -1, np.int64)
        self._ids = np.zeros(1 << 16, np.int32)
        for symbol in SYMBOLS:
            hashed, _ = hash_text(np.frombuffer(f"{symbol}\n".encode(), np.uint8), 0)
            self._enter(np.array([hashed]), np.array([-1], np.int32))

    def blocks(self, lines: Iterable[str]) -> Iterator[TextBlock]:
        """Yield a text as ids, some lines at a time.

        Raises:
            DataError: the text contains <s>, </s> or <unk>; the line is named.
        """
        block: list[str] = []
        size = done = 0
        for line in lines:
            block.append(line)
            size += len(line) + 1
            if size >= _BLOCK:
                yield self._block(block, done)
                done += len(block)
                block = []
                size = 0
        if block:
            yield self._block(block, done)

    def _block(self, lines: list[str], lines_before: int) -> TextBlock:
        from asr.lm.compiled.text import word_ids  # compiles

        text = "\n".join(lines)
        if text.count("\n") >= len(lines):  # lines that kept their ends
            text = "\n".join(line.replace("\n", " ") for line in lines)
        if not text.isascii():
            text = _SPACES.sub(" ", text)
        data = np.frombuffer((text + "\n").encode(), np.uint8)

        tokens = np.empty(len(data) // 2 + 1 + 2 * len(lines), np.int32)
        starts = np.empty(len(data) // 2 + 1, np.int64)
        at = num_tokens = 0
        while at < len(data):
            # The table is at most half full.
            known = len(self.words)
            most_words = len(self._hashes) // 2 - len(SYMBOLS)
            at, written, num_words, forbidden = word_ids(
                data,
                at,
                self._hashes,
                self._ids,
                known,
                most_words,
                BEGIN_ID,
                END_ID,
                self._skip_symbols,
                tokens[num_tokens:],
                starts,
            )
            for start in starts[: num_words - known].tolist():
                self.words.append(data[start : start + _word_length(data, start)].tobytes().decode())
            if forbidden >= 0:
                line = lines_before + 1 + int(np.count_nonzero(data[:forbidden] == ord("\n")))
                symbol = data[forbidden : forbidden + _word_length(data, forbidden)].tobytes().decode()
                raise DataError(
                    f"line {line:,} of the text has the word {symbol}, which the model keeps for itself; "
                    "remove it, or leave it out with skip_symbols"
                )
            num_tokens += written
            if at < len(data):
                self._grow()
        return TextBlock(tokens[:num_tokens].copy(), len(lines))

    def _grow(self) -> None:
        used = self._hashes != -1
        hashes, ids = self._hashes[used], self._ids[used]
        self._hashes = np.full(2 * len(self._hashes), -1, np.int64)
        self._ids = np.zeros(2 * len(self._ids), np.int32)
        self._enter(hashes, ids)

    def _enter(self, hashes: np.ndarray, ids: Ints) -> None:
        from asr.lm.compiled.ngram import insert_all  # compiles

        insert_all(self._hashes, self._ids, hashes, ids)


def _word_length(data: np.ndarray, start: int) -> int:
    from asr.lm.compiled.text import hash_text  # compiles

    return int(hash_text(data, start)[1]) - start
