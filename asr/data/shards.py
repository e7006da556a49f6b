"""Audio inside tar files: a corpus of a million recordings in some hundred files.

A path ``shards/000.tar#a/b.flac`` means the member ``a/b.flac`` of the tar file ``shards/000.tar``. Each member is read
by its offset, from a file that stays open, so rows can be read in any order. The offsets are found once for each tar
file, and kept beside it as ``000.tar.index.json``; the index is made anew if the tar file has another size or time.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from asr.data.places import MARK
from asr.data.tar import Header, members
from asr.errors import DataError, os_reason
from asr.files import open_regular, read_small, write_bytes
from asr.limits import SMALL_FILE
from asr.sound.splice import Spliced

INDEX_VERSION = 2
#: tar files held open, with their indexes: 512 of 512 MiB are a corpus of 256 GiB
_OPEN = 512
#: bytes read ahead: a few seconds of FLAC
_BUFFER = 1 << 16


def is_member(path: str | Path) -> bool:
    """Check whether a path means a member of a tar file.

    >>> is_member("shards/000.tar#a.flac"), is_member("take#2.flac")
    (True, False)
    """
    return MARK in str(path)


def split(path: str | Path) -> tuple[Path, str]:
    """Return the tar file and the member's name.

    >>> split("shards/000.tar#a/b.flac")[1]
    'a/b.flac'
    """
    before, _, name = str(path).rpartition(MARK)
    return Path(before + MARK[:-1]), name.removeprefix("./")


def container(path: str | Path) -> Path:
    """Return the file on disk that a path's audio is in: the path itself, or the tar file."""
    return split(path)[0] if is_member(path) else Path(path)


def open_bytes(path: str | Path) -> BinaryIO:
    """Open a file, or a member of a tar file, to read and seek in.

    Raises:
        DataError: the tar file cannot be read, or has no such member.
        OSError: a file that is no member cannot be opened.
    """
    if not is_member(path):
        return Path(path).open("rb")
    tar, name = _find(path)
    return io.BufferedReader(Spliced(tar.read_at, [tar.members[name]]), _BUFFER)


def num_bytes(path: str | Path) -> int:
    """Return the size of a file, or of a member of a tar file.

    Raises:
        As ``open_bytes``.
    """
    if not is_member(path):
        return Path(path).stat().st_size
    tar, name = _find(path)
    return tar.members[name][1]


def read_ahead(paths: Iterable[str | Path]) -> None:
    """Ask the system to fetch the paths that are members, each tar file forwards, in whichever order they are read.

    Members that cannot be found are ignored: reading them will say why.
    """
    places = []
    for path in paths:
        if is_member(path):
            with suppress(DataError):
                tar, name = _find(path)
                places.append((tar.path, *tar.members[name], tar))

    for _, start, size, tar in sorted(places, key=lambda place: place[:2]):
        tar.fetch(size, start)


class Tar:
    """A tar file that is open, and the places of its members: (offset, size) by name."""

    def __init__(self, path: str, members: Mapping[str, tuple[int, int]]) -> None:
        self.path = path
        self.members = members
        self._lock = threading.Lock()
        self._file = open_regular(Path(path))
        self._descriptor = self._file.fileno()

    def read_at(self, count: int, offset: int) -> bytes:
        """Read bytes from an offset; threads do not disturb each other."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, count)

    def fetch(self, count: int, offset: int) -> None:
        """Have the system read these bytes from the disk, without waiting for them."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # a file system that takes no advice
                os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was never opened
            self._file.close()


def _find(path: str | Path) -> tuple[Tar, str]:
    """Return the open tar file that a path's member is in, and the member's name."""
    file, name = split(path)
    try:
        status = file.stat()
        tar = _opened(str(file), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"cannot read the tar file: {os_reason(error)}", file) from error
    except ValueError as error:  # a NUL or half a surrogate pair
        raise DataError(f"cannot read the tar file: the name is impossible ({error})", file) from error

    if name not in tar.members:
        raise DataError(f"holds no member '{name}'; does the manifest belong to these shards?", file)
    return tar, name


@lru_cache(_OPEN)
def _opened(path: str, num_bytes: int, mtime_ns: int) -> Tar:
    """Open the tar file of that size and time: another one is another entry of the cache."""
    kept = read_index(Path(path), num_bytes, mtime_ns)
    if kept is not None:
        return Tar(path, {name: (start, size) for name, (start, size) in kept["members"].items()})
    members = find_members(Path(path))
    with suppress(OSError):  # in a folder that cannot be written to, the next process finds them again
        write_index(Path(path), num_bytes, mtime_ns, members)
    return Tar(path, members)


def find_members(tar: Path) -> dict[str, tuple[int, int]]:
    """Return offset and size of every regular file in a tar file; a hard link is the file that it leads to.

    Of two with one name the later counts, as for tar itself.

    Raises:
        DataError: it is no tar file, compressed, cut short, or has a member that is refused (``asr.data.tar``).
        OSError: it cannot be opened.
    """
    places: dict[str, tuple[int, int]] = {}
    try:
        with open_regular(tar) as raw, tarfile.open(tar, "r:", raw, tarinfo=Header) as file:
            for member in members(file, tar):
                name = member.name.removeprefix("./")
                target = member.linkname.removeprefix("./")
                if member.isreg():
                    places[name] = (member.offset_data, member.size)
                elif member.islnk() and target in places:
                    places[name] = places[target]
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise DataError(
            f"not a whole tar file ({error}); a compressed one must be unpacked, a cut one fetched again", tar
        ) from error

    size = tar.stat().st_size
    cut = [name for name, (start, length) in places.items() if start + length > size]
    if cut:
        raise DataError(f"cut short: member '{cut[0]}' ends beyond the file's {size:,} bytes; fetch it again", tar)
    return places


def index_path(tar: Path) -> Path:
    return tar.with_name(tar.name + ".index.json")


def read_index(tar: Path, num_bytes: int, mtime_ns: int) -> dict[str, Any] | None:
    """Read the index beside a tar file; None if there is none, or it is damaged or of another state of the file."""
    try:
        # names and places take no more than the headers of the members themselves
        index = json.loads(read_small(index_path(tar), SMALL_FILE + num_bytes))
        state = (index["format_version"], index["bytes"], index["mtime_ns"])
        is_whole = all(_is_inside(place, num_bytes) for place in index["members"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return index if is_whole and state == (INDEX_VERSION, num_bytes, mtime_ns) else None


def _is_inside(place: list[object], num_bytes: int) -> bool:
    start, size = place
    return type(start) is int and type(size) is int and start >= 0 and size >= 0 and start + size <= num_bytes


def write_index(tar: Path, num_bytes: int, mtime_ns: int, members: Mapping[str, tuple[int, int]], **more: Any) -> None:
    """Write the index beside a tar file.

    Raises:
        OSError: it cannot be written.
    """
    index = {"format_version": INDEX_VERSION, "bytes": num_bytes, "mtime_ns": mtime_ns, **more, "members": members}
    # several processes may do this at once: each writes a file of its own, and the last one's stays
    write_bytes(index_path(tar), json.dumps(index).encode())
