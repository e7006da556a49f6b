"""Where the errors are: word error rates by speaker, by length and by any field, and the commonest errors.

Everything comes in a fixed order: groups by value, errors by count and then by word.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asr.data.lines import one_line
from asr.errors import ConfigError, nearest
from asr.scoring.bootstrap import Interval, bootstrap_interval, unit_of
from asr.scoring.transcripts import Facts
from asr.scoring.wer import Rate, Score, UtteranceScore, align_all, format_ends, percent, rate_of

#: ends of the bins of ``length``: seconds where they are known of every utterance, else reference words
SECONDS = (1, 2, 3, 5, 7, 10, 15, 20, 30)
WORDS = (0, 1, 2, 3, 5, 10, 20, 40)
#: fewer than for the whole set: these are for looking, and there are many groups
RESAMPLES = 1_000
UNKNOWN = "(not known)"


@dataclass(frozen=True, slots=True)
class Group:
    """The word error rate of the utterances that share a value, and what its interval was drawn over."""

    value: str
    utterances: int
    wer: Rate
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        row = {"value": self.value, "utterances": self.utterances}
        return row | {"wer": self.wer.to_json(), "interval": self.interval.to_json()}


@dataclass(frozen=True, slots=True)
class Table:
    """The groups of a field, in the order of its values."""

    field: str
    title: str
    groups: list[Group]


@dataclass(frozen=True, slots=True)
class Errors:
    """The commonest errors, each with how often it is made."""

    substitutions: list[tuple[str, str, int]]
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]

    def to_json(self) -> dict[str, Any]:
        return {
            "substitutions": [{"reference": r, "hypothesis": h, "count": n} for r, h, n in self.substitutions],
            "deletions": [{"reference": word, "count": n} for word, n in self.deletions],
            "insertions": [{"hypothesis": word, "count": n} for word, n in self.insertions],
        }


def fields(facts: Iterable[Facts]) -> list[str]:
    """The fields by which utterances of which this is known can be grouped: ``length`` always."""
    every = list(facts)
    meta = dict.fromkeys(name for one in every for name in _names(one.meta or {}, "meta."))
    return [*(["speaker"] if any(one.speaker for one in every) else []), "length", *sorted(meta)]


def check_fields(asked: Sequence[str], facts: Iterable[Facts]) -> None:
    """Refuses a field that no utterance has.

    Raises:
        ConfigError: there is none; it names those there are.
    """
    known = fields(facts) if asked else []
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"no utterance has the field '{name}'{nearest(name, known)} (there are {', '.join(known)})"
            )


def tables(score: Score, by: Sequence[str] = ()) -> list[Table]:
    """A table by speaker (where one is known), one by length, and one for each further field.

    Raises:
        ConfigError: no utterance has such a field.
    """
    check_fields(by, [one.facts for one in score.per_utterance])
    usual = ["speaker", "length"] if any(one.facts.speaker for one in score.per_utterance) else ["length"]
    return [_table(score, name) for name in dict.fromkeys([*usual, *by])]


def commonest_errors(score: Score, limit: int = 10) -> Errors:
    """The most frequent substitutions, deletions and insertions, by count, then in the order of their words."""
    wrong = [(one.reference, one.hypothesis) for one in score.per_utterance if one.counts.errors]
    rows = [row for aligned in align_all(wrong, score.alignment) for row in aligned]
    pairs = Counter(
        (ref, hyp) for kind, ref, hyp in rows if kind == "substitute" and ref is not None and hyp is not None
    )
    deleted = Counter(ref for kind, ref, _ in rows if kind == "delete" and ref is not None)
    inserted = Counter(hyp for kind, _, hyp in rows if kind == "insert" and hyp is not None)
    return Errors(
        [(*words, count) for words, count in _most(pairs, limit)], _most(deleted, limit), _most(inserted, limit)
    )


def worst(score: Score, limit: int) -> list[UtteranceScore]:
    """The utterances with most errors, of those with equally many the shortest first; none without an error."""
    wrong = [one for one in score.per_utterance if one.counts.errors]
    return sorted(wrong, key=lambda one: (-one.counts.errors, one.counts.reference_length))[:limit]


def format_table(table: Table) -> str:
    """The table in aligned columns."""
    header = (table.title, "WER %", "[low, high]", "S", "D", "I", "words", "utterances")
    rows = [header, *(_cells(group) for group in table.groups)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(row) for row in aligned)


def format_errors(errors: Errors) -> str:
    """Three lines: each kind of error, the commonest first."""
    kinds = {
        "substituted": [f"{ref} → {hyp} {count}" for ref, hyp, count in errors.substitutions],
        "deleted": [f"{word} {count}" for word, count in errors.deletions],
        "inserted": [f"{word} {count}" for word, count in errors.insertions],
    }
    return "\n".join(f"{kind + ':':<12} {one_line(', '.join(said)) or 'nothing'}" for kind, said in kinds.items())


def _cells(group: Group) -> tuple[str, ...]:
    wer = group.wer
    numbers = (wer.substitutions, wer.deletions, wer.insertions, wer.reference_length, group.utterances)
    return (one_line(group.value), percent(wer.rate), format_ends((wer.low, wer.high)), *map(str, numbers))


def _table(score: Score, name: str) -> Table:
    title, key_of = name, _values(score.per_utterance, name)
    if name == "length":
        in_seconds = all(one.facts.duration_s is not None for one in score.per_utterance)
        title = "length in seconds" if in_seconds else "length in words"
    members: dict[tuple[Any, str], list[UtteranceScore]] = {}
    for one, key in zip(score.per_utterance, key_of, strict=True):
        members.setdefault(key, []).append(one)
    by_speaker = name != "speaker"
    return Table(name, title, [_group(key[1], members[key], by_speaker) for key in sorted(members)])


def _group(value: str, members: Sequence[UtteranceScore], by_speaker: bool) -> Group:
    counts = [one.counts for one in members]
    speakers = [one.facts.speaker if by_speaker else "" for one in members]
    interval = replace(unit_of(speakers), resamples=RESAMPLES)
    ends = bootstrap_interval(
        [c.errors for c in counts], [c.reference_length for c in counts],
        speakers if interval.unit == "speaker" else None, resamples=RESAMPLES,
    )  # fmt: skip
    return Group(value, len(members), rate_of(counts, ends), interval)


def _values(utterances: Sequence[UtteranceScore], name: str) -> list[tuple[Any, str]]:
    """For each utterance what its group is sorted by, and what it is called."""
    if name == "length":
        seconds = [one.facts.duration_s for one in utterances]
        known = [value for value in seconds if value is not None]
        if len(known) == len(seconds):
            return [_bin(value, SECONDS) for value in known]
        return [_bin(one.counts.reference_length, WORDS) for one in utterances]
    if name == "speaker":
        values: list[Any] = [one.facts.speaker or None for one in utterances]
    else:
        values = [_look_up(one.facts.meta, name.removeprefix("meta.")) for one in utterances]
    return [_value(value) for value in values]


def _bin(value: float, ends: Sequence[int]) -> tuple[Any, str]:
    """Numbers up to and including an end go into its bin."""
    index = next((i for i, end in enumerate(ends) if value <= end), len(ends))
    if index == len(ends):
        return index, f"over {ends[-1]}"
    if index == 0:
        return index, f"up to {ends[0]}" if ends[0] else "0"
    whole = isinstance(value, int)
    first = ends[index - 1] + 1 if whole else ends[index - 1]
    return index, str(ends[index]) if whole and first == ends[index] else f"{first} to {ends[index]}"


def _value(value: Any) -> tuple[Any, str]:
    """Numbers come first, by size; then words; then what is not known."""
    if value is None:
        return (2, 0.0, ""), UNKNOWN
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, value, ""), str(value)  # not as a float: JSON has integers beyond every one
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return (1, 0.0, shown), shown


def _names(meta: Any, prefix: str) -> Iterable[str]:
    for key, value in meta.items():
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _look_up(meta: Any, name: str) -> Any:
    """The value under a dotted name; a key may itself have a dot."""
    if not isinstance(meta, dict):
        return None
    if name in meta and not isinstance(meta[name], dict):
        return meta[name]
    for key, value in meta.items():
        if isinstance(value, dict) and name.startswith(f"{key}."):
            found = _look_up(value, name[len(key) + 1 :])
            if found is not None:
                return found
    return None


def _most(counter: Counter[Any], limit: int) -> list[tuple[Any, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:limit]
