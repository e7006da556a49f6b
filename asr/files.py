"""Files: read within limits, written atomically (a name holds the whole content or does not exist), locked, listed."""

from __future__ import annotations

import errno
import glob
import gzip
import io
import json
import logging
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from asr.errors import UNSAFE, ConfigError, os_reason
from asr.limits import SMALL_FILE, check_unpacked

if sys.platform != "win32":  # there, two processes in one folder are not prevented
    import fcntl

log = logging.getLogger(__name__)

#: bytes that are read at once of a file that may be large
BLOCK = 1 << 20
#: characters of a name that its temporary name begins with; file systems end at 255 bytes
_PART_NAME = 50


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read in binary. A pipe or device could block for ever or never end.

    Raises:
        OSError: as the operating system says; or it is a pipe, a device or a socket.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # the system itself refuses a folder
        raise OSError(errno.EINVAL, "is a pipe or device, expected a regular file", str(path))
    return path.open("rb")


def read_small(path: Path, limit: int = SMALL_FILE) -> bytes:
    """Return the content of a small regular file: metadata of a model, data or run folder.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than ``limit`` bytes.
    """
    with open_regular(path) as file:
        return read_all(file, path, limit)


def read_all(file: BinaryIO, path: Path, limit: int) -> bytes:
    """Return the rest of an open file, or of a pipe.

    Raises:
        OSError: it cannot be read, or has more than ``limit`` bytes.
    """
    content = io.BytesIO()
    while block := file.read(BLOCK):  # to ask for the limit at once would reserve the memory
        content.write(block)
        if content.tell() > limit:
            size = f"{limit >> 20} MiB" if limit >> 20 else f"{limit >> 10} KiB"
            raise OSError(errno.EFBIG, f"has more than {size}, the most for a file of this kind", str(path))
    return content.getvalue()


