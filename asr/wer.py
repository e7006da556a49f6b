"""Word and character error rates: alignment and counts, rates with 95 % intervals, for pairs and for files.

Units: words are what white space separates. Characters are the code points of the text with its white space collapsed
to single spaces; a space counts as one. Nothing else is normalised here: ``asr.text.normalize`` comes before.
Rates are fractions, errors over reference length, and not clipped: insertions can take them above 1.

The empty-reference rule: an utterance with an empty reference adds its insertions to the errors and nothing to the
length. Where the whole reference is empty the rate is 0.0 if there are no errors, else ``None`` (undefined; ``null``
in JSON), with the insertions still counted; the interval's ends follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asr.errors import DataError
from asr.transcripts import read_texts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Operation = Literal["equal", "substitute", "delete", "insert"]

# Drawn indices held at a time: 8 MB, and as much again for each of two gathers.
_BOOTSTRAP_BLOCK = 1_000_000


@dataclass(frozen=True, slots=True)
class Counts:
    """The errors of a hypothesis against a reference; ``a + b`` pools two of them.

    Units: words or characters, as counted.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """An error rate, the ends of its 95 % interval, and the counts behind it; ``None`` where it is undefined.

    Units: ``rate``, ``low`` and ``high`` are fractions; the counts are of ``unit``.
    """

    rate: float | None
    low: float | None
    high: float | None
    substitutions: int
    deletions: int
    insertions: int
    reference_length: int
    unit: Literal["words", "characters"] = "words"

    @property
    def reference_words(self) -> int:
        """The number of reference words; a character rate has no such number."""
        if self.unit != "words":
            raise AttributeError("a character error rate has reference_length characters, not words")
        return self.reference_length

    def to_json(self) -> dict[str, Any]:
        row = asdict(self)
        row[f"reference_{row.pop('unit')}"] = row.pop("reference_length")
        return row


@dataclass(frozen=True, slots=True)
class UtteranceScore:
    """The word errors of one utterance, with the texts that were compared."""

    id: str
    reference: str
    hypothesis: str
    counts: Counts

    def to_json(self) -> dict[str, Any]:
        counts = asdict(self.counts)
        del counts["reference_length"]
        return {"id": self.id, "reference": self.reference, "hypothesis": self.hypothesis, **counts}


@dataclass(frozen=True, slots=True)
class Score:
    """Word and character error rate of a set of utterances, and the word errors of each, in the order given."""

    wer: Rate
    cer: Rate
    utterances: int
    per_utterance: list[UtteranceScore]

    def to_json(self) -> dict[str, Any]:
        return {"wer": self.wer.to_json(), "cer": self.cer.to_json(), "utterances": self.utterances}


def word_counts(pairs: Iterable[tuple[str, str]]) -> list[Counts]:
    """The word errors of each (reference, hypothesis) pair.

    >>> word_counts([("a b c", "a x c d")])
    [Counts(substitutions=1, deletions=0, insertions=1, reference_length=3)]
    """
    return _counts(list(pairs), str.split)


def char_counts(pairs: Iterable[tuple[str, str]]) -> list[Counts]:
    """The character errors of each (reference, hypothesis) pair; the space between two words is a character.

    >>> char_counts([("ab c", "abc")])
    [Counts(substitutions=0, deletions=1, insertions=0, reference_length=4)]
    """
    return _counts(list(pairs), _characters)


def align(reference: str, hypothesis: str) -> list[tuple[Operation, str | None, str | None]]:
    """The words of a pair, one (operation, reference word, hypothesis word) a row, with as few errors as possible.

    The reference word of an insertion and the hypothesis word of a deletion are ``None``. Where several alignments
    have the fewest errors, this is the one that ``word_counts`` counts.

    >>> align("a b", "a c d")
    [('equal', 'a', 'a'), ('insert', None, 'c'), ('substitute', 'b', 'd')]
    """
    references, hypotheses = reference.split(), hypothesis.split()
    rows: list[tuple[Operation, str | None, str | None]] = []
    for chunk in _alignments([references], [hypotheses])[0]:
        ref_words = references[chunk.ref_start_idx : chunk.ref_end_idx]
        hyp_words = hypotheses[chunk.hyp_start_idx : chunk.hyp_end_idx]
        # The two are equally long, or one of them is empty and becomes None throughout.
        rows.extend((chunk.type, ref, hyp) for ref, hyp in zip_longest(ref_words, hyp_words))
    return rows


