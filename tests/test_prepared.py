from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace

import pytest

from asr import __version__
from asr.data import prepared as header
from asr.data.manifest import Utterance
from asr.data.prepared import FILE, Header
from asr.data.subwords import SubwordTokenizer
from asr.errors import CheckpointError, ConfigError, DataError

HEADER = Header(
    recipe="an4",
    title="CMU AN4",
    licence="free",
    homepage="http://a",
    normalization="upper",
    tokenizer="",
    splits={"train": {"utterances": 2, "hours": 0.5, "speakers": 1}},
    dropped=3,
    flagged_numbers=1,
)


def test_a_header_is_read_as_it_was_written(tmp_path):
    header.write(tmp_path, HEADER)
    assert header.read(tmp_path) == HEADER
    assert HEADER.asr_version == __version__
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_without_header_has_none(tmp_path):
    assert header.read(tmp_path) is None
    assert header.read(tmp_path / "missing") is None


def test_fields_of_later_versions_are_passed_over(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(asdict(HEADER) | {"phase_of_the_moon": 3}), encoding="utf-8")
    assert header.read(tmp_path) == HEADER


def without(key):
    return {k: v for k, v in asdict(HEADER).items() if k != key}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Invalid JSON: EOF while parsing"),
        (b"\xff", "Invalid JSON: expected value"),
        (b"[" * 200_000, "Invalid JSON: recursion limit exceeded"),
        (b"[]", "Input should be an object"),
        (without("normalization"), "normalization: Field required"),
        (asdict(HEADER) | {"title": 3}, "title: Input should be a valid string"),
        (asdict(HEADER) | {"dropped": True}, "dropped: Input should be a valid integer"),
        (asdict(HEADER) | {"splits": {"train": 3}}, "splits.train: Input should be an object"),
        (asdict(HEADER) | {"splits": {"train": {"utterances": "2"}}}, "splits.train.utterances.float: Input should be"),
        (asdict(HEADER) | {"normalization": "uper"}, "unknown text normalization 'uper'"),
        (asdict(HEADER) | {"tokenizer": "../../secret.json"}, "'tokenizer' must be the name of a file beside it"),
    ],
)
def test_a_damaged_header_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / FILE
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DataError) as caught:
        header.read(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_header_cannot_name_an_unknown_profile():
    with pytest.raises(ConfigError, match="did you mean 'upper'"):
        replace(HEADER, normalization="uper")


def test_a_header_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / FILE).mkdir()
    (tmp_path / FILE / "x").touch()
    (tmp_path / f"{FILE}.part").mkdir()
    with pytest.raises(DataError, match=r"prepared\.json: cannot write"):
        header.write(tmp_path, HEADER)


def test_facts_of_a_split_and_texts_with_digits():
    rows = [Utterance("a", "a.wav", 1800.0, "AT 5", "s1"), Utterance("b", "b.wav", 1800.0, "FIVE", "s1")]
    assert header.split_facts(rows) == {"utterances": 2, "hours": 1.0, "speakers": 1, "with_digits": 1}
    assert header.count_with_digits(rows) == 1
    unknown = [Utterance("a", "a.wav", 1.0, "A"), Utterance("b", "b.wav", 1.0, "B", "s")]
    assert [header.split_facts(rows)["speakers"] for rows in (unknown[:1], unknown)] == [0, 1]


@pytest.mark.parametrize(
    ("configured", "prepared", "expected", "said"),
    [
        ("data", None, "none", False),
        ("data", "upper", "upper", False),
        ("lower", None, "lower", False),
        ("lower", "none", "lower", False),
        ("upper", "upper", "upper", False),
        ("lower", "upper", "lower", True),
        ("none", "upper", "none", True),
    ],
)
def test_the_profile_of_a_run_is_the_datas_unless_the_config_names_another(
    configured, prepared, expected, said, caplog
):
    with caplog.at_level(logging.WARNING):
        found = header.resolve_normalization(configured, prepared and replace(HEADER, normalization=prepared))
    assert found == expected
    assert bool(caplog.records) == said
    if said:
        assert "the data were prepared with upper" in caplog.text


def test_the_tokenizer_of_a_folder_is_its_file_or_characters(tmp_path, caplog):
    trained = SubwordTokenizer.train(["a cab", "a cabin"], 9)
    assert header.tokenizer_for("data", tmp_path, None) is None
    with pytest.raises(CheckpointError, match=r"own\.json: cannot read: no such file"):
        header.tokenizer_for("data", tmp_path, replace(HEADER, tokenizer="own.json"))
    for name, head in (("tokenizer.json", None), ("own.json", replace(HEADER, tokenizer="own.json"))):
        (tmp_path / name).write_text(json.dumps(trained.to_json()), encoding="utf-8")
        assert header.tokenizer_for("data", tmp_path, head) == trained
        assert header.tokenizer_for("char", tmp_path, head) is None
    assert header.tokenizer_for("data", tmp_path, HEADER) is None
    assert f"{tmp_path / 'tokenizer.json'}: not used, as prepared.json names no tokenizer" in caplog.text


@pytest.mark.parametrize("place", ["", "best"])
def test_the_tokenizer_of_the_model_to_start_from_is_taken_where_asked_for(tmp_path, place):
    trained = SubwordTokenizer.train(["a cab", "a cabin"], 9)
    folder = tmp_path / "model" / place
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(trained.to_json()), encoding="utf-8")
    assert header.tokenizer_for("init", tmp_path, HEADER, str(tmp_path / "model")) == trained
    assert header.tokenizer_for("data", tmp_path, None, str(tmp_path / "model")) is None
    with pytest.raises(ConfigError, match=r"tokenizer is init, which needs a model: train\.init, or --init MODEL of"):
        header.tokenizer_for("init", tmp_path, HEADER)
    with pytest.raises(ConfigError, match=r"/none: no such model folder or run folder"):
        header.tokenizer_for("init", tmp_path, HEADER, str(tmp_path / "none"))


def test_the_files_that_a_header_names_are_a_preparations_also_while_it_is_not_finished(tmp_path):
    (tmp_path / "train.jsonl").write_text("x")
    (tmp_path / "tokenizer.json").write_text("x")
    assert not header.is_own(tmp_path, "train.jsonl")
    whole = replace(HEADER, tokenizer="tokenizer.json")
    header.begin(tmp_path, whole, ["train.jsonl"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [header.UNFINISHED, "tokenizer.json"]
    assert header.is_own(tmp_path, "train.jsonl") and header.is_own(tmp_path, "tokenizer.json")
    assert not header.is_own(tmp_path, "dev.jsonl")
    with pytest.raises(DataError, match="the last 'asr prepare' of this folder did not finish"):
        header.read(tmp_path)
    assert header.read_unfinished(tmp_path) == whole

    header.write(tmp_path, whole)
    assert header.read(tmp_path) == whole
    assert header.is_own(tmp_path, "train.jsonl") and not (tmp_path / header.UNFINISHED).exists()
    (tmp_path / FILE).write_text("{")
    assert header.is_own(tmp_path, "anything.jsonl")  # nothing tells of which files it was
