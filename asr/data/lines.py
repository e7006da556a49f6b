"""Lines of text: of files with their numbers, for readers that name the line at fault; and those that are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from asr.errors import AsrError, DataError, os_reason


def one_line(text: str) -> str:
    """A text of any characters on one line: a newline or an escape code in it is shown, not obeyed."""
    return str(AsrError(text))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers.

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


def unique_ids(path: Path, remedy: str = "ids must be unique") -> Callable[[str, int], None]:
    """A function to call with each id and its line; it raises a DataError when the id was there before."""
    line_of_id: dict[str, int] = {}

    def new(id_: str, number: int) -> None:
        first = line_of_id.setdefault(id_, number)
        if first != number:
            raise DataError(f"duplicate id '{id_}' (first on line {first}); {remedy}", path, number)

    return new
