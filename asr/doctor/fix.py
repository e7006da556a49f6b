"""Manifests without the rows that have an error, and with the texts that can be mended without a doubt mended."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.tokenizer import FILE as TOKENIZER_FILE
from asr.doctor.characters import check_characters, mended
from asr.doctor.findings import Findings, Loaded, Row
from asr.doctor.report import Report
from asr.errors import DataError, os_reason
from asr.files import open_atomic, write_bytes


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
    #: rows whose text was mended
    mended: int = 0
    #: what else there is to say
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        why = ", ".join(f"{code} {n:,}" for code, n in self.reasons.items())
        lines = [f"kept {self.kept:,} rows, left out {self.left_out:,}{f' ({why})' if why else ''}"]
        if self.mended:
            lines.append(
                f"mended {self.mended:,} texts: no-break spaces to spaces, byte-order marks and their like out"
            )
        lines += [f"{path}: no row without an error, nothing written" for path in self.nothing_left]
        return lines + [f"wrote {path}" for path in self.written.values()] + self.notes

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
    taken = {os.path.realpath(path) for path in given}
    for source, target in found.items():
        if os.path.realpath(target) in taken:
            raise DataError(f"--fix would overwrite {source}; choose another place", target)
    taken |= {os.path.realpath(target) for target in found.values()}
    for target in map(_dropped_beside, found.values()):
        if os.path.realpath(target) in taken:
            raise DataError("--fix would write there what it leaves out; choose another place", target)
    return found


def _dropped_beside(target: Path) -> Path:
    return target.with_suffix(".dropped.jsonl")


def fix(report: Report, where: dict[Path, Path]) -> Fixed:
    """Writes each manifest without its rows that have an error, and ``<name>.dropped.jsonl`` beside it (id, line, why).

    Of what texts hide, that which can be mended without a doubt is (``characters.mended``); the rest is left, and
    named. Audio paths lead to the same files as before. ``prepared.json`` and the subwords come along into another
    folder.

    Raises:
        DataError: a file cannot be written.
    """
    written, nothing_left, kept, num_mended = {}, [], 0, 0
    after: list[Loaded] = []
    splits: dict[tuple[Path, Path], dict[str, dict[str, float | int]]] = {}
    for index, one in enumerate(report.manifests):
        out = where[one.path]
        kept_rows = [row for row in one.rows if (index, row.line) not in report.bad]
        if not kept_rows:
            nothing_left.append(str(one.path))
            continue
        rows = [replace(row.utterance, text=mended(row.utterance.text)) for row in kept_rows]
        num_mended += sum(new.text != row.utterance.text for new, row in zip(rows, kept_rows, strict=True))
        moved = [Row(len(after), row.line, u, mended(row.text)) for u, row in zip(rows, kept_rows, strict=True)]
        after.append(Loaded(out, one.role, moved))
        kept += manifests.write(out, _moved(rows, one.path.parent, out.parent))
        written[str(one.path)] = str(out)
        facts = headers.split_facts(rows)
        splits.setdefault((one.path.parent, out.parent), {})[out.stem] = facts
        _write_dropped(report, index, one, _dropped_beside(out))
    told = [line for (before, after), facts in splits.items() for line in _carry_header(before, after, facts)]
    told += _still_hidden(after)
    return Fixed(written, kept, len(report.bad), report.reasons(), nothing_left, num_mended, told)


def _still_hidden(loaded: list[Loaded]) -> list[str]:
    """A line on what the texts still hide: only a person knows what is meant."""
    findings = Findings(loaded, num_examples=0)
    check_characters(loaded, findings)
    listed = ", ".join(f"{found.code} {found.count:,}" for found in findings.sorted())
    return [f"left in the texts, for only a person knows what is meant: {listed}"] if listed else []


def _carry_header(before: Path, after: Path, splits: dict[str, dict[str, float | int]]) -> list[str]:
    """Takes what the data say of themselves, and their subwords, to a new folder; why not, where it cannot."""
    if os.path.realpath(before) == os.path.realpath(after):
        return []
    try:
        header, there = headers.read(before), headers.read(after)
        source, present = headers.tokenizer_path(before, header), headers.tokenizer_path(after, there)
        name = source.name if source is not None else TOKENIZER_FILE
        subwords = source.read_bytes() if source is not None and source.is_file() else None
        # what training takes there, and what would be written over
        kept = [path for path in (present, after / name if subwords is not None else None) if path and path.exists()]
        other_subwords = any(path.read_bytes() != subwords for path in kept)
        if other_subwords or (header and there and header.normalization != there.normalization):
            return [
                f"{after}: has the {headers.FILE} or {name} of other data than {before}, which stay as they are; "
                "remove them and run it again, or choose another place"
            ]
        if subwords is not None:
            write_bytes(after / name, subwords)
        if header is not None:
            headers.write(after, replace(header, splits={**(there.splits if there else {}), **splits}))
    except (OSError, DataError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else error
        return [f"{headers.FILE} and subwords of {before} are not taken to {after}: {reason}"]
    return []


def _moved(rows: Sequence[Utterance], before: Path, after: Path) -> Sequence[Utterance]:
    """The rows with audio paths relative to another folder."""
    old, new = os.path.realpath(before), os.path.realpath(after)
    if old == new:
        return rows
    try:
        way = os.path.relpath(old, new)
    except ValueError:  # on another drive of Windows
        way = old

    def path(name: str) -> str:
        # Joined, not shortened: ".." behind a symbolic link leads elsewhere than the text of the path says.
        if Path(name).is_absolute():
            return name
        inside = os.path.normpath(name) if ".." not in name else name
        return Path(way, inside).as_posix()

    return [replace(u, audio_path=path(u.audio_path)) for u in rows]


def _write_dropped(report: Report, index: int, one: Loaded, out: Path) -> None:
    ids = {row.line: row.utterance.id for row in one.rows} | one.duplicates
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
