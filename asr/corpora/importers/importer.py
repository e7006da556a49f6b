"""What every importer shares: it reads its source into rows, and here they become the splits of a corpus.

The audio stays where it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.corpora.measure import Row, measure
from asr.corpora.recipe import Corpus, Recipe, Request, held_out_speakers
from asr.data.manifest import Channel, Utterance
from asr.errors import ConfigError, DataError

log = logging.getLogger(__name__)

#: what every importer takes
OPTIONS = ("dev", "name", "mix", "channel", "keep_truncated")


@dataclass(frozen=True)
class Found:
    """Hold the rows that an importer read for one split, and what it left out with the reasons."""

    rows: list[Row]
    dropped: dict[str, str]
    #: the file or folder that it was read from
    source: Path


def importer(
    name: str,
    title: str,
    homepage: str,
    source: str,
    read: Callable[[Path, Mapping[str, str]], dict[str, Found]],
    options: tuple[str, ...] = (),
) -> Recipe:
    """Return the recipe of an importer.

    Args:
        source: what the positional SOURCE is, ``"DIR"`` or ``"FILE"``.
        read: reads a source with the options of the request; what it found, by the name of the manifest.
        options: what it takes besides ``OPTIONS``.
    """
    return Recipe(
        name=name,
        title=title,
        hours=0,
        sample_rate_hz=0,
        licence="that of the data",
        homepage=homepage,
        prepare=lambda request: collect(request, read(request.sources[0], request.options)),
        options=(*OPTIONS, *options),
        source=source,
    )


def collect(request: Request, splits: Mapping[str, Found]) -> Corpus:
    """Return the utterances of each split; with ``--dev``, that share of train's speakers goes into ``dev``.

    Raises:
        ConfigError: an option does not fit what is there.
        DataError: nothing of a split can be used.
    """
    fraction = _fraction(request.options.get("dev", ""))
    channel = _channel(request.options)
    keep_truncated = bool(request.options.get("keep_truncated"))
    found = _named(request, splits, with_dev=fraction is not None)

    utterances: dict[str, list[Utterance]] = {}
    dropped: dict[str, str] = {}
    for name, one in found.items():
        lost = dict(one.dropped)
        utterances[name] = measure(one.rows, request.out, lost, channel, keep_truncated)
        if not utterances[name]:
            first = next((f"{id_}: {why}" for id_, why in lost.items()), "there are none")
            raise DataError(f"no utterance can be used ({len(lost):,} left out; the first: {first})", one.source)
        for id_, why in lost.items():
            dropped[id_ if len(found) == 1 else f"{name}/{id_}"] = why

    if fraction is not None:
        utterances["train"], utterances["dev"] = hold_out(utterances["train"], fraction)
    return Corpus(utterances, dropped)


def _fraction(text: str) -> float | None:
    """Return the share that ``--dev`` asks for; None if it is not given."""
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
    """Return the channel that ``--mix`` or ``--channel`` asks for; None if neither is given."""
    mix = options.get("mix", "")
    channel = options.get("channel", "")
    if mix and channel:
        raise ConfigError("--mix averages all channels, --channel takes one of them: give one of the two")
    if channel and not (channel.isdecimal() and int(channel) > 0):
        raise ConfigError(f"--channel '{channel}': expected a number from 1 on")
    if mix:
        return "mix"
    return int(channel) if channel else None


def _named(request: Request, splits: Mapping[str, Found], with_dev: bool) -> dict[str, Found]:
    """Return the splits by the names that their manifests get."""
    name = request.options.get("name", "")
    if name and not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"--name '{name}': expected a plain name, such as train")
    if len(splits) > 1 and name:
        source = request.sources[0]
        raise ConfigError(f"--name is for one manifest, but {source} holds {len(splits)}: {', '.join(splits)}")

    if len(splits) == 1:
        own = next(iter(splits))
        splits = {name or ("train" if with_dev else own): splits[own]}
    if with_dev and ("train" not in splits or "dev" in splits):
        raise ConfigError(f"--dev takes from train what becomes dev, but here the manifests are {', '.join(splits)}")
    return dict(splits)


def hold_out(utterances: Sequence[Utterance], fraction: float) -> tuple[list[Utterance], list[Utterance]]:
    """Split utterances into those for train and, for dev, those of a share of the speakers.

    If there are not several speakers, a share of the utterances is taken. If some utterances have a speaker and others
    have none, each of the others is drawn by itself.

    Raises:
        ConfigError: nothing is left for train.
        DataError: there is only one utterance.
    """
    if len(utterances) < 2:
        raise DataError("one utterance cannot be shared out between train and dev")

    speakers = {u.speaker for u in utterances} - {""}
    if len(speakers) > 1:
        held = held_out_speakers(speakers, fraction, salt="dev")
        dev = {u.id for u in utterances if u.speaker in held}
        log.info("dev: %d of %d speakers", len(held), len(speakers))
        if alone := [u.id for u in utterances if not u.speaker]:
            drawn = held_out_speakers(alone, fraction, salt="dev") if len(alone) > 1 else set()
            dev |= drawn
            log.warning("%d utterances have no speaker: %d are in dev, whoever speaks them", len(alone), len(drawn))
    else:
        dev = held_out_speakers([u.id for u in utterances], fraction, salt="dev")
        why = "one speaker" if speakers else "speakers are not known"
        log.info("dev: %d of %d utterances (%s)", len(dev), len(utterances), why)

    if len(dev) == len(utterances):
        raise ConfigError(f"--dev {fraction:g} takes all {len(dev)} utterances; nothing is left to train on")
    return [u for u in utterances if u.id not in dev], [u for u in utterances if u.id in dev]
