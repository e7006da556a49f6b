"""Tokenizers of an earlier model with new tokens behind the old ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data import prepared as headers
from asr.data.extension import extended
from asr.data.pieces import PieceTokenizer
from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer import CharTokenizer
from asr.doctor.expected import of_config
from asr.errors import ConfigError
from asr.model.checkpoint import load_model
from asr.train import resume, train
from tests.builders import build_corpus, tiny_config
from tests.models import save_random_model

LETTERS = "abx"
words = st.text(LETTERS, min_size=1, max_size=4)
texts = st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), max_size=4)
symbols = st.lists(st.sampled_from([" ", "a", "b", "ab", "bx", "▁", "▁a", "▁bb"]), unique=True, max_size=5)


@given(symbols, texts)
def test_every_text_can_be_written_and_the_old_tokens_keep_their_ids(symbols, texts):
    if {" ", "▁"} <= set(symbols):
        symbols.remove(" ")  # they write the same
    for old in (PieceTokenizer(tuple(symbols)), CharTokenizer(tuple(s for s in symbols if len(s) == 1))):
        new = extended(old, texts)
        assert new.symbols[: len(old.symbols)] == old.symbols
        assert [new.decode(new.encode(text)) for text in texts] == texts
        if all(not old.unknown(text) for text in texts):
            assert new == old
        assert new == extended(old, reversed(texts)) == extended(new, texts)


def test_a_space_is_added_as_the_vocabulary_writes_it():
    assert extended(PieceTokenizer(("▁a", "b")), ["ab b"]).symbols == ("▁a", "b", "▁")
    assert extended(PieceTokenizer(("tʃ", "b")), ["b tʃ"]).symbols == ("tʃ", "b", " ")


def test_subwords_take_no_new_tokens():
    old = SubwordTokenizer.train(["ab ba"], 5)
    with pytest.raises(
        ConfigError, match=r"^text.tokenizer: init\+ adds tokens .* of kind bpe: set it to init, or to "
    ):
        extended(old, ["abc"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("train", "dev")):
        build_corpus(folder, 6, seed=seed, name=name, alphabet="abe", longest=6)
    return folder


def test_training_takes_the_tokens_of_the_first_model_and_new_ones(data, tmp_path):
    old = save_random_model(tmp_path / "old")
    cfg = tiny_config("text.tokenizer=init+", f"train.init={old}", "train.epochs=1")
    report = train(cfg, data, tmp_path / "run")
    tokenizer = load_model(report.run / "best").tokenizer
    assert tokenizer.symbols == (*load_model(old).tokenizer.symbols, "e")
    assert of_config(cfg, data).tokenizer == tokenizer, "what asr doctor expects"
    resume(report.run)


def test_init_plus_without_a_model_is_one_line(data):
    with pytest.raises(ConfigError, match=r"^text.tokenizer is init\+, which needs a model: train.init, or --init"):
        headers.tokenizer_for("init+", data, None)
