"""Manifests: one utterance per line, as JSON. ``docs/formats.md`` defines the format.

A row is ``{"id", "audio_path", "duration_s", "text", "speaker"}`` with optional ``offset_s``, ``channel`` and ``meta``.
The audio path is relative to the manifest's folder (or absolute). Reading keeps it as written; it is resolved on use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asr.data.lines import raw_lines, unique_ids
from asr.data.places import why_outside
from asr.errors import DataError, nearest, os_reason
from asr.files import json_text, open_atomic, visible
from asr.limits import RECORDING_S

#: the end of a message about seconds
AT_MOST = f"; the most is {RECORDING_S:,} ({RECORDING_S // 86400} days)"
_loads = json.JSONDecoder().decode
#: a channel, counted from 1, or all of them averaged
Channel = int | Literal["mix"]
_FIELDS = ("id", "audio_path", "duration_s", "text", "speaker", "offset_s", "channel", "meta")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance: where its audio is and what is said in it.

    Units: ``duration_s`` and ``offset_s`` in seconds; ``offset_s`` is where the utterance starts inside the file.
    ``channel`` is what is read of a file with several channels: one of them, counted from 1, or ``"mix"``, their
    average; None: the file must have one channel.
    """

    id: str
    audio_path: str
    duration_s: float
    text: str
    speaker: str = ""
    offset_s: float = 0.0
    meta: dict[str, Any] | None = None
    channel: Channel | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row of a manifest; optional fields only if they have a value."""
        row: dict[str, Any] = {
            "id": self.id,
            "audio_path": self.audio_path,
            "duration_s": self.duration_s,
            "text": self.text,
            "speaker": self.speaker,
        }
        if self.offset_s:
            row["offset_s"] = self.offset_s

        if self.channel is not None:
            row["channel"] = self.channel
        if self.meta:
            row["meta"] = self.meta
        return row


@dataclass(frozen=True)
class Manifest:
    """The utterances of a manifest file, and the folder that their audio paths are relative to."""

    path: Path
    utterances: list[Utterance] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def audio_path(self, utterance: Utterance) -> Path:
        return self.path.parent / utterance.audio_path

    @property
    def duration_s(self) -> float:
        return sum(u.duration_s for u in self.utterances)

    @property
    def speakers(self) -> set[str]:
        return {u.speaker for u in self.utterances if u.speaker}


def read(path: str | Path) -> Manifest:
    """Read a manifest, and check every row.

    Raises:
        DataError: the file cannot be read, or a row is not a valid utterance; path and line are named.
    """
    path = Path(path)
    utterances: list[Utterance] = []
    new_id = unique_ids(path)
    for number, raw in lines(path):
        utterance = parse_line(raw, path, number)
        new_id(utterance.id, number)
        utterances.append(utterance)

    if not utterances:
        raise DataError("the manifest has no utterances", path)
    return Manifest(path, utterances)


def read_split(folder: Path, split: str) -> Manifest:
    """Read the manifest of a split in a data folder, ``<split>.jsonl``.

    Raises:
        DataError: it is not there (the message lists what is), or as ``read``.
    """
    path = folder / f"{split}.jsonl"
    if path.exists():
        return read(path)

    wanted = "training takes a folder with train.jsonl and dev.jsonl ('asr prepare' writes them)"
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such folder"
        raise DataError(f"{problem}; {wanted}", folder)

    others = [one.name for one in visible(folder, "*.jsonl") if one.stem not in ("train", "dev")]
    remedy = f"; {', '.join(others[:3])} there: prepare again with --dev 0.1, or --name {split}" if others else ""
    raise DataError(f"no such file; {wanted}{remedy}", path)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a manifest that are not blank, with their numbers.

    Raises:
        DataError: as ``asr.data.lines.raw_lines``.
    """
    return raw_lines(path, "the manifest")


