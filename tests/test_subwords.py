"""The whole way with subword tokens: prepared, trained, resumed, decoded with and without a language model, used."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from asr.corpora.catalogue import find_recipe
from asr.corpora.prepare import prepare
from asr.corpora.recipe import Request
from asr.data import manifest as manifests
from asr.data import prepared as header
from asr.data.prepared import Header
from asr.data.subwords import SubwordTokenizer
from asr.data.targets import min_steps, targets_of
from asr.data.tokenizer_file import read_tokenizer
from asr.decode.choose import beam_decoder
from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import greedy, words_with_times
from asr.decode.settings import BeamConfig
from asr.errors import DataError
from asr.evaluate import evaluate
from asr.info import describe
from asr.lm.ngram import parse_arpa
from asr.model.checkpoint import load_model
from asr.train import resume, train
from asr.transcribe import Recognizer
from tests.builders import build_corpus, tiny_config
from tests.reference import beam as reference

KINDS = ("bpe", "unigram")
BACKENDS = ("numpy", "numba")
SIZE = 11
LEARNS = ("train.epochs=25", "model.hidden=32", "optim.lr=0.02", "train.validate_every_epochs=5")


@pytest.fixture(scope="module", params=KINDS)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones to train on, with a tokenizer and a header beside them."""
    folder = tmp_path_factory.mktemp("data")
    rows = manifests.read(build_corpus(folder, 24, seed=1, longest=6))
    manifests.write(folder / "dev.jsonl", rows)  # the best epoch is that which has learned them best
    tokenizer = SubwordTokenizer.train((u.text for u in rows), SIZE, request.param)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
    splits = {name: header.split_facts(rows) for name in ("train", "dev")}
    header.write(folder, Header("tones", "Tones", "", "", "lower", "tokenizer.json", splits, 0, 0))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(tiny_config(*LEARNS), data, out)
    return out


def test_training_learns_with_the_tokenizer_and_the_profile_of_the_data(data, run):
    model = load_model(run)
    assert model.tokenizer == read_tokenizer(data / "tokenizer.json")
    assert model.network.output.weight.shape[0] == model.tokenizer.vocabulary_size == SIZE
    assert model.text.normalization == "lower"
    assert "normalization: lower" in (run / "config.yaml").read_text()
    assert any(len(s) > 1 for s in model.tokenizer.symbols)
    result = evaluate(model, manifests.read(data / "train.jsonl"), no_speech_threshold=1.0)
    assert result.score.cer.rate is not None and result.score.cer.rate < 0.2
    assert 0.7 < result.health.emitted_ratio < 1.3


def test_a_model_folder_needs_nothing_else(run, tmp_path):
    (run / "best").rename(tmp_path / "model")
    try:
        assert load_model(tmp_path / "model").tokenizer.encode("ab") == read_tokenizer(run / "tokenizer.json").encode(
            "ab"
        )
    finally:
        (tmp_path / "model").rename(run / "best")


def test_words_of_subwords_have_their_times(data, run):
    recognizer = Recognizer.load(run)
    rows = manifests.read(data / "train.jsonl")
    found = 0
    for u in rows:
        transcript = recognizer.transcribe(rows.audio_path(u))
        assert " ".join(w.word for w in transcript.words) == transcript.text
        times = [t for w in transcript.words for t in (w.start_s, w.end_s)]
        assert times == sorted(times) and all(0 <= t <= u.duration_s + 1e-3 for t in times)
        found += " " in transcript.text
    assert found


