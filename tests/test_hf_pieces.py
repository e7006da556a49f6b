"""Tokens of several letters, in everything that takes a tokenizer: decoders, language models, alignment, checks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from asr.align import align_text
from asr.cli import commands
from asr.data import manifest as manifests
from asr.data.pieces import PieceTokenizer
from asr.data.targets import PackedTargets, min_steps
from asr.data.tokenizer_file import read_tokenizer
from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import greedy, words_with_times
from asr.decode.settings import BeamConfig
from asr.decode.tables import fusion_of
from asr.doctor import examine
from asr.doctor.expected import of_model
from asr.errors import AsrError, ConfigError, DataError
from asr.evaluate import evaluate
from asr.info import describe
from asr.lm import ngram
from asr.lm.files import as_tokens
from asr.lm.neural.text import read as read_text
from asr.model.checkpoint import build_model, load_model, model_tensors, save_model
from asr.recordings.longform import pause_log_probs
from asr.tuning.emissions import emissions
from asr.tuning.tune import tune
from tests.builders import build_corpus, tiny_config
from tests.reference import beam as reference

BACKENDS = ("numpy", "numba")
#: letters with a space of their own, as wav2vec 2.0 has them
LETTERS = PieceTokenizer((" ", "t", "ʃ", "tʃ", "a"))
#: every token is a word: the signs of sounds that espeak writes
SOUNDS = PieceTokenizer(("▁t", "▁ʃ", "▁tʃ", "▁aɪ"))
#: no space at all
JOINED = PieceTokenizer(("t", "ʃ", "tʃ", "aɪ"))
#: parts of words with the space before them, as SentencePiece has them
PARTS = PieceTokenizer(("▁", "▁ta", "t", "a", "tʃa"))
KINDS = pytest.mark.parametrize(
    "tokenizer", [LETTERS, SOUNDS, JOINED, PARTS], ids=["letters", "sounds", "joined", "parts"]
)
EXHAUSTIVE = {"beam_width": 5000, "min_token_log_prob": None, "beam_prune_log_prob": None, "nbest": 5000}


def log_softmax(logits_sv: np.ndarray) -> np.ndarray:
    return (logits_sv - np.logaddexp.reduce(logits_sv, axis=1, keepdims=True)).astype(np.float32)


def spoken(tokens: list[int], tokenizer: PieceTokenizer = LETTERS, steps: int = 1) -> np.ndarray:
    """Log-probabilities near certain of a path: each token on some steps, with a blank behind it."""
    path_s = np.repeat([x for token in tokens for x in (token, 0)], steps)
    logits_sv = np.zeros((len(path_s), tokenizer.vocabulary_size))
    logits_sv[np.arange(len(path_s)), path_s] = 8
    return log_softmax(logits_sv)


def random_log_probs(size: int = 6, most: int = 4) -> st.SearchStrategy[np.ndarray]:
    shape = st.tuples(st.integers(0, most), st.just(size))
    return hnp.arrays(np.float64, shape, elements=st.floats(-3, 3)).map(log_softmax)


@KINDS
@given(data=st.data())
def test_every_text_that_tokens_write_is_written_again(tokenizer, data):
    ids = data.draw(st.lists(st.integers(1, len(tokenizer.symbols)), max_size=8))
    text = " ".join(tokenizer.decode(ids).split())  # as every profile leaves it
    assert tokenizer.unknown(text) == []
    again = tokenizer.encode(text)
    assert tokenizer.decode(again) == text
    assert min_steps(again) >= len(again)


def test_a_text_is_written_by_the_longest_tokens_that_leave_a_rest_that_can_be_written():
    tokenizer = PieceTokenizer(("a", "ab", "abc", "b", "cd"))
    assert tokenizer.encode("ab") == [2]
    assert tokenizer.encode("abab") == [2, 2]
    assert tokenizer.encode("abcd") == [2, 5], "the longest at the start leaves 'd'"
    assert tokenizer.encode("") == []


def test_a_text_of_thousands_of_letters_is_written_at_once():
    assert JOINED.encode("tʃt" * 5000) == [3, 1] * 5000


@pytest.mark.parametrize(
    ("tokenizer", "text", "unknown", "message"),
    [
        (LETTERS, "tax", ["x"], r"unknown character 'x' \(U\+0078\) in 'tax'; the vocabulary is ' tʃa'"),
        (SOUNDS, "t a", ["a"], r"'a' \(U\+0061\) in 't a'.*; 'a' is only part of tokens, such as '▁aɪ'"),
        (SOUNDS, "taɪ", ["a", "ɪ"], r"'a' is only part of tokens, such as '▁aɪ'"),
        (SOUNDS, "q", ["q"], r"unknown character 'q' \(U\+0071\) in 'q'"),
        (JOINED, "t ʃ", [" "], r"unknown character ' ' \(U\+0020\) in 't ʃ'"),
        (PARTS, "TA", ["T", "A"], "the vocabulary has the lower-case form: set text.normalization=lower"),
    ],
)
def test_what_no_token_writes_is_shown(tokenizer, text, unknown, message):
    assert tokenizer.unknown(text) == unknown
    with pytest.raises(DataError, match=message):
        tokenizer.encode(text)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (("a", ""), "a token is empty"),
        (("a b",), "a token may have a space only at its start"),
        ((" a",), "a token may have a space only at its start, as '▁'"),
        (("a▁",), "a token may have a space only at its start"),
        (("a", "a"), "symbols must be distinct"),
        (("a\u202eb",), "marks of direction are no symbols"),
        (("a" * 65,), "a token of 65 letters, at most 64"),
    ],
)
def test_a_vocabulary_that_no_text_can_have_is_refused(symbols, message):
    with pytest.raises(ConfigError, match=message):
        PieceTokenizer(symbols)


@KINDS
def test_a_tokenizer_file_gives_the_same_tokenizer(tmp_path, tokenizer):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
    assert read_tokenizer(tmp_path / "tokenizer.json") == tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "tokens", "text", "words"),
    [
        (LETTERS, [4, 5, 1, 2], "tʃa t", [("tʃa", 0.0, 0.3), ("t", 0.6, 0.7)]),
        (SOUNDS, [1, 3, 4], "t tʃ aɪ", [("t", 0.0, 0.1), ("tʃ", 0.2, 0.3), ("aɪ", 0.4, 0.5)]),
        (JOINED, [3, 4, 4], "tʃaɪaɪ", [("tʃaɪaɪ", 0.0, 0.5)]),
        (PARTS, [2, 5, 1, 3], "tatʃa t", [("tatʃa", 0.0, 0.3), ("t", 0.6, 0.7)]),
    ],
)
def test_greedy_text_and_times(tokenizer, tokens, text, words):
    hypothesis = greedy(spoken(tokens, tokenizer), tokenizer)
    assert hypothesis.text == text
    assert [(w.word, w.start_s, w.end_s) for w in words_with_times(hypothesis, tokenizer, 0.1)] == words


@pytest.mark.parametrize("backend", BACKENDS)
@KINDS
@settings(max_examples=15)
@given(data=st.data())
def test_an_unpruned_beam_is_the_definition(backend, tokenizer, data):
    log_probs_sv = data.draw(random_log_probs(tokenizer.vocabulary_size))
    pieces = ["", *(symbol.replace("▁", " ") for symbol in tokenizer.symbols)]
    found = BeamDecoder(tokenizer, BeamConfig(**EXHAUSTIVE), backend=backend).decode(log_probs_sv)
    expected = {text: log_prob for text, log_prob, _ in reference.texts(log_probs_sv, pieces)}
    assert sorted(h.text for h in found) == sorted(expected)
    for h in found:
        assert h.log_prob == pytest.approx(expected[h.text], abs=1e-4, rel=1e-5)
        assert [w.word for w in words_with_times(h, tokenizer, 0.1)] == h.text.split()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(log_probs_sv=random_log_probs())
def test_with_a_model_of_words_and_hotwords_it_is_the_definition(backend, log_probs_sv):
    grams = {("<s>",): -99.0, ("</s>",): -1.0, ("<unk>",): -2.0, ("tʃ",): -0.5, ("ta",): -0.9, ("tʃ", "ta"): -0.1}
    lm = reference.BackoffModel({gram: (log10, -0.2 * (len(gram) == 1)) for gram, log10 in grams.items()})
    scoring = {"alpha": 0.8, "beta": 0.5, "hotwords": {"tʃa": 3.0}}
    config = BeamConfig(**EXHAUSTIVE, **scoring, unknown_log_prob=-3.0)
    found = BeamDecoder(LETTERS, config, ngram.parse_arpa(lm.arpa().encode(), "x.arpa"), backend).decode(log_probs_sv)
    expected = reference.texts(log_probs_sv, ["", *LETTERS.symbols], lm=lm, unknown=-3.0, **scoring)
    scores = {text: (acoustic, fusion) for text, acoustic, fusion in expected}
    assert sorted(h.text for h in found) == sorted(scores)
    for h in found:
        assert (h.log_prob, h.lm_score) == pytest.approx(scores[h.text], abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@KINDS
def test_a_model_of_the_tokens_is_known_as_one_and_prefers_its_texts(tmp_path, backend, tokenizer):
    ids = [[3, 4], [3, 4, 4], [2, 3, 4]]
    texts = [tokenizer.decode(one) for one in ids]
    left_out: Counter[str] = Counter()
    # A line of every token: a model that lacks some would be taken for one of words.
    lines = [*texts * 5, *(tokenizer.decode([3, i, 3]) for i in range(1, len(tokenizer.symbols) + 1))]
    ngram.write(ngram.train(list(as_tokens(lines, tokenizer, left_out)), 2), tmp_path / "lm.arpa")
    assert not left_out
    lm = ngram.load(tmp_path / "lm.arpa")
    assert fusion_of(tokenizer, BeamConfig(), lm) == "token"

    # The last token of a known text is almost as likely as another: the model decides.
    log_probs_sv = spoken(known := tokenizer.encode(texts[0]), tokenizer)
    log_probs_sv[-2] = -12.0
    log_probs_sv[-2, [1, known[-1]]] = np.log([0.55, 0.45])
    decoder = BeamDecoder(tokenizer, BeamConfig(alpha=2.0), lm, backend)
    assert BeamDecoder(tokenizer, backend=backend).decode(log_probs_sv)[0].text != texts[0]
    assert decoder.decode(log_probs_sv)[0].text == texts[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hotword_of_long_tokens_is_heard(backend):
    logits_sv = np.log(spoken([2, 3, 5]).clip(-8, 0) * 0 + 1e-3)
    logits_sv[[0, 2, 4], [2, 3, 5]] = 0.0
    logits_sv[0, 4] = -0.5  # tʃ in one token, a little less likely than t
    logits_sv[[1, 3, 5], 0] = 0.0
    log_probs_sv = log_softmax(logits_sv)
    plain = BeamDecoder(LETTERS, BeamConfig(), backend=backend).decode(log_probs_sv)[0]
    hot = BeamDecoder(LETTERS, BeamConfig(hotwords={"tʃʃa": 6.0}), backend=backend).decode(log_probs_sv)[0]
    assert (plain.text, hot.text) == ("tʃa", "tʃʃa")
    with pytest.raises(ConfigError, match="hotword 'x': the tokenizer cannot write 'x'"):
        BeamDecoder(LETTERS, BeamConfig(hotwords={"x": 1.0}), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@KINDS
@settings(max_examples=10)
@given(data=st.data())
def test_every_word_has_a_confidence_and_chunks_change_nothing(backend, tokenizer, data):
    log_probs_sv = data.draw(random_log_probs(tokenizer.vocabulary_size, most=12))
    decoder = BeamDecoder(tokenizer, BeamConfig(confidence=True), backend=backend)
    (best, *_) = decoder.decode(log_probs_sv)
    assert best.word_shares is not None and len(best.word_shares) == len(best.text.split())
    words = words_with_times(best, tokenizer, 0.1)
    assert all(word.confidence is not None and 0 <= word.confidence <= 1 for word in words)
    for left, right in itertools.pairwise(words):
        assert left.start_s <= left.end_s <= right.start_s

    stream = decoder.start()
    for row_sv in np.array_split(log_probs_sv, 3):
        stream.feed(row_sv)
    assert stream.finish()[0].text == best.text


def aligned(text: str, tokens: list[int], tokenizer: PieceTokenizer, **more):
    log_probs_sv = spoken(tokens, tokenizer, steps=2)
    edges_s = np.arange(len(log_probs_sv) + 1) * 0.1
    more = {"id_": "u", "path": "u.wav", "duration_s": float(edges_s[-1])} | more
    return align_text(text, log_probs_sv, (edges_s[:-1], edges_s[1:]), tokenizer, "none", **more)


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (LETTERS, "tʃa ta", ["tʃa", "ta"]),
        (SOUNDS, "t tʃ aɪ", ["t", "tʃ", "aɪ"]),
        (JOINED, "tʃaɪ", ["tʃaɪ"]),
        (PARTS, "tatʃa ta", ["tatʃa", "ta"]),
    ],
)
def test_a_text_is_aligned_by_words_and_characters(tokenizer, text, words):
    one = aligned(text, tokenizer.encode(text), tokenizer)
    assert [w.word for w in one.transcript.words] == words
    assert one.heard == text
    assert one.gap == 0.0
    assert one.unmatched == ()
    characters = [c for segment in one.transcript.segments for c in segment.characters]
    assert "".join(c.word for c in characters) == text.replace(" ", "")
    starts = [c.start_s for c in characters]
    assert starts == sorted(starts)


def test_a_text_in_the_other_case_is_aligned_by_tokens_of_several_letters():
    tokenizer = PieceTokenizer((" ", "QU", "A"))
    assert [w.word for w in aligned("qua a", [2, 3, 1, 3], tokenizer).transcript.words] == ["qua", "a"]
    with pytest.raises(DataError, match=r"unknown character 'U' .* in the word 'u'"):
        aligned("u", [2], tokenizer)


def test_words_that_nobody_says_are_found():
    said = LETTERS.encode("tʃatʃa tʃatʃatata")
    one = aligned("tʃatʃa tataʃaʃa tʃatʃatata", said, LETTERS, allow_gaps=True)
    assert [w.word for w in one.transcript.words] == ["tʃatʃa", "tʃatʃatata"]
    assert [each.words for each in one.unmatched] == [("tataʃaʃa",)]


@KINDS
def test_a_pause_is_a_space_or_nothing(tokenizer):
    best = int(pause_log_probs(tokenizer).argmax())
    assert best == (tokenizer.symbols.index(" ") + 1 if " " in tokenizer.symbols else 0)


def test_labels_of_any_vocabulary_are_packed():
    tokenizer = PieceTokenizer(tuple(f"x{i}" for i in range(300)))
    packed = PackedTargets([tokenizer.encode("x299x0x0")], tokenizer.vocabulary_size)
    assert packed[0] == [300, 1, 1]
    assert packed.min_steps().tolist() == [4]


def test_sentences_for_a_neural_model_are_tokens():
    reading = read_text(["tʃa t", "at", "ta", "a tʃa", "t", "a", "aʃ", *["tʃx"] * 20], LETTERS, held_out=0.5)
    assert reading.left_out == 20
    assert reading.unknown == {"x": 20}
    sides = (reading.train, reading.held_out)
    assert [4, 5, 1, 2] in [side.sentence(n) for side in sides for n in range(len(side))]


def test_settings_are_tuned_for_tokens_of_several_letters():
    rng = np.random.default_rng(3)
    texts = ["tʃa ta", "ta tʃ", "a tʃa"] * 4
    log_probs = []
    for text in texts:
        logits_sv = spoken(LETTERS.encode(text)) + rng.normal(0, 2, (2 * len(LETTERS.encode(text)), 6))
        log_probs.append(log_softmax(logits_sv))
    tuning = tune(LETTERS, log_probs, texts, ngram.train(texts, 2), threads=1)
    assert tuning.best.rate <= tuning.greedy.rate


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A random model over the letters of ``build_corpus`` and a pair of them."""
    cfg = tiny_config()
    torch.manual_seed(3)
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, PieceTokenizer((" ", "a", "b", "ab", "cd")))
    with torch.no_grad():
        model.network.output.weight *= 8
    folder = tmp_path_factory.mktemp("pieces") / "model"
    save_model(folder, model, model_tensors(model), None)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), 6, seed=1, longest=6)


