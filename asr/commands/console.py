"""What the command prints and writes: results to stdout, words and progress bars to stderr, files of rows."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from asr.errors import AsrError, ConfigError, os_reason
from asr.files import open_atomic
from asr.heartbeat import counted, heartbeat


def print_result(text: str) -> None:
    """Prints a part of the result at once.

    Raises:
        AsrError: stdout cannot be written. A reader that has gone (``asr … | head``) ends the command with 1.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        give_up_stdout()
        raise typer.Exit(1) from None
    except OSError as error:
        give_up_stdout()
        raise AsrError(f"stdout: cannot write the result: {os_reason(error)}") from error


def say(line: str) -> None:
    """Prints to stderr; where nobody can hear it, the result goes on."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def give_up_stdout() -> None:
    """Sends what is still buffered to nowhere, so that the interpreter's end does not fail on it."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shown(value: object) -> str:
    """A name or text on one line: a newline, an escape code or half a character in it is shown, not obeyed."""
    return str(AsrError(str(value)))


def print_json(value: Any) -> None:
    utf8 = (sys.stdout.encoding or "utf-8").lower() in ("utf-8", "utf8")
    print_result(json.dumps(value, indent=2, ensure_ascii=not utf8, allow_nan=False))


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows])
    print_result("\n".join(line.rstrip() for line in lines))


def check_apart(targets: Iterable[Path | None], sources: Iterable[Path | None]) -> None:
    """Refuses to write over what is read, and two files into one.

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
    """Refuses, before the work, a file that could not be written after it.

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


def write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    try:
        with open_atomic(path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise AsrError(f"{path}: cannot write: {os_reason(error)}") from error


def _stdout_is_terminal() -> bool:
    """Whether a bar may take what is printed and show it above itself: it would send a result in a file to stderr."""
    return sys.stdout is not None and sys.stdout.isatty()


def minutes(seconds: float) -> str:
    """A length of audio for people.

    >>> minutes(75)
    '1:15'
    """
    whole, rest = divmod(int(seconds), 60)
    return f"{whole}:{rest:02}"


def audio_bar(audio_s: float) -> AbstractContextManager[Callable[[float], None]]:
    """A progress bar over seconds of audio, on stderr when that is a terminal, else a line about every minute."""
    return counted("minutes of audio", audio_s, minutes)


@contextmanager
def speed_bar(audio_s: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar over seconds of audio with the real-time factor and the time left; without a terminal, lines."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[done]} of audio"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[rtf]}"), TimeRemainingColumn(),
    )  # fmt: skip
    began, done_s = time.perf_counter(), 0.0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  redirect_stdout=_stdout_is_terminal()) as progress:  # fmt: skip
        task = progress.add_task("audio", total=audio_s, done="0:00", rtf="")

        def advance(seconds: float) -> None:
            nonlocal done_s
            done_s += seconds
            rtf = (time.perf_counter() - began) / max(done_s, 1e-9)
            progress.update(task, advance=seconds, done=minutes(done_s), rtf=f"RTF {rtf:.4f}")

        with heartbeat(lambda: f"{minutes(done_s)} minutes of audio done in {minutes(time.perf_counter() - began)}"):
            yield advance


@contextmanager
def file_bar(count: int | None, what: str = "files") -> Iterator[Callable[[], None]]:
    """A progress bar over files, on stderr when that is a terminal, else a line about every minute.

    Args:
        count: how many there are; None where nobody knows.
    """
    with counted(what, count) as advance:
        yield lambda: advance(1)


@contextmanager
def training_bar() -> Iterator[Any]:
    """A progress bar over epochs with loss, dev WER, audio-seconds a second and time left; the log goes above it."""
    import time

    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda values: None
        return
    columns = (
        TextColumn("epoch {task.completed:.1f}/{task.fields[epochs]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("WER {task.fields[wer]}"),
        TextColumn("{task.fields[speed]} audio-s/s"),
        TimeRemainingColumn(),
    )
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [RichHandler(console=console, show_path=False, markup=False, rich_tracebacks=False)]
    began = time.perf_counter()
    with Progress(*columns, console=console, redirect_stdout=_stdout_is_terminal()) as progress:
        task = progress.add_task("train", total=None, epochs="?", loss="-", wer="-", speed="-")

        def watch(values: dict[str, float]) -> None:
            fields = {"epochs": f"{values['epochs']:g}"}
            if "loss" in values:
                fields["loss"] = f"{values['loss']:.2f}"
                fields["speed"] = f"{values['audio_s'] / (time.perf_counter() - began):.0f}"
            if "wer" in values:
                fields["wer"] = f"{values['wer']:.1%}"
            progress.update(task, total=values["epochs"], completed=values["epoch"], **fields)  # type: ignore[arg-type]

        try:
            yield watch
        finally:
            root.handlers[:] = before
