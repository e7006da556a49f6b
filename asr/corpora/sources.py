"""The files of a corpus that a request needs, and how they come: from --archive, a mirror, or the corpus's host."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from asr.corpora.archive import DamagedArchive, unpack
from asr.corpora.recipe import Recipe, Request
from asr.data.prepared import FILE as PREPARED
from asr.download.address import without_login
from asr.download.fetch import fetch
from asr.download.mirror import mirror_folder
from asr.download.remote import Digests, Remote, check_space, gigabytes, openslr, verify
from asr.errors import ConfigError, DataError, nearest
from asr.files import visible

log = logging.getLogger(__name__)


def chosen_files(recipe: Recipe, request: Request, template: str = "") -> list[Remote]:
    """Return the files of the subsets that are asked for (``all``: every one), in the recipe's order.

    Args:
        template: path on OpenSLR with ``{subset}``, for subsets that the recipe does not know: a mirror or --archive
            may have them.

    Raises:
        ConfigError: an unknown subset, one named twice, names beside ``all``, or an --archive that is none of the
            files.
    """
    names = request.subsets or _of_archives(recipe, request) or recipe.default_subsets or recipe.subsets
    if names == ("all",):
        names = recipe.subsets
    if "all" in names:
        raise ConfigError("--subsets all is every subset; other names beside it add nothing")
    if len(set(names)) < len(names):
        raise ConfigError(f"--subsets names one twice: {', '.join(names)}")

    files = [file for file in recipe.files if file.subset in names]
    for name in names:
        if name in recipe.subsets:
            continue
        if not template or not (request.mirror or request.archive) or re.search(r"[^\w.-]|^\.", name):
            remedy = "; other names need --mirror URL or --archive FILE" if template else ""
            raise ConfigError(
                f"{recipe.name} has no subset '{name}'{nearest(name, recipe.subsets)}{remedy} "
                f"(known: {', '.join(recipe.subsets)}, all)"
            )
        files.append(openslr(template.format(subset=name), subset=name))

    for path in request.archive:
        if not any(_has(path, file) for file in files):
            wanted = ", ".join(file.name for file in files)
            raise ConfigError(f"--archive {path}: none of {wanted}; name it as it is published, or give --subsets")
    return files


def _of_archives(recipe: Recipe, request: Request) -> tuple[str, ...]:
    """Return the subsets that the archives are of, by their names; of a folder those of the recipe that are in it."""
    known = [file.subset for file in recipe.files if any(_has(path, file) for path in request.archive)]
    names = {file.name for file in recipe.files}
    others = [p.name.partition(".tar")[0] for p in request.archive if not p.is_dir() and p.name not in names]
    return tuple(dict.fromkeys([*known, *others]))


def _has(path: Path, file: Remote) -> bool:
    return _copy_in(path, file) is not None or unpacked_in(path, file.subset) is not None


def _copy_in(path: Path, file: Remote) -> Path | None:
    found = path / file.name if path.is_dir() else path
    return found if found.name == file.name and found.is_file() else None


def unpacked_in(path: Path, subset: str) -> Path | None:
    """Return the folder of an extracted subset: the path itself, in it, or one deeper (``LibriSpeech/…``)."""
    if not subset or not path.is_dir():
        return None
    folders = [path.absolute(), path / subset, *visible(path, f"*/{subset}")]
    return next((folder for folder in folders if folder.name == subset and folder.is_dir()), None)


def local_copy(request: Request, remote: Remote) -> Path | None:
    """Return the copy of a file that --archive has, under its name or in a folder."""
    return next((found for path in request.archive if (found := _copy_in(path, remote))), None)


def obtain(recipe: Recipe, request: Request, remote: Remote, folder: str = "downloads") -> Path:
    """Return a file of a recipe, checked: of --archive, in the mirror's folder, or downloaded to ``out/folder``.

    An --archive for a recipe of one file may have any name. Under another name than the published one it may be another
    version, on purpose, and is used with a warning.

    Raises:
        DataError: it cannot be had, is not the published file, or the data folder was made of another one of its name.
    """
    path = local_copy(request, remote)
    if len(recipe.files) == 1 and request.archive:
        given = request.archive[0]
        path = given / remote.name if given.is_dir() else given
    if path is not None:
        sha256 = ""
        try:
            sha256 = verify(path, remote)
        except DataError as error:
            if path.name == remote.name:
                raise
            log.warning("%s; used all the same, as it has another name than %s", error, remote.name)
        check_known(request, path, sha256)
        return path

    other = "or leave out --mirror" if request.mirror else "give --mirror URL"
    remedy = f"see {recipe.homepage}, {other}, or fetch it in another way and give --archive {remote.name}"
    return fetch(remote, request.out / folder, request.mirror, remedy, accept=partial(check_known, request))


def check_known(request: Request, path: Path, sha256: str = "") -> None:
    """Compare an archive with the one of its name that the data folder was made of; note it if it is the first.

    Args:
        sha256: empty: the file is read.

    Raises:
        DataError: it is another one.
    """
    if not sha256:
        digests = Digests()
        digests.add_file(path, f"checking {path.name}")
        sha256 = digests.sha256
    before = request.archives.setdefault(path.name, sha256)
    if before != sha256:
        raise DataError(
            f"SHA-256 {sha256}, but {request.out} was prepared from an archive of that name with {before}; give that "
            f"one, another --out, or remove '{path.name}' from 'archives' in {request.out / PREPARED} to use this one",
            path,
        )


@contextmanager
def removed_if_damaged(request: Request, archive: Path) -> Iterator[None]:
    """Remove an archive that was downloaded and proves damaged in this block, so that the next run fetches it anew.

    Raises:
        DataError: it is damaged.
    """
    try:
        yield
    except DamagedArchive as error:
        if archive.parent != request.out / "downloads":
            raise
        archive.unlink()
        raise DataError(f"{error}: the download is removed, run again") from error


def unpack_file(recipe: Recipe, request: Request, remote: Remote, folder: str) -> None:
    """Obtain an archive and extract its ``folder``, and the files beside that, to ``out``, once.

    Raises:
        DataError: it cannot be had, is damaged, or is another one.
    """
    own = PurePosixPath(folder)

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        # a name that leads out of the target is wanted, for extraction refuses it: such an archive is not to be used
        return own in path.parents or path.parent == own.parent or path.is_absolute() or ".." in path.parts

    archive = obtain(recipe, request, remote)
    with removed_if_damaged(request, archive):
        unpack(archive, request.out, folder, wanted)


def check_room(
    request: Request, files: Sequence[Remote], unpacked: bool = True, extracted: int = 0, folder: str = "downloads"
) -> None:
    """Log what will be downloaded, and refuse, before it begins, what would fill the disk.

    Args:
        unpacked: the archives are unpacked, too.
        extracted: bytes of what is in them that an earlier run has unpacked.
        folder: as ``obtain`` gets it.

    Raises:
        DataError: the disk has less space free.
    """
    missing = [] if mirror_folder(request.mirror) else [file for file in files if not local_copy(request, file)]
    downloads = sum(file.size for file in missing)
    here = sum(p.stat().st_size for file in missing for p in (request.out / folder).glob(f"{file.name}*"))
    if missing:
        host = urlsplit(without_login(request.mirror or missing[0].urls[0])).netloc
        size = f", {gigabytes(downloads)}" if downloads else ""
        log.info("%s from %s%s", ", ".join(file.name for file in missing), host, size)

    needed = max(0, downloads - here)
    if unpacked:
        needed += round(1.1 * sum(file.size for file in files))
    check_space(request.out, max(0, needed - extracted), "this takes")
