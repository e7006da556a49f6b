"""Tar archives, extracted so that a broken extraction can be run again and nothing lands outside its folder."""

from __future__ import annotations

import logging
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from asr.data.tar import Header, members
from asr.download.remote import byte_bar, check_space, gigabytes
from asr.errors import DataError, os_reason
from asr.files import held, is_hidden, open_regular, read_record, write_json
from asr.limits import check_unpacked

log = logging.getLogger(__name__)

#: in the folder that an archive fills: which archive that is, and the number of files once all are there
MARK = ".extracted.json"
#: what reading a damaged archive raises, or one that is none
DAMAGE = (tarfile.TarError, EOFError, ValueError, RecursionError, OSError, zlib.error, lzma.LZMAError)


class DamagedArchive(DataError):
    """An archive that is cut, damaged or none at all: another copy may be whole."""


def unpack(archive: Path, out: Path, folder: str, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Extract an archive that fills ``out/folder``, once: a mark says that all of it is there.

    Raises:
        ConfigError: another process extracts there.
        DataError: as ``extract``; there is no such folder in the archive; or another archive was extracted there, or
            begun to be.
    """
    target = out / folder
    size = archive.stat().st_size
    mark = read_record(target / MARK)
    before = mark.get("archive_bytes")
    if isinstance(before, int) and before != size:
        raise DataError(
            f"was extracted from another archive ({before:,} bytes; {archive} has {size:,}); delete that folder, or "
            "give another --out",
            target,
        )

    if is_unpacked(target):
        return

    identity = {"archive": archive.name, "archive_bytes": size}
    # files of an unknown archive, or of another one of that size, may be as long and not the same
    is_same = {key: mark.get(key) for key in identity} == identity
    # FLAC does not compress: the files of a corpus are a little larger than its archive (block sizes)
    check_space(out, round(1.1 * size) - bytes_in(target), f"extracting {archive.name} takes")
    tops: set[str] = set()

    def noted(name: str) -> bool:
        tops.add("/".join(PurePosixPath(name).parts[:2]))
        return wanted(name)

    try:
        write_json(target / MARK, identity)
    except OSError as error:
        raise DataError(f"cannot extract to {out}: {os_reason(error)}", archive) from error

    with held(target, f"{target}: another process is extracting there; wait for it, or stop it"):
        try:
            written = extract(archive, out, noted, keep=is_same)
        except BaseException as error:
            _take_back(target, isinstance(error, DamagedArchive))
            raise

    if not any(path.is_relative_to(target) for path in written):
        _take_back(target, True)
        there = ", ".join(sorted(tops - {folder})[:5])
        is_folder = any(f"{top}/".startswith(f"{folder}/") for top in tops)
        missing = f"no file that is needed in {folder}/" if is_folder else f"no {folder}/"
        raise DataError(f"holds {missing}: is this the right archive? (it has {there})", archive)

    write_json(target / MARK, identity | {"files": _count_files(target)})
    log.info("%s: extracted to %s (%s)", archive, target, gigabytes(size))


def is_unpacked(target: Path) -> bool:
    """Check whether ``unpack`` has filled a folder, and as many files are there as it wrote."""
    mark = read_record(target / MARK)
    return bool("files" in mark and mark["files"] == _count_files(target) and mark.get("archive_bytes"))


def _take_back(target: Path, is_of_nothing: bool) -> None:
    """Remove the mark of an archive that gave nothing, and the folder if it was made for the mark."""
    with suppress(OSError):  # there is none, or it is not empty
        if is_of_nothing or not _count_files(target):
            (target / MARK).unlink(missing_ok=True)
            target.rmdir()


def bytes_in(folder: Path) -> int:
    """Return the size of a folder's files: those of an interrupted extraction are there already."""
    return sum(Path(where, name).lstat().st_size for where, _, names in os.walk(folder) for name in names)


def _count_files(folder: Path) -> int:
    return sum(not is_hidden(name) for _, _, names in os.walk(folder) for name in names)


def extract(
    archive: Path, out: Path, wanted: Callable[[str], bool] = lambda name: True, keep: bool = True
) -> list[Path]:
    """Extract the wanted regular files of a tar archive under ``out``, none that is hidden; return their paths.

    Each file takes its name only when it is whole, and with ``keep`` one that is there already with its full size is
    kept, so a broken extraction can be run again. Nothing is kept of what a damaged archive gave; what was there before
    stays. A hard link is the file that it leads to; of two members with one name the later counts, as for tar itself.

    Raises:
        DataError: not a readable archive, cut short, no space, a member that would land outside ``out``, or one that is
            refused (``asr.data.tar``).
    """
    try:
        raw = open_regular(archive)
    except OSError as error:
        raise DataError(f"cannot read the archive: {os_reason(error)}", archive) from error

    extraction = _Extraction(archive, out, keep)
    try:
        # not the stream mode "r|*": that one checks no CRC and takes the end of a cut gzip file for the archive's end
        with (
            raw,
            byte_bar(f"extracting {archive.name}", archive.stat().st_size) as show,
            tarfile.open(archive, "r:*", raw, tarinfo=Header) as tar,
        ):
            for member in members(tar, archive):
                show(raw.tell())
                extraction.add(tar, member, wanted(member.name))
            _check_end(tar, archive)
    except MemoryError as error:  # xz may ask for up to 4 GiB
        raise DataError("cannot be unpacked in the memory that is free; unpack it yourself", archive) from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:  # gzip and bz2 report damage as OSError without a number
            raise DataError(f"cannot extract to {out}: {os_reason(error)}", archive) from error
        # what came out of a damaged archive may be damaged too, and with its full size the next run would keep it
        for path in extraction.new:
            path.unlink(missing_ok=True)
        # for a file that is no archive, tarfile lists every kind that it tried, on five lines
        reason = "not tar, gzip, bzip2 or xz" if "\n" in str(error) else str(error)
        raise DamagedArchive(f"not a whole tar archive ({reason}); fetch it again", archive) from error

    return [*extraction.written]


class _Extraction:
    """The members of one archive, on their way to files."""

    def __init__(self, archive: Path, out: Path, keep: bool) -> None:
        self.archive = archive
        self.out = out
        self.keep = keep
        #: in the order of the archive, without repeats; ``new``: those that were not kept
        self.written: dict[Path, None] = {}
        self.new: list[Path] = []
        self._packed = archive.stat().st_size
        self._linked = 0
        self._regular: dict[str, tarfile.TarInfo] = {}

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, is_wanted: bool) -> None:
        """Write a member, if it is wanted and a regular file or a hard link to one."""
        content = self._regular.get(_plain(member.linkname)) if member.islnk() else member
        if content is not None and content.isfile():
            self._regular[_plain(member.name)] = content
        if not is_wanted:
            return
        path = self._path(member)
        if any(map(is_hidden, PurePosixPath(member.name).parts)):
            return

        if member.issym() or content is None:
            log.warning("%s: left out '%s', a link to '%s'", self.archive, member.name, member.linkname)
        if content is None or not content.isfile():
            return

        is_here = path.is_file() and path.stat().st_size == content.size
        is_kept = self.keep and is_here and path not in self.written
        self.written[path] = None
        if not is_kept:
            self._copy(tar, content, is_link=content is not member, path=path)
            self.new.append(path)

    def _copy(self, tar: tarfile.TarFile, content: tarfile.TarInfo, is_link: bool, path: Path) -> None:
        if is_link:  # a header of 512 bytes copies a file of any size
            self._linked += content.size
            check_unpacked(self._packed, tar.offset + self._linked, self.archive)
        check_space(self.out, content.size, f"'{content.name}' in {self.archive.name} takes")

        # from the disk if possible: to go back in a compressed archive is to decompress it from its start
        target = self._path(content)
        source = target.open("rb") if is_link and target in self.written else tar.extractfile(content)
        assert source is not None  # a regular file always has content
        part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)

        # what a killed run left; "x": made here and now, never through a link that somebody put there
        part.unlink(missing_ok=True)
        try:
            with source, part.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _path(self, member: tarfile.TarInfo) -> Path:
        """Return where a member goes; absolute names, ``..`` and links out of the archive are errors."""
        name = PurePosixPath(member.name)
        path = self.out.joinpath(*name.parts)
        is_outside = name.is_absolute() or ".." in name.parts or "\\" in member.name
        is_outside = is_outside or re.match(r"^[A-Za-z]:", member.name) is not None
        if is_outside or not path.resolve().is_relative_to(self.out.resolve()):
            problem = f"refused: member '{member.name}' would be written outside the target folder"
            raise DataError(problem, self.archive)

        target = PurePosixPath(member.linkname)
        if (member.islnk() or member.issym()) and (target.is_absolute() or ".." in target.parts):
            problem = f"refused: member '{member.name}' links outside the archive ('{member.linkname}')"
            raise DataError(problem, self.archive)
        return path


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _check_end(tar: tarfile.TarFile, archive: Path) -> None:
    """Raise unless the archive ends in its end mark: ``tarfile`` stops silently at a header it cannot read."""
    file = tar.fileobj
    assert file is not None  # open until the with block ends
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("damaged or cut before its end mark")
    packed = archive.stat().st_size
    while file.read(1 << 20):  # to the last byte: that is where gzip, bzip2 and xz compare their checksum
        check_unpacked(packed, file.tell(), archive)
