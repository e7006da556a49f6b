"""Lines of text files with their numbers, for readers that name the line at fault; unique and numbered ids."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from asr.errors import DataError, os_reason
from asr.files import BLOCK, open_regular, read_all
from asr.limits import LINE, WHOLE_FILE


def whole_lines(blocks: Iterable[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Join blocks of a file so that each ends where a line does; yield them with the number of their first line.

    A byte order mark at the start is left out: Windows editors write it.

    Raises:
        DataError: a line is longer than any real one.
    """
    number = 1
    rest: list[bytes] = []  # of a line that goes on in the next block
    size = 0
    for block in blocks:
        end = block.rfind(b"\n") + 1
        size += block.find(b"\n") if end else len(block)
        if size > LINE:
            raise DataError(f"a line of more than {LINE >> 20} MiB, the longest that is read", path, number)
        if not end:
            rest.append(block)
            continue

        content = b"".join((*rest, block[:end]))
        yield number, content.removeprefix(codecs.BOM_UTF8) if number == 1 else content
        number += content.count(b"\n")
        rest = [block[end:]]
        size = len(block) - end

    content = b"".join(rest)
    yield number, content.removeprefix(codecs.BOM_UTF8) if number == 1 else content


def raw_lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, with their numbers and ends.

    Args:
        what: the file is, in errors: ``the manifest``.

    Raises:
        DataError: the file cannot be read, is a pipe or device, or has a line longer than any real one.
    """
    try:
        with open_regular(path) as file:
            for first, content in whole_lines(iter(partial(file.read, BLOCK), b""), path):
                if content.isspace():
                    continue  # any number of blank lines at once
                for number, line in enumerate(io.BytesIO(content), first):
                    if not line.isspace():
                        yield number, line
    except OSError as error:
        raise DataError(f"cannot read {what}: {os_reason(error)}", path) from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers.

    Raises:
        DataError: as ``raw_lines``, or it is not UTF-8.
    """
    number = 0
    try:
        for number, raw in raw_lines(path, "the texts"):
            line = raw.decode()
            if not line.isspace():
                yield number, line
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text ({error.reason} at byte {error.start}); convert it, for example with iconv", path, number
        ) from error


def whole_text(path: Path) -> str:
    """Return the content of a text file or of a pipe, in UTF-8 with or without a byte order mark.

    Raises:
        DataError: it cannot be read, has more than 4 GiB, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            return read_all(file, path, WHOLE_FILE).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the text: {os_reason(error)}", path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8", path) from error


def stripped_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines as ``numbered_lines`` does, without white space at their ends."""
    for number, line in numbered_lines(path):
        yield number, line.strip(" \t\r\n")


def unique_ids(path: Path, remedy: str = "ids must be unique") -> Callable[[str, int], None]:
    """Return a function to call with each id and its line; it raises a DataError if the id was there before."""
    line_of_id: dict[str, int] = {}

    def new(id_: str, number: int) -> None:
        first = line_of_id.setdefault(id_, number)
        if first != number:
            raise DataError(f"duplicate id '{id_}' (first on line {first}); {remedy}", path, number)

    return new


def numbered(ids: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return the ids, with a number behind each that comes again or is taken.

    >>> numbered(["a", "b", "a", "a-2", "a"])
    ['a', 'b', 'a-2', 'a-2-2', 'a-3']
    >>> numbered(["a", "b"], taken=["a"])
    ['a-2', 'b']
    """
    taken = set(taken)
    last: dict[str, int] = {}  # to go on from: from the start, many of one name would take for ever
    found = []
    for id_ in ids:
        number = last.get(id_, 1)
        chosen = id_
        while chosen in taken:
            number += 1
            chosen = f"{id_}-{number}"
        taken.add(chosen)
        last[id_] = number
        found.append(chosen)

    return found
