"""A folder of audio files, each with its text beside it: a.wav and a.txt."""

from __future__ import annotations

import glob
from pathlib import Path

from asr.corpora.importers.rows import OPTIONS, Found, Row, read_lines, write_rows
from asr.corpora.recipe import Prepared, Recipe, Request
from asr.errors import DataError
from asr.files import files_below, visible
from asr.sound.reader import SUFFIXES as READABLE

#: of what 'asr transcribe' reads, in the order in which they are taken where two have one name
_FIRST = (".wav", ".flac", ".sph", ".ogg", ".opus", ".mp3")
SUFFIXES = (*_FIRST, *sorted(READABLE - set(_FIRST)))
_CONVERT = "ffmpeg -i IN -ac 1 OUT.wav makes one"


def prepare(request: Request) -> Prepared:
    """One manifest, named like the folder."""
    assert request.source is not None  # asr.corpora.recipe.perform asks for one
    name = request.source.resolve().name or "train"
    return write_rows(request, {name: read(request.source)})


def read(folder: Path) -> Found:
    """The utterances of a folder and all folders in it; ids are paths without the suffix.

    Raises:
        DataError: it is no folder, or holds no audio.
    """
    if not folder.is_dir():
        raise DataError(
            "no such folder; expected one with audio files, and a .txt of the same name beside each", folder
        )
    audio: dict[str, Path] = {}
    texts: dict[str, Path] = {}
    dropped: dict[str, str] = {}

    def failed(path: Path, why: str) -> None:
        dropped[path.relative_to(folder).as_posix()] = why

    for path in files_below(folder, failed):
        suffix, id_ = path.suffix.lower(), path.relative_to(folder).with_suffix("").as_posix()
        if suffix == ".txt":
            if id_ in texts:
                first, path = sorted((texts[id_], path), key=lambda p: (p.suffix != ".txt", p.name))
                texts[id_] = first
                dropped[path.relative_to(folder).as_posix()] = f"{first.name} beside it has the same name"
            else:
                texts[id_] = path
        elif suffix in SUFFIXES:
            if id_ in audio:
                first, path = sorted((audio[id_], path), key=lambda p: SUFFIXES.index(p.suffix.lower()))
                audio[id_] = first
                dropped[path.relative_to(folder).as_posix()] = f"{first.name} beside it has the same name"
            else:
                audio[id_] = path
    if not audio:
        raise DataError(f"holds no audio file ({', '.join(_FIRST)}, …); of another format, {_CONVERT}", folder)
    rows = []
    for id_, path in audio.items():
        if id_ not in texts:
            dropped[path.relative_to(folder).as_posix()] = f"no {Path(id_).name}.txt beside it"
            continue
        try:
            text = " ".join(line for _, line in read_lines(texts[id_]))
        except DataError as error:
            dropped[id_] = str(error)
            continue
        rows.append(Row(id_, path, text))
    for id_ in sorted(texts.keys() - audio.keys()):
        beside = visible(texts[id_].parent, f"{glob.escape(texts[id_].stem)}.*")
        others = [path.name for path in beside if path != texts[id_]]
        why = "no audio file of that name beside it"
        if others:
            why = f"{others[0]} beside it is not in a format that is read here; {_CONVERT}"
        dropped[texts[id_].relative_to(folder).as_posix()] = why
    return Found(rows, dropped, folder)


FOLDER = Recipe(
    name="folder",
    title="Folder of audio files with a .txt beside each",
    hours=0,
    sample_rate_hz=0,
    licence="that of the data",
    homepage="",
    prepare=prepare,
    options=OPTIONS,
    source="DIR",
)
