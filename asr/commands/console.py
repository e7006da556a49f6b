"""Print results to stdout, messages and progress to stderr, and write files of rows."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import typer

from asr.errors import AsrError, ConfigError, harmless, os_reason, printable
from asr.files import json_text, open_atomic
from asr.heartbeat import LineFormatter, bar, counted, stderr_is_terminal


def print_result(text: str) -> None:
    """Print a part of the result at once.

    Raises:
        AsrError: stdout cannot be written.
        typer.Exit: the reader has gone (``asr … | head``).
    """
    try:
        print(harmless(text), flush=True)
    except BrokenPipeError:
        give_up(sys.stdout)
        raise typer.Exit(1) from None
    except OSError as error:
        give_up(sys.stdout)
        raise AsrError(f"stdout: cannot write the result: {os_reason(error)}") from error


def say(line: str) -> None:
    """Print to stderr; if stderr is closed, the work goes on without the message."""
    with suppress(OSError):
        print(harmless(line), file=sys.stderr, flush=True)


def say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print what another library warns of, in place of ``warnings.showwarning``: it can quote a name or a text."""
    say(f"{filename}:{lineno}: {category.__name__}: {message}")


def give_up(stream: TextIO) -> None:
    """Discard what is still buffered for stdout or stderr, so that Python's exit does not fail on it."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def shown(value: object) -> str:
    """Return a name or text on one line, with newlines, escape codes and half characters spelled out."""
    return printable(str(value))


def print_json(value: Any) -> None:
    """Print a value as JSON, in ASCII where stdout is not UTF-8."""
    utf8 = (sys.stdout.encoding or "utf-8").lower() in ("utf-8", "utf8")
    print_result(json_text(value, indent=2, ascii=not utf8))


def print_either(as_json: bool, document: Any, text: str) -> None:
    """Print a result in the form that was asked for."""
    if as_json:
        print_json(document)
    else:
        print_result(text)


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_result("  ".join(cells).rstrip())


def check_apart(targets: Iterable[Path | None], sources: Iterable[Path | None]) -> None:
    """Refuse to write over an input, or two outputs into one file.

    Raises:
        ConfigError: a target is a source, or another target.
    """
    taken = {os.path.realpath(path) for path in sources if path is not None}
    for path in targets:
        if path is None or (path.exists() and not path.is_file()):  # /dev/stdout takes several
            continue
        if os.path.realpath(path) in taken:
            raise ConfigError(f"{path}: read or written by this command already; choose another file to write")
        taken.add(os.path.realpath(path))


def check_target(path: Path) -> None:
    """Refuse a file that could not be written, before the work for it is done.

    Raises:
        AsrError: it is a folder, or its folder cannot be made or written to.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission, or a read-only file system")
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {os_reason(error)}") from error


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines.

    Raises:
        AsrError: the file cannot be written.
    """
    try:
        with open_atomic(path) as file:
            file.writelines(json_text(row) + "\n" for row in rows)
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {os_reason(error)}") from error


def minutes(seconds: float) -> str:
    """Format a length of audio for people.

    >>> minutes(75)
    '1:15'
    """
    whole, rest = divmod(int(seconds), 60)
    return f"{whole}:{rest:02}"


def audio_bar(audio_s: float | None) -> AbstractContextManager[Callable[[float], None]]:
    """Show progress in seconds of audio, with the real-time factor."""
    return counted("minutes of audio", audio_s, minutes, rate=lambda done_s, spent_s: f"RTF {spent_s / done_s:.4f}")


@contextmanager
def absolute_bar(what: str, total: float | None, shown: Callable[[float], str]) -> Iterator[Callable[[float], None]]:
    """Show progress of work that reports all that is done so far, not what was done since the last call."""
    with counted(what, total, shown) as advance:
        before = 0.0

        def reach(done: float) -> None:
            nonlocal before
            advance(done - before)
            before = done

        yield reach


def share_bar(what: str) -> AbstractContextManager[Callable[[float], None]]:
    """Show progress of work that reports which share of it is done, from 0 to 1."""
    return absolute_bar(what, 1.0, "{:.0%}".format)


@contextmanager
def epoch_bar(describe: Callable[[dict[str, float]], str]) -> Iterator[Callable[[dict[str, float]], None]]:
    """Show progress in epochs on a terminal, with the log above it; show nothing elsewhere.

    The yielded function takes the state of the training: ``epoch``, ``epochs`` and what ``describe`` formats.
    """
    if not stderr_is_terminal():
        yield lambda values: None
        return

    from rich.logging import RichHandler
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    epochs = TextColumn("epoch {task.completed:.2f}/{task.fields[epochs]}")
    progress = bar(epochs, BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(), transient=False)
    root = logging.getLogger()
    before = root.handlers[:]
    above = RichHandler(console=progress.console, show_path=False, markup=False, rich_tracebacks=False)
    above.setFormatter(LineFormatter())
    root.handlers[:] = [above]
    try:
        with progress:
            task = progress.add_task("", total=None, epochs="?")

            def watch(values: dict[str, float]) -> None:
                progress.update(
                    task,
                    description=describe(values),
                    total=values["epochs"],
                    completed=values["epoch"],
                    epochs=f"{values['epochs']:g}",
                )

            yield watch
    finally:
        root.handlers[:] = before
