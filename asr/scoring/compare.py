"""Two systems on the same references: by how much they differ, and whether that can be told from chance.

Axes: m units that are drawn (speakers or utterances), r resamples.
Source: Bisani & Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004 (paired
resamples; probability of improvement). ``asr.scoring.matched_pairs`` has the NIST test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr.data.lines import one_line
from asr.data.text import normalize
from asr.errors import DataError
from asr.scoring.alphabet import unlike_line
from asr.scoring.bootstrap import Ends, Interval, percentile_ends, pooled, resampled_sums, unit_of
from asr.scoring.matched_pairs import ENOUGH_SEGMENTS, MatchedPairs, matched_pairs
from asr.scoring.pairing import Pair, Say, check_common, read_together
from asr.scoring.transcripts import HYPOTHESES, REFERENCES, Facts, Transcripts, read, together
from asr.scoring.wer import Alignment, Score, align_all, format_ends, percent, score

#: below this p the matched-pairs test speaks of a difference, as NIST has it
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Differing:
    """An utterance in which the two systems make differently many errors."""

    id: str
    errors_a: int
    errors_b: int
    reference: str
    hypothesis_a: str
    hypothesis_b: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Systems A and B on the same references.

    ``difference`` is WER of A less WER of B (positive: B is better) with the ends of its interval, as fractions; None
    without reference words. ``better_b`` is the share of resamples in which B has fewer errors, half of the ties
    included. A has fewer errors in ``wins_a`` of the utterances, B in ``wins_b``; they have equally many in ``ties``.
    """

    a: Score
    b: Score
    difference: float | None
    ends: Ends
    better_b: float
    interval: Interval
    matched_pairs: MatchedPairs
    wins_a: int
    wins_b: int
    ties: int
    differing: list[Differing]

    @property
    def verdict(self) -> str:
        """``"a"`` or ``"b"``: that one is better; ``"same"``: none can be told; ``"unclear"``: tests disagree."""
        low, high = self.ends
        # one unit drawn again and again is itself: an interval of no width excludes nothing
        excluded = self.interval.units > 1 and low is not None and high is not None and not low <= 0 <= high
        p = self.matched_pairs.p
        significant = p is not None and p < SIGNIFICANT
        if excluded and significant:
            return "b" if (self.difference or 0) > 0 else "a"
        # Where the test is undefined (one segment, say) it does not speak against the interval, but not for it either.
        return "unclear" if excluded or significant else "same"

    def to_json(self, worst: int = 10) -> dict[str, Any]:
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "difference": {"wer": self.difference, "low": self.ends[0], "high": self.ends[1]},
            "probability_b_better": self.better_b,
            "interval": self.interval.to_json(),
            "matched_pairs": self.matched_pairs.to_json(),
            "utterances": {"a_better": self.wins_a, "b_better": self.wins_b, "ties": self.ties},
            "verdict": self.verdict,
            "differing": [asdict(one) for one in self.differing[:worst]],
        }


