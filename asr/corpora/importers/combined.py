"""Several prepared folders as one, to train on all of them; each row says in ``meta.corpus`` where it is from."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from asr.corpora.paths import reference
from asr.corpora.recipe import Corpus, Recipe, Request
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.lines import numbered
from asr.data.manifest import Utterance
from asr.data.prepared import Header
from asr.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
#: importers, which a header may name as its recipe: they name forms, not corpora
FORMS = ("kaldi", "nemo", "csv", "folder", "combined")


def prepare(request: Request) -> Corpus:
    """Return ``train``, ``dev`` and ``test`` of all folders together; a split that only one of them has, too.

    An id or a speaker that several corpora have gets the corpus in front.

    Raises:
        ConfigError: a folder comes twice, or is where the result would go; or the texts went through different
            normalizations, and none is asked for.
        DataError: a folder has no manifest of these names, or one that cannot be read.
    """
    folders = request.sources
    _check_folders(folders, request.out)
    found = [headers.read(folder) for folder in folders]
    names = numbered(_name(folder, header) for folder, header in zip(folders, found, strict=True))
    rows = {name: _rows(folder, name, request.out) for name, folder in zip(names, folders, strict=True)}
    profiles = {name: header.normalization if header else "none" for name, header in zip(names, found, strict=True)}
    _check_profiles(profiles, request.normalization)

    id_of = _distinct(rows, lambda u: u.id, "utterances have the id of one")
    speaker_of = _distinct(rows, lambda u: u.speaker, "speakers have the name of one")
    splits: dict[str, list[Utterance]] = {}
    for split in SPLITS:
        without = [name for name in names if split not in rows[name]]
        if len(without) == len(names):
            continue
        if without:
            log.info("%s: nothing of %s, which has none", split, ", ".join(without))
        splits[split] = [
            replace(u, id=id_of(name, u.id), speaker=speaker_of(name, u.speaker))
            for name in names
            for u in rows[name].get(split, [])
        ]

    return Corpus(splits, normalization=profiles[names[0]])


def _check_folders(folders: tuple[Path, ...], out: Path) -> None:
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if place == out.resolve():
            raise ConfigError(f"--out {out} is one of the folders that are to be combined; give another")
        if places.count(place) > 1:
            raise ConfigError(f"{folder} is named twice")
        if not place.is_dir():
            raise DataError("no such folder; combined takes folders that 'asr prepare' made", folder)


def _check_profiles(profiles: dict[str, str], asked: str) -> None:
    listed = ", ".join(f"{name} {profile}" for name, profile in profiles.items())
    if len(set(profiles.values())) > 1 and asked in ("", "none"):
        raise ConfigError(
            f"the texts went through different normalizations ({listed}): choose one for all, --normalization"
        )
    if asked == "none" and set(profiles.values()) != {"none"}:
        raise ConfigError(
            f"the texts went through a normalization already ({listed}), of which 'none' would say nothing: "
            "leave out --normalization, or take an --out that was not prepared with none"
        )


def _name(folder: Path, header: Header | None) -> str:
    """Return the recipe's name; for imported data the folder's, or that of its parent if it is called data."""
    if header is not None and header.recipe not in FORMS:
        return header.recipe
    place = folder.resolve()
    return place.parent.name if place.name == "data" and place.parent.name else place.name


def _rows(folder: Path, corpus: str, out: Path) -> dict[str, list[Utterance]]:
    """Return the utterances of each split that a folder has, with paths as seen from ``out``."""
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
    rows: dict[str, dict[str, list[Utterance]]], key: Callable[[Utterance], str], what: str
) -> Callable[[str, str], str]:
    """Return a function from corpus and label to the label among all corpora.

    Args:
        key: the label of an utterance: its id or its speaker.
        what: begins the line on labels that several corpora have.
    """
    corpora: dict[str, list[str]] = defaultdict(list)
    for corpus, splits in rows.items():
        for label in {key(u) for utterances in splits.values() for u in utterances} - {""}:
            corpora[label].append(corpus)

    shared = [(corpus, label) for label, names in sorted(corpora.items()) if len(names) > 1 for corpus in names]
    if shared:
        count = len({label for _, label in shared})
        log.info("%s %s in another corpus, and get their corpus in front", f"{count:,}", what)

    # a label with its corpus in front may be another one's own
    new = dict(zip(shared, numbered((f"{c}-{label}" for c, label in shared), taken=corpora), strict=True))
    return lambda corpus, label: new.get((corpus, label), label)


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
