"""A neural language model on top of the beam search and inside it, against brute force; and in the commands."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.cli import commands
from asr.data import manifest as manifests
from asr.data.tokenizer import CharTokenizer
from asr.decode.choose import NO_LM
from asr.decode.decoder import BeamDecoder
from asr.decode.options import DecoderOptions
from asr.decode.settings import BeamConfig
from asr.decode.tuned import Rescore, Tuned, read_tuned, write_tuned
from asr.decode.types import Hypothesis
from asr.errors import CheckpointError, ConfigError, DataError
from asr.lm import ngram
from asr.lm.neural.folder import save_rnn
from asr.lm.neural.network import RnnConfig, RnnModel, RnnNetwork
from asr.scoring.wer import word_counts
from asr.tuning.rescore import SEARCH, check_fits, rescored, rescoring_decoder_for
from asr.tuning.tune_rescore import BONUSES_TRIED, SCALES_TRIED, WEIGHTS_TRIED, NbestLists, Rescoring, tune_rescoring
from tests.builders import build_corpus
from tests.models import save_random_model

TOKENIZER = CharTokenizer((" ", "a", "b"))
#: all pruning off, and room for every prefix
EVERYTHING = BeamConfig(beam_width=10_000, min_token_log_prob=None, beam_prune_log_prob=None, nbest=10_000)


def neural(tokenizer: CharTokenizer = TOKENIZER, seed: int = 0) -> RnnModel:
    """Random weights, large enough that it has opinions."""
    torch.manual_seed(seed)
    network = (
        RnnNetwork(RnnConfig(hidden=8, embed=4, dropout=0), tokenizer.vocabulary_size).eval().requires_grad_(False)
    )
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.7)
    return RnnModel(network, tokenizer)


def log_probs(steps: int, seed: int, tokens: int = 4) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 1.5, (steps, tokens))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def lm():
    return ngram.train(["ab a", "a b", "ba ab", "aa b ab"], 2)


hypotheses = st.builds(
    Hypothesis,
    st.text("ab ", max_size=6).map(lambda text: " ".join(text.split())),
    st.floats(-50, 0),
    st.just(()),
    st.floats(-20, 5),
)
lists = st.lists(st.lists(hypotheses, min_size=1, max_size=6, unique_by=lambda h: h.text), min_size=1, max_size=4)


@settings(max_examples=30)
@given(lists, st.floats(0, 2), st.floats(-2, 2), st.floats(0, 2), st.integers(1, 7))
def test_rescoring_is_the_formula_on_every_text(nbests, weight, bonus, scale, keep):
    model = neural()
    how = Rescore(model="x", weight=weight, word_bonus=bonus, lm_scale=scale)
    for found, nbest in zip(rescored(nbests, model, how, keep), nbests, strict=True):
        scores = {}
        for h in nbest:
            neural_score = float(model.score_texts([h.text])[0])
            scores[h.text] = h.log_prob + scale * h.lm_score + weight * neural_score + bonus * len(h.text.split())
        assert len(found) == min(keep, len(nbest))
        # 1e-4: a float32 network sums in another order when texts are scored together
        assert [h.score for h in found] == pytest.approx(sorted(scores.values(), reverse=True)[:keep], abs=1e-4)
        assert all(h.score == pytest.approx(scores[h.text], abs=1e-4) for h in found)
        by_text = {h.text: h for h in nbest}
        assert all(h.log_prob == by_text[h.text].log_prob for h in found)


@given(lists)
def test_weights_of_nothing_change_nothing(nbests):
    how = Rescore(model="x", weight=0)
    for found, nbest in zip(rescored(nbests, neural(), how, keep=9), nbests, strict=True):
        assert found == sorted(nbest, key=lambda h: -h.score)


def test_rescored_words_have_the_confidence_of_the_rescored_list():
    nbest = [Hypothesis("a b", -1.0, ()), Hypothesis("a a", -1.2, ())]
    (found,) = rescored([nbest], neural(), Rescore(model="x", weight=1), confidence=True)
    (both,) = rescored([nbest], neural(), Rescore(model="x", weight=1), keep=2)
    share = 1 / (1 + math.exp(both[1].score - both[0].score))
    assert found[0].word_shares == pytest.approx((1, share), abs=1e-4)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_text_whose_open_word_was_cut_has_the_score_of_what_is_left(backend):
    """With a language model of tokens, the tokens that are cut off were scored."""
    token_lm = ngram.train(["a b", "b ▁ a", "a ▁ b a"] * 3, 2)
    config = BeamConfig(lexicon=("ab", "bbb"), alpha=1, beta=1.5, nbest=5, unknown_log_prob=0)
    probs_sv = np.full((5, 4), 1e-6)
    probs_sv[np.arange(5), [2, 3, 1, 3, 3]] = 1  # "ab bb": the last word is not listed
    log_probs_sv = np.log(probs_sv / probs_sv.sum(1, keepdims=True)).astype(np.float32)
    found = BeamDecoder(TOKENIZER, config, token_lm, backend).decode(log_probs_sv)
    expected, state = 0.0, token_lm.begin_state
    for word in ("a", "b"):
        log_prob, state = token_lm.advance(state, token_lm.word_id(word))
        expected += log_prob + 1.5
    expected += token_lm.advance(state, token_lm.end_id)[0]
    assert found[0].text == "ab"
    assert found[0].lm_score == pytest.approx(expected, abs=1e-4)


def test_the_tuned_weights_are_the_best_of_the_grid_by_brute_force():
    rng = np.random.default_rng(5)
    texts = ["a b", "ab", "a", "b b a", "ba ab"]
    nbests = [
        [Hypothesis(text, -rng.exponential(3), (), rng.normal()) for text in rng.permutation(texts)[:4]]
        for _ in range(6)
    ]
    references = [str(rng.choice(texts)) for _ in range(6)]
    model = neural()
    found = tune_rescoring(nbests, references, model, Rescore(model="x", nbest=4))
    lists = NbestLists(nbests, references, model)

    def errors(how: Rescore) -> int:
        best = [nbest[0].text for nbest in rescored(nbests, model, how)]
        return sum(c.errors for c in word_counts(zip(references, best, strict=True)))

    words = sum(len(text.split()) for text in references)
    assert found.rate * words == pytest.approx(errors(found.settings))
    assert found.before * words == pytest.approx(errors(Rescore(model="x", weight=0)))
    for weight, bonus, scale in itertools.product(WEIGHTS_TRIED[::6], (0.0, *BONUSES_TRIED[::6]), SCALES_TRIED):
        how = Rescore(model="x", weight=weight, word_bonus=bonus, lm_scale=scale)
        assert lists.errors_at(weight, bonus, scale).sum() == errors(how)
        if (bonus, scale) == (0, 1):
            assert errors(how) >= found.rate * words - 1e-6
    oracle = sum(
        min(c.errors for c in word_counts([(reference, h.text) for h in nbest]))
        for reference, nbest in zip(references, nbests, strict=True)
    )
    assert found.oracle * words == pytest.approx(oracle)
    assert found.oracle <= found.rate <= found.before


def test_references_without_words_are_refused():
    with pytest.raises(DataError, match="no words"):
        tune_rescoring([[Hypothesis("a", -1.0, ())]], [""], neural(), Rescore(model="x"))


def test_a_model_that_cannot_write_all_that_the_acoustic_model_can_is_refused(tmp_path):
    wide = CharTokenizer((" ", "a", "b", "é"))
    with pytest.raises(ConfigError, match=r"cannot write 'é' \(U\+00E9\).*' ab'.*--tokenizer"):
        check_fits(neural(), wide, tmp_path)
    with pytest.raises(ConfigError, match="the case is another"):
        check_fits(neural(), CharTokenizer((" ", "A", "B")), tmp_path)
    check_fits(neural(wide), TOKENIZER, tmp_path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """An acoustic model, a neural and an n-gram model of its letters, and a manifest."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = CharTokenizer((" ", "a", "b", "c", "d"))
    model = neural(tokenizer)
    save_rnn(folder / "rnn", model.network, model.tokenizer, {})
    ngram.write(ngram.train(["abba cad", "dab abba", "cad cab"] * 3, 2), folder / "lm.arpa")
    save_random_model(folder / "am")
    return folder, build_corpus(folder, 5)