def compare(
    utterances: Iterable[tuple[str, str, str, str]],
    facts: Mapping[str, Facts] | None = None,
    alignment: Alignment = "levenshtein",
    normalization: str = "none",
) -> Comparison:
    """The comparison of (id, reference, hypothesis of A, hypothesis of B) rows, their texts as they stand.

    Resamples are paired: both systems are scored on the same draw, so that what is hard for both does not widen the
    interval. They draw speakers where all are known (``asr.scoring.bootstrap.unit_of``), else utterances.

    Raises:
        DataError: there are no rows.
    """
    import numpy as np

    rows = list(utterances)
    a = score(((id_, ref, hyp) for id_, ref, hyp, _ in rows), facts, alignment, normalization)
    b = score(((id_, ref, hyp) for id_, ref, _, hyp in rows), facts, alignment, normalization)
    errors_a, errors_b = ([one.counts.errors for one in each.per_utterance] for each in (a, b))
    values_km = np.array([errors_a, errors_b, [one.counts.reference_length for one in a.per_utterance]], dtype=np.int64)
    speakers = [one.facts.speaker for one in a.per_utterance]
    interval = unit_of(speakers)
    if interval.unit == "speaker":
        values_km = pooled(values_km, speakers)
    a_r, b_r, words_r = resampled_sums(values_km)
    better_b = float((b_r < a_r).mean() + (b_r == a_r).mean() / 2)
    difference, ends = None, (None, None)
    if a.wer.reference_length:
        difference = (sum(errors_a) - sum(errors_b)) / a.wer.reference_length
        defined = words_r > 0
        if defined.any():
            ends = percentile_ends((a_r - b_r)[defined] / words_r[defined])  # type: ignore[assignment]
    by_nist = (align_all([(ref, hyp) for _, ref, hyp, _ in rows], "sclite"),
               align_all([(ref, hyp) for _, ref, _, hyp in rows], "sclite"))  # fmt: skip
    differing = [
        Differing(id_, one, other, ref, hyp_a, hyp_b)
        for (id_, ref, hyp_a, hyp_b), one, other in zip(rows, errors_a, errors_b, strict=True)
        if one != other
    ]
    differing.sort(key=lambda one: -abs(one.errors_a - one.errors_b))  # stable: else in the order of the references
    wins_b = sum(one.errors_b < one.errors_a for one in differing)
    return Comparison(
        a, b, difference, ends, better_b, interval, matched_pairs(*by_nist),
        len(differing) - wins_b, wins_b, len(rows) - len(differing), differing,
    )  # fmt: skip


def compare_files(
    ref_path: str | Path | None,
    path_a: str | Path,
    path_b: str | Path,
    normalization: str = "none",
    alignment: Alignment = "levenshtein",
    pair: Pair = "auto",
    say: Say = lambda line: None,
) -> tuple[Comparison, list[tuple[Path, list[str]]]]:
    """The comparison of the ids in all files; and of each file the ids that others have and it lacks (not compared).

    Without references the two files must hold them (as ``asr evaluate --hypotheses`` writes them), and the same ones.

    Raises:
        DataError: a file cannot be used, they have no id in common, or the two files' references differ.
        ConfigError: the normalisation is unknown.
    """
    normalize("", normalization)
    if ref_path is None:
        a, b = read_together([(path_a, HYPOTHESES), (path_b, HYPOTHESES)], pair, say)
        references, theirs = (_references_in(path) for path in (path_a, path_b))
        _check_same_references(references, theirs, normalization)
        sources = [a, b]
    else:
        files = [(ref_path, REFERENCES), (path_a, HYPOTHESES), (path_b, HYPOTHESES)]
        references, a, b = read_together(files, pair, say)
        sources = [a, b, references]
    check_common(references, a, b)
    ids = list(dict.fromkeys(id_ for source in (references, a, b) for id_ in source.texts))
    for line in filter(None, (source.silent_line(ids) for source in sources)):
        say(line)
    missing = [(source.path, source.complete(ids)) for source in sources]
    common = [id_ for id_ in ids if all(id_ in source.texts for source in (references, a, b))]
    facts = together(references.facts, a.facts, b.facts)
    rows = [(id_, *(normalize(source.texts[id_], normalization) for source in (references, a, b))) for id_ in common]
    for line in dict.fromkeys(unlike_line((row[1] for row in rows), (row[k] for row in rows)) for k in (2, 3)):
        if line:
            say(line)
    return compare(rows, facts, alignment, normalization), [(path, lacks) for path, lacks in missing if lacks]  # type: ignore[arg-type]


def _references_in(path: str | Path) -> Transcripts:
    found = read(path, REFERENCES)
    if found.field != "reference":
        raise DataError("holds no references; name a file of them first: compare REFERENCE A B", path)
    return found


