"""Atomic file and folder writes: a name either holds the whole content or does not exist. And who may write."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from asr.errors import ConfigError, os_reason

if sys.platform != "win32":  # there, two processes in one folder are not prevented
    import fcntl


@contextmanager
def open_atomic(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """A file to write, text (UTF-8) or binary; it takes its name only when the block ends without an error.

    Raises:
        OSError: as the operating system says; the ``.part`` file is removed and an older file keeps its content.
    """
    text: dict[str, str] = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        # A device or a pipe (/dev/stdout) is written to; a rename would put a file in its place.
        with path.open(mode, **text) as file:  # type: ignore[call-overload]
            yield file
        return
    part = path.with_name(path.name + ".part")
    try:
        with part.open(mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a binary file under its name only when it is whole.

    Not forced to the disk, as ``open_atomic`` does it: this writes the many files of a corpus, which can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with open_atomic(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON document atomically, indented for people; not-a-number values are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def cache_folder() -> Path:
    """Where programs of this person keep what can be made again: this package's part of it.

    Raises:
        RuntimeError: there is no home folder, and XDG_CACHE_HOME names no other.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "asr"


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A new empty folder to fill; when the block ends without an error it takes the place of ``path``.

    Between the two renames a crash leaves the former content under ``<name>.old``: ``recover_folder`` puts it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = path.with_name(path.name + ".part"), path.with_name(path.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        yield part
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        part.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        recover_folder(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Undoes a replacement that was cut between its two renames."""
    if not path.name:
        return  # ".": nothing replaces the folder one stands in
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        old.rename(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path, busy: str) -> Iterator[None]:
    """Holds a file for this process; the system lets go of it however the process ends.

    Nothing is written: it only has to be a file that is never replaced.

    Raises:
        ConfigError: another process holds it, which ``busy`` says; or this one may not write it.
    """
    if sys.platform == "win32":
        yield
        return
    with ExitStack() as opened:
        try:
            file = opened.enter_context(path.open("r+"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(busy) from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot write: {os_reason(error)}") from error
        yield
