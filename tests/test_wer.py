"""Error rates: the counts are optimal, the interval is the bootstrap's, and the files of ``asr score`` are read."""

import json
import random
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ConfigError, DataError
from asr.scoring import files, wer
from asr.scoring.bootstrap import Interval, bootstrap_interval
from asr.scoring.files import compare_files
from asr.scoring.info import UtteranceInfo
from asr.scoring.wer import Counts, Rate
from tests.reference.edit_distance import edit_distance
from tests.test_transcripts import jsonl, write

# Four words only, so that matches, repeats and several equally good alignments are common.
words = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=8)
texts = st.text(alphabet="ab \u00e9\u0130\n\U0001f600", max_size=12)


# Counts and alignment


def test_edit_distance_oracle_knows_the_textbook_example() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3
    assert edit_distance("abc", "") == 3


@given(words, words)
def test_word_counts_are_those_of_an_optimal_alignment(reference: list[str], hypothesis: list[str]) -> None:
    (counts,) = wer.word_counts([(" ".join(reference), " ".join(hypothesis))])
    assert counts.errors == edit_distance(reference, hypothesis)
    assert counts.reference_length == len(reference)
    assert len(reference) - counts.deletions + counts.insertions == len(hypothesis)


@given(texts, texts)
def test_char_counts_are_those_of_an_optimal_alignment(reference: str, hypothesis: str) -> None:
    ref, hyp = " ".join(reference.split()), " ".join(hypothesis.split())
    (counts,) = wer.char_counts([(reference, hypothesis)])
    assert counts.errors == edit_distance(ref, hyp)
    assert counts.reference_length == len(ref)
    assert len(ref) - counts.deletions + counts.insertions == len(hyp)


@given(st.lists(st.tuples(st.text("ab ", max_size=12), st.text("ab ", max_size=12)), min_size=1, max_size=5))
def test_counts_are_those_of_jiwer(pairs: list[tuple[str, str]]) -> None:
    import jiwer

    for (reference, hypothesis), counts in zip(pairs, wer.word_counts(pairs), strict=True):
        words = [[text.split()] for text in (reference, hypothesis)]
        theirs = jiwer.process_words(*words, list, list)
        assert (counts.substitutions, counts.deletions, counts.insertions) == (
            theirs.substitutions,
            theirs.deletions,
            theirs.insertions,
        )


@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_counts_of_many_pairs_are_the_counts_of_each(pairs: list[tuple[str, str]]) -> None:
    assert wer.word_counts(pairs) == [wer.word_counts([pair])[0] for pair in pairs]
    assert wer.char_counts(pairs) == [wer.char_counts([pair])[0] for pair in pairs]


@given(words, words)
def test_alignment_rebuilds_both_texts_and_has_the_counted_operations(ref: list[str], hyp: list[str]) -> None:
    rows = wer.align(" ".join(ref), " ".join(hyp))
    (counts,) = wer.word_counts([(" ".join(ref), " ".join(hyp))])
    assert [r for _, r, _ in rows if r is not None] == ref
    assert [h for _, _, h in rows if h is not None] == hyp
    for op, r, h in rows:
        assert {"equal": r is not None and r == h, "delete": h is None, "insert": r is None}.get(op, r != h)
        assert op != "substitute" or (r is not None and h is not None)
    found = [op for op, _, _ in rows]
    expected = (counts.substitutions, counts.deletions, counts.insertions)
    assert (found.count("substitute"), found.count("delete"), found.count("insert")) == expected


def test_alignment_names_each_kind_of_error() -> None:
    assert wer.align("the cat sat down", "the hat sat") == [
        ("equal", "the", "the"),
        ("substitute", "cat", "hat"),
        ("equal", "sat", "sat"),
        ("delete", "down", None),
    ]
    assert wer.align("", "uh um") == [("insert", None, "uh"), ("insert", None, "um")]
    assert wer.align("", "") == []


def test_words_are_split_at_any_white_space() -> None:
    assert wer.word_counts([(" a\tb\u00a0c\n", "a b  c")]) == [Counts(0, 0, 0, 3)]


def test_case_and_punctuation_count_as_errors() -> None:
    assert wer.word_counts([("Yes it is.", "yes it is")]) == [Counts(2, 0, 0, 3)]


