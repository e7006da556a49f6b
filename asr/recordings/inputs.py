"""List what is to be transcribed: files, folders, patterns, manifests and standard input."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from asr.data import manifest
from asr.errors import DataError
from asr.files import files_below
from asr.limits import RECORDING_S
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
        end_s = RECORDING_S if self.end_s is None else self.end_s
        if not 0 <= self.start_s < end_s <= RECORDING_S:
            end = "the end" if self.end_s is None else f"{self.end_s:g} s"
            raise DataError(
                f"a part from {self.start_s:g} s to {end}; expected seconds from the start of the file, the end after "
                f"the start, at most {RECORDING_S:,} ({RECORDING_S // 86400} days)"
            )


@dataclass(frozen=True)
class Input:
    """Name a recording to transcribe.

    ``name`` gives the outputs their names, and is unique among the inputs of a call: a file's name, the path of a file
    inside a folder that was given, an utterance's id, or ``stdin``. If two would be the same, the folders (or the
    manifest's name) are put in front. ``source``: None is standard input. ``text``: a manifest row's reference.
    ``is_named``: this very file was asked for, so it may be a pipe; one that a folder or a manifest holds could block
    for ever.
    """

    name: str
    source: Path | None
    part: Part
    text: str | None = None
    is_named: bool = field(default=False, compare=False)


def find_inputs(inputs: Sequence[str], part: Part = Part()) -> list[Input]:
    """Return the recordings of files, folders (all audio below), patterns, manifests (``.jsonl``) and ``-``, in order.

    The same file is taken once, however often it is named. A missing file is kept: it fails by itself.

    Raises:
        DataError: a pattern or a folder without audio, a manifest that cannot be read, or a part of manifest rows,
            which state their own.
    """
    found: dict[object, _Found] = {}
    for text in inputs:
        for each in _expanded(text, part):
            found.setdefault(each.key, each)
    names = _unique([each.names for each in found.values()])
    return [replace(each.input, name=name) for each, name in zip(found.values(), names, strict=True)]


class _Found(NamedTuple):
    """Hold an input, its possible names from short to long, and a key that is equal for the same audio."""

    key: object
    input: Input
    names: list[str]


def _expanded(text: str, part: Part) -> Iterator[_Found]:
    if not text:  # from a variable that is not set; as a path it would be the working folder
        raise DataError("an empty name; give a file, a folder, a pattern, a manifest or -")
    if text == "-":
        yield _Found("-", Input("stdin", None, part), ["stdin"])
        return

    path = Path(text)
    if glob.has_magic(text) and not os.path.lexists(path):
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not matches:
            raise DataError("the pattern matches no file; put it in quotes and look at its folder", text)
        for match in matches:
            yield from _of_path(Path(match), part, is_named=False)
    else:
        yield from _of_path(path, part, is_named=True)


def _of_path(path: Path, part: Part, is_named: bool) -> Iterator[_Found]:
    if os.path.isdir(path):  # noqa: PTH112 (a name that cannot be looked at fails by itself, later)
        files = sorted(_audio_below(path), key=lambda file: file.relative_to(path).parts)
        if not files:
            raise DataError("the folder holds no audio (WAV, FLAC, MP3, Ogg, M4A, MP4, … here or below)", path)
        for file in files:
            yield _file(file, part, len(file.relative_to(path).parts))
    elif path.suffix.lower() == ".jsonl":
        yield from _of_manifest(path, part)
    else:
        yield _file(path, part, 1, is_named)


def _audio_below(folder: Path) -> list[Path]:
    """Return audio files by suffix, and what cannot be read and fails later: dangling links, locked folders, pipes."""
    lost: list[Path] = []
    found = list(files_below(folder, lambda path, why: lost.append(path)))
    lost = [path for path in lost if not path.is_symlink() or path.suffix.lower() in SUFFIXES]
    return lost + [path for path in found if path.suffix.lower() in SUFFIXES]


def _file(path: Path, part: Part, least: int, is_named: bool = False) -> _Found:
    """Return a file, named by at least the last ``least`` parts of its path."""
    parts = Path(os.path.abspath(path)).parts[1:]  # noqa: PTH100 (links stay; without the root: a name is never absolute)
    names = ["/".join(parts[-count:]) for count in range(least, len(parts) + 1)]
    return _Found(os.path.realpath(path), Input(names[0], path, part, is_named=is_named), names)


def _of_manifest(path: Path, part: Part) -> Iterator[_Found]:
    if part.start_s or part.end_s is not None:
        raise DataError("the rows of a manifest state where they start and end; leave start and end away", path)
    rows = manifest.read(path)
    file = os.path.realpath(path)
    for u in rows:
        channel = part.channel
        if u.channel is not None:
            channel = None if u.channel == "mix" else u.channel
        own_part = Part(channel, u.offset_s, u.offset_s + u.duration_s)
        names = [u.id, f"{path.stem}/{u.id}"]
        yield _Found((file, u.id), Input(u.id, rows.audio_path(u), own_part, u.text), names)


def _unique(names: Sequence[list[str]]) -> list[str]:
    """Return one of each list of names, the shortest that is unique; if even the longest are equal, with a number."""
    level = [0] * len(names)
    while True:
        chosen = [own[i] for own, i in zip(names, level, strict=True)]
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
