"""Reading of ARPA files, the text form of a back-off n-gram model. ``docs/ngram.md`` has the rules."""

from __future__ import annotations

import codecs
import io
import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import numpy as np

from asr.errors import DataError
from asr.files import gunzip, open_regular
from asr.limits import LINE
from asr.lm.arrays import (
    BEGIN,
    END,
    LN10,
    MAX_ORDER,
    MISSING_UNK_LOG10_PROB,
    MOST_BACKOFF_LOG10,
    UNK,
    NgramArrays,
    new_arrays,
    table_slots,
)
from asr.lm.files import GZIP_MAGIC, reading
from asr.lm.model import NgramModel

if TYPE_CHECKING:
    from asr.lm.compiled.arpa import WordTable

_KENLM = b"mmap lm http://kheafield.com/code"
#: the line that the counts follow. The CMU toolkit explains the format in a preamble, where this stands inside a line
_DATA = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t]*\\data\\[ \t\r]*$", re.MULTILINE)
_COUNT = re.compile(rb"ngram\s*(\d{1,18})\s*=\s*(\d{1,18})")
#: what blank lines have not
_TEXT = re.compile(rb"\S")
#: SRILM's reader asks for no colon, and its manual page has the singular
_SECTION = re.compile(rb"\\\s*(\d{1,18})\s*-\s*grams?\s*:?")


def read_arpa(path: str | Path) -> NgramModel:
    """Read an ARPA file, plain or gzip, of order 1 to 6.

    Raises:
        DataError: it is no well-formed ARPA file (the message names the line), or a gzip file that unpacks to more than
            any model does.
        AsrError: it cannot be read.
    """
    path = Path(path)
    with reading(path), open_regular(path) as file:
        is_gzip = file.read(2) == GZIP_MAGIC
        file.seek(0)
        content = _unpacked(file, path) if is_gzip else _map_plain(file)
    return parse_arpa(content, path)


def parse_arpa(content: bytes | mmap.mmap, path: str | Path) -> NgramModel:
    """Read the bytes of an ARPA file; ``path`` is for the messages.

    Raises:
        DataError: the bytes are no well-formed ARPA file.
    """
    return _Reader(content if content[-1:] == b"\n" else content[:] + b"\n", Path(path)).read()


def _unpacked(file: BinaryIO, path: Path) -> bytes:
    content = io.BytesIO()  # to join blocks would take the memory twice
    for block in gunzip(file, path):
        content.write(block)
    return content.getvalue()


