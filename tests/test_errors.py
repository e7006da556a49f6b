from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import AsrError, CheckpointError, ConfigError, DataError, TrainingError, harmless, nearest, os_reason


def test_a_data_error_says_where_first():
    assert str(DataError("wrong")) == "wrong"
    assert str(DataError("wrong", "a.jsonl")) == "a.jsonl: wrong"
    error = DataError("wrong", "a.jsonl", 17)
    assert str(error) == "a.jsonl:17: wrong"
    assert (str(error.path), error.line) == ("a.jsonl", 17)


def test_a_checkpoint_error_says_where_and_a_config_error_which_key():
    assert str(CheckpointError("incomplete", "models/best")) == "models/best: incomplete"
    assert ConfigError("wrong", key="optim.lr").key == "optim.lr"


@given(st.text(st.characters()), st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_every_message_is_one_line_that_can_be_printed(message, path):
    for error in (AsrError(message), DataError(message, path, 1), CheckpointError(message, path), ConfigError(message)):
        assert len(str(error).splitlines()) <= 1
        str(error).encode()


def test_ordinary_text_of_every_script_is_shown_as_it_is():
    assert str(TrainingError("Füße, 数字, ‘x’ … 3 % \\n")) == "Füße, 数字, ‘x’ … 3 % \\n"


def test_control_characters_are_shown_and_not_obeyed():
    assert str(AsrError("a\nb\x1b[31m\ud800")) == "a\\nb\\x1b[31m\\ud800"


def test_what_a_terminal_obeys_and_what_turns_a_text_around_is_shown_in_results_too():
    unsafe = [*map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, 0x2028, 0x2029))]
    unsafe += [*map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xDFFF))]
    assert [c for c in unsafe if harmless(c) == c] == ["\t", "\n"]
    assert harmless("a\x1b[31m\u202eb\n") == "a\\x1b[31m\\u202eb\n"


@pytest.mark.parametrize("text", ["می\u200cخواهم", "क्\u200dष", "«\u00a0oui\u00a0!»", "שלום", "👩\u200d🔬", "a\tb\n"])
def test_what_belongs_to_the_spelling_of_a_text_stays_in_results(text):
    assert harmless(text) == text


def test_a_value_of_megabytes_is_shown_by_its_ends():
    line = str(DataError(f"got '{'a' * 3_000_000}', expected a number", "a.jsonl", 7))
    assert line.startswith("a.jsonl:7: got 'aaa") and line.endswith("aaa', expected a number")
    assert " … " in line and len(line) < 2100
    assert len(str(AsrError("\0" * 3_000_000))) < 2100


@pytest.mark.parametrize("kind", [DataError, ConfigError, CheckpointError, TrainingError])
def test_every_expected_failure_is_an_asr_error(kind):
    assert issubclass(kind, AsrError)


@pytest.mark.parametrize("error", [DataError("wrong", "a.jsonl", 17), CheckpointError("x", "y"), ConfigError("x", "k")])
def test_an_error_keeps_its_message_through_another_process(error):
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_nearest_names_one_word_or_nothing():
    assert nearest("speakr", ["speaker", "text"]) == "; did you mean 'speaker'?"
    assert nearest("qqq", ["speaker", "text"]) == ""
    assert nearest("x", []) == ""


def test_os_reason_leaves_the_path_out():
    try:
        open("/nowhere/at/all")  # noqa: PTH123, SIM115
    except OSError as error:
        assert os_reason(error) == "no such file or directory"
    assert os_reason(OSError("Odd thing")) == "odd thing"
