"""Tar archives, extracted so that a broken extraction can be run again and nothing lands outside its folder."""

from __future__ import annotations

import json
import logging
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from asr.corpora.remote import byte_bar, check_space, gigabytes
from asr.errors import DataError, os_reason
from asr.files import write_json

log = logging.getLogger(__name__)

#: written into the folder that an archive fills, when all of it is there
MARK = ".extracted.json"


class DamagedArchive(DataError):
    """An archive that is cut, damaged or none at all: another copy may be whole."""


def unpack(archive: Path, out: Path, folder: str, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Extracts an archive that fills ``out/folder``, once: a mark says that all of it is there.

    Raises:
        DataError: as ``extract``; there is no such folder in the archive; or another archive was extracted there.
    """
    target, size = out / folder, archive.stat().st_size
    if is_unpacked(target):
        before = json.loads((target / MARK).read_text(encoding="utf-8"))["archive_bytes"]
        if before == size:
            return
        raise DataError(
            f"was extracted from another archive ({before:,} bytes; {archive} has {size:,}); delete that folder, or "
            "give another --out",
            target,
        )
    (target / MARK).unlink(missing_ok=True)
    # FLAC does not compress: the files of a corpus are a little larger than its archive (block sizes)
    check_space(out, round(1.1 * size) - bytes_in(target), f"extracting {archive.name} takes")
    tops: set[str] = set()

    def noted(name: str) -> bool:
        tops.add("/".join(PurePosixPath(name).parts[:2]))
        return wanted(name)

    written = extract(archive, out, noted)
    if not any(path.is_relative_to(target) for path in written):
        there = ", ".join(sorted(tops - {folder})[:5])
        found = any(f"{top}/".startswith(f"{folder}/") for top in tops)
        what = f"no file that is needed in {folder}/" if found else f"no {folder}/"
        raise DataError(f"holds {what}: is this the right archive? (it has {there})", archive)
    write_json(target / MARK, {"archive": archive.name, "archive_bytes": size, "files": _count_files(target)})
    log.info("%s: extracted to %s (%s)", archive, target, gigabytes(size))


def is_unpacked(target: Path) -> bool:
    """Whether ``unpack`` has filled a folder, and as many files are there as it wrote."""
    try:
        mark = json.loads((target / MARK).read_text(encoding="utf-8"))
        return bool(mark["files"] == _count_files(target) and mark["archive_bytes"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def bytes_in(folder: Path) -> int:
    """What a folder's files hold: of an extraction that was interrupted, it is there already."""
    return sum(Path(where, name).lstat().st_size for where, _, names in os.walk(folder) for name in names)


def _count_files(folder: Path) -> int:
    return sum(name != MARK for _, _, names in os.walk(folder) for name in names)


def extract(archive: Path, out: Path, wanted: Callable[[str], bool] = lambda name: True) -> list[Path]:
    """Extracts the wanted regular files of a tar archive under ``out``; the paths written.

    Each file takes its name only when it is whole, and one that is there already with its full size is kept, so a
    broken extraction can be run again. Of what a damaged archive gave nothing is kept; what was there before is.

    Raises:
        DataError: not a readable archive, cut short, no space, or a member that would land outside ``out``.
    """
    written: list[Path] = []
    new: list[Path] = []
    try:
        raw = archive.open("rb")
    except OSError as error:
        raise DataError(f"cannot read the archive: {os_reason(error)}", archive) from error
    try:
        # not the stream mode "r|*": that one checks no CRC and takes the end of a cut gzip file for the archive's end
        with (
            raw,
            byte_bar(f"extracting {archive.name}", archive.stat().st_size) as bar,
            tarfile.open(fileobj=raw, mode="r:*") as tar,
        ):
            for member in tar:
                bar(raw.tell())
                if not wanted(member.name):
                    continue
                path = _safe_path(archive, out, member)
                if member.issym() or member.islnk():
                    log.warning("%s: left out '%s', a link to '%s'", archive, member.name, member.linkname)
                if not member.isfile():
                    continue
                written.append(path)
                if path.is_file() and path.stat().st_size == member.size:
                    continue
                source = tar.extractfile(member)
                assert source is not None  # a regular file always has content
                part = path.with_name(path.name + ".part")
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with source, part.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                    part.replace(path)
                    new.append(path)
                finally:
                    part.unlink(missing_ok=True)
            _check_end(tar)
    except (tarfile.TarError, EOFError, ValueError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno:  # gzip and bz2 report damage as OSError without a number
            raise DataError(f"cannot extract to {out}: {os_reason(error)}", archive) from error
        # What came out of a damaged archive may be damaged too, and with its full size the next run would keep it.
        for path in new:
            path.unlink(missing_ok=True)
        # of a file that is none of the kinds tarfile tells the story of each kind, on five lines
        reason = "not tar, gzip, bzip2 or xz" if "\n" in str(error) else str(error)
        raise DamagedArchive(f"not a whole tar archive ({reason}); fetch it again", archive) from error
    return written


def _check_end(tar: tarfile.TarFile) -> None:
    """An error unless the archive ends in its end mark: ``tarfile`` stops without a word at a header it cannot read."""
    file = tar.fileobj
    assert file is not None  # open until the with block ends
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("damaged or cut before its end mark")
    while file.read(1 << 20):  # to the last byte: that is where gzip, bzip2 and xz compare their checksum
        pass


def _safe_path(archive: Path, out: Path, member: tarfile.TarInfo) -> Path:
    """Where a member goes; absolute names, ``..`` and links out of the archive (attacks or accidents) are errors."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or re.match(r"^[A-Za-z]:", member.name):
        raise DataError(f"refused: member '{member.name}' would be written outside the target folder", archive)
    if member.islnk() or member.issym():
        target = PurePosixPath(member.linkname)
        if target.is_absolute() or ".." in target.parts:
            raise DataError(f"refused: member '{member.name}' links outside the archive ('{member.linkname}')", archive)
    path = out.joinpath(*name.parts)
    if not path.resolve().is_relative_to(out.resolve()):
        raise DataError(f"refused: member '{member.name}' would be written outside the target folder", archive)
    return path
