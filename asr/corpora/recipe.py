"""From a corpus archive to manifests: what every recipe shares.

A recipe is a folder with ``recipe.py`` (a ``RECIPE`` of facts and a ``prepare`` function) and ``conf/*.yaml``;
``asr.corpora.catalogue`` finds it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from asr.data import prepared as headers
from asr.data.manifest import Utterance, write
from asr.download.remote import Remote
from asr.errors import ConfigError, DataError


@dataclass(frozen=True)
class Request:
    """What a person asks of ``asr prepare``."""

    out: Path
    #: --archive: corpus archives or folders that are already on this machine
    archive: tuple[Path, ...] = ()
    #: --mirror: a URL (http, https, file) in place of the corpus's host; the relative URLs are the same
    mirror: str = ""
    #: --subsets; empty: the recipe's default
    subsets: tuple[str, ...] = ()
    #: the positional SOURCE of importers: a folder or a file
    source: Path | None = None
    #: what only some recipes and importers take, by the option's name with underscores: ``audio_column``, ``dev``
    options: Mapping[str, str] = field(default_factory=dict)
    #: SOURCEs after the first
    more_sources: tuple[Path, ...] = ()
    #: the profile that the texts will go through, where it is known before: --normalization, or the folder's
    normalization: str = ""


@dataclass(frozen=True)
class Recipe:
    """The facts of a dataset, and the function that prepares it.

    ``prepare(request)`` writes audio and manifests under ``request.out`` and returns what it wrote. ``perform`` calls
    it, after a look at whether the recipe takes what is asked.
    """

    name: str
    title: str
    hours: float
    sample_rate_hz: int
    licence: str
    homepage: str
    prepare: Callable[[Request], Prepared]
    #: what to pass as --archive, and where to get it; empty when the recipe needs none
    archive: str = ""
    #: what can be downloaded; a recipe with files takes --mirror, and --archive for each of them
    files: tuple[Remote, ...] = ()
    #: what is prepared when no --subsets are asked for; empty: all that ``files`` name
    default_subsets: tuple[str, ...] = ()
    #: keys of ``Request.options`` that it takes
    options: tuple[str, ...] = ()
    #: what the positional SOURCE is (``"DIR"``, ``"FILE"``); empty when the recipe takes none
    source: str = ""
    #: whether it takes several
    many_sources: bool = False
    #: the profile of ``asr.data.text`` that its texts go through when no --normalization is asked for
    normalization: str = "none"
    #: whether it makes manifests; without any (a language model) there is nothing to normalise or make tokens of
    speech: bool = True
    #: how many utterances the published corpus has, by manifest or subset, where that is known
    utterances: Mapping[str, int] = field(default_factory=dict)

    @property
    def subsets(self) -> tuple[str, ...]:
        """The names that --subsets takes, in the order of the files."""
        return tuple(dict.fromkeys(file.subset for file in self.files if file.subset))


@dataclass(frozen=True)
class Prepared:
    """What a preparation wrote: a manifest for each split, and what was left out with the reasons."""

    manifests: dict[str, Path]
    utterances: dict[str, list[Utterance]]
    #: what could not be used
    dropped: dict[str, str]
    #: other files that it wrote for a person to use, by name (a language model)
    files: dict[str, Path] = field(default_factory=dict)
    #: the profile that the texts had gone through before; empty: none
    normalization: str = ""
    #: what the corpus or the recipe leaves out on purpose
    excluded: dict[str, str] = field(default_factory=dict)

    def summary(self) -> list[str]:
        """One line a split: rows, hours, speakers; and one line on what was dropped."""
        if not self.utterances and not self.dropped:  # files only
            return []
        lines = []
        for name, rows in self.utterances.items():
            hours = sum(u.duration_s for u in rows) / 3600
            count = len({u.speaker for u in rows} - {""})
            speakers = f"{count:,} speaker{'s' if count > 1 else ''}" if count else "speakers not known"
            lines.append(f"{name}: {len(rows):,} utterances, {hours:.2f} h, {speakers}")
        # a split can be the union of others; two can have the same ids for different ones
        kept = len({same(u) for rows in self.utterances.values() for u in rows})
        lines.append(f"kept {kept:,} of {kept + len(self.dropped):,}")
        lines += [f"left out on purpose {n:,}: {why}" for why, n in Counter(self.excluded.values()).most_common()]
        lines += [f"dropped {id_}: {why}" for id_, why in list(self.dropped.items())[:10]]
        if len(self.dropped) > 10:
            lines.append(f"… and {len(self.dropped) - 10:,} more (--json names all)")
        return lines


def shortfall(recipe: Recipe, prepared: Prepared) -> list[str]:
    """A line for each manifest with another number of utterances than the published corpus has."""
    lines = []
    for name, published in recipe.utterances.items():
        found = len(prepared.utterances.get(name, []))
        if name in prepared.utterances and found != published:
            lines.append(f"{name}: {found:,} utterances, {published:,} are published: is all of the corpus there?")
    return lines


def same(utterance: Utterance) -> tuple[object, ...]:
    """What two rows have in common that are of one utterance, in whatever manifests."""
    return utterance.id, utterance.audio_path, utterance.offset_s, utterance.channel


def perform(recipe: Recipe, request: Request) -> Prepared:
    """Prepares a dataset; an option that the recipe would ignore is an error.

    Raises:
        ConfigError: the recipe does not take an option that is given, or wants a source that is not.
    """
    if request.archive and not (recipe.archive or recipe.files):
        raise ConfigError(f"{recipe.name} takes no --archive")
    if len(request.archive) > 1 and not recipe.subsets:
        raise ConfigError(f"{recipe.name} takes one --archive, not {len(request.archive)}")
    if request.mirror and not recipe.files:
        raise ConfigError(f"{recipe.name} takes no --mirror: it downloads nothing")
    if request.subsets and not recipe.subsets:
        raise ConfigError(f"{recipe.name} takes no --subsets: it has none")
    if request.source is not None and not recipe.source:
        raise ConfigError(f"{recipe.name} takes no source ('{request.source}'); archives are given with --archive")
    if request.source is None and recipe.source:
        raise ConfigError(f"{recipe.name} wants a source: asr prepare {recipe.name} {recipe.source} --out data")
    if request.more_sources and not recipe.many_sources:
        raise ConfigError(f"{recipe.name} takes one source, not {1 + len(request.more_sources)}")
    for path in request.archive:
        if not path.exists():
            raise DataError("no such file or folder", path)
    for key in request.options:
        if key not in recipe.options:
            raise ConfigError(f"{recipe.name} takes no --{key.replace('_', '-')}")
    return recipe.prepare(request)


def write_splits(
    out: Path,
    splits: Mapping[str, Iterable[Utterance]],
    dropped: Mapping[str, str],
    excluded: Mapping[str, str] = MappingProxyType({}),
) -> Prepared:
    """Writes ``<split>.jsonl`` for each split under ``out``, sorted by id.

    Raises:
        ConfigError: there is a manifest of that name that no preparation made.
        DataError: a split is empty, or has two utterances of one id; before anything is written.
    """
    rows = {name: sorted(utterances, key=lambda u: u.id) for name, utterances in splits.items()}
    empty = [name for name, utterances in rows.items() if not utterances]
    if empty:
        raise DataError(f"nothing left for {', '.join(empty)}: is this the right archive?", out)
    for name, utterances in rows.items():
        for one, next_one in itertools.pairwise(utterances):
            if one.id == next_one.id:
                paths = " and ".join(dict.fromkeys([one.audio_path, next_one.audio_path]))
                raise DataError(f"two utterances of {name} have the id '{one.id}' ({paths}); ids must be unique", out)
    check_own(out, rows)
    # Until the header is written, the folder is not whole; one from before describes what is there now.
    headers.set_aside(out, rows)
    manifests = {}
    for name, utterances in rows.items():
        manifests[name] = out / f"{name}.jsonl"
        write(manifests[name], utterances)
    return Prepared(manifests, rows, dict(dropped), excluded=dict(excluded))


def check_own(out: Path, splits: Iterable[str]) -> None:
    """Refuses to write over a manifest that was not prepared here.

    Raises:
        ConfigError: one is there that is in no header.
    """
    for path in (out / f"{name}.jsonl" for name in splits):
        if path.exists() and not headers.is_own(out, path.name):
            raise ConfigError(f"{path} is there, and no 'asr prepare' made it; give another --out, or remove it")


def stable_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same on every machine and in every year.

    >>> round(stable_hash("fash"), 6)
    0.653517
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def held_out_speakers(speakers: Iterable[str], fraction: float, salt: str) -> set[str]:
    """The share of speakers with the smallest stable hash: adding a speaker moves at most one other."""
    ordered = sorted(set(speakers), key=lambda s: (stable_hash(f"{salt}/{s}"), s))
    return set(ordered[: max(1, round(fraction * len(ordered)))])
