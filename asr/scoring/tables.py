"""Where the errors are: word error rates by speaker, by length and by any field, and the commonest errors.

Everything comes in a fixed order: groups by value, errors by count and then by word.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from asr.errors import ConfigError, nearest, printable
from asr.scoring.bootstrap import Interval, bootstrap_interval, unit_of
from asr.scoring.info import UtteranceInfo
from asr.scoring.wer import Rate, Score, UtteranceScore, align_all, rate_of

#: ends of the bins of ``length``: seconds if they are known of every utterance, else reference words
SECONDS = (1, 2, 3, 5, 7, 10, 15, 20, 30)
WORDS = (0, 1, 2, 3, 5, 10, 20, 40)
#: fewer than for the whole set: these intervals are for looking, and there are many groups
RESAMPLES = 1_000
UNKNOWN = "(not known)"
#: the columns of a table after the group's value
COLUMNS = ("WER %", "[low, high]", "S", "D", "I", "words", "utterances")


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Hold the word error rate of the utterances that share a value, and what was resampled for its interval."""

    value: str
    utterances: int
    wer: Rate
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        """Return the group's rate and what was resampled for its interval."""
        return {
            "value": self.value,
            "utterances": self.utterances,
            "wer": self.wer.to_json(),
            "interval": asdict(self.interval),
        }

    def cells(self) -> list[str]:
        """Return the row of a table: the value, then ``COLUMNS``."""
        return [self.value, *self.wer.cells(), str(self.wer.reference_length), str(self.utterances)]


@dataclass(frozen=True, slots=True)
class GroupTable:
    """Hold the groups of a field, in the order of its values."""

    field: str
    title: str
    groups: list[GroupScore]


def check_fields(asked: Sequence[str], infos: Iterable[UtteranceInfo]) -> None:
    """Refuse a field that no utterance has.

    Raises:
        ConfigError: there is no such field; those that exist are named.
    """
    if not asked:
        return
    found = {name for info in infos for name in info.fields()}
    known = [*(["speaker"] if "speaker" in found else []), "length", *sorted(found - {"speaker"})]
    for name in asked:
        if name not in known:
            there = ", ".join(known)
            raise ConfigError(f"no utterance has the field '{name}'{nearest(name, known)} (there are {there})")


def tables(score: Score, by: Sequence[str] = ()) -> list[GroupTable]:
    """Make a table by speaker (if one is known), one by length, and one for each further field."""
    infos = [one.info for one in score.per_utterance]
    check_fields(by, infos)
    usual = ["speaker", "length"] if any(info.speaker for info in infos) else ["length"]
    return [_table(score.per_utterance, name) for name in dict.fromkeys([*usual, *by])]


def commonest_errors(score: Score, limit: int = 10) -> dict[str, list[dict[str, Any]]]:
    """Return the most frequent substitutions, deletions and insertions, by count, then in the order of their words.

    Each is a row of ``reference``, ``hypothesis`` and ``count``, without the word that a deletion or insertion lacks.
    """
    counters: dict[str, Counter[tuple[str, ...]]] = {"substitute": Counter(), "delete": Counter(), "insert": Counter()}
    wrong = [(one.reference, one.hypothesis) for one in score.per_utterance if one.counts.errors]
    for aligned in align_all(wrong, score.alignment):
        for kind, *words in aligned:
            if kind != "equal":
                counters[kind][tuple(word for word in words if word is not None)] += 1

    def rows(kind: str, *names: str) -> list[dict[str, Any]]:
        ordered = sorted(counters[kind].items(), key=lambda item: (-item[1], item[0]))
        return [{**dict(zip(names, words, strict=True)), "count": count} for words, count in ordered[:limit]]

    return {
        "substitutions": rows("substitute", "reference", "hypothesis"),
        "deletions": rows("delete", "reference"),
        "insertions": rows("insert", "hypothesis"),
    }


def worst(score: Score, limit: int) -> list[UtteranceScore]:
    """Return the utterances with most errors, of those with equally many the shortest first; none without an error."""
    wrong = [one for one in score.per_utterance if one.counts.errors]
    return sorted(wrong, key=lambda one: (-one.counts.errors, one.counts.reference_length))[:limit]


def format_table(table: GroupTable) -> str:
    """Format the table in aligned columns."""
    rows = [[table.title, *COLUMNS]]
    rows += [[printable(value), *cells] for value, *cells in (group.cells() for group in table.groups)]

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(row) for row in aligned)


def format_errors(errors: dict[str, list[dict[str, Any]]]) -> str:
    """Format ``commonest_errors`` in three lines, one for each kind."""
    lines = []
    for name, kind in (("substituted", "substitutions"), ("deleted", "deletions"), ("inserted", "insertions")):
        parts = []
        for *words, count in (row.values() for row in errors[kind]):
            parts.append(f"{' → '.join(words)} {count}")
        lines.append(f"{name + ':':<12} {printable(', '.join(parts)) or 'nothing'}")
    return "\n".join(lines)


def _table(utterances: Sequence[UtteranceScore], field: str) -> GroupTable:
    """Group the utterances by (sort key, value) of the field."""
    title = field
    if field != "length":
        keys = [_value_key(one.info.fields().get(field)) for one in utterances]
    elif all(one.info.duration_s is not None for one in utterances):
        title = "length in seconds"
        keys = [_bin_key(one.info.duration_s or 0.0, SECONDS) for one in utterances]
    else:
        title = "length in words"
        keys = [_bin_key(one.counts.reference_length, WORDS) for one in utterances]

    # Groups come in the order of their sort keys.
    members: dict[tuple[Any, str], list[UtteranceScore]] = {}
    for one, key in zip(utterances, keys, strict=True):
        members.setdefault(key, []).append(one)
    return GroupTable(field, title, [_group(key[1], members[key], field) for key in sorted(members)])


def _group(value: str, members: Sequence[UtteranceScore], field: str) -> GroupScore:
    counts = [one.counts for one in members]
    # A group by speaker has one speaker: its utterances are resampled.
    speakers = ["" if field == "speaker" else one.info.speaker for one in members]

    interval = replace(unit_of(speakers), resamples=RESAMPLES)
    ends = bootstrap_interval(
        [c.errors for c in counts],
        [c.reference_length for c in counts],
        speakers if interval.unit == "speaker" else None,
        resamples=RESAMPLES,
    )
    return GroupScore(value, len(members), rate_of(counts, ends), interval)


def _bin_key(value: float, ends: Sequence[int]) -> tuple[Any, str]:
    """Return the bin of a number, which includes its upper end; whole numbers name the first one in it."""
    index = sum(value > end for end in ends)
    if index == len(ends):
        return index, f"over {ends[-1]}"

    end = ends[index]
    if index == 0:
        return index, f"up to {end}" if end else "0"
    first = ends[index - 1] + 1 if isinstance(value, int) else ends[index - 1]
    return index, str(end) if first == end else f"{first} to {end}"


def _value_key(value: Any) -> tuple[Any, str]:
    """Sort numbers first, by size; then words; then what is not known."""
    if value is None:
        return (2, 0.0, ""), UNKNOWN
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, value, ""), str(value)  # not as a float: JSON has integers beyond every one
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return (1, 0.0, shown), shown
