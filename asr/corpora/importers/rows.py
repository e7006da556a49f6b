"""From rows to manifests: what every importer shares.

An importer reads its form into rows. Here the header of every audio file is read, in threads; what cannot be used is
left out with the reason; and the manifests are written. The audio stays where it is.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from asr.corpora.recipe import Prepared, Request, check_own, held_out_speakers, write_splits
from asr.data import audio
from asr.data.lines import numbered_lines
from asr.data.manifest import Channel, Utterance
from asr.errors import ConfigError, DataError
from asr.files import folders_in
from asr.heartbeat import counted

log = logging.getLogger(__name__)

#: headers read at once: more than cores, as they wait for a disk or a network
THREADS = 8
#: as in audio.load: durations in tables are rounded, and a codec's padding moves the end
SLACK_S = 0.02
#: what every importer takes
OPTIONS = ("dev", "name", "mix", "channel", "keep_truncated")
#: of a path that leads to another machine; Path makes one slash of two
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
#: up to the path, of one that does not
_FILE_URL = re.compile(r"file:(//(localhost)?)?/(?!/)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One utterance as its source has it, before its audio was looked at.

    Units: seconds; ``duration_s`` is None when it goes on to the end of the file. ``channel``: what the source takes of
    a recording with several; None: as ``--mix`` or ``--channel`` says.
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    offset_s: float = 0.0
    duration_s: float | None = None
    meta: dict[str, Any] | None = None
    channel: Channel | None = None


@dataclass(frozen=True)
class Found:
    """What an importer read for one split: rows, and what it left out with the reasons."""

    rows: list[Row]
    dropped: dict[str, str]
    #: the file or folder that it was read from
    source: Path


def write_rows(request: Request, splits: Mapping[str, Found]) -> Prepared:
    """A manifest for each split; with ``dev``, that share of train's speakers goes into ``dev``.

    Raises:
        ConfigError: an option does not fit what is there, or a manifest would overwrite its source, or one that was
            not prepared.
        DataError: nothing of a split can be used.
    """
    fraction = _fraction(request.options.get("dev", ""))
    channel, keep_truncated = _channel(request.options), bool(request.options.get("keep_truncated"))
    found = _named(request, splits, with_dev=fraction is not None)
    names = [*found, *(["dev"] if fraction is not None else [])]
    targets = [request.out / f"{name}.jsonl" for name in names]
    for target, one in itertools.product(targets, found.values()):
        if target.exists() and one.source.exists() and target.samefile(one.source):
            raise ConfigError(f"{target} would overwrite what it is made from; give another --out or --name")
    check_own(request.out, names)
    utterances: dict[str, list[Utterance]] = {}
    dropped: dict[str, str] = {}
    for name, one in found.items():
        lost = dict(one.dropped)
        utterances[name] = measure(one.rows, request.out, lost, channel, keep_truncated)
        if not utterances[name]:
            first = "there are none" if not lost else "; ".join(f"{id_}: {why}" for id_, why in [*lost.items()][:1])
            raise DataError(f"no utterance can be used ({len(lost):,} left out; the first: {first})", one.source)
        dropped |= {id_ if len(found) == 1 else f"{name}/{id_}": why for id_, why in lost.items()}
    if fraction is not None:
        utterances["train"], utterances["dev"] = hold_out(utterances["train"], fraction)
    return write_splits(request.out, utterances, dropped)


def _fraction(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise ConfigError(f"--dev '{text}': expected a share between 0 and 1, for example 0.1")
    return value


def _channel(options: Mapping[str, str]) -> Channel | None:
    """What ``--mix`` or ``--channel`` asks for; None: neither is given."""
    mix, channel = options.get("mix", ""), options.get("channel", "")
    if mix and channel:
        raise ConfigError("--mix averages all channels, --channel takes one of them: give one of the two")
    if channel and not (channel.isdecimal() and int(channel) > 0):
        raise ConfigError(f"--channel '{channel}': expected a number from 1 on")
    return "mix" if mix else int(channel) if channel else None


def _named(request: Request, splits: Mapping[str, Found], with_dev: bool) -> dict[str, Found]:
    """The splits by the names of their manifests."""
    name = request.options.get("name", "")
    if name and not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"--name '{name}': expected a plain name, such as train")
    if len(splits) > 1 and name:
        raise ConfigError(f"--name is for one manifest, but {request.source} holds {len(splits)}: {', '.join(splits)}")
    if len(splits) == 1:
        own = next(iter(splits))
        splits = {name or ("train" if with_dev else own): splits[own]}
    if with_dev and ("train" not in splits or "dev" in splits):
        raise ConfigError(f"--dev takes from train what becomes dev, but here the manifests are {', '.join(splits)}")
    return dict(splits)


def hold_out(utterances: Sequence[Utterance], fraction: float) -> tuple[list[Utterance], list[Utterance]]:
    """The utterances without, and those of, a share of the speakers; of the utterances when speakers are unknown.

    Where some have a speaker and others have not, each of the others is drawn by itself.

    Raises:
        ConfigError: nothing is left for train.
        DataError: there is only one utterance.
    """
    if len(utterances) < 2:
        raise DataError("one utterance cannot be shared out between train and dev")
    speakers = {u.speaker for u in utterances} - {""}
    alone = [u.id for u in utterances if not u.speaker]
    if len(speakers) > 1:
        held = held_out_speakers(speakers, fraction, salt="dev")
        also = held_out_speakers(alone, fraction, salt="dev") if len(alone) > 1 else set()
        dev = {u.id for u in utterances if u.speaker in held} | also
        log.info("dev: %d of %d speakers", len(held), len(speakers))
        if alone:
            log.warning("%d utterances have no speaker: %d are in dev, whoever speaks them", len(alone), len(also))
    else:
        dev = held_out_speakers([u.id for u in utterances], fraction, salt="dev")
        why = "one speaker" if speakers else "speakers are not known"
        log.info("dev: %d of %d utterances (%s)", len(dev), len(utterances), why)
    if len(dev) == len(utterances):
        raise ConfigError(f"--dev {fraction:g} takes all {len(dev)} utterances; nothing is left to train on")
    return [u for u in utterances if u.id not in dev], [u for u in utterances if u.id in dev]


def measure(
    rows: Sequence[Row],
    out: Path,
    dropped: dict[str, str],
    channel: Channel | None = None,
    keep_truncated: bool = False,
) -> list[Utterance]:
    """The utterances of the rows whose audio can be used; the others go into ``dropped`` with the reason.

    Args:
        channel: what to read of files with several channels where a row does not say.
        keep_truncated: rows whose audio is cut stay, as long as what there is of it.

    Units: durations in seconds, of what the files hold; audio paths are absolute, or relative when below ``out``.
    """
    headers = _headers(row.audio for row in rows if row.text.strip())
    utterances = []
    for row in rows:
        header = headers.get(row.audio, "no text")
        is_mono = isinstance(header, audio.AudioInfo) and header.channels == 1
        wanted = channel if row.channel is None or is_mono else row.channel
        if not row.text.strip():
            why = "no text"
        elif isinstance(header, str):
            why = header
        else:
            why = _problem(row, header, wanted, keep_truncated)
        if why:
            dropped[row.id] = why
            continue
        assert isinstance(header, audio.AudioInfo)  # else there is a reason
        left_s = header.duration_s - row.offset_s
        duration_s = round(left_s if row.duration_s is None else min(row.duration_s, left_s), 4)
        path, text = reference(row.audio, out), " ".join(row.text.split())
        recorded = wanted if header.channels > 1 else None
        utterances.append(
            Utterance(row.id, path, duration_s, text, row.speaker, row.offset_s, row.meta, channel=recorded)
        )
    return utterances


def _headers(paths: Iterable[Path]) -> dict[Path, audio.AudioInfo | str]:
    """What each file's header says, or why it cannot be used; each file is opened once."""
    distinct = list(dict.fromkeys(paths))
    if distinct:
        log.info("reading the headers of %s audio files", f"{len(distinct):,}")
    found: dict[Path, audio.AudioInfo | str] = {}
    pool = ThreadPoolExecutor(THREADS)
    try:
        with counted("headers of audio files", len(distinct)) as advance:
            for path, header in zip(distinct, pool.map(_header, distinct), strict=True):
                found[path] = header
                advance(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _header(path: Path) -> audio.AudioInfo | str:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "the file's name is not UTF-8, so no manifest can hold it; rename it"
    if _URL.match(str(path)):
        return f"{path}: a URL, and an import downloads nothing; fetch the file, and name it where it is"
    if path.is_symlink() and not path.exists():
        return f"{path}: a link to {path.readlink()}, which is not there"
    try:
        return audio.info(path, keep_truncated=True)
    except DataError as error:
        return str(error)


def _problem(row: Row, header: audio.AudioInfo, channel: Channel | None, keep_truncated: bool) -> str:
    """Why the row's part of its file cannot be used; empty when it can."""
    if header.channels > 1 and channel is None:
        return f"{row.audio}: {header.channels} channels, expected 1; add --mix (their average) or --channel N"
    if isinstance(channel, int) and channel > header.channels:
        return f"{row.audio}: channel {channel} is wanted, the audio has {header.channels}"
    if not header.num_samples:
        return f"{row.audio}: no samples"
    if row.offset_s and row.offset_s >= header.duration_s:
        return f"starts at {row.offset_s:.2f} s, but the file ends at {header.duration_s:.2f} s"
    beyond = row.duration_s is not None and row.offset_s + row.duration_s > header.duration_s + SLACK_S
    if header.truncated and (beyond or row.duration_s is None):
        if not keep_truncated:
            return f"{row.audio}: {header.truncated}, or add --keep-truncated"
        log.warning("%s: %s: kept, %.2f s of it", row.id, row.audio, header.duration_s - row.offset_s)
    elif row.duration_s is not None and beyond:
        return f"ends at {row.offset_s + row.duration_s:.2f} s, but the file at {header.duration_s:.2f} s"
    if round(header.duration_s - row.offset_s if row.duration_s is None else row.duration_s, 4) <= 0:
        return "no length"
    return ""


def reference(path: Path, out: Path) -> str:
    """How a manifest in ``out`` names a file: relative when it is below, else absolute."""
    whole, folder = _absolute(path), _absolute(out)
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)


