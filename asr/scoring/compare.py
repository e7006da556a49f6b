"""Two systems on the same references: by how much they differ, and whether that can be told from chance.

Axes: m resampled units (speakers or utterances), r resamples.
Source: Bisani & Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004 (paired
resamples; probability of improvement). ``asr.scoring.matched_pairs`` has the NIST test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from asr.errors import printable
from asr.scoring.bootstrap import Ends, Interval, percentile_ends, resampled_sums
from asr.scoring.info import UtteranceInfo
from asr.scoring.matched_pairs import ENOUGH_SEGMENTS, MatchedPairs, matched_pairs
from asr.scoring.wer import Score, align_all, format_ends, percent, score

#: below this p the matched-pairs test finds a difference, as in NIST's tools
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Differing:
    """Hold an utterance in which the two systems make differently many errors."""

    id: str
    errors_a: int
    errors_b: int
    reference: str
    hypothesis_a: str
    hypothesis_b: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hold the scores of systems A and B on the same references, and the tests of their difference.

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
        # One unit drawn again and again is itself: an interval of no width excludes nothing.
        excluded = self.interval.units > 1 and low is not None and high is not None and not low <= 0 <= high

        p = self.matched_pairs.p
        significant = p is not None and p < SIGNIFICANT
        if excluded and significant:
            return "b" if (self.difference or 0) > 0 else "a"

        # An undefined test (of one segment, say) does not speak against the interval, but not for it either.
        return "unclear" if excluded or significant else "same"

    def to_json(self, worst: int = 10) -> dict[str, Any]:
        """Return the comparison for ``--json``, with the ``worst`` utterances that differ most."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "difference": {"wer": self.difference, "low": self.ends[0], "high": self.ends[1]},
            "probability_b_better": self.better_b,
            "interval": asdict(self.interval),
            "matched_pairs": asdict(self.matched_pairs),
            "utterances": {"a_better": self.wins_a, "b_better": self.wins_b, "ties": self.ties},
            "verdict": self.verdict,
            "differing": [asdict(one) for one in self.differing[:worst]],
        }


def compare(
    utterances: Iterable[tuple[str, str, str, str]],
    info: Mapping[str, UtteranceInfo] | None = None,
    alignment: str = "levenshtein",
    normalization: str = "none",
    compounds: bool = False,
) -> Comparison:
    """Compare the systems by (id, reference, hypothesis of A, hypothesis of B) rows, their texts as they stand.

    Resamples are paired: both systems are scored on the same draw, so that what is hard for both does not widen the
    interval. They draw speakers if all are known (``asr.scoring.bootstrap.unit_of``), else utterances.
    """
    rows = list(utterances)
    rows_a = [(id_, reference, hypothesis) for id_, reference, hypothesis, _ in rows]
    rows_b = [(id_, reference, hypothesis) for id_, reference, _, hypothesis in rows]
    a = score(rows_a, info, alignment, normalization, compounds)
    b = score(rows_b, info, alignment, normalization, compounds)

    # Paired: both systems are scored on the same draws.
    errors_a = [one.counts.errors for one in a.per_utterance]
    errors_b = [one.counts.errors for one in b.per_utterance]

    lengths = [one.counts.reference_length for one in a.per_utterance]
    speakers = [one.info.speaker for one in a.per_utterance] if a.interval.unit == "speaker" else None
    a_r, b_r, words_r = resampled_sums([errors_a, errors_b, lengths], speakers)
    words = a.wer.reference_length

    # NIST's test is defined on sclite's alignment, whatever the rates use.
    aligned_a = align_all([(one.reference, one.hypothesis) for one in a.per_utterance], "sclite")
    aligned_b = align_all([(one.reference, one.hypothesis) for one in b.per_utterance], "sclite")

    differing = [
        Differing(row[0], in_a, in_b, *row[1:])
        for row, in_a, in_b in zip(rows, errors_a, errors_b, strict=True)
        if in_a != in_b
    ]
    differing.sort(key=lambda one: -abs(one.errors_a - one.errors_b))  # stable: else in the order of the references

    wins_b = sum(one.errors_b < one.errors_a for one in differing)
    return Comparison(
        a=a,
        b=b,
        difference=(sum(errors_a) - sum(errors_b)) / words if words else None,
        ends=percentile_ends(a_r - b_r, words_r),
        better_b=float((b_r < a_r).mean() + (b_r == a_r).mean() / 2),
        interval=a.interval,
        matched_pairs=matched_pairs(aligned_a, aligned_b),
        wins_a=len(differing) - wins_b,
        wins_b=wins_b,
        ties=len(rows) - len(differing),
        differing=differing,
    )