def test_a_decoder_rescores_where_it_is_asked_to_or_tuned(parts, tmp_path):
    folder, _ = parts
    am, rnn = folder / "am", folder / "rnn"
    tokenizer = CharTokenizer((" ", "a", "b", "c", "d"))
    log_probs_sv = log_probs(30, 1, 6)
    plain = rescoring_decoder_for(am, tokenizer, DecoderOptions("beam", {**SEARCH, "nbest": 100})).decode(log_probs_sv)
    asked = rescoring_decoder_for(am, tokenizer, DecoderOptions(rescore=rnn, rescore_weight=2.0))
    assert asked.name == f"beam 200, token floor -7, pruning -13, 100 best rescored by {rnn} x 2"
    (expected,) = rescored([plain], neural(tokenizer), Rescore(model="x", weight=2.0))
    (found,) = asked.decode(log_probs_sv)
    assert (found.text, found.score) == (expected[0].text, pytest.approx(expected[0].score, abs=1e-4))
    three = rescoring_decoder_for(am, tokenizer, DecoderOptions("beam", {"nbest": 3}, rescore=rnn))
    assert len(three.decode(log_probs_sv)) == 3
    assert rescoring_decoder_for(am, tokenizer).name == "greedy"

    tuned_am = save_random_model(tmp_path / "am")
    size = (rnn / "model.safetensors").stat().st_size
    how = Rescore(model=str(rnn), model_bytes=size, nbest=20, weight=0.3, word_bonus=1, lm_scale=0.5)
    write_tuned(tuned_am, Tuned(config=BeamConfig(beam_width=30), rescore=how))
    assert rescoring_decoder_for(tuned_am, tokenizer).name == (
        f"beam 30, 20 best rescored by {rnn} x 0.3, words +1, beam's scores x 0.5"
    )
    assert "x 0.9, words +1" in rescoring_decoder_for(tuned_am, tokenizer, DecoderOptions(rescore_weight=0.9)).name
    assert rescoring_decoder_for(tuned_am, tokenizer, DecoderOptions(rescore=NO_LM)).name == "beam 30"
    assert rescoring_decoder_for(tuned_am, tokenizer, DecoderOptions("greedy")).name == "greedy"
    (tuned_am / "decoder.json").write_text("{broken")  # greedy decoding, and tuning anew, need nothing of it
    assert rescoring_decoder_for(tuned_am, tokenizer, DecoderOptions("greedy")).name == "greedy"
    with pytest.raises(CheckpointError, match="asr tune"):
        rescoring_decoder_for(tuned_am, tokenizer)
    with pytest.raises(ConfigError, match=r"rescoring: nbest: expected a number of at most 10000, got 20000"):
        rescoring_decoder_for(am, tokenizer, DecoderOptions("beam", {"nbest": 20_000}, rescore=rnn))


