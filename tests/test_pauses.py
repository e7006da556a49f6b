from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.recordings import pauses
from asr.recordings.pauses import Piece, cut
from tests.builders import Wave, noise


def speech(
    plan: str, rate_hz: int = 16000, seed: int = 0, room: float = 1e-3
) -> tuple[Wave, list[tuple[float, float]]]:
    """Words of 0.3 to 0.6 s over the noise of a room, and where they are: ``w`` a word, a digit tenths of a pause.

    A word is a voiced buzz, a closure of 60 ms, and a hiss of 80 ms: what a cutter must not take for a pause.
    """
    rng = np.random.default_rng(seed)
    parts: list[Wave] = []
    words: list[tuple[float, float]] = []
    at = 0
    for mark in plan:
        if mark == "w":
            t = np.arange(round(rng.uniform(0.16, 0.46) * rate_hz)) / rate_hz
            pitch_hz = rng.uniform(90, 220)
            buzz = sum(np.sin(2 * np.pi * k * pitch_hz * t) / k for k in range(1, 16)) * np.hanning(len(t)) ** 0.5
            hiss = rng.standard_normal(round(0.08 * rate_hz)) * 0.3
            word = np.concatenate([0.2 * buzz, np.zeros(round(0.06 * rate_hz)), 0.2 * hiss])
            words.append((at / rate_hz, (at + len(word)) / rate_hz))
        else:
            word = np.zeros(round(int(mark) * 0.1 * rate_hz))
        parts.append(word.astype(np.float32))
        at += len(word)
    wave = np.concatenate(parts)
    return (wave + room * rng.standard_normal(len(wave))).astype(np.float32), words


def check(pieces: list[Piece], wave_n: Wave, longest_n: int) -> None:
    """What holds for every cut."""
    for piece in pieces:
        stop_n = piece.start_n + len(piece.wave_n)
        np.testing.assert_array_equal(piece.wave_n, wave_n[piece.start_n : stop_n])
        assert len(piece.wave_n) <= longest_n
        assert piece.start_n <= piece.keep_from_n < piece.keep_to_n <= stop_n
        assert piece.ends == "overlap" or piece.keep_to_n == stop_n
    for one, next_ in itertools.pairwise(pieces):
        assert one.ends != "end"
        assert one.keep_to_n <= next_.keep_from_n
        if one.ends == "overlap":
            assert one.keep_to_n == next_.keep_from_n
            assert one.length_s == pytest.approx((one.start_n + len(one.wave_n) - next_.start_n) / 16000, abs=0.02)
        else:
            assert next_.start_n == next_.keep_from_n
    if pieces:
        assert (pieces[-1].ends, pieces[-1].length_s) == ("end", 0.0)


def seams(pieces: list[Piece], rate_hz: int = 16000) -> list[float]:
    return [piece.keep_to_n / rate_hz for piece in pieces[:-1]]


def in_words(seconds: list[float], words: list[tuple[float, float]], slack_s: float = 0.0) -> list[float]:
    return [at for at in seconds if any(start - slack_s < at < stop + slack_s for start, stop in words)]


@pytest.mark.parametrize("wave_n", [speech("2w1w1w3ww")[0], np.zeros(16000, np.float32), noise(0.001)], ids=len)
def test_a_recording_that_is_short_enough_is_one_piece_as_it_is(wave_n):
    longest_s = len(wave_n) / 16000
    (piece,) = cut([wave_n], 16000, max(0.5, longest_s))
    np.testing.assert_array_equal(piece.wave_n, wave_n)
    assert piece == Piece(piece.wave_n, 0, len(wave_n), 0, len(wave_n), "end", 0.0)


def test_a_sample_more_than_the_longest_gives_two_pieces():
    wave_n, _ = speech("2w1w1w4w1w1w")
    assert len(list(cut([wave_n], 16000, (len(wave_n) - 1) / 16000))) == 2


def test_no_samples_give_no_piece():
    assert list(cut([], 16000, 10)) == list(cut([np.zeros(0, np.float32)], 16000, 10)) == []


def test_the_cut_is_in_the_middle_of_the_longest_pause_in_reach(monkeypatch):
    monkeypatch.setattr(pauses, "_SILENCE_S", 3.0)
    wave_n, words = speech("w1w1w6w1w2w1w1w1w1w1w1w")
    pieces = list(cut([wave_n], 16000, 5))
    check(pieces, wave_n, 80000)
    middle = (words[2][1] + words[3][0]) / 2
    assert seams(pieces)[0] == pytest.approx(middle, abs=0.05)
    assert pieces[0].ends == "pause"
    assert pieces[0].length_s == pytest.approx(0.6, abs=0.08)


