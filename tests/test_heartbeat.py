"""A long piece of work without a terminal says about every minute where it is."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from asr import heartbeat
from asr.commands import console
from asr.corpora import measure
from asr.corpora.importers import IMPORTERS
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Request
from asr.data import audio
from asr.doctor import examine
from asr.doctor.sound import read_header
from asr.download.remote import byte_bar
from asr.heartbeat import counted
from tests.builders import write_wav


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, with a line every hundredth of a second instead of every minute."""
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)
    caplog.set_level(logging.INFO, "asr")
    return caplog


def wait_for(log: pytest.LogCaptureFixture, text: str) -> None:
    end = time.monotonic() + 10
    while text not in log.text:
        assert time.monotonic() < end, log.text
        time.sleep(0.005)


def test_a_line_comes_while_one_long_call_runs_and_none_after_it(often: pytest.LogCaptureFixture) -> None:
    with heartbeat.heartbeat(lambda: "trying the largest batch"):
        wait_for(often, "trying the largest batch")
    often.clear()
    time.sleep(0.05)
    assert not often.records
    assert "asr-heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_where_the_work_fails(often: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="broken"), heartbeat.heartbeat(lambda: "work"):
        raise ValueError("broken")
    assert "asr-heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_a_bar_shows_a_name_as_it_is_and_obeys_nothing_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with counted("extracting [/red]a\x1b]0;b\x07\u202e\n.tar", 2) as advance:
        advance(1)
    shown = sys.stderr.getvalue()
    assert r"extracting [/red]a\x1b]0;b\x07\u202e\n.tar" in shown
    assert not {"\x1b]", "\x07", "\u202e"} & set(re.findall(r"\x1b\]|\x07|\u202e", shown))


def test_counted_work_says_how_much_is_done_of_how_much_and_the_time_left(often: pytest.LogCaptureFixture) -> None:
    with counted("reading headers", 4000) as advance:
        wait_for(often, "reading headers: 0 of 4,000")
        advance(1000)
        wait_for(often, "reading headers: 1,000 of 4,000, ")
        assert " left" in often.text


def test_the_time_left_goes_by_what_is_done_since_it_began(
    often: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now_s))
    with counted("downloading", 1000, done=900) as advance:
        now_s = 60.0
        advance(10)
        wait_for(often, "downloading: 910 of 1,000, 9 min left")


def test_counted_work_of_unknown_size_says_what_is_done(often: pytest.LogCaptureFixture) -> None:
    with counted("counting", None, lambda n: f"{n:g} lines") as advance:
        advance(7)
        wait_for(often, "counting: 7 lines")
    assert "left" not in often.text


def test_on_a_terminal_the_bar_speaks_and_the_log_does_not(
    often: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "stderr_is_terminal", lambda: True)
    with heartbeat.heartbeat(lambda: "work"):
        time.sleep(0.05)
    assert not often.records


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert heartbeat.stderr_is_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not heartbeat.stderr_is_terminal()


def test_a_line_a_minute_is_what_people_get() -> None:
    assert heartbeat.EVERY_S == 60


BARS = [
    ("minutes of audio: 1:15 of 10:00, RTF 0.00", lambda: console.audio_bar(600), (75,)),
    ("extracting a.tar: 2.00 GB of 4.00 GB, ", lambda: byte_bar("extracting a.tar", 4_000_000_000), (2_000_000_000,)),
    ("measuring: 50% of 100%, ", lambda: console.share_bar("measuring"), (0.5,)),
    ("reading text: 3 lines", lambda: console.absolute_bar("reading text", None, "{:,.0f} lines".format), (3,)),
]


@pytest.mark.parametrize(("line", "bar", "done"), BARS, ids=[line for line, _, _ in BARS])
def test_every_bar_gives_lines_where_there_is_no_terminal(often, line, bar, done) -> None:
    with bar() as advance:
        advance(*done)
        wait_for(often, line)


def test_the_doctor_says_which_part_it_is_at(often, tmp_path, monkeypatch) -> None:
    write_wav(tmp_path / "a.wav")
    row = '{"id": "a", "audio_path": "a.wav", "duration_s": 1.0, "text": "one", "speaker": ""}'
    (tmp_path / "train.jsonl").write_text(row, encoding="utf-8")

    def slow(path):
        wait_for(often, "headers: 0 of 1")
        return read_header(path)

    monkeypatch.setattr("asr.doctor.sound.read_header", slow)
    examine([tmp_path / "train.jsonl"], progress=counted)


def test_headers_and_rows_are_counted_while_a_corpus_is_prepared(often, tmp_path, monkeypatch) -> None:
    for i in range(3):
        write_wav(tmp_path / "speech" / f"{i}.wav")
        (tmp_path / "speech" / f"{i}.txt").write_text("one", encoding="utf-8")

    def slow(path):
        if path.stem == "2":
            wait_for(often, "headers of audio files: 2 of 3, ")
        return audio.info(path)

    monkeypatch.setattr(measure, "_read_header", slow)
    monkeypatch.setattr(measure, "THREADS", 1)
    prepare(IMPORTERS["folder"], Request(tmp_path / "out", sources=(tmp_path / "speech",)))
