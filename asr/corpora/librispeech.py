"""The folder layout of LibriSpeech, which other corpora share.

``LibriSpeech/<subset>/<speaker>/<chapter>/<id>.flac``, beside them ``<speaker>-<chapter>.trans.txt`` with lines of
``<id> TEXT``, and ``LibriSpeech/SPEAKERS.TXT``.

Source: README.TXT of LibriSpeech, section 2.1 (https://www.openslr.org/12).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr.corpora.archive import bytes_in, is_unpacked
from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.corpora.sources import check_room, chosen_files, local_copy, unpack_file, unpacked_in
from asr.data.lines import numbered_lines
from asr.data.manifest import Utterance
from asr.download.remote import Remote
from asr.files import files_below

log = logging.getLogger(__name__)

ROOT = "LibriSpeech"
ROLES = ("train", "dev", "test")


def prepare(recipe: Recipe, request: Request, template: str) -> Corpus:
    """Return the utterances of each subset, and ``train``, ``dev`` and ``test`` as ``roles`` makes them.

    Args:
        template: path on OpenSLR with ``{subset}``, for subsets that the recipe does not know.
    """
    dropped: dict[str, str] = {}
    subsets = {}
    for name, folder in _folders(recipe, request, chosen_files(recipe, request, template)).items():
        subsets[name] = measure(_rows(folder, dropped), request.out, dropped)
    return Corpus(subsets | roles(subsets), dropped)


def _folders(recipe: Recipe, request: Request, files: Sequence[Remote]) -> dict[str, Path]:
    """Return the folder of each subset: that of --archive, or under ``out``, unpacked if it is not yet."""
    folders = {}
    missing = []
    for file in files:
        given = next((found for path in request.archive if (found := unpacked_in(path, file.subset))), None)
        own = request.out / ROOT / file.subset
        folders[file.subset] = given or own
        # what is unpacked already needs its archive no more; one that is given is compared with it
        if given is None and (not is_unpacked(own) or local_copy(request, file)):
            missing.append(file)

    if missing:
        check_room(request, missing, extracted=sum(bytes_in(folders[file.subset]) for file in missing))
    for file in missing:
        unpack_file(recipe, request, file, f"{ROOT}/{file.subset}")
    return folders


def roles(subsets: Mapping[str, Sequence[Utterance]]) -> dict[str, list[Utterance]]:
    """Return what training and evaluation look for: all training subsets as one, and the first of dev and of test.

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


def _rows(folder: Path, dropped: dict[str, str]) -> list[Row]:
    """Return the rows of a subset's folder; what is left out goes to ``dropped``, with the reason."""
    sexes = _sexes(folder.parent / "SPEAKERS.TXT")
    texts: dict[str, str] = {}
    waves: dict[str, Path] = {}

    def drop(path: Path, why: str) -> None:
        dropped[path.relative_to(folder).as_posix()] = why

    for path in files_below(folder, drop):
        if path.suffix == ".flac":
            waves[path.stem] = path
        elif path.name.endswith(".trans.txt"):
            _add_texts(path, texts, dropped)

    for id_ in sorted(texts.keys() - waves.keys()):
        dropped[id_] = "no audio"
    rows = []
    for id_, path in waves.items():
        if not texts.get(id_):
            dropped.setdefault(id_, "no transcript")
            continue
        speaker = id_.partition("-")[0]
        meta = {"subset": folder.name}
        if speaker in sexes:
            meta["sex"] = sexes[speaker]
        rows.append(Row(id_, path, texts[id_], speaker, meta=meta))

    return rows


def _add_texts(path: Path, texts: dict[str, str], dropped: dict[str, str]) -> None:
    """Add the texts of a chapter, whose ids begin with its name; another first word is the rest of a cut text."""
    chapter = path.name.removesuffix(".trans.txt")
    last = ""
    for number, line in numbered_lines(path):
        id_, _, text = line.strip().partition(" ")
        if id_.startswith(f"{chapter}-"):
            texts[id_] = text.strip()
            last = id_
        else:
            dropped[f"{path.name}:{number}"] = f"'{id_}' is no id of chapter {chapter}"
            if texts.pop(last, None) is not None:
                dropped[last] = f"its text may be cut: line {number} of {path.name} is no row"


def _sexes(path: Path) -> dict[str, str]:
    """Return ``F`` or ``M`` by speaker, if known, from lines of ``ID | SEX | SUBSET | MINUTES | NAME``."""
    if not path.is_file():
        log.warning("%s: not there; the speakers' sex is not known", path)
        return {}

    sexes = {}
    for _, line in numbered_lines(path):
        fields = [part.strip() for part in line.split("|")]
        if line[0] != ";" and len(fields) > 1 and fields[1] in ("F", "M"):
            sexes[fields[0]] = fields[1]

    return sexes