def test_a_model_folder_with_such_tokens_is_loaded_shown_and_evaluated(model_folder, corpus):
    model = load_model(model_folder)
    assert model.tokenizer.kind == "pieces"
    assert describe(str(model_folder))[1]["tokens"] == "6 (blank first), pieces; the longest: ab cd"
    rows = manifests.read(corpus)
    result = evaluate(model, rows)
    assert all(set(u.hypothesis) <= set(" abcd") for u in result.score.per_utterance)
    assert np.isfinite(result.score.wer.rate)


def test_a_language_model_of_the_tokens_of_a_published_model_is_trained(tmp_path):
    stored = Path(__file__).parent / "data" / "hf" / "wavlm"
    texts = [f"she {a} sh{b}" for a in "abcdefgh" for b in "abcdefgh"] + ["shé"]
    (tmp_path / "t.txt").write_text("\n".join(texts), encoding="utf-8")
    out = tmp_path / "lm.arpa"
    asked = ["lm", "train", str(tmp_path / "t.txt"), "--tokenizer", f"hf:{stored}", "--out", str(out), "--order", "2"]
    result = CliRunner().invoke(commands(), asked)
    assert result.exit_code == 0, result.output
    assert "left out for characters that the tokenizer does not know: 'é' in 1" in result.stderr
    assert {"sh", "e", "a", "▁"} <= set(ngram.load(out).words)
    result = CliRunner().invoke(commands(), ["lm", "train", *asked[2:4], f"hf:{tmp_path}/none", *asked[5:]])
    assert isinstance(result.exception, AsrError)


