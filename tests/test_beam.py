"""Beam search against every path there is; both backends against each other; what is refused, and odd input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asr.data.tokenizer import CharTokenizer
from asr.decode.decoder import BeamDecoder
from asr.decode.settings import BeamConfig
from asr.decode.types import Hypothesis
from asr.lm.ngram import parse_arpa
from tests.reference import beam as reference

LETTERS = CharTokenizer((" ", "a", "b"))
WHOLE = {"beam_width": 5000, "min_token_log_prob": None, "beam_prune_log_prob": None, "nbest": 5000}
BACKENDS = ("numpy", "numba")
#: the model's arrays are float32, the dict float64; an unknown word without <unk> is at -230
CLOSE = 1e-5

#: what a test of fusion adds to the search: name -> BeamConfig fields
EXTRAS = {
    "nothing": {},
    "hotwords": {"hotwords": {"ab": 3.0, "b": -1.5}},
    "phrases": {"hotwords": {"a b": 4.0, "b a": 2.5, "b a b": 6.0, "ab": 1.0, "a ab a": 3.0, "b b": -2.0}},
    "lexicon": {"lexicon": ("a", "ab", "bb")},
    "both": {"lexicon": ("a", "ab", "bba"), "hotwords": {"ab": 2.0, "a a": 1.0}},
}


class Pieces:
    """A tokenizer of word pieces, as far as a decoder looks at one."""

    def __init__(self, *symbols: str) -> None:
        self.symbols = symbols
        self.vocabulary_size = len(symbols) + 1


def log_softmax(logits_sv: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        shifted = logits_sv - logits_sv.max(axis=1, keepdims=True, initial=-1e9)
        return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


@st.composite
def log_prob_arrays(draw, vocabulary: int = 4, longest: int = 6) -> np.ndarray:
    """Few distinct values, so that ties are common, among them impossible tokens."""
    shape = (draw(st.integers(0, longest)), vocabulary)
    values = st.sampled_from([-math.inf, -20.0, 0.0, 1.0, 2.5]) | st.floats(-3, 3)
    logits_sv = draw(hnp.arrays(np.float64, shape, elements=values))
    logits_sv[np.isneginf(logits_sv).all(axis=1)] = 0.0
    return log_softmax(logits_sv)


@st.composite
def language_models(draw, words: tuple[str, ...] = ("a", "ab", "b")) -> reference.BackoffModel:
    """A back-off model of order 1 to 3, with or without <unk>; not normalised, which no decoder asks for."""
    log10 = st.floats(-4, -0.1)
    vocabulary = [*words, "</s>", *draw(st.sampled_from([["<unk>"], []]))]
    ngrams = {("<s>",): (-99.0, draw(st.floats(-1, 0)))}
    ngrams |= {(word,): (draw(log10), draw(st.floats(-1, 0))) for word in vocabulary}
    histories = [("<s>",), *((word,) for word in words)]
    for _ in range(draw(st.integers(1, 3)) - 1):
        longer = [(*h, w) for h in histories for w in (*words, "</s>")]
        picked = draw(st.lists(st.sampled_from(longer), max_size=6, unique=True)) if longer else []
        ngrams |= {words_: (draw(log10), draw(st.floats(-1, 0))) for words_ in picked}
        histories = [words_ for words_ in picked if words_[-1] != "</s>"]
    return reference.BackoffModel(ngrams)


def alpha_for(lm: reference.BackoffModel, share: float) -> float:
    """A weight up to 2; up to 0.4 without <unk>: texts of a few unknown words, at 10^-100 each, must stay above the
    e^-700 at which a prefix is nothing beside the best one."""
    return share * (2.0 if ("<unk>",) in lm.ngrams else 0.4)


def model_of(lm: reference.BackoffModel):
    return parse_arpa(lm.arpa().encode(), "drawn.arpa")


def decoder(backend: str, tokenizer=LETTERS, lm=None, **settings) -> BeamDecoder:
    return BeamDecoder(tokenizer, BeamConfig(**settings), None if lm is None else model_of(lm), backend)


def assert_same_texts(found: list[Hypothesis], expected: list[tuple[str, float, float]]) -> None:
    """Every text with its two scores, whatever the order of equals."""
    assert sorted(h.text for h in found) == sorted(text for text, _, _ in expected)
    scores = {text: (acoustic, fusion) for text, acoustic, fusion in expected}
    for hypothesis in found:
        assert (hypothesis.log_prob, hypothesis.lm_score) == pytest.approx(scores[hypothesis.text], abs=CLOSE, rel=1e-6)
    if expected:
        assert found[0].score == pytest.approx(max(a + f for _, a, f in expected), abs=CLOSE, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", EXTRAS)
@given(log_probs_sv=log_prob_arrays())
def test_unpruned_beam_finds_every_text_with_its_probability(backend, extra, log_probs_sv):
    found = decoder(backend, **WHOLE, **EXTRAS[extra]).decode(log_probs_sv)
    expected = reference.texts(log_probs_sv, ["", " ", "a", "b"], **EXTRAS[extra])
    if expected:
        assert_same_texts(found, expected)
    else:
        assert found == [Hypothesis("", -math.inf, ())] or EXTRAS[extra].get("lexicon")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", EXTRAS)
@given(log_probs_sv=log_prob_arrays(longest=5), lm=language_models(), share=st.floats(0, 1), beta=st.floats(-2, 3))
def test_unpruned_beam_finds_every_text_with_its_probability_and_lm_score(
    backend, extra, log_probs_sv, lm, share, beta
):
    alpha = alpha_for(lm, share)
    weights = {"alpha": alpha, "beta": beta, "unknown": -3.0}
    settings = {"alpha": alpha, "beta": beta, "unknown_letters": 2.0, "unknown_log_prob": -3.0}
    found = decoder(backend, lm=lm, **WHOLE, **settings, **EXTRAS[extra]).decode(log_probs_sv)
    expected = reference.texts(log_probs_sv, ["", " ", "a", "b"], lm=lm, **weights, **EXTRAS[extra])
    if expected:
        assert_same_texts(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hotwords", [{}, EXTRAS["phrases"]["hotwords"]], ids=["plain", "phrases"])
@given(log_probs_sv=log_prob_arrays(longest=5), lm=language_models(words=("a", "▁")), share=st.floats(0, 1))
def test_unpruned_beam_with_a_token_model_finds_every_text(backend, hotwords, log_probs_sv, lm, share):
    alpha = alpha_for(lm, share)
    settings = {"alpha": alpha, "beta": 0.5, "hotwords": hotwords}
    found = decoder(backend, lm=lm, fusion="token", **settings, **WHOLE).decode(log_probs_sv)
    expected = reference.token_texts(log_probs_sv, ["", " ", "a", "b"], lm, **settings)
    assert_same_texts(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hotwords", [{}, {"a ab": 3.0, "ab a": 2.0, "ab": 1.0, "b a": 1.5}], ids=["plain", "phrases"])
@given(log_probs_sv=log_prob_arrays(vocabulary=5, longest=4), lm=language_models() | st.none())
def test_word_pieces_that_write_one_text_in_two_ways_count_together(backend, hotwords, log_probs_sv, lm):
    pieces = Pieces("▁a", "b", "▁ab", "▁")
    found = decoder(backend, pieces, lm, hotwords=hotwords, **WHOLE).decode(log_probs_sv)
    expected = reference.texts(log_probs_sv, ["", " a", "b", " ab", " "], lm=lm, hotwords=hotwords)
    assert_same_texts(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    log_probs_sv=log_prob_arrays(vocabulary=4, longest=4),
    lm=language_models(words=("▁a", "b", "▁ab")),
    share=st.floats(0, 1),
)
def test_a_text_that_pieces_write_in_two_ways_is_there_once_with_its_best_pieces_under_a_token_model(
    backend, log_probs_sv, lm, share
):
    """A model of tokens scores each way by itself, so that there is no one score to add the probabilities under."""
    pieces, alpha = Pieces("▁a", "b", "▁ab"), alpha_for(lm, share)
    found = decoder(backend, pieces, lm, fusion="token", alpha=alpha, beta=0.5, **WHOLE).decode(log_probs_sv)
    expected = reference.token_texts(log_probs_sv, ["", " a", "b", " ab"], lm, alpha=alpha, beta=0.5)
    assert_same_texts(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_ways_to_write_one_text_under_a_token_model(backend):
    # "ab" as one piece (0.3) and as two (0.3 x 0.9): the model of tokens likes two better
    lm = reference.BackoffModel(
        {
            ("<s>",): (-99.0, 0.0),
            ("</s>",): (-0.5, 0.0),
            ("<unk>",): (-3.0, 0.0),
            ("▁a",): (-0.2, 0.0),
            ("b",): (-0.2, 0.0),
            ("▁ab",): (-1.5, 0.0),
        }
    )
    probs_sv = np.array([[0.01, 0.45, 0.01, 0.53], [0.05, 0.01, 0.9, 0.04]], np.float32)
    found = decoder(backend, Pieces("▁a", "b", "▁ab"), lm, fusion="token", alpha=1.0, beta=0.0, **WHOLE).decode(
        np.log(probs_sv / probs_sv.sum(axis=1, keepdims=True))
    )
    (one,) = [h for h in found if h.text == "ab"]
    assert len(one.spans) == 2
    assert one.log_prob == pytest.approx(math.log(0.45 * 0.9), abs=1e-5)  # of these pieces alone
    assert one.lm_score == pytest.approx(-0.9 * math.log(10), abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_texts_that_are_equal_once_their_open_word_is_cut_count_together(backend):
    # "a b" (0.7) and "a bb" (0.3): both may become "a bba", and neither is listed when the audio ends
    probs_sv = np.full((5, 4), 1e-12)
    probs_sv[np.arange(3), [2, 1, 3]] = 1.0
    probs_sv[3:, [0, 3]] = [[0.6, 0.4], [0.5, 0.5]]
    probs_sv /= probs_sv.sum(axis=1, keepdims=True)
    log_probs_sv = np.log(probs_sv).astype(np.float32)
    found = decoder(backend, lexicon=("a", "bba"), nbest=10, min_token_log_prob=-5.0).decode(log_probs_sv)
    assert [h.text for h in found] == ["a"]
    assert found[0].log_prob == pytest.approx(0.0, abs=1e-4)  # all paths are this text


SETTINGS = st.fixed_dictionaries(
    {
        "beam_width": st.integers(1, 8),
        "min_token_log_prob": st.sampled_from([None, -1.0, -3.0, 0.0]),
        "beam_prune_log_prob": st.sampled_from([None, -1.0, -5.0]),
        "nbest": st.sampled_from([1, 3]),
        "alpha": st.floats(0, 2),
        "beta": st.floats(-2, 3),
        "fusion": st.sampled_from(["word", "token"]),
    }
)


@given(
    log_probs_sv=log_prob_arrays(longest=20),
    lm=language_models(words=("a", "ab", "b", "▁")) | st.none(),
    settings=SETTINGS,
    extra=st.sampled_from(list(EXTRAS)),
    cut=st.integers(0, 20),
)
def test_the_compiled_search_equals_the_numpy_one_pruned_or_not_whole_or_in_chunks(
    log_probs_sv, lm, settings, extra, cut
):
    slow, fast = (decoder(backend, lm=lm, **settings, **EXTRAS[extra]) for backend in BACKENDS)
    expected = slow.decode(log_probs_sv)
    assert_equal(fast.decode(log_probs_sv), expected)
    for each in (slow, fast):
        stream = each.start()
        for start, end in itertools.pairwise([0, min(cut, len(log_probs_sv)), min(cut + 1, len(log_probs_sv)), 99]):
            stream.feed(log_probs_sv[start:end])
            stream.finish()  # looking at the answer so far changes nothing
        assert_equal(stream.finish(), expected)


def assert_equal(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    """The same texts, tokens and times; scores to the rounding of float64 sums and of exp."""
    assert [h.text for h in found] == [h.text for h in expected]
    assert [h.spans for h in found] == [h.spans for h in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.log_prob, one.lm_score) == pytest.approx((other.log_prob, other.lm_score), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    log_probs_sv=log_prob_arrays(longest=15),
    width=st.integers(1, 20),
    lm=language_models() | st.none(),
    prune=st.sampled_from([None, -2.0]),
)
def test_nbest_are_distinct_sorted_and_no_better_than_the_texts_are(backend, log_probs_sv, width, lm, prune):
    found = decoder(backend, lm=lm, beam_width=width, nbest=width, beam_prune_log_prob=prune).decode(log_probs_sv)
    assert 1 <= len(found) <= width
    assert len({h.text for h in found}) == len(found)
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("backend", BACKENDS)
@given(log_probs_sv=log_prob_arrays(longest=6), lm=language_models() | st.none(), extra=st.sampled_from(list(EXTRAS)))
def test_an_unpruned_beam_finds_the_best_text_where_only_one_is_asked_for(backend, log_probs_sv, lm, extra):
    expected = reference.texts(log_probs_sv, ["", " ", "a", "b"], lm=lm, **EXTRAS[extra])
    found = decoder(backend, lm=lm, **{**WHOLE, "nbest": 1}, **EXTRAS[extra]).decode(log_probs_sv)[0]
    best = max((acoustic + fusion for _, acoustic, fusion in expected), default=-math.inf)
    if expected:  # otherwise no listed text is possible, and an open word was cut
        assert found.score == pytest.approx(best, abs=CLOSE, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_prefixes_with_the_same_future_the_best_stays(backend):
    # Found by random search: with room for two prefixes, the best text survives only if it need not compete with one
    # that can only stay behind. Where two texts are asked for, both stay.
    counts_sv = np.array([[4, 1, 1, 6], [2, 8, 3, 3], [4, 4, 3, 7], [5, 6, 3, 8]])
    log_probs_sv = np.log(counts_sv / counts_sv.sum(axis=1, keepdims=True))
    off = {"min_token_log_prob": None, "beam_prune_log_prob": None}
    one, two, all_ = (
        decoder(backend, beam_width=width, nbest=nbest, **off).decode(log_probs_sv)[0]
        for width, nbest in ((2, 1), (2, 2), (1000, 1))
    )
    assert (one.text, two.text, all_.text) == ("b", "", "b")


@pytest.mark.parametrize("backend", BACKENDS)
@given(log_probs_sv=log_prob_arrays(longest=6), width=st.integers(1, 6), lm=language_models() | st.none())
def test_a_pruned_beam_gives_true_texts_at_most_their_probability_and_exactly_their_lm_score(
    backend, log_probs_sv, width, lm
):
    # The law behind "wider is better": what is pruned only takes paths away. So no beam beats the unpruned one.
    every = {text: scores for text, *scores in reference.texts(log_probs_sv, ["", " ", "a", "b"], lm=lm)}
    best = max(acoustic + fusion for acoustic, fusion in every.values())
    several = decoder(backend, lm=lm, beam_width=width, nbest=width).decode(log_probs_sv)
    for hypothesis in [*several, *decoder(backend, lm=lm, beam_width=width, nbest=1).decode(log_probs_sv)]:
        acoustic, fusion = every[hypothesis.text]
        assert hypothesis.log_prob <= acoustic + CLOSE
        assert hypothesis.lm_score == pytest.approx(fusion, abs=CLOSE, rel=1e-6)
        assert hypothesis.score <= best + CLOSE


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wider_beam_may_find_less(backend):
    # "A wider beam never has a lower best score" is no law, even unpruned and without a language model: a second prefix
    # may win for some steps and lead nowhere. Found by random search, kept so that nobody claims it again.
    log_probs_sv = np.log(np.array([[3, 4, 5], [7, 6, 1], [2, 5, 5], [3, 5, 1]]) / [[12], [14], [12], [9]])
    off = {"min_token_log_prob": None, "beam_prune_log_prob": None}
    tokenizer = CharTokenizer(("a", "b"))
    one, two, all_ = (
        decoder(backend, tokenizer, beam_width=width, **off).decode(log_probs_sv)[0] for width in (1, 2, 1000)
    )
    assert two.score < one.score - 0.1
    assert all_.score >= one.score


@given(log_probs_sv=log_prob_arrays(longest=5), lm=language_models() | st.none())
def test_a_beam_that_holds_every_prefix_is_not_beaten_by_any(log_probs_sv, lm):
    scores = [
        decoder("numpy", lm=lm, **{**WHOLE, "beam_width": width}).decode(log_probs_sv)[0].score
        for width in (1, 3, 10, 5000)
    ]
    assert max(scores) <= scores[-1] + 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
@given(log_probs_sv=log_prob_arrays(longest=6))
def test_spans_lie_on_the_most_probable_path_that_writes_the_text(backend, log_probs_sv):
    pieces = ["", " ", "a", "b"]
    for hypothesis in decoder(backend, beam_width=4, nbest=2, min_token_log_prob=None).decode(log_probs_sv):
        best = max(
            sum(float(log_probs_sv[s, token]) for s, token in enumerate(path_s))
            for path_s in reference.paths_of(hypothesis.tokens, len(log_probs_sv), pieces)
        )
        runs = [
            (span, [float(log_probs_sv[s, span.token]) for s in range(span.start, span.end)])
            for span in hypothesis.spans
        ]
        end = 0
        for span, values in runs:
            assert end <= span.start < span.end <= len(log_probs_sv)
            assert span.log_prob == max(values)
            end = span.end
        # outside of the spans of letters: blanks, and spaces that do not count
        letters = sum(sum(values) for span, values in runs if span.token != 1)
        inside = {s for span, _ in runs if span.token != 1 for s in range(span.start, span.end)}
        most = letters + sum(float(log_probs_sv[s, :2].max()) for s in range(len(log_probs_sv)) if s not in inside)
        assert best <= most + 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_spans_of_a_sure_path(backend):
    path_s = "- aa-ab--  - b "
    log_probs_sv = np.full((len(path_s), 4), -np.inf, np.float32)
    log_probs_sv[np.arange(len(path_s)), ["- ab".index(c) for c in path_s]] = 0.0
    (hypothesis,) = decoder(backend).decode(log_probs_sv)
    assert hypothesis.text == "aab b"
    found = [("- ab"[span.token], span.start, span.end) for span in hypothesis.spans]
    assert found == [("a", 2, 4), ("a", 5, 6), ("b", 6, 7), (" ", 9, 13), ("b", 13, 14)]
    assert (hypothesis.log_prob, hypothesis.lm_score) == (0.0, 0.0)


@example(np.zeros((0, 4), np.float32))
@given(log_prob_arrays(longest=1))
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_step_and_one_step(backend, log_probs_sv):
    (hypothesis,) = decoder(backend, min_token_log_prob=None).decode(log_probs_sv)
    if not len(log_probs_sv):
        assert hypothesis == Hypothesis("", 0.0, ())
    else:
        # blank and space both write the empty text
        none = np.logaddexp(log_probs_sv[0, 0], log_probs_sv[0, 1])
        assert hypothesis.score == pytest.approx(max(none, *log_probs_sv[0, 2:]), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vocabulary_of_only_the_blank_writes_nothing(backend):
    assert decoder(backend, CharTokenizer(())).decode(np.zeros((3, 1))) == [Hypothesis("", 0.0, ())]


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_blank_gives_the_empty_text(backend):
    log_probs_sv = np.log(np.tile([0.997, 0.001, 0.001, 0.001], (50, 1)))
    (hypothesis,) = decoder(backend).decode(log_probs_sv)
    assert (hypothesis.text, hypothesis.spans) == ("", ())
    assert hypothesis.log_prob == pytest.approx(50 * math.log(0.997), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_when_no_listed_text_is_possible_the_answer_is_empty_and_impossible(backend):
    log_probs_sv = np.log(np.array([[0, 0, 0, 1.0], [0, 0, 1.0, 0]]) + 1e-300, dtype=np.float64)
    log_probs_sv[log_probs_sv < -600] = -np.inf
    assert decoder(backend, lexicon=("a",)).decode(log_probs_sv) == [Hypothesis("", -math.inf, ())]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_word_list_looks_past_token_pruning_before_it_gives_up(backend):
    log_probs_sv = np.log(np.array([[0.0005, 0.0005, 0.001, 0.998]]))  # "b" at nearly 1, and only "a" may be said
    (hypothesis,) = decoder(backend, lexicon=("a",)).decode(log_probs_sv)
    assert hypothesis.text in ("", "a")
    assert hypothesis.log_prob == pytest.approx(math.log(0.001), abs=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_word_list_leaves_out_a_word_that_is_not_complete(backend):
    probs_sv = [[0.0005, 0.0005, 0.998, 0.001], [0.0005, 0.998, 0.0005, 0.001], [0.001, 0.0005, 0.998, 0.0005]]
    log_probs_sv = np.log(np.array(probs_sv))
    (hypothesis,) = decoder(backend, lexicon=("a", "ab"), beam_width=1).decode(log_probs_sv)
    assert hypothesis.text == "a a"
    (hypothesis,) = decoder(backend, lexicon=("ab",), beam_width=1).decode(log_probs_sv[-1:])
    assert hypothesis.text == ""
    assert hypothesis.log_prob > -math.inf


@pytest.mark.parametrize("backend", BACKENDS)
def test_very_long_and_very_unlikely_input_keeps_its_scores(backend):
    # 20,000 steps at 1/4: the product is far below what a float64 holds
    log_probs_sv = np.log(np.full((20_000, 4), 0.25, np.float32))
    (hypothesis,) = decoder(backend, beam_width=2).decode(log_probs_sv)
    assert -math.log(4) * 20_000 - 1 <= hypothesis.log_prob < 0
    assert math.isfinite(hypothesis.score)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_log_probs_is_refused(backend):
    stream = decoder(backend).start()
    with pytest.raises(ValueError, match="did you pass logits"):
        stream.feed(np.array([[1.0, 2.0, 3.0, -4.0]]))
    with pytest.raises(ValueError, match="not a number in step 1"):
        stream.feed(np.array([[0, -np.inf, -np.inf, -np.inf], [np.nan] * 4]))
    with pytest.raises(ValueError, match=r"shape \(steps, vocabulary\)"):
        stream.feed(np.zeros(4))
    with pytest.raises(ValueError, match=r"log_probs has 2 tokens, the tokenizer 4 \(blank included\)"):
        stream.feed(np.log(np.full((3, 2), 0.5)))
    assert stream.finish() == [Hypothesis("", 0.0, ())]


def test_many_utterances_come_back_in_order_from_threads():
    rng = np.random.default_rng(1)
    log_probs = [log_softmax(rng.normal(size=(int(n), 4)) * 2) for n in rng.integers(0, 40, 30)]
    each = decoder("numba", nbest=2)
    expected = [each.decode(one) for one in log_probs]
    for threads in (1, 2, 5, None):
        assert each.decode_all(log_probs, threads) == expected
        assert each.texts(log_probs, threads) == [nbest[0].text for nbest in expected]
    assert each.decode_all([]) == each.texts([]) == []


@example(
    log_probs=[
        np.zeros((0, 4), np.float32),
        log_softmax(np.tile([9.0, 0.0, 0.0, 0.0], (7, 1))),
        log_softmax(np.array([[0.0, 0.0, 1.0, 2.0]])),
        log_softmax(np.array([[0.0, 0.0, 2.0, 1.0], [9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 1.0]])),
    ],
    lm=None,
    settings={"nbest": 3},
    extra="nothing",
)
@example(  # "b " begins no text of "a", "ab" and "bb": one needs all tokens in its last step, one is soon at its end
    log_probs=[
        log_softmax(np.array([[0.0, 0.0, 8.0, 0.0], [0.0, 8.0, 0.0, 0.0]])),
        log_softmax(np.array([[0.0, 0.0, 0.0, 8.0], [0.0, 8.0, 0.0, 0.0]])),
        log_softmax(np.array([[-math.inf] * 3 + [0.0], [-math.inf, 0.0, -math.inf, -math.inf], [0.0, 0.0, 1.0, 2.0]])),
    ],
    lm=None,
    settings={"nbest": 3},
    extra="lexicon",
)
@given(
    log_probs=st.lists(log_prob_arrays(longest=12), max_size=6),
    lm=language_models(words=("a", "ab", "b", "▁")) | st.none(),
    settings=SETTINGS,
    extra=st.sampled_from(list(EXTRAS)),
)
def test_utterances_that_are_searched_together_are_as_each_alone(log_probs, lm, settings, extra):
    each = decoder("numba", lm=lm, **settings, **EXTRAS[extra])
    together = each.decode_all(log_probs, threads=1)
    for found, log_probs_sv in zip(together, log_probs, strict=True):
        assert_equal(found, each.decode(log_probs_sv))
        assert_equal(found, each._decode_alone(log_probs_sv))
    assert each.texts(log_probs, threads=1) == [nbest[0].text for nbest in together]


@given(log_probs_sv=log_prob_arrays(longest=12))
def test_spans_that_are_made_late_are_like_those_made_at_once(log_probs_sv):
    import copy
    import pickle
    from dataclasses import replace

    fast = decoder("numba", beam_width=4, nbest=2)
    (whole, *_), (late, *_) = fast._decode_alone(log_probs_sv), fast.decode(log_probs_sv)
    assert "spans" in whole.__dict__ and ("spans" not in late.__dict__ or not late.spans)
    assert pickle.loads(pickle.dumps(late)) == copy.copy(late) == replace(late) == late == whole
    assert hash(late) == hash(whole) and repr(late) == repr(whole) and late.tokens == whole.tokens
    with pytest.raises(AttributeError, match="no 'length'"):
        _ = late.length
