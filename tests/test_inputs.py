from __future__ import annotations

import os
from pathlib import Path

import pytest

from asr.data.manifest import Utterance, write
from asr.errors import DataError
from asr.recordings.inputs import Input, Part, find_inputs


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names(*inputs: str) -> list[str]:
    return [one.name for one in find_inputs(inputs)]


def test_files_keep_their_order_and_a_missing_one_is_left_to_fail_by_itself(tmp_path):
    make(tmp_path, "b.wav", "a.txt")
    part = Part(channel=2, start_s=3.0)
    assert find_inputs(["b.wav", "gone.wav", "a.txt"], part) == [
        Input("b.wav", Path("b.wav"), part),
        Input("gone.wav", Path("gone.wav"), part),
        Input("a.txt", Path("a.txt"), part),
    ]


def test_a_folder_gives_all_audio_below_it_sorted_and_named_by_its_path_there(tmp_path):
    make(
        tmp_path,
        "d/b.wav",
        "d/a.MP3",
        "d/sub/c.m4a",
        "d/sub/deep/d.flac",
        "d/notes.txt",
        "d/.hidden.wav",
        "d/._a.wav",
        "d/__MACOSX/a.wav",
        "d/.git/e.wav",
    )
    make(tmp_path, "d/e.sph", "d/f.jsonl")
    found = find_inputs(["d"])
    assert [one.name for one in found] == ["a.MP3", "b.wav", "e.sph", "sub/c.m4a", "sub/deep/d.flac"]
    assert found[3].source == Path("d/sub/c.m4a")
    assert names("./d/../d/") == [one.name for one in found]


@pytest.mark.parametrize("name", ["d", "./d"])
def test_a_folder_without_audio_is_an_error_that_names_it(tmp_path, name):
    make(tmp_path, "d/notes.txt", "a.wav")
    with pytest.raises(DataError, match=r"^d: the folder holds no audio"):
        find_inputs(["a.wav", name])


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege on this system")
def test_links_are_followed_and_a_circle_ends(tmp_path):
    make(tmp_path, "d/a.wav", "elsewhere/b.wav")
    (tmp_path / "d/circle").symlink_to(tmp_path / "d")
    (tmp_path / "d/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/broken.wav").symlink_to(tmp_path / "none")
    (tmp_path / "d/z.wav").symlink_to(tmp_path / "d/a.wav")
    (tmp_path / "d/notes").symlink_to(tmp_path / "none")
    assert names("d") == ["a.wav", "broken.wav", "more/b.wav"]  # the broken one fails by itself, with its name


def test_a_pattern_is_expanded_and_one_without_match_is_an_error(tmp_path):
    make(tmp_path, "b1.wav", "b2.wav", "x/b3.wav", "take[1].wav")
    assert names("b*.wav") == ["b1.wav", "b2.wav"]
    assert names("**/b?.wav") == ["b1.wav", "b2.wav", "b3.wav"]
    assert names(str(tmp_path / "b[2-9].wav")) == ["b2.wav"]
    assert names("take[1].wav") == ["take[1].wav"]  # it is there: a name, not a pattern
    with pytest.raises(DataError, match=r"^c\*\.wav: the pattern matches no file"):
        find_inputs(["b*.wav", "c*.wav"])


def test_the_same_file_is_taken_once_however_it_is_named(tmp_path):
    make(tmp_path, "d/a.wav", "d/b.wav")
    assert names("d/b.wav", "d", "d/*.wav", str(tmp_path / "d" / "a.wav"), "-", "d/../d/b.wav", "-") == [
        "b.wav",
        "a.wav",
        "stdin",
    ]
    assert find_inputs(["-"]) == [Input("stdin", None, Part())]


def test_names_that_would_be_the_same_get_their_folders_in_front(tmp_path):
    make(tmp_path, "day1/a.wav", "day2/a.wav", "day2/b.wav", "x/day1/a.wav")
    assert names("day1/a.wav", "day2/a.wav", "day2/b.wav") == ["day1/a.wav", "day2/a.wav", "b.wav"]
    assert names("day1", "day2") == ["day1/a.wav", "day2/a.wav", "b.wav"]
    found = names("day1", "x/day1", "stdin", "-")
    assert found[1] == "x/day1/a.wav"
    assert len(set(found)) == 4
    assert not any(name.startswith("/") or ".." in name for name in found)


def test_the_rows_of_a_manifest_are_parts_with_references(tmp_path):
    rows = [
        Utterance("u1", "wav/a.wav", 2.5, "ONE"),
        Utterance("u2", "wav/a.wav", 1.5, "TWO", offset_s=2.5),
        Utterance("u3", str(tmp_path / "b.wav"), 1.0, ""),
    ]
    (tmp_path / "data").mkdir()
    write("data/test.jsonl", rows)
    found = find_inputs(["data/test.jsonl", "data/test.jsonl"], Part(channel=1))
    assert found == [
        Input("u1", Path("data/wav/a.wav"), Part(1, 0.0, 2.5), "ONE"),
        Input("u2", Path("data/wav/a.wav"), Part(1, 2.5, 4.0), "TWO"),
        Input("u3", tmp_path / "b.wav", Part(1, 0.0, 1.0), ""),
    ]
    write("data/dev.jsonl", rows[:1])
    assert names("data/test.jsonl", "data/dev.jsonl") == ["test/u1", "u2", "u3", "dev/u1"]
    (tmp_path / "more").mkdir()
    write("more/test.jsonl", rows[:1])
    assert names("data/test.jsonl", "more/test.jsonl") == ["test/u1", "u2", "u3", "test/u1-2"]


def test_what_a_row_says_of_channels_stands_above_the_one_that_is_asked_for(tmp_path):
    write("calls.jsonl", [Utterance(f"u-{one}", "a.wav", 1.0, "A", channel=one) for one in (None, 2, "mix")])
    found = find_inputs(["calls.jsonl"], Part(channel=1))
    assert [one.part.channel for one in found] == [1, 2, None]


def test_a_manifest_that_is_missing_broken_or_cut_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"^none\.jsonl: cannot read the manifest"):
        find_inputs(["none.jsonl"])
    Path("bad.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"^bad\.jsonl:1: missing field 'id'"):
        find_inputs(["bad.jsonl"])
    write("good.jsonl", [Utterance("u", "a.wav", 1.0, "A")])
    with pytest.raises(DataError, match=r"^good\.jsonl: the rows of a manifest state where they start"):
        find_inputs(["good.jsonl"], Part(start_s=1.0))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_no_file_in_a_folder_is_left_to_fail_by_itself_and_a_pipe_is_read_only_where_it_is_named(tmp_path):
    make(tmp_path, "d/a.wav")
    os.mkfifo(tmp_path / "d" / "pipe.wav")
    (tmp_path / "d" / "zero.wav").symlink_to("/dev/zero")
    (tmp_path / "d" / "folder.wav").mkdir()
    assert names("d") == ["a.wav", "pipe.wav", "zero.wav"]
    assert [one.is_named for one in find_inputs(["d", "d/p*.wav"])] == [False] * 3
    assert [one.is_named for one in find_inputs(["d/pipe.wav"])] == [True]