@pytest.mark.parametrize("backend", BACKENDS)
def test_beam_search_with_a_word_model_prefers_its_words(data, run, tmp_path, backend):
    model = load_model(run)
    rows = manifests.read(data / "train.jsonl")
    words = sorted({w for u in rows for w in u.text.split()})
    arpa = reference.BackoffModel({("<s>",): (-99.0, 0.0), **{(w,): (-1.0, 0.0) for w in (*words, "</s>", "<unk>")}})
    (tmp_path / "words.arpa").write_text(arpa.arpa(), encoding="utf-8")
    config = BeamConfig(alpha=1.0, beta=2.3, unknown_log_prob=-50.0)  # beta: what a word costs in that model
    decoder = beam_decoder(model.tokenizer, config, tmp_path / "words.arpa", backend=backend)
    with_lm, without = evaluate(model, rows, decoder), evaluate(model, rows)
    assert with_lm.score.wer.rate <= without.score.wer.rate
    said = {w for u in with_lm.score.per_utterance for w in u.hypothesis.split()}
    assert said <= set(words)


def test_a_run_with_subwords_is_resumed_bit_for_bit_without_the_datas_tokenizer(data, tmp_path):
    cfg = tiny_config("train.epochs=2", "batch.max_utterances=8")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(cfg, data, whole)
    stopped = train(cfg, data, cut, lambda values: os.kill(os.getpid(), signal.SIGINT) if "loss" in values else None)
    assert stopped.interrupted
    moved = (data / "tokenizer.json").rename(data / "gone.json")
    try:
        resume(cut)
    finally:
        moved.rename(data / "tokenizer.json")
    left, right = (
        load_file(max((one / "checkpoints").glob("step-????????")) / "state.safetensors") for one in (whole, cut)
    )
    assert left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())
    assert (whole / "best" / "tokenizer.json").read_bytes() == (cut / "best" / "tokenizer.json").read_bytes()


def test_characters_can_be_asked_for_all_the_same(data, tmp_path):
    train(tiny_config("text.tokenizer=char", "train.epochs=1"), data, tmp_path / "run")
    assert load_model(tmp_path / "run").tokenizer.kind == "char"
    assert not (tmp_path / "run" / "tokenizer.json").exists()


def test_a_text_that_the_pieces_cannot_write_is_named(data, tmp_path):
    for name in ("train.jsonl", "tokenizer.json", "prepared.json"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    rows = list(manifests.read(data / "dev.jsonl"))
    manifests.write(tmp_path / "dev.jsonl", [*rows[:-1], manifests.Utterance("odd", "x.wav", 1.0, "xa", "s")])
    with pytest.raises(
        DataError, match=r"dev\.jsonl: 1 of \d+ texts have .*: 'x' \(U\+0078\) in 1; the first: utt 'odd'"
    ):
        train(tiny_config(), tmp_path, tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer.json").exists()


def test_info_shows_pieces_and_the_preparation(data, run):
    kind = read_tokenizer(data / "tokenizer.json").kind
    _, facts = describe(str(run))
    assert facts["tokens"].startswith(f"{SIZE} (blank first), {kind}; the longest: ")
    assert describe(str(data / "tokenizer.json"))[1]["tokens"] == facts["tokens"]
    _, facts = describe(str(data / "train.jsonl"))
    assert facts["prepared"].startswith("Tones, text normalization lower, asr ")


TINY = SubwordTokenizer.train(["ab a", "ab b"], 6, "bpe")


def spoken(labels: str) -> np.ndarray:
    """Log-probabilities that are near certain of a path: one token name a step, 0 the blank."""
    ids = [0 if name == "-" else TINY.symbols.index(name) + 1 for name in labels.split()]
    probs_sv = np.full((len(ids), TINY.vocabulary_size), 0.001)
    probs_sv[np.arange(len(ids)), ids] = 1 - 0.001 * (TINY.vocabulary_size - 1)
    return np.log(probs_sv).astype(np.float32)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("- ▁a ▁a - b -", "ab", [("ab", 0.1, 0.5)]),
        ("▁ab - ▁ab", "ab ab", [("ab", 0.0, 0.1), ("ab", 0.2, 0.3)]),
        ("b ▁ a ▁ab", "b a ab", [("b", 0.0, 0.1), ("a", 0.2, 0.3), ("ab", 0.3, 0.4)]),
        ("▁ ▁a -", "a", [("a", 0.1, 0.2)]),
        ("▁ -", "", []),
    ],
)
def test_greedy_text_and_times_of_pieces(path, text, words):
    missing = {name for name in path.split() if name not in ("-", *TINY.symbols)}
    assert not missing, f"the tokenizer has no {missing}: {TINY.symbols}"
    hypothesis = greedy(spoken(path), TINY)
    assert " ".join(hypothesis.text.split()) == text
    assert [(w.word, w.start_s, w.end_s) for w in words_with_times(hypothesis, TINY, 0.1)] == words
    assert BeamDecoder(TINY, BeamConfig()).decode(spoken(path))[0].text == text


