"""Interpolation of n-gram models: equal to the definition, every context sums to one, weights are the likeliest."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from asr.commands.lm import app
from asr.errors import ConfigError, DataError
from asr.lm import mix, ngram
from asr.lm.arrays import LN10
from tests.reference import ngram as reference
from tests.test_ngram import arpa_text, random_text

#: two models' words, some of them common
texts = [
    st.lists(st.lists(st.sampled_from(letters), max_size=6), min_size=1, max_size=10).filter(any)
    for letters in ("aaabbcd", "bbcdeef")
]


def of(text: list[list[str]], order: int) -> ngram.NgramModel:
    return ngram.train([" ".join(sentence) for sentence in text], order)


def sums(model: ngram.NgramModel) -> np.ndarray:
    """The probabilities of all words after each state, summed; <s> is never predicted."""
    states = np.flatnonzero(model.arrays.is_context)
    words = np.delete(np.arange(model.vocabulary_size), model.begin_id)
    log_probs, _ = model.advance_many(np.repeat(states, len(words)), np.tile(words, len(states)))
    return np.exp(log_probs).reshape(len(states), len(words)).sum(1)


@given(
    first=texts[0], second=texts[1], orders=st.tuples(st.integers(1, 4), st.integers(1, 4)), share=st.floats(0.01, 0.99)
)
def test_the_mixture_equals_the_definition(first, second, orders, share, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("mix")
    models = [of(first, orders[0]), of(second, orders[1])]
    mixed = mix.mix(models, [share, 1 - share])
    expected = reference.mix([reference.read(arpa_text(model, tmp_path)) for model in models], [share, 1 - share])
    got = reference.read(arpa_text(mixed, tmp_path))
    assert got.keys() == expected.keys()
    for gram, (log_prob, backoff) in expected.items():
        assert got[gram][0] == pytest.approx(log_prob, abs=2e-6), gram
        assert got[gram][1] == pytest.approx(backoff, abs=1e-3), gram  # a quotient of small differences
    np.testing.assert_allclose(sums(mixed), 1, atol=1e-5)


def test_of_real_size_every_context_sums_to_one():
    models = [ngram.train(random_text(1, 800, 60), 3), ngram.train(random_text(2, 3000, 300), 4, prune=(0, 0, 1))]
    mixed = mix.mix(models, [0.7, 0.3])
    assert mixed.order == 4
    assert mixed.counts[0] == models[1].counts[0]
    of_states = sums(mixed)
    assert len(of_states) > 1000
    np.testing.assert_allclose(of_states, 1, atol=1e-5)


def test_known_ngrams_have_the_weighted_sum():
    models = [ngram.train(random_text(seed), 3) for seed in (1, 2)]
    mixed = mix.mix(models, [1, 3])  # scaled to 0.25 and 0.75
    contexts, words = mixed.contexts_and_words()
    trigrams = slice(1 + sum(mixed.counts[:2]), None)
    for context, word in list(zip(contexts[trigrams].tolist(), words[trigrams].tolist(), strict=True))[::50]:
        before = mixed.words[words[contexts[context]]], mixed.words[words[context]]
        if before[0] == "<s>":
            known, bos = [before[1], mixed.words[word]], True
        else:
            known, bos = [*before, mixed.words[word]], False
        if known[-1] == "</s>":
            continue
        each = [math.exp(model.score_words(known, bos, eos=False)[-1]) for model in (*models, mixed)]
        assert each[2] == pytest.approx(0.25 * each[0] + 0.75 * each[1], rel=1e-5)


def test_a_model_with_itself_is_itself():
    model = ngram.train(random_text(4), 3)
    mixed = mix.mix([model, model], [0.3, 0.7])
    for line in random_text(9)[:100]:
        np.testing.assert_allclose(mixed.score_words(line.split()), model.score_words(line.split()), atol=1e-4)


def test_three_models_at_once_equal_two_and_one():
    models = [ngram.train(random_text(seed), order) for seed, order in ((1, 1), (2, 2), (3, 1))]
    at_once = mix.mix(models, [0.5, 0.3, 0.2])
    one_by_one = mix.mix([mix.mix(models[:2], [0.5, 0.3]), models[2]], [0.8, 0.2])
    assert at_once.counts == one_by_one.counts
    both = [dict(zip(model.words, model.arrays.log_probs[1:], strict=False)) for model in (at_once, one_by_one)]
    assert both[0] == pytest.approx(both[1], abs=1e-5)
    np.testing.assert_allclose(sums(at_once), 1, atol=1e-5)


def test_a_file_without_suffixes_or_unk_mixes(tmp_path):
    """SRILM prunes 'b c' and keeps 'a b c', and its files need not have <unk>."""
    path = tmp_path / "srilm.arpa"
    path.write_text(
        "\\data\\\nngram 1=5\nngram 2=1\nngram 3=1\n\n\\1-grams:\n-99 <s> 0\n-0.6 </s>\n"
        "-0.6 a -0.1\n-0.6 b -0.05\n-0.6 c\n\n"
        "\\2-grams:\n-0.5 a b -0.1\n\n\\3-grams:\n-0.3 a b c\n\n\\end\\\n"
    )
    pruned = ngram.load(path)
    assert not pruned.has_unk
    other = ngram.train(["b c", "c b a", "a b c"], 2)
    mixed = mix.mix([pruned, other], [0.5, 0.5])
    assert mixed.has_unk
    assert mixed.counts[2] == 1
    in_pruned = 0.5 * 10**-0.3
    in_other = 0.5 * math.exp(other.score_words(["a", "b", "c"], bos=False, eos=False)[-1])
    assert math.exp(mixed.score_words(["a", "b", "c"], bos=False, eos=False)[-1]) == pytest.approx(in_pruned + in_other)
    both = mix.mix([pruned, pruned], [1, 1])
    assert not both.has_unk
    assert both.score_words(["x"], eos=False)[0] == pytest.approx(-100 * LN10)


def test_a_word_one_does_not_know_has_only_the_others_probability():
    small, large = ngram.train(["one two", "two one"], 2), ngram.train(["three one four", "four three"], 2)
    mixed = mix.mix([small, large], [0.9, 0.1])
    for word in ("three", "four"):
        expected = 0.1 * math.exp(large.score_words([word], eos=False)[0])
        assert math.exp(mixed.score_words([word], eos=False)[0]) == pytest.approx(expected, rel=1e-5)
    unknown = [math.exp(model.score_words(["nine"], bos=False, eos=False)[0]) for model in (small, large, mixed)]
    assert unknown[2] == pytest.approx(0.9 * unknown[0] + 0.1 * unknown[1], rel=1e-5)


def test_the_weights_are_the_likeliest():
    models = [ngram.train(random_text(seed), 2) for seed in (1, 2)]
    text = random_text(1)[:60] + random_text(2)[:20] + ["w1 nobody w2"]
    probs = mix._token_probs(models, text)

    def likelihood(share: float) -> float:
        return float(np.log(share * probs[0] + (1 - share) * probs[1]).sum())

    best = mix.best_weights(models, text)
    assert sum(best) == pytest.approx(1)
    shares = np.linspace(0.001, 0.999, 999)
    assert best[0] == pytest.approx(shares[np.argmax([likelihood(share) for share in shares])], abs=0.001)
    assert 0.5 < best[0] < 1
    assert probs.shape[1] == sum(len(line.split()) + 1 for line in text) - 1, "the word nobody knows has no say"


def test_weights_of_models_that_are_good_for_nothing_go_to_nothing():
    useful, useless = ngram.train(["a b a b", "a b"] * 5, 2), ngram.train(["x y", "y x"], 2)
    assert mix.best_weights([useful, useless], ["a b", "a b a b"])[0] > 0.99


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [-0.1, 1.1], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_weights_that_are_none(weights):
    model = ngram.train(["a b"], 1)
    with pytest.raises(ConfigError, match="weights"):
        mix.mix([model, model], weights)


def test_a_model_of_no_weight_is_left_out_with_its_words():
    models = [ngram.train(random_text(1), 2), ngram.train(["other words"], 2)]
    for order in (models, models[::-1]):
        mixed = mix.mix(order, [1.0 if model is models[0] else 0.0 for model in order])
        assert mixed.words == models[0].words and mixed.score(["w1"]) == models[0].score(["w1"])


def test_a_text_of_words_that_nobody_knows_chooses_nothing(caplog):
    models = [ngram.train(random_text(seed), 2) for seed in (1, 2)]
    with pytest.raises(DataError, match="none of the models knows a word of the text"):
        mix.best_weights(models, ["W1 W2", "W3"])
    assert "unknown to all models" not in caplog.text
    mix.best_weights(models, ["W1 W2", "w3"])
    assert "2 of the 3 words of the text are unknown to all models" in caplog.text
    assert mix.best_weights(models, ["", ""])  # ends of sentences alone


def test_a_weight_of_next_to_nothing_is_said(caplog):
    lines = random_text(1)
    mix.best_weights([ngram.train(lines, 4), ngram.train(["x y z"], 1)], lines)
    assert "model 2 gets a weight of " in caplog.text and "model 1" not in caplog.text


def test_no_text_to_choose_by():
    model = ngram.train(["a b"], 1)
    with pytest.raises(DataError, match="there is not one line"):
        mix.best_weights([model, model], [])


def test_models_of_different_spelling_are_a_warning(caplog):
    upper, lower = ngram.train(["A B C"], 1), ngram.train(["a b c d"], 1)
    mix.mix([upper, lower], [1, 1])
    assert "models 1 and 2 share 0 of the 3 words" in caplog.text
    caplog.clear()
    mix.mix([upper, ngram.train(["C D E"], 1)], [1, 1])
    assert "share" not in caplog.text


@pytest.fixture
def files(tmp_path):
    for name, seed in (("a.arpa", 1), ("b.bin", 2)):
        ngram.write(ngram.train(random_text(seed), 2), tmp_path / name)
    (tmp_path / "dev.txt").write_text("\n".join(random_text(1)[:50]))
    return tmp_path


def run(*arguments) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_chooses_weights_by_a_text(files):
    names = [files / "a.arpa", files / "b.bin"]
    out = files / "new" / "m.bin"
    shown = json.loads(run("mix", *names, "--text", files / "dev.txt", "--out", out, "--json"))
    models = [ngram.load(name) for name in names]
    weights = mix.best_weights(models, random_text(1)[:50])
    assert list(shown["weights"].values()) == pytest.approx(weights)
    expected = ngram.perplexity(mix.mix(models, weights), random_text(1)[:50])
    assert shown["perplexity"][str(out)]["with_unknown"] == pytest.approx(expected.with_unknown)
    assert ngram.perplexity(ngram.load(out), random_text(1)[:50]).log_prob == pytest.approx(expected.log_prob)
    told = run("mix", *names, "--text", files / "dev.txt", "--out", out)
    assert f"{weights[0]:.4f}  {names[0]}  perplexity " in told
    assert f"{out}: 43 1-grams, " in told


def test_the_command_takes_weights(files):
    out = files / "m.arpa"
    told = run("mix", files / "a.arpa", files / "b.bin", "--weights", "3,1", "--out", out)
    assert f"0.7500  {files / 'a.arpa'}\n" in told
    assert "perplexity" not in told
    expected = mix.mix([ngram.load(files / "a.arpa"), ngram.load(files / "b.bin")], [0.75, 0.25])
    assert ngram.load(out).score(["w1", "w2"]) == pytest.approx(expected.score(["w1", "w2"]), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.arpa", "--weights", "1"], "a.arpa: a mixture needs two models or more, got one"),
        (["a.arpa", "b.bin"], "either --text TEXT"),
        (["a.arpa", "./a.arpa", "--weights", "1,1"], "a model is named twice"),
        (["a.arpa", "b.bin", "--weights", "1,1", "--text", "dev.txt"], "either --text TEXT"),
        (["a.arpa", "b.bin", "--weights", "1,x"], "numbers with commas between, got '1,x'"),
        (["a.arpa", "b.bin", "--weights", "1"], "2 models need as many weights, got 1"),
        (["a.arpa", ".", "--weights", "1,1"], "is a folder; only n-gram models"),
        (["a.arpa", "m.bin", "--weights", "1,1"], "m.bin: read or written by this command already"),
    ],
)
def test_the_command_refuses(files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    (files / "m.bin").write_bytes((files / "b.bin").read_bytes())
    before = (files / "m.bin").read_bytes()
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        run("mix", *arguments, "--out", "m.bin")
    assert (files / "m.bin").read_bytes() == before
