from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.manifest import Utterance, read, read_split, write
from asr.errors import UNSAFE, DataError
from asr.limits import RECORDING_S
from tests.builders import build_corpus

GOOD = {"id": "u", "audio_path": "u.wav", "duration_s": 1.5, "text": "a", "speaker": "s"}


def _row(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


def _write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _with_bad_line_17(folder: Path, bad: bytes) -> Path:
    lines = [_row(id=f"u{i}").encode() for i in range(1, 21)]
    lines[16] = bad
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def _message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert caught.value.path == path
    return str(caught.value)


def test_reading_keeps_order_paths_and_defaults(tmp_path):
    path = _write_lines(tmp_path / "m.jsonl", [_row(id="b"), _row(id="a", audio_path="/abs/a.wav", offset_s=2)])
    manifest = read(str(path))
    assert [u.id for u in manifest] == ["b", "a"]
    assert len(manifest) == 2
    assert manifest.utterances[0] == Utterance("b", "u.wav", 1.5, "a", "s", 0.0, None)
    assert manifest.audio_path(manifest.utterances[0]) == tmp_path / "u.wav"
    assert manifest.audio_path(manifest.utterances[1]) == Path("/abs/a.wav")
    assert manifest.duration_s == 3.0
    assert manifest.speakers == {"s"}


def test_speaker_offset_and_meta_may_be_absent(tmp_path):
    row = {k: v for k, v in GOOD.items() if k != "speaker"}
    manifest = read(_write_lines(tmp_path / "m.jsonl", [json.dumps(row)]))
    assert manifest.utterances == [Utterance("u", "u.wav", 1.5, "a")]
    assert manifest.speakers == set()


def test_blank_lines_are_allowed_and_counted_in_line_numbers(tmp_path):
    path = _write_lines(tmp_path / "m.jsonl", ["", _row(), "   ", _row(id="v"), _row(id="v")])
    assert _message(path).startswith(f"{path}:5: duplicate id 'v' (first on line 4)")


def test_a_byte_order_mark_from_a_windows_editor_is_allowed(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + _row().encode() + b"\r\n" + _row(id="v").encode() + b"\r\n")
    assert [u.id for u in read(path)] == ["u", "v"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"id": "u17", "text": ', "not valid JSON (Expecting value at column 23); one object per line"),
        (b'{"id": "u17"} {"id": "u18"}', "not valid JSON (Extra data at column 15); one object per line"),
        (b'{"text": "caf\xe9"}', "not UTF-8 text (invalid continuation byte at byte 13)"),
        (b'["u17"]', "a row must be a JSON object, got list"),
        (b"null", "a row must be a JSON object, got NoneType"),
        (_row(id="u3").encode(), "duplicate id 'u3' (first on line 3); ids must be unique"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON that can be read (Exceeds the limit"),
        (b"[" * 100_000, "not JSON that can be read (maximum recursion depth exceeded"),
        (_row(text="\ud800").encode(), "holds half of a surrogate pair (\\ud800 to \\udfff), which is not text"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_reason(tmp_path, bad, message):
    path = _with_bad_line_17(tmp_path, bad)
    assert _message(path).startswith(f"{path}:17: {message}")


@pytest.mark.parametrize("field", ["id", "audio_path", "duration_s", "text"])
def test_a_missing_field_is_named(tmp_path, field):
    row = {k: v for k, v in GOOD.items() if k != field}
    path = _write_lines(tmp_path / "m.jsonl", [json.dumps(row)])
    assert _message(path) == f"{path}:1: missing field '{field}'"


@pytest.mark.parametrize(("field", "written"), [("duration_s", "duration"), ("audio_path", "audio_filepath")])
def test_a_missing_field_that_is_written_otherwise_names_the_near_one(tmp_path, field, written):
    row = {(written if k == field else k): v for k, v in GOOD.items()}
    path = _write_lines(tmp_path / "m.jsonl", [json.dumps(row)])
    assert _message(path) == f"{path}:1: missing field '{field}'; is it written as '{written}'?"


def test_an_unknown_field_names_the_nearest_and_where_free_values_go(tmp_path):
    path = _write_lines(tmp_path / "m.jsonl", [_row(speakr="x")])
    assert _message(path) == (f"{path}:1: unknown field 'speakr'; did you mean 'speaker'?; free values go under 'meta'")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_refused_in_meta_too_but_not_in_a_text(tmp_path, number):
    text = _row(id="first", text=f"{number} AND NaN", meta={"note": "NaN"})
    bad = _row(meta={"deep": [{"snr": 0}]}).replace(": 0}]", f": {number}}}]")
    path = tmp_path / "m.jsonl"
    path.write_text(f"{text}\n{bad}\n")
    assert _message(path).startswith(f"{path}:2: not JSON that can be read (Out of range float values")
    path.write_text(f"{text}\n")
    assert len(read(path)) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", 17, "'id' must be a non-empty string, got 17"),
        ("id", "", "'id' must be a non-empty string, got ''"),
        ("audio_path", None, "'audio_path' must be a non-empty string, got None"),
        ("audio_path", "", "'audio_path' must be a non-empty string, got ''"),
        ("text", ["a"], "utt 'u': 'text' must be a string, got ['a']"),
        ("speaker", None, "utt 'u': 'speaker' must be a string, got None"),
        ("duration_s", True, "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got True"),
        ("duration_s", "1.5", "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got '1.5'"),
        ("duration_s", math.nan, "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got nan"),
        ("duration_s", math.inf, "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got inf"),
        ("duration_s", 10**400, "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got 1000"),
        (
            "duration_s",
            604_801,
            "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got 604801; the most is ",
        ),
        ("duration_s", -1, "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got -1"),
        ("duration_s", 0, "utt 'u': 'duration_s' must be a number of seconds, finite and positive, got 0"),
        ("offset_s", -0.5, "utt 'u': 'offset_s' must be a number of seconds, finite and not negative, got -0.5"),
        ("offset_s", False, "utt 'u': 'offset_s' must be a number of seconds, finite and not negative, got False"),
        ("offset_s", None, "utt 'u': 'offset_s' must be a number of seconds, finite and not negative, got None"),
        ("meta", ["x"], "utt 'u': 'meta' must be an object, got ['x']"),
    ],
)
def test_a_value_of_the_wrong_kind_is_shown_with_what_was_expected(tmp_path, field, value, message):
    path = _write_lines(tmp_path / "m.jsonl", [_row(id="first"), _row(**{field: value})])
    assert _message(path).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n"])
def test_a_manifest_without_rows_is_an_error(tmp_path, content):
    path = tmp_path / "m.jsonl"
    path.write_text(content)
    assert _message(path) == f"{path}: the manifest has no utterances"


def test_a_missing_manifest_is_named(tmp_path):
    path = tmp_path / "none.jsonl"
    assert _message(path) == f"{path}: cannot read the manifest: no such file or directory"


def test_a_folder_without_the_split_says_what_is_wanted_and_what_is_there(tmp_path):
    with pytest.raises(DataError, match=r"/nowhere: no such folder; training takes a folder with train\.jsonl and dev"):
        read_split(tmp_path / "nowhere", "train")
    (tmp_path / "rec.jsonl").write_text("")
    with pytest.raises(DataError, match=r"train\.jsonl: no such file; .*; rec\.jsonl there: prepare again with --dev"):
        read_split(tmp_path, "train")
    with pytest.raises(DataError, match=r"rec\.jsonl: is a file; training takes a folder"):
        read_split(tmp_path / "rec.jsonl", "dev")


def test_a_folder_in_place_of_a_manifest_is_named(tmp_path):
    assert _message(tmp_path) == f"{tmp_path}: cannot read the manifest: is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_manifest_without_permission_is_named(tmp_path):
    path = _write_lines(tmp_path / "m.jsonl", [_row()])
    path.chmod(0)
    assert _message(path) == f"{path}: cannot read the manifest: permission denied"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
UTTERANCES = st.builds(
    Utterance,
    id=TEXT.filter(bool),
    audio_path=TEXT.filter(bool),
    duration_s=st.floats(min_value=0, max_value=RECORDING_S, exclude_min=True) | st.integers(1, RECORDING_S),
    text=TEXT,
    speaker=TEXT,
    offset_s=st.floats(min_value=0, max_value=RECORDING_S),
    meta=st.none() | st.dictionaries(TEXT, JSON_VALUES, min_size=1, max_size=3),
)


@given(st.lists(UTTERANCES, min_size=1, max_size=5, unique_by=lambda u: u.id))
def test_what_write_writes_read_reads(tmp_path_factory, utterances):
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    assert write(path, utterances) == len(utterances)
    assert read(path).utterances == utterances


@pytest.mark.parametrize(
    ("utterance", "message"),
    [
        (Utterance("v", "v.wav", math.nan, "a"), "utt 'v': 'duration_s' must be a number of seconds"),
        (Utterance("v", "v.wav", 0.0, "a"), "utt 'v': 'duration_s' must be a number of seconds"),
        (Utterance("", "v.wav", 1.0, "a"), "'id' must be a non-empty string, got ''"),
        (Utterance("u", "v.wav", 1.0, "a"), "duplicate id 'u' (first on line 1)"),
        (Utterance("v", "v.wav", 1.0, "\ud800"), "utt 'v': cannot be written as JSON ('utf-8' codec can't encode"),
        (Utterance("v", "v.wav", 1.0, "a", meta={"x": math.inf}), "utt 'v': cannot be written as JSON (Out of range"),
        (Utterance("v", "v.wav", 1.0, "a", meta={"x": Path()}), "utt 'v': cannot be written as JSON (Object of type"),
    ],
)
def test_write_refuses_what_read_would_refuse_and_keeps_the_old_file(tmp_path, utterance, message):
    path = tmp_path / "m.jsonl"
    write(path, [Utterance("old", "old.wav", 1.0, "a")])
    with pytest.raises(DataError) as caught:
        write(path, [Utterance("u", "u.wav", 1.0, "a"), utterance])
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert [u.id for u in read(path)] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_written_text_is_readable_utf8_one_row_a_line(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [Utterance("u", "ü.wav", 1.0, "zwölf\u2028fünf"), Utterance("v", "v.wav", 1.0, "a\nb")])
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 3
    assert "zwölf" in lines[0].decode()
    assert [u.text for u in read(path)] == ["zwölf\u2028fünf", "a\nb"]


def test_control_characters_and_marks_of_direction_are_escapes_in_the_file(tmp_path):
    utterance = Utterance("u\x9b\x7f", "\u202e.wav", 1.0, "שלום\u200f", "\u2066", meta={"a\u2069": "\x1b"})
    write(tmp_path / "m.jsonl", [utterance])
    assert not UNSAFE.search((tmp_path / "m.jsonl").read_text(encoding="utf-8"))
    assert list(read(tmp_path / "m.jsonl")) == [utterance]


def test_the_builders_corpus_is_a_valid_manifest_with_its_audio(tmp_path):
    manifest = read(build_corpus(tmp_path, 5, seed=3))
    assert len(manifest) == 5
    assert manifest.speakers == {"spk00", "spk01", "spk02", "spk03"}
    assert all(manifest.audio_path(u).is_file() for u in manifest)
    again = read(build_corpus(tmp_path / "again", 5, seed=3))
    assert again.utterances == manifest.utterances
    assert [u.text for u in read(build_corpus(tmp_path / "other", 5, seed=4))] != [u.text for u in manifest]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_300_000_rows_are_read_in_3_seconds_and_400_mb(tmp_path):
    path = tmp_path / "big.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(300_000):
            file.write(
                f'{{"id": "libri-{i:07d}", "audio_path": "wav/{i % 1000}/libri-{i:07d}.flac", "duration_s": '
                f'{2 + i % 700 / 100}, "text": "SOME FORTY CHARACTERS OF TRANSCRIPT {i}", "speaker": "s{i % 900}"}}\n'
            )
    # CPU seconds, as other work on the machine must not fail this. VmHWM and not ru_maxrss: the latter starts at the
    # size of the process that started this one.
    script = (
        "import sys, time\n"
        "from asr.data.manifest import read\n"
        "start = time.process_time()\n"
        "manifest = read(sys.argv[1])\n"
        "seconds = time.process_time() - start\n"
        "peak_kb = next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]\n"
        "print(len(manifest), seconds, peak_kb)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    rows, seconds, peak_kb = done.stdout.split()
    assert int(rows) == 300_000
    assert float(seconds) < 3
    assert int(peak_kb) < 400_000
    print(f"{seconds} s, {peak_kb} kB")
