"""Where the audio of a row may be: anywhere, unless a folder is given (``asr --stay-below DIR``).

A manifest or a table that somebody else made may name any file that its reader can read. The folder holds for all rows
that are read in a block of ``stay_below``, in its own thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

#: of a path that means a member of a tar file: between that file's name and the member's, its suffix included
MARK = ".tar#"

_folder: ContextVar[str] = ContextVar("stay_below", default="")


@contextmanager
def stay_below(folder: Path) -> Iterator[None]:
    """Refuse, in this block, rows whose audio is not below a folder, links resolved."""
    token = _folder.set(os.path.realpath(folder))
    try:
        yield
    finally:
        _folder.reset(token)


def why_outside(audio_path: str | Path, parent: Path = Path()) -> str:
    """Return why a row may not name an audio file; empty: it may.

    Args:
        audio_path: as it is written; a member of a tar file is where that file is.
        parent: the folder that it is relative to.
    """
    folder = _folder.get()
    if not folder:
        return ""

    file, mark, _ = str(audio_path).rpartition(MARK)
    name = f"{file}{MARK[:-1]}" if mark else str(audio_path)
    try:
        real = Path(os.path.realpath(parent / name))
    except ValueError:  # a NUL in it
        return f"{name!r} is no path"
    return "" if real.is_relative_to(folder) else f"leads to {real}, which is not below {folder} (--stay-below)"