def test_char_counts_count_the_space_between_words_once() -> None:
    assert wer.char_counts([(" ab   c ", "ab c")]) == [Counts(0, 0, 0, 4)]
    assert wer.char_counts([("ab c", "abc")]) == [Counts(0, 1, 0, 4)]


def test_char_counts_count_code_points_not_bytes() -> None:
    assert wer.char_counts([("na\u00efve", "naive")]) == [Counts(1, 0, 0, 5)]
    assert wer.char_counts([("\u65e5\u672c\u8a9e", "\u65e5\u672c")]) == [Counts(0, 1, 0, 3)]
    # No normalisation: a composed and a decomposed e-acute differ.
    assert wer.char_counts([("\u00e9", "e\u0301")])[0].errors == 2


def test_counts_add_field_by_field() -> None:
    assert Counts(1, 2, 3, 4) + Counts(10, 20, 30, 40) == Counts(11, 22, 33, 44)
    assert Counts(1, 2, 3, 4).errors == 6


# Rates


def test_rate_pools_errors_over_utterances_before_dividing() -> None:
    # The mean of the utterances' own rates would be (1 + 0) / 2.
    result = wer.score([("u1", "a", "b"), ("u2", "a b c", "a b c")])
    assert result.wer.rate == 1 / 4
    assert result.utterances == 2
    assert [u.counts.errors for u in result.per_utterance] == [1, 0]


def test_rate_above_one_is_not_clipped() -> None:
    result = wer.score([("u1", "a", "b c d")])
    assert result.wer.rate == 3.0
    assert (result.wer.low, result.wer.high) == (3.0, 3.0)


def test_wer_of_empty_reference_counts_insertions() -> None:
    result = wer.score([("u1", "", "uh um"), ("u2", "a b c d", "a b c d")])
    assert result.per_utterance[0].counts == Counts(0, 0, 2, 0)
    assert result.wer.rate == 2 / 4
    assert result.wer.insertions == 2


def test_wer_without_any_reference_is_undefined_when_there_are_errors() -> None:
    row = wer.score([("u1", "", "uh um"), ("u2", " ", "")]).wer.to_json()
    assert (row["rate"], row["low"], row["high"]) == (None, None, None)
    assert (row["insertions"], row["reference_words"]) == (2, 0)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_wer_without_any_reference_is_zero_when_there_are_no_errors() -> None:
    result = wer.score([("u1", "", ""), ("u2", " ", "")])
    assert (result.wer.rate, result.wer.low, result.wer.high) == (0.0, 0.0, 0.0)


def test_score_of_no_utterances_is_an_error() -> None:
    with pytest.raises(DataError, match="no utterances to score"):
        wer.score([])


def test_score_json_has_the_keys_of_the_command() -> None:
    result = wer.score([("u1", "a b", "a c d"), ("u2", "e", "e")])
    row = result.to_json()
    common = ["rate", "low", "high", "substitutions", "deletions", "insertions"]
    assert list(row["wer"]) == [*common, "reference_words"]
    assert list(row["cer"]) == [*common, "reference_characters"]
    assert list(row) == ["wer", "cer", "utterances", "interval", "alignment", "normalization"]
    assert row["interval"] == {"unit": "utterance", "units": 2, "level": 0.95, "resamples": 10_000}
    assert (row["alignment"], row["normalization"]) == ("levenshtein", "none")
    assert row["utterances"] == 2
    assert row["wer"]["rate"] == 2 / 3
    assert (row["wer"]["substitutions"], row["wer"]["deletions"], row["wer"]["insertions"]) == (1, 0, 1)
    assert (row["wer"]["reference_words"], row["cer"]["reference_characters"]) == (3, 4)
    assert row["cer"]["rate"] == 3 / 4  # "a b" -> "a c d": one substitution, two insertions


def test_utterance_json_has_the_keys_of_the_hypotheses_file() -> None:
    assert wer.score([("u1", "a b c", "a x")]).per_utterance[0].to_json() == {
        "id": "u1",
        "reference": "a b c",
        "hypothesis": "a x",
        "substitutions": 1,
        "deletions": 1,
        "insertions": 0,
    }


