"""Word and character error rates: alignment and counts, rates with 95 % intervals, for pairs and for files.

Units: words are what white space separates. Characters are the code points of the text with its white space collapsed
to single spaces; a space counts as one. Nothing else is normalised here: ``asr.data.text.normalize`` comes before.
Rates are fractions, errors over reference length, and not clipped: insertions can take them above 1.

The empty-reference rule: an utterance with an empty reference adds its insertions to the errors and nothing to the
length. Where the whole reference is empty the rate is 0.0 if there are no errors, else ``None`` (undefined; ``null``
in JSON), with the insertions still counted; the interval's ends follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from asr.data.text import normalize
from asr.errors import ConfigError, DataError, nearest
from asr.scoring.alphabet import unlike_line
from asr.scoring.bootstrap import Ends, Interval, bootstrap_intervals, unit_of
from asr.scoring.bootstrap import bootstrap_interval as bootstrap_interval
from asr.scoring.pairing import Pair, Say, check_common, read_together
from asr.scoring.sclite import Aligned, align_words
from asr.scoring.transcripts import HYPOTHESES, NOTHING_KNOWN, REFERENCES, Facts, together

Alignment = Literal["levenshtein", "sclite"]
ALIGNMENTS = {
    "levenshtein": "as few errors as possible: the usual word error rate",
    "sclite": "NIST's costs: 4 for a substitution, 3 for a deletion or insertion",
}


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
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

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
    """The word errors of one utterance, with the texts that were compared and what else is known of it."""

    id: str
    reference: str
    hypothesis: str
    counts: Counts
    facts: Facts = NOTHING_KNOWN

    def to_json(self) -> dict[str, Any]:
        counts = asdict(self.counts)
        del counts["reference_length"]
        texts = {"id": self.id, "reference": self.reference, "hypothesis": self.hypothesis}
        return texts | counts | self.facts.to_json()


@dataclass(frozen=True, slots=True)
class Score:
    """Word and character error rate of a set of utterances, and the word errors of each, in the order given.

    ``interval`` says what the ends of the rates' intervals are. Where speakers were drawn, ``over_utterances`` has the
    ends (WER, CER) that drawing utterances gives: narrower, and what much of the literature prints.
    """

    wer: Rate
    cer: Rate
    utterances: int
    per_utterance: list[UtteranceScore]
    interval: Interval
    over_utterances: tuple[Ends, Ends] | None = None
    alignment: Alignment = "levenshtein"
    normalization: str = "none"

    def to_json(self) -> dict[str, Any]:
        interval = self.interval.to_json()
        if self.over_utterances is not None:
            interval["over_utterances"] = dict(zip(("wer", "cer"), map(list, self.over_utterances), strict=True))
        return {
            "wer": self.wer.to_json(),
            "cer": self.cer.to_json(),
            "utterances": self.utterances,
            "interval": interval,
            "alignment": self.alignment,
            "normalization": self.normalization,
        }


def word_counts(pairs: Iterable[tuple[str, str]], alignment: Alignment = "levenshtein") -> list[Counts]:
    """The word errors of each (reference, hypothesis) pair.

    >>> word_counts([("a b c", "a x c d")])
    [Counts(substitutions=1, deletions=0, insertions=1, reference_length=3)]
    """
    if alignment == "levenshtein":
        return _counts(list(pairs), str.split)
    return [_counts_of(rows) for rows in align_all(pairs, alignment)]


def char_counts(pairs: Iterable[tuple[str, str]]) -> list[Counts]:
    """The character errors of each (reference, hypothesis) pair; the space between two words is a character.

    >>> char_counts([("ab c", "abc")])
    [Counts(substitutions=0, deletions=1, insertions=0, reference_length=4)]
    """
    return _counts(list(pairs), _characters)


def align(reference: str, hypothesis: str, alignment: Alignment = "levenshtein") -> Aligned:
    """The words of a pair, one (operation, reference word, hypothesis word) a row.

    The reference word of an insertion and the hypothesis word of a deletion are ``None``. Where several alignments
    are best, this is the one that ``word_counts`` counts.

    >>> align("a b", "a c d")
    [('equal', 'a', 'a'), ('insert', None, 'c'), ('substitute', 'b', 'd')]
    """
    return align_all([(reference, hypothesis)], alignment)[0]


def align_all(pairs: Iterable[tuple[str, str]], alignment: Alignment = "levenshtein") -> list[Aligned]:
    """``align`` of each (reference, hypothesis) pair."""
    words = [(reference.split(), hypothesis.split()) for reference, hypothesis in pairs]
    if alignment == "sclite":
        return align_words(words)
    out: list[Aligned] = []
    chunks_of = _alignments([ref for ref, _ in words], [hyp for _, hyp in words]) if words else []
    for (references, hypotheses), chunks in zip(words, chunks_of, strict=True):
        rows: Aligned = []
        for chunk in chunks:
            ref_words = references[chunk.ref_start_idx : chunk.ref_end_idx]
            hyp_words = hypotheses[chunk.hyp_start_idx : chunk.hyp_end_idx]
            # The two are equally long, or one of them is empty and becomes None throughout.
            rows.extend((chunk.type, ref, hyp) for ref, hyp in zip_longest(ref_words, hyp_words))
        out.append(rows)
    return out


def find_alignment(name: str) -> Alignment:
    """The alignment of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in ALIGNMENTS:
        raise ConfigError(f"unknown alignment '{name}' ({', '.join(ALIGNMENTS)}){nearest(name, ALIGNMENTS)}")
    return name  # type: ignore[return-value]


