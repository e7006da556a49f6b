"""Recipes: the facts of a dataset, and the function that finds its utterances.

A recipe is a folder with ``recipe.py`` (a ``RECIPE`` of facts and a ``prepare`` function) and ``conf/*.yaml``;
``asr.corpora.catalogue`` finds it, and ``asr.corpora.prepare`` runs it and writes the data folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from asr.data.manifest import Utterance
from asr.data.subwords import SubwordKind
from asr.data.text import check_profile
from asr.download.remote import Remote
from asr.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """Hold what a person asks of ``asr prepare``.

    Raises:
        ConfigError: an option on texts is unknown, or two do not go together.
    """

    out: Path
    #: --archive: corpus archives or folders that are already on this machine
    archive: tuple[Path, ...] = ()
    #: --mirror: a URL (http, https, file) in place of the corpus's host; the relative URLs are the same
    mirror: str = ""
    #: --subsets; empty: the recipe's default
    subsets: tuple[str, ...] = ()
    #: the positional SOURCE of importers: folders or files
    sources: tuple[Path, ...] = ()
    #: options that only some recipes and importers take, by name with underscores: ``audio_column``, ``dev``
    options: Mapping[str, str] = field(default_factory=dict)
    #: --normalization; empty: the folder's profile if it has one already, else the recipe's
    normalization: str = ""
    #: --tokenizer: char, bpe, unigram, or the path of a SentencePiece model (.model); empty: characters, but a
    #: tokenizer stays as long as the training texts do
    tokenizer: str = ""
    #: --vocab-size: tokens of a bpe or unigram tokenizer, the blank included; 0: not given
    vocab_size: int = 0
    #: SHA-256 of archives by name: those that the data folder was made of, to which the ones of this run are added
    archives: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.normalization:
            check_profile(self.normalization)
        kinds = get_args(SubwordKind)
        if self.tokenizer not in ("", "char", *kinds) and self.tokenizer_model is None:
            expected = f"char, {', '.join(kinds)}, or a SentencePiece model (FILE.model)"
            raise ConfigError(f"--tokenizer {self.tokenizer}: expected {expected}")
        if self.tokenizer in kinds and self.vocab_size < 1:
            raise ConfigError(
                f"--tokenizer {self.tokenizer} needs --vocab-size N: "
                "about 100 for an hour of speech, 500 for a hundred, 1000 to 5000 for a thousand"
            )

        if self.tokenizer not in kinds and self.vocab_size:
            raise ConfigError("--vocab-size goes with --tokenizer bpe or unigram")

    @property
    def tokenizer_model(self) -> Path | None:
        """The SentencePiece model that --tokenizer names, if it names one."""
        return Path(self.tokenizer) if self.tokenizer.endswith(".model") else None


@dataclass(frozen=True)
class Corpus:
    """Hold what a recipe found: the utterances of each split, and what was left out with the reasons."""

    splits: Mapping[str, list[Utterance]]
    #: utterances that cannot be used, by id
    dropped: Mapping[str, str] = field(default_factory=dict)
    #: utterances that the corpus or the recipe leaves out on purpose, by id
    excluded: Mapping[str, str] = field(default_factory=dict)
    #: other files for a person to use, by name (a language model)
    files: Mapping[str, Path] = field(default_factory=dict)
    #: the profile that the texts went through already; empty: none
    normalization: str = ""


@dataclass(frozen=True)
class Recipe:
    """The facts of a dataset, and the function that prepares it.

    ``prepare(request)`` downloads and unpacks what is needed under ``request.out``, and returns the utterances.
    """

    name: str
    title: str
    hours: float
    sample_rate_hz: int
    licence: str
    homepage: str
    prepare: Callable[[Request], Corpus]
    #: what to pass as --archive, and where to get it; empty if the recipe needs none
    archive: str = ""
    #: what can be downloaded; a recipe with files takes --mirror, and --archive for each of them
    files: tuple[Remote, ...] = ()
    #: what is prepared without --subsets; empty: all that ``files`` name
    default_subsets: tuple[str, ...] = ()
    #: keys of ``Request.options`` that the recipe takes
    options: tuple[str, ...] = ()
    #: what the positional SOURCE is (``"DIR"``, ``"FILE"``); empty if the recipe takes none
    source: str = ""
    #: the recipe takes several sources
    many_sources: bool = False
    #: the profile of ``asr.data.text`` that texts go through without --normalization
    normalization: str = "none"
    #: false: the recipe makes files (a language model) and no manifests
    speech: bool = True
    #: number of utterances of the published corpus, by manifest or subset, if it is known
    utterances: Mapping[str, int] = field(default_factory=dict)

    @property
    def subsets(self) -> tuple[str, ...]:
        """The names that --subsets takes, in the order of the files."""
        return tuple(dict.fromkeys(file.subset for file in self.files if file.subset))


def split_by(utterances: Iterable[Utterance], split_of: Callable[[Utterance], str]) -> dict[str, list[Utterance]]:
    """Return ``train``, ``dev`` and ``test`` of the utterances, each in the split that ``split_of`` names."""
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for utterance in utterances:
        splits[split_of(utterance)].append(utterance)
    return splits


def stable_hash(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone: the same on every machine and in every year.

    >>> round(stable_hash("fash"), 6)
    0.653517
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def held_out_speakers(speakers: Iterable[str], fraction: float, salt: str) -> set[str]:
    """Return the share of speakers with the smallest stable hash: adding a speaker moves at most one other."""
    ordered = sorted(set(speakers), key=lambda s: (stable_hash(f"{salt}/{s}"), s))
    return set(ordered[: max(1, round(fraction * len(ordered)))])
