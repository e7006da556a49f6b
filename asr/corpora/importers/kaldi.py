"""Kaldi data directories: wav.scp, text, and where they are there segments, utt2spk, spk2gender and spk2age.

Source: https://kaldi-asr.org/doc/data_prep.html
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from asr.corpora.importers.rows import OPTIONS, Found, Row, local_path, located, read_lines, write_rows
from asr.corpora.recipe import Prepared, Recipe, Request
from asr.errors import DataError
from asr.files import visible

#: speakers below this age are children in ``meta.group``
ADULT_AGE = 16


def prepare(request: Request) -> Prepared:
    """A manifest for the data directory, or one for each that the folder holds, named like it."""
    assert request.source is not None  # asr.corpora.recipe.perform asks for one
    return write_rows(request, {name: read(folder) for name, folder in data_dirs(request.source).items()})


def data_dirs(folder: Path) -> dict[str, Path]:
    """The data directory itself, or those that lie in the folder, by name.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        raise DataError("no such folder; expected a Kaldi data directory, the folder of wav.scp", folder)
    if (folder / "wav.scp").is_file():
        return {folder.resolve().name or "train": folder}
    found = {path.parent.name: path.parent for path in visible(folder, "*/wav.scp")}
    if not found:
        raise DataError("neither it nor a folder in it holds a wav.scp: this is no Kaldi data directory", folder)
    return found


def read(folder: Path) -> Found:
    """The utterances of one data directory.

    The channel of ``reco2file_and_channel`` counts where the file has several: a recording that is one channel already
    has its letter there, too.

    Raises:
        DataError: a file is missing or malformed, or wav.scp holds a command; file and line are named.
    """
    recordings = _recordings(folder)
    texts = _table(folder / "text")
    parts = _segments(folder / "segments") if (folder / "segments").is_file() else None
    speakers, genders, ages = (_optional(folder / name) for name in ("utt2spk", "spk2gender", "spk2age"))
    channels = _channels(folder / "reco2file_and_channel")
    known = parts if parts is not None else recordings
    cut = _cut(texts, known.keys())
    dropped = {}
    rows = []
    for id_ in known:
        recording, start_s, end_s, channel = parts[id_] if parts is not None else (id_, 0.0, None, None)
        number, text = texts.get(id_, (0, ""))
        if recording not in recordings:
            dropped[id_] = f"its recording '{recording}' is not in wav.scp"
        elif id_ in cut:
            dropped[id_] = f"{folder / 'text'}:{number}: its text may go on in line {cut[id_]}, which has no known id"
        elif not text:
            dropped[id_] = f"{folder / 'text'}:{number}: an id without a text" if number else "not in 'text'"
        elif end_s is not None and end_s <= start_s:
            dropped[id_] = f"ends at {end_s:g} s, but starts at {start_s:g} s"
        else:
            speaker = speakers.get(id_, "")
            meta = _facts(genders.get(speaker, ""), ages.get(speaker, ""))
            duration_s = None if end_s is None else end_s - start_s
            channel = channel or channels.get(recording)
            rows.append(Row(id_, recordings[recording], text, speaker, start_s, duration_s, meta, channel))
    for id_, (number, _) in texts.items():
        if id_ not in known:
            where = "wav.scp" if parts is None else "segments"
            dropped[id_] = f"{folder / 'text'}:{number}: not in {where}"
    return Found(rows, dropped, folder)


def _recordings(folder: Path) -> dict[str, Path]:
    """The audio file of each recording.

    Raises:
        DataError: an entry is a command or lies in an archive, or no relative path leads to a file.
    """
    source = folder / "wav.scp"
    paths = {}
    for id_, (number, path) in _table(source).items():
        if not path:
            raise DataError(f"'{id_}' has no path; expected 'id path'", source, number)
        if path.endswith("|") or path.startswith("|"):
            raise DataError(
                f"'{id_}' is a command ('{path[:40]}{'…' if len(path) > 40 else ''}'), and an import runs none: it "
                "could do anything here; write its output to files and list their paths (SPHERE and FLAC files are "
                "read as they are, without sph2pipe or flac)",
                source,
                number,
            )
        if re.search(r":\d+$", path):
            raise DataError(
                f"'{id_}' lies in a Kaldi archive ('{path}'); write one audio file each (wav-copy), and list those",
                source,
                number,
            )
        paths[id_] = local_path(path)
    return dict(zip(paths, located(list(paths.values()), folder, source), strict=True))