def _check_same_references(a: Transcripts, b: Transcripts, normalization: str) -> None:
    for id_, text in a.texts.items():
        other = b.texts.get(id_)
        if other is None or normalize(text, normalization).split() == normalize(other, normalization).split():
            continue
        hint = ""
        if normalize(text, "lower") == normalize(other, "lower"):
            hint = "; they differ in letter case only: --normalization lower compares them"
        raise DataError(f"the references differ, first in '{id_}': {text!r} here, {other!r} in {b.path}{hint}", a.path)


def conclusion(result: Comparison, name_a: str = "A", name_b: str = "B") -> str:
    """One sentence: which is better, or that nothing can be told."""
    if all(x.hypothesis == y.hypothesis for x, y in zip(result.a.per_utterance, result.b.per_utterance, strict=True)):
        return f"{name_a} and {name_b} give the same words in every utterance ({result.a.utterances:,})."
    if result.difference is None:
        return f"Nothing can be said of {name_a} and {name_b}: the references have no words."
    better, worse = (name_b, name_a) if result.difference > 0 else (name_a, name_b)
    p = result.matched_pairs.p
    undefined = "the matched-pairs test is not defined here"
    test = undefined if p is None else f"matched pairs {_p(p)}"
    if result.verdict == "same":
        words = (
            f"On these {result.a.wer.reference_length:,} words no difference between {name_a} and {name_b} can be told"
        )
        return f"{words} from chance: {name_a} − {name_b} is {_points(result)}, {test}."
    by = f"by {_points(result, 1 if result.difference > 0 else -1)}"
    if result.verdict == "unclear" and p is None:
        return f"{better} may be better than {worse} {by}, but {undefined}."
    if result.verdict == "unclear":
        return f"{better} may be better than {worse}, but the two tests do not agree: {by}, {test}."
    return f"{better} is better than {worse} {by}, {test}."


def format_comparison(result: Comparison, worst: int = 10) -> str:
    """The comparison for people, the utterances that differ most included; without the conclusion."""
    lines = [
        f"{name} WER {percent(one.wer.rate)} % {format_ends((one.wer.low, one.wer.high))}  "
        f"({one.wer.substitutions} sub, {one.wer.deletions} del, {one.wer.insertions} ins), "
        f"CER {percent(one.cer.rate)} %"
        for name, one in (("A", result.a), ("B", result.b))
    ]
    test = result.matched_pairs
    lines.append(f"A − B: {_points(result)}; B is better in {result.better_b:.1%} of the resamples")
    outcome = "not defined" if test.z is None or test.p is None else f"z {test.z:.3f}, {_p(test.p)} (two-sided)"
    few = (
        f"; fewer than {ENOUGH_SEGMENTS}, so p is rough"
        if test.p is not None and test.segments < ENOUGH_SEGMENTS
        else ""
    )
    lines.append(f"matched pairs (NIST MAPSSWE): {outcome}, {test.segments:,} segments{few}")
    lines.append(
        f"utterances: {result.a.utterances:,}; A has fewer errors in {result.wins_a:,}, B in {result.wins_b:,}, "
        f"equally many in {result.ties:,}; {result.a.wer.reference_length:,} words, "
        f"text normalization: {result.a.normalization}"
    )
    for one in result.differing[:worst]:
        lines += [
            f"\n{one_line(one.id)}: A {one.errors_a}, B {one.errors_b}",
            *(
                f"  {name} {one_line(text)}"
                for name, text in (("ref", one.reference), ("A  ", one.hypothesis_a), ("B  ", one.hypothesis_b))
            ),
        ]
    return "\n".join(lines)


def _points(result: Comparison, sign: int = 1) -> str:
    """``"1.42 points of WER [0.61, 2.25] (95 % interval over 10 speakers)"``: A less B; with sign -1, B less A."""
    if result.difference is None:
        return "WER undefined"
    low, high = result.ends
    ends = result.ends if sign > 0 or low is None or high is None else (-high, -low)
    drawn = f"{100 * result.interval.level:g} % interval over {result.interval.drawn}"
    return f"{percent(sign * result.difference)} points of WER {format_ends(ends)} ({drawn})"


def _p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
