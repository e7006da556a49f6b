"""Transcripts in every format: what is written is read again, by published readers and by our own."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import praatio.textgrid
import pysubs2
import pytest
import srt
import webvtt
from hypothesis import assume, given
from hypothesis import strategies as st

from asr.decode.types import TimedWord
from asr.errors import UNSAFE, ConfigError
from asr.outputs import FORMATS, Layout, document, on_stdout, parse_formats, render
from asr.outputs.timing import clean_line, in_order, segments, stamp, to_ms
from asr.scoring import nist
from asr.scoring.transcripts import read
from asr.transcript import Alternative, Seam, Segment, Transcript, segments_of
from tests.test_transcripts import write

#: spaces, control characters and halves of surrogate pairs included
any_text = st.text(st.characters(), min_size=1, max_size=12)
MARKUP = '--> ---> <b> &amp; " ""quoted" 1 00:00:01,000 {\\an8} WEBVTT NOTE ;; (um) <ALT> é e\u0301'
tricky = st.sampled_from(
    [
        *MARKUP.split(),
        "a\tb",
        "a\nb",
        "\u2028",
        "\x00",
        "\x9b",
        "\u202e",
        "\ud800",
        "\ufeff",
        " ",
        "",
        "x" * 90,
        "語" * 50,
    ]
)
letters = st.text("abcdefghijklmnopqrstuvwxyzäß'", min_size=1, max_size=14)


@st.composite
def words(draw: st.DrawFn, texts: st.SearchStrategy[str] = any_text | tricky | letters) -> list[TimedWord]:
    """Words with any texts and times: overlaps, no length, long pauses, hours, confidences or none."""
    at = draw(st.sampled_from([0.0, 0.0, 59.9996, 3599.9999, 400_000.0]))
    found = []
    for text in draw(st.lists(texts, max_size=25)):
        start = max(0.0, at + draw(st.sampled_from([0.0, 0.04, 0.12, 0.8, 0.81, 5.0, -0.3]) | st.floats(-1, 3)))
        at = start + draw(st.sampled_from([0.0, 0.0004, 0.04, 0.3, 9.0]) | st.floats(0, 2))
        found.append(TimedWord(text, start, at, draw(st.none() | st.floats(0, 1))))
    return found


def transcript(given: list[TimedWord], path: str = "a.wav", duration_s: float | None = None) -> Transcript:
    length = max([word.end_s for word in given], default=0.0) + 0.5 if duration_s is None else duration_s
    return Transcript(path, " ".join(w.word for w in given), length, -3.5, tuple(segments_of(given)))


transcripts = words().map(transcript)
#: texts without white space and control characters come back as they are
simple = words(letters).map(transcript)
GO = transcript([TimedWord("GO", 0.32, 0.6, 0.9713), TimedWord("ON", 0.7, 1.0)], duration_s=2.0)
NOTHING = Transcript("a b.wav", "", 2.0, -0.1)


def spoken(one: Transcript) -> list[tuple[str, int, int]]:
    """The words that show something, with the times that are written."""
    all_words = [word for segment in segments(one) for word in segment.words]
    return [(clean_line(word.text), word.start_ms, word.end_ms) for word in all_words if clean_line(word.text)]


# Which format is asked for


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], ()),
        (["srt"], ("srt",)),
        (["TXT, textgrid", "vtt,txt"], ("txt", "TextGrid", "vtt")),
        (["all"], FORMATS),
        (["json,all"], ("json", *(f for f in FORMATS if f != "json"))),
    ],
)
def test_formats_are_asked_for_in_any_case_and_each_is_taken_once(asked, expected):
    assert parse_formats(asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["srtt"], "unknown format 'srtt'; did you mean 'srt'\\? \\(known: txt, srt"),
        (["text-grid"], "did you mean 'textgrid'"),
        (["pdf"], "unknown format 'pdf' \\(known"),
        ([","], "no format is named"),
    ],
)
def test_an_unknown_format_names_the_nearest(asked, message):
    with pytest.raises(ConfigError, match=message):
        parse_formats(asked)
    with pytest.raises(ConfigError):
        render(GO, asked[0])


def test_only_formats_that_can_be_joined_are_printed_for_several_recordings():
    assert [format for format in FORMATS if on_stdout(format, 2)] == ["jsonl", "ctm"]
    assert all(on_stdout(format, 1) for format in FORMATS)


# What each looks like


@given(transcripts, st.sampled_from(FORMATS), st.text(st.characters(), min_size=1))
def test_no_format_holds_what_a_terminal_obeys_or_what_turns_a_text_around(one, format, name):
    assert not UNSAFE.search(render(one, format, Layout(word_times=True), name))


def test_marks_of_direction_are_left_out_of_texts_and_joiners_are_spelling():
    assert clean_line("\u202bשלום\u200f\u202c \u2067a\u2069") == "שלום a"
    assert clean_line("می\u200cخواهم") == "می\u200cخواهم"
    assert clean_line("a\x1b[31m\x9bb") == "a\ufffd[31m\ufffdb"


def test_ids_with_control_characters_stay_apart_in_a_ctm():
    first, second = (render(GO, "ctm", id_=id_).split()[0] for id_ in ("a\x1b", "a\u202e"))
    assert (first, second) == ("a\\x1b", "a\\u202e")


@pytest.mark.parametrize(
    ("format", "layout", "expected"),
    [
        ("txt", Layout(), "GO ON\n"),
        ("txt", Layout(word_times=True), "0.320\t0.600\tGO\n0.700\t1.000\tON\n"),
        ("srt", Layout(), "1\n00:00:00,320 --> 00:00:01,320\nGO ON\n\n"),
        ("vtt", Layout(), "WEBVTT\n\n00:00:00.320 --> 00:00:01.320\nGO ON\n"),
        ("tsv", Layout(), "start\tend\ttext\n320\t1000\tGO ON\n"),
        ("ctm", Layout(), "a A 0.320 0.280 GO 0.9713\na A 0.700 0.300 ON\n"),
    ],
)
def test_a_short_transcript_in_each_format(format, layout, expected):
    assert render(GO, format, layout) == expected


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("txt", ""),
        ("srt", ""),
        ("vtt", "WEBVTT\n"),
        ("tsv", "start\tend\ttext\n"),
        ("ctm", ";; a_b A: no words\n"),
    ],
)
def test_a_transcript_without_words_is_a_valid_file(format, expected):
    assert render(NOTHING, format) == expected
    assert document(NOTHING)["segments"] == []
    grid = render(Transcript("a.wav", "", 0.0, 0.0), "TextGrid")
    assert 'intervals [1]:\n            xmin = 0 \n            xmax = 0.001 \n            text = "" ' in grid


def test_a_text_whose_times_are_not_known_is_not_lost():
    untimed = Transcript("a.wav", "GO ON", 2.0, -1.0)
    assert render(untimed, "txt") == "GO ON\n"
    assert document(untimed)["text"] == "GO ON"
    one_segment = Transcript("a.wav", "GO ON", 2.0, -1.0, (Segment(0.5, 1.5, "GO ON", ()),))
    assert render(one_segment, "srt") == "1\n00:00:00,500 --> 00:00:01,500\nGO ON\n\n"
    assert render(one_segment, "tsv") == "start\tend\ttext\n500\t1500\tGO ON\n"


def test_the_documented_examples_are_what_is_written():
    text = (Path(__file__).resolve().parent.parent / "docs" / "outputs.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], scope)
    for format in FORMATS:
        section = re.split(r"^## ", text.split(f"\n## {format}\n")[1], flags=re.MULTILINE)[0]
        blocks = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)
        layouts = [Layout(), Layout(word_times=True)][: len(blocks)]
        assert [render(scope["meeting"], format, each).rstrip("\n") + "\n" for each in layouts] == blocks


# Times


def test_times_round_in_whole_milliseconds_and_hours_pass_99():
    assert stamp(to_ms(59.9996), ",") == "00:01:00,000"
    assert stamp(to_ms(3599.9995), ".") == "01:00:00.000"
    assert stamp(to_ms(360_000.5), ".") == "100:00:00.500"
    assert to_ms(-1) == to_ms(math.nan) == 0


@given(words())
def test_written_times_never_go_back_and_texts_stay(given_words):
    found = in_order(given_words)
    bounds = [ms for word in found for ms in (word.start_ms, word.end_ms)]
    assert bounds == sorted(bounds)
    assert [(word.text, word.confidence) for word in found] == [(w.word, w.confidence) for w in given_words]


@given(words())
def test_times_that_are_in_order_are_only_rounded(given_words):
    length = {w.word: w for w in given_words}
    ordered, at = [], 0.0
    for word in length.values():
        ordered.append(TimedWord(word.word, at + 0.001, at + 0.001 + word.end_s - word.start_s))
        at = ordered[-1].end_s
    assert [(w.start_ms, w.end_ms) for w in in_order(ordered)] == [
        (round(w.start_s * 1000), round(w.end_s * 1000)) for w in ordered
    ]


@given(transcripts)
def test_segments_hold_their_words_and_do_not_overlap(one):
    found = segments(one)
    for segment in found:
        assert segment.start_ms <= segment.words[0].start_ms
        assert segment.words[-1].end_ms <= segment.end_ms
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))


# Read again, by published readers


@given(transcripts)
def test_every_format_can_be_written_as_utf8_and_has_whole_lines(one):
    for format in FORMATS:
        for layout in (Layout(), Layout(word_times=True, max_line_width=10)):
            content = render(one, format, layout)
            assert content.encode("utf-8").decode("utf-8-sig") == content
            assert not content or content.endswith("\n")
            assert "\r" not in content


@given(transcripts)
def test_srt_is_read_by_the_srt_package(one):
    cues = list(srt.parse(render(one, "srt")))
    assert [cue.index for cue in cues] == list(range(1, len(cues) + 1))
    texts = "".join(re.sub("-+->", "->", text) for text, _, _ in spoken(one))
    assert "".join(cue.content for cue in cues).replace("\n", "").replace(" ", "") == texts.replace(" ", "")
    assert all(not cue.proprietary for cue in cues)


@given(transcripts)
def test_vtt_is_read_by_webvtt_py_and_unescaped(one):
    cues = list(webvtt.from_string(render(one, "vtt")).captions)
    texts = "".join(text for text, _, _ in spoken(one))
    assert html.unescape("".join(cue.text for cue in cues)).replace("\n", "").replace(" ", "") == texts.replace(" ", "")
    shown = list(srt.parse(render(one, "srt")))
    assert [(cue.start.replace(".", ","), cue.end.replace(".", ",")) for cue in cues] == [
        (srt.timedelta_to_srt_timestamp(c.start), srt.timedelta_to_srt_timestamp(c.end)) for c in shown
    ]


@given(simple)
def test_subtitles_are_read_by_pysubs2_with_the_same_times(one):
    for format in ("srt", "vtt"):
        read_again = pysubs2.SSAFile.from_string(render(one, format), format_=format)
        cues = list(srt.parse(render(one, "srt")))
        # pysubs2 takes no more than two digits of hours
        if all(cue.end.total_seconds() < 360_000 for cue in cues):
            assert [event.plaintext for event in read_again] == [cue.content for cue in cues]
            assert [event.start for event in read_again] == [round(c.start.total_seconds() * 1000) for c in cues]


@given(transcripts)
def test_tsv_is_read_by_csv_with_three_whole_columns(one):
    rows = list(csv.reader(io.StringIO(render(one, "tsv"), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["start", "end", "text"]
    assert [(int(start), int(end), text) for start, end, text in rows[1:]] == [
        (s.start_ms, s.end_ms, clean_line(s.text)) for s in segments(one)
    ]


@given(words(any_text | tricky | letters), any_text)
def test_ctm_is_read_by_our_own_reader(tmp_path_factory, given_words, path):
    one = transcript(given_words, path)
    file = tmp_path_factory.mktemp("ctm") / "x.ctm"
    file.write_text(render(one, "ctm"), encoding="utf-8", newline="\n")
    expected = [(re.sub(r"<(ALT)>", r"(\1)", text.replace(" ", "_")), start, end) for text, start, end in spoken(one)]
    if not expected:
        assert file.read_text(encoding="utf-8").startswith(";; ")
        return
    ((id_, found),) = nist.read_ctm(file).items()
    assert not re.search(r"[()\s]", id_)
    assert [(w.word, round(w.start_s * 1000), round((w.start_s + w.duration_s) * 1000)) for w in found] == expected
    assert all((w.confidence is None) or 0 <= w.confidence <= 1 for w in found)


@given(words(any_text | tricky | letters), any_text)
def test_ctm_is_read_by_meeteval(given_words, path):
    meeteval = pytest.importorskip("meeteval.io", reason="meeteval is not installed (it compiles C++)")
    one = transcript(given_words, path)
    found = meeteval.CTM.parse(render(one, "ctm")).lines
    assert [round((line.begin_time + line.duration) * 1000) for line in found] == [end for _, _, end in spoken(one)]


@given(transcripts)
def test_a_textgrid_is_read_by_praatio_with_the_same_words(one):
    # praatio takes these for the structure of the file; Praat does not
    assume(not any(re.search(r"(item|intervals) ?\[", text) for text, _, _ in spoken(one)))
    grid = praatio_read(render(one, "TextGrid"))
    texts = [text for text, _, _ in spoken(one)]
    assert list(grid) == ["words", "segments"]
    assert [text for _, _, text in grid["words"] if text] == texts
    for intervals in grid.values():
        assert intervals[0][0] == 0
        assert all(a[1] == b[0] for a, b in pairwise(intervals))
        assert all(start < end for start, end, _ in intervals)
        assert intervals[-1][1] == grid["words"][-1][1] >= round(one.duration_s, 3)


def praatio_read(content: str) -> dict[str, list[tuple[float, float, str]]]:
    """The tiers of a TextGrid, empty intervals included."""
    tiers = praatio.textgrid.textgrid_io.parseTextgridStr(content, includeEmptyIntervals=True)["tiers"]
    return {t["name"]: [(float(start), float(end), text) for start, end, text in t["entries"]] for t in tiers}


def test_a_textgrid_has_silences_quotes_and_the_characters_of_an_alignment(tmp_path):
    said = TimedWord('O"K', 0.4, 0.9)
    characters = tuple(TimedWord(c, 0.4 + i / 10, 0.5 + i / 10) for i, c in enumerate('O"K'))
    one = Transcript("a.wav", 'O"K', 1.25, -1.0, (Segment(0.4, 0.9, 'O"K', (said,), -1.0, characters),))
    assert praatio_read(render(one, "TextGrid")) == {
        "words": [(0, 0.4, ""), (0.4, 0.9, 'O"K'), (0.9, 1.25, "")],
        "characters": [(0, 0.4, ""), (0.4, 0.5, "O"), (0.5, 0.6, '"'), (0.6, 0.7, "K"), (0.7, 1.25, "")],
        "segments": [(0, 0.4, ""), (0.4, 0.9, 'O"K'), (0.9, 1.25, "")],
    }
    path = tmp_path / "a.TextGrid"
    path.write_text(render(one, "TextGrid"), encoding="utf-8")
    assert praatio.textgrid.openTextgrid(path, includeEmptyIntervals=False).maxTimestamp == 1.25


# Whisper's JSON


@given(transcripts)
def test_json_joins_to_the_text_as_readers_of_whisper_join_it(one):
    found = json.loads(render(one, "json"))
    for segment in found["segments"]:
        assert "".join(word["word"] for word in segment["words"]) == segment["text"]
        assert segment["text"][0] == " "
    assert found == document(one)
    bounds = [t for segment in found["segments"] for word in segment["words"] for t in (word["start"], word["end"])]
    assert bounds == sorted(bounds)
    read_again = pysubs2.load_from_whisper(found)
    assert [(event.start, event.end) for event in read_again] == [(s.start_ms, s.end_ms) for s in segments(one)]


def test_json_has_whispers_fields_and_ours_at_the_top():
    characters = (TimedWord("G", 0.3, 0.4, 0.5),)
    segment = Segment(0.3, 0.6, "GO", (TimedWord("GO", 0.3, 0.6, 0.9),), -1.0, characters)
    other = Alternative("NO", -2.0, (TimedWord("NO", 0.25, 0.5, 0.1),))
    one = Transcript(
        "b\udce9.wav",
        "GO",
        2.0,
        -math.inf,
        (segment,),
        seams=(Seam(1.5, "pause", 0.31),),
        notes=("resampled",),
        others=(other,),
        channel=2,
    )
    assert document(one) == {
        "path": "b\ufffd.wav",
        "text": "GO",
        "language": None,
        "duration": 2.0,
        "log_prob": None,
        "segments": [
            {
                "id": 0,
                "seek": 0,
                "start": 0.3,
                "end": 0.6,
                "text": " GO",
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": -0.5,
                "compression_ratio": 0.2,
                "no_speech_prob": None,
                "words": [{"word": " GO", "start": 0.3, "end": 0.6, "probability": 0.9}],
            }
        ],
        "seams": [{"at": 1.5, "kind": "pause", "length": 0.31}],
        "notes": ["resampled"],
        "channel": 2,
        "nbest": [
            {
                "text": "NO",
                "log_prob": -2.0,
                "words": [{"word": " NO", "start": 0.25, "end": 0.5, "probability": 0.1}],
            }
        ],
        "characters": [{"segment": 0, "character": "G", "start": 0.3, "end": 0.4, "probability": 0.5}],
    }


@pytest.mark.parametrize(
    ("channel", "name", "id_"), [(None, "A", "a"), (1, "A", "a"), (2, "B", "a:B"), (27, "27", "a:27")]
)
def test_a_channel_is_named_in_ctm_and_in_ids(channel, name, id_, tmp_path):
    one = replace(GO, channel=channel)
    assert render(one, "ctm", name="a.wav").splitlines()[0] == f"a {name} 0.320 0.280 GO 0.9713"
    assert render(replace(NOTHING, channel=channel), "ctm", name="a.wav") == f";; a {name}: no words\n"
    assert json.loads(render(one, "jsonl", name="a.wav"))["id"] == id_
    assert list(read(write(tmp_path / "a.ctm", render(one, "ctm", name="a.wav"))).texts) == [id_]
    assert document(one).get("channel") == channel


def test_json_lines_are_scored_by_their_id(tmp_path):
    reference = write(tmp_path / "r.jsonl", '{"id": "sub/a", "text": "GO ON"}\n{"id": "s.01", "text": "NO"}\n')
    lines = render(GO, "jsonl", name="sub/a.wav") + render(NOTHING, "jsonl", name="s.01")
    hypothesis = write(tmp_path / "h.jsonl", lines)
    assert list(read(hypothesis).texts) == list(read(reference).texts)
    assert read(hypothesis).texts == {"sub/a": "GO ON", "s.01": ""}
