"""Files of transcripts are read by id, whatever their form, and damaged ones say where."""

import json
from pathlib import Path

import pytest

from asr.errors import DataError
from asr.scoring.info import NO_INFO, UtteranceInfo, merge_info
from asr.scoring.transcripts import REFERENCES, read


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def jsonl(path: Path, *rows: object) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_plain_lines_are_read_with_space_tab_and_empty_text(tmp_path: Path) -> None:
    path = write(tmp_path / "hyp.txt", "u1 a b\nu2\tc  d\n\nu3\r\nu4 \n  u5 e \r\nu6 f")
    expected = {"u1": "a b", "u2": "c  d", "u3": "", "u4": "", "u5": "e", "u6": "f"}
    found = read(path).texts
    assert found == expected
    assert list(found) == list(expected)


def test_json_lines_prefer_the_hypothesis_to_the_text(tmp_path: Path) -> None:
    row = {"id": "u1", "text": "said", "hypothesis": "heard", "reference": "meant"}
    path = jsonl(tmp_path / "hyp.jsonl", row)
    assert read(path).texts == {"u1": "heard"}
    assert read(path, REFERENCES).texts == {"u1": "meant"}


def test_json_lines_fall_back_to_the_text_of_a_manifest(tmp_path: Path) -> None:
    row = {"id": "u1", "audio_path": "u1.wav", "duration_s": 1.0, "text": "a b", "speaker": "s"}
    assert read(jsonl(tmp_path / "m.jsonl", row)).texts == {"u1": "a b"}


@pytest.mark.parametrize("content", ["u1 caf\u00e9\n", '\n {"id": "u1", "text": "caf\u00e9"}\n'])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, content: str) -> None:
    assert read(write(tmp_path / "hyp", content.encode("utf-8-sig"))).texts == {"u1": "caf\u00e9"}


def test_other_unicode_spaces_and_line_ends_stay_in_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "hyp.txt", "u\u00a01 a\u2028b\nu2 c\n")
    assert read(path).texts == {"u\u00a01": "a\u2028b", "u2": "c"}


GOOD = b'{"id": "u1", "hypothesis": "a"}\n'


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", None, "no utterances"),
        (b"\n \n", None, "no utterances"),
        (b"\xef\xbb\xbf", None, "no utterances"),
        (b"u1 a\nu2 \xff\n", 2, "not UTF-8"),
        ("u1 a\n".encode("utf-16"), 1, "not UTF-8"),
        (b"u1 a\nu2 b\nu1 c\n", 3, r"duplicate id 'u1' \(first on line 1\)"),
        (GOOD + b"\n" + GOOD, 3, r"duplicate id 'u1' \(first on line 1\)"),
        (GOOD + b'{"id": "u2", \n', 2, "not valid JSON"),
        (GOOD + b"u2 b\n", 2, "not valid JSON"),
        (GOOD + b'{"id": ' + b"9" * 5000 + b"}\n", 2, "not valid JSON"),
        (GOOD + b"{" + b'"a": [' * 20_000 + b"\n", 2, "not valid JSON"),
        (GOOD + b"[1]\n", 2, "must be a JSON object, got list"),
        (GOOD + b'{"hypothesis": "b"}\n', 2, "'id' must be a non-empty string"),
        (GOOD + b'{"id": "", "hypothesis": "b"}\n', 2, "'id' must be a non-empty string"),
        (GOOD + b'{"id": 2, "hypothesis": "b"}\n', 2, "'id' must be a non-empty string, got 2"),
        (GOOD + b'{"id": "u2", "hyp": "b"}\n', 2, "utt 'u2': missing field 'hypothesis' or 'text'"),
        (GOOD + b'{"id": "u2", "hypothesis": null}\n', 2, "utt 'u2': 'hypothesis' must be a string, got None"),
        (GOOD + b'{"id": "u2", "text": "b"}\n', 2, "utt 'u2': has 'text' where the rows before have 'hypothesis'"),
    ],
)
def test_a_bad_file_is_an_error_that_names_path_and_line(
    tmp_path: Path, content: bytes, line: int | None, message: str
) -> None:
    path = write(tmp_path / "hyp", content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert (caught.value.path, caught.value.line) == (path, line)


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        read(tmp_path / "none.txt")
    assert caught.value.path == tmp_path / "none.txt"
    with pytest.raises(DataError, match="the folder holds no transcripts"):
        read(tmp_path)


def test_what_rows_say_beside_the_text_is_kept(tmp_path: Path) -> None:
    rows = (
        {"id": "u1", "text": "a", "speaker": "anna", "duration_s": 2, "meta": {"room": 1}},
        {"id": "u2", "text": "b", "speaker": "", "meta": {}},
        {"id": "u3", "text": "c", "speaker": None, "duration_s": None, "meta": None},
    )
    found = read(jsonl(tmp_path / "m.jsonl", *rows))
    assert found.info == {"u1": UtteranceInfo("anna", 2.0, {"room": 1})}
    assert found.field == "text"
    assert found.info["u1"].to_json() == {"speaker": "anna", "duration_s": 2.0, "meta": {"room": 1}}
    assert NO_INFO.to_json() == {} and UtteranceInfo(duration_s=0.0).to_json() == {"duration_s": 0.0}
    assert read(write(tmp_path / "plain", "u1 a\n")).info == {}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("speaker", 3, "'speaker' must be a string, got 3"),
        ("duration_s", "1", "'duration_s' must be a number of seconds"),
        ("duration_s", -1, "finite and not negative, got -1"),
        ("duration_s", True, "got True"),
        ("duration_s", float("inf"), "got inf"),
        ("duration_s", 10**400, "must be a number of seconds"),
        ("meta", [1], r"'meta' must be an object, got \[1\]"),
    ],
)
def test_facts_of_another_kind_are_an_error_that_names_the_line(tmp_path: Path, field, value, message) -> None:
    path = jsonl(tmp_path / "m.jsonl", {"id": "u1", "text": "a"}, {"id": "u2", "text": "b", field: value})
    with pytest.raises(DataError, match=f"utt 'u2': {message}" if message.startswith("'") else message) as caught:
        read(path)
    assert caught.value.line == 2


def test_what_several_files_know_of_an_utterance_is_put_together_field_by_field():
    found = merge_info({"a": UtteranceInfo("one")}, {"a": UtteranceInfo("two", 2.0), "b": UtteranceInfo("", 1.0)})
    assert found == {"a": UtteranceInfo("one", 2.0), "b": UtteranceInfo("", 1.0)}
