"""Reading manifests that ``asr.data.manifest.read`` may refuse: every bad row is a finding, the others are rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr.data import manifest as manifests
from asr.data.manifest import Manifest, Utterance
from asr.data.text import normalize
from asr.doctor.findings import Findings, Loaded, Row
from asr.errors import DataError

_ROLES = {"train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev",
          "test": "test", "eval": "test"}  # fmt: skip


def role_of(path: Path) -> str:
    """What a manifest is for, by its file's name; one that does not say is a set of its own.

    >>> role_of(Path("train-clean-100.jsonl")), role_of(Path("dev.jsonl")), role_of(Path("phone.jsonl"))
    ('train', 'dev', 'phone')
    """
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((_ROLES[word] for word in words if word in _ROLES), path.stem)


def read_all(paths: Sequence[Path], normalization: str, loaded: list[Loaded], findings: Findings) -> None:
    """Fills ``loaded`` with the manifests at the paths, each once.

    Raises:
        DataError: a file cannot be read.
    """
    first: dict[str, int] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in first:
            findings.add_line("manifest-twice", first[real], None, f"also given as {path}")
            continue
        first[real] = len(loaded)
        loaded.append(Loaded(path, role_of(path)))
        _read(loaded[-1], len(loaded) - 1, normalization, findings)


def _read(one: Loaded, index: int, normalization: str, findings: Findings) -> None:
    line_of_id: dict[str, int] = {}
    for number, raw in manifests.lines(one.path):
        one.num_lines += 1
        try:
            utterance = manifests.parse_line(raw, one.path, number)
        except DataError as error:
            findings.add_line("row-invalid", index, number, str(error).removeprefix(f"{one.path}:{number}: "))
            continue
        row = _row(index, number, utterance, normalization)
        line = line_of_id.setdefault(utterance.id, number)
        if line != number:
            findings.add("duplicate-id", row, f"first on line {line}")
            one.duplicates[number] = utterance.id
        else:
            one.rows.append(row)
    if not one.num_lines:
        findings.add_line("manifest-empty", index, None, "no rows")


def _row(index: int, line: int, utterance: Utterance, normalization: str) -> Row:
    text = normalize(utterance.text, normalization)
    # Mostly nothing changes: one string is kept, not two.
    return Row(index, line, utterance, utterance.text if text == utterance.text else text)


def from_manifest(manifest: Manifest, kept: Iterable[int], index: int, role: str, normalization: str) -> Loaded:
    """Some utterances of a manifest that was read before; its lines are counted without the blank ones."""
    rows = [_row(index, i + 1, manifest.utterances[i], normalization) for i in kept]
    return Loaded(manifest.path, role, rows, len(rows))
