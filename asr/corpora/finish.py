"""The last part of ``asr prepare``: normalises the texts, trains a tokenizer, and writes the header.

The header is written last: a folder that has one is whole. A folder may be filled split by split (importers do it so);
the header then describes all splits that are there.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from asr.corpora.recipe import Prepared, Recipe, Request, perform, same, shortfall
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.prepared import Header
from asr.data.text import check_profile, has_digits, normalize, spoken_signs_lost
from asr.data.tokenizer import FILE as TOKENIZER_FILE
from asr.data.tokenizer import SubwordKind, SubwordTokenizer, read_tokenizer
from asr.doctor.characters import find_markup, shown
from asr.errors import CheckpointError, ConfigError, DataError, os_reason
from asr.files import write_json

log = logging.getLogger(__name__)

Perform = Callable[[Recipe, Request], Prepared]


@dataclass(frozen=True)
class TextOptions:
    """What ``asr prepare`` is told about texts.

    Raises:
        ConfigError: a value is unknown, or two do not go together; so before anything is downloaded.
    """

    #: --normalization; empty: the folder's profile when it has one already, else the recipe's
    normalization: str = ""
    #: --tokenizer: char, bpe or unigram; empty: characters, but a tokenizer stays when the training texts do
    tokenizer: str = ""
    #: --vocab-size: tokens of a bpe or unigram tokenizer, the blank included; 0: not given
    vocab_size: int = 0

    def __post_init__(self) -> None:
        if self.normalization:
            check_profile(self.normalization)
        kinds = get_args(SubwordKind)
        if self.tokenizer not in ("", "char", *kinds):
            raise ConfigError(f"--tokenizer {self.tokenizer}: expected char, {' or '.join(kinds)}")
        if self.tokenizer in kinds and self.vocab_size < 1:
            raise ConfigError(
                f"--tokenizer {self.tokenizer} needs --vocab-size N: "
                "about 100 for an hour of speech, 500 for a hundred, 1000 to 5000 for a thousand"
            )
        if self.tokenizer not in kinds and self.vocab_size:
            raise ConfigError("--vocab-size goes with --tokenizer bpe or unigram")


@dataclass(frozen=True)
class Finished:
    """A whole data folder: what was prepared, its header, and what a person should know about the texts."""

    prepared: Prepared
    header: Header
    notes: tuple[str, ...]

    def summary(self) -> list[str]:
        return [*self.prepared.summary(), *self.notes]


def prepare(recipe: Recipe, request: Request, options: TextOptions, run: Perform = perform) -> Finished:
    """Prepares a dataset, texts, tokenizer and header included.

    Raises:
        ConfigError: the folder was prepared under another profile, or holds files of these names that no preparation
            made; or an option does not fit the recipe or the texts.
        DataError: what the recipe's own preparation raises.
    """
    if not recipe.speech and (options.normalization or options.tokenizer):
        raise ConfigError(f"{recipe.name} takes no --normalization and no --tokenizer: it makes no manifests")
    _check_folder(request.out)
    _check_tokenizer(request.out, options)
    before = _header_before(request.out)
    profile = options.normalization or ("" if before is None else before.normalization)
    if before is not None and profile != before.normalization:
        raise ConfigError(
            f"{request.out} was prepared with text normalization {before.normalization}, not {profile}; take another "
            f"--out, leave out --normalization, or remove {_header_path(request.out)} and the "
            "manifests to prepare all of it anew"
        )
    prepared = run(recipe, replace(request, normalization=profile))
    return finish(recipe, request, prepared, replace(options, normalization=profile), before)


def finish(
    recipe: Recipe, request: Request, prepared: Prepared, options: TextOptions, before: Header | None = None
) -> Finished:
    """What follows a recipe's own preparation: normalises its texts, trains the tokenizer, writes the header.

    Args:
        before: the folder's header as it was before; of its splits, those that are still there stay in the new one.
    """
    profile = options.normalization or prepared.normalization or recipe.normalization
    if prepared.manifests:  # which look whole, but are not before their texts are normalised
        headers.set_aside(request.out, prepared.manifests, tokenizer=options.tokenizer in get_args(SubwordKind))
    prepared, notes = _normalized(prepared, profile)
    notes = [*shortfall(recipe, prepared), *notes]
    splits = {name: _facts(rows) for name, rows in prepared.utterances.items()}
    kept = {} if before is None else before.splits
    replaced = [name for name in kept if name in splits]
    if before is not None and before.recipe != recipe.name and replaced:
        log.warning("%s: %s of %s is replaced", request.out, ", ".join(replaced), before.title)
    splits |= {name: facts for name, facts in kept.items() if name not in splits and _path(request, name).is_file()}
    _warn_of_shared(request, prepared, kept)
    tokenizer, line = _tokenizer(request, prepared, options, before)
    if tokenizer:
        prepared = replace(prepared, files=prepared.files | {"tokenizer": request.out / tokenizer})
    flagged = {name: int(facts.get("with_digits", 0)) for name, facts in splits.items() if facts.get("with_digits")}
    # An utterance may be in several manifests: of a subset, and of train.
    texts = {same(u) for rows in prepared.utterances.values() for u in rows if has_digits(u.text)}
    flagged_numbers = len(texts) + sum(count for name, count in flagged.items() if name not in prepared.utterances)
    if flagged:
        where = ", ".join(f"{name} {count:,}" for name, count in flagged.items())
        notes.append(f"numbers: {flagged_numbers:,} texts hold digits ({where}); write them as they are spoken")
    header = Header(
        recipe=recipe.name,
        title=recipe.title,
        licence=recipe.licence,
        homepage=recipe.homepage,
        normalization=profile,
        tokenizer=tokenizer,
        splits=splits,
        dropped=len(prepared.dropped),
        flagged_numbers=flagged_numbers,
    )
    if not prepared.manifests:  # a language model: no data folder
        return Finished(prepared, header, ())
    headers.write(request.out, header)
    if prepared.utterances:
        notes.insert(0, f"text normalization: {profile}")
    return Finished(prepared, header, (*notes, *line))


def _warn_of_shared(request: Request, prepared: Prepared, before: Iterable[str]) -> None:
    """Says where train and dev or test, one prepared now and the other before, hold the same utterances."""
    for old in (name for name in before if name not in prepared.utterances and _path(request, name).is_file()):
        pairs = [name for name in prepared.utterances if {name, old} in ({"train", "dev"}, {"train", "test"})]
        there = {same(u) for u in manifests.read(_path(request, old))} if pairs else set()
        for new in pairs:
            if count := sum(same(u) in there for u in prepared.utterances[new]):
                log.warning(
                    "%s: %s of its utterances are in %s.jsonl, too, which was prepared before: prepare both together, "
                    "or remove it", _path(request, new), f"{count:,}", old,
                )  # fmt: skip


def _header_before(out: Path) -> Header | None:
    try:
        return headers.read_last(out)
    except DataError as error:  # it is about to be written anew
        log.warning("%s", error)
        return None


def _header_path(out: Path) -> Path:
    return next((path for path in (out / headers.FILE, out / headers.UNFINISHED) if path.exists()), out / headers.FILE)


def _check_folder(out: Path) -> None:
    """Refuses, before the work, a folder that could not be written after it.

    Raises:
        ConfigError: it is a file, lies in one, or no file can be made there.
    """
    there = out.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"--out {out}: {there} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: cannot write in {there}: no permission, or a read-only file system")


def _check_tokenizer(out: Path, options: TextOptions) -> None:
    """Refuses, before the work, to write over a tokenizer that was not made here.

    Raises:
        ConfigError: one is to be trained, and another is there that is in no header.
    """
    path = out / TOKENIZER_FILE
    if options.tokenizer in get_args(SubwordKind) and path.exists() and not headers.is_own(out, path.name):
        raise ConfigError(f"{path} is there, and no 'asr prepare' made it; give another --out, or remove it")


def _path(request: Request, split: str) -> Path:
    return request.out / f"{split}.jsonl"


def _facts(rows: Iterable[Utterance]) -> dict[str, float | int]:
    rows = list(rows)
    return headers.split_facts(rows) | {"with_digits": headers.count_with_digits(rows)}


def _normalized(prepared: Prepared, profile: str) -> tuple[Prepared, list[str]]:
    """The preparation with its texts under a profile, manifests rewritten; and lines on what that did to them."""
    utterances: dict[str, list[Utterance]] = {}
    emptied: dict[str, None] = {}
    signs: Counter[str] = Counter()
    markup: list[str] = []  # what it says of each text whose markup the profile makes words of
    foreign: Counter[str] = Counter()
    seen: set[tuple[object, ...]] = set()
    changed: set[tuple[object, ...]] = set()  # an utterance may be in several manifests, and counts once
    for name, rows in prepared.utterances.items():
        utterances[name] = []
        for row in rows:
            text = normalize(row.text, profile)
            if text != row.text and same(row) not in changed:
                changed.add(same(row))
                signs.update(spoken_signs_lost(row.text, profile))
                if (mark := find_markup(row.text)) and not find_markup(text):
                    markup.append(f"{mark[0]} of {row.id} in {shown(row.text, mark[1])}")
            if row.text.strip() and not text:
                emptied[row.id] = None
            if profile == "librispeech" and not text.isascii() and same(row) not in seen:
                seen.add(same(row))
                foreign.update({c for c in text if not c.isascii()})
            utterances[name].append(row if text == row.text else replace(row, text=text))
        if utterances[name] != rows:
            manifests.write(prepared.manifests[name], utterances[name])
    notes = [f"normalized: {len(changed):,} texts changed"] if changed else []
    if signs:
        notes.append(f"signs that people read aloud were removed: {_shown(signs)}; write them as they are spoken")
    if markup:
        notes.append(
            f"markup became words in {len(markup):,} texts, first {markup[0]}; decode entities, and take markers out"
        )
    if foreign:
        notes.append(f"characters that {profile} leaves as they are: {_shown(foreign)}")
    if emptied:
        notes.append(f"{len(emptied):,} texts became empty, and are not trained on: {', '.join([*emptied][:5])}")
    return replace(prepared, utterances=utterances), notes


def _shown(counts: Counter[str]) -> str:
    """The most frequent characters, each with the texts it is in."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{c!r} (U+{ord(c):04X}) in {n:,}" for c, n in ranked[:8]]
    return ", ".join(listed) + (f", … ({len(counts)} in all)" if len(counts) > len(listed) else "")