def test_its_log_probabilities_are_kept_on_disk(model_folder, corpus, tmp_path):
    model = load_model(model_folder)
    rows = manifests.read(corpus)
    first = emissions(model, rows, tmp_path)
    again = emissions(model, rows, tmp_path)
    for one_sv, other_sv in zip(first.log_probs, again.log_probs, strict=True):
        assert one_sv.shape[1] == 6
        assert np.array_equal(one_sv, other_sv)


def test_doctor_names_what_the_tokens_cannot_write_and_counts_their_steps(model_folder, corpus):
    rows = list(manifests.read(corpus))
    texts = ["abab", "abc", "ABCD", "ab" * 400]
    changed = [
        manifests.Utterance(f"u{i}", row.audio_path, row.duration_s, text, row.speaker)
        for i, (row, text) in enumerate(zip(rows, texts, strict=False))
    ]
    manifests.write(corpus.parent / "odd.jsonl", changed)
    report = examine([corpus.parent / "odd.jsonl"], of_model(model_folder), num_examples=20)
    found = {finding.code: finding for finding in report.findings}
    assert found["characters"].count == 2
    assert found["too-short-for-text"].count == 1
    assert any("set text.normalization=lower" in line for line in found["characters"].details)


def test_what_it_hears_is_drawn(model_folder, corpus, tmp_path):
    pytest.importorskip("matplotlib")
    from asr import Recognizer
    from asr.scoring.picture import draw

    wave = next(corpus.parent.rglob("*.wav"))
    draw(Recognizer.load(model_folder, "cpu"), wave, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size
