"""Estimation: the arrays' Kneser-Ney equals the dictionaries' one, and lmplz."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asr.errors import ConfigError, DataError
from asr.lm import estimate, ngram, words
from asr.lm.compiled.text import write_number
from tests.reference import ngram as reference
from tests.test_ngram import arpa_text, random_text

#: words of Zipf's kind, so that there are n-grams that occur once, twice, thrice
zipf = st.sampled_from("aaaaaaaabbbbccdefghij")
texts = st.lists(st.lists(zipf, max_size=7), min_size=1, max_size=25)
prunes = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(sorted)


def assert_same(model: ngram.NgramModel, expected: reference.Model, tmp_path) -> None:
    got = reference.read(arpa_text(model, tmp_path))
    assert got.keys() == expected.keys()
    for gram, (log_prob, backoff) in expected.items():
        assert got[gram] == pytest.approx((log_prob, backoff), rel=1e-7, abs=2e-6), gram  # rel: float32 at 10^-99


@given(text=texts, order=st.integers(1, 4), prune=prunes, vocab=st.none() | st.sets(st.sampled_from("abcdez")))
def test_the_estimate_equals_the_reference(text, order, prune, vocab, tmp_path_factory):
    prune = prune[:order]
    occurs = Counter(word for sentence in text for word in sentence)
    assume(any(count > prune[0] and (vocab is None or word in vocab) for word, count in occurs.items()))
    model = ngram.train([" ".join(s) for s in text], order, prune=prune, vocab=vocab)
    expected = reference.kneser_ney(text, order, prune=prune, vocab=vocab)
    assert_same(model, expected, tmp_path_factory.mktemp("train"))


@pytest.mark.parametrize("order", [2, 3])
def test_the_estimate_equals_the_reference_where_discounts_are_computed(order, tmp_path, caplog):
    lines = random_text(5, num_lines=150, num_words=200)
    model = ngram.train(lines, order)
    assert "cannot be computed" not in caplog.text
    assert_same(model, reference.kneser_ney([line.split() for line in lines], order), tmp_path)


LMPLZ = os.environ.get("ASR_LMPLZ") or shutil.which("lmplz")


@pytest.mark.skipif(not LMPLZ, reason="lmplz is not installed (name it in ASR_LMPLZ; test-only)")
@pytest.mark.parametrize(
    ("order", "prune", "limited"),
    [
        (1, (0,), False),
        (2, (0,), False),
        (3, (0, 1), False),
        (4, (0, 0, 1, 2), False),
        (5, (0,), False),
        (6, (0,), False),
        (3, (0,), True),
        (3, (1, 2), True),
    ],
)
def test_the_estimate_equals_lmplz(order, prune, limited, tmp_path):
    lines = random_text(order, num_lines=2000, num_words=400)
    vocab = sorted({w for line in lines[:20] for w in line.split()}) if limited else None
    (tmp_path / "text").write_text("\n".join(lines) + "\n")
    files = ["--text", str(tmp_path / "text"), "--arpa", str(tmp_path / "ref.arpa")]
    command = [str(LMPLZ), "-o", str(order), *files, "-S", "100M", "--discount_fallback", "--prune", *map(str, prune)]
    if vocab:
        (tmp_path / "vocab").write_text("\n".join(vocab))
        command += ["--limit_vocab_file", str(tmp_path / "vocab")]
    subprocess.run(command, check=True, capture_output=True)
    expected = reference.read((tmp_path / "ref.arpa").read_text())
    assert_same(ngram.train(lines, order, prune=prune, vocab=vocab), expected, tmp_path)


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        (["", "  ", "\t"], {}, "all lines are blank"),
        (
            ["A B", "B"],
            {"vocab": {"a", "b"}},
            "no word of the text is among the 2 words .* has 'A B', the vocabulary 'a b'",
        ),
        (["A B", "B"], {"vocab": set()}, "no word of the text is among the 0 words of the vocabulary"),
        (["a b", "b c"], {"prune": [2]}, "of the 3 different words of the text the most frequent occurs 2 times"),
        (["a b", "b"], {"prune": [1], "vocab": {"a"}}, "pruning leaves no word"),
        (["<s> </s>"], {"skip_symbols": True}, "all lines are blank"),
    ],
)
def test_a_model_that_would_know_no_word_is_refused(text, how, said):
    with pytest.raises(DataError, match=said):
        ngram.train(text, 2, **how)


def test_the_words_that_pruning_and_the_vocabulary_make_unknown_are_counted(caplog):
    text = ["a a a b", "a b c d"]  # 8 words: a 4, b 2, c 1, d 1
    with caplog.at_level("INFO", "asr"):
        ngram.train(text, 2)
        assert "unknown" not in caplog.text
        model = ngram.train(text, 2, prune=[1])
    assert "2 of 4 different words are left out by pruning or the vocabulary and are unknown" in caplog.text
    assert "25.00 % of the text's words" in caplog.text and model.words[3:] == ["a", "b"]
    caplog.clear()
    with caplog.at_level("INFO", "asr"):
        ngram.train(text, 2, vocab={"a"})
    assert "3 of 4 different words" in caplog.text and "50.00 % of the text's words" in caplog.text


def test_text_may_come_in_blocks(monkeypatch, tmp_path):
    lines, seen = random_text(1), []
    whole = arpa_text(ngram.train(lines, 3), tmp_path)
    monkeypatch.setattr(estimate, "_CHUNK", 100)
    monkeypatch.setattr(words, "_BLOCK", 300)
    assert arpa_text(ngram.train(iter(lines), 3, progress=lambda *at: seen.append(at)), tmp_path) == whole
    assert len(seen) > 10
    assert seen[-1] == (len(lines), sum(len(line.split()) for line in lines))


def test_the_tables_grow_with_the_ngrams():
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, rng.integers(0, 30_000, 10))) for _ in range(10_000)]
    assert ngram.train(lines, 2).counts[1] > 100_000  # more than the first table holds


def test_words_are_what_python_splits(tmp_path):
    lines = ["a\tb  c\x0bd", "e\u3000f\xa0g h\x1ci", " \x85 ", "caf\u00e9 \u732b", "a b\n"]
    model = ngram.train(lines, 2)
    assert model.words[3:] == list(dict.fromkeys(word for line in lines for word in line.split()))
    assert arpa_text(model, tmp_path) == arpa_text(ngram.train([" ".join(x.split()) for x in lines], 2), tmp_path)


@pytest.mark.parametrize("order", [4, 6])
def test_words_that_no_single_key_holds_are_sorted_further(order, tmp_path):
    rng = np.random.default_rng(1)
    rare = [" ".join(f"w{i}" for i in rng.integers(0, 90_000, 8)) for _ in range(10_000)]
    common = random_text(3, num_lines=400, num_words=50)
    lines = [*rare, *common, *rare[:50]]
    assert len(words_of := {word for line in lines for word in line.split()}) > 1 << 15
    model = ngram.train(lines, order, vocab={word for line in common for word in line.split()})
    counted = Counter()
    for line in lines:
        padded = ["<s>", *line.split(), "</s>"]
        counted.update(tuple(padded[i : i + order]) for i in range(len(padded) - order + 1))
    kept = set(model.words)
    assert model.counts[-1] == sum(kept.issuperset(gram) for gram in counted)
    assert words_of


def test_numbers_in_arpa_files_are_those_of_nine_digits():
    rng = np.random.default_rng(0)
    values = np.float32(rng.choice([-1, 1], 20_000) * 10.0 ** rng.uniform(-40, 30, 20_000)).astype(float)
    values = [*values.tolist(), 0.0, -99.0, -1.0, 9.99999999951, 0.0001, 0.00009999999999, 123456789.4, 1e9, 1e-300]
    out = np.zeros(64, np.uint8)
    for value in values:
        text = out[: write_number(value, out, 0)].tobytes().decode()
        assert text == f"{value:.9g}" or float(text) == pytest.approx(value, rel=2e-9)
        assert len(text) <= 24
    same = sum(out[: write_number(value, out, 0)].tobytes().decode() == f"{value:.9g}" for value in values)
    assert same >= len(values) - 2  # ties


def test_an_empty_line_is_a_sentence():
    model = ngram.train(["", "", "a"], 2)
    assert model.score([]) > model.score(["a"])


def test_a_text_too_small_for_discounts_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        ngram.train(["a b", "a c"], 2)
    assert "discounts of 1-grams cannot be computed: " in caplog.text
    assert "Using 0.5, 1, 1.5" in caplog.text
    with pytest.raises(DataError, match="discounts of 1-grams cannot be computed"):
        ngram.train(["a b", "a c"], 2, discount_fallback=False)


@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>", "<UNK>"])
def test_the_models_own_words_in_the_text_are_an_error_that_names_the_line(word):
    with pytest.raises(DataError, match=f"line 2 of the text has the word {word}"):
        ngram.train(["a", f"b {word} c"], 2)
    skipped = ngram.train(["a", f"b {word} c"], 2, skip_symbols=True)
    np.testing.assert_array_equal(skipped.score_words(["b", "c"]), ngram.train(["a", "b c"], 2).score_words(["b", "c"]))
    assert set(skipped.words[3:]) == {"a", "b", "c"}


def test_no_text_is_an_error():
    with pytest.raises(DataError, match="not one line"):
        ngram.train([], 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "order must be 1 to 6, got 0"),
        ({"order": 7}, "order must be 1 to 6, got 7"),
        ({"order": 2, "prune": (1, 0)}, "never fall"),
        ({"order": 2, "prune": (0, 0, 1)}, "at most 2 numbers"),
        ({"order": 2, "prune": (-1,)}, "0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ngram.train(["a"], **settings)


def test_a_real_text_gives_the_perplexity_on_record(shared_data):
    lines = list(ngram.read_lines([shared_data / "text" / "ljspeech-lm-text.txt.gz"]))
    held_out = len(lines) // 20
    model = ngram.train(lines[:-held_out], 3)
    result = ngram.perplexity(model, lines[-held_out:])
    ids = np.array([w for w in range(model.vocabulary_size) if w != model.begin_id])
    rng = np.random.default_rng(0)
    state = model.begin_state
    for line in rng.choice(lines[-held_out:], 20):
        for word in line.split():
            total = np.exp(model.advance_many(np.full(len(ids), state), ids)[0]).sum()
            assert total == pytest.approx(1.0, abs=1e-5)
            state = model.advance(state, model.word_id(word))[1]
    # docs/ngram.md has these numbers
    assert result.without_unknown == pytest.approx(RECORD[0], rel=1e-4)
    assert (result.words, result.unknown_words) == RECORD[1:]


#: perplexity without unknown words, words, unknown words of the last 5 %
RECORD = (209.692, 10_543, 272)
