"""Entropy pruning equals the slow definition; what stays sums to one; the command reports sizes and perplexities."""

from __future__ import annotations

import json

import numpy as np
import pytest

from asr.errors import ConfigError, DataError
from asr.lm import ngram
from asr.lm.prune import prune
from tests.reference import ngram as reference
from tests.test_cli import command  # noqa: F401  # the fixture
from tests.test_ngram import arpa_text, random_text


@pytest.fixture(scope="module")
def text() -> list[str]:
    return random_text(5, num_lines=150, num_words=200)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("threshold", [1e-7, 1e-5, 1e-4, 1e-3])
def test_pruning_equals_the_reference(order, threshold, text, tmp_path):
    model = ngram.train(text, order)
    expected = reference.entropy_prune(reference.read(arpa_text(model, tmp_path)), threshold)
    got = reference.read(arpa_text(prune(model, threshold), tmp_path))
    assert got.keys() == expected.keys()
    for gram, (log_prob, backoff) in expected.items():
        assert got[gram] == pytest.approx((log_prob, backoff), abs=2e-5), gram


def test_thresholds_leave_out_more_and_more(text):
    model = ngram.train(text, 3)
    sizes = [sum(prune(model, threshold).counts) for threshold in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 0.1)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == sum(model.counts)
    assert sizes[-1] < sizes[0] / 2
    assert prune(model, 1e-3, min_order=3).counts[1] == model.counts[1]


@pytest.mark.parametrize("how", [{"threshold": 1e-4}, {"vocab": True}, {"threshold": 1e-4, "vocab": True}])
def test_every_context_sums_to_one(how, text):
    model = ngram.train(text, 3)
    if "vocab" in how:
        how = how | {"vocab": set(model.words[3:60])}
    pruned = prune(model, **how)
    ids = np.array([i for i in range(pruned.vocabulary_size) if i != pruned.begin_id])
    for state in np.flatnonzero(pruned.arrays.is_context)[:300]:
        total = np.exp(pruned.advance_many(np.full(len(ids), state), ids)[0]).sum()
        assert total == pytest.approx(1.0, abs=2e-5)  # float32 weights of a hundred words


def test_a_word_list_limits_the_model(text):
    model = ngram.train(text, 3)
    words = set(model.words[3:60])
    pruned = prune(model, vocab=words | {"never-seen"})
    assert set(pruned.words[3:]) == words
    assert pruned.word_id(model.words[70]) == pruned.unk_id
    with pytest.raises(DataError, match=r"no word of the model is among the 1 words .* has '.*', the vocabulary 'nix'"):
        prune(model, vocab={"nix"})


def test_settings_out_of_range_are_refused(text):
    model = ngram.train(text, 2)
    with pytest.raises(ConfigError, match="threshold must be at least 0 and below 1, got 2"):
        prune(model, 2.0)
    with pytest.raises(ConfigError, match="min_order must be 2 or more"):
        prune(model, 0.1, min_order=1)


def test_the_command_reports_sizes_and_perplexities(text, tmp_path, command):  # noqa: F811
    model = ngram.train(text, 3)
    lm, out, held_out = tmp_path / "lm.arpa", tmp_path / "small.arpa", tmp_path / "held-out.txt"
    ngram.write(model, lm)
    held_out.write_text("\n".join(random_text(6, num_lines=50, num_words=200)))
    result = command("lm", "prune", lm, "--threshold", "1e-4", "--out", out, "--text", held_out, "--json")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["ngrams_before"] == list(model.counts) and facts["ngrams"] == list(ngram.load(out).counts)
    assert facts["bytes"] == out.stat().st_size < facts["bytes_before"] == lm.stat().st_size
    lines = held_out.read_text().splitlines()
    assert facts["perplexity"] == ngram.perplexity(ngram.load(out), lines).to_json()
    assert facts["perplexity_before"] == ngram.perplexity(ngram.load(lm), lines).to_json()
    shown = command("lm", "prune", lm, "--threshold", "1e-4", "--out", out, "--text", held_out)
    assert "small.arpa: " in shown.out and "perplexity" in shown.out

    nothing = command("lm", "prune", lm, "--out", out)
    assert nothing.code == 2 and "give --threshold T" in nothing.err and nothing.err.count("\n") == 1