def _tokenizer(
    request: Request, prepared: Prepared, options: TextOptions, before: Header | None
) -> tuple[str, list[str]]:
    """The name of the folder's tokenizer file ("": characters), trained now or there before; a line about it."""
    path = request.out / TOKENIZER_FILE
    if options.tokenizer in get_args(SubwordKind):
        rows: Iterable[Utterance]
        if "train" in prepared.utterances:
            rows = prepared.utterances["train"]
        elif _path(request, "train").is_file():
            rows = manifests.read(_path(request, "train"))
        else:
            raise ConfigError(f"--tokenizer {options.tokenizer} is trained on train.jsonl, which {request.out} has not")
        kind = cast(SubwordKind, options.tokenizer)
        trained = SubwordTokenizer.train((row.text for row in rows), options.vocab_size, kind)
        try:
            write_json(path, trained.to_json())
        except OSError as error:
            raise DataError(f"cannot write: {os_reason(error)}", path) from error
        return TOKENIZER_FILE, [f"tokenizer: {kind}, {trained.vocabulary_size:,} tokens, the blank included"]
    new_texts = "train" in prepared.utterances
    if path.exists() and (options.tokenizer == "char" or new_texts):
        if not headers.is_own(request.out, path.name):
            return "", [f"tokenizer: characters; the {TOKENIZER_FILE} that is there was not made here, and is not used"]
        path.unlink()
        return "", [f"tokenizer: characters; the {TOKENIZER_FILE} that was there is removed"]
    if path.exists() and before is not None and before.tokenizer:
        try:
            kept = read_tokenizer(path)
        except CheckpointError as error:
            return before.tokenizer, [str(error)]
        return before.tokenizer, [f"tokenizer: {kept.kind}, {kept.vocabulary_size:,} tokens, as it was"]
    return "", []
