"""What holds texts is read by what it is, whatever wrote it; what is not read is refused by its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pysubs2
import pytest

from asr.decode.types import TimedWord
from asr.errors import DataError
from asr.outputs import FORMATS, Layout, Targets, render
from asr.scoring.transcripts import REFERENCES, read
from asr.transcript import Transcript, segments_of
from tests.test_transcripts import jsonl, write

SAID = "GO ON & ON GO ON"
#: words with pauses: several segments and cues, the same text twice
WORDS = [TimedWord(w, 0.9 * i, 0.9 * i + 0.4) for i, w in enumerate(["GO", "ON", "&", "ON"])]
WORDS += [TimedWord("GO", 5.0, 5.3), TimedWord("ON", 5.4, 5.8)]
ONE = Transcript("d/talk.wav", SAID, 7.0, -1.0, tuple(segments_of(WORDS)))
NOTHING = Transcript("d/still.wav", "", 2.0, -1.0, ())


def texts(path: Path, content: str | bytes | None = None, prefer=("hypothesis", "text")) -> dict[str, str]:
    return read(path if content is None else write(path, content), prefer).texts


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"TextGrid", "txt"}))
@pytest.mark.parametrize("layout", [Layout(), Layout(word_times=True), Layout(max_line_width=6)])
def test_what_transcribe_writes_is_read(tmp_path, format, layout) -> None:
    found = read(write(tmp_path / f"talk.{format}", render(ONE, format, layout, name="talk.wav")))
    assert found.texts == {"talk": SAID}
    if format != "jsonl" and format != "ctm":  # these say which recording it is
        assert found.of_one
    assert texts(tmp_path / f"still.{format}", render(NOTHING, format, name="still.wav")) == {"still": ""}


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_a_text_that_is_said_again_is_not_one_that_is_shown_again(tmp_path, format) -> None:
    words = [
        TimedWord(w, 3.0 * i + 0.5 * j, 3.0 * i + 0.5 * j + 0.3) for i in range(3) for j, w in enumerate(("GO", "ON"))
    ]
    one = Transcript("a.wav", "GO ON " * 3, 9.0, -1.0, tuple(segments_of(words)))
    for word_times in (False, True):
        content = render(one, format, Layout(word_times=word_times))
        assert texts(tmp_path / f"a.{format}", content) == {"a": "GO ON GO ON GO ON"}


def test_labels_of_words_are_the_text_of_a_recording(tmp_path) -> None:
    assert texts(tmp_path / "talk.txt", render(ONE, "txt", Layout(word_times=True))) == {"talk": SAID}


@pytest.mark.parametrize("formats", [("jsonl",), ("json",), ("ctm", "txt"), ("vtt", "srt"), ("txt",), FORMATS])
def test_the_folder_of_transcribe_is_read(tmp_path, formats) -> None:
    names = ["talk.wav", "sub/talk.wav", "sub/still.wav"]
    targets = Targets(names, formats, tmp_path / "out", inputs=[])
    for name, one in zip(names, (ONE, replace(ONE, text="GO", segments=segments_of(WORDS[:1])), NOTHING), strict=True):
        targets.write(one, name)
    write(tmp_path / "out" / "._talk.json", b"\0\5\x16\7")
    assert texts(tmp_path / "out") == {"talk": SAID, "sub/talk": "GO", "sub/still": ""}


def test_the_document_of_transcribe_is_read(tmp_path) -> None:
    rows = [{"path": "a/x.wav", "text": "ONE"}, {"path": "b/x.wav", "text": "TWO"}, {"path": "y.flac", "text": "SIX"}]
    rows += [{"path": "y.flac", "text": "TEN", "channel": 2}, {"id": "u.1", "path": "z.wav", "text": "NO"}]
    path = write(tmp_path / "all.json", json.dumps({"transcripts": rows, "failed": {}, "model": "m"}, indent=1))
    assert texts(path) == {"a/x": "ONE", "b/x": "TWO", "y": "SIX", "y:B": "TEN", "u.1": "NO"}


WHISPER = {
    "text": " Go on.  Go on.",
    "segments": [{"id": 0, "text": " Go on."}, {"id": 1, "text": " Go on."}],
    "language": "en",
}


@pytest.mark.parametrize(
    "document",
    [
        WHISPER,
        {"segments": WHISPER["segments"], "word_segments": []},  # WhisperX
        {"systeminfo": "", "transcription": [{"text": " Go on."}, {"text": " Go on."}]},  # whisper.cpp
        {"task": "transcribe", "duration": 2.0, **WHISPER},  # OpenAI's verbose_json
        {"text": "Go on. Go on."},  # its json
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_documents_of_whisper_and_its_kin_are_read(tmp_path, document, indent) -> None:
    found = read(write(tmp_path / "talk.json", json.dumps(document, indent=indent)))
    assert found.texts == {"talk": "Go on. Go on."} and found.of_one


def subtitles() -> pysubs2.SSAFile:
    made = pysubs2.SSAFile()
    for i, text in enumerate(("{\\i1}Go{\\i0} on", "42", "Go on", "Go on", "NOTE that")):
        made.append(pysubs2.SSAEvent(start=1000 * i, end=1000 * i + 900, text=text))
    return made


@pytest.mark.parametrize("format", ["srt", "vtt"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_subtitles_of_another_tool_are_read(tmp_path, format, end) -> None:
    content = subtitles().to_string(format).replace("\n", end)
    expected = "Go on 42 Go on Go on NOTE that"
    assert texts(tmp_path / f"x.{format}", content) == {"x": expected}
    assert texts(tmp_path / "x.txt", "\ufeff" + content) == {"x": expected}  # by what it holds


def test_notes_styles_names_and_voices_of_webvtt_are_not_said(tmp_path) -> None:
    content = (
        "WEBVTT - A title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE a note\nof two lines\n\nintro\n"
        "00:01.000 --> 00:02.000 align:start\n<v Anna>Hello &amp; <i>so</i></v> on\n- yes\n\n"
        "NOTE 00:01\n\n2\n00:02.000 --> 00:03.000\n7\n\n00:03.000 --> 00:04.000\nbye\n"
    )
    assert texts(tmp_path / "x.vtt", content) == {"x": "Hello & so on - yes 7 bye"}


def test_rolling_captions_say_each_line_once(tmp_path) -> None:
    content = (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n \ngood<00:00:00.500><c> morning</c>\n\n"
        "00:00:02.000 --> 00:00:02.010\ngood morning\n \n\n"
        "00:00:02.010 --> 00:00:04.000\ngood morning\nto<00:00:02.500><c> you</c>\n\n"
        "00:00:04.000 --> 00:00:04.010\nto you\n \n"
    )
    assert texts(tmp_path / "x.vtt", content) == {"x": "good morning to you"}


def test_srt_without_blank_lines_is_read(tmp_path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:02,000 --> 00:00:03,000\ntwo\n\nthree\n"
    assert texts(tmp_path / "x.srt", content) == {"x": "one two three"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,text\na,hello world\nb,good day\n", {"a": "hello world", "b": "good day"}),
        ('id\ttext\na\thello "world\nb\tgood day\n', {"a": 'hello "world', "b": "good day"}),
        ("ID;Text;n\na;hello world;1\n", {"a": "hello world"}),
        ('"utt_id","duration","transcript"\n"a","1","well, ""yes"""\n', {"a": 'well, "yes"'}),
        ("client_id\tpath\tsentence\nx\tclips/common_voice_xx_1.mp3\tgood day\n", {"common_voice_xx_1": "good day"}),
        ("wav_filename,wav_filesize,transcript\n/d/a.b.wav,12,good day\n", {"a.b": "good day"}),
        ('id,text\r\na,"good\nday"\r\n', {"a": "good day"}),
        ("\ufeffid,text\na,é\n", {"a": "é"}),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt"])
