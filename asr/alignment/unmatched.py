"""Find where a text and the audio do not belong together: sound that the text lacks, and words that nobody says.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from asr.alignment.gaps import Gap, find_gaps
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.decode.greedy import Clock, greedy
from asr.decode.types import LogProbs

#: number of characters that a line shows of the words, and of the text heard
_SHOWN = 60


@dataclass(frozen=True)
class Unmatched:
    """Hold a part of the audio, the words that fit nowhere else, and the text that the model hears instead (greedy).

    If there are no words, the text lacks what is said there. If nothing is heard, nobody says the words.
    """

    start_s: float
    end_s: float
    words: tuple[str, ...]
    heard: str

    def to_json(self) -> dict[str, Any]:
        """Return the keys that ``asr align`` writes. Units: seconds to the millisecond."""
        return {"start": self.start_s, "end": self.end_s, "words": list(self.words), "heard": self.heard}

    def __str__(self) -> str:
        has = f"the text has {_cut(' '.join(self.words))}" if self.words else "the text has nothing"
        heard = f"the model hears {_cut(self.heard)}" if self.heard else "the model hears nothing"
        return f"{self.start_s:.2f} to {self.end_s:.2f} s: {has}, {heard}"


class Stretch(NamedTuple):
    """Hold a part of the audio and the words that are said in it. Steps and words are slices."""

    steps: slice
    words: slice


def find_unmatched(
    log_probs_sv: LogProbs, words: Sequence[Sequence[int]], tokenizer: Tokenizer, delimiter: int
) -> list[Gap]:
    """Find the parts of the audio and of a text that do not belong together.

    Args:
        words: the tokens of each word.
        delimiter: the token of the space; -1: none.
    """
    pieces = [symbol.replace(WORD_START, "").replace(" ", "") for symbol in tokenizer.symbols]
    return find_gaps(log_probs_sv, words, [0, *map(len, pieces)], delimiter=delimiter)


def describe(gap: Gap, words: Sequence[str], log_probs_sv: LogProbs, tokenizer: Tokenizer, clock: Clock) -> Unmatched:
    """Return a gap in seconds and words."""
    heard = greedy(log_probs_sv[gap.start : gap.end], tokenizer).text
    return Unmatched(
        start_s=round(float(clock[0][gap.start]), 3),
        end_s=round(float(clock[1][gap.end - 1]), 3),
        words=tuple(words[gap.first_word : gap.end_word]),
        heard=" ".join(heard.split()),
    )


def stretches(gaps: Sequence[Gap], steps: int, words: int) -> list[Stretch]:
    """Return the parts between the gaps; each has at least one word.

    >>> stretches([Gap(start=0, end=4, first_word=0, end_word=1)], steps=9, words=3)
    [Stretch(steps=slice(4, 9, None), words=slice(1, 3, None))]
    """
    edges = [Gap(0, 0, 0, 0), *gaps, Gap(steps, steps, words, words)]
    between = (
        Stretch(slice(left.end, right.start), slice(left.end_word, right.first_word))
        for left, right in itertools.pairwise(edges)
    )
    return [stretch for stretch in between if stretch.words.start < stretch.words.stop]


def tokens_of_words(tokens_u: Sequence[int], sizes: Sequence[int], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the tokens of each word of an author, without the spaces around it.

    Args:
        sizes: number of the model's words in each of the author's words.
    """
    groups: list[list[int]] = []

    for token in tokens_u:
        piece = tokenizer.symbols[token - 1].replace(WORD_START, " ")
        if piece.startswith(" ") or not groups:
            groups.append([])
        groups[-1].append(token)

    groups = [group for group in groups if tokenizer.decode(group).strip()]

    words, rest = [], iter(groups)

    for size in sizes:
        tokens = [token for group in itertools.islice(rest, size) for token in group]
        is_space = tokenizer.symbols[tokens[0] - 1] == " "
        words.append(tokens[1:] if is_space else tokens)

    return words


def _cut(text: str) -> str:
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]}…'"
