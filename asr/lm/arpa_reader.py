"""Reading of ARPA files, the text form of a back-off n-gram model. ``docs/ngram.md`` has the rules."""

from __future__ import annotations

import codecs
import gzip
import io
import mmap
import re
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from asr.errors import AsrError, DataError, os_reason
from asr.lm.model import (
    BEGIN,
    END,
    LN10,
    MAX_ORDER,
    MISSING_UNK_LOG10_PROB,
    MOST_BACKOFF_LOG10,
    UNK,
    Floats,
    NgramArrays,
    NgramModel,
    table_slots,
)

GZIP_MAGIC = b"\x1f\x8b"
_KENLM = b"mmap lm http://kheafield.com/code"
_TEXT = re.compile(rb"\S")
#: the line that the counts follow. The CMU toolkit explains the format in a preamble, where this stands inside a line
_DATA = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t]*\\data\\[ \t\r]*$", re.MULTILINE)
_COUNT = re.compile(rb"ngram\s*(\d{1,18})\s*=\s*(\d{1,18})")
#: SRILM's reader asks for no colon, and its manual page has the singular
_SECTION = re.compile(rb"\\\s*(\d{1,18})\s*-\s*grams?\s*:?")


def read_arpa(path: str | Path) -> NgramModel:
    """The model in an ARPA file, plain or gzip, of order 1 to 6.

    Raises:
        DataError: it is no well-formed ARPA file; the message names the line.
        AsrError: it cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.peek(2)[:2]
            content = gzip.decompress(file.read()) if head == GZIP_MAGIC else _map_plain(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the gzip file is damaged ({error}); copy it again", path) from error
    except OSError as error:
        raise AsrError(f"{path}: cannot read: {os_reason(error)}") from error
    return parse_arpa(content, path)


def parse_arpa(content: bytes | mmap.mmap, path: str | Path) -> NgramModel:
    """The model in the bytes of an ARPA file; ``path`` is for the messages.

    Raises:
        DataError: the bytes are no well-formed ARPA file.
    """
    return _Reader(content if content[-1:] == b"\n" else content[:] + b"\n", Path(path)).read()


def _map_plain(file: io.BufferedReader) -> bytes | mmap.mmap:
    """The bytes of an open file: mapped, which costs nothing, or read where that is not possible (a pipe)."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return file.read()


