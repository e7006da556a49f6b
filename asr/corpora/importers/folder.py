"""A folder of audio files, each with its text beside it: a.wav and a.txt."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

from asr.corpora.importers.importer import Found
from asr.corpora.measure import Row
from asr.data.lines import numbered_lines
from asr.errors import DataError
from asr.files import files_below, visible
from asr.sound.reader import SUFFIXES as READABLE

#: in the order in which they are taken if two files have one name
_FIRST = (".wav", ".flac", ".sph", ".ogg", ".opus", ".mp3")
SUFFIXES = (*_FIRST, *sorted(READABLE - set(_FIRST)))
_CONVERT = "ffmpeg -i IN -ac 1 OUT.wav makes one"


def read(folder: Path, options: Mapping[str, str]) -> dict[str, Found]:
    """Read a folder and all folders in it into one manifest; ids are paths without the suffix.

    Raises:
        DataError: it is no folder, or holds no audio.
    """
    if not folder.is_dir():
        raise DataError(
            "no such folder; expected one with audio files, and a .txt of the same name beside each", folder
        )

    found = Found([], {}, folder)
    audio, texts = _pairs(found)
    if not audio:
        raise DataError(f"holds no audio file ({', '.join(_FIRST)}, …); of another format, {_CONVERT}", folder)

    for id_, path in audio.items():
        if id_ not in texts:
            found.dropped[path.relative_to(folder).as_posix()] = f"no {Path(id_).name}.txt beside it"
            continue
        try:
            text = " ".join(line for _, line in numbered_lines(texts[id_]))
        except DataError as error:
            found.dropped[id_] = str(error)
            continue
        found.rows.append(Row(id_, path, text))

    for id_ in sorted(texts.keys() - audio.keys()):
        found.dropped[texts[id_].relative_to(folder).as_posix()] = _no_audio(texts[id_])
    return {folder.resolve().name or "train": found}


def _pairs(found: Found) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the audio and the text files by id; of two with one id the second is dropped."""
    audio: dict[str, Path] = {}
    texts: dict[str, Path] = {}

    def drop(path: Path, why: str) -> None:
        found.dropped[path.relative_to(found.source).as_posix()] = why

    for path in files_below(found.source, drop):
        suffix = path.suffix.lower()
        if suffix != ".txt" and suffix not in SUFFIXES:
            continue
        files = texts if suffix == ".txt" else audio
        id_ = path.relative_to(found.source).with_suffix("").as_posix()
        first, *others = sorted([path, *([files[id_]] if id_ in files else [])], key=_rank)
        files[id_] = first
        for other in others:
            drop(other, f"{first.name} beside it has the same name")

    return audio, texts


def _rank(path: Path) -> tuple[int, bool, str]:
    suffix = path.suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else 0, path.suffix != suffix, path.name


def _no_audio(text: Path) -> str:
    beside = visible(text.parent, f"{glob.escape(text.stem)}.*")
    others = [path.name for path in beside if path != text]
    if others:
        return f"{others[0]} beside it is not in a format that is read here; {_CONVERT}"
    return "no audio file of that name beside it"