def parse_line(raw: bytes, path: Path, number: int) -> Utterance:
    """Return the utterance in a line of a manifest.

    Raises:
        DataError: it is not a valid utterance; path and line are named.
    """
    try:
        row = _loads(raw.rstrip(b"\r\n").decode("utf-8"))
        if b"\\u" in raw:
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is not text
        utterance = _utterance(row, path, number)
        if utterance.meta and (b"NaN" in raw or b"Infinity" in raw):
            json.dumps(utterance.meta, allow_nan=False)  # no other program would read it, nor could we write it
        if problem := why_outside(utterance.audio_path, path):
            raise DataError(f"utt '{utterance.id}': 'audio_path' {problem}", path, number)
        return utterance
    except UnicodeEncodeError as error:
        problem = "holds half of a surrogate pair (\\ud800 to \\udfff), which is not text"
        raise DataError(problem, path, number) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start})", path, number) from error
    except json.JSONDecodeError as error:
        problem = f"not valid JSON ({error.msg} at column {error.colno}); one object per line"
        raise DataError(problem, path, number) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets 1,000 deep
        raise DataError(f"not JSON that can be read ({error}); one object per line", path, number) from error


def is_seconds(value: object) -> bool:
    """Check whether a value is a number of seconds that audio can have."""
    return type(value) in (float, int) and 0 <= value <= RECORDING_S  # type: ignore[operator]


def _utterance(row: Any, path: Path, line: int) -> Utterance:
    """Return the utterance of a row. Plain comparisons, as 300,000 rows must be read in seconds."""
    if type(row) is not dict:
        raise DataError(f"a row must be a JSON object, got {type(row).__name__}", path, line)
    try:
        id_ = row["id"]
        audio_path = row["audio_path"]
        text = row["text"]
        duration_s = row["duration_s"]
    except KeyError as error:
        missing = error.args[0]
        hint = nearest(missing, [key for key in row if key not in _FIELDS]).replace("did you mean", "is it written as")
        raise DataError(f"missing field '{missing}'{hint}", path, line) from None

    speaker = row.get("speaker", "")
    offset_s = row.get("offset_s", 0.0)
    meta = row.get("meta")
    channel = row.get("channel")

    problem = ""
    if type(id_) is not str or not id_:
        raise DataError(f"'id' must be a non-empty string, got {id_!r}", path, line)
    if type(audio_path) is not str or not audio_path:
        raise DataError(f"'audio_path' must be a non-empty string, got {audio_path!r}", path, line)
    if type(text) is not str:
        problem = f"'text' must be a string, got {text!r}"
    elif type(speaker) is not str:
        problem = f"'speaker' must be a string, got {speaker!r}"
    elif type(duration_s) not in (float, int) or not 0 < duration_s <= RECORDING_S:
        problem = f"'duration_s' must be a number of seconds, finite and positive, got {duration_s!r}{AT_MOST}"
    elif type(offset_s) not in (float, int) or not 0 <= offset_s <= RECORDING_S:
        problem = f"'offset_s' must be a number of seconds, finite and not negative, got {offset_s!r}{AT_MOST}"
    elif channel is not None and channel != "mix" and (type(channel) is not int or channel < 1):
        problem = f"'channel' must be a number from 1 on, or \"mix\" (all channels averaged), got {channel!r}"
    elif meta is not None and type(meta) is not dict:
        problem = f"'meta' must be an object, got {meta!r}"

    if problem:
        raise DataError(f"utt '{id_}': {problem}", path, line)

    if len(row) > 4 + ("speaker" in row) + ("offset_s" in row) + ("channel" in row) + ("meta" in row):
        extra = next(key for key in row if key not in _FIELDS)
        raise DataError(f"unknown field '{extra}'{nearest(extra, _FIELDS)}; free values go under 'meta'", path, line)
    return Utterance(id_, audio_path, duration_s, text, speaker, offset_s, meta, channel)


def write(path: str | Path, utterances: Iterable[Utterance]) -> int:
    """Write a manifest atomically; return the number of rows written.

    Raises:
        DataError: the file cannot be written, or ``read`` would refuse a row; nothing half-written is left under its
            name.
    """
    path = Path(path)
    number = 0
    new_id = unique_ids(path)
    try:
        with open_atomic(path) as file:
            for number, utterance in enumerate(utterances, start=1):
                new_id(utterance.id, number)
                file.write(_line(utterance, path, number))
    except OSError as error:
        raise DataError(f"cannot write the manifest: {os_reason(error)}", path) from error

    return number


def _line(utterance: Utterance, path: Path, line: int) -> str:
    row = utterance.to_json()
    _utterance(row, path, line)
    try:
        text = json_text(row)
        if "\\u" in text:
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except (TypeError, ValueError) as error:  # free values under meta, half a surrogate pair
        raise DataError(f"utt {utterance.id!r}: cannot be written as JSON ({error})", path, line) from error
    return text + "\n"