class _Reader:
    """One pass over the bytes, section by section; ``at`` is the byte to read next."""

    def __init__(self, content: bytes | mmap.mmap, path: Path) -> None:
        self.content, self.path, self.at = content, path, 0
        self.data = np.frombuffer(content, np.uint8)
        self.counts: list[int] = []

    def read(self) -> NgramModel:
        from asr.lm.compiled import arpa as kernel
        from asr.lm.compiled.ngram import resolve_suffixes

        self._read_counts()
        self._expect_header(1)
        known, ends, log_probs, backoffs = self._read_unigrams(kernel)
        ids, hashes, starts, shared = known
        vocabulary = self._vocabulary(starts, ends)
        arrays = self._arrays(log_probs, backoffs)
        first_node = 1 + len(starts)
        for order, count in enumerate(self.counts[1:], start=2):
            self._expect_header(order)
            section, highest = self.at, order == len(self.counts)
            code, self.at, lines = kernel.read_ngrams(
                self.data, self.at, count, order, highest, ids, hashes, starts, shared, arrays, first_node
            )
            if code != kernel.OK:
                if lines >= 0:
                    self._go_to(section, lines)
                self._refuse(int(code), order)
            first_node += count
        self._expect_end()
        if self.content[self.at :].strip():
            self._next_line()
            self._error("text after \\end\\, which must be the last line")
        resolve_suffixes(arrays.suffixes, arrays.is_context)
        return NgramModel(vocabulary, arrays, (len(starts), *self.counts[1:]), has_unk=bool(starts[0] >= 0))

    def _arrays(self, log_probs: Floats, backoffs: Floats) -> NgramArrays:
        """Arrays with room for the announced n-grams, the unigrams and the empty one in place."""
        num_words, num_longer = len(log_probs) - 1, sum(self.counts[1:])
        slots, num_nodes = table_slots(num_longer), 1 + num_words + num_longer
        arrays = NgramArrays(
            table_keys=np.full(slots, -1, np.int64),
            table_nodes=np.zeros(slots, np.int32),
            log_probs=np.empty(num_nodes, np.float32),
            backoffs=np.zeros(num_nodes, np.float32),
            suffixes=np.zeros(num_nodes, np.int32),
            is_context=np.zeros(num_nodes, np.uint8),
            vocabulary_size=np.array([num_words]),
            order=np.array([len(self.counts)]),
        )
        arrays.log_probs[: num_words + 1], arrays.backoffs[: num_words + 1] = log_probs, backoffs
        arrays.is_context[: num_words + 1] = backoffs != 0
        arrays.is_context[0] = 1
        return arrays

    def _read_counts(self) -> None:
        if not _TEXT.search(self.content):
            self._error("the file is empty, expected an ARPA language model", line=False)
        if self.content[: len(_KENLM)] == _KENLM:
            self._error("a binary model of kenlm, not read here; give the ARPA file it was built from", line=False)
        start = _DATA.search(self.content)
        if start is None:
            self._error(f"no line with \\data\\: {self._seems_to_be()}")
        self.at = start.start()
        self._next_line()
        while (line := self._next_line()).startswith(b"ngram"):
            found = _COUNT.fullmatch(line)
            if not found:
                self._error(f"got '{_shown(line)}', expected a count like 'ngram 1=5000'")
            order, count = map(int, found.groups())
            if order != len(self.counts) + 1:
                self._error(f"the count of {order}-grams, expected that of {len(self.counts) + 1}-grams")
            if count > len(self.content) // (2 * order + 1):  # "0 a b\n" has 2 * order + 2 bytes
                self._error(f"{count:,} {order}-grams cannot be in a file of {len(self.content):,} bytes")
            self.counts.append(count)
        if not 1 <= len(self.counts) <= MAX_ORDER:
            self._error(f"{len(self.counts)} counts of n-grams after \\data\\, expected 1 to {MAX_ORDER}")
        self.at = self._line_start

    def _seems_to_be(self) -> str:
        """What a file without ``\\data\\`` may be, and what to do."""
        if self.content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "it is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"
        if b"\\data\\\r" in self.content[:]:
            return "its line ends are carriage returns alone; convert it (tr '\\r' '\\n')"
        return "is it an ARPA language model?"

    def _expect_header(self, order: int) -> None:
        line = self._next_line()
        found = _SECTION.fullmatch(line)
        if not found or int(found[1]) != order:
            self._refuse_header(line, f"\\{order}-grams:", order - 1)

    def _expect_end(self) -> None:
        line = self._next_line()
        if line != b"\\end\\":
            self._refuse_header(line, "\\end\\", len(self.counts))

    def _refuse_header(self, line: bytes, expected: str, order_before: int) -> NoReturn:
        if not line:
            self._error(f"the file ends here: is it cut off? Expected {expected}")
        if order_before and not line.startswith(b"\\"):
            self._error(f"more {order_before}-grams than the {self.counts[order_before - 1]:,} that \\data\\ announces")
        self._error(f"got '{_shown(line)}', expected {expected}")

    def _go_to(self, section: int, lines: int) -> None:
        """Goes to the line behind so many lines of a section, the blank ones not counted."""
        self.at = section
        for _ in range(lines + 1):
            self._next_line()
        self.at = self._line_start

    def _next_line(self) -> bytes:
        """The next line that is not blank, stripped; empty at the end of the file."""
        while self.at < len(self.content):
            self._line_start = self.at
            end = self.content.find(b"\n", self.at)
            line, self.at = self.content[self.at : end].strip(), end + 1
            if line:
                return line
        self._line_start = len(self.content)
        return b""

    def _read_unigrams(self, kernel: Any) -> tuple[Any, ...]:
        header, count = self._line_start, self.counts[0]
        size, highest = table_slots(count + 3), len(self.counts) == 1
        ids, hashes = np.full(size, -1, np.int32), np.empty(size, np.int64)
        starts, ends = np.full(count + 3, -1, np.int64), np.full(count + 3, -1, np.int64)
        log_probs, backoffs = np.zeros(count + 4, np.float32), np.zeros(count + 4, np.float32)
        special = [
            kernel.hash_word(np.frombuffer(w.encode() + b"\n", np.uint8), 0)[0] for w in (UNK, BEGIN, END, "<UNK>")
        ]
        log_probs[1] = MISSING_UNK_LOG10_PROB * LN10
        code, self.at, num_words, shared = kernel.read_unigrams(
            self.data, self.at, count, highest, np.array(special, np.uint64).view(np.int64), ids, hashes, starts,
            ends, log_probs, backoffs,
        )  # fmt: skip
        if code != kernel.OK:
            self._refuse(int(code), 1)
        for word, name in ((1, BEGIN), (2, END)):
            if starts[word] < 0:
                self._line_start = header
                self._error(f"no {name} among the 1-grams; sentences cannot be scored without it")
        known = ids, hashes, starts[:num_words], shared
        return known, ends[:num_words], log_probs[: num_words + 1], backoffs[: num_words + 1]

    def _vocabulary(self, starts: Any, ends: Any) -> bytes:
        from asr.lm.compiled.arpa import copy_words

        starts, ends = starts[3:], ends[3:]
        others = np.empty(int((ends - starts + 1).sum()), np.uint8)
        copy_words(self.data, starts, ends, others)
        vocabulary = "\n".join((UNK, BEGIN, END)).encode() + others.tobytes()
        try:
            vocabulary.decode()
        except UnicodeDecodeError as error:
            word = vocabulary.count(b"\n", 0, error.start) - 3
            self._line_start = int(starts[word])
            self._error(f"the word {self.content[starts[word] : ends[word]]!r} is not UTF-8; convert the file")
        return vocabulary

    def _refuse(self, code: int, order: int) -> NoReturn:
        """Says what is wrong with the line at which a kernel stopped."""
        from asr.lm.compiled import arpa as kernel

        at = min(self.at, len(self.content) - 1)
        self._line_start = self.content.rfind(b"\n", 0, at) + 1 if self.at < len(self.content) else len(self.content)
        line = self.content[self._line_start : self.content.find(b"\n", at)].strip()
        shown = f"'{_shown(line)}'"
        if code == kernel.TOO_FEW:
            if not line and not self.content[self._line_start :].strip():
                self._error(f"the file ends inside the {order}-grams, of which \\data\\ announces "
                            f"{self.counts[order - 1]:,}: is it cut off?")  # fmt: skip
            self._error(f"fewer {order}-grams than the {self.counts[order - 1]:,} that \\data\\ announces")
        fields = f"expected a log10 probability, {order} word{'s'[: order > 1]}" + (
            "" if order == len(self.counts) else " and perhaps a back-off weight"
        )
        word = self.content[at:].split(None, 1)[0] if code == kernel.UNKNOWN_WORD else b""
        reasons = {
            kernel.BAD_NUMBER: f"no number at the start of {shown}; {fields}",
            kernel.POSITIVE: f"a log10 probability above 0 in {shown}",
            kernel.BAD_BACKOFF: f"what follows the words in {shown} is no number; {fields}",
            kernel.LARGE_BACKOFF: f"a log10 back-off weight above {MOST_BACKOFF_LOG10:g} in {shown}",
            kernel.FIELDS: f"wrong number of fields in {shown}; {fields}",
            kernel.UNKNOWN_WORD: f"the word '{_shown(word)}' in {shown} is not among the 1-grams",
            kernel.NO_CONTEXT: f"the context of {shown} is not among the {order - 1}-grams",
            kernel.TWICE: f"{shown} is here for the second time",
        }
        self._error(reasons[code])

    def _error(self, message: str, line: bool = True) -> NoReturn:
        start = getattr(self, "_line_start", 0)
        raise DataError(message, self.path, int((self.data[:start] == ord("\n")).sum()) + 1 if line else None)


def _shown(line: bytes) -> str:
    text = line.decode(errors="backslashreplace")
    return text if len(text) <= 60 else text[:60] + "…"
