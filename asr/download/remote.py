"""What a corpus's host offers, how it is checked, and what that needs: room on the disk, a bar over bytes."""

from __future__ import annotations

import gzip
import hashlib
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asr.errors import DataError, os_reason
from asr.heartbeat import counted

log = logging.getLogger(__name__)

BLOCK = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file that a corpus's host offers.

    Units: ``size`` in bytes, 0 when unknown; ``md5`` in hexadecimal as the host publishes it, empty when it does not.
    """

    url: str
    size: int = 0
    md5: str = ""
    #: the subset that it holds, as --subsets names it
    subset: str = ""
    #: other hosts of the same file, tried in order when the first one fails
    copies: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]


def mirrored(url: str, mirror: str) -> str:
    """The URL under a mirror: the host's name is replaced, its path stays.

    >>> mirrored("https://www.openslr.org/resources/12/dev-clean.tar.gz", "http://127.0.0.1:8000/")
    'http://127.0.0.1:8000/resources/12/dev-clean.tar.gz'
    """
    return mirror.rstrip("/") + urlsplit(url).path


def verify(path: Path, remote: Remote) -> None:
    """Checks that a file is the published one, as far as its host publishes what to check.

    Without a checksum a gzip file is read to its end, for its own.

    Raises:
        DataError: another size, another MD5, or a damaged gzip file.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the archive: {os_reason(error)}", path) from error
    if remote.size and size != remote.size:
        raise DataError(f"{size:,} bytes, expected {remote.size:,}: not the published file, or not all of it", path)
    if remote.md5:
        digest = hashlib.md5(usedforsecurity=False)
        digest_file(path, digest, f"checking {remote.name}")
        if digest.hexdigest() != remote.md5:
            raise DataError(
                f"MD5 {digest.hexdigest()}, expected {remote.md5}: damaged, or not the published file", path
            )
    elif path.name.endswith(".gz") and not path.name.endswith(".tar.gz"):  # extraction finds that of a .tar.gz
        check_gzip(path)


def check_gzip(path: Path) -> None:
    """Reads a gzip file to its end, where its checksum is.

    Raises:
        DataError: damaged or cut.
    """
    try:
        with path.open("rb") as raw, gzip.open(raw) as file, byte_bar(f"checking {path.stem}", 0) as bar:
            while file.read(BLOCK):
                bar(raw.tell())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"not a whole gzip file ({error})", path) from error


def digest_file(path: Path, digest: Any, what: str) -> None:
    """Puts a file through a digest of ``hashlib``."""
    count = 0
    with path.open("rb") as file, byte_bar(what, path.stat().st_size) as bar:
        while block := file.read(BLOCK):
            digest.update(block)
            count += len(block)
            bar(count)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuses, before the work, what would fill the disk.

    Units: ``needed`` in bytes.

    Raises:
        DataError: the disk of ``folder`` (which need not be there yet) has less free.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{what} {gigabytes(needed)}, but {gigabytes(free)} are free; make room, or give --out on another disk",
            folder,
        )


@contextmanager
def byte_bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, on stderr when that is a terminal, else a line in the log about every minute.

    What it gives is called with the number of bytes that are done.
    """
    with counted(what, total or None, gigabytes, done) as advance:
        now = done

        def show(count: int) -> None:
            nonlocal now
            advance(count - now)
            now = count

        yield show


def gigabytes(count: float) -> str:
    """A number of bytes for people.

    >>> gigabytes(6387309499)
    '6.39 GB'
    """
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
