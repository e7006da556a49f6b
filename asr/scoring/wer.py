"""Word and character error rates: alignment, counts, and rates with 95 % intervals.

Units: words are what white space separates. Characters are the code points of the text with its white space collapsed
to single spaces; a space counts as one. Nothing else is normalised here: ``asr.data.text.normalize`` comes before.
Rates are fractions, errors over reference length, and not clipped: insertions can take them above 1.

The empty-reference rule: an utterance with an empty reference adds its insertions to the errors and nothing to the
length. If the whole reference is empty, the rate and its interval are 0.0 without errors, else ``None`` (undefined;
``null`` in JSON).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import zip_longest
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from asr.errors import DataError
from asr.scoring.bootstrap import Ends, Interval, bootstrap_interval, unit_of
from asr.scoring.compounds import respelled
from asr.scoring.info import NO_INFO, UtteranceInfo
from asr.scoring.sclite import Operation, WordAlignment, align_words

#: levenshtein: the fewest errors, the usual word error rate; sclite: NIST's costs (``asr.scoring.sclite``)
ALIGNMENTS = ("levenshtein", "sclite")
#: rapidfuzz's names of what is done to words
_OPERATIONS: dict[str, Operation] = {
    "equal": "equal",
    "replace": "substitute",
    "delete": "delete",
    "insert": "insert",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """Hold the errors of a hypothesis against a reference; ``a + b`` pools two of them.

    Units: words or characters, as counted.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    def kinds(self) -> dict[str, int]:
        """Return the errors by kind."""
        return {"substitutions": self.substitutions, "deletions": self.deletions, "insertions": self.insertions}

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


@dataclass(frozen=True, slots=True)
class Rate(Counts):
    """Hold counts, their error rate, and the ends of its 95 % interval; ``None`` is undefined.

    Units: ``rate``, ``low`` and ``high`` are fractions; the counts are of ``unit``.
    """

    rate: float | None = None
    low: float | None = None
    high: float | None = None
    unit: Literal["words", "characters"] = "words"

    def to_json(self) -> dict[str, Any]:
        """Return rate and interval as fractions, the errors by kind, and the reference's length."""
        rate = {"rate": self.rate, "low": self.low, "high": self.high}
        return {**rate, **self.kinds(), f"reference_{self.unit}": self.reference_length}

    def cells(self) -> list[str]:
        """Return the cells of a table: rate and interval in per cent, substitutions, deletions, insertions."""
        return [percent(self.rate), format_ends((self.low, self.high)), *map(str, self.kinds().values())]


class UtteranceScore(NamedTuple):
    """Hold the word errors of one utterance, the texts that were compared, and what else is known of it."""

    id: str
    reference: str
    hypothesis: str
    counts: Counts
    info: UtteranceInfo = NO_INFO

    def to_json(self) -> dict[str, Any]:
        """Return the texts, the errors by kind, and what is known of the utterance."""
        texts = {"id": self.id, "reference": self.reference, "hypothesis": self.hypothesis}
        return {**texts, **self.counts.kinds(), **self.info.to_json()}


