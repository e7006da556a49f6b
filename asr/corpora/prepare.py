"""``asr prepare``: one way from a recipe to a data folder.

The recipe returns its utterances. Their texts are normalised, the splits checked and the tokenizer trained before
anything is written, so a manifest on disk is final. The header comes last: a folder that has one is whole. A folder
may be filled split by split, as importers do; the header then describes all splits that are there.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from asr.corpora.recipe import Corpus, Recipe, Request
from asr.corpora.texts import Splits, choose_tokenizer, normalize_splits, same
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.prepared import Header
from asr.data.subwords import SubwordKind
from asr.data.text import has_digits
from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import FILE as TOKENIZER_FILE
from asr.errors import ConfigError, DataError, os_reason
from asr.files import existing_parent, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A whole data folder: its manifests and header, what was left out, and what a person should know of it."""

    manifests: Mapping[str, Path]
    utterances: Splits
    dropped: Mapping[str, str]
    excluded: Mapping[str, str]
    #: other files for a person to use, by name: a tokenizer, a language model
    files: Mapping[str, Path]
    header: Header
    notes: list[str]

    def summary(self) -> list[str]:
        """Return lines for people: one per split, what was left out, and the notes."""
        if not self.utterances and not self.dropped:  # files only
            return []

        lines = []
        for name, facts in self.header.splits.items():
            if name in self.utterances:
                count = facts["speakers"]
                speakers = f"{count:,} speaker{'s' if count > 1 else ''}" if count else "speakers not known"
                lines.append(f"{name}: {facts['utterances']:,} utterances, {facts['hours']:.2f} h, {speakers}")

        # a split can be the union of others, and two splits can have the same ids for different utterances
        kept = len({same(u) for rows in self.utterances.values() for u in rows})
        lines.append(f"kept {kept:,} of {kept + len(self.dropped):,}")
        lines += [f"left out on purpose {n:,}: {why}" for why, n in Counter(self.excluded.values()).most_common()]
        lines += [f"dropped {id_}: {why}" for id_, why in list(self.dropped.items())[:10]]
        if len(self.dropped) > 10:
            lines.append(f"… and {len(self.dropped) - 10:,} more (--json names all)")
        return lines + self.notes


def prepare(recipe: Recipe, request: Request) -> Prepared:
    """Prepare a dataset: audio, manifests, tokenizer and header.

    Raises:
        ConfigError: an option does not fit the recipe or the texts; or the folder was prepared under another profile,
            or holds files of these names that no preparation made.
        DataError: the corpus cannot be had or read, a split is empty, or two utterances of it have one id.
    """
    # what cannot work is refused before hours of download
    out = request.out
    check_request(recipe, request)
    _check_folder(out)
    before = _header_before(out)
    known = {} if before is None else dict(before.archives)
    request = replace(request, normalization=_profile(request, before), archives=known)

    # all that can fail comes before the first file is written, and leaves the folder as it was
    corpus: object = recipe.prepare(request)  # anybody's code: what it returns is checked
    if not isinstance(corpus, Corpus):
        got = type(corpus).__name__
        raise ConfigError(f"recipe {recipe.name}: prepare returned {got}, expected an asr.corpora.recipe.Corpus")
    profile = request.normalization or corpus.normalization or recipe.normalization
    splits, notes = normalize_splits(_sorted(corpus.splits, out), profile)
    _check_own(request, splits)
    tokenizer_file, tokenizer, tokenizer_notes = choose_tokenizer(request, splits.get("train"), before)

    kept = _kept_splits(out, splits, before)
    header = _header(recipe, corpus, splits, profile, tokenizer_file, kept, request.archives)
    files = dict(corpus.files)
    if tokenizer_file:
        files["tokenizer"] = out / tokenizer_file
    paths = {name: out / f"{name}.jsonl" for name in splits}
    all_notes: list[str] = []
    if splits:  # a language model has none
        _warn_of_replaced(recipe, request, splits, before)
        _write(out, header, splits, tokenizer)
        all_notes = [
            f"text normalization: {profile}",
            *_shortfall(recipe, splits),
            *notes,
            *_note_on_digits(header),
            *tokenizer_notes,
        ]

    return Prepared(paths, splits, corpus.dropped, corpus.excluded, files, header, all_notes)


