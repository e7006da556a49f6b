"""Scoring: the automaton equals the recursion that defines back-off, and kenlm."""

from __future__ import annotations

import gzip
import math
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asr.errors import AsrError, DataError
from asr.lm import ngram
from asr.lm.arrays import LN10, no_ngrams
from tests.reference import ngram as reference

WORDS = ["a", "b", "c", "dé", "e"]
#: float32 log-probabilities, a few of them summed
CLOSE = 2e-6
sentences = st.lists(st.sampled_from([*WORDS, "unknown"]), max_size=8)
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=6), min_size=1, max_size=8).filter(any)


def random_text(seed: int, num_lines: int = 300, num_words: int = 40) -> list[str]:
    """Sentences in which frequent words are frequent and some follow others."""
    draw = random.Random(seed)
    lines = []
    for _ in range(num_lines):
        at, words = draw.randrange(num_words), []
        for _ in range(draw.randrange(0, 12)):
            at = (at * 7 + 3) % num_words if draw.random() < 0.5 else int(num_words * draw.random() ** 2)
            words.append(f"w{at}")
        lines.append(" ".join(words))
    return lines


def arpa_text(model: ngram.NgramModel, tmp_path) -> str:
    ngram.write(model, tmp_path / "m.arpa")
    return (tmp_path / "m.arpa").read_text(encoding="utf-8")


def as_bigrams(path) -> None:
    """Adds one bigram that says what its unigram says: kenlm reads no model of order 1."""
    text = path.read_text()
    end = next(line.split()[0] for line in text.splitlines() if line.split()[1:2] == ["</s>"])
    text = text.replace("ngram 1=", "ngram 2=1\nngram 1=").replace(
        "\n\\end\\", f"\n\\2-grams:\n{end}\t<s> </s>\n\n\\end\\"
    )
    first, second, *rest = text.splitlines()[1:]
    path.write_text("\n".join(["\\data\\", second, first, *rest, ""]))


@pytest.fixture(scope="module", params=[1, 2, 3, 4, 5, 6])
def model(request) -> ngram.NgramModel:
    return ngram.train(random_text(request.param), request.param)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_scores_equal_kenlm_for_random_strings_with_unknown_words(order, tmp_path):
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed (pip install kenlm; test-only)")
    path = tmp_path / "m.arpa"
    ngram.write(ngram.train(random_text(order), order, prune=(0, 1) if order == 4 else (0,)), path)
    ours = ngram.load(path)
    if order == 1:
        as_bigrams(path)
    theirs = kenlm.Model(str(path))
    draw = random.Random(order)
    for _ in range(300):
        words = [draw.choice([*ours.words[3:], "unknown", "<unk>"]) for _ in range(draw.randrange(0, 10))]
        for bos in (True, False):
            for eos in (True, False):
                mine = ours.score_words(words, bos, eos) / LN10
                his = [score for score, _, _ in theirs.full_scores(" ".join(words), bos, eos)]
                np.testing.assert_allclose(mine, his, atol=1e-4, rtol=0)


@given(text=texts, order=st.integers(1, 5), sentence=sentences, bos=st.booleans(), eos=st.booleans())
def test_scores_equal_the_recursion(text, order, sentence, bos, eos, tmp_path_factory):
    model = ngram.train([" ".join(s) for s in text], order)
    arpa = arpa_text(model, tmp_path_factory.mktemp("arpa"))
    expected = reference.score_words(reference.read(arpa), sentence, bos, eos)
    np.testing.assert_allclose(model.score_words(sentence, bos, eos) / LN10, expected, atol=CLOSE)
    assert model.score(sentence, bos, eos) == pytest.approx(sum(expected) * LN10, abs=10 * CLOSE)


def test_walking_many_at_once_is_walking_each(model):
    rng = np.random.default_rng(0)
    states_n = np.zeros(500, np.int64)
    states_n[::3] = model.begin_state
    for _ in range(4):
        words_n = rng.integers(0, model.vocabulary_size, 500)
        log_probs_n, after_n = model.advance_many(states_n, words_n)
        pairs = [model.advance(int(s), int(w)) for s, w in zip(states_n, words_n, strict=True)]
        assert pairs == list(zip(log_probs_n.tolist(), after_n.tolist(), strict=True))
        states_n = after_n


