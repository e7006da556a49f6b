"""Members of tar files, within limits: a header may claim any size, and ``tarfile`` believes it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from asr.errors import DataError
from asr.limits import TAR_HEADER, TAR_MEMBERS, check_unpacked

#: what stands before a member and is about it; ``tarfile`` reads it into memory at once
_ABOUT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class Header(tarfile.TarInfo):
    """A header that is checked before what it announces is read: ``tarfile.open(path, …, tarinfo=Header)``."""

    __slots__ = ()

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # the method that tarfile.py names for subclasses to override
        if self.size < 0 or (self.type in _ABOUT and self.size > TAR_HEADER):
            expected = f"expected 0 to {TAR_HEADER >> 20} MiB for a name or attributes"
            raise DataError(
                f"refused: member '{self.name}' has a header of {self.size:,} bytes, {expected}", str(tar.name)
            )
        if self.type == tarfile.GNUTYPE_SPARSE:  # whose map may have any number of blocks
            _refuse_sparse(self.name, str(tar.name))
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


def members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file that was opened with ``Header``; what a compressed one unpacks to is limited.

    Raises:
        DataError: a member that no real archive has, too many of them, or too much for the size of the file.
    """
    packed = path.stat().st_size
    for number, member in enumerate(tar, start=1):
        if number > TAR_MEMBERS:
            raise DataError(f"refused: has more than {TAR_MEMBERS:,} members, which no corpus has", path)
        if member.size < 0:
            raise DataError(f"refused: member '{member.name}' has a size of {member.size:,} bytes", path)
        if member.issparse():
            _refuse_sparse(member.name, path)
        # before the member is read or skipped: to skip is to decompress
        check_unpacked(packed, tar.offset, path)
        yield member


def _refuse_sparse(name: str, path: str | Path) -> None:
    remedy = "unpack it yourself, and pack it again without --sparse"
    raise DataError(f"refused: member '{name}' is a sparse file, of which only a part is stored; {remedy}", path)
