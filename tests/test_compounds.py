"""Compounds: words that one side writes together and the other apart are no errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import DataError
from asr.scoring import compounds, wer
from asr.scoring.compounds import respelled
from asr.scoring.oracle import oracle
from tests.reference.edit_distance import edit_distance

texts = st.lists(st.sampled_from(["a", "b", "ab", "aab", "c"]), max_size=6)


def slow(ref: tuple[str, ...], hyp: tuple[str, ...], known: dict[tuple[int, int], int] | None = None) -> int:
    """The fewest errors by trying everything, with groups of any size."""
    known = {} if known is None else known
    key = len(ref), len(hyp)
    if not ref or not hyp:
        return max(key)
    if key not in known:
        found = [slow(ref[1:], hyp, known) + 1, slow(ref, hyp[1:], known) + 1]
        found.append(slow(ref[1:], hyp[1:], known) + (ref[0] != hyp[0]))
        found += [slow(ref[n:], hyp[1:], known) for n in range(2, len(ref) + 1) if "".join(ref[:n]) == hyp[0]]
        found += [slow(ref[1:], hyp[n:], known) for n in range(2, len(hyp) + 1) if "".join(hyp[:n]) == ref[0]]
        known[key] = min(found)
    return known[key]


@given(texts, texts)
def test_errors_are_the_fewest_with_compounds_and_letters_stay(ref: list[str], hyp: list[str]) -> None:
    spelled, count = respelled(" ".join(ref), " ".join(hyp))
    assert spelled.replace(" ", "") == "".join(hyp)
    assert (count == 0) == (spelled.split() == hyp)
    errors = edit_distance(ref, spelled.split())
    fewest = slow(tuple(ref), tuple(hyp))
    # Respelled words may pair with others than those that they were respelled for.
    assert errors <= fewest <= edit_distance(ref, hyp)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("an air plane", "an airplane", ("an air plane", 1)),
        ("an airplane", "an air plane", ("an airplane", 1)),
        ("never the less so", "nevertheless so", ("never the less so", 1)),
        ("the air plane", "the air plan", ("the air plan", 0)),
        ("ice cream sun shine", "icecream sunshine", ("ice cream sun shine", 2)),
        ("air plane", "air plane airplane", ("air plane airplane", 0)),
        ("", "air plane", ("air plane", 0)),
    ],
)
def test_examples(reference: str, hypothesis: str, expected: tuple[str, int]) -> None:
    assert respelled(reference, hypothesis) == expected


def test_a_score_counts_compounds_only_if_asked() -> None:
    rows = [("u1", "an air plane lands", "an airplane landed"), ("u2", "a b", "a b")]
    merged, plain = wer.score(rows, compounds=True), wer.score(rows)
    assert (merged.wer.errors, merged.wer.reference_length, merged.compounds) == (1, 6, 1)
    assert (plain.wer.errors, plain.compounds) == (3, None)
    assert merged.to_json()["compounds"] == 1 and "compounds" not in plain.to_json()
    assert wer.format_score(merged).endswith("\ncompounds: 1 word written together or apart as in the references")
    # The oracle chooses by the same count.
    found = oracle([("u1", "air plane", ["air plan", "airplane"])], compounds=True)
    assert (found.wer.errors, found.compounds) == (0, 1)


def test_texts_that_are_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compounds, "_CELLS", 3)
    assert respelled("a b c", "x y z") == ("x y z", 0)  # nothing to look for
    with pytest.raises(DataError, match="3 reference words beside 2 words, too many to look for compounds"):
        respelled("air plane lands", "airplane lands")
