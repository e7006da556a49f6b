"""Read manifests that ``asr.data.manifest.read`` may refuse: each bad row becomes a finding."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr.data import manifest as manifests
from asr.data.manifest import Manifest, Utterance
from asr.data.text import normalize
from asr.doctor.examination import Examination
from asr.doctor.findings import LoadedManifest, ManifestRow
from asr.errors import DataError

_ROLES = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "validation", "val"),
    "test": ("test", "eval"),
}


def role_of(path: Path) -> str:
    """Return what a manifest is for, by a word in its file's name; without such a word the name itself.

    >>> role_of(Path("train-clean-100.jsonl")), role_of(Path("dev.jsonl")), role_of(Path("phone.jsonl"))
    ('train', 'dev', 'phone')
    """
    for word in re.split(r"[^a-z]+", path.stem.lower()):
        for role, words in _ROLES.items():
            if word in words:
                return role
    return path.stem


def read_all(paths: Sequence[Path], examination: Examination) -> None:
    """Read the manifests at the paths, each once.

    Raises:
        DataError: a file cannot be read.
    """
    first: dict[str, LoadedManifest] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in first:
            examination.add_line("manifest-twice", first[real], None, f"also given as {path}")
        else:
            first[real] = _read(path, examination)
    examination.manifests += first.values()


def _read(path: Path, examination: Examination) -> LoadedManifest:
    normalization = examination.expected.normalization if examination.expected is not None else "none"
    loaded = LoadedManifest(path, role_of(path))
    folder = _folder(path)
    line_of_id: dict[str, int] = {}
    for number, raw in manifests.lines(path):
        loaded.num_lines += 1
        try:
            utterance = manifests.parse_line(raw, path, number)
        except DataError as error:
            examination.add_line("row-invalid", loaded, number, str(error).removeprefix(f"{path}:{number}: "))
            continue

        # Of rows with one id the first counts; the others would be refused.
        row = _row(loaded, folder, number, utterance, normalization)
        first_line = line_of_id.setdefault(utterance.id, number)
        if first_line == number:
            loaded.rows.append(row)
        else:
            examination.add("duplicate-id", row, f"first on line {first_line}")
            loaded.duplicates[number] = utterance.id
    if not loaded.num_lines:
        examination.add_line("manifest-empty", loaded, None, "no rows")
    return loaded


def from_manifest(manifest: Manifest, kept: Iterable[int], role: str, normalization: str) -> LoadedManifest:
    """Take some utterances of a manifest that was read before; its lines are counted without the blank ones."""
    loaded = LoadedManifest(manifest.path, role)
    folder = _folder(manifest.path)
    loaded.rows = [_row(loaded, folder, i + 1, manifest.utterances[i], normalization) for i in kept]
    loaded.num_lines = len(loaded.rows)
    return loaded


def _folder(path: Path) -> str:
    folder = str(path.parent)
    return "" if folder == "." else folder


def _row(manifest: LoadedManifest, folder: str, line: int, utterance: Utterance, normalization: str) -> ManifestRow:
    text = normalize(utterance.text, normalization)
    if text == utterance.text:  # in most rows: keep one string, not two
        text = utterance.text
    # 300,000 path objects would cost a second.
    audio_path = os.path.join(folder, utterance.audio_path)  # noqa: PTH118
    return ManifestRow(manifest, line, utterance, text, audio_path)
