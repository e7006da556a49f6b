"""Where the outputs of many recordings go: settled before any work, as is which ones cannot go there."""

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


@dataclass(frozen=True)
class Target:
    """A file to write, and what it will hold."""

    format: str
    path: Path


class Targets:
    """The files of each recording, known by its name: a path relative to where it was found, or a manifest's id.

    ``sub/a.wav`` gives ``OUT/sub/a.srt`` and so on. Nothing is written outside of ``out``, whatever a name holds.
    """

    def __init__(
        self,
        names: Sequence[str],
        formats: Sequence[str],
        out: Path,
        *,
        one_file: bool = False,
        inputs: Iterable[str | Path] | None = None,
    ) -> None:
        """Settles every file, and makes the folder.

        Args:
            formats: as ``parse_formats`` gives them.
            one_file: ``out`` is the file itself, of one recording in one format; otherwise a folder.
            inputs: files that must not be written over; by default the names, taken as paths.

        Raises:
            ConfigError: a name comes twice, an output is an input, or the folder cannot be made or written to.
        """
        self._targets: dict[str, tuple[Target, ...]] = {}
        if one_file and (len(names) != 1 or len(formats) != 1):
            got = f"{len(names)} recordings in {len(formats)} formats"
            raise ConfigError(f"{out}: one file holds one recording in one format, got {got}; name a folder")
        for name in names:
            if name in self._targets:
                raise ConfigError(f"'{name}' is given twice; give each recording once")
            stem = relative_stem(name)
            self._targets[name] = tuple(Target(f, out if one_file else out / f"{stem}.{f}") for f in formats)
        #: name -> why its files cannot be written: another recording's have those names
        self.clashes = {} if one_file else _clashes(self._targets, out)
        try:
            _check_folders({target.path.parent for target in self._all()} | ({out.parent} if one_file else {out}), out)
            _check_files(self._all(), names if inputs is None else inputs)
        except OSError as error:
            raise ConfigError(f"{out}: cannot write there: {os_reason(error)}") from error

    def of(self, name: str) -> tuple[Target, ...]:
        """The files of one recording, in the order of the formats."""
        return self._targets[name]

    def done(self, name: str) -> bool:
        """Whether all its files are there and whole, so that the work need not be done again."""
        return name not in self.clashes and all(_is_whole(target) for target in self.of(name))

    def write(self, transcript: Transcript, name: str, layout: Layout = Layout(), id_: str | None = None) -> list[Path]:
        """Writes all its files, each atomically, and returns their paths; ``id_`` as in ``render``.

        Raises:
            DataError: one cannot be written; those before it are there.
        """
        if name in self.clashes:
            raise DataError(self.clashes[name])
        for target in self.of(name):
            try:
                write_text(target.path, render(transcript, target.format, layout, name, id_))
            except OSError as error:
                raise DataError(f"cannot write: {os_reason(error)}", target.path) from error
        return [target.path for target in self.of(name)]

    def _all(self) -> list[Target]:
        return [target for name, targets in self._targets.items() if name not in self.clashes for target in targets]


def _key(path: Path) -> str:
    """Equal for paths that some file systems do not tell apart: by case, or by how an accent is encoded."""
    return unicodedata.normalize("NFC", str(path).casefold())


def _clashes(targets: dict[str, tuple[Target, ...]], out: Path) -> dict[str, str]:
    """Recordings whose files would have the names of an earlier one's, also where case is not told apart; and why."""
    owner: dict[str, str] = {}
    clashes: dict[str, str] = {}
    for name, each in targets.items():
        first = next((owner[key] for key in (_key(target.path) for target in each) if key in owner), None)
        if first is None:
            owner |= {_key(target.path): name for target in each}
        else:
            what = f"'{first}' and '{name}' would both be written to {each[0].path}"
            clashes[name] = f"{what}; transcribe the second into another folder, or rename it"
    for name, each in targets.items():
        for parent in each[0].path.relative_to(out).parents if each else ():
            other = owner.get(_key(out / parent))
            if other is not None and parent != Path():
                clashes[name] = f"{out / parent} would be a file (of '{other}') and a folder (of '{name}')"
    return clashes


def _check_folders(folders: set[Path], out: Path) -> None:
    """Refuses folders that cannot be made; makes the one that was named."""
    for folder in sorted(folders):
        there = folder
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise ConfigError(f"{folder}: cannot write there: {there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder}: cannot write there: no permission in {there}, or a read-only file system")
    for folder in {out} & folders:
        folder.mkdir(parents=True, exist_ok=True)


def _check_files(targets: Iterable[Target], inputs: Iterable[str | Path]) -> None:
    taken = {_identity(Path(path)) for path in inputs} - {None}
    for target in targets:
        if target.path.is_dir():
            raise ConfigError(f"{target.path}: is a folder, and a file of this name is to be written")
        if taken and _identity(target.path) in taken:
            raise ConfigError(f"{target.path}: is an input, and would be written over; name another folder")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # not there; or no file name at all
        return None
    return found.st_dev, found.st_ino


#: how a whole file begins, where the format says so
_HEADS = {"vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n", "TextGrid": 'File type = "ooTextFile"\n'}


def _is_whole(target: Target) -> bool:
    """There, and not cut: files are written whole or not at all, but copies of them may not be."""
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
