"""The decoding benchmark without its peers: the emissions, who is faster at the same errors, the tables."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.tokenizer import CharTokenizer
from asr.decode.greedy import greedy
from asr.decode.types import check_log_probs
from asr.decode.viterbi import spans_of
from asr.errors import DataError
from asr.scoring.wer import score
from benchmarks import report
from benchmarks.emissions import BLURRED, STEPS, SYMBOLS, Emissions, hold_out, load, read_text, save, synthetic
from benchmarks.points import Point, compare, front, speed_ratio

WORDS = "THE OF AND TO IN THAT IT WAS HIS FOR WITH PRISON LONDON JUDGE OFFICER CARRIED EVIDENCE MORNING"


def sentences(count: int, seed: int = 0) -> list[str]:
    """Made-up lines of 125 to 135 letters."""
    drawn = random.Random(seed)
    lines = []
    for _ in range(count):
        line = drawn.choice(WORDS.split())
        while len(line) < 125:
            line += " " + drawn.choice(WORDS.split())
        lines.append(line)
    return lines


@pytest.fixture(scope="module")
def emissions() -> Emissions:
    return synthetic(sentences(64), seed=1)


def test_synthetic_rows_are_log_probabilities_of_ten_seconds(emissions: Emissions) -> None:
    for one_sv in emissions.log_probs:
        check_log_probs(one_sv)
        assert one_sv.shape == (STEPS, 29)
        assert one_sv.dtype == np.float32
    assert emissions.seconds == 640


def test_greedy_text_has_about_28_percent_wer(emissions: Emissions) -> None:
    tokenizer = CharTokenizer(SYMBOLS)
    rows = ((str(i), t, greedy(emissions.log_probs[i], tokenizer).text) for i, t in enumerate(emissions.texts))
    wer = score(rows).wer.rate
    assert wer is not None
    assert 0.23 < wer < 0.33  # 28.1 % on book text, whose words are longer


def test_most_steps_are_surely_blank_and_the_others_are_not_certain(emissions: Emissions) -> None:
    all_sv = np.concatenate(emissions.log_probs)
    sure_s = (all_sv[:, 1:] < -5).all(axis=1)
    assert 0.58 < sure_s.mean() < 0.72
    assert 1.3 < (all_sv[~sure_s] >= -5).sum(axis=1).mean() < 2.5  # models trained on AN4: 1.5 and 1.9


def test_probabilities_are_about_right(emissions: Emissions) -> None:
    """A letter that is given 0.2 is said about one time in five: what pruning may count on."""
    tokenizer = CharTokenizer(SYMBOLS)
    given, said = [], []
    for log_probs_sv, text in zip(emissions.log_probs, emissions.texts, strict=True):
        for span in spans_of(log_probs_sv, tokenizer.encode(text), 1, -100.0):
            given.append(np.exp(log_probs_sv[span.start, 1:]))
            said.append(np.arange(1, 29) == span.token)
    p, hit = np.array(given), np.array(said)
    for low, high in ((0.02, 0.1), (0.1, 0.4), (0.6, 0.9)):
        here = (p >= low) & (p < high)
        assert 0.7 < hit[here].mean() / p[here].mean() < 2


def test_blurred_emissions_leave_more_tokens_possible_and_the_greedy_text_as_good(emissions: Emissions) -> None:
    tokenizer = CharTokenizer(SYMBOLS)
    blurred = synthetic(emissions.texts, seed=1, noise=BLURRED)
    possible, wers = [], []
    for each in (emissions, blurred):
        possible.append((np.concatenate(each.log_probs)[:, 1:] >= -5).sum())
        rows = ((str(i), t, greedy(each.log_probs[i], tokenizer).text) for i, t in enumerate(each.texts))
        wers.append(score(rows).wer.rate)
    assert possible[1] > 2 * possible[0]
    assert wers[1] == pytest.approx(wers[0], abs=0.02)


def test_letters_are_lost_and_added_not_only_exchanged(emissions: Emissions) -> None:
    tokenizer = CharTokenizer(SYMBOLS)
    rows = [(str(i), t, greedy(emissions.log_probs[i], tokenizer).text) for i, t in enumerate(emissions.texts)]
    cer = score(rows).cer
    assert min(cer.deletions, cer.insertions) > 0.01 * cer.substitutions > 0


def test_a_seed_gives_the_same_emissions_and_another_seed_others() -> None:
    texts = sentences(2)
    one, again, other = synthetic(texts, seed=3), synthetic(texts, seed=3), synthetic(texts, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(one.log_probs, again.log_probs, strict=True))
    assert not np.array_equal(one.log_probs[0], other.log_probs[0])


def test_a_text_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        synthetic(["A" * 400], seed=0)


def test_saved_emissions_are_read_back(tmp_path: Path) -> None:
    written = synthetic(sentences(2), seed=0)
    save(written, tmp_path / "e.npz")
    read = load(tmp_path / "e.npz")
    assert read.texts == written.texts
    assert read.symbols == SYMBOLS
    assert all(np.array_equal(a, b) for a, b in zip(read.log_probs, written.log_probs, strict=True))


def test_what_is_no_emissions_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    path.write_text("hello")
    with pytest.raises(DataError, match=r"e\.npz"):
        load(path)
    np.savez(path, texts=np.array(["A"]), symbols=np.array(["A"]), log_probs_0=np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"e\.npz"):
        load(path)


def test_held_out_lines_are_not_in_the_language_models_text() -> None:
    lines = [f"{line} {i % 7 * 'X'}".strip() for i, line in enumerate(dict.fromkeys(sentences(300)))]
    held, rest = hold_out(lines, 20, seed=0)
    assert len(held) == 20
    assert not set(held) & set(rest)
    assert sorted(held + rest) == sorted(lines)
    assert hold_out(lines, 20, seed=0) == (held, rest)


def test_too_short_a_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ONE LINE\n")
    with pytest.raises(DataError, match="at least 2000"):
        read_text(path)


def point(rate: float, errors: int, decoder: str = "ours, numba", with_lm: bool = True, **settings: float) -> Point:
    """A point of so many utterances a second and errors in 100 words."""
    made = Point(decoder, settings, with_lm, seconds=[1 / rate] * 3)
    made.texts = {0: " ".join(["B"] * errors + ["A"] * (100 - errors))}
    made.count_errors(["A " * 100])
    return made


def test_a_point_knows_its_median_speed_and_its_errors() -> None:
    made = point(10, 7)
    made.seconds = [0.1, 0.5, 0.2]
    assert made.rate == 5
    assert made.wer == 0.07


def test_the_front_leaves_out_what_is_slower_and_no_better() -> None:
    fast, middle, good = point(100, 9), point(50, 6), point(10, 3)
    assert front([good, point(40, 6), fast, point(9, 3), point(60, 12), middle]) == [fast, middle, good]


def test_the_fastest_of_ours_with_no_more_errors_is_compared() -> None:
    ours = [point(1000, 8), point(500, 5), point(900, 5), point(100, 2)]
    theirs = [point(10, 5), point(50, 10), point(1, 1)]
    rows = compare(ours, theirs)
    assert [(row.theirs.wer, row.ours.rate if row.ours else None) for row in rows] == [
        (0.1, pytest.approx(1000)), (0.05, pytest.approx(900)), (0.01, None),
    ]  # fmt: skip
    assert [row.ratio for row in rows] == [pytest.approx(20), pytest.approx(90), None]


def test_a_ratio_is_paired_by_round_so_that_drift_cancels() -> None:
    ours, theirs = point(1, 0), point(1, 0)
    ours.seconds, theirs.seconds = [1.0, 10.0, 2.0], [5.0, 50.0, 10.0]
    assert speed_ratio(ours, theirs) == 5


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_every_point_is_on_the_front_or_beaten_by_one_on_it(drawn: list[tuple[int, int]]) -> None:
    points = []
    for rate, errors in drawn:
        made = Point("x", {}, True, seconds=[1 / rate])
        made.texts = {0: " ".join(["B"] * errors + ["A"] * (20 - errors))}
        made.count_errors(["A " * 20])
        points.append(made)
    best = front(points)
    for made in points:
        assert any(b.rate >= made.rate and b.wer <= made.wer for b in best)
    for a, b in pairwise(best):
        assert a.rate > b.rate
        assert a.wer > b.wer


def result_of(points: list[Point]) -> dict[str, object]:
    times = dict.fromkeys(("import", "language model", "decoder", "first utterance"), 0.1)
    return {
        "emissions": {"utterances": 1, "words": 1, "steps": 1, "vocabulary": 29, "surely_blank": 0.6, "greedy_wer": 0.3,
                      "lm_ngrams": [1, 2]},
        "machine": {"processor": "P", "versions": {"kenlm": "0.3"}, "python": "3", "commit": "abc"},
        "points": points, "weights": {}, "missing": ["a peer is left out"], "seconds": 1.0,
        "threads": {"one": 1.0, "two": 1.9, "gain": 1.9}, "startup": {"cold": times, "warm": times},
    }  # fmt: skip


def peer_points() -> list[Point]:
    points = [
        point(700, 3, beam_width=100), point(10, 3, "pyctcdecode"), point(50, 2, "flashlight, lexicon"),
        point(30, 3, "ours, plain Python"), point(800, 9, with_lm=False, beam_width=100),
        point(100, 9, "fast-ctc-decoder", with_lm=False, beam_size=100, beam_cut_threshold=0.0067),
    ]  # fmt: skip
    for each in points:
        each.kind = "defaults"
    return points


@pytest.mark.parametrize("markdown", [False, True])
def test_the_tables_state_every_target_with_its_number(markdown: bool) -> None:
    text = report.tables(result_of(peer_points()), markdown)
    lines = "\n".join(line for line in text.splitlines() if ">= " in line or "< " in line)
    assert "70.0 to 70.0 x" in lines  # pyctcdecode: met
    assert "1 of 1 WERs not reached" in lines  # flashlight makes fewer errors than any point of ours
    assert "8.0 to 8.0 x" in lines
    assert "a peer is left out" in text
    assert lines.count("MISSED") == 1


def test_widths_are_compared_one_by_one_and_a_width_with_more_errors_is_named() -> None:
    points = peer_points()
    for width, wer in ((2, 9), (100, 4)):
        points += [
            Point("ours, numba", {"beam_width": width}, True, "width", seconds=[0.1] * 3),
            Point("ctc-beam-decoder", {"beam_width": width}, True, "width", seconds=[0.7] * 3),
        ]
        points[-2].score, points[-1].score = point(1, wer).score, point(1, 5).score
    lines = report.tables(result_of(points), markdown=True).splitlines()
    assert "| 100 | 10.0 | 4.00 | 1.4 | 5.00 | 7.0 x |" in lines
    assert any("width 100 | >= 6 x | 7.0 x | met" in line for line in lines)
    assert any("ctc-beam-decoder at width 2: 9.00 beside 5.00 %" in line and "MISSED" in line for line in lines)


def test_a_peer_that_is_absent_is_not_called_beaten() -> None:
    points = [each for each in peer_points() if each.decoder != "fast-ctc-decoder"]
    lines = report.tables(result_of(points), False).splitlines()
    target = next(line for line in lines if "fast-ctc-decoder, no LM" in line)
    assert "not measured" in target
    assert " met" not in target


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.draw(result_of(peer_points()), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