@pytest.mark.parametrize("backend", BACKENDS)
@given(logits_sv=hnp.arrays(np.float64, st.tuples(st.integers(0, 4), st.just(6)), elements=st.floats(-3, 3)))
def test_unpruned_beam_over_pieces_with_a_word_model_is_the_definition(backend, logits_sv):
    lm = reference.BackoffModel(
        {
            ("<s>",): (-99.0, -0.2),
            ("</s>",): (-1.0, 0.0),
            ("<unk>",): (-2.0, 0.0),
            ("a",): (-0.5, -0.3),
            ("ab",): (-0.9, 0.0),
            ("a", "ab"): (-0.1, 0.0),
        }
    )
    log_probs_sv = (logits_sv - np.log(np.exp(logits_sv).sum(axis=1, keepdims=True))).astype(np.float32)
    config = BeamConfig(
        beam_width=5000,
        min_token_log_prob=None,
        beam_prune_log_prob=None,
        nbest=5000,
        alpha=0.8,
        beta=0.5,
        unknown_log_prob=-3.0,
    )
    found = BeamDecoder(TINY, config, parse_arpa(lm.arpa().encode(), "x.arpa"), backend).decode(log_probs_sv)
    pieces = ["", *(s.replace("▁", " ") for s in TINY.symbols)]
    expected = reference.texts(log_probs_sv, pieces, lm=lm, alpha=0.8, beta=0.5, unknown=-3.0)
    assert sorted(h.text for h in found) == sorted(text for text, _, _ in expected)
    scores = {text: (acoustic, fusion) for text, acoustic, fusion in expected}
    for h in found:
        assert (h.log_prob, h.lm_score) == pytest.approx(scores[h.text], abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_100_pieces_of_an4_write_every_text_and_fit_its_audio_better_than_letters(shared_data, tmp_path, kind):
    archive = shared_data / "an4_sphere.tar.gz"
    if not archive.is_file():
        pytest.skip(f"needs {archive}")
    recipe, _ = find_recipe("an4")
    prepare(recipe, Request(tmp_path, (archive,), normalization="lower", tokenizer=kind, vocab_size=100))
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.vocabulary_size == 100
    for split in ("train", "dev", "test"):
        rows = manifests.read(tmp_path / f"{split}.jsonl")
        targets = targets_of(rows, tokenizer, "none")
        assert [tokenizer.decode(one) for one in targets] == [u.text for u in rows]
        assert sum(map(min_steps, targets)) < 0.6 * sum(len(u.text) for u in rows)


def test_the_profile_of_the_model_undoes_that_of_the_texts(data, run, tmp_path):
    rows = manifests.read(data / "train.jsonl")
    shouted = [
        manifests.Utterance(u.id, str(rows.audio_path(u)), u.duration_s, u.text.upper(), u.speaker) for u in rows
    ]
    manifests.write(tmp_path / "train.jsonl", shouted)
    model = load_model(run)
    expected = evaluate(model, rows).score.wer.rate

    result = evaluate(model, manifests.read(tmp_path / "train.jsonl"))
    assert result.score.wer.rate == expected
    assert result.normalization == "lower"
    assert result.unwritable == ""