def _map_plain(file: BinaryIO) -> bytes | mmap.mmap:
    """Return the bytes of an open file: mapped, which costs nothing, or read where that is not possible (no bytes)."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return file.read()


class _Reader:
    """One pass over the bytes, section by section."""

    def __init__(self, content: bytes | mmap.mmap, path: Path) -> None:
        self.content = content
        self.path = path
        self.data = np.frombuffer(content, np.uint8)
        self.counts: list[int] = []
        #: the byte to read next
        self.at = 0
        #: the start of the line that an error would be about
        self.line_start = 0

    def read(self) -> NgramModel:
        from asr.lm.compiled import arpa as kernel
        from asr.lm.compiled.ngram import resolve_suffixes

        self._read_counts()
        order = len(self.counts)
        self._expect_header(1)
        words, arrays = self._read_unigrams()
        num_words = int(arrays.vocabulary_size[0])
        vocabulary = self._vocabulary(words, num_words)

        first_node = 1 + num_words
        for n, count in enumerate(self.counts[1:], start=2):
            self._expect_header(n)
            code, self.at = kernel.read_ngrams(self.data, self.at, count, n, n == order, words, arrays, first_node)
            if code != kernel.OK:
                self._refuse(int(code), n)
            first_node += count

        line = self._next_line()
        if line != b"\\end\\":
            self._refuse_header(line, "\\end\\", order)
        if self._next_line():
            self._error("text after \\end\\, which must be the last line")

        resolve_suffixes(arrays.suffixes, arrays.is_context)
        return NgramModel(vocabulary, arrays, (num_words, *self.counts[1:]), has_unk=bool(words.starts[0] >= 0))

    def _next_line(self) -> bytes:
        """Return the next line that is not blank, stripped; empty at the end of the file."""
        text = _TEXT.search(self.content, self.at)
        if text is None:
            self.line_start = self.at = len(self.content)
            return b""
        self.line_start = max(self.at, self.content.rfind(b"\n", self.at, text.start()) + 1)
        end = self.content.find(b"\n", text.start())
        self.at = end + 1
        if end - self.line_start > LINE:
            self._error(f"a line of more than {LINE >> 20} MiB, the longest that is read")
        return self.content[self.line_start : end].strip()

    # --- the counts and the headers of sections -----------------------------------------------------------------------

    def _read_counts(self) -> None:
        if _TEXT.search(self.content) is None:
            raise DataError("the file is empty, expected an ARPA language model", self.path)
        if self.content[: len(_KENLM)] == _KENLM:
            kind = "a binary model of kenlm, not read here; give the ARPA file it was built from"
            raise DataError(kind, self.path)
        start = _DATA.search(self.content)
        if start is None:
            self.line_start = 0
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
        self.at = self.line_start

    def _seems_to_be(self) -> str:
        """Say what a file without ``\\data\\`` may be, and what to do."""
        if self.content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "it is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"
        if self.content.find(b"\\data\\\r") >= 0:
            return "its line ends are carriage returns alone; convert it (tr '\\r' '\\n')"
        return "is it an ARPA language model?"

    def _expect_header(self, order: int) -> None:
        line = self._next_line()
        found = _SECTION.fullmatch(line)
        if not found or int(found[1]) != order:
            self._refuse_header(line, f"\\{order}-grams:", order - 1)

    def _refuse_header(self, line: bytes, expected: str, order_before: int) -> NoReturn:
        if not line:
            self._error(f"the file ends here: is it cut off? Expected {expected}")
        if order_before and not line.startswith(b"\\"):
            self._error(f"more {order_before}-grams than the {self.counts[order_before - 1]:,} that \\data\\ announces")
        self._error(f"got '{_shown(line)}', expected {expected}")

    # --- words --------------------------------------------------------------------------------------------------------

    def _read_unigrams(self) -> tuple[WordTable, NgramArrays]:
        """Return the words, and arrays with their n-grams and with room for the longer ones."""
        from asr.lm.compiled import arpa as kernel

        header = self.line_start
        count = self.counts[0]
        most_words = count + 3  # where none of the special words is listed
        slots = table_slots(most_words)
        words = kernel.WordTable(
            hashes=np.full(slots, -1, np.int64),
            ids=np.zeros(slots, np.int32),
            starts=np.full(most_words, -1, np.int64),
            ends=np.full(most_words, -1, np.int64),
        )
        names = [np.frombuffer(word.encode() + b"\n", np.uint8) for word in (UNK, BEGIN, END, "<UNK>")]
        special = np.array([kernel.hash_word(name, 0)[0] for name in names], np.int64)
        log_probs = np.zeros(1 + most_words, np.float32)
        backoffs = np.zeros(1 + most_words, np.float32)
        log_probs[1] = MISSING_UNK_LOG10_PROB * LN10

        highest = len(self.counts) == 1
        code, self.at, num_words = kernel.read_unigrams(
            self.data, self.at, count, highest, special, words, log_probs, backoffs
        )
        if code != kernel.OK:
            self._refuse(int(code), 1)
        for word, name in ((1, BEGIN), (2, END)):
            if words.starts[word] < 0:
                self.line_start = header
                self._error(f"no {name} among the 1-grams; sentences cannot be scored without it")

        arrays = new_arrays(num_words, len(self.counts), 1 + num_words + sum(self.counts[1:]))
        unigrams = slice(1, 1 + num_words)
        arrays.log_probs[unigrams] = log_probs[unigrams]
        arrays.backoffs[unigrams] = backoffs[unigrams]
        arrays.is_context[unigrams] = backoffs[unigrams] != 0
        return words, arrays

    def _vocabulary(self, words: WordTable, num_words: int) -> bytes:
        """Return the words in the order of their ids, a newline between."""
        spans = list(zip(words.starts[3:num_words].tolist(), words.ends[3:num_words].tolist(), strict=True))
        others = [self.content[start:end] for start, end in spans]
        vocabulary = b"\n".join([UNK.encode(), BEGIN.encode(), END.encode(), *others])
        try:
            vocabulary.decode()
        except UnicodeDecodeError as error:
            word = vocabulary.count(b"\n", 0, error.start) - 3
            self.line_start = spans[word][0]
            self._error(f"the word {others[word]!r} is not UTF-8; convert the file")
        return vocabulary

    # --- errors -------------------------------------------------------------------------------------------------------

    def _refuse(self, code: int, order: int) -> NoReturn:
        """Say what is wrong with the line at which a kernel stopped."""
        from asr.lm.compiled import arpa as kernel

        count = self.counts[order - 1]
        if self.at >= len(self.content):
            self.line_start = len(self.content)
            self._error(
                f"the file ends inside the {order}-grams, of which \\data\\ announces {count:,}: is it cut off?"
            )
        self.line_start = self.content.rfind(b"\n", 0, self.at) + 1
        end = self.content.find(b"\n", self.at)
        line = self.content[self.line_start : end].strip()
        shown = f"'{_shown(line)}'"

        fields = f"expected a log10 probability, {order} word{'s' if order > 1 else ''}"
        if order < len(self.counts):
            fields += " and perhaps a back-off weight"
        word = self.content[self.at : end].split(None, 1)[0] if code == kernel.UNKNOWN_WORD else b""
        reasons = {
            kernel.TOO_FEW: f"fewer {order}-grams than the {count:,} that \\data\\ announces",
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

    def _error(self, message: str) -> NoReturn:
        """Raise an error that names the line which ``line_start`` is the start of."""
        line = int((self.data[: self.line_start] == ord("\n")).sum()) + 1
        raise DataError(message, self.path, line)


def _shown(line: bytes) -> str:
    text = line[:300].decode(errors="backslashreplace")
    return text if len(text) <= 60 else text[:60] + "…"