def test_ten_thousand_utterances_are_scored_in_seconds() -> None:
    generator = random.Random(1)
    vocabulary = [f"word{i}" for i in range(500)]
    rows = []
    for i in range(10_000):
        reference = generator.choices(vocabulary, k=15)
        hypothesis = [w if generator.random() > 0.1 else generator.choice(vocabulary) for w in reference]
        rows.append((f"u{i}", " ".join(reference), " ".join(hypothesis)))
    start = time.perf_counter()
    result = wer.score(rows)
    # About 2 s where this was written; a quadratic step would take minutes.
    assert time.perf_counter() - start < 20
    assert result.wer.rate == pytest.approx(0.1, abs=0.01)


def test_a_score_over_speakers_has_the_interval_over_utterances_beside_it() -> None:
    rows = [(f"u{i}", "a b c d", "a x c d" if i % 5 == 1 else "a b c d") for i in range(40)]
    facts = {f"u{i}": UtteranceInfo(f"s{i % 5}") for i in range(40)}
    by_speaker, plain = wer.score(rows, facts), wer.score(rows)
    document = by_speaker.to_json()
    assert (document["interval"]["unit"], document["interval"]["units"]) == ("speaker", 5)
    assert document["interval"]["over_utterances"] == {
        "wer": [plain.wer.low, plain.wer.high],
        "cer": [plain.cer.low, plain.cer.high],
    }
    assert by_speaker.wer.rate == plain.wer.rate
    # One speaker of five makes all the errors.
    assert (by_speaker.wer.low, by_speaker.wer.high) == (0.0, pytest.approx(3 / 5 / 4))
    # One utterance without a speaker, and utterances are drawn.
    assert wer.score(rows, facts | {"u0": UtteranceInfo()}).wer == plain.wer


def test_words_aligned_by_sclite_are_counted_so_throughout() -> None:
    # tests/test_sclite.py works this example by hand.
    result = wer.score([("u1", "v w x a b", "a b p q r")], alignment="sclite")
    assert (result.wer.substitutions, result.wer.deletions, result.wer.insertions) == (0, 3, 3)
    assert result.wer.rate == 6 / 5 and result.alignment == "sclite"
    assert result.cer == wer.score([("u1", "v w x a b", "a b p q r")]).cer
    kinds = [kind for kind, _, _ in wer.align("v w x a b", "a b p q r", "sclite")]
    assert kinds == ["delete"] * 3 + ["equal"] * 2 + ["insert"] * 3


@given(words, words)
def test_sclite_never_has_fewer_errors(reference: list[str], hypothesis: list[str]) -> None:
    pair = [(" ".join(reference), " ".join(hypothesis))]
    (fewest,), (by_sclite,) = wer.word_counts(pair), wer.word_counts(pair, "sclite")
    assert by_sclite.errors >= fewest.errors
    assert by_sclite.deletions - by_sclite.insertions == fewest.deletions - fewest.insertions


# The bootstrap interval


def slow_bootstrap(errors: list[int], lengths: list[int], resamples: int) -> tuple[float, float]:
    """The percentile interval by the book: one draw at a time, percentiles as order statistics."""
    generator = random.Random(7)
    rates = []
    for _ in range(resamples):
        drawn = [generator.randrange(len(errors)) for _ in errors]
        rates.append(sum(errors[i] for i in drawn) / sum(lengths[i] for i in drawn))
    rates.sort()
    return rates[round(0.025 * resamples)], rates[round(0.975 * resamples) - 1]


def test_interval_equals_a_slow_loop_bootstrap() -> None:
    generator = random.Random(3)
    lengths = [generator.randint(1, 20) for _ in range(60)]
    errors = [min(n, generator.choice([0, 0, 1, 2, 6])) for n in lengths]
    slow = slow_bootstrap(errors, lengths, 10_000)
    fast = bootstrap_interval(errors, lengths)
    # A quantile of 10,000 draws has a standard error of about 3 % of the interval's half width.
    assert fast == pytest.approx(slow, abs=0.1 * (slow[1] - slow[0]))