def check_request(recipe: Recipe, request: Request) -> None:
    """Refuse an option that the recipe would ignore.

    Raises:
        ConfigError: the recipe does not take an option that is given, or needs a source that is not.
        DataError: an archive is not there.
    """
    problem = ""
    if request.archive and not (recipe.archive or recipe.files):
        problem = "takes no --archive"
    elif len(request.archive) > 1 and not recipe.subsets:
        problem = f"takes one --archive, not {len(request.archive)}"
    elif request.mirror and not recipe.files:
        problem = "takes no --mirror: it downloads nothing"
    elif request.subsets and not recipe.subsets:
        problem = "takes no --subsets: it has none"
    elif request.sources and not recipe.source:
        problem = f"takes no source ('{request.sources[0]}'); archives are given with --archive"
    elif not request.sources and recipe.source:
        problem = f"wants a source: asr prepare {recipe.name} {recipe.source} --out data"
    elif len(request.sources) > 1 and not recipe.many_sources:
        problem = f"takes one source, not {len(request.sources)}"
    elif unknown := [key for key in request.options if key not in recipe.options]:
        problem = f"takes no --{unknown[0].replace('_', '-')}"
    elif not recipe.speech and (request.normalization or request.tokenizer):
        problem = "takes no --normalization and no --tokenizer: it makes no manifests"

    if problem:
        raise ConfigError(f"{recipe.name} {problem}")

    for path in request.archive:
        if not path.exists():
            raise DataError("no such file or folder", path)


def _check_folder(out: Path) -> None:
    """Refuse, before the work, a folder that could not be written after it."""
    there = existing_parent(out)
    if not there.is_dir():
        raise ConfigError(f"--out {out}: {there} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: cannot write in {there}: no permission, or a read-only file system")


def _header_before(out: Path) -> Header | None:
    try:
        return headers.read_unfinished(out)
    except DataError as error:  # it is about to be written anew
        log.warning("%s", error)
        return None


def _profile(request: Request, before: Header | None) -> str:
    """Return the profile that is asked for, or that of the folder; empty: the recipe's."""
    if before is None:
        return request.normalization
    if request.normalization not in ("", before.normalization):
        paths = (request.out / headers.FILE, request.out / headers.UNFINISHED)
        raise ConfigError(
            f"{request.out} was prepared with text normalization {before.normalization}, not {request.normalization}; "
            f"take another --out, leave out --normalization, or remove {next(p for p in paths if p.exists())} and the "
            "manifests to prepare all of it anew"
        )

    return before.normalization


def _sorted(splits: Splits, out: Path) -> dict[str, list[Utterance]]:
    """Return the splits sorted by id."""
    rows = {name: sorted(utterances, key=lambda u: u.id) for name, utterances in splits.items()}
    empty = [name for name, utterances in rows.items() if not utterances]
    if empty:
        raise DataError(f"nothing left for {', '.join(empty)}: is this the right archive?", out)

    for name, utterances in rows.items():
        for one, next_one in itertools.pairwise(utterances):
            if one.id == next_one.id:
                paths = " and ".join(dict.fromkeys([one.audio_path, next_one.audio_path]))
                raise DataError(f"two utterances of {name} have the id '{one.id}' ({paths}); ids must be unique", out)

    return rows


def _check_own(request: Request, splits: Splits) -> None:
    """Refuse to write over a file that was not prepared here."""
    names = [f"{name}.jsonl" for name in splits]
    if request.tokenizer in get_args(SubwordKind) or request.tokenizer_model:
        names.append(TOKENIZER_FILE)
    for name in names:
        path = request.out / name
        if path.exists() and not headers.is_own(request.out, name):
            raise ConfigError(f"{path} is there, and no 'asr prepare' made it; give another --out, or move it away")


