"""Tables by group and the commonest errors: they add up to the score, in a fixed order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ConfigError
from asr.scoring import tables as module
from asr.scoring.info import UtteranceInfo
from asr.scoring.tables import check_fields, commonest_errors, format_errors, format_table, tables, worst
from asr.scoring.wer import score


def scored(*rows: tuple[str, str, UtteranceInfo]):
    numbered = [(f"u{i}", ref, hyp) for i, (ref, hyp, _) in enumerate(rows)]
    return score(numbered, {f"u{i}": facts for i, (*_, facts) in enumerate(rows)})


def values(table: module.GroupTable) -> list[str]:
    return [group.value for group in table.groups]


def test_groups_add_up_to_the_whole() -> None:
    generator = random.Random(0)
    rows = [
        (
            " ".join(generator.choices("abc", k=generator.randint(0, 9))),
            " ".join(generator.choices("abc", k=generator.randint(0, 9))),
            UtteranceInfo(f"s{generator.randrange(7)}", generator.random() * 40, {"n": generator.randrange(3)}),
        )
        for _ in range(80)
    ]
    whole = scored(*rows)
    for table in tables(whole, ["meta.n"]):
        assert sum(group.utterances for group in table.groups) == whole.utterances
        for kind in ("substitutions", "deletions", "insertions", "reference_length"):
            assert sum(getattr(group.wer, kind) for group in table.groups) == getattr(whole.wer, kind)
        assert len(set(values(table))) == len(table.groups)
        for group in table.groups:
            if group.wer.rate is not None:
                assert group.wer.low is not None and group.wer.high is not None
                assert group.wer.low <= group.wer.rate <= group.wer.high


def test_there_are_tables_by_speaker_and_length_and_those_asked_for() -> None:
    whole = scored(("a", "a", UtteranceInfo("s", 1.0, {"x": 1})), ("a", "b", UtteranceInfo("t", 2.0)))
    assert [table.field for table in tables(whole)] == ["speaker", "length"]
    assert [table.field for table in tables(whole, ["meta.x", "length", "meta.x"])] == ["speaker", "length", "meta.x"]
    assert [table.field for table in tables(score([("u", "a", "a")]))] == ["length"]


def test_length_is_in_seconds_where_all_are_known_else_in_words() -> None:
    seconds = (0.0, 1.0, 1.01, 30.0, 30.5)
    whole = scored(*(("a b", "a b", UtteranceInfo(duration_s=s)) for s in seconds))
    (table,) = tables(whole)
    assert table.title == "length in seconds"
    assert [(group.value, group.utterances) for group in table.groups] == [
        ("up to 1", 2),
        ("1 to 2", 1),
        ("20 to 30", 1),
        ("over 30", 1),
    ]
    texts = [" ".join("a" * n) for n in (0, 1, 2, 3, 4, 5, 6, 41)]
    (table,) = tables(scored(*((text, text, UtteranceInfo(duration_s=1.0 if text else None)) for text in texts)))
    assert table.title == "length in words"
    assert values(table) == ["0", "1", "2", "3", "4 to 5", "6 to 10", "over 40"]


def test_values_of_any_kind_have_a_fixed_order() -> None:
    metas = [{"x": v} for v in ("b", 10, 9.5, True, "a", [1, 2], None)] + [None, {"x": "a"}, {"y": 1}]
    whole = scored(*(("a", "a", UtteranceInfo(meta=meta)) for meta in metas))
    table = tables(whole, ["meta.x"])[-1]
    assert values(table) == ["9.5", "10", "[1, 2]", "a", "b", "true", "(not known)"]
    assert [group.utterances for group in table.groups] == [1, 1, 1, 2, 1, 1, 3]


def test_fields_inside_meta_are_named_by_dots() -> None:
    whole = scored(
        ("a", "a", UtteranceInfo(meta={"speaker": {"age": 3}, "a.b": 1})),
        ("a", "b", UtteranceInfo(meta={"speaker": {"age": 5}})),
    )
    assert list(whole.per_utterance[0].info.fields()) == ["meta.speaker.age", "meta.a.b"]
    assert values(tables(whole, ["meta.speaker.age"])[-1]) == ["3", "5"]
    assert values(tables(whole, ["meta.a.b"])[-1]) == ["1", "(not known)"]


def test_a_missing_field_is_one_line_that_names_those_there_are() -> None:
    facts = [UtteranceInfo("s", 1.0, {"accent": "x"})]
    check_fields(["speaker", "length", "meta.accent"], facts)
    with pytest.raises(ConfigError) as caught:
        check_fields(["meta.acent"], facts)
    assert str(caught.value) == (
        "no utterance has the field 'meta.acent'; did you mean 'meta.accent'? (there are speaker, length, meta.accent)"
    )
    with pytest.raises(ConfigError, match=r"no utterance has the field 'speaker' \(there are length\)"):
        tables(score([("u", "a", "a")]), ["speaker"])


def test_a_group_s_interval_is_over_speakers_where_it_has_enough() -> None:
    rows = [("a b", "a x", UtteranceInfo(f"s{i}", 1.0, {"room": "big" if i < 6 else "small"})) for i in range(9)]
    table = tables(scored(*rows), ["meta.room"])[-1]
    assert [(group.value, group.interval.drawn) for group in table.groups] == [
        ("big", "6 speakers"),
        ("small", "3 utterances"),
    ]
    by_speaker = tables(scored(*rows))[0]
    assert {group.interval.drawn for group in by_speaker.groups} == {"1 utterance"}


def test_commonest_errors_are_counted_over_all_and_ordered() -> None:
    errors = commonest_errors(
        score(
            [("u1", "the cat sat", "a cat"), ("u2", "the dog", "a dog uh"), ("u3", "in b", "on b"), ("u4", "x", "x uh")]
        )
    )
    assert errors == {
        "substitutions": [
            {"reference": "the", "hypothesis": "a", "count": 2},
            {"reference": "in", "hypothesis": "on", "count": 1},
        ],
        "deletions": [{"reference": "sat", "count": 1}],
        "insertions": [{"hypothesis": "uh", "count": 2}],
    }
    assert format_errors(errors).splitlines() == [
        "substituted: the → a 2, in → on 1",
        "deleted:     sat 1",
        "inserted:    uh 2",
    ]


@given(st.lists(st.tuples(st.text("abc ", max_size=12), st.text("abc ", max_size=12)), min_size=1, max_size=6))
def test_all_errors_together_are_those_of_the_score(pairs: list[tuple[str, str]]) -> None:
    for alignment in ("levenshtein", "sclite"):
        whole = score([(f"u{i}", *pair) for i, pair in enumerate(pairs)], alignment=alignment)  # type: ignore[arg-type]
        every = commonest_errors(whole, 1000)
        for kind, rows in every.items():
            assert sum(row["count"] for row in rows) == getattr(whole.wer, kind)


def test_at_most_ten_of_each_kind_the_rest_by_the_alphabet() -> None:
    letters = [chr(ord("z") - i) for i in range(20)]
    errors = commonest_errors(score([(f"u{i}", letter, "") for i, letter in enumerate(letters)]))
    assert errors["deletions"] == [{"reference": letter, "count": 1} for letter in sorted(letters)[:10]]


def test_the_worst_have_most_errors_then_fewest_words_then_come_first() -> None:
    whole = score(
        [("u1", "a", "a"), ("u2", "a b c", "x"), ("u3", "a b", "x"), ("u4", "c d", "y"), ("u5", "a b c d", "q")]
    )
    assert [one.id for one in worst(whole, 10)] == ["u5", "u2", "u3", "u4"]
    assert [one.id for one in worst(whole, 2)] == ["u5", "u2"]


def test_a_table_is_printed_in_columns() -> None:
    whole = scored(("a b", "a x", UtteranceInfo("anna")), ("a", "a", UtteranceInfo("bo")))
    assert format_table(tables(whole)[0]).splitlines() == [
        "speaker  WER %     [low, high]  S  D  I  words  utterances",
        "anna     50.00  [50.00, 50.00]  1  0  0      2           1",
        "bo        0.00    [0.00, 0.00]  0  0  0      1           1",
    ]


def test_what_is_printed_stays_on_its_line_whatever_it_holds() -> None:
    evil = "a\x1b[31m\n\u2028b"
    whole = scored(("x\x1b", "\x07", UtteranceInfo(evil)))
    assert len(format_table(tables(whole)[0]).splitlines()) == 2
    printed = format_table(tables(whole)[0]) + format_errors(commonest_errors(whole))
    assert all(c.isprintable() or c == "\n" for c in printed)


def test_a_field_may_hold_integers_beyond_every_float() -> None:
    facts = {f"u{i}": UtteranceInfo(meta={"n": value}) for i, value in enumerate((10**400, 2, 1.5, True, None))}
    result = score([(id_, "a", "a") for id_ in facts], facts)
    found = next(table for table in tables(result, ["meta.n"]) if table.field == "meta.n")
    assert [group.value for group in found.groups] == ["1.5", "2", str(10**400), "true", "(not known)"]
