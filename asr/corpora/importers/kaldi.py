"""Kaldi data directories: wav.scp, text, and if they are there segments, utt2spk, spk2gender and spk2age.

Source: https://kaldi-asr.org/doc/data_prep.html
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asr.corpora.importers.importer import Found
from asr.corpora.measure import Row
from asr.corpora.paths import local_path, located
from asr.data.lines import stripped_lines, unique_ids
from asr.errors import DataError
from asr.files import visible

#: speakers below this age are children in ``meta.group``
ADULT_AGE = 16


class _Segment(NamedTuple):
    """A part of a recording. Units: seconds; ``end_s`` is None at the end of the file; channels count from 1."""

    recording: str
    start_s: float = 0.0
    end_s: float | None = None
    channel: int | None = None


def read(folder: Path, options: Mapping[str, str]) -> dict[str, Found]:
    """Read the data directory, or those that lie in the folder, each into a manifest that is named like it.

    Raises:
        DataError: there is none, a file is missing or malformed, or wav.scp holds a command; file and line are named.
    """
    if not folder.is_dir():
        raise DataError("no such folder; expected a Kaldi data directory, the folder of wav.scp", folder)
    if (folder / "wav.scp").is_file():
        return {folder.resolve().name or "train": read_directory(folder)}

    found = {path.parent.name: read_directory(path.parent) for path in visible(folder, "*/wav.scp")}
    if not found:
        raise DataError("neither it nor a folder in it holds a wav.scp: this is no Kaldi data directory", folder)
    return found


def read_directory(folder: Path) -> Found:
    """Read one data directory.

    The channel of ``reco2file_and_channel`` is used only for files with several channels: the file also gives a letter
    to a recording that is one channel already.

    Raises:
        DataError: as ``read``.
    """
    recordings = _recordings(folder)
    texts = _table(folder / "text")
    has_segments = (folder / "segments").is_file()
    segments = _segments(folder / "segments") if has_segments else {id_: _Segment(id_) for id_ in recordings}
    speakers, genders, ages = (_optional(folder / name) for name in ("utt2spk", "spk2gender", "spk2age"))
    channels = _channels(folder / "reco2file_and_channel")
    cut = _cut(texts, segments.keys())

    found = Found([], {}, folder)
    for id_, segment in segments.items():
        number, text = texts.get(id_, (0, ""))
        where = f"{folder / 'text'}:{number}"
        if segment.recording not in recordings:
            found.dropped[id_] = f"its recording '{segment.recording}' is not in wav.scp"
        elif id_ in cut:
            found.dropped[id_] = f"{where}: its text may go on in line {cut[id_]}, which has no known id"
        elif not text:
            found.dropped[id_] = f"{where}: an id without a text" if number else "not in 'text'"
        elif segment.end_s is not None and segment.end_s <= segment.start_s:
            found.dropped[id_] = f"ends at {segment.end_s:g} s, but starts at {segment.start_s:g} s"
        else:
            speaker = speakers.get(id_, "")
            row = Row(
                id=id_,
                audio=recordings[segment.recording],
                text=text,
                speaker=speaker,
                offset_s=segment.start_s,
                duration_s=None if segment.end_s is None else segment.end_s - segment.start_s,
                meta=_facts(genders.get(speaker, ""), ages.get(speaker, "")),
                channel=segment.channel or channels.get(segment.recording),
            )
            found.rows.append(row)

    for id_, (number, _) in texts.items():
        if id_ not in segments:
            lacking = "segments" if has_segments else "wav.scp"
            found.dropped[id_] = f"{folder / 'text'}:{number}: not in {lacking}"
    return found


def _recordings(folder: Path) -> dict[str, Path]:
    """Return the audio file of each recording."""
    source = folder / "wav.scp"
    paths = {}
    for id_, (number, path) in _table(source).items():
        problem = ""
        if not path:
            problem = "has no path; expected 'id path'"
        elif path.endswith("|") or path.startswith("|"):
            start = f"{path[:40]}{'…' if len(path) > 40 else ''}"
            problem = (
                f"is a command ('{start}'), and an import runs none: it could do anything here; write its output to "
                "files and list their paths (SPHERE and FLAC files are read as they are, without sph2pipe or flac)"
            )
        elif re.search(r":\d+$", path):
            problem = f"lies in a Kaldi archive ('{path}'); write one audio file each (wav-copy), and list those"
        if problem:
            raise DataError(f"'{id_}' {problem}", source, number)
        paths[id_] = local_path(path)

    return dict(zip(paths, located(list(paths.values()), folder, source), strict=True))


def _segments(path: Path) -> dict[str, _Segment]:
    """Return the segments by id. An end below 0 is that of the file; a fifth field is the channel, from 0."""
    segments = {}
    for id_, (number, rest) in _table(path).items():
        try:
            recording, start, end, *channel = rest.split()
            start_s = float(start)
            end_s = float(end)
            channels = [int(text) + 1 for text in channel]
            if not (0 <= start_s < math.inf and end_s < math.inf) or len(channels) > 1 or min(channels, default=1) < 1:
                raise ValueError
        except ValueError:
            raise DataError(
                "expected 'utterance recording start end', with times in seconds, and maybe a channel, from 0; got "
                f"'{id_} {rest}'",
                path,
                number,
            ) from None
        segments[id_] = _Segment(recording, start_s, None if end_s < 0 else end_s, channels[0] if channels else None)

    return segments


def _channels(path: Path) -> dict[str, int]:
    """Return the channel of each recording, from 1: written A and B, or 1 and 2. Other names are ignored."""
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
    """Find utterances whose text may go on in the next line of ``text``, because a line feed is in it.

    Kaldi's files are sorted. If the known ids are, a first word that is no id and does not lie between its neighbours
    is the rest of a text.

    Returns:
        The line on which the text goes on, by id.
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
    if re.fullmatch(r"[0-9]{1,3}", age):
        facts["age"] = int(age)
        facts["group"] = "child" if int(age) < ADULT_AGE else "adult"
    elif age:
        facts["age"] = age

    return facts or None


def _optional(path: Path) -> dict[str, str]:
    return {key: value for key, (_, value) in _table(path).items()} if path.is_file() else {}


def _table(path: Path) -> dict[str, tuple[int, str]]:
    """Return line number and the rest of the line by its first word; a space or a tab ends that word, as in Kaldi."""
    new_id = unique_ids(path)
    rows: dict[str, tuple[int, str]] = {}
    for number, line in stripped_lines(path):
        key, rest = (*re.split(r"[ \t]+", line, maxsplit=1), "")[:2]
        new_id(key, number)
        rows[key] = (number, rest)

    if not rows:
        raise DataError("the file is empty", path)
    return rows
