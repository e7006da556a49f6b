"""Name recordings: as an id in a file, and as a path under a folder of outputs."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from asr.sound.reader import SUFFIXES

#: what no file name should hold: control characters, what turns the direction of writing around, half characters
#: (except those that stand for a single byte)
_ODD = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udc7f\udd00-\udfff]" + (r'|[<>:"|?*\\]' * (os.name == "nt"))
)
#: bytes of a name before its suffix; file systems end at 255, and a file that is being written has a longer name
_LONGEST = 200


def recording_id(name: str) -> str:
    """Return a name without a suffix of audio or video; an id keeps its dots.

    >>> recording_id("sub/a.WAV"), recording_id("speaker.01")
    ('sub/a', 'speaker.01')
    """
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in SUFFIXES else name


def recording_ids(names: Sequence[str]) -> list[str]:
    """Return ids for recordings by their names, no two alike: a suffix stays if it alone tells two apart.

    >>> recording_ids(["a.wav", "b.wav", "b.flac"])
    ['a', 'b.wav', 'b.flac']
    """
    short = [recording_id(name) for name in names]
    count = Counter([*short, *names])
    # A name that has no suffix is counted twice.
    return [id_ if count[id_] == 1 + (id_ == name) else name for id_, name in zip(short, names, strict=True)]


def relative_stem(name: str) -> str:
    """Return the path of a recording's outputs under a folder, without a suffix: never outside of the folder.

    Of an absolute path the last component is kept, of one with ``..`` what comes after it.

    >>> relative_stem("day 1/a.wav"), relative_stem("/etc/a.wav"), relative_stem("x/../../b/c.wav")
    ('day 1/a', 'a', 'b/c')
    """
    parts = [part for part in recording_id(name).split("/") if part not in ("", ".")]
    if name.startswith("/"):
        parts = parts[-1:]
    while ".." in parts:
        parts = parts[parts.index("..") + 1 :]
    return "/".join(_safe(part) for part in parts) or "_"


def _safe(part: str) -> str:
    """Return one component of a path; a long one is cut, and a digest keeps it apart from others."""
    part = _ODD.sub("_", part)
    content = os.fsencode(part)
    if len(content) <= _LONGEST:
        return part
    digest = hashlib.sha256(content).hexdigest()[:12]
    return content[: _LONGEST - 13].decode("utf-8", "ignore") + "-" + digest
