"""Lines of texts: numbered, within limits, however the file is cut into blocks."""

from __future__ import annotations

import gzip
import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.corpora.importers import table
from asr.data import lines, manifest
from asr.data.lines import numbered_lines, raw_lines, whole_lines, whole_text
from asr.download.remote import check_gzip
from asr.errors import AsrError, DataError
from asr.lm.files import read_lines
from asr.scoring import transcripts

BOM = b"\xef\xbb\xbf"


def _raw(path: Path) -> list[tuple[int, bytes]]:
    return list(raw_lines(path, "the texts"))


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _blocks(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


@given(
    st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b" ", b"\xc3\xa9", b"\r", b"bc d\n", b"\n\n\n"]), max_size=40),
    st.integers(1, 20),
)
def test_lines_are_those_of_the_file_whatever_the_blocks(parts, size):
    content = b"".join(parts)
    found = [
        row
        for first, whole in whole_lines(_blocks(content, size), Path("x"))
        for row in enumerate(io.BytesIO(whole), first)
    ]
    assert found == list(enumerate(io.BytesIO(content), 1))


def test_blank_lines_are_skipped_and_counted(tmp_path, monkeypatch):
    path = _write(tmp_path / "x.txt", BOM + b"\n" * 100 + b"  \t\r\n" * 100 + b"a\n\n \nb" + b"\n" * 50)
    for block in (1 << 20, 7, 1):
        monkeypatch.setattr(lines, "BLOCK", block)
        assert _raw(path) == [(201, b"a\n"), (204, b"b\n")]
        assert list(numbered_lines(path)) == [(201, "a\n"), (204, "b\n")]


def test_a_file_of_blank_lines_or_of_nothing_has_no_lines(tmp_path):
    for content in (b"", BOM, b"\n" * 3_000_000, b" "):
        assert _raw(_write(tmp_path / "x.txt", content)) == []


@pytest.mark.parametrize("block", [4, 64, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_longer_than_any_real_one_is_refused_with_its_number(tmp_path, monkeypatch, block, end):
    monkeypatch.setattr(lines, "LINE", 64)
    monkeypatch.setattr(lines, "BLOCK", block)
    path = _write(tmp_path / "x.txt", b"x" * 63 + b"\n\n" + b"y" * 64 + end)
    assert [number for number, _ in _raw(path)] == [1, 3]
    path = _write(tmp_path / "x.txt", b"z" * 200 + end + b"a\n")
    with pytest.raises(DataError, match=r"x\.txt:1: a line of more than 0 MiB, the longest that is read"):
        _raw(path)
    with pytest.raises(DataError, match=r"x\.txt:1: a line of more than"):
        list(numbered_lines(path))


def test_every_reader_of_lines_refuses_a_long_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LINE", 64)
    long = _write(tmp_path / "x.txt", b"x" * 200)
    packed = _write(tmp_path / "x.gz", gzip.compress(b"x" * 200))
    for read in (
        lambda: manifest.read(long),
        lambda: transcripts.read(long),
        lambda: list(read_lines([long])),
        lambda: list(read_lines([packed])),
    ):
        with pytest.raises(DataError, match=r":1: a line of more than"):
            read()


def test_a_pipe_is_refused_where_a_data_folder_has_a_file(tmp_path):
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match=r"cannot read the manifest: is a pipe or device, expected a regular file"):
        manifest.read(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match=r"cannot read the texts: is a pipe or device"):
        transcripts.read(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match=r"cannot read the table: is a pipe or device"):
        table.read_table(tmp_path / "x.jsonl")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_text_for_a_language_model_may_come_out_of_a_pipe(tmp_path, pack):
    pipe = tmp_path / "text"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(pack(BOM + b"one two\n\nthree")))
    writer.start()
    assert list(read_lines([pipe])) == ["one two", "", "three"]
    writer.join()


def test_a_text_to_align_may_come_out_of_a_pipe_too(tmp_path):
    pipe = tmp_path / "text"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(BOM + b"one two\n"))
    writer.start()
    assert whole_text(pipe) == "one two\n"
    writer.join()


def test_gzip_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.limits._UNPACKED_FREE", 1 << 20)
    path = _write(tmp_path / "x.txt.gz", gzip.compress(b"one two\n" * (1 << 19)))
    with pytest.raises(DataError, match=r"x\.txt\.gz: unpacks to more than 100 times its size"):
        list(read_lines([path]))
    with pytest.raises(DataError, match=r"x\.txt\.gz: unpacks to more than 100 times its size"):
        check_gzip(path, path.name)
    monkeypatch.undo()
    check_gzip(path, path.name)
    assert len(list(read_lines([path]))) == 1 << 19


def test_what_is_read_as_a_whole_has_a_limit(tmp_path, monkeypatch):
    document = _write(tmp_path / "x.json", b'{"text": "one two"}')
    columns = _write(tmp_path / "x.csv", b"audio_path,text\na.wav,one two\n")
    assert transcripts.read(document).texts == {"x": "one two"}
    assert len(table.read_table(columns).records) == 1
    monkeypatch.setattr(lines, "WHOLE_FILE", 10)
    monkeypatch.setattr(table, "WHOLE_FILE", 10)
    with pytest.raises(DataError, match=r"x\.json: cannot read the text: has more than 0 KiB"):
        transcripts.read(document)
    with pytest.raises(DataError, match=r"x\.csv: cannot read the table: has more than 0 KiB"):
        table.read_table(columns)


def test_a_document_that_is_not_utf8_is_one_line(tmp_path):
    path = _write(tmp_path / "x.json", b'{"text":\n"' + b"a\n" * 60 + b'\xff"}')
    with pytest.raises(AsrError, match=r"x\.json: not UTF-8 text") as caught:
        transcripts.read(path)
    assert "\n" not in str(caught.value)
