"""The texts of a preparation: normalised under one profile, and the tokenizer that is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

from asr.corpora.recipe import Request
from asr.data import manifest as manifests
from asr.data import prepared as headers
from asr.data.manifest import Utterance
from asr.data.prepared import Header
from asr.data.subwords import SubwordKind, SubwordTokenizer
from asr.data.text import normalize, spoken_signs_lost
from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import FILE as TOKENIZER_FILE
from asr.data.tokenizer_file import read_tokenizer
from asr.doctor.characters import excerpt, find_markup
from asr.errors import CheckpointError, ConfigError

#: utterances by the name of their manifest
Splits = Mapping[str, list[Utterance]]


def same(utterance: Utterance) -> tuple[object, ...]:
    """Return what two rows of one utterance have in common, in whatever manifests they are."""
    return utterance.id, utterance.audio_path, utterance.offset_s, utterance.channel


def normalize_splits(splits: Splits, profile: str) -> tuple[dict[str, list[Utterance]], list[str]]:
    """Return the splits with their texts under a profile, and lines for people on what that did to them."""
    normalized: dict[str, list[Utterance]] = {}
    pairs: dict[tuple[object, ...], tuple[str, Utterance]] = {}
    for name, rows in splits.items():
        normalized[name] = []
        for row in rows:
            new = replace(row, text=normalize(row.text, profile))
            normalized[name].append(new)
            pairs[same(row)] = row.text, new  # an utterance may be in several manifests, and counts once

    return normalized, _notes(pairs.values(), profile)


def _notes(pairs: Iterable[tuple[str, Utterance]], profile: str) -> list[str]:
    """Describe what became of texts, from each text as it was and its utterance as it is."""
    changed = 0
    signs: Counter[str] = Counter()
    foreign: Counter[str] = Counter()
    markup: list[str] = []
    emptied: dict[str, None] = {}

    for old, new in pairs:
        if old != new.text:
            changed += 1
            signs.update(spoken_signs_lost(old, profile))
            if (mark := find_markup(old)) and not find_markup(new.text):
                markup.append(f"{mark[0]} of {new.id} in {excerpt(old, mark[1])}")
        if old.strip() and not new.text:
            emptied[new.id] = None
        if profile == "librispeech":
            foreign.update({c for c in new.text if not c.isascii()})

    notes = []
    if changed:
        notes.append(f"normalized: {changed:,} texts changed")
    if signs:
        notes.append(f"signs that people read aloud were removed: {_ranked(signs)}; write them as they are spoken")
    if markup:
        count = f"{len(markup):,} texts, first {markup[0]}"
        notes.append(f"markup became words in {count}; decode entities, and take markers out")

    if foreign:
        notes.append(f"characters that {profile} leaves as they are: {_ranked(foreign)}")
    if emptied:
        notes.append(f"{len(emptied):,} texts became empty, and are not trained on: {', '.join([*emptied][:5])}")
    return notes


def _ranked(counts: Counter[str]) -> str:
    """List the most frequent characters, each with the number of texts that have it."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{c!r} (U+{ord(c):04X}) in {n:,}" for c, n in ranked[:8]]
    return ", ".join(listed) + (f", … ({len(counts)} in all)" if len(counts) > len(listed) else "")


def choose_tokenizer(
    request: Request, train: Sequence[Utterance] | None, before: Header | None
) -> tuple[str, Tokenizer | None, list[str]]:
    """Choose the tokenizer of a data folder: trained now, read from a model, there already, or characters.

    Args:
        train: the training utterances, if they are prepared now.
        before: the folder's header as it was before.

    Returns:
        The name of its file (empty: characters), the tokenizer if it is to be written, and lines for people.

    Raises:
        ConfigError: there are no texts to train on, or they do not allow the size; or the model cannot be read.
        DataError: the texts are empty, or have a character that no tokenizer can hold.
    """
    path = request.out / TOKENIZER_FILE

    if request.tokenizer in get_args(SubwordKind):
        kind = cast(SubwordKind, request.tokenizer)
        texts = (row.text for row in _training_rows(request, train))
        trained = SubwordTokenizer.train(texts, request.vocab_size, kind)
        return TOKENIZER_FILE, trained, [f"tokenizer: {kind}, {trained.vocabulary_size:,} tokens, the blank included"]

    if request.tokenizer_model is not None:
        read = SubwordTokenizer.read(request.tokenizer_model)
        size = f"tokenizer: {read.kind}, {read.vocabulary_size:,} tokens, the blank included"
        return TOKENIZER_FILE, read, [f"{size}, from {request.tokenizer_model}", *_misfits(read, train or ())]

    if not path.exists():
        return "", None, []
    if request.tokenizer == "char" or train is not None:  # new texts may have characters that an old one lacks
        is_own = headers.is_own(request.out, TOKENIZER_FILE)
        what = "that was there is removed" if is_own else "that is there was not made here, and is not used"
        return "", None, [f"tokenizer: characters; the {TOKENIZER_FILE} {what}"]
    if before is None or not before.tokenizer:
        return "", None, []

    try:
        kept = read_tokenizer(path)
    except CheckpointError as error:
        return before.tokenizer, None, [str(error)]
    return before.tokenizer, None, [f"tokenizer: {kept.kind}, {kept.vocabulary_size:,} tokens, as it was"]


def _misfits(tokenizer: Tokenizer, train: Iterable[Utterance]) -> list[str]:
    """Say which characters of training texts a tokenizer from elsewhere cannot write, and which texts it changes."""
    refused = 0
    unknown: Counter[str] = Counter()
    changed: list[tuple[str, str]] = []
    for row in train:
        if characters := tokenizer.unknown(row.text):
            refused += 1
            unknown.update(characters)
        elif (back := tokenizer.decode(tokenizer.encode(row.text))) != row.text:
            changed.append((row.text, back))

    notes = []
    if refused:
        notes.append(
            f"{refused:,} texts of train have characters that the tokenizer cannot write, so that training refuses "
            f"them: {_ranked(unknown)}; another --normalization may remove them"
        )
    if changed:
        text, back = changed[0]
        notes.append(
            f"{len(changed):,} texts of train come back from the tokenizer changed, which counts as errors in scoring: "
            f"{text[:30]!r} as {back[:30]!r}; a --normalization that does the same first avoids it"
        )
    return notes


def _training_rows(request: Request, train: Sequence[Utterance] | None) -> Iterable[Utterance]:
    """Return the training utterances that are prepared now, or those that are in the folder already."""
    if train is not None:
        return train
    path = request.out / "train.jsonl"
    if not path.is_file():
        raise ConfigError(f"--tokenizer {request.tokenizer} is trained on train.jsonl, which {request.out} lacks")
    return manifests.read(path)
