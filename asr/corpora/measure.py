"""Rows of a source become utterances: the header of every audio file is read, and what cannot be used is left out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.corpora.paths import is_url, reference
from asr.data import audio
from asr.data.audio import AudioInfo
from asr.data.manifest import Channel, Utterance
from asr.data.places import why_outside
from asr.errors import DataError, os_reason
from asr.heartbeat import counted
from asr.sound.recording import SLACK_S

log = logging.getLogger(__name__)

#: headers read at once: more than cores, as they wait for a disk or a network
THREADS = 8


@dataclass(frozen=True)
class Row:
    """One utterance as its source has it, before its audio was looked at.

    Units: seconds; ``duration_s`` is None if the utterance goes on to the end of the file. ``channel``: what the source
    takes of a recording with several; None: as ``--mix`` or ``--channel`` says.
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    offset_s: float = 0.0
    duration_s: float | None = None
    meta: dict[str, Any] | None = None
    channel: Channel | None = None


def measure(
    rows: Sequence[Row],
    out: Path,
    dropped: dict[str, str],
    channel: Channel | None = None,
    keep_truncated: bool = False,
) -> list[Utterance]:
    """Return the utterances of the rows whose audio can be used; the others go into ``dropped`` with the reason.

    Args:
        channel: what to read of files with several channels if a row does not say.
        keep_truncated: keep rows whose audio is cut, as long as what there is of it.

    Units: durations in seconds, of what the files hold; audio paths are absolute, or relative when below ``out``.
    """
    headers = _read_headers(row.audio for row in rows if row.text.strip())
    utterances = []
    for row in rows:
        header = headers.get(row.audio, "no text") if row.text.strip() else "no text"
        if isinstance(header, str):
            dropped[row.id] = header
            continue
        wanted = channel if row.channel is None or header.channels == 1 else row.channel
        if problem := _problem(row, header, wanted, keep_truncated):
            dropped[row.id] = problem
            continue

        left_s = header.duration_s - row.offset_s
        utterance = Utterance(
            id=row.id,
            audio_path=reference(row.audio, out),
            duration_s=round(left_s if row.duration_s is None else min(row.duration_s, left_s), 4),
            text=" ".join(row.text.split()),
            speaker=row.speaker,
            offset_s=row.offset_s,
            meta=row.meta,
            channel=wanted if header.channels > 1 else None,
        )
        utterances.append(utterance)

    return utterances


def _read_headers(paths: Iterable[Path]) -> dict[Path, AudioInfo | str]:
    """Return each file's header, or why it cannot be used; each file is opened once."""
    distinct = list(dict.fromkeys(paths))
    if distinct:
        log.info("reading the headers of %s audio files", f"{len(distinct):,}")
    found: dict[Path, AudioInfo | str] = {path: f"{path} {why}" for path in distinct if (why := why_outside(path))}
    distinct = [path for path in distinct if path not in found]
    pool = ThreadPoolExecutor(THREADS)

    try:
        with counted("headers of audio files", len(distinct)) as advance:
            for path, header in zip(distinct, pool.map(_read_header, distinct), strict=True):
                found[path] = header
                advance(1)
    finally:
        pool.shutdown(cancel_futures=True)

    return found


def _read_header(path: Path) -> AudioInfo | str:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "the file's name is not UTF-8, so no manifest can hold it; rename it"

    if is_url(path):
        return f"{path}: a URL, and an import downloads nothing; fetch the file, and name it where it is"

    try:
        if path.is_symlink() and not path.exists():
            return f"{path}: a link to {path.readlink()}, which is not there"
        return audio.info(path, keep_truncated=True)
    except DataError as error:
        return str(error)
    except OSError as error:  # a name that is too long, a folder without permission
        return f"{path}: cannot be read: {os_reason(error)}"


def _problem(row: Row, header: AudioInfo, channel: Channel | None, keep_truncated: bool) -> str:
    """Return why the row's part of its file cannot be used; empty if it can."""
    if header.channels > 1 and channel is None:
        return f"{row.audio}: {header.channels} channels, expected 1; add --mix (their average) or --channel N"
    if isinstance(channel, int) and channel > header.channels:
        return f"{row.audio}: channel {channel} is wanted, the audio has {header.channels}"
    if not header.num_samples:
        return f"{row.audio}: no samples"
    if row.offset_s and row.offset_s >= header.duration_s:
        return f"starts at {row.offset_s:.2f} s, but the file ends at {header.duration_s:.2f} s"

    left_s = header.duration_s - row.offset_s
    is_beyond = row.duration_s is not None and row.duration_s > left_s + SLACK_S
    if header.truncated and (is_beyond or row.duration_s is None):
        if not keep_truncated:
            return f"{row.audio}: {header.truncated}, or add --keep-truncated"
        log.warning("%s: %s: kept, %.2f s of it", row.id, row.audio, left_s)
    elif row.duration_s is not None and is_beyond:
        return f"ends at {row.offset_s + row.duration_s:.2f} s, but the file at {header.duration_s:.2f} s"

    duration_s = left_s if row.duration_s is None else row.duration_s
    return "" if round(duration_s, 4) > 0 else "no length"