def score(
    utterances: Iterable[tuple[str, str, str]],
    facts: Mapping[str, Facts] | None = None,
    alignment: Alignment = "levenshtein",
    normalization: str = "none",
) -> Score:
    """The score of (id, reference, hypothesis) rows, their texts as they stand.

    Args:
        facts: what is known of each id. Intervals are over speakers where all are known (``scoring.bootstrap``).
        normalization: what was done to the texts before; it is kept for the record.

    Raises:
        DataError: there are no rows; no rate would mean anything.
    """
    rows = list(utterances)
    if not rows:
        raise DataError("no utterances to score")
    pairs = [(reference, hypothesis) for _, reference, hypothesis in rows]
    words_n, characters_n = word_counts(pairs, alignment), char_counts(pairs)
    known = [(facts or {}).get(id_, NOTHING_KNOWN) for id_, _, _ in rows]
    per_utterance = [UtteranceScore(*row, n, more) for row, n, more in zip(rows, words_n, known, strict=True)]
    speakers = [one.speaker for one in known]
    interval = unit_of(speakers)
    counted = [_errors_and_lengths(words_n), _errors_and_lengths(characters_n)]
    ends = over_utterances = bootstrap_intervals(counted)
    if interval.unit == "speaker":
        ends = bootstrap_intervals(counted, speakers)
    return Score(
        rate_of(words_n, ends[0]),
        rate_of(characters_n, ends[1], "characters"),
        len(rows),
        per_utterance,
        interval,
        (over_utterances[0], over_utterances[1]) if interval.unit == "speaker" else None,
        alignment,
        normalization,
    )


def score_files(
    ref_path: str | Path,
    hyp_path: str | Path,
    normalization: str = "none",
    alignment: Alignment = "levenshtein",
    pair: Pair = "auto",
    say: Say = lambda line: None,
) -> tuple[Score, list[str], list[str]]:
    """The score of the ids in both files, the ids missing in the hypotheses, and those missing in the references.

    Missing ids are not scored, so a caller must say them. References are read from ``reference`` or else ``text``. An
    id that is missing in a file of timed words (``.ctm``) has no words there: its text is empty, and it is scored.

    Args:
        pair: by id, line by line, or as the files look (``asr.scoring.pairing``).
        say: told in one line what is not sure, or makes the rate say little.

    Raises:
        DataError: a file cannot be used (see ``asr.scoring.transcripts.read``), or the files have no id in common.
        ConfigError: the normalisation is unknown.
    """
    normalize("", normalization)
    references, hypotheses = read_together([(ref_path, REFERENCES), (hyp_path, HYPOTHESES)], pair, say)
    check_common(references, hypotheses)
    for one, ids in ((hypotheses, references.texts), (references, hypotheses.texts)):
        if line := one.silent_line(ids):
            say(line)
    missing_in_hyp = hypotheses.complete(references.texts)
    missing_in_ref = references.complete(hypotheses.texts)
    facts = together(references.facts, hypotheses.facts)
    rows = [
        (id_, normalize(text, normalization), normalize(hypotheses.texts[id_], normalization))
        for id_, text in references.texts.items()
        if id_ in hypotheses.texts
    ]
    if line := unlike_line((row[1] for row in rows), (row[2] for row in rows)):
        say(line)
    return score(rows, facts, alignment, normalization), missing_in_hyp, missing_in_ref


