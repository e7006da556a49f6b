"""Several prepared folders as one, to train on all of them; each row says in ``meta.corpus`` where it is from."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from asr.corpora.importers.rows import numbered, reference
from asr.corpora.recipe import Prepared, Recipe, Request, write_splits
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.prepared import Header
from asr.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
#: importers, in headers where recipes stand: they name forms, not corpora
FORMS = ("kaldi", "nemo", "csv", "folder", "combined")


def prepare(request: Request) -> Prepared:
    """``train``, ``dev`` and ``test`` of all folders together; what only one of them has, too.

    An id or a speaker that several corpora have gets the corpus in front.

    Raises:
        ConfigError: a folder comes twice, or is where the result would go; or the texts went through different
            normalizations, and none is asked for.
        DataError: a folder has no manifest of these names, or one that cannot be read.
    """
    assert request.source is not None  # asr.corpora.recipe.perform asks for one
    folders = [request.source, *request.more_sources]
    _check(folders, request.out)
    found = [headers.read(folder) for folder in folders]
    names = numbered(_name(folder, header) for folder, header in zip(folders, found, strict=True))
    rows = {name: _rows(folder, name, request.out) for name, folder in zip(names, folders, strict=True)}
    profiles = {name: header.normalization if header else "none" for name, header in zip(names, found, strict=True)}
    said = ", ".join(f"{name} {profile}" for name, profile in profiles.items())
    if len(set(profiles.values())) > 1 and request.normalization in ("", "none"):
        raise ConfigError(
            f"the texts went through different normalizations ({said}): choose one for all, --normalization"
        )
    if request.normalization == "none" and set(profiles.values()) != {"none"}:
        raise ConfigError(
            f"the texts went through a normalization already ({said}), of which 'none' would say nothing: "
            "leave out --normalization, or take an --out that was not prepared with none"
        )
    id_of = _distinct(rows, lambda u: u.id, "utterances have the id of one")
    speaker_of = _distinct(rows, lambda u: u.speaker, "speakers have the name of one")
    splits: dict[str, list[Utterance]] = defaultdict(list)
    for name, own in rows.items():
        for split, utterances in own.items():
            splits[split] += [replace(u, id=id_of(name, u.id), speaker=speaker_of(name, u.speaker)) for u in utterances]
    for split in (split for split in SPLITS if split in splits):
        without = [name for name in names if split not in rows[name]]
        if without:
            log.info("%s: nothing of %s, which has none", split, ", ".join(without))
    prepared = write_splits(request.out, {split: splits[split] for split in SPLITS if split in splits}, {})
    return replace(prepared, normalization=next(iter(profiles.values())))


def _check(folders: list[Path], out: Path) -> None:
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if place == out.resolve():
            raise ConfigError(f"--out {out} is one of the folders that are to be combined; give another")
        if places.count(place) > 1:
            raise ConfigError(f"{folder} is named twice")
        if not place.is_dir():
            raise DataError("no such folder; combined takes folders that 'asr prepare' made", folder)


def _name(folder: Path, header: Header | None) -> str:
    """The recipe's name; what was imported is named like its folder, or that one's parent where it is called data."""
    if header is not None and header.recipe not in FORMS:
        return header.recipe
    place = folder.resolve()
    return place.parent.name if place.name == "data" and place.parent.name else place.name


def _rows(folder: Path, corpus: str, out: Path) -> dict[str, list[Utterance]]:
    """The utterances of each split that a folder has, with paths as seen from ``out``."""
    found = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if path.exists():
            manifest = manifests.read(path)
            found[split] = [
                replace(u, audio_path=reference(manifest.audio_path(u), out), meta={"corpus": corpus} | (u.meta or {}))
                for u in manifest
            ]
    if not found:
        raise DataError(f"holds none of {', '.join(f'{split}.jsonl' for split in SPLITS)}; prepare it first", folder)
    return found


def _distinct(
    rows: dict[str, dict[str, list[Utterance]]], key: Callable[[Utterance], str], said: str
) -> Callable[[str, str], str]:
    """What a label of a corpus is called among all corpora."""
    corpora: dict[str, set[str]] = defaultdict(set)
    for corpus, own in rows.items():
        for label in _labels(own.values(), key):
            corpora[label].add(corpus)
    shared = {label for label, names in corpora.items() if label and len(names) > 1}
    if shared:
        log.info("%s %s in another corpus, and get their corpus in front", f"{len(shared):,}", said)
    new: dict[tuple[str, str], str] = {}
    taken = set(corpora)
    for label in sorted(shared):
        for corpus in (name for name in rows if name in corpora[label]):
            wanted = f"{corpus}-{label}"  # which may be another's own
            free = (f"{wanted}-{number}" for number in itertools.count(2))
            new[corpus, label] = wanted if wanted not in taken else next(one for one in free if one not in taken)
            taken.add(new[corpus, label])
    return lambda corpus, label: new.get((corpus, label), label)


def _labels(splits: Iterable[list[Utterance]], key: Callable[[Utterance], str]) -> set[str]:
    return {key(u) for utterances in splits for u in utterances}


COMBINED = Recipe(
    name="combined",
    title="several prepared folders",
    hours=0,
    sample_rate_hz=0,
    licence="those of the data",
    homepage="",
    prepare=prepare,
    source="DIR DIR",
    many_sources=True,
)
