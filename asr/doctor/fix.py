"""Write manifests without the rows that have an error, and with safe corrections of the texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.tokenizer_file import FILE as TOKENIZER_FILE
from asr.doctor.characters import check_characters, mended
from asr.doctor.examination import Examination
from asr.doctor.findings import LoadedManifest
from asr.errors import DataError, os_reason
from asr.files import json_text, open_atomic, read_small, write_bytes


@dataclass
class Fixed:
    """Hold what was written, and what was left out."""

    #: manifest -> the one written, if a row was left
    written: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    left_out: int = 0
    #: code -> rows
    reasons: dict[str, int] = field(default_factory=dict)
    #: manifests of which no row was left
    nothing_left: list[str] = field(default_factory=list)
    #: rows whose text was mended
    mended: int = 0
    #: what else a person should know
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return lines for people."""
        why = ", ".join(f"{code} {n:,}" for code, n in self.reasons.items())
        lines = [f"kept {self.kept:,} rows, left out {self.left_out:,}{f' ({why})' if why else ''}"]
        if self.mended:
            what = "no-break spaces to spaces, byte-order marks and their like out"
            lines.append(f"mended {self.mended:,} texts: {what}")
        lines += [f"{path}: no row without an error, nothing written" for path in self.nothing_left]
        lines += [f"wrote {path}" for path in self.written.values()]
        return lines + self.notes

    def to_json(self) -> dict[str, Any]:
        """Return what was written and left out, for the report's JSON."""
        return vars(self)


def targets(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Choose where each manifest goes: one into the file ``out``, or into the folder, several into a folder.

    Raises:
        DataError: two would have one name, one would overwrite what was given, or a file is in the place of the folder.
    """
    given: dict[str, Path] = {}
    for path in paths:
        given.setdefault(os.path.realpath(path), path)

    if len(given) == 1 and not out.is_dir():
        found = dict.fromkeys(given.values(), out)
    elif out.exists() and not out.is_dir():
        raise DataError("is a file; of several manifests --fix makes a folder", out)
    else:
        found = {path: out / path.name for path in given.values()}

    if len(set(found.values())) < len(found):
        raise DataError("two manifests have the same name; fix them one by one", out)
    for source, target in found.items():
        if os.path.realpath(target) in given:
            raise DataError(f"--fix would overwrite {source}; choose another place", target)
    taken = given.keys() | {os.path.realpath(target) for target in found.values()}
    for target in map(_dropped_beside, found.values()):
        if os.path.realpath(target) in taken:
            raise DataError("--fix would write there what it leaves out; choose another place", target)
    return found


def _dropped_beside(target: Path) -> Path:
    return target.with_suffix(".dropped.jsonl")


def fix(examination: Examination, where: dict[Path, Path]) -> Fixed:
    """Write each manifest without its rows that have an error, and ``<name>.dropped.jsonl`` beside it (id, line, why).

    Texts get the corrections that are safe (``characters.mended``); other findings in texts are counted. Audio paths
    lead to the same files as before. ``prepared.json`` and the subwords are copied into another folder.

    Raises:
        DataError: a file cannot be written.
    """
    fixed = Fixed(
        left_out=sum(len(manifest.errors) for manifest in examination.manifests), reasons=examination.reasons()
    )
    after = Examination(num_examples=0)
    splits: dict[tuple[Path, Path], dict[str, dict[str, float | int]]] = {}
    for manifest in examination.manifests:
        out = where[manifest.path]
        kept = [row for row in manifest.rows if not row.has_error]
        if not kept:
            fixed.nothing_left.append(str(manifest.path))
            continue

        copy = LoadedManifest(out, manifest.role)
        for row in kept:
            utterance = replace(row.utterance, text=mended(row.utterance.text))
            copy.rows.append(replace(row, manifest=copy, utterance=utterance, text=mended(row.text)))
            fixed.mended += utterance.text != row.utterance.text
        utterances = [row.utterance for row in copy.rows]
        fixed.kept += manifests.write(out, _moved(utterances, manifest.path.parent, out.parent))
        fixed.written[str(manifest.path)] = str(out)
        _write_dropped(manifest, _dropped_beside(out))
        after.manifests.append(copy)

        facts = headers.split_facts(utterances)
        splits.setdefault((manifest.path.parent, out.parent), {})[out.stem] = facts

    for (folder, new_folder), facts_of in splits.items():
        fixed.notes += _carry_header(folder, new_folder, facts_of)

    check_characters(after)
    if left := ", ".join(f"{finding.code} {finding.count:,}" for finding in after.findings):
        fixed.notes.append(f"left in the texts, for only a person knows what is meant: {left}")
    return fixed


def _carry_header(before: Path, after: Path, splits: dict[str, dict[str, float | int]]) -> list[str]:
    """Copy ``prepared.json`` and the subwords to another folder; return why not, if that is not possible."""
    if os.path.realpath(before) == os.path.realpath(after):
        return []
    try:
        header = headers.read(before)
        other_header = headers.read(after)
        source = headers.tokenizer_path(before, header)
        present = headers.tokenizer_path(after, other_header)
        name = source.name if source is not None else TOKENIZER_FILE
        subwords = read_small(source) if source is not None and source.is_file() else None

        # Subwords that training would take there, and those that would be written over.
        kept = [path for path in (present, after / name if subwords is not None else None) if path and path.exists()]
        other_subwords = any(read_small(path) != subwords for path in kept)
        if other_subwords or (header and other_header and header.normalization != other_header.normalization):
            return [
                f"{after}: has the {headers.FILE} or {name} of other data than {before}, which stay as they are; "
                "remove them and run it again, or choose another place"
            ]

        if subwords is not None:
            write_bytes(after / name, subwords)
        if header is not None:
            headers.write(after, replace(header, splits={**(other_header.splits if other_header else {}), **splits}))
    except (OSError, DataError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else error
        return [f"{headers.FILE} and subwords of {before} are not taken to {after}: {reason}"]
    return []


def _moved(rows: Sequence[Utterance], before: Path, after: Path) -> Sequence[Utterance]:
    """Return the rows with audio paths relative to another folder."""
    old = os.path.realpath(before)
    new = os.path.realpath(after)
    if old == new:
        return rows
    try:
        way = os.path.relpath(old, new)
    except ValueError:  # on another drive of Windows
        way = old

    moved = []
    for u in rows:
        if Path(u.audio_path).is_absolute():
            moved.append(u)
            continue
        # A ".." behind a symbolic link leads elsewhere than the text of the path says, so it is kept.
        inside = u.audio_path if ".." in u.audio_path else os.path.normpath(u.audio_path)
        moved.append(replace(u, audio_path=Path(way, inside).as_posix()))
    return moved


def _write_dropped(manifest: LoadedManifest, out: Path) -> None:
    """Write the rows that were left out; remove the file of an earlier call if there are none."""
    ids = {row.line: row.utterance.id for row in manifest.rows} | manifest.duplicates
    try:
        if not manifest.errors:
            out.unlink(missing_ok=True)
            return
        with open_atomic(out) as file:
            for line, (code, value) in sorted(manifest.errors.items()):
                file.write(json_text({"id": ids.get(line), "line": line, "why": f"{code}: {value}"}, ascii=True) + "\n")
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", out) from error
