from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer import BLANK_ID, WORD_START, CharTokenizer
from asr.data.tokenizer_file import read_tokenizer, tokenizer_from_json
from asr.errors import UNSAFE, CheckpointError, ConfigError, DataError

# All of Unicode but lone surrogates, which are not text.
#: any but control characters, marks of direction and halves of surrogate pairs, which are no symbols
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]).filter(lambda c: not UNSAFE.search(c)), max_size=30)
SENTENCES = [
    "the cat sat on the mat",
    "the dog sat on the log",
    "a cat and a dog",
    "that that is is",
    "it's the cat's hat",
    "he said that she sat there",
    "on and on it went",
    "the end of the tale",
]
KINDS = ("bpe", "unigram")
TRAINED = {kind: SubwordTokenizer.train(SENTENCES, 30, kind) for kind in KINDS}


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
    assert tokenizer_from_json(data, Path("tokenizer.json")) == tokenizer


def test_unknown_characters_are_shown_with_code_point_and_text():
    with pytest.raises(DataError) as caught:
        CharTokenizer.from_texts(["abc"]).encode("a–é")
    assert str(caught.value) == ("unknown character '–' (U+2013), 'é' (U+00E9) in 'a–é'; the vocabulary is 'abc'")


@pytest.mark.parametrize(("vocabulary", "text", "profile"), [("abc", "CAB", "lower"), ("ABC", "cab", "upper")])
@pytest.mark.parametrize("kind", ["char", *KINDS])
def test_unknown_character_that_differs_in_case_only_names_the_setting(vocabulary, text, profile, kind):
    letters = CharTokenizer.from_texts([vocabulary])
    tokenizer = letters if kind == "char" else SubwordTokenizer.train([vocabulary], 5, kind)
    with pytest.raises(DataError, match=f"{profile}-case form: set text.normalization={profile}$"):
        tokenizer.encode(text)


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


@pytest.mark.parametrize("symbol", ["\x1b", "\n", "\t", "\x85", "\u202e", "\u200f", "\u2028", "\ud800"])
def test_a_symbol_that_a_terminal_obeys_is_refused(symbol):
    for make in (lambda: CharTokenizer(("a", symbol)), lambda: SubwordTokenizer("bpe", ("▁a", f"b{symbol}"), b"")):
        with pytest.raises(ConfigError, match="are no symbols") as caught:
            make()
        assert not UNSAFE.search(str(caught.value))


@pytest.mark.parametrize("symbol", ["", "ab"])
def test_a_symbol_that_is_not_one_character_is_refused(symbol):
    with pytest.raises(ConfigError, match="must be one character"):
        CharTokenizer(("c", symbol))


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.sampled_from(sorted(set("".join(SENTENCES)))), max_size=40).map("".join))
def test_subwords_decode_to_what_was_encoded_and_never_use_the_blank(kind, text):
    ids = TRAINED[kind].encode(text)
    assert TRAINED[kind].decode(ids) == text
    assert all(1 <= i < TRAINED[kind].vocabulary_size for i in ids)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
@example(texts=["<unk>"])
@example(texts=["000", "<unk>"])
@example(texts=["unk", "< 2", "3 >", "a <unk>"])
@settings(max_examples=40)
def test_a_subword_tokenizer_can_write_every_text_it_was_trained_on(kind, texts):
    texts = [" ".join(text.split()) for text in texts]
    try:
        # the fewest tokens: one for each character, the mark of a word's start, the blank
        tokenizer = SubwordTokenizer.train(texts, len(set("".join(texts)) - {" "}) + 2, kind)
    except DataError as error:
        assert "no text to train" in str(error) or "keeps it to itself" in str(error)
        return
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_subword_training_is_deterministic_and_has_the_size_asked_for(kind):
    again = SubwordTokenizer.train(list(reversed(SENTENCES)), 30, kind)
    assert again == TRAINED[kind]
    assert again.vocabulary_size == 30
    assert len(again.symbols) == 29
    assert any(len(s) > 2 for s in again.symbols)
    assert not {"<unk>", "<s>", "</s>", "<pad>"} & set(again.symbols)


def test_subwords_are_the_same_in_another_process():
    script = (
        "import sys, json; from asr.data.subwords import SubwordTokenizer\n"
        "print(json.dumps(SubwordTokenizer.train(json.loads(sys.argv[1]), 30, sys.argv[2]).to_json()))"
    )
    for kind in KINDS:
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps(SENTENCES), kind], capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout) == TRAINED[kind].to_json()
        assert not done.stderr


def test_no_piece_crosses_a_space():
    assert all(WORD_START not in s[1:] for t in TRAINED.values() for s in t.symbols)


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_that_the_texts_do_not_allow_names_the_one_that_fits(kind):
    with pytest.raises(
        ConfigError, match=r"too small: the texts have 4 characters, so at least 5 are needed"
    ) as caught:
        SubwordTokenizer.train(["ab c"], 4, kind)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"too large for these texts: at most (\d+) are possible") as caught:
        SubwordTokenizer.train(SENTENCES, 10**5, kind)
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert SubwordTokenizer.train(SENTENCES, largest, kind).vocabulary_size == largest
    assert "trainer_interface" not in str(caught.value)


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_is_no_tokenizer(texts):
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        SubwordTokenizer.train(texts, 10)


@pytest.mark.parametrize("character", [WORD_START, "\u2585", "\0"])
def test_a_character_that_sentencepiece_keeps_to_itself_is_shown(character):
    with pytest.raises(DataError, match=f"U\\+{ord(character):04X}.*SentencePiece keeps it to itself"):
        SubwordTokenizer.train(["ab", f"c{character}d"], 10)
    with pytest.raises(DataError, match=f"unknown character .*U\\+{ord(character):04X}"):
        TRAINED["bpe"].encode(f"the{character}")


