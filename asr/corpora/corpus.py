"""A corpus that comes as one archive: its folder is given, unpacked already, or downloaded and unpacked."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

from asr.corpora.archive import DAMAGE, is_unpacked, unpack
from asr.corpora.recipe import Recipe, Request
from asr.corpora.sources import check_known, check_room, obtain, removed_if_damaged
from asr.data.tar import Header, members
from asr.errors import ConfigError, DataError
from asr.files import folders_in, is_hidden, open_regular, visible

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
    given = request.archive[0] if request.archive else None
    # the corpus itself is given, or an earlier run has unpacked it
    places = [given] if given is not None else filter(is_unpacked, folders_in(request.out))
    for place in places:
        if place.is_dir() and (found := _holding(place, holds)):
            return found

    problem = f"holds no {holds}: is this {recipe.title}? ({recipe.homepage})"
    if given is not None and given.is_dir() and not any((given / file.name).is_file() for file in recipe.files):
        raise DataError(problem, given)
    if given is None and not recipe.files:
        raise ConfigError(f"{recipe.name} needs --archive FILE: {recipe.archive}")
    if given is None:
        check_room(request, recipe.files)
    archive = obtain(recipe, request, recipe.files[0]) if recipe.files else given
    assert archive is not None  # one is given, or there are files
    if not recipe.files:
        check_known(request, archive)

    top = _top(archive)
    with removed_if_damaged(request, archive):
        unpack(archive, request.out, top, wanted)
    found = _holding(request.out / top, holds)
    if found is None:
        raise DataError(problem, archive)
    return found


def _top(archive: Path) -> str:
    """Return the folder that an archive fills; empty if it cannot be read (to unpack it is an error then)."""
    try:
        with open_regular(archive) as raw, tarfile.open(archive, "r:*", raw, tarinfo=Header) as tar:
            for member in members(tar, archive):
                name, slash, _ = member.name.removeprefix("./").partition("/")
                # a file beside the folder is a note
                if name and name != "." and not is_hidden(name) and (slash or member.isdir()):
                    return name
    except (*DAMAGE, MemoryError):
        return ""

    raise DataError("its files are in no folder: is this the archive as it was published?", archive)


def _holding(folder: Path, pattern: str) -> Path | None:
    """Return the folder itself, or the first of those in it, two deep, in which something fits the pattern."""
    deeper = [folder, *folders_in(folder)]
    deeper += [inner for outer in deeper[1:] for inner in folders_in(outer)]
    return next((one for one in deeper if visible(one, pattern)), None)
