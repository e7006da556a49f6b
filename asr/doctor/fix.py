"""Manifests without the rows that have an error."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr import manifest as manifests
from asr.doctor.findings import Loaded
from asr.doctor.report import Report
from asr.errors import DataError, os_reason
from asr.files import open_atomic
from asr.manifest import Utterance


@dataclass(frozen=True)
class Fixed:
    """What was written, and what is not in it."""

    #: manifest -> the one written; one of which no row was left has none
    written: dict[str, str]
    kept: int
    left_out: int
    #: code -> rows
    reasons: dict[str, int]
    #: manifests of which nothing was left
    nothing_left: list[str]

    def lines(self) -> list[str]:
        why = ", ".join(f"{code} {n:,}" for code, n in self.reasons.items())
        lines = [f"kept {self.kept:,} rows, left out {self.left_out:,}{f' ({why})' if why else ''}"]
        lines += [f"{path}: no row without an error, nothing written" for path in self.nothing_left]
        return lines + [f"wrote {path}" for path in self.written.values()]

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def targets(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where each manifest goes: one into the file ``out`` (or into the folder, if it is one), several into a folder.

    Raises:
        DataError: two would have one name, one would overwrite what was given, or a file is in the place of the folder.
    """
    given = list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]
    if len(given) == 1 and not out.is_dir():
        found = {given[0]: out}
    elif out.exists() and not out.is_dir():
        raise DataError("is a file; of several manifests --fix makes a folder", out)
    else:
        found = {path: out / path.name for path in given}
    if len(set(found.values())) < len(found):
        raise DataError("two manifests have the same name; fix them one by one", out)
    for source, target in found.items():
        if any(os.path.realpath(target) == os.path.realpath(path) for path in given):
            raise DataError(f"--fix would overwrite {source}; choose another place", target)
    return found


def fix(report: Report, where: dict[Path, Path]) -> Fixed:
    """Writes each manifest without its rows that have an error, and ``<name>.dropped.jsonl`` beside it (id, line, why).

    Audio paths lead to the same files as before.

    Raises:
        DataError: a file cannot be written.
    """
    written, nothing_left, kept = {}, [], 0
    for index, one in enumerate(report.manifests):
        out = where[one.path]
        rows = [row.utterance for row in one.rows if (index, row.line) not in report.bad]
        if not rows:
            nothing_left.append(str(one.path))
            continue
        kept += manifests.write(out, _moved(rows, one.path.parent, out.parent))
        written[str(one.path)] = str(out)
        _write_dropped(report, index, one, out.with_suffix(".dropped.jsonl"))
    return Fixed(written, kept, len(report.bad), report.reasons(), nothing_left)


def _moved(rows: Sequence[Utterance], before: Path, after: Path) -> Sequence[Utterance]:
    """The rows with audio paths relative to another folder."""
    old, new = os.path.realpath(before), os.path.realpath(after)
    if old == new:
        return rows
    way = os.path.relpath(old, new)

    def path(name: str) -> str:
        # Joined, not shortened: ".." behind a symbolic link leads elsewhere than the text of the path says.
        if Path(name).is_absolute():
            return name
        inside = os.path.normpath(name) if ".." not in name else name
        return Path(way, inside).as_posix()

    return [replace(u, audio_path=path(u.audio_path)) for u in rows]


def _write_dropped(report: Report, index: int, one: Loaded, out: Path) -> None:
    ids = {row.line: row.utterance.id for row in one.rows}
    bad = sorted((line, code, value) for (manifest, line), (code, value) in report.bad.items() if manifest == index)
    try:
        if not bad:
            out.unlink(missing_ok=True)  # of an earlier fix
            return
        with open_atomic(out) as file:
            for line, code, value in bad:
                row = {"id": ids.get(line), "line": line, "why": f"{code}: {value}"}
                file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", out) from error
