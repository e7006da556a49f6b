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


class _Below:
    """The folder that rows must stay below, and where the folders of their files really are."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self._prefix = os.path.join(self.folder, "")  # noqa: PTH118 - with a separator at its end
        self._real: dict[str, str] = {}

    def holds(self, real: str) -> bool:
        return real.startswith(self._prefix)

    def real(self, path: str) -> str:
        """Return where a file really is; a folder is looked up once, for all its files."""
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        path = os.path.join(self._real[folder], name)  # noqa: PTH118 - 300,000 path objects would cost a second
        return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114 - the same


_below: ContextVar[_Below | None] = ContextVar("stay_below", default=None)


@contextmanager
def stay_below(folder: Path) -> Iterator[None]:
    """Refuse, in this block, rows whose audio is not below a folder, links resolved."""
    token = _below.set(_Below(folder))
    try:
        yield
    finally:
        _below.reset(token)


def why_outside(audio_path: str | Path, manifest: Path | None = None) -> str:
    """Return why a row may not name an audio file; empty: it may.

    Args:
        audio_path: as it is written; a member of a tar file is where that file is.
        manifest: the file beside which a relative path begins; None: it begins in the working folder.
    """
    below = _below.get()
    if below is None:
        return ""

    name = str(audio_path)
    if MARK in name:
        name = name.rpartition(MARK)[0] + MARK[:-1]
    try:
        real = below.real(name if manifest is None else os.path.join(manifest.parent, name))  # noqa: PTH118
    except ValueError:  # a NUL in it
        return f"{name!r} is no path"
    return "" if below.holds(real) else f"leads to {real}, which is not below {below.folder} (--stay-below)"
