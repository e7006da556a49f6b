"""Show the progress of long work: a bar on a terminal, elsewhere a line in the log about every minute.

It also says what a line of the log looks like.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asr.errors import harmless, printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

log = logging.getLogger(__name__)

#: seconds between two lines
EVERY_S = 60.0


class LineFormatter(logging.Formatter):
    """Format a record of the log: its message on one line, and nothing in it that a terminal obeys."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\n", "\\n")

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


def stderr_is_terminal() -> bool:
    """Return true if stderr can show a bar: it is a terminal that can move its cursor."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    return is_terminal and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


@contextmanager
def heartbeat(line: Callable[[], str]) -> Iterator[None]:
    """Log ``line()`` every minute from a thread while the block runs; log nothing on a terminal, which shows a bar.

    The thread logs also while the block is inside one long call, if that call releases Python's lock.

    >>> done = 0
    >>> with heartbeat(lambda: f"counting: {done:,} lines"):
    ...     done += 1
    """
    if stderr_is_terminal():
        yield
        return
    over = threading.Event()

    def speak() -> None:
        while not over.wait(EVERY_S):
            log.info("%s", line())

    thread = threading.Thread(target=speak, name="asr-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def counted(
    what: str,
    total: float | None,
    shown: Callable[[float], str] = "{:,.0f}".format,
    done: float = 0,
    rate: Callable[[float, float], str] | None = None,
) -> Iterator[Callable[[float], None]]:
    """Show a bar for countable work, or log a line about every minute; yield a function to call with the amount done.

    Args:
        total: amount of work; None if it is unknown.
        shown: formats an amount for people.
        done: amount that is done already.
        rate: formats the speed, given the amount done since the start and the seconds that it took.
    """
    began = time.monotonic()
    before = done

    def speed() -> str:
        if rate is None or done == before:
            return ""
        return f", {rate(done - before, time.monotonic() - began)}"

    def line() -> str:
        if not total:
            return f"{what}: {shown(done)}{speed()}"
        new = done - before
        left = f", {time_left(time.monotonic() - began, new, total - before)}" if new else ""
        return f"{what}: {shown(done)} of {shown(total)}{speed()}{left}"

    with heartbeat(line), _drawn(what, total, shown, speed) as draw:

        def advance(more: float) -> None:
            nonlocal done
            done += more
            draw(done)

        yield advance


@contextmanager
def _drawn(
    what: str, total: float | None, shown: Callable[[float], str], speed: Callable[[], str]
) -> Iterator[Callable[[float], None]]:
    """Show a bar on a terminal; yield a function to call with all that is done."""
    if not stderr_is_terminal():
        yield lambda done: None
        return

    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    # no markup: "[red]" in the name of a file is a name
    name = TextColumn("{task.description}", markup=False)
    amount = TextColumn("{task.fields[amount]}", markup=False)
    drawn = 0.0
    with bar(name, BarColumn(), amount, TimeRemainingColumn()) as progress:
        task = progress.add_task(printable(what), total=total, amount="")

        def draw(done: float) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn > 0.1:  # the bar is drawn ten times per second; a call can come for every file
                drawn = now
                of_total = f"/{shown(total)}" if total else ""
                progress.update(task, completed=done, amount=f"{shown(done)}{of_total}{speed()}")

        yield draw


def bar(*columns: ProgressColumn, transient: bool = True) -> Progress:
    """Return a progress bar on stderr, which shows nothing if stderr is no terminal; a transient one vanishes."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(
        *columns,
        console=Console(stderr=True),
        transient=transient,
        disable=not stderr_is_terminal(),
        # a bar prints captured output above itself: it would send to stderr a result that goes to a file
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )


def time_left(spent_s: float, done: float, total: float) -> str:
    """Estimate the time for the rest at the speed so far, as text for people.

    >>> time_left(60, 10, 40), time_left(60, 1, 1000), time_left(9, 9, 10)
    ('3 min left', '16 h 39 min left', '1 s left')
    """
    left_s = spent_s * max(0.0, total - done) / done
    minutes = round(left_s / 60)
    if left_s < 60:
        return f"{left_s:.0f} s left"
    return f"{minutes} min left" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min left"