def test_a_sentence_of_any_length_is_trained_on():
    text = "ab " * 5000 + "q"  # SentencePiece leaves out more than 4,192 bytes unless told otherwise
    assert SubwordTokenizer.train(["ab", text], 6).unknown("qab") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_subword_tokenizer_survives_its_file(kind, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(TRAINED[kind].to_json()), encoding="utf-8")
    read = read_tokenizer(path)
    assert read == TRAINED[kind]
    assert read.encode(SENTENCES[0]) == TRAINED[kind].encode(SENTENCES[0])


def test_decoding_needs_the_pieces_alone():
    data = TRAINED["bpe"].to_json() | {"sentencepiece": base64.b64encode(b"damaged").decode()}
    tokenizer = tokenizer_from_json(data, Path("t.json"))
    assert tokenizer.decode(TRAINED["bpe"].encode(SENTENCES[0])) == SENTENCES[0]
    with pytest.raises(CheckpointError, match="SentencePiece model is damaged"):
        tokenizer.encode(SENTENCES[0])


@pytest.mark.parametrize("model", ["", "AAAA"])
def test_a_subword_tokenizer_without_a_usable_model_says_so_when_it_encodes(model, capfd):
    tokenizer = tokenizer_from_json(TRAINED["bpe"].to_json() | {"sentencepiece": model}, Path("t.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer: its (SentencePiece model is damaged|pieces are not those)"):
        tokenizer.encode("the")
    assert capfd.readouterr().err == ""


def test_a_piece_that_is_not_utf8_is_one_line():
    damaged = TRAINED["bpe"].model.replace("▁".encode(), b"\xff\x96\x81", 1)
    data = TRAINED["bpe"].to_json() | {"sentencepiece": base64.b64encode(damaged).decode()}
    with pytest.raises(CheckpointError, match=r"its SentencePiece model is damaged \('utf-8' codec can't decode"):
        tokenizer_from_json(data, Path("t.json")).encode("the")


def test_pieces_of_another_model_are_found_out():
    data = TRAINED["bpe"].to_json() | {"sentencepiece": TRAINED["unigram"].to_json()["sentencepiece"]}
    with pytest.raises(CheckpointError, match="pieces are not those of its SentencePiece model"):
        tokenizer_from_json(data, Path("t.json")).encode("the")


@pytest.mark.parametrize("odd", [BLANK_ID, -1, 10**6])
def test_a_piece_that_sentencepiece_does_not_know_is_no_token(odd, monkeypatch):
    class Unknowing:
        def encode(self, text: str) -> list[int]:
            return [3, odd]

    TRAINED["bpe"].encode("the")
    monkeypatch.setitem(vars(TRAINED["bpe"]), "_sentencepiece", Unknowing())
    with pytest.raises(CheckpointError, match="its SentencePiece model cannot write 'the'"):
        TRAINED["bpe"].encode("the")


def test_characters_load_no_sentencepiece():
    script = (
        "import sys; from asr.data.tokenizer import CharTokenizer; CharTokenizer(('a',)).encode('a');"
        "sys.exit('sentencepiece' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


EXPECTED = "expected one of 'char', 'bpe', 'unigram', 'pieces'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON (Expecting property name"),
        (b"\xff", "not valid JSON ('utf-8' codec can't decode"),
        (b"[" * 200_000, "not valid JSON (brackets inside brackets"),
        (b"[]", f"not a tokenizer this version knows (kind 'list', {EXPECTED})"),
        (b'{"kind": "word", "symbols": []}', f"not a tokenizer this version knows (kind 'word', {EXPECTED})"),
        (b'{"kind": [], "symbols": []}', f"not a tokenizer this version knows (kind [], {EXPECTED})"),
        (b'{"kind": "char", "symbols": "ab"}', "symbols must be a list of strings"),
        (b'{"kind": "char", "blank_id": 3, "symbols": ["a"]}', "blank_id must be 0, got 3"),
        (b'{"kind": "char", "symbols": ["a", 1]}', "symbols must be a list of strings"),
        (b'{"kind": "char", "symbols": ["a", "a"]}', "tokenizer: symbols must be distinct, got ['a'] more than once"),
        (b'{"kind": "char", "symbols": ["ab"]}', "tokenizer: every symbol of a character tokenizer must be one"),
        (b'{"kind": "bpe", "symbols": ["a"]}', "pieces must be a list of strings"),
        (b'{"kind": "bpe", "pieces": ["a", "a"]}', "tokenizer: symbols must be distinct, got ['a'] more than once"),
        (b'{"kind": "bpe", "pieces": ["a", ""]}', "tokenizer: a piece is empty"),
        (b'{"kind": "bpe", "pieces": ["a"], "sentencepiece": "!"}', "sentencepiece must be a model file in base64"),
        (b'{"kind": "bpe", "pieces": ["a"], "sentencepiece": 1}', "sentencepiece must be a model file in base64"),
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


def test_a_pipe_in_the_place_of_a_tokenizer_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: cannot read: is a pipe or device"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_missing_tokenizer_file_is_named(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(tmp_path / "tokenizer.json")
    assert str(caught.value) == f"{tmp_path / 'tokenizer.json'}: cannot read: no such file or directory"


def test_read_tokenizer_returns_what_was_written(tmp_path):
    tokenizer = CharTokenizer.from_texts(["ein zwölf"])
    (tmp_path / "t.json").write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
    assert read_tokenizer(tmp_path / "t.json") == tokenizer