def local_path(text: str) -> str:
    """The path in a table as a path of this machine: of a ``file://`` URL, or with ``~`` for a home folder.

    >>> local_path("file:///data/a%20b.wav"), local_path("a~b.wav")
    ('/data/a b.wav', 'a~b.wav')
    """
    if url := _FILE_URL.match(text):
        return url2pathname(text[url.end() - 1 :])
    return os.path.expanduser(text)  # noqa: PTH111 - Path's is an error for a name like ~a.wav


def located(paths: Sequence[str], folder: Path, source: Path) -> list[Path]:
    """Where the paths of a table lead: relative ones are tried against its folder, that one's parent, here, and the
    folders in its folder (``clips``, ``wavs``).

    The first of them under which any file is found holds for all, and is said. A URL stays what it is.

    Raises:
        DataError: there are relative paths, and none of them leads to a file.
    """
    relative = [path for path in paths if not Path(path).is_absolute() and not _URL.match(path)]
    bases = [_absolute(base) for base in (folder, _absolute(folder).parent, Path())]
    base = next((b for path in relative for b in bases if _is_file(b / path)), None)
    if relative and base is None:
        # tables that name their clips alone; few of each, for there may be thousands of folders
        inner = [one for one in folders_in(folder) if one not in bases]
        base = next((_absolute(b) for path in relative[:10] for b in inner if _is_file(b / path)), None)
    if relative and base is None:
        tried = ", ".join(dict.fromkeys(map(str, bases)))
        raise DataError(
            f"none of {len(relative):,} relative audio paths leads to a file (tried from {tried} and the folders in "
            f"the first; the first path: '{relative[0]}'); make them absolute, or run this where they begin",
            source,
        )
    if base is not None:
        log.info("%s: relative audio paths are taken from %s", source, base)
    # an absolute path stays what it is
    return [Path(path) if _URL.match(path) else _absolute((base or Path()) / path) for path in paths]


