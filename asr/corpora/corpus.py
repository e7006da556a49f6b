"""A corpus that comes as one archive: its folder is given, unpacked already, or downloaded and unpacked."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

from asr.corpora.archive import is_unpacked, unpack
from asr.corpora.recipe import Recipe, Request
from asr.corpora.sources import check_room, obtain, removed_if_damaged
from asr.download.remote import Remote, verify
from asr.errors import ConfigError, DataError
from asr.files import folders_in, is_hidden, visible

log = logging.getLogger(__name__)


def corpus_folder(recipe: Recipe, request: Request, holds: str, wanted: Callable[[str], bool]) -> Path:
    """Return the folder of the corpus: --archive's, or one under ``out`` into which the archive is unpacked.

    An archive that is unpacked already is neither looked for nor downloaded again.

    Args:
        holds: what is in the folder, as a glob pattern: ``metadata.csv``.
        wanted: which members of the archive are unpacked, by name.

    Raises:
        ConfigError: there is no archive and nothing to download.
        DataError: the archive cannot be had or read, or is another one.
    """
    remote = recipe.files[0] if recipe.files else None
    if request.archive:
        given = request.archive[0]
        if given.is_dir():
            if found := _holding(given, holds):
                return found
            if remote is not None and (given / remote.name).is_file():
                given = given / remote.name  # a folder of archives
        elif remote is not None:
            _check_published(given, remote)
    else:
        for folder in folders_in(request.out):
            if is_unpacked(folder) and (found := _holding(folder, holds)):
                return found
        if remote is None:
            raise ConfigError(f"{recipe.name} needs --archive FILE: {recipe.archive}")
        check_room(request, [remote])
        given = obtain(recipe, request, remote)

    found = None
    if given.is_file():
        top = _top(given)
        with removed_if_damaged(request, given):
            unpack(given, request.out, top, wanted)
        found = _holding(request.out / top, holds)
    if found is None:
        raise DataError(f"holds no {holds}: is this {recipe.title}? ({recipe.homepage})", given)
    return found


def _check_published(archive: Path, remote: Remote) -> None:
    """Warn if an archive differs from the published one: under another name it may be another version, on purpose."""
    try:
        verify(archive, remote)
    except DataError as error:
        if archive.name == remote.name:
            raise
        log.warning("%s; used all the same, as it has another name than %s", error, remote.name)


def _top(archive: Path) -> str:
    """Return the folder that an archive fills; empty if it cannot be read (to unpack it is an error then)."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name, slash, _ = member.name.removeprefix("./").partition("/")
                # a file beside the folder is a note
                if name and name != "." and not is_hidden(name) and (slash or member.isdir()):
                    return name
    except (tarfile.TarError, OSError, EOFError):
        return ""

    raise DataError("its files are in no folder: is this the archive as it was published?", archive)


def _holding(folder: Path, pattern: str) -> Path | None:
    """Return the folder itself, or the first of those in it, two deep, in which something fits the pattern."""
    deeper = [folder, *folders_in(folder)]
    deeper += [inner for outer in deeper[1:] for inner in folders_in(outer)]
    return next((one for one in deeper if visible(one, pattern)), None)
