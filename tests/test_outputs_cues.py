"""Subtitles for readers: how words become cues, and what stays on the screen for how long."""

from __future__ import annotations

from itertools import pairwise

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from asr.decode.types import TimedWord
from asr.errors import ConfigError
from asr.outputs import Layout, render
from asr.outputs.cues import LONGEST_MS, PAUSE_MS, SHORTEST_MS, balanced, columns, cues, written
from asr.outputs.timing import segments, to_ms
from asr.transcript import Segment, Transcript
from tests.test_outputs import letters, transcript, words

layouts = st.builds(Layout, st.booleans(), st.integers(5, 50), st.integers(1, 4))


def said(text: str, word_s: float = 0.3, gap_s: float = 0.1, start_s: float = 0.0) -> list[TimedWord]:
    """The words of a text, all of one length."""
    step_s = word_s + gap_s
    return [
        TimedWord(word, start_s + i * step_s, start_s + i * step_s + word_s) for i, word in enumerate(text.split(" "))
    ]


def shown(given_words: list[TimedWord], layout: Layout = Layout(), duration_s: float | None = None) -> list[str]:
    """The text of each cue, lines separated by a bar."""
    found = cues(transcript(given_words, duration_s=duration_s), layout)
    return [" | ".join(written(line) for line in cue.lines) for cue in found]


@given(words(letters).map(transcript), layouts)
def test_no_line_is_too_wide_and_no_cue_too_high_or_too_long(one, layout):
    for cue in cues(one, layout):
        assert 1 <= len(cue.lines) <= layout.max_line_count
        assert all(len(line) == 1 or columns(written(line)) <= layout.max_line_width for line in cue.lines)
        assert 0 < cue.end_ms - cue.start_ms <= LONGEST_MS


@given(words().map(transcript), layouts)
def test_cues_never_overlap_and_keep_the_order_of_words(one, layout):
    found = cues(one, layout)
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))
    pieces = [piece for cue in found for line in cue.lines for piece in line]
    assert [piece.start_ms for piece in pieces] == sorted(piece.start_ms for piece in pieces)


@given(words(letters).map(transcript))
def test_no_cue_goes_over_a_pause_or_the_end_of_a_segment(one):
    ends = {segment.words[-1].end_ms for segment in segments(one)}
    for cue in cues(one, Layout()):
        pieces = [piece for line in cue.lines for piece in line]
        for a, b in pairwise(pieces):
            assert b.start_ms - a.end_ms <= PAUSE_MS
            assert a.end_ms not in ends or a.end_ms == b.start_ms or b.end_ms == a.end_ms


@given(words(letters).map(transcript))
def test_a_cue_stays_for_a_second_where_there_is_room_and_never_ends_before_its_words_without_need(one):
    found = cues(one, Layout())
    for i, cue in enumerate(found):
        room = found[i + 1].start_ms if i + 1 < len(found) else to_ms(one.duration_s)
        assert cue.end_ms >= min(cue.start_ms + SHORTEST_MS, room) or cue.end_ms == cue.start_ms + 1
        last = cue.lines[-1][-1].end_ms
        assert cue.end_ms >= min(last, cue.start_ms + LONGEST_MS, room)


def test_a_short_text_is_one_line_and_a_longer_one_two_of_like_length():
    assert shown(said("GO ON")) == ["GO ON"]
    assert shown(said("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG NOW", 0.2, 0.05)) == [
        "THE QUICK BROWN FOX JUMPS | OVER THE LAZY DOG NOW"
    ]


def test_a_long_run_is_divided_into_cues_of_like_length_not_one_full_and_one_word():
    text = " ".join(f"WORD{i}" for i in range(14))  # 87 characters: a little more than one cue holds
    first, second = shown(said(text, 0.2, 0.05))
    assert abs(len(first) - len(second)) <= 14


def test_a_cue_ends_at_a_sentence_or_a_pause_rather_than_inside():
    text = "we went to the sea that day, and it was cold. nobody swam but the children, who never feel it at all"
    assert shown(said(text, 0.15, 0.02))[0].endswith("cold.")
    early, late = said("a b c d e f g h i j k l m n o p q r s t", 0.2), said("u v w x y z", 0.2, start_s=6.6)
    assert shown(early + late)[-1].startswith("u v")


def test_a_word_wider_than_the_line_stands_on_a_line_of_its_own():
    layout = Layout(max_line_width=10)
    assert shown(said("an INCOMPREHENSIBLE word"), layout) == ["an | INCOMPREHENSIBLE", "word"]