def test_probabilities_sum_to_one_after_any_history(model):
    rng = np.random.default_rng(1)
    words = np.array([w for w in range(model.vocabulary_size) if w != model.begin_id])
    histories = [[], *([int(w) for w in rng.integers(0, model.vocabulary_size, 5)] for _ in range(60))]
    for begin in (0, model.begin_state):
        for history in histories:
            state = begin
            for word in history:
                state = model.advance(state, word)[1]
            log_probs_n, _ = model.advance_many(np.full(len(words), state), words)
            # float32 log-probabilities: each is right to 1e-7 of itself
            assert np.exp(log_probs_n).sum() == pytest.approx(1.0, abs=1e-5)


def test_a_state_is_a_context_and_never_longer_than_the_order_allows(model):
    states = {model.begin_state}
    for _ in range(6):
        after = model.advance_many(
            *(a.ravel() for a in np.meshgrid(sorted(states)[:50], np.arange(model.vocabulary_size)))
        )[1]
        states |= set(after.tolist())
    assert all(model.arrays.is_context[list(states)])
    highest = 1 + sum(model.counts[:-1]) if model.order > 1 else 1
    assert max(states) < highest


def test_an_unknown_word_has_the_id_and_the_score_of_unk(model):
    assert model.word_id("never seen") == model.unk_id == 0
    assert model.score(["never seen"]) == model.score(["<unk>"])
    assert [model.words[i] for i in (model.unk_id, model.begin_id, model.end_id)] == ["<unk>", "<s>", "</s>"]


@pytest.mark.parametrize("name", ["m.arpa", "m.arpa.gz", "m.bin"])
def test_what_is_written_reads_back_the_same(model, name, tmp_path):
    ngram.write(model, tmp_path / name)
    again = ngram.load(tmp_path / name)
    assert again.words == model.words
    assert again.counts == model.counts
    assert again.has_unk == model.has_unk
    for mine, other in zip(model.arrays, again.arrays, strict=True):
        assert mine.dtype == other.dtype
    ngram.write(again, tmp_path / ("again-" + name))
    assert (tmp_path / ("again-" + name)).read_bytes() == (tmp_path / name).read_bytes()
    words = random_text(7)[3].split()
    np.testing.assert_array_equal(model.score_words(words), again.score_words(words))


def test_arrays_from_a_file_have_the_types_a_kernel_was_compiled_for(tmp_path):
    from numba import typeof

    model = ngram.train(random_text(3), 3)
    ngram.write(model, tmp_path / "m.bin")
    ngram.write(model, tmp_path / "m.arpa")
    kinds = {str(typeof(m)) for m in (model.arrays, ngram.load(tmp_path / "m.bin").arrays, no_ngrams())}
    assert kinds == {str(typeof(ngram.load(tmp_path / "m.arpa").arrays))}


def test_a_mapped_model_does_not_change_its_file(tmp_path):
    ngram.write(ngram.train(random_text(3), 2), tmp_path / "m.bin")
    before = (tmp_path / "m.bin").read_bytes()
    ngram.load(tmp_path / "m.bin").arrays.log_probs[:] = 0
    assert (tmp_path / "m.bin").read_bytes() == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 100.0])
@pytest.mark.parametrize("name", ["log_probs", "backoffs"])
def test_a_binary_file_with_impossible_numbers_is_refused(tmp_path, name, value):
    """A beam search takes e to their power: one of them spoils all masses."""
    model = ngram.train(random_text(3), 2)
    getattr(model.arrays, name)[5] = value
    ngram.write(model, tmp_path / "m.bin")
    with pytest.raises(DataError, match="out of range"):
        ngram.load(tmp_path / "m.bin")