def test_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    lengths = np.full(100, 10)
    covered = 0
    for trial in range(300):
        low, high = bootstrap_interval(generator.binomial(10, 0.2, size=100), lengths, resamples=1000, seed=trial)
        assert low is not None and high is not None
        covered += low <= 0.2 <= high
    # 95 % of 300 is 285, with a standard deviation of 3.8; the percentile interval runs slightly low.
    assert 270 <= covered <= 297


def test_interval_draws_utterances_not_words() -> None:
    # All errors in half of the utterances: as words, the interval would be about a third as wide.
    low, high = bootstrap_interval([10, 0] * 20, [10] * 40)
    assert low is not None and high is not None
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=30))
def test_interval_contains_the_rate(rows: list[tuple[int, int]]) -> None:
    errors, lengths = [e for e, _ in rows], [n for _, n in rows]
    low, high = bootstrap_interval(errors, lengths, resamples=1000)
    assert low is not None and high is not None
    assert low <= sum(errors) / sum(lengths) <= high


def test_interval_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    errors, lengths = [0, 1, 2, 5] * 10, [5, 6, 7, 8] * 10
    first = bootstrap_interval(errors, lengths, seed=1)
    assert bootstrap_interval(errors, lengths, seed=1) == first
    assert bootstrap_interval(errors, lengths, seed=2) != first


def test_interval_does_not_depend_on_the_block_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, lengths = [0, 1, 2, 5, 3], [5, 6, 7, 8, 9]
    whole = bootstrap_interval(errors, lengths, resamples=1003)
    monkeypatch.setattr("asr.scoring.bootstrap._BLOCK", 50)
    assert bootstrap_interval(errors, lengths, resamples=1003) == whole


def test_interval_of_one_utterance_is_its_rate() -> None:
    assert bootstrap_interval([2], [8]) == (0.25, 0.25)


def test_interval_without_reference_follows_the_empty_reference_rule() -> None:
    assert bootstrap_interval([0, 0], [0, 0]) == (0.0, 0.0)
    assert bootstrap_interval([0, 3], [0, 0]) == (None, None)
    assert bootstrap_interval([], []) == (0.0, 0.0)


def test_interval_leaves_out_resamples_without_reference() -> None:
    # Of the four draws of two, one has no reference; the others have rates 0 (both the second), 1 and 1.
    assert bootstrap_interval([2, 0], [0, 2]) == (0.0, 1.0)


def test_interval_is_undefined_when_every_resample_is_left_out() -> None:
    found = {bootstrap_interval([1] * 9 + [0], [0] * 9 + [1], resamples=1, seed=seed) for seed in range(20)}
    assert (None, None) in found
    assert len(found) > 1