def test_a_word_that_is_held_for_long_leaves_the_screen_after_seven_seconds():
    (cue,) = cues(transcript([TimedWord("aaah", 1.0, 20.0)]), Layout())
    assert (cue.start_ms, cue.end_ms) == (1000, 8000)


def test_a_long_text_without_spaces_is_divided_between_its_characters():
    sentence = "今天天气很好，我们一起去公园散步吧。明天可能会下雨，所以今天要多走一走"
    found = cues(transcript([TimedWord(sentence, 0.0, 12.0)]), Layout(max_line_width=20))
    assert "".join(written(line) for cue in found for line in cue.lines) == sentence
    assert all(columns(written(line)) <= 20 for cue in found for line in cue.lines)
    assert not any(written(line)[0] in "，。" for cue in found for line in cue.lines)
    assert max(cue.end_ms - cue.start_ms for cue in found) <= LONGEST_MS
    assert shown([TimedWord("你好", 0.0, 1.0), TimedWord("世界", 1.0, 2.0)]) == ["你好 世界"]


def test_the_last_cue_does_not_outlast_the_recording():
    (cue,) = cues(transcript([TimedWord("GO", 1.0, 1.2)], duration_s=1.5), Layout())
    assert cue.end_ms == 1500


def test_words_that_take_no_time_at_one_place_still_follow_one_another():
    one = Transcript("a", "", 1.0, 0.0, tuple(Segment(0.5, 0.5, w, (TimedWord(w, 0.5, 0.5),)) for w in "abc"))
    assert [(cue.start_ms, cue.end_ms) for cue in cues(one, Layout())] == [(500, 501), (501, 502), (502, 1000)]


@given(st.lists(letters, min_size=2, max_size=12), st.data())
def test_two_lines_are_as_short_as_two_lines_can_be(texts, data):
    (cue,) = cues(transcript(said(" ".join(texts))), Layout(max_line_width=500))
    (pieces,) = cue.lines
    shortest = min(max(len(written(pieces[:i])), len(written(pieces[i:]))) for i in range(1, len(pieces)))
    width = data.draw(st.integers(shortest, len(written(pieces)) - 1))
    lines = balanced(pieces, Layout(max_line_width=width))
    assert [piece for line in lines for piece in line] == list(pieces)
    assert len(lines) == 2
    assert max(len(written(line)) for line in lines) == shortest


@pytest.mark.parametrize("wrong", [{"max_line_width": 0}, {"max_line_count": 0}])
def test_a_layout_without_room_is_refused(wrong):
    with pytest.raises(ConfigError, match="at least one line"):
        Layout(**wrong)


# Word by word


def test_each_word_is_underlined_while_it_is_said():
    one = transcript([TimedWord("GO", 0.3, 0.5), TimedWord("<ON>", 0.5, 0.7), TimedWord("NOW", 0.9, 1.0)], duration_s=9)
    assert [
        (round(c.start.total_seconds() * 1000), c.content) for c in srt.parse(render(one, "srt", Layout(True)))
    ] == [
        (300, "<u>GO</u> <ON> NOW"),
        (500, "GO <u><ON></u> NOW"),
        (700, "GO <ON> NOW"),
        (900, "GO <ON> <u>NOW</u>"),
        (1000, "GO <ON> NOW"),
    ]
    captions = webvtt.from_string(render(one, "vtt", Layout(True))).captions
    assert captions[1].raw_text == "GO <u>&lt;ON&gt;</u> NOW"


@given(words().map(transcript), layouts)
def test_word_by_word_shows_the_same_text_at_the_same_time(one, layout):
    plain = list(srt.parse(render(one, "srt", Layout(False, layout.max_line_width, layout.max_line_count))))
    parts = list(srt.parse(render(one, "srt", Layout(True, layout.max_line_width, layout.max_line_count))))
    assert all(part.start < part.end for part in parts)
    assert all(a.end <= b.start for a, b in pairwise(parts))
    for cue in plain:
        mine = [part for part in parts if cue.start <= part.start < cue.end]
        assert (mine[0].start, mine[-1].end) == (cue.start, cue.end)
        assert all(a.end == b.start for a, b in pairwise(mine))
        if "<" not in cue.content:
            assert all(part.content.replace("<u>", "").replace("</u>", "") == cue.content for part in mine)


def test_a_segment_of_hours_is_divided_all_the_same():
    given_words = said(" ".join(["and so it goes on and on without any end"] * 1800))
    one = Transcript("a.wav", "", 7200.0, 0.0, (Segment(0.0, 7200.0, "", tuple(given_words)),))
    found = cues(one, Layout())
    assert sum(len(line) for cue in found for line in cue.lines) == 18_000
    assert max(cue.end_ms - cue.start_ms for cue in found) <= LONGEST_MS
