"""What beam search is told: settings and what is refused, hotwords, lexicon, unknown words, confidence, compilation."""

from __future__ import annotations

import itertools
import logging
import math
import os
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asr.config import parse
from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer import CharTokenizer
from asr.decode.compiled import (
    beam as compiled_beam,
)
from asr.decode.compiled import (
    search as compiled_search,
)
from asr.decode.compiled import (
    viterbi as compiled_viterbi,
)
from asr.decode.compiled import (
    whole as compiled_whole,
)
from asr.decode.confidence import word_shares
from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import words_with_times
from asr.decode.prefixes import Scorer
from asr.decode.settings import BeamConfig, parse_hotword
from asr.decode.tables import fusion_of
from asr.decode.types import TimedWord
from asr.errors import ConfigError
from asr.lm.ngram import parse_arpa
from tests.reference.beam import BackoffModel

BACKENDS = ("numpy", "numba")
LETTERS = CharTokenizer((" ", "a", "b", "c"))
ALPHABET = CharTokenizer(tuple(" abcdefghijklmnopqrstuvwxyz'"))


def model(*sentences: str):
    """A bigram model of some sentences; not a good one."""
    words = sorted({w for s in sentences for w in s.split()})
    ngrams = {("<s>",): (-99.0, -0.3), ("</s>",): (-1.0, 0.0), ("<unk>",): (-3.0, 0.0)}
    ngrams |= {(w,): (-1.5, -0.3) for w in words}
    for sentence in sentences:
        padded = ["<s>", *sentence.split(), "</s>"]
        ngrams |= dict.fromkeys(itertools.pairwise(padded), (-0.5, 0.0))
    return parse_arpa(BackoffModel(ngrams).arpa().encode(), "made.arpa")


