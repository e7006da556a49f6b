"""Paths to audio as tables write them, and as manifests do."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.request import url2pathname

from asr.errors import DataError
from asr.files import folders_in

log = logging.getLogger(__name__)

#: of a path that leads to another machine; Path makes one slash of two
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
#: of a path that leads to a file of this one, up to its first slash
_FILE_URL = re.compile(r"file:(//(localhost)?)?/(?!/)", re.IGNORECASE)


def is_url(path: str | Path) -> bool:
    """Check whether a path is the URL of another machine's file."""
    return _URL.match(str(path)) is not None


def reference(path: Path, out: Path) -> str:
    """Return how a manifest in ``out`` names a file: relative if the file is below it, else absolute."""
    whole = _absolute(path)
    folder = _absolute(out)
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)


def local_path(text: str) -> str:
    """Return the path in a table as a path of this machine: of a ``file://`` URL, or with ``~`` for a home folder.

    >>> local_path("file:///data/a%20b.wav"), local_path("a~b.wav")
    ('/data/a b.wav', 'a~b.wav')
    """
    if url := _FILE_URL.match(text):
        return url2pathname(text[url.end() - 1 :])
    return os.path.expanduser(text)  # noqa: PTH111 - Path's is an error for a name like ~a.wav


def located(paths: Sequence[str], folder: Path, source: Path) -> list[Path]:
    """Return the files that the paths of a table lead to.

    Relative paths are tried against the table's folder, its parent, the current folder, and the folders in the table's
    folder (``clips``, ``wavs``). The first of them under which any file is found is used for all, and logged. A URL is
    not changed.

    Raises:
        DataError: there are relative paths, and none of them leads to a file.
    """
    relative = [path for path in paths if not Path(path).is_absolute() and not is_url(path)]
    if not relative:
        return [Path(path) if is_url(path) else _absolute(Path(path)) for path in paths]

    bases = [_absolute(base) for base in (folder, _absolute(folder).parent, Path())]
    base = next((b for path in relative for b in bases if _is_file(b / path)), None)
    if base is None:  # a few paths are enough: there may be thousands of folders
        inner = [_absolute(one) for one in folders_in(folder)]
        base = next((b for path in relative[:10] for b in inner if _is_file(b / path)), None)
    if base is None:
        tried = ", ".join(dict.fromkeys(map(str, bases)))
        raise DataError(
            f"none of {len(relative):,} relative audio paths leads to a file (tried from {tried} and the folders in "
            f"the first; the first path: '{relative[0]}'); make them absolute, or run this where they begin",
            source,
        )

    log.info("%s: relative audio paths are taken from %s", source, base)
    return [Path(path) if is_url(path) else _absolute(base / path) for path in paths]


def ids_of(paths: Sequence[str]) -> list[str]:
    """Return ids from the names of audio files: without suffix, with folders where the same name comes in several.

    >>> ids_of(["/x/a.wav", "/x/b.wav"]), ids_of(["/x/m/1.wav", "/x/f/1.wav"])
    (['a', 'b'], ['m/1', 'f/1'])
    """
    bare = [os.path.splitext(path)[0].strip("/") or path for path in paths]  # noqa: PTH122 - takes any text
    short = [name.rpartition("/")[2] or name for name in bare]
    if len(set(short)) == len(set(bare)):
        return short
    top = os.path.commonpath([name.rpartition("/")[0] for name in bare])
    return [name.removeprefix(f"{top}/") for name in bare]


def _absolute(path: Path) -> Path:
    """Return an absolute path. Links are kept, unless a ``..`` needs them resolved."""
    try:
        return path.resolve() if ".." in path.parts else path.absolute()
    except ValueError:  # a NUL in it: no file has such a name
        return path.absolute()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the system, or with a NUL in it
        return False