def read_json(path: Path, limit: int = SMALL_FILE) -> Any:
    """Return the value of a small JSON document.

    Raises:
        OSError: as ``read_small``.
        ValueError: it is not UTF-8 or not JSON.
    """
    try:
        return json.loads(read_small(path, limit).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("brackets inside brackets, too many") from error


def gunzip(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield what a gzip file holds, in blocks.

    Raises:
        DataError: it unpacks to more than any real file does.
        EOFError, zlib.error, gzip.BadGzipFile: it is damaged or cut.
    """
    counted = _Counted(file)
    unpacked = 0
    with gzip.GzipFile(fileobj=counted, mode="rb") as content:
        while block := content.read1(BLOCK):
            unpacked += len(block)
            check_unpacked(counted.count, unpacked, path)
            yield block


class _Counted(io.RawIOBase):
    """A file, and how many bytes were read of it: a pipe does not tell."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.count += len(content)
        return content


def _part(path: Path) -> Path:
    """Return a name that nothing has, beside a path, for content on its way there."""
    return path.with_name(f"{path.name[:_PART_NAME]}.{os.urandom(4).hex()}.part")


@contextmanager
def open_atomic(path: Path, mode: Literal["w", "wb"] = "w", sync: bool = True) -> Iterator[IO[Any]]:
    """Open a file to write, text (UTF-8) or binary; it takes its name only when the block ends without an error.

    Args:
        sync: force the content to the disk. It is not worth its time for the many files of a corpus.

    Raises:
        OSError: as the operating system says; the temporary file is removed and an older file keeps its content.
    """
    text: dict[str, str] = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        # a device or a pipe (/dev/stdout): a rename would put a file in its place
        with path.open(mode, **text) as file:  # type: ignore[call-overload]
            yield file
        return

    part = _part(path)
    try:
        # "x": made here and now, never through a link that somebody put there
        with part.open(mode.replace("w", "x"), **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file that can be made again atomically: it is not forced to the disk."""
    with open_atomic(path, "wb", sync=False) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with open_atomic(path) as file:
        file.write(text)


def json_text(value: Any, indent: int | None = None, ascii: bool = False) -> str:
    """Return a value as JSON; not-a-number values are refused.

    Control characters and marks of direction (``errors.UNSAFE``) are escapes, which a reader turns back.

    >>> json_text("é\x9b"), json.loads(json_text("é\x9b")) == "é\x9b"
    ('"é\\\\u009b"', True)
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii, allow_nan=False)
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically, indented for people; not-a-number values are refused."""
    write_text(path, json_text(value, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that can be made again; an empty one if it is missing or damaged."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def existing_parent(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return there


def cache_folder() -> Path:
    """Return this package's part of the folder where a person's programs keep what can be made again.

    Raises:
        RuntimeError: there is no home folder, and XDG_CACHE_HOME names no other.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "asr"


def is_hidden(name: str) -> bool:
    """Check whether a file or folder is a system's own: ``.DS_Store``, ``._a.wav`` (of a Mac), ``__MACOSX``.

    >>> [is_hidden(name) for name in ("._a.wav", "__MACOSX", "a.wav", "..")]
    [True, True, False, False]
    """
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the paths in a folder that match a glob pattern, in order, without the hidden ones."""
    return sorted(path for path in folder.glob(pattern) if not any(map(is_hidden, path.relative_to(folder).parts)))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, in order, without the hidden ones; none if it cannot be read."""
    return [path for path in visible(folder, "*") if path.is_dir()]


def files_below(folder: Path, failed: Callable[[Path, str], None]) -> Iterator[Path]:
    """Yield the files in a folder and in all folders in it, each once. Hidden ones are skipped, links are followed.

    A link to a folder above is not followed, and a warning is logged.

    Args:
        failed: called with a path that cannot be read, and why: a link that leads nowhere, a folder without permission.
    """
    seen: set[str] = set()
    top = os.path.realpath(folder)

    def note(error: OSError) -> None:
        failed(Path(str(error.filename)), f"cannot read the folder: {os_reason(error)}")

    for root, folders, names in os.walk(folder, followlinks=True, onerror=note):
        place = os.path.realpath(root)
        is_above = root != str(folder) and Path(top).is_relative_to(place)
        if is_above:
            log.warning("%s: a link to a folder above, not followed", root)
        if is_above or place in seen:
            folders.clear()
            continue
        seen.add(place)

        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in names if not is_hidden(name)):
            path = Path(root, name)
            if path.is_symlink() and not path.exists():
                failed(path, f"a link to {path.readlink()}, which is not there")
            else:
                yield path


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder to fill; when the block ends without an error it takes the place of ``path``.

    Between the two renames a crash leaves the former content under ``<name>.old``: ``recover_folder`` puts it back.
    Several processes may do this at once: each folder is whole, and the last one stays.
    """
    old = path.with_name(path.name + ".old")
    with part_folder(path) as part:
        yield part
        for file in part.iterdir():
            _sync(file)
        _sync(part)

        try:
            with locked(path.parent):
                if path.exists():
                    _remove(old)
                    path.rename(old)
                part.rename(path)
                _sync(path.parent)
                _remove(old)
        except BaseException:
            recover_folder(path)
            raise


@contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside ``path``, for content on its way there; what is not renamed is removed.

    A lock on it says that somebody fills it: the next call for the same path removes those of killed processes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    with ExitStack() as stack:
        with locked(path.parent):  # or another process could find it before it is locked
            remove_parts(path.parent, f"{glob.escape(path.name[:_PART_NAME])}.*.part")
            part.mkdir()
            stack.callback(_remove, part)
            stack.enter_context(locked(part))
        yield part


def remove_parts(folder: Path, pattern: str) -> None:
    """Remove the folders of ``part_folder`` that killed processes left, among those whose names match a glob."""
    for part in folder.glob(pattern):
        with suppress(OSError):  # somebody fills it, or it is gone
            if part.is_dir() and not part.is_symlink():
                with locked(part, wait=False) as is_locked:
                    if is_locked:
                        _remove(part)


def recover_folder(path: Path) -> None:
    """Undo a replacement that was interrupted between its two renames."""
    if not path.name:
        return  # ".": nothing replaces the current folder
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        with locked(path.parent):  # or another process is just between them
            if old.exists() and not path.exists():
                old.rename(path)


def _remove(path: Path) -> None:
    """Remove a folder and what is in it, or a link to one; what cannot be removed stays."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path, busy: str) -> Iterator[None]:
    """Lock a file or folder for this process; the system releases it however the process ends.

    Nothing is written. It must be one that is never replaced. A file system without locks holds nothing.

    Args:
        busy: the error if another process holds it.

    Raises:
        ConfigError: another process holds it, or this one may not write it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=False))
        except BlockingIOError as error:
            raise ConfigError(busy) from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot write: {os_reason(error)}") from error
        yield


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Lock a file or folder, and yield true; false where the system or the file system has no locks.

    Raises:
        BlockingIOError: another process has it, or another thread; with ``wait`` it is waited for.
        OSError: it cannot be opened.
    """
    if sys.platform == "win32":
        yield False
        return

    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        is_locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            log.debug("%s: not locked: %s", path, os_reason(error))
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)
