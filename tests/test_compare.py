"""Two systems on the same references: the paired bootstrap, the conclusion, and the files they come from."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from asr.errors import DataError
from asr.scoring import wer
from asr.scoring.compare import Comparison, compare, conclusion, format_comparison
from asr.scoring.files import compare_files
from asr.scoring.info import UtteranceInfo
from tests.test_transcripts import jsonl, write

SPEAKERS = {f"u{i}": UtteranceInfo(f"s{i % 8}") for i in range(400)}


def systems(rate_a: float, rate_b: float, n: int = 120, seed: int = 0) -> list[tuple[str, str, str, str]]:
    """References of 10 words, and two systems that get words wrong at these rates."""
    generator = random.Random(seed)
    rows = []
    for i in range(n):
        reference = generator.choices("abcdefgh", k=10)
        hypotheses = [
            " ".join("x" if generator.random() < rate else word for word in reference) for rate in (rate_a, rate_b)
        ]
        rows.append((f"u{i}", " ".join(reference), *hypotheses))
    return rows  # type: ignore[return-value]


def test_the_difference_is_that_of_the_two_rates_and_each_is_scored_as_alone() -> None:
    rows = systems(0.3, 0.1)
    result = compare(rows, SPEAKERS)
    alone = [wer.score([(row[0], row[1], row[side]) for row in rows], SPEAKERS) for side in (2, 3)]
    assert [result.a, result.b] == alone
    assert result.difference == pytest.approx((alone[0].wer.rate or 0) - (alone[1].wer.rate or 0))
    assert result.interval.drawn == "8 speakers"
    assert compare(rows).interval.drawn == "120 utterances"


@pytest.mark.parametrize("facts", [None, SPEAKERS])
def test_the_paired_interval_equals_a_slow_loop(facts) -> None:
    rows = systems(0.25, 0.2, n=60)
    result = compare(rows, facts)
    units: dict[str, list[tuple[int, int, int]]] = {}
    for one, other in zip(result.a.per_utterance, result.b.per_utterance, strict=True):
        key = facts[one.id].speaker if facts else one.id
        units.setdefault(key, []).append((one.counts.errors, other.counts.errors, one.counts.reference_length))
    generator = random.Random(9)
    names, found = list(units), []
    for _ in range(10_000):
        drawn = [row for _ in names for row in units[generator.choice(names)]]
        found.append(sum(a - b for a, b, _ in drawn) / sum(n for *_, n in drawn))
    found.sort()
    slow = found[250], found[9749]
    assert result.ends == pytest.approx(slow, abs=0.1 * (slow[1] - slow[0]))
    better = (sum(d > 0 for d in found) + sum(d == 0 for d in found) / 2) / len(found)
    assert result.better_b == pytest.approx(better, abs=0.02)


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    # Both fail on the same half of the utterances; B makes one error fewer in most of these.
    rows = []
    for i in range(100):
        a, b = ("x x x x x", "x x x x e" if i % 3 else "x x x x x") if i % 2 else ("a b c d e", "a b c d e")
        rows.append((f"u{i}", "a b c d e", a, b))
    result = compare(rows)
    low, high = result.ends
    assert low is not None and high is not None and result.b.wer.low is not None and result.b.wer.high is not None
    assert high - low < 0.3 * (result.b.wer.high - result.b.wer.low)
    assert result.verdict == "b"


def test_swapping_the_systems_turns_the_signs() -> None:
    rows = systems(0.3, 0.2)
    one, other = compare(rows), compare([(id_, ref, b, a) for id_, ref, a, b in rows])
    assert other.difference == -one.difference  # type: ignore[operator]
    assert other.ends == pytest.approx((-one.ends[1], -one.ends[0]))  # type: ignore[operator]
    assert other.better_b == pytest.approx(1 - one.better_b)
    assert (other.wins_a, other.wins_b, other.ties) == (one.wins_b, one.wins_a, one.ties)
    assert other.matched_pairs.z == pytest.approx(-(one.matched_pairs.z or 0))
    assert other.matched_pairs.p == pytest.approx(one.matched_pairs.p)


def test_equal_systems_are_found_different_about_as_rarely_as_the_level_says() -> None:
    verdicts = [compare(systems(0.2, 0.2, n=60, seed=seed)).verdict for seed in range(60)]
    # 5 % of 60 is 3; both tests must agree for a verdict.
    assert sum(verdict in ("a", "b") for verdict in verdicts) <= 8


def test_wins_ties_and_the_utterances_that_differ_most() -> None:
    rows = [
        ("u1", "a b", "a x", "a b"),
        ("u2", "a b", "a b", "x y"),
        ("u3", "a", "b", "c"),
        ("u4", "a b", "y x", "a b"),
    ]
    result = compare(rows)
    assert (result.wins_a, result.wins_b, result.ties) == (1, 2, 1)
    assert [(one.id, one.errors_a, one.errors_b) for one in result.differing] == [
        ("u2", 0, 2),
        ("u4", 2, 0),
        ("u1", 1, 0),
    ]


# The conclusion


def test_a_better_system_is_named_with_its_evidence() -> None:
    result = compare(systems(0.3, 0.1), SPEAKERS)
    assert result.verdict == "b"
    sentence = conclusion(result, "base", "new")
    assert sentence.startswith("new is better than base by ") and sentence.count(".\n") == 0
    assert "95 % interval over 8 speakers" in sentence and sentence.endswith("matched pairs p < 0.001.")
    low, high = result.ends
    assert f"[{100 * (low or 0):.2f}, {100 * (high or 0):.2f}]" in sentence
    turned = compare([(id_, ref, b, a) for id_, ref, a, b in systems(0.3, 0.1)], SPEAKERS)
    assert conclusion(turned, "new", "base") == sentence


def test_no_difference_is_said_as_such() -> None:
    sentence = conclusion(compare(systems(0.2, 0.2, n=30, seed=1)))
    assert sentence.startswith("On these 300 words no difference between A and B can be told from chance: A − B is ")


def test_tests_that_disagree_are_said_to() -> None:
    # A has more errors in both utterances, so in every resample; two segments, of 1 and 5 errors more, say little.
    result = compare([("u1", "a b c", "X b c", "a b c"), ("u2", "d e f g h", "X X X X X", "d e f g h")])
    assert result.verdict == "unclear" and (result.matched_pairs.p or 0) > 0.05
    assert conclusion(result).startswith("B may be better than A, but the two tests do not agree: by 75.00 points")
    # All segments differ by the same number: the test is not defined.
    result = compare([("u1", "a b c", "x y z", "a b c"), ("u2", "d e f", "x y z", "d e f")])
    assert (result.verdict, result.matched_pairs.p) == ("unclear", None)
    assert conclusion(result).startswith("B may be better than A by 100.00 points of WER")
    assert conclusion(result).endswith(", but the matched-pairs test is not defined here.")


def test_one_utterance_is_too_little_to_call_a_system_better() -> None:
    right = " ".join(["a b c d"] * 20)
    wrong = " ".join(["a x x d" if i % 3 else "a x c d" for i in range(20)])
    result = compare([("u", right, wrong, right)])
    assert result.ends[0] == result.ends[1] == pytest.approx(result.difference)
    assert (result.matched_pairs.p or 1) < 0.05 and result.verdict == "unclear"
    assert "may be better" in conclusion(result)


def test_the_same_words_are_said_to_be_the_same() -> None:
    result = compare([("u1", "a b", "a x", "a x"), ("u2", "c", "c", "c")])
    assert conclusion(result) == "A and B give the same words in every utterance (2)."
    assert (result.better_b, result.verdict, result.ends) == (0.5, "same", (0.0, 0.0))


def test_references_without_words_give_no_difference() -> None:
    result = compare([("u1", "", "a", ""), ("u2", "", "", "")])
    assert (result.difference, result.ends) == (None, (None, None))
    assert conclusion(result).startswith("Nothing can be said of A and B")
    assert "undefined" in format_comparison(result)
    json.dumps(result.to_json(), allow_nan=False)


def test_the_comparison_is_printed_and_as_json() -> None:
    result = compare(systems(0.3, 0.2, n=20), SPEAKERS)
    said = format_comparison(result, worst=1)
    assert said.count("\n  ref ") == 1 and "segments; fewer than 50, so p is rough" in said
    document = json.loads(json.dumps(result.to_json(2), allow_nan=False))
    assert set(document) == {
        "a",
        "b",
        "difference",
        "probability_b_better",
        "interval",
        "matched_pairs",
        "utterances",
        "verdict",
        "differing",
    }
    assert len(document["differing"]) == 2
    assert document["interval"] == {"unit": "speaker", "units": 8, "level": 0.95, "resamples": 10_000}
    assert document["a"]["wer"]["rate"] == result.a.wer.rate


# Files


def hypotheses(path: Path, rows: list[tuple[str, str, str]], speaker: str = "") -> Path:
    facts = {id_: UtteranceInfo(speaker) for id_, *_ in rows}
    return jsonl(path, *(one.to_json() for one in wer.score(rows, facts).per_utterance))


def test_two_files_that_hold_their_references_need_no_third(tmp_path: Path) -> None:
    a = hypotheses(tmp_path / "a.jsonl", [("u1", "a b", "a x"), ("u2", "c", "c")], "anna")
    b = hypotheses(tmp_path / "b.jsonl", [("u2", "c", "c"), ("u1", "a b", "a b")], "anna")
    result, missing = compare_files(None, a, b)
    assert isinstance(result, Comparison)
    assert (result.a.wer.errors, result.b.wer.errors, missing) == (1, 0, [])
    assert {one.info.speaker for one in result.a.per_utterance} == {"anna"}
    refs = write(tmp_path / "r.txt", "u1 a b\nu2 c\n")
    assert compare_files(refs, a, b)[0] == result


def test_other_references_are_refused_with_the_first_id(tmp_path: Path) -> None:
    a = hypotheses(tmp_path / "a.jsonl", [("u1", "a", "a"), ("u2", "B c", "b"), ("u3", "d", "d")])
    b = hypotheses(tmp_path / "b.jsonl", [("u1", "a", "a"), ("u2", "b c", "b"), ("u3", "e", "d")])
    with pytest.raises(
        DataError,
        match=r"a.jsonl: the references differ, first in 'u2': 'B c' here, 'b c' in .*b.jsonl; they differ in letter",
    ):
        compare_files(None, a, b)
    with pytest.raises(DataError, match="first in 'u3': 'd' here, 'e' in"):
        compare_files(None, a, b, normalization="lower")


@pytest.mark.parametrize("name", ["m.jsonl", "h.trn", "h.txt"])
def test_files_without_references_want_a_third(tmp_path: Path, name: str) -> None:
    content = {"m.jsonl": '{"id": "u1", "text": "a"}\n', "h.trn": "a (u1)\n", "h.txt": "u1 a\n"}[name]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match="holds no references; name a file of them first: compare REFERENCE A B"):
        compare_files(None, path, path)
    assert compare_files(path, path, path)[0].verdict == "same"


def test_ids_that_are_not_in_all_files_are_named_by_file(tmp_path: Path) -> None:
    refs = write(tmp_path / "r", "u1 a\nu2 b\nu3 c\n")
    a, b = write(tmp_path / "a", "u1 a\nu2 b\nu9 x\n"), write(tmp_path / "b", "u1 a\nu3 c\n")
    result, missing = compare_files(refs, a, b)
    assert result.a.utterances == 1
    assert missing == [(a, ["u3"]), (b, ["u2", "u9"]), (refs, ["u9"])]
    with pytest.raises(DataError, match="no id in common"):
        compare_files(refs, a, write(tmp_path / "c", "x a\n"))


def test_ten_thousand_utterances_are_compared_in_seconds() -> None:
    import time

    rows = [(f"v{i}", *row[1:]) for i, row in enumerate(systems(0.1, 0.12, n=2000) * 5)]
    start = time.perf_counter()
    compare(rows)  # type: ignore[arg-type]
    # About 2.5 s where this was written.
    assert time.perf_counter() - start < 20