def test_tables_are_read_by_their_header(tmp_path, content, expected, name) -> None:
    assert texts(tmp_path / name, content) == expected


def test_references_and_hypotheses_have_their_columns(tmp_path) -> None:
    path = write(tmp_path / "x.csv", "id,reference,hypothesis\na,one,two\n")
    assert texts(path) == {"a": "two"} and texts(path, prefer=REFERENCES) == {"a": "one"}


def test_trn_and_ctm_and_stm_are_found_by_what_they_hold(tmp_path) -> None:
    assert texts(tmp_path / "a.txt", "<s> one two </s> (u-1)\n<s> </s> (u-2)\n") == {"u-1": "one two", "u-2": ""}
    assert texts(tmp_path / "a.trn", "<s> one </s> (u-1)\ntwo (u-2)\n") == {"u-1": "one", "u-2": "two"}
    assert texts(tmp_path / "b.txt", "t 1 0.1 0.2 one 0.9\nt 1 0.4 0.2 two NA\n") == {"t": "one two"}
    assert texts(tmp_path / "c.txt", ";; x\nt 1 s 0.1 0.2 <o> one\nt 1 s 0.4 0.6 two\n") == {
        "t 0.10-0.20": "one",
        "t 0.40-0.60": "two",
    }
    assert texts(tmp_path / "d.txt", "u1 room 2 3 left\n") == {"u1": "room 2 3 left"}
    assert texts(tmp_path / "e.tsv", "u1\ta b\nu2\tc\n") == {"u1": "a b", "u2": "c"}  # Kaldi's, no header