PLAN = "w1w1w4w1ww5w1w1w3ww1w6w1w1ww4www7w1w5w1w1w3w" * 3


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("longest_s", [3, 6])
def test_no_cut_is_inside_a_word_at_any_rate(rate_hz, longest_s):
    wave_n, words = speech(PLAN, rate_hz)
    pieces = list(cut([wave_n], rate_hz, longest_s))
    assert {piece.ends for piece in pieces[:-1]} == {"pause"}
    assert not in_words(seams(pieces, rate_hz), words)
    assert max(len(piece.wave_n) for piece in pieces) <= longest_s * rate_hz


def clicks(wave_n: Wave) -> Wave:
    out = wave_n.copy()
    out[:: 16000 * 7 // 10] += 0.7
    return out


CONDITIONS = {
    "digital silence in the pauses": lambda wave_n, rng: np.where(abs(speech(PLAN, room=0)[0]) > 0, wave_n, 0),
    "no room at all": lambda wave_n, rng: speech(PLAN, room=0)[0],
    "noise at 15 dB": lambda wave_n, rng: wave_n + 0.02 * rng.standard_normal(len(wave_n)),
    "hum": lambda wave_n, rng: wave_n + 0.2 * np.sin(2 * np.pi * 50 * np.arange(len(wave_n)) / 16000),
    "an offset": lambda wave_n, rng: wave_n + 0.4,
    "clicks": lambda wave_n, rng: clicks(wave_n),
    "a fade": lambda wave_n, rng: wave_n * np.geomspace(1, 1e-2, len(wave_n)),
    "very soft": lambda wave_n, rng: wave_n * 1e-2,
    "8 bits": lambda wave_n, rng: np.round(wave_n * 127) / 127,
    "noise that starts later": lambda wave_n, rng: (
        wave_n + 0.02 * rng.standard_normal(len(wave_n)) * (np.arange(len(wave_n)) > len(wave_n) / 2)
    ),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_no_cut_is_inside_a_word_under_any_condition(name):
    wave_n, words = speech(PLAN)
    rng = np.random.default_rng(1)
    worse_n = CONDITIONS[name](wave_n, rng).astype(np.float32)
    pieces = list(cut([worse_n], 16000, 6))
    check(pieces, worse_n, 96000)
    assert not in_words(seams(pieces), words)
    # Clicks and a new noise hide some pauses; everywhere else there is one in every reach.
    assert sum(piece.ends == "overlap" for piece in pieces) <= (2 if name.startswith(("clicks", "noise that")) else 0)


def test_without_pauses_the_pieces_overlap_and_meet_at_a_quiet_place():
    wave_n, words = speech("w" * 60)
    pieces = list(cut([wave_n], 16000, 6))
    check(pieces, wave_n, 96000)
    assert {piece.ends for piece in pieces[:-1]} == {"overlap"}
    assert {round(piece.length_s, 2) for piece in pieces[:-1]} == {1.2}  # a fifth of 6 s
    for one, next_ in itertools.pairwise(pieces):  # context at both sides of the seam
        assert one.stop_n - one.keep_to_n == pytest.approx(9600, abs=200)
        assert next_.keep_from_n - next_.start_n == pytest.approx(9600, abs=200)
    # At the border of two words, or in the closure inside one.
    middles = [(start + (stop - start - 0.14) / 2) for start, stop in words]
    assert not [at for at in seams(pieces) if min(abs(at - m) for m in middles) < 0.05]


def test_what_is_never_quiet_overlaps_too_and_nothing_is_lost():
    wave_n = noise(30, amplitude=0.5) * np.repeat(np.random.default_rng(0).uniform(0.1, 1, 300), 1600)
    pieces = list(cut([wave_n.astype(np.float32)], 16000, 4))
    assert [piece.keep_from_n for piece in pieces] == [0, *(piece.keep_to_n for piece in pieces[:-1])]
    assert pieces[-1].keep_to_n == len(wave_n)


def test_long_silence_is_not_given_and_its_length_is_told():
    wave_n, words = speech("w1w1w" + "9" * 20 + "w1w1w")
    pieces = list(cut([wave_n], 16000, 6))
    assert len(pieces) == 2
    first, second = pieces
    assert first.keep_to_n / 16000 == pytest.approx(words[2][1] + 0.15, abs=0.06)
    assert second.keep_from_n / 16000 == pytest.approx(words[3][0] - 0.15, abs=0.06)
    assert (first.ends, first.length_s) == ("pause", pytest.approx(18.0, abs=0.1))
    assert second.keep_to_n == len(wave_n)


def test_a_silence_ends_a_piece_however_short_and_leaves_little_of_itself():
    wave_n, words = speech("w1w6w1w1w6w1w")
    pieces = list(cut([wave_n], 16000, 2.5))
    assert [piece.ends for piece in pieces] == ["pause", "pause", "end"]
    for piece, (first, last) in zip(pieces, ((0, 1), (2, 4), (5, 6)), strict=True):
        assert piece.keep_from_n / 16000 == pytest.approx(words[first][0] - 0.15, abs=0.06) or not first
        assert piece.keep_to_n / 16000 == pytest.approx(words[last][1] + 0.15, abs=0.06) or last == 6


@pytest.mark.parametrize("longest_s", [1, 6, 30])
@pytest.mark.parametrize("room", [0, 1e-3, 0.1])
def test_silence_and_the_noise_of_a_room_give_no_piece(longest_s, room):
    still_n = (np.random.default_rng(2).standard_normal(16000 * 60) * room).astype(np.float32)
    assert list(cut([still_n], 16000, longest_s)) == []


def test_a_click_in_a_long_silence_is_no_speech_but_a_soft_word_is():
    still = "9" * 8
    wave_n, words = speech(still + "w" + still + "w" + still)
    (start, stop) = (round(s * 16000) for s in words[0])
    wave_n[start:stop] *= 0.05  # 26 dB below
    wave_n[16000 * 3] = 0.9
    pieces = list(cut([wave_n], 16000, 6))
    assert len(pieces) == 2
    for piece, (word_start, word_stop) in zip(pieces, words, strict=True):
        assert piece.keep_from_n / 16000 <= word_start - 0.08
        assert piece.keep_to_n / 16000 >= word_stop + 0.08
        assert len(piece.wave_n) < 2 * 16000
    assert [piece.ends for piece in pieces] == ["pause", "end"]


@pytest.mark.parametrize("longest_s", [2, 6])
def test_every_word_is_in_a_kept_part_whatever_the_pauses(longest_s):
    rng = np.random.default_rng(5)
    plan = "".join("w" + "".join(rng.choice(list("1239"), size=rng.choice([0, 1, 6]))) for _ in range(60))
    wave_n, words = speech(plan)
    pieces = list(cut([wave_n], 16000, longest_s))
    kept = np.zeros(len(wave_n), bool)
    for piece in pieces:
        assert not kept[piece.keep_from_n : piece.keep_to_n].any()
        kept[piece.keep_from_n : piece.keep_to_n] = True
    for start, stop in words:
        assert kept[round(start * 16000) : round(stop * 16000)].all()


@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 5), longest_s=st.sampled_from([1.0, 2.5, 6.0]))
def test_the_result_depends_on_the_samples_not_on_the_blocks(data, seed, longest_s):
    plan = "".join(np.random.default_rng(seed).choice(list("www1259"), size=40))
    wave_n, _ = speech(plan, seed=seed)
    borders = sorted(data.draw(st.lists(st.integers(0, len(wave_n)), max_size=12)))
    whole = list(cut([wave_n], 16000, longest_s))
    parts = list(cut(np.split(wave_n, borders), 16000, longest_s))
    check(whole, wave_n, round(longest_s * 16000))
    assert len(whole) == len(parts)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.wave_n, other.wave_n)
        assert replace(one, wave_n=None) == replace(other, wave_n=None)


@pytest.mark.parametrize("plan", ["w1w4", "9", "w"], ids=["speech", "silence", "no pauses"])
def test_memory_does_not_grow_with_the_recording(plan):
    block_n, _ = speech(plan * 5)
    tracemalloc.start()
    for _ in cut(itertools.repeat(block_n, 600 * 16000 // len(block_n)), 16000, 6):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000  # ten minutes are 38 MB of samples


def test_samples_of_any_size_are_survived():
    wave_n, _ = speech(PLAN[:30])
    wave_n[20000:20100] = 1e30
    with np.errstate(all="raise"):
        assert list(cut([wave_n], 16000, 3))


@pytest.mark.parametrize(("rate_hz", "longest_s"), [(16000, 0.2), (16000, float("nan")), (100, 10)])
def test_pieces_that_no_network_can_use_are_refused(rate_hz, longest_s):
    with pytest.raises(ValueError, match="at least"):
        cut([], rate_hz, longest_s)
