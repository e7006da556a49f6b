"""Settle before any work where the outputs of many recordings go, and which ones cannot go there."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.errors import ConfigError, DataError, os_reason
from asr.files import write_text
from asr.outputs.formats import render
from asr.outputs.layout import Layout
from asr.outputs.names import relative_stem
from asr.transcript import Transcript

_ELSEWHERE = "{} is outside of {}: a link leads there; give that folder itself, or remove the link"


@dataclass(frozen=True)
class Target:
    """Name a file to write, and its format."""

    format: str
    path: Path


class Targets:
    """Hold the files of each recording, known by its name: a path relative to its folder, or a manifest's id.

    ``sub/a.wav`` gives ``OUT/sub/a.srt`` and so on. Nothing is written outside of ``out``, whatever a name holds and
    wherever a link in ``out`` leads. ``clashes`` says by name why files cannot be written: another recording's have
    their names, or such a link is on their way.

    Args:
        formats: as ``parse_formats`` gives them.
        out: the folder; it is made.
        inputs: files that must not be written over; default: the names, taken as paths.

    Raises:
        ConfigError: a name comes twice, an output is an input, or the folder cannot be made or written to.
    """

    def __init__(
        self, names: Sequence[str], formats: Sequence[str], out: Path, *, inputs: Iterable[str | Path] | None = None
    ) -> None:
        self._out = out
        self._targets: dict[str, tuple[Target, ...]] = {}
        for name in names:
            if name in self._targets:
                raise ConfigError(f"'{name}' is given twice; give each recording once")
            stem = relative_stem(name)
            self._targets[name] = tuple(Target(format, out / f"{stem}.{format}") for format in formats)

        self.clashes = _clashes(self._targets, out) | _elsewhere(self._targets, out)
        usable = [targets for name, targets in self._targets.items() if name not in self.clashes]
        paths = [target.path for targets in usable for target in targets]
        try:
            _check_folders({path.parent for path in paths} | {out})
            out.mkdir(parents=True, exist_ok=True)
            _check_files(paths, names if inputs is None else inputs)
        except OSError as error:
            raise ConfigError(f"{out}: cannot write there: {os_reason(error)}") from error

    def of(self, name: str) -> tuple[Target, ...]:
        """Return the files of one recording, in the order of the formats."""
        return self._targets[name]

    def done(self, name: str) -> bool:
        """Check whether all files of a recording are there and whole, so that the work need not be done again."""
        return name not in self.clashes and all(_is_whole(target) for target in self.of(name))

    def write(self, transcript: Transcript, name: str, layout: Layout = Layout(), id_: str | None = None) -> list[Path]:
        """Write all files of a recording, each atomically, and return their paths; ``id_`` as in ``render``.

        Raises:
            DataError: one cannot be written; those before it are there.
        """
        if name in self.clashes:
            raise DataError(self.clashes[name])
        for target in self.of(name):
            if not _is_below(target.path.parent, self._out):  # a link that was made since
                raise DataError(_ELSEWHERE.format(target.path.parent, self._out))
            try:
                write_text(target.path, render(transcript, target.format, layout, name, id_))
            except OSError as error:
                raise DataError(f"cannot write: {os_reason(error)}", target.path) from error
        return [target.path for target in self.of(name)]


def _key(path: Path) -> str:
    """Return what is equal for paths that some file systems do not tell apart: by case, or by an accent's encoding."""
    return unicodedata.normalize("NFC", str(path).casefold())


def _clashes(targets_of: dict[str, tuple[Target, ...]], out: Path) -> dict[str, str]:
    """Return by name why a recording's files cannot be written: an earlier one's have their names, but for case."""
    owner: dict[str, str] = {}
    clashes: dict[str, str] = {}
    for name, targets in targets_of.items():
        keys = [_key(target.path) for target in targets]
        first = next((owner[key] for key in keys if key in owner), None)
        if first is None:
            owner |= dict.fromkeys(keys, name)
        else:
            both = f"'{first}' and '{name}' would both be written to {targets[0].path}"
            clashes[name] = f"{both}; transcribe the second into another folder, or rename it"

    for name, targets in targets_of.items():
        for parent in targets[0].path.relative_to(out).parents if targets else ():
            other = owner.get(_key(out / parent))
            if other is not None and parent != Path():
                clashes[name] = f"{out / parent} would be a file (of '{other}') and a folder (of '{name}')"
    return clashes


def _elsewhere(targets_of: dict[str, tuple[Target, ...]], out: Path) -> dict[str, str]:
    """Return by name why a recording's files cannot be written: they would be outside of the folder."""
    names_of: dict[Path, list[str]] = {}
    for name, targets in targets_of.items():
        for parent in {target.path.parent for target in targets}:
            names_of.setdefault(parent, []).append(name)
    outside = [parent for parent in names_of if not _is_below(parent, out)]
    return {name: _ELSEWHERE.format(parent, out) for parent in outside for name in names_of[parent]}


def _is_below(folder: Path, out: Path) -> bool:
    """Check where a folder is once all links are followed; it need not be there yet."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(out))


def _check_folders(folders: set[Path]) -> None:
    """Refuse folders that cannot be made or written to."""
    for folder in sorted(folders):
        existing = folder
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise ConfigError(f"{folder}: cannot write there: {existing} is no folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder}: cannot write there: no permission in {existing}, or a read-only file system")


def _check_files(paths: Iterable[Path], inputs: Iterable[str | Path]) -> None:
    """Refuse to write over inputs, folders and devices."""
    taken = {_identity(Path(path)) for path in inputs} - {None}
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder, and a file of this name is to be written")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is a pipe or device, and a file of this name is to be written")
        if taken and _identity(path) in taken:
            raise ConfigError(f"{path}: is an input, and would be written over; name another folder")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is equal for two names of one file."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # not there; or no file name at all
        return None
    return found.st_dev, found.st_ino


#: how a whole file begins, if its format says so
_HEADS = {"vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n", "TextGrid": 'File type = "ooTextFile"\n'}


def _is_whole(target: Target) -> bool:
    """Check that a file is there and not cut: it was written whole or not at all, but a copy of it may be cut."""
    try:
        if not target.path.is_file():
            return False
        content = target.path.read_text(encoding="utf-8")
        if target.format in ("json", "jsonl"):
            return isinstance(json.loads(content), dict)
    except (OSError, ValueError, RecursionError):
        return False
    if not content:
        return target.format in ("txt", "srt")  # nothing was said
    return content.startswith(_HEADS.get(target.format, "")) and content.endswith("\n")