def _kept_splits(out: Path, splits: Splits, before: Header | None) -> dict[str, dict[str, float | int]]:
    """Return what the earlier header says of the splits that stay."""
    earlier = {} if before is None else before.splits
    others = {name: facts for name, facts in earlier.items() if name not in splits}
    kept = {name: facts for name, facts in others.items() if (out / f"{name}.jsonl").is_file()}

    missing = ", ".join(name for name in others if name not in kept)
    if missing and (out / headers.UNFINISHED).exists():
        log.warning("%s: the 'asr prepare' of %s did not finish; run that one again", out, missing)
    return kept


def _header(
    recipe: Recipe,
    corpus: Corpus,
    splits: Splits,
    profile: str,
    tokenizer: str,
    kept: Mapping[str, dict[str, float | int]],
    archives: Mapping[str, str],
) -> Header:
    # an utterance may be in several manifests: that of a subset, and train
    texts = {same(u) for rows in splits.values() for u in rows if has_digits(u.text)}
    return Header(
        recipe=recipe.name,
        title=recipe.title,
        licence=recipe.licence,
        homepage=recipe.homepage,
        normalization=profile,
        tokenizer=tokenizer,
        splits={name: headers.split_facts(rows) for name, rows in splits.items()} | dict(kept),
        dropped=len(corpus.dropped),
        flagged_numbers=len(texts) + sum(int(facts.get("with_digits", 0)) for facts in kept.values()),
        archives=dict(archives),
    )


def _write(out: Path, header: Header, splits: Splits, tokenizer: Tokenizer | None) -> None:
    """Write tokenizer, manifests and header, in this order: a manifest that is there has its tokenizer beside it."""
    replaced = [f"{name}.jsonl" for name in splits]
    if tokenizer is not None or (not header.tokenizer and headers.is_own(out, TOKENIZER_FILE)):
        replaced.append(TOKENIZER_FILE)
    try:
        headers.begin(out, header, replaced)
        if tokenizer is not None:
            write_json(out / TOKENIZER_FILE, tokenizer.to_json())
    except OSError as error:
        raise DataError(f"cannot write: {os_reason(error)}", out) from error

    for name, rows in splits.items():
        manifests.write(out / f"{name}.jsonl", rows)
    headers.write(out, header)


def _warn_of_replaced(recipe: Recipe, request: Request, splits: Splits, before: Header | None) -> None:
    """Warn of splits of another recipe that are replaced, and of utterances that are in train and in dev or test."""
    if before is None:
        return
    replaced = [name for name in before.splits if name in splits]
    if before.recipe != recipe.name and replaced:
        log.warning("%s: %s of %s is replaced", request.out, ", ".join(replaced), before.title)

    for old in before.splits:
        path = request.out / f"{old}.jsonl"
        pairs = [name for name in splits if {name, old} in ({"train", "dev"}, {"train", "test"})]
        if old in splits or not pairs or not path.is_file():
            continue
        there = {same(u) for u in manifests.read(path)}
        for new in pairs:
            if count := sum(same(u) in there for u in splits[new]):
                log.warning(
                    "%s: %s of its utterances are in %s, too, which was prepared before: prepare both together, "
                    "or remove it",
                    request.out / f"{new}.jsonl",
                    f"{count:,}",
                    path.name,
                )


def _shortfall(recipe: Recipe, splits: Splits) -> list[str]:
    """Return a line for each manifest with another number of utterances than the published corpus has."""
    lines = []
    for name, published in recipe.utterances.items():
        if name in splits and len(splits[name]) != published:
            found = len(splits[name])
            lines.append(f"{name}: {found:,} utterances, {published:,} are published: is all of the corpus there?")
    return lines


def _note_on_digits(header: Header) -> list[str]:
    counts = {name: int(facts.get("with_digits", 0)) for name, facts in header.splits.items()}
    where = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    if not where:
        return []
    return [f"numbers: {header.flagged_numbers:,} texts hold digits ({where}); write them as they are spoken"]