def bootstrap_interval(
    errors_n: ArrayLike, lengths_n: ArrayLike, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float | None, float | None]:
    """The ends (low, high) of the percentile bootstrap interval of an error rate, utterances drawn with replacement.

    Indices are drawn and gathered in blocks: under 50 MB and about a second for 10,000 utterances. The draws depend on
    the seed and the number of utterances only, so word and character intervals of a set see the same resamples.
    One utterance gives (rate, rate): resampling it tells nothing. With no reference length at all the ends follow the
    module's empty-reference rule; a resample that happens to have none, with some elsewhere, is left out.

    Shapes: ``errors_n`` and ``lengths_n`` hold one whole number for each of n utterances.
    Raises:
        ValueError: shapes differ, a number is negative, or ``resamples`` or ``level`` is out of range.
    Source: Bisani & Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004.
    """
    import numpy as np

    errors, lengths = np.asarray(errors_n, dtype=np.int64), np.asarray(lengths_n, dtype=np.int64)
    if errors.ndim != 1 or errors.shape != lengths.shape or (errors < 0).any() or (lengths < 0).any():
        raise ValueError(f"errors and lengths must be equally many, none negative, got {errors} and {lengths}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples must be at least 1 and level inside (0, 1), got {resamples} and {level}")
    if not lengths.any():
        return (None, None) if errors.any() else (0.0, 0.0)
    n = errors.size
    generator = np.random.default_rng(seed)
    block = max(1, _BOOTSTRAP_BLOCK // n)
    rates: list[Any] = []
    for start in range(0, resamples, block):
        drawn = generator.integers(0, n, size=(min(block, resamples - start), n))
        length, error = lengths.take(drawn).sum(axis=1), errors.take(drawn).sum(axis=1)
        rates.append(error[length > 0] / length[length > 0])
    defined = np.concatenate(rates)
    if not defined.size:  # few resamples of a set that is nearly all empty references
        return None, None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def score(utterances: Iterable[tuple[str, str, str]]) -> Score:
    """The score of (id, reference, hypothesis) rows.

    Raises:
        DataError: there are no rows; no rate would mean anything.
    """
    rows = list(utterances)
    if not rows:
        raise DataError("no utterances to score")
    pairs = [(reference, hypothesis) for _, reference, hypothesis in rows]
    words_n, characters_n = word_counts(pairs), char_counts(pairs)
    per_utterance = [UtteranceScore(*row, counts) for row, counts in zip(rows, words_n, strict=True)]
    return Score(_rate(words_n, "words"), _rate(characters_n, "characters"), len(rows), per_utterance)


def score_files(ref_path: str | Path, hyp_path: str | Path) -> tuple[Score, list[str], list[str]]:
    """The score of the ids in both files, the ids missing in the hypotheses, and those missing in the references.

    Missing ids are not scored, so a caller must say them. References are read from ``reference`` or else ``text``.

    Raises:
        DataError: a file cannot be used (see ``read_texts``), or the files have no id in common.
    """
    references = read_texts(ref_path, prefer=("reference", "text"))
    hypotheses = read_texts(hyp_path)
    common = [id_ for id_ in references if id_ in hypotheses]
    if not common:
        here, there = next(iter(hypotheses)), next(iter(references))
        raise DataError(f"no id in common with {ref_path}: for example '{here}' here, '{there}' there", hyp_path)
    missing_in_hyp = [id_ for id_ in references if id_ not in hypotheses]
    missing_in_ref = [id_ for id_ in hypotheses if id_ not in references]
    return score((id_, references[id_], hypotheses[id_]) for id_ in common), missing_in_hyp, missing_in_ref


def format_score(score: Score) -> str:
    """The score as three lines for people: WER, CER, and what the brackets are."""
    wer = f"WER {_format_rate(score.wer)}, {_number(score.utterances, 'utterance')})"
    return f"{wer}\nCER {_format_rate(score.cer)})\n[low, high]: 95 % percentile bootstrap over utterances"


def _characters(text: str) -> list[str]:
    return list(" ".join(text.split()))


def _alignments(references: list[list[str]], hypotheses: list[list[str]]) -> list[Any]:
    import jiwer

    # The tokens go in as they are (``list`` transforms nothing): jiwer's own transforms split at the space only.
    alignments: list[Any] = jiwer.process_words(references, hypotheses, list, list).alignments
    return alignments


def _counts(pairs: list[tuple[str, str]], split: Callable[[str], list[str]]) -> list[Counts]:
    references, hypotheses = [split(ref) for ref, _ in pairs], [split(hyp) for _, hyp in pairs]
    counts = []
    for reference, chunks in zip(references, _alignments(references, hypotheses), strict=True):
        total = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
        for chunk in chunks:
            total[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        counts.append(Counts(total["substitute"], total["delete"], total["insert"], len(reference)))
    return counts


def _rate(counts_n: list[Counts], unit: Literal["words", "characters"]) -> Rate:
    total = sum(counts_n, Counts())
    no_reference = None if total.errors else 0.0
    rate = total.errors / total.reference_length if total.reference_length else no_reference
    low, high = bootstrap_interval([c.errors for c in counts_n], [c.reference_length for c in counts_n])
    kinds = (total.substitutions, total.deletions, total.insertions)
    return Rate(rate, low, high, *kinds, total.reference_length, unit)


def _format_rate(rate: Rate) -> str:
    rate_, low, high = ("undefined" if x is None else f"{100 * x:.2f}" for x in (rate.rate, rate.low, rate.high))
    shown = rate_ if rate.rate is None else f"{rate_} % [{low}, {high}]"
    errors = rate.substitutions + rate.deletions + rate.insertions
    kinds = f"{rate.substitutions} sub, {rate.deletions} del, {rate.insertions} ins"
    return f"{shown}  ({_number(errors, 'error')}: {kinds}; {_number(rate.reference_length, rate.unit[:-1])}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
