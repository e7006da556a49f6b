"""The errors that this toolkit raises on purpose.

Each is one line that says where, what was got, what was expected, and the next step. The command prints them without a
traceback and exits with 2.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

#: what no output holds as it is: control characters but newlines and tabs, marks that turn the direction of writing,
#: separators of lines, half characters. Joiners and no-break spaces are spelling (Persian, Hindi, French).
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""Return a text in which nothing is obeyed by a terminal, or turns what is beside it around: ``UNSAFE`` is shown.

    >>> harmless("a\x1b[31m") == r"a\x1b[31m", harmless("\u202ea\n") == "\\u202ea\n"
    (True, True)
    """
    return UNSAFE.sub(lambda match: repr(match[0])[1:-1], text)


def printable(text: str) -> str:
    """Return a text on one line for a message, with everything shown that cannot be seen, no-break spaces too."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


#: characters of a message; a value of a strange file that is shown in it may be megabytes
_LONGEST = 2000


def _shortened(text: str) -> str:
    """Return a text of at most about ``_LONGEST`` characters: what is longer lacks its middle."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


class AsrError(Exception):
    """Base of every expected failure; ``str(error)`` is the one line to show, shortened if it is far too long for one.

    >>> str(AsrError("unknown field 'dura\\ntion'"))
    "unknown field 'dura\\\\ntion'"
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shortened(printable(_shortened(message))))  # first, as printing out is slow


class DataError(AsrError):
    """Something is wrong with a manifest, a transcript or an audio file."""

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        if line is not None:
            message = f"{path}:{line}: {message}"
        elif path is not None:
            message = f"{path}: {message}"
        super().__init__(message)


class ConfigError(AsrError):
    """A config key or value that cannot be used; ``key`` is its dotted path where known."""

    def __init__(self, message: str, key: str | None = None) -> None:
        self.key = key
        super().__init__(message)


class CheckpointError(AsrError):
    """A model or checkpoint folder that is missing, incomplete, foreign, or cannot be written."""

    def __init__(self, message: str, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        super().__init__(message if path is None else f"{path}: {message}")


class TrainingError(AsrError):
    """Training cannot go on (for example a loss that is not finite); what was saved stays usable."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``known``, or an empty string if nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def check_choice(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is none of the known ones.

    Raises:
        ConfigError: the name is unknown; the nearest is named.
    """
    choices = list(known)
    if name not in choices:
        raise ConfigError(f"unknown {kind} '{name}' ({', '.join(choices)}){nearest(name, choices)}")


def command(*words: object) -> str:
    """Return a call of ``asr`` that a message recommends, as a shell takes it.

    >>> command("train", "--resume", "my run")
    "asr train --resume 'my run'"
    """
    return shlex.join(["asr", *map(str, words)])


def os_reason(error: OSError) -> str:
    """Return the operating system's reason in a few words, without the path that the caller names already."""
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]