def test_hotwords_of_one_text_go_over_the_decoder_that_is_there(parts):
    folder, _ = parts
    am, tokenizer = folder / "am", CharTokenizer((" ", "a", "b", "c", "d"))
    log_probs_sv = log_probs(30, 1, 6)
    words = {"cab": 2.0, "dab": 4.0}
    for options in (
        DecoderOptions(),
        DecoderOptions("beam", {"alpha": 1.0, "hotwords": {"cab": 1.0}}, lm=folder / "lm.arpa"),
        DecoderOptions(lm=folder / "lm.arpa", rescore=folder / "rnn"),
    ):
        settings = {**options.settings, "hotwords": words}
        wanted = rescoring_decoder_for(am, tokenizer, replace(options, settings=settings))
        base = rescoring_decoder_for(am, tokenizer, options)
        expecting = base.with_hotwords({"cab": 9.0}).with_hotwords(words)
        assert (expecting.name, expecting.lm) == (wanted.name, wanted.lm)
        assert expecting.decode(log_probs_sv) == wanted.decode(log_probs_sv) != base.decode(log_probs_sv)
    assert rescoring_decoder_for(am, tokenizer, DecoderOptions("greedy")).with_hotwords is None


def test_what_cannot_be_rescored_is_said(parts, tmp_path, caplog):
    folder, _ = parts
    tokenizer = CharTokenizer((" ", "a", "b", "c", "d"))
    am = save_random_model(tmp_path / "am")
    for arguments, kind, said in (
        ({"name": "greedy", "rescore": folder / "rnn"}, ConfigError, "--rescore needs beam search"),
        ({"rescore_weight": 1.0}, ConfigError, "--rescore-weight needs --rescore"),
        ({"rescore": folder / "am"}, CheckpointError, "an acoustic model's folder"),
        ({"rescore": folder / "lm.arpa"}, CheckpointError, "is a file; .* --lm"),
        ({"lm": folder / "rnn"}, ConfigError, "is a folder; .* --rescore"),
    ):
        with pytest.raises(kind, match=said):
            rescoring_decoder_for(am, tokenizer, DecoderOptions(**arguments))
    write_tuned(am, Tuned(config=BeamConfig(), rescore=Rescore(model="/nowhere")))
    with pytest.raises(CheckpointError, match=r"decoder.json: .*/nowhere.*no such folder.*--rescore none"):
        rescoring_decoder_for(am, tokenizer)
    write_tuned(am, Tuned(config=BeamConfig(), rescore=Rescore(model=str(folder / "rnn"), model_bytes=5)))
    rescoring_decoder_for(am, tokenizer)
    assert "had 5 bytes when it was tuned" in caplog.text