def test_interval_of_ten_thousand_utterances_takes_seconds_and_little_memory() -> None:
    generator = np.random.default_rng(0)
    errors, lengths = generator.integers(0, 5, 10_000), generator.integers(1, 30, 10_000)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        bootstrap_interval(errors, lengths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All indices at once would be 800 MB; a loop over utterances would take minutes.
    assert time.perf_counter() - start < 10
    assert peak < 50e6


# Files


def test_score_files_pairs_by_id_and_returns_what_is_missing(tmp_path: Path) -> None:
    ref = jsonl(tmp_path / "m.jsonl", *({"id": i, "text": "a b"} for i in ("u3", "u1", "u2", "u0")))
    hyp = write(tmp_path / "hyp.txt", "u1 a b\nx2 a\nu3 a c\nx1 b\n")
    result, missing_in_hyp, missing_in_ref = files.score_files(ref, hyp)
    assert [u.id for u in result.per_utterance] == ["u3", "u1"]
    # Ids that are missing count neither as deletions nor as insertions.
    assert (result.wer.rate, result.wer.reference_length) == (1 / 4, 4)
    assert (missing_in_hyp, missing_in_ref) == (["u2", "u0"], ["x2", "x1"])


def test_score_files_reads_both_sides_of_a_hypotheses_file(tmp_path: Path) -> None:
    rows = wer.score([("u1", "a b", "a c"), ("u2", "", "")]).per_utterance
    path = jsonl(tmp_path / "hyp.jsonl", *(row.to_json() for row in rows))
    result, missing_in_hyp, missing_in_ref = files.score_files(path, path)
    assert result.per_utterance == rows
    assert missing_in_hyp == missing_in_ref == []


def test_score_files_keeps_what_the_references_say_of_an_utterance(tmp_path: Path) -> None:
    ref = jsonl(tmp_path / "m.jsonl", {"id": "u1", "text": "A", "speaker": "anna"}, {"id": "u2", "text": "B"})
    hyp = jsonl(
        tmp_path / "h.jsonl",
        {"id": "u1", "hypothesis": "a", "speaker": "other"},
        {"id": "u2", "hypothesis": "b", "duration_s": 1},
    )
    result, *_ = files.score_files(ref, hyp, normalization="lower")
    assert result.wer.errors == 0 and result.normalization == "lower"
    assert [u.info for u in result.per_utterance] == [UtteranceInfo("anna"), UtteranceInfo(duration_s=1.0)]
    assert [u.reference for u in result.per_utterance] == ["a", "b"]
    assert result.per_utterance[0].to_json()["speaker"] == "anna"
    with pytest.raises(ConfigError, match="unknown text normalization 'lwer'"):
        files.score_files(ref, hyp, normalization="lwer")


def test_score_files_without_common_id_shows_one_of_each(tmp_path: Path) -> None:
    ref, hyp = write(tmp_path / "ref", "spk-u1 a\n"), write(tmp_path / "hyp", "u1 a\n")
    with pytest.raises(DataError, match=r"no id in common with .*ref: for example 'u1' here, 'spk-u1' there") as caught:
        files.score_files(ref, hyp)
    assert caught.value.path == hyp


# For people


def test_format_score_gives_rates_intervals_and_counts() -> None:
    word_rate = Rate(40, 12, 10, 773, 0.0802, 0.061, 0.1005)
    char_rate = Rate(1, 0, 0, 3200, 0.0312, 0.02, 0.04, "characters")
    interval = Interval("utterance", 130)
    assert wer.format_score(wer.Score(word_rate, char_rate, 130, [], interval)).splitlines() == [
        "WER 8.02 % [6.10, 10.05]  (62 errors: 40 sub, 12 del, 10 ins; 773 words, 130 utterances)",
        "CER 3.12 % [2.00, 4.00]  (1 error: 1 sub, 0 del, 0 ins; 3200 characters)",
        "[low, high]: 95 % percentile bootstrap over 130 utterances",
    ]
    over_utterances = ((0.05, 0.11), (0.0231, None))
    by_speaker = wer.Score(word_rate, char_rate, 130, [], Interval("speaker", 10), over_utterances, "sclite")
    assert wer.format_score(by_speaker).splitlines()[2:] == [
        "[low, high]: 95 % percentile bootstrap over 10 speakers "
        "(over utterances: WER [5.00, 11.00], CER [2.31, undefined])",
        "aligned with the costs of sclite",
    ]


def test_format_score_says_undefined_for_errors_without_reference() -> None:
    first = wer.format_score(wer.score([("u1", "", "uh um")])).splitlines()[0]
    assert first == "WER undefined  (2 errors: 0 sub, 0 del, 2 ins; 0 words, 1 utterance)"


def test_what_either_file_knows_of_an_utterance_counts(tmp_path: Path) -> None:
    speakers = [f"s{i % 6}" for i in range(12)]
    hyps = [{"id": f"u{i}", "hypothesis": "a", "speaker": s, "meta": {"n": i, "x": 1}} for i, s in enumerate(speakers)]
    refs = [{"id": f"u{i}", "text": "a b", "duration_s": 1.5, "meta": {"x": 2}} for i in range(12)]
    refs[0]["speaker"] = "other"
    paths = jsonl(tmp_path / "ref.jsonl", *refs), jsonl(tmp_path / "hyp.jsonl", *hyps)
    found, _, _ = files.score_files(*paths)
    assert found.interval.drawn == "7 speakers"
    first, second = (one.info for one in found.per_utterance[:2])
    assert first == UtteranceInfo("other", 1.5, {"n": 0, "x": 2}) and second == UtteranceInfo(
        "s1", 1.5, {"n": 1, "x": 2}
    )
    result, _ = compare_files(paths[0], paths[1], paths[1])
    assert result.interval.drawn == "7 speakers"