def spoken(text: str, tokenizer: CharTokenizer, rng: np.random.Generator, noise: float, steps: int = 0) -> np.ndarray:
    """Log-probabilities of a text: a peak a letter with blanks between, and other letters at its foot."""
    steps = steps or 4 * len(text) + 8
    logits_sv = rng.normal(-8, 0.8, (steps, tokenizer.vocabulary_size))
    logits_sv[:, 0] = 0.0
    places = np.sort(rng.choice(np.arange(2, steps - 2, 2), len(text), replace=False))
    for place, token in zip(places, tokenizer.encode(text), strict=True):
        logits_sv[place, 0] = -2.0
        logits_sv[place, rng.integers(1, tokenizer.vocabulary_size, 3)] = rng.normal(-1, 1, 3)
        logits_sv[place, token] = rng.normal(3, noise)
    return (logits_sv - np.log(np.exp(logits_sv).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hotwords": {"": 1.0}}, "hotword is empty"),
        ({"hotwords": {" \t": 1.0}}, "hotword is empty"),
        ({"hotwords": {"a": 1000.0}}, "weight of hotword 'a' must be between -100 and 100, got 1000"),
        ({"hotwords": {"a": math.nan}}, "finite number"),
        ({"lexicon": []}, "a lexicon needs at least one word"),
        ({"lexicon": ["a", ""]}, "lexicon word is empty"),
        ({"lexicon": ["a"], "hotwords": {"b": 1.0}}, "hotword 'b' is not in the lexicon, so it can never come out"),
        ({"lexicon": ["a"], "hotwords": {"a b": 1.0}}, "'b' of hotword 'a b' is not in the lexicon"),
        ({"beam_width": 0}, "a number of at least 1"),
        ({"beam_width": 10_001}, "beam_width: expected a number of at most 10000, got 10001"),
        ({"hotwords": {str(i): 1.0 for i in range(100_001)}}, "hotwords: at most 100,000 values, got 100,001"),
        ({"lexicon": ["a"] * 150_000 + [1] * 150_000}, "lexicon.150000: expected text .*, got 1$"),
        ({"min_token_log_prob": 0.5}, "a number of at most 0"),
        ({"beam_with": 10}, "unknown key 'beam_with', did you mean 'beam_width'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse(BeamConfig, settings, "decoder.json")


def test_a_long_lexicon_is_no_mistake():
    assert len(parse(BeamConfig, {"lexicon": ["a"] * 200_000}, "x").lexicon) == 200_000


def test_settings_are_frozen_and_survive_json():
    config = BeamConfig(hotwords={"a": 2.0}, lexicon=("a", "b"), min_token_log_prob=None)
    assert parse(BeamConfig, config.model_dump(mode="json"), "x") == config
    with pytest.raises(ValidationError):
        config.beam_width = 3


@pytest.mark.parametrize("text", ["", ":3", "a:", "a:b"])
def test_a_hotword_option_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="expected PHRASE or PHRASE:weight"):
        parse_hotword(text)


@pytest.mark.parametrize("backend", BACKENDS)
def test_words_that_cannot_be_written_are_refused_or_counted(backend, caplog):
    with pytest.raises(ConfigError, match="hotword 'ä': the tokenizer cannot write 'ä'"):
        BeamDecoder(LETTERS, BeamConfig(hotwords={"ä": 1.0}), backend=backend)
    with pytest.raises(ConfigError, match=r"none of the 2 words of the lexicon \(first: 'A'\).*is the case right"):
        BeamDecoder(LETTERS, BeamConfig(lexicon=("A", "B")), backend=backend)
    with pytest.raises(ConfigError, match="none of the 1 words of the language model"):
        BeamDecoder(LETTERS, lm=model("CAB"), backend=backend)
    with caplog.at_level(logging.INFO):
        BeamDecoder(LETTERS, lm=model("cab Cab ä"), backend=backend)
    assert "kept 1 of 3 words of the language model (2 have letters that the tokenizer cannot write)" in caplog.text


def test_what_a_language_model_is_of_is_seen_in_its_words():
    """Tokens: all of its words are some, and the space is among them where the tokenizer writes spaces."""
    unspaced = CharTokenizer(("a", "b", "c"))
    subwords = SubwordTokenizer.train(["cab a cab", "a back", "abba cab"], 12)
    pieces = " ".join(subwords.symbols)
    for sentence, tokenizer, expected in (
        ("c a b ▁ a", LETTERS, "token"),
        ("cab a", LETTERS, "word"),
        ("a b c", LETTERS, "word"),
        ("a b c", unspaced, "token"),
        ("ab c", unspaced, "word"),
        ("a b x", unspaced, "word"),
        ("", unspaced, "word"),
        (pieces, subwords, "token"),
        ("cab a", subwords, "word"),
    ):
        assert fusion_of(tokenizer, BeamConfig(), model(sentence)) == expected, sentence
        assert BeamDecoder(tokenizer, lm=model(sentence)).config.fusion == expected
    assert fusion_of(LETTERS, BeamConfig(), None) == "word"
    assert fusion_of(LETTERS, BeamConfig(fusion="word"), model("c a b ▁ a")) == "word"
    decoder = BeamDecoder(LETTERS, lm=model("c a b ▁ a"))
    assert decoder.with_config(BeamConfig(alpha=0.1)).config.fusion == "token"
    with pytest.raises(ConfigError, match="fusion cannot be changed"):
        decoder.with_config(BeamConfig(fusion="word"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("alpha", [3.0, 3.1, 3.15, 3.2])
def test_a_step_that_costs_nearly_all_that_a_number_can_hold_loses_nothing(backend, alpha):
    """A word without <unk> costs e^(-230 alpha) at once; one over such a mass is infinite."""
    lm = parse_arpa(b"\\data\\\nngram 1=4\n\n\\1-grams:\n-1 </s>\n-99 <s>\n-0.5 aa\n-0.5 ab\n\n\\end\\\n", "m.arpa")
    tokenizer = CharTokenizer((" ", "a", "b"))
    probs_sv = np.full((16, 4), 1e-4)
    for i, token in enumerate(tokenizer.encode("bb aa ab")):
        probs_sv[2 * i, token] = probs_sv[2 * i + 1, 0] = 1
    log_probs_sv = np.log(probs_sv / probs_sv.sum(1, keepdims=True)).astype(np.float32)
    (found,) = BeamDecoder(tokenizer, BeamConfig(alpha=alpha), lm, backend).decode(log_probs_sv)
    assert found.text == "bb aa ab" and math.isfinite(found.log_prob)


@pytest.mark.parametrize("backend", BACKENDS)
def test_white_space_of_another_kind_is_a_letter(backend):
    tokenizer = CharTokenizer((" ", "a", "\u00a0"))
    probs_sv = np.full((5, 4), 1e-3)
    probs_sv[np.arange(5), [2, 3, 2, 1, 2]] = 1
    decoder = BeamDecoder(tokenizer, BeamConfig(confidence=True), backend=backend)
    (found,) = decoder.decode(np.log(probs_sv / probs_sv.sum(1, keepdims=True)).astype(np.float32))
    assert [word.word for word in words_with_times(found, tokenizer, 0.04)] == ["a\u00a0a", "a"]


def test_letters_without_the_space_are_words_where_there_are_spaces_and_that_is_said(caplog):
    with caplog.at_level(logging.INFO):
        assert fusion_of(LETTERS, BeamConfig(), model("a b c")) == "word"
    assert "the space is not among them: taken as a model of words" in caplog.text


def test_that_a_text_without_spaces_is_one_word_is_said(caplog):
    with caplog.at_level(logging.INFO):
        BeamDecoder(LETTERS, lm=model("cab"))
        BeamDecoder(CharTokenizer(("a", "b", "c")), lm=model("a b"))
        assert "writes no spaces" not in caplog.text
        BeamDecoder(CharTokenizer(("a", "b", "c")), lm=model("cab"))
    assert "the model writes no spaces: each of its texts is one word to the language model" in caplog.text


def test_a_model_of_words_is_refused_as_one_of_tokens():
    with pytest.raises(ConfigError, match=r"knows none of the 4 tokens .*is it a model of words"):
        BeamDecoder(LETTERS, BeamConfig(fusion="token"), model("cab"), "numpy")


def test_an_unknown_backend_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown decoder backend 'nummba'.*did you mean 'numba'"):
        BeamDecoder(LETTERS, backend="nummba")


def test_tokens_with_a_space_inside_are_refused():
    class Pieces:
        symbols = ("a b",)
        vocabulary_size = 2

    with pytest.raises(ConfigError, match="only at its start, got 'a b'"):
        BeamDecoder(Pieces(), backend="numpy")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unknown_word_costs_the_same_however_long_it_is_and_a_hotword_nothing(backend):
    lm = model("cab")
    config = BeamConfig(alpha=0.0, beta=0.0, unknown_log_prob=-2.0, unknown_letters=3.0, beam_prune_log_prob=None)
    sure = np.full((20, 5), -np.inf, np.float32)
    for word, cost in [("cab", 0.0), ("a", -2.0), ("abc", -2.0), ("abcabcabcabc", -2.0)]:
        sure[:] = -np.inf
        sure[np.arange(20), LETTERS.encode(word) + [0] * (20 - len(word))] = 0.0
        assert BeamDecoder(LETTERS, config, lm, backend).decode(sure)[0].lm_score == pytest.approx(cost, abs=1e-9)
        hot = config.model_copy(update={"hotwords": {word: 1.5}})
        assert BeamDecoder(LETTERS, hot, lm, backend).decode(sure)[0].lm_score == pytest.approx(1.5, abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hotword_is_not_pruned_before_it_is_complete(backend):
    # "abab" is ahead of "acac" by ln 3 at every second letter; the hotword's share keeps it among two prefixes
    p_sv = np.array([[0.001, 0.001, 0.997, 0.0005, 0.0005], [0.001, 0.001, 0.001, 0.748, 0.249]])
    log_probs_sv = np.log(np.vstack([p_sv, p_sv, p_sv]))
    plain = BeamDecoder(LETTERS, BeamConfig(beam_width=2), backend=backend)
    hot = BeamDecoder(LETTERS, BeamConfig(beam_width=2, hotwords={"acacac": 9.0}), backend=backend)
    assert plain.decode(log_probs_sv)[0].text == "ababab"
    assert hot.decode(log_probs_sv)[0].text == "acacac"
    assert hot.decode(log_probs_sv)[0].lm_score == pytest.approx(9.0)
    assert hot.decode(log_probs_sv[:4])[0].text == "abab"  # a hope that did not come true leaves nothing behind
    assert hot.decode(log_probs_sv[:4])[0].lm_score == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 1000), width=st.integers(1, 20))
def test_only_words_of_the_lexicon_come_out(backend, seed, width):
    lexicon = ("a", "cab", "abba", "bc")
    rng = np.random.default_rng(seed)
    log_probs_sv = spoken("cab a bac", LETTERS, rng, noise=3.0)
    config = BeamConfig(lexicon=lexicon, beam_width=width, nbest=5)
    for hypothesis in BeamDecoder(LETTERS, config, backend=backend).decode(log_probs_sv):
        assert set(hypothesis.text.split()) <= set(lexicon)


@pytest.mark.parametrize(
    "settings",
    [{}, {"beam_width": 30, "beam_prune_log_prob": None}, {"hotwords": {"friday": 4.0, "monday": 8.0}}],
    ids=["default", "unpruned", "hotwords"],
)
@pytest.mark.parametrize("with_lm", [True, False], ids=["lm", "no lm"])
def test_the_backends_agree_on_long_utterances(settings, with_lm):
    rng = np.random.default_rng(7)
    text = "we leave on monday and come back on friday at noon or a little later if it rains all the way"
    lm = model(text, "we come on monday", "it rains all day") if with_lm else None
    log_probs_sv = spoken(text, ALPHABET, rng, noise=2.0, steps=500)
    slow, fast = (
        BeamDecoder(ALPHABET, BeamConfig(nbest=20, **settings), lm, backend).decode(log_probs_sv)
        for backend in BACKENDS
    )
    assert [h.text for h in slow] == [h.text for h in fast]
    assert [h.spans for h in slow] == [h.spans for h in fast]
    np.testing.assert_allclose([h.log_prob for h in slow], [h.log_prob for h in fast], atol=1e-6)
    np.testing.assert_allclose([h.lm_score for h in slow], [h.lm_score for h in fast], atol=1e-6)
    ends = [0, *(s for span in fast[0].spans for s in (span.start, span.end)), 500]
    assert ends == sorted(ends)


def test_the_backends_agree_on_an_alphabet_of_more_letters_than_an_integer_has_bits():
    rng = np.random.default_rng(11)
    letters = [chr(0x4E00 + i) for i in range(100)]
    tokenizer = CharTokenizer((" ", *letters))
    words = ["".join(rng.choice(letters, 3)) for _ in range(40)]
    text = " ".join(words[:6])
    log_probs_sv = spoken(text, tokenizer, rng, noise=1.0)
    for config in (BeamConfig(lexicon=tuple(words), nbest=5), BeamConfig(hotwords={words[1]: 5.0}, nbest=5)):
        slow, fast = (BeamDecoder(tokenizer, config, backend=b).decode(log_probs_sv) for b in BACKENDS)
        assert [(h.text, h.spans) for h in slow] == [(h.text, h.spans) for h in fast]
        assert len(set(fast[0].text.split()) & set(words)) >= 3


def test_the_compiled_search_takes_more_memory_when_it_needs_it():
    rng = np.random.default_rng(3)
    logits_sv = rng.normal(size=(300, 29)) * 2  # noise: every step makes new prefixes, beyond the first 4,096
    log_probs_sv = (logits_sv - np.log(np.exp(logits_sv).sum(axis=1, keepdims=True))).astype(np.float32)
    config = BeamConfig(beam_width=60)
    slow, fast = (BeamDecoder(ALPHABET, config, backend=backend).decode(log_probs_sv)[0] for backend in BACKENDS)
    assert (fast.text, fast.spans) == (slow.text, slow.spans)
    assert fast.log_prob == pytest.approx(slow.log_prob, abs=1e-6)


def test_memory_is_used_again_without_a_trace_of_the_last_utterance():
    rng = np.random.default_rng(5)
    decoder = BeamDecoder(ALPHABET, lm=model("come on", "on and on"))
    utterances = [spoken(text, ALPHABET, rng, 2.0) for text in ("come on", "on and on and on", "x", "no man")]
    first = [decoder.decode(one) for one in utterances]
    assert [decoder.decode(one) for one in reversed(utterances)] == first[::-1]
    abandoned = decoder.start()
    abandoned.feed(utterances[1])
    assert [decoder.decode(one) for one in utterances] == first


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_caller_may_fill_its_buffer_again(backend):
    log_probs_sv = spoken("cab a bac", LETTERS, np.random.default_rng(2), noise=0.5)
    decoder = BeamDecoder(LETTERS, backend=backend)
    stream, buffer_sv = decoder.start(), np.empty((1, 5), np.float32)
    for row in log_probs_sv:
        buffer_sv[0] = row
        stream.feed(buffer_sv)
    assert stream.finish() == decoder.decode(log_probs_sv)
    log_probs_sv.flags.writeable = False
    assert decoder.decode(log_probs_sv) == stream.finish()


@pytest.mark.parametrize("backend", BACKENDS)
def test_confidence_is_the_share_of_the_beam_that_agrees(backend):
    p_sv = np.array([[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.75, 0.25]])
    with np.errstate(divide="ignore"):
        log_probs_sv = np.log(p_sv)
    config = BeamConfig(confidence=True, nbest=2)
    best, second = BeamDecoder(LETTERS, config, backend=backend).decode(log_probs_sv)
    assert (best.text, best.word_shares) == ("a b", pytest.approx((1.0, 0.75)))
    assert (second.text, second.word_shares) == ("a c", pytest.approx((1.0, 0.25)))
    assert words_with_times(best, LETTERS, 0.1) == [
        TimedWord("a", 0.0, 0.1, 1.0),
        TimedWord("b", 0.2, 0.3, 0.75),
    ]  # sqrt(share x sound)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_being_asked_a_word_has_the_acoustic_models_confidence(backend):
    log_probs_sv = np.log(np.array([[0.05, 0.05, 0.8, 0.05, 0.05], [0.05, 0.05, 0.05, 0.6, 0.25]]))
    (best,) = BeamDecoder(LETTERS, backend=backend).decode(log_probs_sv)
    assert best.word_shares is None
    (word,) = words_with_times(best, LETTERS, 0.1)
    assert (word.word, word.confidence) == ("ab", pytest.approx(0.48, abs=1e-4))


@given(st.lists(st.text("ab ", max_size=8), min_size=1, max_size=5), st.data())
def test_confidences_are_shares(texts, data):
    scores = [data.draw(st.floats(-500, 0)) for _ in texts]
    confidences = word_shares(texts[0], texts, scores)
    assert len(confidences) == len(texts[0].split())
    own = math.exp(scores[0] - max(scores)) / sum(math.exp(s - max(scores)) for s in scores)
    assert all(own - 1e-3 <= c <= 1 for c in confidences)


def test_compiling_is_announced_once_and_outdated_code_forgotten(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compiled_search, "_ready", set())
    monkeypatch.setattr(compiled_search, "_cache_folder", lambda: tmp_path)
    old = tmp_path / "beam.search_steps-1.py311.nbi"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    decoder = BeamDecoder(LETTERS, backend="numba")
    with caplog.at_level(logging.INFO):
        decoder.start()
        decoder.start()
    assert not old.exists()
    assert caplog.text.count("compiling the beam search; this happens once") == 1


def drawn(rng: np.random.Generator, steps: int, peak: float) -> np.ndarray:
    logits_sv = rng.normal(size=(steps, LETTERS.vocabulary_size)) * peak
    logits_sv[rng.random(logits_sv.shape) < 0.2] = -np.inf
    logits_sv[:, 0] = np.maximum(logits_sv[:, 0], -3.0)
    with np.errstate(divide="ignore"):
        return (logits_sv - np.log(np.exp(logits_sv).sum(axis=1, keepdims=True, initial=0.0))).astype(np.float32)


@pytest.mark.parametrize("room", ["usual", "tiny"])
@pytest.mark.parametrize("settings", [{}, {"lexicon": ("a", "ab", "cab")}, {"hotwords": {"cab": 3.0}}])
def test_whole_blocks_in_threads_are_decoded_as_streams_are(settings, room, monkeypatch):
    if room == "tiny":  # nodes for one step: the memory grows, and the utterance begins again, time after time
        new_work = compiled_search.new_work

        def small(width: int, vocabulary: int) -> Any:
            work = new_work(width, vocabulary)
            return work._replace(nodes=work.nodes[: width + 1].copy(), scores=work.scores[: width + 1].copy())

        monkeypatch.setattr(compiled_search, "new_work", small)
    rng = np.random.default_rng(7)
    lm = model("a cab", "ab a ab") if "hotwords" not in settings else None
    for width, nbest in ((1, 1), (3, 8), (30, 5), (30, 10**12)):
        decoder = BeamDecoder(LETTERS, BeamConfig(beam_width=width, nbest=nbest, **settings), lm)
        utterances = [drawn(rng, steps, peak) for peak in (0.3, 2.0) for steps in (0, 1, 30, 0, 4, 90, 2)]
        expected = []
        for one_sv in utterances:
            stream = decoder.start()
            stream.feed(one_sv)
            expected.append(stream.finish())
        assert decoder.decode_all(utterances, threads=2) == expected
        wrong = list(utterances)
        wrong[5], wrong[9] = np.full((3, LETTERS.vocabulary_size), np.nan, np.float32), utterances[2] - 1
        for decode in (decoder.decode_all, decoder.texts):
            with pytest.raises(ValueError, match="not a number in step 0"):
                decode(wrong, threads=2)


def test_no_layout_of_the_input_is_compiled_for_of_its_own():
    log_probs_sv = spoken("cab a bac", LETTERS, np.random.default_rng(2), noise=0.5)
    for config in (BeamConfig(), BeamConfig(confidence=True)):
        decoder = BeamDecoder(LETTERS, config)
        expected = decoder.decode(log_probs_sv)
        compiled = [compiled_whole.decode_whole, compiled_beam.search_steps, compiled_viterbi.find_spans]
        before = [len(function.signatures) for function in compiled]
        readonly_sv = log_probs_sv.copy()
        readonly_sv.flags.writeable = False
        for layout_sv in (readonly_sv, np.asfortranarray(log_probs_sv), log_probs_sv.astype(np.float64)):
            assert decoder.decode(layout_sv) == expected
            assert decoder.texts([layout_sv]) == [expected[0].text]
            stream = decoder.start()
            stream.feed(layout_sv)
            assert stream.finish() == expected
        assert [len(function.signatures) for function in compiled] == before


def test_the_widest_beam_of_the_command_is_that_of_a_models_folder():
    from asr.commands.options import DecodingOptions
    from asr.decode.settings import MOST_BEAM

    *_, option = get_type_hints(DecodingOptions, include_extras=True)["beam"].__metadata__
    assert option.max == MOST_BEAM


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_look_ahead_decides_what_survives_and_not_what_a_text_scores(backend, alpha):
    # "ba" is a little likelier than "ca", but only the latter begins a word of the model.
    probs_sv = [[0.02, 0.02, 0.02, 0.48, 0.46], [0.02, 0.02, 0.92, 0.02, 0.02], [0.02, 0.02, 0.02, 0.92, 0.02]]
    log_probs_sv = np.log(np.array(probs_sv, np.float32))
    narrow = BeamConfig(beam_width=1, alpha=alpha, beta=0.0, unknown_log_prob=-4.0)
    wide = narrow.model_copy(update={"beam_width": 1000, "beam_prune_log_prob": None, "min_token_log_prob": None})
    lm = model("cab", "cab")
    found, best = (BeamDecoder(LETTERS, each, lm, backend).decode(log_probs_sv)[0] for each in (narrow, wide))
    assert found.text == best.text == "cab"
    assert found.lm_score == pytest.approx(best.lm_score)
    assert found.lm_score == pytest.approx(alpha * lm.score(["cab"]), abs=1e-6)


def test_an_open_word_has_the_score_of_the_likeliest_word_that_it_may_become():
    grams = {"<s>": -99.0, "</s>": -1.0, "<unk>": -3.0, "cab": -1.0, "ca": -2.0, "bac": -1.5, "ba": -2.5, "a": -0.5}
    lm = parse_arpa(BackoffModel({(word,): (log10, -0.3) for word, log10 in grams.items()}).arpa().encode(), "x.arpa")
    lm.keep_known(["cab", "ba", "a"], "list")
    config = BeamConfig(alpha=0.7, beta=0.3, unknown_log_prob=-2.0, unknown_letters=2.0)
    scorer = Scorer(BeamDecoder(LETTERS, config, lm, "numpy").tables)
    scores = {word: 0.7 * math.log(10) * grams[word] + 0.3 for word in ("cab", "ca", "bac", "ba", "a")}
    scores["ca"] -= 2.0
    scores["bac"] -= 2.0
    looks = {begin: max(scores[w] for w in scores if w.startswith(begin)) for begin in ("c", "ca", "b", "bac", "a")}
    unknown = 0.7 * math.log(10) * grams["<unk>"] + 0.3
    looks |= {"ac": unknown - 2.0, "acb": unknown - 3.0}

    for begin, look in looks.items():
        prefix = scorer.empty
        for token in LETTERS.encode(begin):
            prefix = scorer.child(prefix, token)
        assert (prefix.look, prefix.gain) == pytest.approx((look, math.exp(look)), abs=1e-5)