def _segments(path: Path) -> dict[str, tuple[str, float, float | None, int | None]]:
    """Recording, start and end in seconds, and channel of each utterance; an end below 0 is that of the file.

    A fifth field is what extract-segments takes for the channel, from 0; here it is from 1.
    """
    parts = {}
    for id_, (number, rest) in _table(path).items():
        try:
            recording, start, end, *channel = rest.split()
            start_s, end_s = float(start), float(end)
            if not (0 <= start_s < float("inf") and end_s < float("inf") and len(channel) < 2):
                raise ValueError
            at = int(channel[0]) + 1 if channel else None
            if at is not None and at < 1:
                raise ValueError
        except ValueError:
            raise DataError(
                "expected 'utterance recording start end', with times in seconds, and maybe a channel, from 0; got "
                f"'{id_} {rest}'",
                path,
                number,
            ) from None
        parts[id_] = (recording, start_s, None if end_s < 0 else end_s, at)
    return parts


def _channels(path: Path) -> dict[str, int]:
    """The channel of each recording, from 1: written A and B, or 1 and 2. Another name says nothing of the file.

    Raises:
        DataError: a line has not three fields.
    """
    channels = {}
    for id_, (number, rest) in (_table(path) if path.is_file() else {}).items():
        fields = rest.split()
        if len(fields) != 2:
            raise DataError(f"expected 'recording file channel', got {1 + len(fields)} fields", path, number)
        name = fields[1].upper()
        if name.isdecimal() and int(name) > 0:
            channels[id_] = int(name)
        elif re.fullmatch("[A-Z]", name):
            channels[id_] = ord(name) - ord("A") + 1
    return channels


def _cut(texts: dict[str, tuple[int, str]], known: Collection[str]) -> dict[str, int]:
    """Utterances whose text may go on in the next line of ``text``, as a line feed is in it; and that line.

    Kaldi's files are sorted. Where the known ids are, a word that is no id and does not lie between its neighbours is
    the rest of a text.
    """
    ids = list(texts)
    ours = [id_ for id_ in ids if id_ in known]
    if ours != sorted(ours):
        return {}
    cut = {}
    after = ""
    for one, next_one in reversed(list(itertools.pairwise(ids))):
        if next_one in known:
            after = next_one
        elif one in known and not (one < next_one and (not after or next_one < after)):
            cut[one] = texts[next_one][0]
    return cut


def _facts(gender: str, age: str) -> dict[str, Any] | None:
    facts: dict[str, Any] = {}
    if gender:
        facts["gender"] = gender
    if age:
        facts["age"] = int(age) if re.fullmatch(r"[0-9]{1,3}", age) else age
    if isinstance(facts.get("age"), int):
        facts["group"] = "child" if facts["age"] < ADULT_AGE else "adult"
    return facts or None


def _optional(path: Path) -> dict[str, str]:
    return {key: value for key, (_, value) in _table(path).items()} if path.is_file() else {}


def _table(path: Path) -> dict[str, tuple[int, str]]:
    """Line number and the rest of the line by its first word; a space or a tab ends that word, as in Kaldi.

    Raises:
        DataError: the file cannot be read, is empty, or has an id twice.
    """
    rows: dict[str, tuple[int, str]] = {}
    for number, line in read_lines(path):
        key, rest = (*re.split(r"[ \t]+", line, maxsplit=1), "")[:2]
        if key in rows:
            raise DataError(f"duplicate id '{key}' (first on line {rows[key][0]}); ids must be unique", path, number)
        rows[key] = (number, rest)
    if not rows:
        raise DataError("the file is empty", path)
    return rows


KALDI = Recipe(
    name="kaldi",
    title="Kaldi data directory",
    hours=0,
    sample_rate_hz=0,
    licence="that of the data",
    homepage="https://kaldi-asr.org/doc/data_prep.html",
    prepare=prepare,
    options=OPTIONS,
    source="DIR",
)