@given(data=st.data())
def test_a_damaged_binary_file_is_refused(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "m.bin"
    ngram.write(ngram.train(random_text(3, num_lines=20, num_words=5), 3), path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assume(bytes(content) != path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(AsrError):
        ngram.load(path)


def test_no_lookup_leaves_the_arrays_of_a_file_whose_checksum_somebody_made_fit(tmp_path):
    environment = dict(os.environ, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", _DAMAGED, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, used = map(int, done.stdout.split())
    assert refused > 100 and used > 100


_DAMAGED = """
import random, sys, zlib
from collections import Counter
from pathlib import Path

import numpy as np

from asr.errors import AsrError
from asr.lm import ngram
from asr.lm.mix import mix

text = ["a b c a b", "b c a a c", "c a b b"] * 5
whole = ngram.train(text, 3)
path = Path(sys.argv[1]) / "m.bin"
ngram.write(whole, path)
content = path.read_bytes()[:-8]
counts = [0, 0]
for seed in range(400):
    draw = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 3])):
        damaged[draw.randrange(len(content))] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
    path.write_bytes(damaged + zlib.crc32(damaged).to_bytes(8, "little"))
    try:
        model = ngram.load(path)
    except AsrError:
        counts[0] += 1
        continue
    counts[1] += 1
    for words in (["a", "b", "c", "a"], ["c", "x", "b"]):
        model.score_words(words)
        model.score_ids(np.array(model.sentence_ids(words), np.int32))
    try:
        ngram.write(model, path.with_suffix(".arpa"))
        mix([model, whole], [0.5, 0.5]).score_words(["a", "b", "c", "a"])
    except AsrError:
        pass
print(*counts)
"""


def test_a_binary_file_that_is_cut_off_says_so(tmp_path):
    path = tmp_path / "m.bin"
    ngram.write(ngram.train(random_text(3), 2), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"m\.bin: not a whole binary n-gram model .*changed or cut off.*asr lm build"):
        ngram.load(path)


def test_a_file_that_cannot_be_read_or_written_is_one_line(tmp_path):
    with pytest.raises(AsrError, match=r"nowhere\.arpa: cannot read: no such file"):
        ngram.load(tmp_path / "nowhere.arpa")
    (tmp_path / "file").write_text("")
    for name in ("m.arpa", "m.bin"):
        with pytest.raises(AsrError, match=r"cannot write: "):
            ngram.write(ngram.train(["a"], 1), tmp_path / "file" / name)


def test_perplexity_counts_unknown_words_apart():
    model = ngram.train(random_text(2), 2)
    lines = ["w1 w2 never", "", "w3 <unk> </s> w1"]
    result = ngram.perplexity(model, lines)
    assert (result.sentences, result.words, result.unknown_words, result.tokens) == (3, 7, 3, 10)
    scores = [model.score_words(["<unk>" if w == "</s>" else w for w in line.split()]) for line in lines]
    assert result.log_prob == pytest.approx(sum(s.sum() for s in scores), abs=1e-6)
    assert result.unknown_log_prob == pytest.approx(scores[0][2] + scores[2][1] + scores[2][2], abs=1e-6)
    assert result.with_unknown == pytest.approx(np.exp(-result.log_prob / 10))
    assert result.without_unknown == pytest.approx(np.exp((result.unknown_log_prob - result.log_prob) / 7))
    assert set(result.to_json()) >= {"with_unknown", "without_unknown", "tokens", "unknown_rate"}


def test_perplexity_of_no_text_is_an_error():
    with pytest.raises(DataError, match="not one line"):
        ngram.perplexity(ngram.train(["a"], 1), [])


def test_perplexity_in_blocks_is_that_of_the_whole(monkeypatch):
    model = ngram.train(random_text(2), 3)
    lines = [f"{line} unheard" for line in random_text(3)]
    whole = ngram.perplexity(model, lines)
    monkeypatch.setattr("asr.lm.perplexity._CHUNK", 50)
    blocks = ngram.perplexity(model, lines)
    assert blocks.log_prob == pytest.approx(whole.log_prob)
    assert blocks.unknown_log_prob == pytest.approx(whole.unknown_log_prob) and blocks.unknown_words == len(lines)


def test_lines_are_read_from_plain_and_gzip_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one two\r\nthree\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("vier fünf".encode()))
    assert list(ngram.read_lines([tmp_path / "a.txt", tmp_path / "b.txt.gz"])) == ["one two", "three", "vier fünf"]


def test_blank_lines_without_end_are_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.lm.files.BLANK_LINES", 1000)
    monkeypatch.setattr("asr.lm.files.BLOCK", 100)
    text = tmp_path / "a.txt"
    text.write_bytes(b"one\n" + 900 * b" \n" + b"two\n" + 900 * b"\n" + b"three")
    assert Counter(ngram.read_lines([text])) == {"": 900, " ": 900, "one": 1, "two": 1, "three": 1}
    text.write_bytes(b"one\n" + 1200 * b"\n" + b"two\n")
    with pytest.raises(DataError, match=r"a\.txt:\d+: over 1,000 blank lines in a row, which no text has$"):
        list(ngram.read_lines([text]))


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\nt\xffwo\n")
    with pytest.raises(DataError, match=r"a\.txt:2: not UTF-8"):
        list(ngram.read_lines([tmp_path / "a.txt"]))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"one\n" * 1000)[:-20])
    with pytest.raises(DataError, match=r"b\.gz: the gzip file is damaged"):
        list(ngram.read_lines([tmp_path / "b.gz"]))
