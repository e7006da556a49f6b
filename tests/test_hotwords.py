"""Hotwords of several words: files of them, decoders that get other ones, and what a search makes of them."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from asr.data.tokenizer import CharTokenizer
from asr.decode.choose import DecoderOptions, beam_decoder, decoder_for
from asr.decode.decoder import BeamDecoder
from asr.decode.hotword_file import read_hotwords
from asr.decode.phrases import build_phrases
from asr.decode.settings import BeamConfig, parse_hotword
from asr.errors import ConfigError, DataError
from asr.lm.ngram import parse_arpa
from tests.reference.beam import BackoffModel, hotword_score
from tests.test_beam_settings import ALPHABET, BACKENDS, LETTERS, model, spoken


def test_a_file_of_hotwords_is_read(tmp_path, caplog):
    path = tmp_path / "hotwords.txt"
    path.write_text(
        "# names\n\ncab ab:4\n  abc\t2.5 \nab : -1\n\nbac\nZÜRICH:3\nabc:2.5\nab:7\ncab   ab:4\n", encoding="utf-8"
    )
    with caplog.at_level(logging.WARNING):
        found = read_hotwords(path, LETTERS)
    assert found == {"cab ab": 4.0, "abc": 2.5, "ab": 7.0, "bac": 10.0}
    first, second = caplog.messages
    assert first.endswith("left out 1 of 5 hotwords, which the tokenizer cannot write (first: 'ZÜRICH' with 'C')")
    assert second.endswith("1 hotwords are there twice with different weights, the last counts (first: 'ab')")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "hotwords.txt: has no hotword; expected one on each line"),
        ("# ab\n", "has no hotword"),
        ("ab\nab :2.0 #0.5 @NAME\n", r"hotwords.txt:2: hotword 'ab :2.0 #0.5 @NAME': expected PHRASE or PHRASE:weight"),
        ("ab:\n", "hotwords.txt:1: hotword 'ab:': expected PHRASE"),
        ("a\nb:101\n", "hotwords.txt:2: weight 101: expected a number from -100 to 100"),
        ("b:nan\n", "hotwords.txt:1: weight nan"),
        ("AB\nBA\n", r"none of the 2 hotwords \(first: 'AB'\); it writes 'abc': is the case right\?"),
        (
            "".join(f"{i:b}\n".replace("0", "a").replace("1", "b") for i in range(100_001)),
            "more than 100,000 hotwords",
        ),
    ],
)
def test_a_file_that_is_no_list_of_hotwords_is_one_line(tmp_path, content, message):
    path = tmp_path / "hotwords.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_hotwords(path, LETTERS)
    assert "\n" not in str(error.value)


def test_a_hotword_option_may_have_several_words():
    assert parse_hotword("nine  one:4") == ("nine one", 4.0)
    assert parse_hotword("nine one") == ("nine one", 10.0)
    assert parse_hotword("nine one\t-2") == ("nine one", -2.0)
    assert BeamConfig(hotwords={" nine\tone ": 4.0}).hotwords == {"nine one": 4.0}


def test_a_file_and_options_are_taken_together(tmp_path):
    path = tmp_path / "hotwords.txt"
    path.write_text("ab a:4\nb:2\n")
    options = DecoderOptions(settings={"hotwords": {"b": 5.0}}, hotword_file=path)
    found = decoder_for(tmp_path, LETTERS, options)
    assert found.name == "beam 100, hotwords ab a:4 b:5"
    assert found.search is not None and found.search.config.hotwords == {"ab a": 4.0, "b": 5.0}
    assert decoder_for(tmp_path, LETTERS, DecoderOptions(hotword_file=path)).name == "beam 100, hotwords ab a:4 b:2"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_phrase_is_not_pruned_before_it_is_complete(backend):
    # "ab ab" is ahead of "ac ac" at every second letter; after the space only the hope of the whole phrase keeps it
    rare, usual, other = 0.001, 0.7, 0.296
    a, space = [rare, rare, 1 - 4 * rare, rare, rare], [rare, 1 - 4 * rare, rare, rare, rare]
    b = [rare, rare, rare, usual, other + rare]
    probs_sv = np.array([a, b, space, a, b])
    log_probs_sv = np.log(probs_sv / probs_sv.sum(axis=1, keepdims=True))
    settings = {"beam_width": 2, "hotwords": {"ac ac": 9.0}}
    found = BeamDecoder(LETTERS, BeamConfig(**settings), backend=backend).decode(log_probs_sv)[0]
    assert found.text == "ac ac" and found.lm_score == pytest.approx(9.0)
    part = BeamDecoder(LETTERS, BeamConfig(**settings), backend=backend).decode(log_probs_sv[:4])[0]
    assert part.text == "ab a" and part.lm_score == pytest.approx(0.0, abs=1e-9)  # the hope is taken back


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_word_of_a_phrase_counts_as_known_wherever_it_stands(backend):
    lm = model("cab")
    config = BeamConfig(alpha=0.0, beta=0.0, unknown_log_prob=-2.0, hotwords={"abc ab": 3.0})
    sure = np.full((8, 5), -np.inf, np.float32)
    sure[np.arange(8), LETTERS.encode("ab abc b")] = 0.0
    found = BeamDecoder(LETTERS, config, lm, backend).decode(sure)[0]
    assert found.text == "ab abc b" and found.lm_score == pytest.approx(-2.0, abs=1e-9)  # "b" alone is unknown


def test_other_hotwords_over_the_same_words_are_those_of_a_new_decoder():
    rng = np.random.default_rng(3)
    words = sorted({"".join(rng.choice(list("abc"), rng.integers(1, 8))) for _ in range(500)})
    lm = BackoffModel({("<s>",): (-99.0, 0.0), ("</s>",): (-1.0, 0.0), **{(w,): (-3.0, 0.0) for w in words}})
    model_ = parse_arpa(lm.arpa().encode(), "drawn.arpa")
    base = BeamDecoder(LETTERS, BeamConfig(hotwords={"abc": 2.0}), model_)
    changed = base.with_config(BeamConfig(hotwords={"cab cccccb": 6.0, "b ab": 3.0}))
    fresh = BeamDecoder(LETTERS, BeamConfig(hotwords={"cab cccccb": 6.0, "b ab": 3.0}), model_)
    log_probs = [spoken(text, LETTERS, rng, noise=2.0) for text in ("cab cccccb a b", "b ab cab", "abc cab cc")]
    assert changed.decode_all(log_probs) == fresh.decode_all(log_probs) != base.decode_all(log_probs)
    with pytest.raises(ConfigError, match="hotword 'x y': the tokenizer cannot write 'x'"):
        base.with_config(BeamConfig(hotwords={"x y": 1.0}))


def test_ten_thousand_phrases_are_found_and_cost_little_to_make(tmp_path):
    rng = np.random.default_rng(0)
    letters = [c for c in ALPHABET.symbols if c != " "]

    def word() -> str:
        return "".join(rng.choice(letters, rng.integers(3, 9)))

    hotwords = {" ".join(word() for _ in range(rng.integers(1, 4))): float(rng.integers(1, 9)) for _ in range(10_000)}
    began_s = time.process_time()
    build_phrases(sorted(letters), hotwords, set())
    assert time.process_time() - began_s < 2.0  # 0.1 s on the machine of docs/performance.md

    decoder = beam_decoder(ALPHABET, BeamConfig()).with_hotwords
    assert decoder is not None
    expecting = decoder(hotwords)
    names = [*list(hotwords)[::2000], "no such name", *list(hotwords)[7:9]]
    text = " ".join(names)
    found = expecting.decode(spoken(text, ALPHABET, rng, noise=0.5))[0]
    assert all(f" {name} " in f" {found.text} " for name in names if name in hotwords)
    assert found.lm_score == pytest.approx(hotword_score(found.text.split(), hotwords))


def test_two_hundred_letters_need_no_bits():
    tokenizer = CharTokenizer((" ", *map(chr, range(0x4E00, 0x4E00 + 200))))
    hotwords = {"\u4e01\u4e02 \u4e03": 5.0, "\u4e02 \u4e03\u4ec0": 2.0}
    sure = np.full((7, 202), -np.inf, np.float32)
    sure[np.arange(7), [*tokenizer.encode("\u4e01\u4e02 \u4e03 \u4e02 ")[:6], 0]] = 0.0
    for backend in BACKENDS:
        found = BeamDecoder(tokenizer, BeamConfig(hotwords=hotwords), backend=backend).decode(sure)[0]
        assert found.lm_score == pytest.approx(5.0)
