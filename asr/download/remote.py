"""Files that a corpus's host offers: how they are checked, the room they need, and a progress bar over bytes."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from asr.download.address import without_login
from asr.errors import ConfigError, DataError, os_reason
from asr.files import BLOCK, existing_parent, gunzip, open_regular
from asr.heartbeat import counted


@dataclass(frozen=True)
class Remote:
    """A file that a corpus's host offers.

    Units: ``size`` in bytes, 0 if unknown; ``md5`` in hexadecimal as the host publishes it, empty if it does not.

    Raises:
        ConfigError: the URL does not end in a file's name.
    """

    url: str
    size: int = 0
    md5: str = ""
    #: the subset that it holds, as --subsets names it
    subset: str = ""
    #: other hosts of the same file
    copies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = self.name
        if name in ("", ".", "..") or "\\" in name or not name.isprintable():
            raise ConfigError(f"{without_login(self.url)}: ends in no name that a file can have")

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def urls(self) -> tuple[str, ...]:
        """The hosts in the order in which they are tried: plain http, which anybody between can change, last."""
        return tuple(sorted((self.url, *self.copies), key=lambda url: url.startswith("http:")))


class Digests:
    """Compute the MD5 and the SHA-256 of a file in one pass."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        #: bytes that went through
        self.count = 0

    def update(self, block: bytes) -> None:
        self._md5.update(block)
        self._sha256.update(block)
        self.count += len(block)

    def add_file(self, path: Path, what: str) -> None:
        """Put a whole file through, with a progress bar under the name ``what``."""
        with open_regular(path) as file, byte_bar(what, path.stat().st_size) as show:
            while block := file.read(BLOCK):
                self.update(block)
                show(file.tell())

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def openslr(path: str, size: int = 0, md5: str = "", subset: str = "") -> Remote:
    """Return a file of www.openslr.org, with the mirrors that its pages list: US, EU.

    Args:
        path: ``/resources/12/dev-clean.tar.gz``.
    """
    copies = ("https://us.openslr.org" + path, "https://openslr.elda.org" + path)
    return Remote("https://www.openslr.org" + path, size, md5, subset, copies)


def verify(path: Path, remote: Remote) -> str:
    """Check that a file is the published one, as far as its host publishes what to check; return its SHA-256.

    Raises:
        DataError: another size, another MD5, or a damaged gzip file.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the archive: {os_reason(error)}", path) from error

    if remote.size and size != remote.size:
        raise DataError(f"{size:,} bytes, expected {remote.size:,}: not the published file, or not all of it", path)

    digests = Digests()
    digests.add_file(path, f"checking {remote.name}")
    if remote.md5 and digests.md5 != remote.md5:
        raise DataError(f"MD5 {digests.md5}, expected {remote.md5}: damaged, or not the published file", path)
    if not remote.md5:
        check_gzip(path, path.name)
    return digests.sha256


def check_gzip(path: Path, name: str) -> None:
    """Read a gzip file to its end, where its checksum is. That of a ``.tar.gz`` is checked when it is extracted.

    Args:
        name: the file's name when it is whole.

    Raises:
        DataError: damaged, cut, or it unpacks to more than any real file does.
    """
    if not name.endswith(".gz") or name.endswith(".tar.gz"):
        return
    try:
        with path.open("rb") as raw, byte_bar(f"checking {name}", 0) as show:
            for _ in gunzip(raw, path):
                show(raw.tell())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"not a whole gzip file ({error})", path) from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse, before the work, what would fill the disk.

    Units: ``needed`` in bytes.

    Raises:
        DataError: the disk of ``folder`` (which need not be there yet) has less free.
    """
    free = shutil.disk_usage(existing_parent(folder)).free
    if free < needed:
        problem = f"{what} {gigabytes(needed)}, but {gigabytes(free)} are free"
        raise DataError(f"{problem}; make room, or give --out on another disk", folder)


@contextmanager
def byte_bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar over bytes, as ``counted`` does; yield a function to call with the bytes that are done."""
    with counted(what, total or None, gigabytes, done) as advance:
        now = done

        def show(count: int) -> None:
            nonlocal now
            advance(count - now)
            now = count

        yield show


def gigabytes(count: float) -> str:
    """Format a number of bytes for people.

    >>> gigabytes(6387309499)
    '6.39 GB'
    """
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
