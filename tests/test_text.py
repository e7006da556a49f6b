from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import CheckpointError, ConfigError, DataError
from asr.text import BLANK_ID, NORMALIZATIONS, CharTokenizer, normalize, read_tokenizer, tokenizer_from_json

# All of Unicode but lone surrogates, which are not text.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def test_blank_is_zero_and_no_symbol_has_it():
    tokenizer = CharTokenizer.from_texts(["ba"])
    assert BLANK_ID == 0
    assert tokenizer.encode("ab") == [1, 2]
    assert tokenizer.vocabulary_size == 3


@given(TEXT)
def test_decode_undoes_encode(text):
    tokenizer = CharTokenizer.from_texts([text])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(1 <= i < tokenizer.vocabulary_size for i in ids)


@given(st.lists(TEXT, min_size=1, max_size=5), st.randoms())
def test_the_vocabulary_does_not_depend_on_the_order_of_texts(texts, random):
    shuffled = texts.copy()
    random.shuffle(shuffled)
    assert CharTokenizer.from_texts(texts) == CharTokenizer.from_texts(shuffled)


@given(TEXT)
def test_a_tokenizer_survives_its_json_form(text):
    tokenizer = CharTokenizer.from_texts([text])
    data = json.loads(json.dumps(tokenizer.to_json()))
    assert tokenizer_from_json(data, "tokenizer.json") == tokenizer


@given(TEXT, st.sampled_from(sorted(NORMALIZATIONS)))
def test_normalizing_twice_changes_nothing_more(text, profile):
    once = normalize(text, profile)
    assert normalize(once, profile) == once


@given(TEXT, st.sampled_from(["upper", "lower"]))
def test_normalized_text_is_nfc_with_single_spaces(text, profile):
    out = normalize(text, profile)
    assert unicodedata.is_normalized("NFC", out)
    assert out == " ".join(out.split())


def test_decomposed_and_composed_letters_become_the_same_text():
    assert normalize("cafe\u0301", "lower") == normalize("CAFÉ", "lower") == "café"


def test_profile_none_keeps_case_and_collapses_white_space():
    assert normalize("  A\tb \n c ", "none") == "A b c"


def test_unknown_profile_names_the_nearest_and_the_key():
    with pytest.raises(ConfigError) as caught:
        normalize("a", "uper")
    assert str(caught.value) == ("unknown text normalization 'uper' (known: none, upper, lower); did you mean 'upper'?")
    assert caught.value.key == "text.normalization"


def test_unknown_characters_are_shown_with_code_point_and_text():
    with pytest.raises(DataError) as caught:
        CharTokenizer.from_texts(["abc"]).encode("a–é")
    assert str(caught.value) == ("unknown character '–' (U+2013), 'é' (U+00E9) in 'a–é'; the vocabulary is 'abc'")


@pytest.mark.parametrize(("vocabulary", "text", "profile"), [("abc", "CAB", "lower"), ("ABC", "cab", "upper")])
def test_unknown_character_that_differs_in_case_only_names_the_setting(vocabulary, text, profile):
    with pytest.raises(DataError, match=f"{profile}-case form: set text.normalization={profile}$"):
        CharTokenizer.from_texts([vocabulary]).encode(text)


def test_many_unknown_characters_in_a_long_text_stay_one_short_line():
    message = CharTokenizer(("x",)).unknown_message("abcdefgh\n" * 50)
    assert "\n" not in message
    assert len(message) < 250
    assert "…" in message


def test_unknown_lists_each_character_once_in_order():
    assert CharTokenizer(("a",)).unknown("zazby") == ["z", "b", "y"]


@pytest.mark.parametrize("bad", [0, -1, 4, 99])
def test_decode_refuses_the_blank_and_ids_outside(bad):
    with pytest.raises(ValueError, match=rf"must be in 1\.\.3 \(0 is the blank\), got \[{bad}\]"):
        CharTokenizer(("a", "b", "c")).decode([1, bad])


def test_repeated_symbols_are_refused_and_shown():
    with pytest.raises(ConfigError, match=r"distinct, got \['a'\] more than once"):
        CharTokenizer(("a", "b", "a"))


@pytest.mark.parametrize("symbol", ["", "ab"])
def test_a_symbol_that_is_not_one_character_is_refused(symbol):
    with pytest.raises(ConfigError, match="must be one character"):
        CharTokenizer(("c", symbol))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON (Expecting property name"),
        (b"\xff", "not valid JSON ('utf-8' codec can't decode"),
        (b"[" * 200_000, "not valid JSON (maximum recursion depth"),
        (b"[]", "not a tokenizer this version knows (kind 'list', expected 'char')"),
        (b'{"kind": "bpe", "symbols": []}', "not a tokenizer this version knows (kind 'bpe', expected 'char')"),
        (b'{"kind": "char", "symbols": "ab"}', "symbols must be a list of strings"),
        (b'{"kind": "char", "blank_id": 3, "symbols": ["a"]}', "blank_id must be 0, got 3"),
        (b'{"kind": "char", "symbols": ["a", 1]}', "symbols must be a list of strings"),
        (b'{"kind": "char", "symbols": ["a", "a"]}', "tokenizer: symbols must be distinct, got ['a'] more than once"),
        (b'{"kind": "char", "symbols": ["ab"]}', "tokenizer: every symbol of a character tokenizer must be one"),
    ],
)
def test_a_malformed_tokenizer_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert caught.value.path == path


def test_a_missing_tokenizer_file_is_named(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(tmp_path / "tokenizer.json")
    assert str(caught.value) == f"{tmp_path / 'tokenizer.json'}: cannot read: no such file or directory"


def test_read_tokenizer_returns_what_was_written(tmp_path):
    tokenizer = CharTokenizer.from_texts(["ein zwölf"])
    (tmp_path / "t.json").write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
    assert read_tokenizer(tmp_path / "t.json") == tokenizer
