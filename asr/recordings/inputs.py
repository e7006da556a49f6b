"""What is to be transcribed: files, folders, patterns, manifests and standard input as one list."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asr.data import manifest
from asr.errors import DataError
from asr.files import files_below
from asr.sound.reader import SUFFIXES


@dataclass(frozen=True)
class Part:
    """Name what is wanted of a recording: a channel, from 1 (None: all mixed down), and a part of it in seconds.

    Raises:
        DataError: there is no such channel or part in any recording.
    """

    channel: int | None = None
    start_s: float = 0.0
    end_s: float | None = None

    def __post_init__(self) -> None:
        if self.channel is not None and self.channel < 1:
            raise DataError(f"channel {self.channel} is wanted; channels count from 1")
        end_s = manifest.LONGEST_S if self.end_s is None else self.end_s
        if not 0 <= self.start_s < end_s <= manifest.LONGEST_S:
            end = "the end" if self.end_s is None else f"{self.end_s:g} s"
            raise DataError(
                f"a part from {self.start_s:g} s to {end}; expected seconds from the start of the file, the end after "
                "the start"
            )


@dataclass(frozen=True)
class Input:
    """One thing to transcribe.

    ``name`` is what its outputs are named after, unique among the inputs of a call: a file's name, for what was found
    in a folder its path in that folder, an utterance's id, ``stdin``; where two would be the same, with the folders
    (or the manifest's name) in front. ``source``: None is standard input. ``text``: a manifest row's reference.
    """

    name: str
    source: Path | None
    part: Part
    text: str | None = None


def find_inputs(inputs: Sequence[str], part: Part = Part()) -> list[Input]:
    """What is named by files, folders (all audio below), patterns, manifests (``.jsonl``) and ``-``, in that order.

    The same file is taken once, however often it is named. A file that is not there is kept: it fails by itself.

    Raises:
        DataError: a pattern or a folder without audio, a manifest that cannot be read, or a stretch of manifest rows,
            which state their own.
    """
    found: dict[object, tuple[Input, list[str]]] = {}
    for text in inputs:
        for key, one, names in _expanded(text, part):
            found.setdefault(key, (one, names))
    names = _unique([names for _, names in found.values()])
    return [replace(one, name=name) for (one, _), name in zip(found.values(), names, strict=True)]


#: a key that is equal for the same audio, the input, and its possible names from short to long
_Found = tuple[object, Input, list[str]]


def _expanded(text: str, part: Part) -> Iterator[_Found]:
    if not text:  # as a variable that is not set gives it; as a path it would be the folder one stands in
        raise DataError("an empty name; give a file, a folder, a pattern, a manifest or -")
    if text == "-":
        yield "-", Input("stdin", None, part), ["stdin"]
        return
    path = Path(text)
    if glob.has_magic(text) and not os.path.lexists(path):
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not matches:
            raise DataError("the pattern matches no file; put it in quotes and look at its folder", text)
        for match in matches:
            yield from _of_path(Path(match), part)
    else:
        yield from _of_path(path, part)


def _of_path(path: Path, part: Part) -> Iterator[_Found]:
    if os.path.isdir(path):  # noqa: PTH112 (a name that cannot be looked at fails by itself, later)
        files = sorted(_audio_below(path), key=lambda file: file.relative_to(path).parts)
        if not files:
            raise DataError("the folder holds no audio (WAV, FLAC, MP3, Ogg, M4A, MP4, … here or below)", path)
        for file in files:
            yield _file(file, part, len(file.relative_to(path).parts))
    elif path.suffix.lower() == ".jsonl":
        yield from _of_manifest(path, part)
    else:
        yield _file(path, part, 1)


def _audio_below(folder: Path) -> list[Path]:
    """Audio files by suffix; and what cannot be looked at, which fails by itself: a dangling link, a locked folder."""
    lost: list[Path] = []
    found = list(files_below(folder, lambda path, why: lost.append(path)))
    lost = [path for path in lost if not path.is_symlink() or path.suffix.lower() in SUFFIXES]
    return lost + [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]


def _file(path: Path, part: Part, least: int) -> _Found:
    """A file, named by at least the last ``least`` parts of its path."""
    parts = Path(os.path.abspath(path)).parts[1:]  # noqa: PTH100 (links stay; without the root: a name is never absolute)
    names = ["/".join(parts[-count:]) for count in range(least, len(parts) + 1)]
    return os.path.realpath(path), Input(names[0], path, part), names


def _of_manifest(path: Path, part: Part) -> Iterator[_Found]:
    if part.start_s or part.end_s is not None:
        raise DataError("the rows of a manifest state where they start and end; leave start and end away", path)
    rows = manifest.read(path)
    where = os.path.realpath(path)
    for u in rows:
        channel = u.channel if isinstance(u.channel, int) else part.channel if u.channel is None else None
        stretch = Part(channel, u.offset_s, u.offset_s + u.duration_s)
        names = [u.id, f"{path.stem}/{u.id}"]
        yield (where, u.id), Input(u.id, rows.audio_path(u), stretch, u.text), names


def _unique(names: Sequence[list[str]]) -> list[str]:
    """One of each list of names, the shortest that is no other's; where even the longest are equal, numbered."""
    level = [0] * len(names)
    while True:
        chosen = [all_[i] for all_, i in zip(names, level, strict=True)]
        count = Counter(chosen)
        longer = [k for k, name in enumerate(chosen) if count[name] > 1 and level[k] + 1 < len(names[k])]
        if not longer:
            break
        for k in longer:
            level[k] += 1
    taken = {name for name in chosen if count[name] == 1}
    for k, name in enumerate(chosen):
        if count[name] > 1:
            number = 1
            while chosen[k] in taken:
                number += 1
                chosen[k] = f"{name}-{number}"
            taken.add(chosen[k])
    return chosen