def conclusion(result: Comparison, name_a: str = "A", name_b: str = "B") -> str:
    """Say in one sentence which system is better, or that it cannot be told."""
    if all(x.hypothesis == y.hypothesis for x, y in zip(result.a.per_utterance, result.b.per_utterance, strict=True)):
        return f"{name_a} and {name_b} give the same words in every utterance ({result.a.utterances:,})."
    if result.difference is None:
        return f"Nothing can be said of {name_a} and {name_b}: the references have no words."

    p = result.matched_pairs.p
    test = "the matched-pairs test is not defined here" if p is None else f"matched pairs {_format_p(p)}"
    if result.verdict == "same":
        return (
            f"On these {result.a.wer.reference_length:,} words no difference between {name_a} and {name_b} can be told "
            f"from chance: {name_a} − {name_b} is {_format_difference(result)}, {test}."
        )

    if result.difference > 0:
        better, worse, sign = name_b, name_a, 1
    else:
        better, worse, sign = name_a, name_b, -1

    by = f"by {_format_difference(result, sign)}"
    if result.verdict != "unclear":
        return f"{better} is better than {worse} {by}, {test}."
    if p is None:
        return f"{better} may be better than {worse} {by}, but {test}."
    return f"{better} may be better than {worse}, but the two tests do not agree: {by}, {test}."


def format_comparison(result: Comparison, worst: int = 10) -> str:
    """Format the comparison for people, with the utterances that differ most; without the conclusion."""
    lines = []
    for name, one in (("A", result.a), ("B", result.b)):
        wer = one.wer
        lines.append(
            f"{name} WER {percent(wer.rate)} % {format_ends((wer.low, wer.high))}  "
            f"({wer.substitutions} sub, {wer.deletions} del, {wer.insertions} ins), CER {percent(one.cer.rate)} %"
        )
    lines.append(f"A − B: {_format_difference(result)}; B is better in {result.better_b:.1%} of the resamples")

    test = result.matched_pairs
    if test.z is None or test.p is None:
        outcome = f"not defined, {test.segments:,} segments"
    else:
        outcome = f"z {test.z:.3f}, {_format_p(test.p)} (two-sided), {test.segments:,} segments"
        if test.segments < ENOUGH_SEGMENTS:
            outcome += f"; fewer than {ENOUGH_SEGMENTS}, so p is rough"
    lines.append(f"matched pairs (NIST MAPSSWE): {outcome}")

    lines.append(
        f"utterances: {result.a.utterances:,}; A has fewer errors in {result.wins_a:,}, B in {result.wins_b:,}, "
        f"equally many in {result.ties:,}; {result.a.wer.reference_length:,} words, "
        f"text normalization: {result.a.normalization}"
    )
    for utterance in result.differing[:worst]:
        lines += [
            f"\n{printable(utterance.id)}: A {utterance.errors_a}, B {utterance.errors_b}",
            f"  ref {printable(utterance.reference)}",
            f"  A   {printable(utterance.hypothesis_a)}",
            f"  B   {printable(utterance.hypothesis_b)}",
        ]
    return "\n".join(lines)


def _format_difference(result: Comparison, sign: int = 1) -> str:
    """Format A less B, or B less A with sign -1.

    As ``"1.42 points of WER [0.61, 2.25] (95 % interval over 10 speakers)"``.
    """
    if result.difference is None:
        return "WER undefined"
    low, high = result.ends
    ends = result.ends if sign > 0 or low is None or high is None else (-high, -low)
    interval = f"{100 * result.interval.level:g} % interval over {result.interval.drawn}"
    return f"{percent(sign * result.difference)} points of WER {format_ends(ends)} ({interval})"


def _format_p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
