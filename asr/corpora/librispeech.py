"""The folder layout of LibriSpeech, which other corpora share: archives to manifests.

``LibriSpeech/<subset>/<speaker>/<chapter>/<id>.flac``, beside them ``<speaker>-<chapter>.trans.txt`` with lines of
``<id> TEXT``, and ``LibriSpeech/SPEAKERS.TXT``.

Source: README.TXT of LibriSpeech, section 2.1 (https://www.openslr.org/12).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asr.corpora.archive import bytes_in, is_unpacked
from asr.corpora.recipe import Prepared, Recipe, Request, write_splits
from asr.corpora.sources import check_room, chosen_files, local_copy, unpack_file, unpacked_in
from asr.data import audio
from asr.data.lines import numbered_lines
from asr.data.manifest import Utterance
from asr.errors import DataError
from asr.files import files_below
from asr.heartbeat import counted

log = logging.getLogger(__name__)

ROOT = "LibriSpeech"
ROLES = ("train", "dev", "test")


def prepare(recipe: Recipe, request: Request, template: str) -> Prepared:
    """A manifest for each subset, and ``train``, ``dev`` and ``test`` as ``roles`` makes them.

    Args:
        template: URL with ``{subset}``, where a mirror has subsets that the recipe does not know.
    """
    files = chosen_files(recipe, request, template)
    folders = {
        file.subset: next((found for path in request.archive if (found := unpacked_in(path, file.subset))), None)
        for file in files
    }
    # what is unpacked already needs its archive no more; one that is given is compared with it
    missing = []
    for file in files:
        own = request.out / ROOT / file.subset
        if folders[file.subset] is None:
            folders[file.subset] = own
            if not is_unpacked(own) or local_copy(request, file):
                missing.append(file)
    if missing:
        check_room(request, missing, extracted=sum(bytes_in(request.out / ROOT / file.subset) for file in missing))
    for file in missing:
        unpack_file(recipe, request, file, f"{ROOT}/{file.subset}")
    subsets: dict[str, list[Utterance]] = {}
    dropped: dict[str, str] = {}
    for name, folder in folders.items():
        assert folder is not None  # every subset has one by now
        subsets[name] = read_subset(folder, request.out, dropped)
    return write_splits(request.out, subsets | roles(subsets), dropped)


def roles(subsets: Mapping[str, Sequence[Utterance]]) -> dict[str, list[Utterance]]:
    """What training and evaluation look for: ``train`` is all training subsets, ``dev`` and ``test`` the first of each.

    A subset's role is the word in its name: ``train-clean-100``, ``lj-train``.

    >>> sorted(roles({"train-a": [], "train-b": [], "dev-clean": [], "dev-other": [], "extra": []}))
    ['dev', 'train']
    """
    found: dict[str, list[Utterance]] = {}
    for name, rows in subsets.items():
        role = next((word for word in name.split("-") if word in ROLES), None)
        if role is None:
            log.info("%s: its name says neither train, dev nor test; its manifest is %s.jsonl only", name, name)
        elif role == "train":
            found.setdefault(role, []).extend(rows)
        else:
            found.setdefault(role, list(rows))
    return found


def read_subset(folder: Path, out: Path, dropped: dict[str, str]) -> list[Utterance]:
    """The utterances of a subset's folder; what is left out goes to ``dropped``, with the reason.

    Units: the paths are relative to ``out`` where the folder lies in it, else absolute.
    """
    base = folder.relative_to(out) if folder.is_relative_to(out) else folder.absolute()
    sexes = _sexes(folder.parent / "SPEAKERS.TXT")
    texts, waves = _texts_and_audio(folder, dropped)
    for id_ in sorted(waves.keys() - texts.keys()):
        dropped.setdefault(id_, "no transcript")
    for id_ in sorted(texts.keys() - waves.keys()):
        dropped[id_] = "no audio"
    ids = [id_ for id_ in texts if id_ in waves]
    rows = []
    with (
        ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool,  # mostly waiting, where the disk is slow
        counted(f"{folder.name}: headers of audio files", len(ids)) as advance,
    ):
        durations = pool.map(_duration_s, (folder / waves[id_] for id_ in ids))
        for id_, duration_s in zip(ids, durations, strict=True):
            advance(1)
            if isinstance(duration_s, str):
                dropped[id_] = duration_s
            elif not texts[id_]:
                dropped[id_] = "no transcript"
            else:
                speaker = id_.partition("-")[0]
                sex = sexes.get(speaker)
                meta = {"subset": folder.name} | ({"sex": sex} if sex else {})
                path = base / waves[id_]
                rows.append(Utterance(id_, path.as_posix(), duration_s, texts[id_], speaker, meta=meta))
    return rows


def _duration_s(path: Path) -> float | str:
    """Seconds of a file, or why it is left out."""
    try:
        header = audio.info(path)
    except DataError as error:
        return str(error)
    return round(header.duration_s, 4) if header.num_samples else "no samples"


def _texts_and_audio(folder: Path, dropped: dict[str, str]) -> tuple[dict[str, str], dict[str, Path]]:
    """Text by id, and the audio's path in the folder by id; what cannot be looked at goes to ``dropped``."""
    texts: dict[str, str] = {}
    waves: dict[str, Path] = {}

    def failed(path: Path, why: str) -> None:
        dropped[path.relative_to(folder).as_posix()] = why

    for path in files_below(folder, failed):
        if path.suffix == ".flac":
            waves[path.stem] = path.relative_to(folder)
        elif path.name.endswith(".trans.txt"):
            _add_texts(path, texts, dropped)
    return texts, waves


def _add_texts(path: Path, texts: dict[str, str], dropped: dict[str, str]) -> None:
    """The texts of a chapter, whose ids begin with its name; another first word says that the text above was cut."""
    chapter = path.name.removesuffix(".trans.txt")
    last = ""
    for number, line in numbered_lines(path):
        id_, _, text = line.strip().partition(" ")
        if id_.startswith(f"{chapter}-"):
            texts[id_] = " ".join(text.split())
            last = id_
        else:
            dropped[f"{path.name}:{number}"] = f"'{id_}' is no id of chapter {chapter}"
            if texts.pop(last, None) is not None:
                dropped[last] = f"its text may be cut: line {number} of {path.name} is no row"


def _sexes(path: Path) -> dict[str, str]:
    """``F`` or ``M`` by speaker, from lines of ``ID | SEX | SUBSET | MINUTES | NAME``; what has none is not known."""
    if not path.is_file():
        log.warning("%s: not there; the speakers' sex is not known", path)
        return {}
    fields = [[part.strip() for part in line.split("|")] for _, line in numbered_lines(path) if line[0] != ";"]
    return {row[0]: row[1] for row in fields if len(row) > 1 and row[1] in ("F", "M")}