def format_score(score: Score) -> str:
    """The score as three lines for people: WER, CER, and what the brackets are."""
    wer = f"WER {_format_rate(score.wer)}, {_number(score.utterances, 'utterance')})"
    drawn = f"[low, high]: {score.interval.level:.0%} percentile bootstrap over {score.interval.drawn}"
    drawn = drawn.replace("%", " %", 1)
    if score.over_utterances is not None:
        of_wer, of_cer = map(format_ends, score.over_utterances)
        drawn += f" (over utterances: WER {of_wer}, CER {of_cer})"
    how = "" if score.alignment == "levenshtein" else f"\naligned with the costs of {score.alignment}"
    return f"{wer}\nCER {_format_rate(score.cer)})\n{drawn}{how}"


def percent(fraction: float | None) -> str:
    """``"6.73"``, or ``"undefined"``."""
    return "undefined" if fraction is None else f"{100 * fraction:.2f}"


def format_ends(ends: Ends) -> str:
    """``"[4.74, 8.86]"``: the ends of an interval, in per cent."""
    return f"[{percent(ends[0])}, {percent(ends[1])}]"


def rate_of(
    counts_n: Sequence[Counts], ends: Ends = (None, None), unit: Literal["words", "characters"] = "words"
) -> Rate:
    """The pooled rate of utterances, under the empty-reference rule; ``ends`` are those of its interval."""
    total = sum(counts_n, Counts())
    no_reference = None if total.errors else 0.0
    rate = total.errors / total.reference_length if total.reference_length else no_reference
    kinds = (total.substitutions, total.deletions, total.insertions)
    return Rate(rate, *ends, *kinds, total.reference_length, unit)


def _characters(text: str) -> list[str]:
    return list(" ".join(text.split()))


def _alignments(references: list[list[str]], hypotheses: list[list[str]]) -> list[Any]:
    import jiwer

    # The tokens go in as they are (``list`` transforms nothing): jiwer's own transforms split at the space only.
    alignments: list[Any] = jiwer.process_words(references, hypotheses, list, list).alignments
    return alignments


def _counts(pairs: list[tuple[str, str]], split: Callable[[str], list[str]]) -> list[Counts]:
    # What is equal needs no alignment, and a good model gets most of it right.
    unequal = {i: (split(ref), split(hyp)) for i, (ref, hyp) in enumerate(pairs) if ref != hyp}
    aligned = _alignments([ref for ref, _ in unequal.values()], [hyp for _, hyp in unequal.values()]) if unequal else []
    chunks_of = dict(zip(unequal, aligned, strict=True))
    counts = []
    for i, (ref, _) in enumerate(pairs):
        total = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
        for chunk in chunks_of.get(i, ()):
            total[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        length = len(unequal[i][0]) if i in unequal else len(split(ref))
        counts.append(Counts(total["substitute"], total["delete"], total["insert"], length))
    return counts


def _counts_of(rows: Aligned) -> Counts:
    found = [operation for operation, _, _ in rows]
    insertions = found.count("insert")
    return Counts(found.count("substitute"), found.count("delete"), insertions, len(rows) - insertions)


def _errors_and_lengths(counts_n: Sequence[Counts]) -> tuple[list[int], list[int]]:
    return [c.errors for c in counts_n], [c.reference_length for c in counts_n]


def _format_rate(rate: Rate) -> str:
    shown = "undefined" if rate.rate is None else f"{percent(rate.rate)} % {format_ends((rate.low, rate.high))}"
    kinds = f"{rate.substitutions} sub, {rate.deletions} del, {rate.insertions} ins"
    return f"{shown}  ({_number(rate.errors, 'error')}: {kinds}; {_number(rate.reference_length, rate.unit[:-1])}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