@dataclass(frozen=True, slots=True)
class Score:
    """Hold word and character error rate of a set of utterances, and the word errors of each, in the order given.

    ``interval`` describes the ends of the rates' intervals. If speakers were resampled, ``over_utterances`` has the
    ends (WER, CER) from resampling utterances: narrower, and what much of the literature prints. ``compounds``: how
    many compound words of the hypotheses were respelled as in the references; None if that was not asked for.
    """

    wer: Rate
    cer: Rate
    utterances: int
    per_utterance: list[UtteranceScore]
    interval: Interval
    over_utterances: tuple[Ends, Ends] | None = None
    alignment: str = "levenshtein"
    normalization: str = "none"
    compounds: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return both rates, what was resampled, and how the texts were compared."""
        interval = asdict(self.interval)
        if self.over_utterances is not None:
            wer, cer = self.over_utterances
            interval["over_utterances"] = {"wer": list(wer), "cer": list(cer)}

        return {
            "wer": self.wer.to_json(),
            "cer": self.cer.to_json(),
            "utterances": self.utterances,
            "interval": interval,
            "alignment": self.alignment,
            "normalization": self.normalization,
            **({} if self.compounds is None else {"compounds": self.compounds}),
        }


def word_counts(pairs: Iterable[tuple[str, str]], alignment: str = "levenshtein") -> list[Counts]:
    """Count the word errors of each (reference, hypothesis) pair.

    >>> word_counts([("a b c", "a x c d")])
    [Counts(substitutions=1, deletions=0, insertions=1, reference_length=3)]
    """
    if alignment == "sclite":
        aligned = align_words([(reference.split(), hypothesis.split()) for reference, hypothesis in pairs])
        return list(map(_counts_of, aligned))
    count = _counter()
    return [count(reference.split(), hypothesis.split()) for reference, hypothesis in pairs]


def char_counts(pairs: Iterable[tuple[str, str]]) -> list[Counts]:
    """Count the character errors of each (reference, hypothesis) pair; the space between two words is a character.

    >>> char_counts([("ab c", "abc")])
    [Counts(substitutions=0, deletions=1, insertions=0, reference_length=4)]
    """
    count = _counter()
    return [count(" ".join(reference.split()), " ".join(hypothesis.split())) for reference, hypothesis in pairs]


def align(reference: str, hypothesis: str, alignment: str = "levenshtein") -> WordAlignment:
    """Align the words of a pair: one (operation, reference word, hypothesis word) per row.

    The reference word of an insertion and the hypothesis word of a deletion are ``None``. If several alignments are
    equally good, this is the one that ``word_counts`` counts.

    >>> align("a b", "a c d")
    [('equal', 'a', 'a'), ('insert', None, 'c'), ('substitute', 'b', 'd')]
    """
    return align_all([(reference, hypothesis)], alignment)[0]


def align_all(pairs: Iterable[tuple[str, str]], alignment: str = "levenshtein") -> list[WordAlignment]:
    """Align each (reference, hypothesis) pair as ``align`` does."""
    words = [(reference.split(), hypothesis.split()) for reference, hypothesis in pairs]
    if alignment == "sclite":
        return align_words(words)

    from rapidfuzz.distance import Levenshtein

    out: list[WordAlignment] = []
    for references, hypotheses in words:
        rows: WordAlignment = []
        for one in Levenshtein.opcodes(references, hypotheses):
            ref_words = references[one.src_start : one.src_end]
            hyp_words = hypotheses[one.dest_start : one.dest_end]
            # The two are equally long, or one of them is empty and becomes None throughout.
            rows.extend((_OPERATIONS[one.tag], ref, hyp) for ref, hyp in zip_longest(ref_words, hyp_words))
        out.append(rows)
    return out


def score(
    utterances: Iterable[tuple[str, str, str]],
    info: Mapping[str, UtteranceInfo] | None = None,
    alignment: str = "levenshtein",
    normalization: str = "none",
    compounds: bool = False,
) -> Score:
    """Score (id, reference, hypothesis) rows, their texts as they stand.

    Args:
        info: what is known of each id. Speakers are resampled for the intervals if all are known
            (``asr.scoring.bootstrap``), else utterances.
        normalization: what was done to the texts before; it is kept for the record.
        compounds: words that one side writes as one and the other as several are equal (``asr.scoring.compounds``).

    Raises:
        DataError: there are no rows; no rate would mean anything. Or texts are too long to look for compounds.
    """
    rows = list(utterances)
    if not rows:
        raise DataError("no utterances to score")
    num_compounds = 0
    if compounds:
        for at, (id_, reference, hypothesis) in enumerate(rows):
            spelled, found = respelled(reference, hypothesis)
            rows[at] = id_, reference, spelled
            num_compounds += found

    words_n, characters_n = _word_and_char_counts(rows, alignment)
    ids, references, hypotheses = zip(*rows, strict=True)
    infos = [info.get(id_, NO_INFO) for id_ in ids] if info else [NO_INFO] * len(ids)
    columns = (ids, references, hypotheses, words_n, infos)
    per_utterance = list(map(UtteranceScore._make, zip(*columns, strict=True)))

    speakers = [one.speaker for one in infos]
    interval = unit_of(speakers)
    wer_ends = _interval(words_n)
    cer_ends = _interval(characters_n)
    # The interval over utterances is kept as well: much of the literature prints it.
    over_utterances = None
    if interval.unit == "speaker":
        over_utterances = (wer_ends, cer_ends)
        wer_ends = _interval(words_n, speakers)
        cer_ends = _interval(characters_n, speakers)

    return Score(
        wer=rate_of(words_n, wer_ends),
        cer=rate_of(characters_n, cer_ends, "characters"),
        utterances=len(rows),
        per_utterance=per_utterance,
        interval=interval,
        over_utterances=over_utterances,
        alignment=alignment,
        normalization=normalization,
        compounds=num_compounds if compounds else None,
    )


def rate_of(counts_n: Sequence[Counts], ends: Ends, unit: Literal["words", "characters"] = "words") -> Rate:
    """Return the pooled rate of utterances under the empty-reference rule; ``ends`` are those of its interval."""
    fields = ("substitutions", "deletions", "insertions", "reference_length")
    total = Counts(*(sum(map(attrgetter(name), counts_n)) for name in fields))
    # The empty-reference rule (see above).
    if total.reference_length:
        rate: float | None = total.errors / total.reference_length
    else:
        rate = None if total.errors else 0.0
    return Rate(**asdict(total), rate=rate, low=ends[0], high=ends[1], unit=unit)


def format_score(score: Score) -> str:
    """Format the score as lines for people: WER, CER, what the brackets are, and an unusual alignment."""
    note = f"[low, high]: {score.interval.description}"
    if score.over_utterances is not None:
        wer, cer = map(format_ends, score.over_utterances)
        note += f" (over utterances: WER {wer}, CER {cer})"

    lines = [
        f"WER {_format_rate(score.wer)}, {_number(score.utterances, 'utterance')})",
        f"CER {_format_rate(score.cer)})",
        note,
    ]
    if score.alignment != "levenshtein":
        lines.append(f"aligned with the costs of {score.alignment}")
    if score.compounds is not None:
        lines.append(f"compounds: {_number(score.compounds, 'word')} written together or apart as in the references")
    return "\n".join(lines)


def percent(fraction: float | None) -> str:
    """Format a fraction in per cent: ``"6.73"``, or ``"undefined"``."""
    return "undefined" if fraction is None else f"{100 * fraction:.2f}"


def format_ends(ends: Ends) -> str:
    """Format the ends of an interval in per cent: ``"[4.74, 8.86]"``."""
    return f"[{percent(ends[0])}, {percent(ends[1])}]"


def _word_and_char_counts(rows: Iterable[tuple[str, str, str]], alignment: str) -> tuple[list[Counts], list[Counts]]:
    """Count the errors in words and in characters; each text is split once, and forgotten before the next."""
    if alignment == "sclite":
        pairs = [(reference, hypothesis) for _, reference, hypothesis in rows]
        return word_counts(pairs, alignment), char_counts(pairs)

    made = cache(Counts)
    count = _counter(made)
    words_n: list[Counts] = []
    characters_n: list[Counts] = []
    for _, reference, hypothesis in rows:
        ref = reference.split()
        ref_text = " ".join(ref)
        if reference == hypothesis:
            words_n.append(made(0, 0, 0, len(ref)))
            characters_n.append(made(0, 0, 0, len(ref_text)))
        else:
            hyp = hypothesis.split()
            words_n.append(count(ref, hyp))
            characters_n.append(count(ref_text, " ".join(hyp)))
    return words_n, characters_n


def _counter(made: Callable[..., Counts] = Counts) -> Callable[[Sequence[str], Sequence[str]], Counts]:
    """Return a function that counts the errors of tokens by the alignment with the fewest, and makes counts by another.

    Of several such alignments rapidfuzz takes the one that, seen from the end, prefers a deletion, then an insertion.
    """
    from rapidfuzz.distance import Levenshtein

    editops = Levenshtein.editops

    def count(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
        operations = editops(reference, hypothesis)
        errors = len(operations)
        length = len(reference)
        # Deletions less insertions are the difference in length; the alignment says how many of both there are.
        longer = length - len(hypothesis)
        insertions = -longer if longer < 0 else 0
        if errors - longer - 2 * insertions > 1:
            insertions = [tag for tag, _, _ in operations.as_list()].count("insert")
        return made(errors - longer - 2 * insertions, longer + insertions, insertions, length)

    return count


def _counts_of(aligned: WordAlignment) -> Counts:
    total = Counter(operation for operation, _, _ in aligned)
    return Counts(total["substitute"], total["delete"], total["insert"], len(aligned) - total["insert"])


def _interval(counts_n: Sequence[Counts], speakers: Sequence[str] | None = None) -> Ends:
    errors_n = [c.substitutions + c.deletions + c.insertions for c in counts_n]  # the property takes twice as long
    return bootstrap_interval(errors_n, [c.reference_length for c in counts_n], speakers)


def _format_rate(rate: Rate) -> str:
    shown = "undefined" if rate.rate is None else f"{percent(rate.rate)} % {format_ends((rate.low, rate.high))}"
    kinds = f"{rate.substitutions} sub, {rate.deletions} del, {rate.insertions} ins"
    return f"{shown}  ({_number(rate.errors, 'error')}: {kinds}; {_number(rate.reference_length, rate.unit[:-1])}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
