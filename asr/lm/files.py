"""Lines of text in, from files, gzip or stdin; whole files out."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from asr.data import manifest
from asr.data.lines import whole_lines
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.errors import AsrError, DataError, os_reason
from asr.files import BLOCK, gunzip, open_atomic
from asr.limits import BLANK_LINES

STDIN = Path("-")
GZIP_MAGIC = b"\x1f\x8b"


def read_lines(paths: Iterable[str | Path]) -> Iterator[str]:
    """Read the lines of text files one after the other, without their ends: plain or gzip by content, ``-`` is stdin.

    Of a manifest (``.jsonl``) the texts are read, one per line. Nothing is kept: a text larger than memory passes
    through.

    Raises:
        DataError: a line is not UTF-8, no text (a language model, UTF-16, carriage returns as line ends) or longer than
            any real one; a gzip file is damaged, or unpacks to more than any real one does; or too many blank lines.
        AsrError: a file cannot be read.
    """
    for path in map(Path, paths):
        if path.suffix == ".jsonl":
            yield from (" ".join(utterance.text.split()) for utterance in manifest.read(path))
            continue
        with reading(path):
            num_blank = 0
            for first, content in whole_lines(_blocks(path), path):
                num_blank = num_blank + content.count(b"\n") if content.isspace() else 0
                if num_blank > BLANK_LINES:  # each is a sentence without words, and costs as much time as one
                    raise DataError(f"over {BLANK_LINES:,} blank lines in a row, which no text has", path, first)
                for number, line in enumerate(io.BytesIO(content), first):
                    yield _checked_line(line, path, number)


def _blocks(path: Path) -> Iterator[bytes]:
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb") if path == STDIN else path.open("rb") as file:
        is_gzip = file.peek(2)[:2] == GZIP_MAGIC
        # what a pipe has ready: the line that somebody typed is not kept waiting
        yield from gunzip(file, path) if is_gzip else iter(partial(file.read1, BLOCK), b"")


def _checked_line(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text; convert the file (iconv -t UTF-8)", path, number) from error

    reason = ""
    if "\r" in text:
        reason = (
            "a carriage return inside the line: several sentences would be read as one; if the line ends are carriage "
            "returns alone, convert the file (tr '\\r' '\\n')"
        )
    elif "\0" in text:
        reason = "a zero byte: this is no text in UTF-8 but a binary file, or UTF-16 (iconv -f UTF-16 -t UTF-8)"
    elif text.strip() == "\\data\\":
        reason = "the start of an ARPA language model: expected a text, a sentence per line"
    if reason:
        raise DataError(reason, path, number)
    return text


def as_tokens(lines: Iterable[str], tokenizer: Tokenizer, left_out: Counter[str]) -> Iterator[str]:
    """Turn each line into its tokens with spaces between; a space among the tokens is ``WORD_START``.

    Args:
        left_out: counts, for each character that the tokenizer does not know, the lines that are left out for it.

    Raises:
        DataError: there are lines, but none that the tokenizer can write.
    """
    any_written = False
    for line in lines:
        text = " ".join(line.split())
        if unknown := tokenizer.unknown(text):
            left_out.update(unknown)
            continue
        any_written = True
        yield " ".join(tokenizer.symbols[i - 1].replace(" ", WORD_START) for i in tokenizer.encode(text))
    if left_out and not any_written:
        shown = ", ".join(repr(c) for c, _ in left_out.most_common(5))
        raise DataError(
            f"no line of the text can be written by the tokenizer: it does not know {shown}; is the case right?"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn failed reading into an error that names the file.

    Raises:
        DataError: a gzip file is damaged.
        AsrError: as the operating system says.
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the gzip file is damaged ({error}); copy it again", path) from error
    except OSError as error:
        raise AsrError(f"{path}: cannot read: {os_reason(error)}") from error


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file to write; it takes its name only when all of it is there.

    Raises:
        AsrError: as the operating system says; an older file keeps its content.
    """
    try:
        with open_atomic(path, "wb") as file:
            yield file
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {os_reason(error)}") from error