def test_a_list_of_rows_is_read_and_text_in_brackets_is_text(tmp_path) -> None:
    assert texts(tmp_path / "a.txt", "[noise] one\n") == {"[noise]": "one"}
    path = write(tmp_path / "b.json", json.dumps([{"id": "u1", "text": "a"}, {"id": "u2", "text": "b"}]))
    assert texts(path) == {"u1": "a", "u2": "b"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.TextGrid", render(ONE, "TextGrid"), "a Praat TextGrid is not read; give lines of 'id text', .trn"),
        ("a.ass", subtitles().to_string("ass"), r"SubStation subtitles \(ASS\) is not read"),
        ("a.ttml", subtitles().to_string("ttml"), "XML .* is not read"),
        ("a.eaf", '<?xml version="1.0"?>\n<ANNOTATION_DOCUMENT/>\n', "XML .* is not read"),
        ("a.mlf", '#!MLF!#\n"*/a.lab"\none\n.\n', "an HTK label file"),
        ("a.rttm", "SPEAKER a 1 0.0 1.0 <NA> <NA> s <NA> <NA>\n", "RTTM"),
        ("a.sbv", "0:00:00.599,0:00:04.160\nhello\n", "SBV"),
        ("a.txt", "[00:00.000 --> 00:02.000]  hello\n", "times in brackets"),
        ("a.lrc", "[00:12.00]hello\n", "times in brackets"),
        ("a.csv", "a,hello world\n", "a CSV file without a header line that names an id"),
        ("a.csv", "id,text\na,b,c\n", r"a\.csv:2: 3 fields, but the header names 2 columns; is a ',' or a line break"),
        ("a.csv", "id,text\na\n", r"a\.csv:2: 1 fields"),
        ("a.csv", "id,text\n", "has a header line, but no rows"),
        ("a.csv", "id,text\na,b\na,c\n", r"duplicate id 'a' \(first on line 2\)"),
        ("a.csv", "id,text\n,b\n", "no id in column 'id'"),
        ("a.csv", 'id,text\na,"b\n', "not a table that can be read .* is a quote not closed"),
        ("a.json", '{"wer": {"rate": 0.1},\n"cer": 1}\n', r"JSON without transcripts \(keys: wer, cer\)"),
        ("a.json", '{"transcripts": []}', "no utterances"),
        ("a.json", '[{"text": "a"}]', "transcript 1 has neither 'id' nor 'path'"),
        ("a.json", '[{"id": "a"}]', "transcript 1 has no 'text'"),
        ("a.json", "[1, 2]", "JSON without transcripts"),
    ],
)
def test_what_is_not_read_is_refused_by_its_name(tmp_path, name, content, message) -> None:
    with pytest.raises(DataError, match=message):
        texts(tmp_path / name, content)


def test_a_folder_without_transcripts_is_refused_and_ids_in_two_files_too(tmp_path) -> None:
    with pytest.raises(DataError, match="the folder holds no transcripts"):
        texts(tmp_path)
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", {"id": "u1", "text": "x"})
    with pytest.raises(DataError, match="'u1' is in two of the folder's files"):
        texts(tmp_path)