def run(capsys, *arguments) -> str:
    commands()(list(map(str, arguments)), standalone_mode=False)
    return capsys.readouterr().out


def test_where_rescoring_helps_the_search_is_reported_as_it_was_and_saved_as_it_is_used(
    parts, tmp_path, capsys, monkeypatch
):
    folder, manifest = parts
    am = save_random_model(tmp_path / "am")

    def helps(lists, references, model, how):
        return Rescoring(how, rate=0.01, low=0.0, high=0.02, before=0.5, oracle=0.0, texts=3.0, helps=True)

    monkeypatch.setattr("asr.tuning.tune_rescore.tune_rescoring", helps)
    where = ("--cache", tmp_path / "cache", "--device", "cpu", "--threads", 1)
    tune = ("tune", am, manifest, "--lm", folder / "lm.arpa", "--rescore", folder / "rnn", *where)
    document = json.loads(run(capsys, *tune, "--json"))
    best = document["best"]
    words = sum(len(u.text.split()) for u in manifests.read(manifest))
    assert best["wer"] == pytest.approx(best["errors"] / words) and best in document["searches"]
    assert document["rescoring"]["wer"] == 0.01
    tuned = read_tuned(am)
    assert tuned is not None and tuned.tuning["wer"] == 0.01 and tuned.rescore is not None
    assert tuned.config.beam_width == max(200, best["beam_width"])
    assert (tuned.lm, tuned.rescore.model) == ("lm.bin", "neural-lm")
    assert tuned.tuning["neural_lm"] == str(folder / "rnn")
    moved = shutil.copytree(am, tmp_path / "moved")
    shutil.rmtree(am / "neural-lm")
    decoder = rescoring_decoder_for(moved, CharTokenizer((" ", "a", "b", "c", "d")))
    assert decoder.lm == str(moved / "lm.bin") and str(moved / "neural-lm") in decoder.name
    shutil.copytree(moved / "neural-lm", am / "neural-lm")
    said = run(capsys, *tune)  # which may choose another width: the fastest
    (row,) = [line.split() for line in said.splitlines() if line.endswith("<- chosen")]
    assert f"beam {row[0]}: WER {row[3]} %" in said


def test_the_commands_tune_evaluate_and_transcribe_with_it(parts, tmp_path, capsys):
    folder, manifest = parts
    am = save_random_model(tmp_path / "am")
    common = ("--device", "cpu", "--threads", 1)
    tune = ("tune", am, manifest, "--lm", folder / "lm.arpa", "--cache", tmp_path / "cache", *common)
    found = json.loads(run(capsys, *tune, "--rescore", folder / "rnn", "--nbest", 50, "--json"))["rescoring"]
    tuned = read_tuned(am)
    assert tuned is not None
    assert (tuned.rescore is not None) == found["helps"]
    if tuned.rescore is not None:
        assert tuned.tuning["wer"] == found["wer"] < found["before"]
        assert tuned.rescore.nbest == 50
        evaluated = json.loads(run(capsys, "evaluate", am, manifest, "--json", *common))
        assert evaluated["wer"]["rate"] == pytest.approx(found["wer"])
    out = run(capsys, "evaluate", am, manifest, "--rescore", folder / "rnn", "--rescore-weight", 1.5, *common)
    assert f"50 best rescored by {folder / 'rnn'} x 1.5" in out or f"100 best rescored by {folder / 'rnn'} x 1.5" in out
    wav = next((folder / "wav").glob("*.wav"))
    texts = json.loads(run(capsys, "transcribe", am, wav, "--json", "--nbest", 2, "--rescore", folder / "rnn", *common))
    assert len(texts["transcripts"]) == 1
