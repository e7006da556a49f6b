"""Where outputs go: settled before any work, never outside of the folder, never over an input."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ConfigError, DataError
from asr.outputs import FORMATS, Layout, Target, Targets
from asr.outputs.names import recording_id, relative_stem
from tests.test_outputs import GO, NOTHING


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_recording_in_a_subfolder_has_its_outputs_in_a_subfolder(tmp_path):
    out = tmp_path / "new" / "out"
    targets = Targets(["sub/a.wav", "b.flac", "spk.01"], ["srt", "TextGrid"], out)
    assert targets.of("sub/a.wav") == (
        Target("srt", out / "sub" / "a.srt"),
        Target("TextGrid", out / "sub" / "a.TextGrid"),
    )
    assert targets.write(GO, "sub/a.wav") == [out / "sub" / "a.srt", out / "sub" / "a.TextGrid"]
    targets.write(GO, "spk.01", Layout(word_times=True))
    assert files(out) == ["spk.01.TextGrid", "spk.01.srt", "sub/a.TextGrid", "sub/a.srt"]
    assert "<u>GO</u>" in (out / "spk.01.srt").read_text(encoding="utf-8")


def test_ctm_and_json_lines_name_the_recording_as_it_was_given(tmp_path):
    ctm, jsonl = Targets(["day 1/a.wav"], ["ctm", "jsonl"], tmp_path).write(GO, "day 1/a.wav")
    assert ctm.read_text(encoding="utf-8").startswith("day_1/a A 0.320")
    assert jsonl.read_text(encoding="utf-8").startswith('{"id": "day 1/a", ')


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.wav", "a.flac"],
            "'a.wav' and 'a.flac' would both be written to .*a.txt; transcribe the second into another folder",
        ),
        (["x/A.wav", "x/a.wav"], "'x/A.wav' and 'x/a.wav' would both"),
        (["é.wav", "e\u0301.wav"], "would both be written"),
        (["/one/a.wav", "/two/a.wav"], "'/one/a.wav' and '/two/a.wav' would both"),
        (["a.wav", "b.wav", "A.mp3", "a.flac"], "'a.wav' and 'a.flac' would both"),
        (["a", "b/c", "a.srt/b"], r"a.srt would be a file \(of 'a'\) and a folder \(of 'a.srt/b'\)"),
    ],
)
def test_of_two_recordings_for_one_file_the_second_fails_and_the_others_are_written(tmp_path, names, message):
    targets = Targets(names, ["txt", "srt"], tmp_path / "out")
    assert re.search(message, targets.clashes[names[-1]])
    with pytest.raises(DataError, match=message):
        targets.write(GO, names[-1])
    assert not targets.done(names[-1])
    for name in names:
        if name not in targets.clashes:
            targets.write(GO, name)
            assert targets.done(name)


def test_a_recording_that_is_given_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'a' is given twice"):
        Targets(["a", "a"], ["txt"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("/etc/passwd", "passwd"),
        ("../../a.wav", "a"),
        ("a/../../b.mp3", "b"),
        ("./a//b.wav", "a/b"),
        ("..", "_"),
        ("", "_"),
        ("/", "_"),
        ("a\nb\x00.wav", "a_b_"),
        ("What? Part: 1.wav", "What? Part: 1"),
        (".wav", ".wav"),
        ("a.b.c", "a.b.c"),
        (".", "_"),
        ("...wav", "_"),
        ("a/...wav", "_"),
        ("a\\..\\b", "a\\..\\b"),
        ("C:x", "C:x"),
        ("C:\\x\\y", "C:\\x\\y"),
        ("~/a", "~/a"),
        ("a\u202egpj.wav", "a_gpj"),
        ("\x1b[31m\x9ba", "_[31m_a"),
        ("x" * 300, "x" * 187 + "-" + hashlib.sha256(b"x" * 300).hexdigest()[:12]),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="Windows refuses more characters")
def test_a_name_stays_below_the_folder_and_is_as_it_was_where_it_can_be(name, stem):
    assert relative_stem(name) == stem


@given(st.text(st.characters()) | st.text("./\\a\udce9\n", max_size=9) | st.text("é/", max_size=900))
def test_whatever_a_name_holds_its_files_are_written_below_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("any")
    targets = Targets([name], ["txt", "json"], folder / "out", inputs=[])
    assert not targets.done(name)
    for path in targets.write(GO, name):
        assert path.resolve().is_relative_to(folder.resolve() / "out")
        assert path.is_file()
    assert targets.done(name)
    assert len(files(folder)) == 2


@pytest.mark.skipif(os.name == "nt", reason="links take a right there")
def test_no_link_in_the_folder_leads_outputs_out_of_it_and_the_others_are_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out")  # the folder itself may be reached through one
    (tmp_path / "out" / "away").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "inside").symlink_to(tmp_path / "out" / "real")
    (tmp_path / "elsewhere" / "c.txt").write_text("keep", encoding="utf-8")
    (tmp_path / "out" / "c.txt").symlink_to(tmp_path / "elsewhere" / "c.txt")

    names = ["away/a", "away/deeper/a", "inside/b", "c", "later/d"]
    targets = Targets(names, ["txt"], tmp_path / "link")
    assert set(targets.clashes) == {"away/a", "away/deeper/a"}
    assert targets.clashes["away/a"].startswith(f"{tmp_path / 'link' / 'away'} is outside of {tmp_path / 'link'}: ")
    for name in ("inside/b", "c"):
        targets.write(GO, name)
    (tmp_path / "out" / "later").symlink_to(tmp_path / "elsewhere")
    for name in ("away/a", "later/d"):
        with pytest.raises(DataError, match="a link leads there"):
            targets.write(GO, name)
    assert files(tmp_path / "out") == ["c.txt", "real/b.txt"]
    assert not (tmp_path / "out" / "c.txt").is_symlink()
    assert files(tmp_path / "elsewhere") == ["c.txt"]
    assert (tmp_path / "elsewhere" / "c.txt").read_text(encoding="utf-8") == "keep"


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes with names")
def test_a_pipe_is_not_written_to(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"a\.txt: is a pipe or device"):
        Targets(["a"], ["txt"], tmp_path)


def test_a_path_that_no_file_system_takes_is_refused_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write there: file name too long"):
        Targets(["a/" * 5000 + "b"], ["srt"], tmp_path)


def test_long_names_that_begin_alike_stay_apart(tmp_path):
    names = ["x" * 300 + end for end in ("1", "2")]
    targets = Targets(names, ["TextGrid"], tmp_path)
    assert len({path for name in names for path in targets.write(GO, name)}) == 2


def test_a_folder_that_cannot_be_used_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("keep", encoding="utf-8")
    with pytest.raises(ConfigError, match="file is no folder"):
        Targets(["a"], ["srt"], tmp_path / "file")
    with pytest.raises(ConfigError, match="file is no folder"):
        Targets(["a"], ["srt"], tmp_path / "file" / "deeper")
    (tmp_path / "out" / "a.srt").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is a folder, and a file of this name"):
        Targets(["a"], ["txt", "srt"], tmp_path / "out")
    (tmp_path / "out" / "b").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="b is no folder"):
        Targets(["b/c"], ["txt"], tmp_path / "out")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        for out in (tmp_path, tmp_path / "new"):
            with pytest.raises(ConfigError, match="no permission"):
                Targets(["a"], ["srt"], out)
    finally:
        tmp_path.chmod(0o755)


def test_an_output_never_takes_the_place_of_an_input(tmp_path, monkeypatch):
    recording = tmp_path / "a.txt"
    recording.write_bytes(b"RIFF")
    with pytest.raises(ConfigError, match=r"a\.txt: is an input, and would be written over"):
        Targets(["a"], ["srt", "txt"], tmp_path, inputs=[recording])
    link = tmp_path / "links" / "a.txt"
    link.parent.mkdir()
    link.symlink_to(recording)
    with pytest.raises(ConfigError, match="is an input"):
        Targets(["a"], ["txt"], link.parent, inputs=[tmp_path / "links" / ".." / "a.txt"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is an input"):
        Targets(["a"], ["txt"], Path(), inputs=["a.txt"])
    assert recording.read_bytes() == b"RIFF"
    Targets(["a"], ["srt"], tmp_path, inputs=[recording])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("one", [GO, NOTHING], ids=["words", "no words"])
def test_done_means_all_files_are_there_and_whole(tmp_path, format, one):
    targets = Targets(["a", "b"], [format, "txt"], tmp_path)
    assert not targets.done("a")
    path, _ = targets.write(one, "a")
    assert targets.done("a")
    assert not targets.done("b")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert targets.done("a") == (not content)
    path.write_bytes(b"\xff\xfe\n")
    assert not targets.done("a")
    path.unlink()
    assert not targets.done("a")


def test_a_file_that_cannot_be_written_is_one_line_and_the_old_one_stays(tmp_path, monkeypatch):
    targets = Targets(["a"], ["txt"], tmp_path)
    targets.write(GO, "a")
    monkeypatch.setattr("os.urandom", bytes)
    (tmp_path / "a.txt.00000000.part").mkdir()
    with pytest.raises(DataError, match=r"a\.txt: cannot write: ") as caught:
        targets.write(NOTHING, "a")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "GO ON\n"


def test_many_thousand_names_are_settled_quickly(tmp_path):
    names = [f"speaker{i % 100}/chapter{i % 1000}/{i}.wav" for i in range(20_000)]
    assert len(Targets(names, ["srt"], tmp_path).of(names[-1])) == 1


def test_an_audio_suffix_is_left_out_and_other_dots_stay():
    assert [recording_id(name) for name in ("a.wav", "b/c.FLAC", "2024.01.02", "x.y.mp3", "")] == [
        "a",
        "b/c",
        "2024.01.02",
        "x.y",
        "",
    ]
