"""Lines of text files with their numbers, for readers that name the line at fault; unique and numbered ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from asr.errors import DataError, os_reason


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if not line.isspace() and line:
                    yield number, line
    except OSError as error:
        raise DataError(f"cannot read the texts: {os_reason(error)}", path) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text ({error.reason} at byte {error.start}); convert it, for example with iconv", path, number
        ) from error


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