def _absolute(path: Path) -> Path:
    """Links are resolved only where ``..`` asks for it: a link may be the name that is meant to last."""
    try:
        return path.resolve() if ".." in path.parts else path.absolute()
    except ValueError:  # a NUL in it: no file has such a name
        return path.absolute()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the system, or with a NUL in it
        return False


def ids_of(paths: Sequence[str]) -> list[str]:
    """Ids from the names of audio files: without suffix, with the folders where the same name comes in several.

    >>> ids_of(["/x/a.wav", "/x/b.wav"]), ids_of(["/x/m/1.wav", "/x/f/1.wav"])
    (['a', 'b'], ['m/1', 'f/1'])
    """
    bare = [os.path.splitext(path)[0].strip("/") or path for path in paths]  # noqa: PTH122 - takes any text
    short = [name.rpartition("/")[2] or name for name in bare]
    if len(set(short)) == len(set(bare)):
        return short
    top = os.path.commonpath([name.rpartition("/")[0] for name in bare])
    return [name.removeprefix(f"{top}/") for name in bare]


def numbered(ids: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The ids, where one that comes again, or is taken, gets a number.

    >>> numbered(["a", "b", "a", "a-2", "a"])
    ['a', 'b', 'a-2', 'a-2-2', 'a-3']
    >>> numbered(["a", "b"], taken=["a"])
    ['a-2', 'b']
    """
    taken = set(taken)
    last: dict[str, int] = {}  # the number to go on from, else many of one name take for ever
    found = []
    for id_ in ids:
        number, chosen = last.get(id_, 1), id_
        while chosen in taken:
            number += 1
            chosen = f"{id_}-{number}"
        taken.add(chosen)
        last[id_] = number
        found.append(chosen)
    return found


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file that are not blank, without white space at their ends, with their numbers.

    Raises:
        DataError: the file cannot be read, or is not UTF-8; path and line are named.
    """
    for number, line in numbered_lines(path):
        yield number, line.strip(" \t\r\n")
