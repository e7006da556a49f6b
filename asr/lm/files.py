"""Lines of text in, from files, gzip or stdin; whole files out."""

from __future__ import annotations

import codecs
import gzip
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from asr.data import manifest
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.errors import AsrError, DataError, os_reason
from asr.files import open_atomic

STDIN = Path("-")


def read_lines(paths: Iterable[str | Path]) -> Iterator[str]:
    """The lines of text files one after the other, without their ends: plain or gzip by content, ``-`` is stdin.

    Of a manifest (``.jsonl``) the texts are read, one a line.

    Nothing is kept: a text larger than memory passes through.

    Raises:
        DataError: a line is not UTF-8 or no text (a language model, UTF-16, carriage returns as line ends), or a gzip
            file is damaged.
        AsrError: a file cannot be read.
    """
    for path in map(Path, paths):
        if path.suffix == ".jsonl":
            yield from (" ".join(utterance.text.split()) for utterance in manifest.read(path))
            continue
        try:
            with _open(path) as file:
                for number, line in enumerate(file, start=1):
                    if number == 1:
                        line = line.removeprefix(codecs.BOM_UTF8)  # Windows editors write it
                    try:
                        text = line.decode()
                    except UnicodeDecodeError as error:
                        raise DataError("not UTF-8 text; convert the file (iconv -t UTF-8)", path, number) from error
                    text = text.rstrip("\r\n")
                    if reason := _no_text(text):
                        raise DataError(reason, path, number)
                    yield text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"the gzip file is damaged ({error}); copy it again", path) from error
        except OSError as error:
            raise AsrError(f"{path}: cannot read: {os_reason(error)}") from error


def _no_text(line: str) -> str:
    """Say why a line is none of a text; empty where it is one."""
    if "\r" in line:
        return (
            "a carriage return inside the line: several sentences would be read as one; if the line ends are carriage "
            "returns alone, convert the file (tr '\\r' '\\n')"
        )
    if "\0" in line:
        return "a zero byte: this is no text in UTF-8 but a binary file, or UTF-16 (iconv -f UTF-16 -t UTF-8)"
    if line.strip() == "\\data\\":
        return "the start of an ARPA language model: expected a text, a sentence per line"
    return ""


def as_tokens(lines: Iterable[str], tokenizer: Tokenizer, left_out: Counter[str]) -> Iterator[str]:
    """Each line as the tokens that write it, apart by spaces; a space among them is ``WORD_START``.

    Args:
        left_out: counts, for each character that the tokenizer does not know, the lines that are left out for it.

    Raises:
        DataError: there are lines, but none that the tokenizer can write.
    """
    some = any_left = False
    for line in lines:
        text = " ".join(line.split())
        if unknown := tokenizer.unknown(text):
            left_out.update(unknown)
            any_left = True
            continue
        some = True
        yield " ".join(tokenizer.symbols[i - 1].replace(" ", WORD_START) for i in tokenizer.encode(text))
    if any_left and not some:
        shown = ", ".join(repr(c) for c, _ in left_out.most_common(5))
        raise DataError(
            f"no line of the text can be written by the tokenizer: it does not know {shown}; is the case right?"
        )


def _open(path: Path) -> BinaryIO:
    file = os.fdopen(os.dup(sys.stdin.fileno()), "rb") if path == STDIN else path.open("rb")
    is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file


def write_parts(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a binary file piece by piece; it takes its name only when all of it is there.

    Raises:
        AsrError: as the operating system says; an older file keeps its content.
    """
    try:
        with open_atomic(path, "wb") as file:
            write(file)
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {os_reason(error)}") from error
