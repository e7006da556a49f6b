"""Forced alignment: the best path of a given text, the times that it means, and which transcripts are likely wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asr.align import _gaps, align_text
from asr.alignment import best_path
from asr.alignment.forced import force_align
from asr.alignment.spelling import spell_for
from asr.data.subwords import SubwordTokenizer
from asr.data.targets import min_steps
from asr.data.text import NORMALIZATIONS, normalize
from asr.data.tokenizer import CharTokenizer
from asr.decode import types
from asr.decode.greedy import greedy, words_with_times
from asr.decode.viterbi import spans_of
from asr.errors import DataError
from tests.reference.ctc_paths import all_paths, collapse


@pytest.fixture(params=[None, (3, 10**6, 30.0), (2, 64, 1.0)], ids=["one block", "blocks of 3", "blocks of blocks"])
def blocks(request, monkeypatch):
    """Alignment in one block, as short texts have it; in many; and in many of which few scores are kept at once."""
    if request.param is not None:
        steps, kept_bytes, beam = request.param
        monkeypatch.setattr(best_path, "_block_steps", lambda *_: steps)
        monkeypatch.setattr(best_path, "_KEPT_BYTES", kept_bytes)
        monkeypatch.setattr(best_path, "_KEPT_ROWS", 0)
        monkeypatch.setattr(best_path, "_BEAM", beam)


def log_softmax(logits_sv: np.ndarray) -> np.ndarray:
    shifted = logits_sv - logits_sv.max(axis=1, keepdims=True, initial=-1e9)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


@st.composite
def problems(draw, longest: int = 14, elements=st.floats(-8, 8)) -> tuple[np.ndarray, list[int]]:
    """Log-probabilities, and tokens that fit in them, many of them repeated."""
    steps, vocabulary = draw(st.integers(1, longest)), draw(st.integers(2, 4))
    log_probs_sv = log_softmax(draw(hnp.arrays(np.float64, (steps, vocabulary), elements=elements)))
    tokens_u = draw(st.lists(st.integers(1, vocabulary - 1), max_size=steps))
    while min_steps(tokens_u) > steps:
        tokens_u.pop()
    return log_probs_sv, tokens_u


def path_score(log_probs_sv: np.ndarray, path_s) -> float:
    return float(log_probs_sv[np.arange(len(path_s)), list(path_s)].astype(np.float64).sum())


def reference(torchaudio, log_probs_sv: np.ndarray, tokens_u: list[int]) -> tuple[list[int], float]:
    """torchaudio's path, in float64."""
    path_bs, score_bs = torchaudio.functional.forced_align(
        torch.from_numpy(log_probs_sv.astype(np.float64))[None], torch.tensor([tokens_u], dtype=torch.int32), blank=0
    )
    return path_bs[0].tolist(), float(score_bs.sum())


@pytest.mark.usefixtures("blocks")
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_without_ties_the_path_is_that_of_torchaudio(torchaudio, problem, seed):
    tokens_u = problem[1] or [1]
    log_probs_sv = log_softmax(np.random.default_rng(seed).normal(scale=2.0, size=problem[0].shape))
    found = force_align(log_probs_sv, tokens_u)
    path_s, score = reference(torchaudio, log_probs_sv, tokens_u)
    assert found.path_s.tolist() == path_s
    assert found.log_prob == pytest.approx(score, abs=1e-9)


@pytest.mark.usefixtures("blocks")
def test_long_paths_are_those_of_torchaudio(torchaudio):
    rng = np.random.default_rng(0)
    for _ in range(20):
        steps = int(rng.integers(50, 400))
        log_probs_sv = log_softmax(rng.normal(size=(steps, 12)))
        tokens_u = rng.integers(1, 12, steps // 2 - 1).tolist()
        assert force_align(log_probs_sv, tokens_u).path_s.tolist() == reference(torchaudio, log_probs_sv, tokens_u)[0]


@pytest.mark.usefixtures("blocks")
@given(problem=problems())
def test_with_ties_the_path_is_no_less_probable_than_that_of_torchaudio(torchaudio, problem):
    log_probs_sv, tokens_u = problem
    found = force_align(log_probs_sv, tokens_u)
    assert collapse(found.path_s.tolist()) == tuple(tokens_u)
    assert found.log_prob == pytest.approx(path_score(log_probs_sv, found.path_s), abs=1e-9)
    if tokens_u:  # it takes no empty text; where two of three ways tie, it can take the third, which is worse
        assert found.log_prob >= reference(torchaudio, log_probs_sv, tokens_u)[1] - 1e-9


@pytest.mark.usefixtures("blocks")
@given(problem=problems(longest=6))
def test_no_other_path_is_more_probable(problem):
    log_probs_sv, tokens_u = problem
    paths = [p for p in all_paths(*log_probs_sv.shape) if collapse(p) == tuple(tokens_u)]
    best = max(path_score(log_probs_sv, p) for p in paths)
    assert force_align(log_probs_sv, tokens_u).log_prob == pytest.approx(best, abs=1e-9)


def delimiter_runs(tokens_u, delimiter: int) -> tuple[list[int], list[int]]:
    """The other tokens, and how many delimiters stand before, between and after them."""
    others, runs = [], [0]
    for token in tokens_u:
        if token == delimiter:
            runs[-1] += 1
        else:
            others.append(token)
            runs.append(0)
    return others, runs


def says_the_text(spoken, tokens_u, delimiter: int) -> bool:
    """Whether tokens are a text but for more delimiters, at its ends and where it has some."""
    (said, more), (text, least) = delimiter_runs(spoken, delimiter), delimiter_runs(tokens_u, delimiter)
    if said != text:
        return False
    ends = (0, len(least) - 1)
    return all(m >= n and (m == 0 or n > 0 or i in ends) for i, (m, n) in enumerate(zip(more, least, strict=True)))


@pytest.mark.usefixtures("blocks")
@given(problem=problems(longest=6))
def test_with_a_delimiter_paths_with_more_of_it_count_too(problem):
    log_probs_sv, tokens_u = problem
    found = force_align(log_probs_sv, tokens_u, delimiter=1)
    paths = [p for p in all_paths(*log_probs_sv.shape) if says_the_text(collapse(p), tokens_u, 1)]
    assert tuple(found.path_s.tolist()) in paths
    assert found.log_prob == pytest.approx(max(path_score(log_probs_sv, p) for p in paths), abs=1e-9)


@pytest.mark.usefixtures("blocks")
@given(problem=problems(elements=st.sampled_from([-40.0, 0.0, 1.0])), delimiter=st.sampled_from([-1, 1]))
def test_ties_are_broken_as_the_beam_search_breaks_them(problem, delimiter):
    log_probs_sv, tokens_u = problem
    found = force_align(log_probs_sv, tokens_u, delimiter=delimiter)
    assert found.spans == spans_of(log_probs_sv, tokens_u, delimiter)


def test_of_equal_paths_the_one_that_stays_longest_seen_from_the_end_wins():
    even_sv = log_softmax(np.zeros((4, 3)))
    assert force_align(even_sv, [1, 2]).path_s.tolist() == [1, 2, 2, 2]
    assert force_align(even_sv, [1, 1]).path_s.tolist() == [1, 0, 1, 1]
    assert force_align(even_sv, []).path_s.tolist() == [0, 0, 0, 0]


def test_spans_go_from_the_first_step_of_a_token_to_its_last():
    probs_sv = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.3, 0.1, 0.6]])
    found = force_align(np.log(probs_sv).astype(np.float32), [1, 2])
    assert [span[:3] for span in found.spans] == [(1, 1, 3), (2, 4, 5)]
    assert [span.log_prob for span in found.spans] == pytest.approx([np.log(0.8), np.log(0.6)], abs=1e-6)
    assert found.mean_log_prob_u == pytest.approx([(np.log(0.5) + np.log(0.8)) / 2, np.log(0.6)], abs=1e-6)


def test_no_steps_write_no_tokens():
    found = force_align(np.zeros((0, 3), np.float32), [])
    assert found.spans == () and found.log_prob == 0.0 and len(found.path_s) == 0


def test_what_cannot_be_aligned_is_refused_with_the_reason():
    even_sv = log_softmax(np.zeros((4, 3)))

    def refusal(log_probs_sv, tokens_u) -> str:
        with pytest.raises(ValueError) as error:
            force_align(log_probs_sv, tokens_u)
        return str(error.value)

    assert "3 tokens need at least 5 steps" in refusal(even_sv, [1, 1, 1]) and "got 4" in refusal(even_sv, [1, 1, 1])
    assert "tokens must be in 1..2" in refusal(even_sv, [1, 3])
    assert "tokens must be in 1..2" in refusal(even_sv, [0])
    assert "did you pass logits?" in refusal(np.full((4, 3), -1.5, np.float32), [1])
    assert "must have the shape" in refusal(np.zeros(3, np.float32), [1])
    never_sv = np.tile(np.array([-np.log(2), -np.log(2), -np.inf], np.float32), (4, 1))
    assert "token 2 (the text's token 2) is impossible in every step" in refusal(never_sv, [1, 2])
    with np.errstate(divide="ignore"):
        swapped_sv = np.log(np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.float32))
    assert "no path of positive probability" in refusal(swapped_sv, [1, 2])
    assert "not a number" in refusal(np.full((2, 3), np.nan, np.float32), [1])


def test_the_step_that_is_no_distribution_is_named_in_a_long_recording(monkeypatch):
    monkeypatch.setattr(types, "_CHECKED_AT_ONCE", 30)
    log_probs_sv = log_softmax(np.zeros((100, 3)))
    assert len(force_align(log_probs_sv, [1, 2]).path_s) == 100
    log_probs_sv[77] = 0.5
    with pytest.raises(ValueError, match="in step 77"):
        force_align(log_probs_sv, [1, 2])


def spoken(steps: int, tokens: int, seed: int = 0) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Log-probabilities of someone who says these tokens at these steps, not too clearly."""
    rng = np.random.default_rng(seed)
    tokens_u = rng.integers(1, 12, tokens)
    at_u = np.sort(rng.choice(steps // 2, tokens, replace=False)) * 2
    logits_sv = rng.normal(size=(steps, 12))
    logits_sv[:, 0] += 4
    logits_sv[at_u, tokens_u] += 9
    return log_softmax(logits_sv), tokens_u.tolist(), at_u


def unsure(log_probs_sv: np.ndarray, noise: float) -> np.ndarray:
    """The same with noise: a model that often hears something else."""
    return log_softmax(log_probs_sv + noise * np.random.default_rng(1).normal(size=log_probs_sv.shape))


def awkward_problems() -> dict[str, tuple[np.ndarray, list[int]]]:
    """Texts that lie far from the diagonal, or fit in many places, or in none."""
    log_probs_sv, tokens_u, _ = spoken(6000, 1500)
    log_probs_sv = unsure(log_probs_sv, 3)
    silence_sv = np.tile(log_softmax(np.array([[9.0] + [0.0] * (log_probs_sv.shape[1] - 1)])), (4000, 1))
    flat_sv = log_softmax(np.zeros_like(log_probs_sv))
    half = len(tokens_u) // 2
    return {
        "fits": (log_probs_sv, tokens_u),
        "silence before": (np.concatenate([silence_sv, log_probs_sv]), tokens_u),
        "silence behind": (np.concatenate([log_probs_sv, silence_sv]), tokens_u),
        "silence inside": (np.concatenate([log_probs_sv[:3000], silence_sv, log_probs_sv[3000:]]), tokens_u),
        "text of the end": (log_probs_sv, tokens_u[half:]),
        "text of the beginning": (log_probs_sv, tokens_u[:half]),
        "another text": (log_probs_sv, tokens_u[::-1]),
        "repeated": (np.tile(log_probs_sv[:300], (20, 1)), tokens_u[:70] * 20),
        "repeated more often than said": (np.tile(log_probs_sv[:300], (20, 1)), tokens_u[:70] * 30),
        "nothing heard": (flat_sv, tokens_u),
        "as many steps as tokens": (log_probs_sv[: min_steps(tokens_u)], tokens_u),
    }


@pytest.mark.parametrize("delimiter", [-1, 1])
@pytest.mark.parametrize("name", awkward_problems())
def test_states_that_are_left_out_change_neither_path_nor_score(name, delimiter, monkeypatch):
    log_probs_sv, tokens_u = awkward_problems()[name]
    monkeypatch.setattr(best_path, "_KEPT_BYTES", 1 << 16)  # so that blocks are made of blocks here, too
    found = force_align(log_probs_sv, tokens_u, delimiter=delimiter)
    monkeypatch.setattr(best_path._Search, "_some_path", lambda *_: -np.inf)  # then none is left out in the pass
    monkeypatch.setattr(best_path._Search, "_limit", lambda *_: -np.inf)  # nor on the way back
    whole = force_align(log_probs_sv, tokens_u, delimiter=delimiter)
    assert found.path_s.tolist() == whole.path_s.tolist() and found.log_prob == whole.log_prob
    assert found.log_prob == pytest.approx(path_score(log_probs_sv, found.path_s), rel=1e-12)


@pytest.mark.usefixtures("blocks")
@given(problem=problems(longest=6, elements=st.sampled_from([-40.0, 0.0, 1.0])))
def test_where_tokens_are_impossible_in_most_steps_the_path_is_found_or_refused(problem):
    log_probs_sv, tokens_u = problem
    log_probs_sv[log_probs_sv < -20] = -np.inf
    paths = [p for p in all_paths(*log_probs_sv.shape) if collapse(p) == tuple(tokens_u)]
    best = max(path_score(log_probs_sv, p) for p in paths)
    if best == -np.inf:
        with pytest.raises(ValueError, match=r"impossible in every step|no path of positive probability"):
            force_align(log_probs_sv, tokens_u)
    else:
        assert force_align(log_probs_sv, tokens_u).log_prob == pytest.approx(best, abs=1e-9)


def test_few_states_of_a_long_text_are_looked_at(monkeypatch):
    log_probs_sv, tokens_u, at_u = spoken(40_000, 10_000)
    looked = 0

    def counted(own_sv, heard_s, text, scores, *rest):
        nonlocal looked
        after = advance(own_sv, heard_s, text, scores, *rest)
        looked += len(own_sv) * max(len(scores.blank_p), len(after.blank_p))
        return after

    advance = best_path.advance
    monkeypatch.setattr(best_path, "advance", counted)
    found = force_align(log_probs_sv, tokens_u)
    assert np.mean([span.start <= at < span.end for span, at in zip(found.spans, at_u, strict=True)]) > 0.98
    assert looked < 40_000 * 10_000 / 20


MEMORY = """
import pathlib, numpy as np
from asr.alignment.forced import force_align
from tests.test_align import spoken
def kib(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
log_probs_sv, tokens_u, _ = spoken(100_000, 25_000)
tokens_u = np.array(tokens_u)
force_align(log_probs_sv[:8000].copy(), tokens_u[:1900])
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now; getrusage has the parent's, too
before = kib("VmRSS:")
found = force_align(log_probs_sv, tokens_u)
print(kib("VmHWM:") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_memory_of_an_hour_is_some_megabytes():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    # of 100,000 steps and 25,000 tokens, results included; a byte for each cell would be 2.5e9 bytes
    assert 0 < int(done.stdout) < 6 * 1024


def clock_of(steps: int, step_s: float = 0.04):
    edges = np.arange(steps + 1) * step_s
    return edges[:-1], edges[1:]


def aligned(text: str, said: str, normalization: str = "none", tokenizer=None, between: int = 1, **more):
    """A text against someone who says ``said``: two steps a token, and blanks between."""
    tokenizer = tokenizer or CharTokenizer(tuple(" 'ABCDEHLORSTWY"))
    path_s = [0]
    for token in tokenizer.encode(said):
        path_s += [token, token] + [0] * between
    logits_sv = np.zeros((len(path_s), tokenizer.vocabulary_size))
    logits_sv[np.arange(len(path_s)), path_s] = 9
    log_probs_sv = log_softmax(logits_sv)
    clock = clock_of(len(path_s))
    more = {"id_": "u", "path": "u.wav", "duration_s": len(path_s) * 0.04 - 0.01} | more
    return align_text(text, log_probs_sv, clock, tokenizer, normalization, **more), log_probs_sv


def test_a_text_that_the_model_would_say_has_the_times_of_its_transcript_and_no_gap():
    one, log_probs_sv = aligned("HELLO WORLD", "HELLO WORLD")
    tokenizer = CharTokenizer(tuple(" 'ABCDEHLORSTWY"))
    greedy_words = words_with_times(greedy(log_probs_sv, tokenizer), tokenizer, 0.04)
    assert [(w.word, w.start_s, w.end_s) for w in one.transcript.words] == [
        (w.word, w.start_s, w.end_s) for w in greedy_words
    ]
    assert one.gap == one.local_gap == one.score == 0.0 and one.heard == one.reference == "HELLO WORLD"
    assert one.transcript.text == "HELLO WORLD" and one.transcript.segments[0].text == "HELLO WORLD"


def test_characters_have_times_inside_their_words_and_no_spaces_among_them():
    one, _ = aligned("HELLO WORLD", "HELLO WORLD")
    (segment,) = one.transcript.segments
    assert "".join(c.word for c in segment.characters) == "HELLOWORLD"
    assert segment.characters[0].start_s == segment.words[0].start_s
    assert segment.characters[4].end_s == segment.words[0].end_s < segment.characters[5].start_s
    assert all(0.9 < (c.confidence or 0) <= 1 for c in segment.characters)


def test_words_keep_the_spelling_of_their_author():
    one, _ = aligned("“Hello,” — World/Hello yes\nyes.", "HELLO WORLD HELLO YES YES", "upper-nopunct")
    assert [w.word for w in one.transcript.words] == ["“Hello,”", "World/Hello", "yes", "yes."]
    assert one.reference == "HELLO WORLD HELLO YES YES"
    slash = one.transcript.words[1]
    plain, _ = aligned("HELLO WORLD HELLO YES YES", "HELLO WORLD HELLO YES YES")
    assert (slash.start_s, slash.end_s) == (plain.transcript.words[1].start_s, plain.transcript.words[2].end_s)
    assert one.transcript.notes == ("1 of the text's marks that are no words have no time: —",)


@given(
    text=st.text(st.sampled_from("ab'‘’ .,-/&3$\n\u0301É"), max_size=30),
    profile=st.sampled_from(sorted(NORMALIZATIONS)),
)
def test_every_normalised_word_belongs_to_one_word_of_the_author(text, profile):
    tokenizer = CharTokenizer(tuple(sorted(set(normalize(text, profile)) | {" "})))
    spelling = spell_for(tokenizer, text, profile)
    assert sum(size for _, size in spelling.words) == len(spelling.text.split())
    own = [word for word, _ in spelling.words] + spelling.unspoken
    assert sorted(own) == sorted(text.split()) or own == spelling.text.split()


def test_pieces_of_words_share_their_time_among_their_characters():
    tokenizer = SubwordTokenizer.train(["THE SHED THE SHED HELLO WORLD", "OTHERS SHED THE LORD"], 24, "bpe")
    one, _ = aligned("THE SHED", "THE SHED", tokenizer=tokenizer)
    (segment,) = one.transcript.segments
    assert [w.word for w in segment.words] == ["THE", "SHED"]
    assert "".join(c.word for c in segment.characters) == "THESHED"
    starts = [c.start_s for c in segment.characters]
    assert starts == sorted(starts) and len(set(starts)) == 7
    assert segment.words[0].start_s == segment.characters[0].start_s
    assert segment.words[1].end_s == segment.characters[-1].end_s
    assert one.gap == 0.0


def test_what_the_model_says_between_words_or_at_the_ends_does_not_count_against_a_text():
    one, _ = aligned("HELLO WORLD", " HELLO  WORLD ")
    assert one.gap == 0.0 and one.heard == "HELLO WORLD"
    strict, _ = aligned("HELLO WORLD", "HELLOWORLD")
    assert strict.gap < 0


DIGITS = Path(__file__).parent / "cases" / "digits_of_16_s.npz"


def of_digits(text: str, **more):
    """A text against what a small model of spoken digits hears in 16 s of them."""
    case = np.load(DIGITS)
    clock = case["start_s"], case["end_s"]
    tokenizer = CharTokenizer(tuple(case["symbols"].tolist()))
    more = {"id_": "u", "path": "u.wav", "duration_s": 16.043} | more
    return align_text(text, case["log_probs_sv"], clock, tokenizer, "none", **more)


def test_a_text_of_the_first_utterance_of_a_recording_has_its_times():
    forced = of_digits("one zero one nine one")
    assert forced.transcript.words[-1].start_s > 10  # scattered over the whole recording, and so
    (unmatched,) = forced.unmatched
    assert unmatched.words == () and unmatched.heard.startswith("one eight four")
    assert forced.gap < -10
    loose = of_digits("one zero one nine one", allow_gaps=True)
    # those of the utterance aligned by itself
    assert [w.start_s for w in loose.transcript.words] == pytest.approx([0.24, 0.48, 0.80, 1.04, 1.36], abs=0.05)
    assert loose.unmatched == forced.unmatched and loose.gap == pytest.approx(0, abs=0.01)
    assert (unmatched.start_s, unmatched.end_s) == pytest.approx((1.99, 16.04), abs=0.3)


def test_a_text_of_the_middle_and_one_with_a_passage_that_is_missing():
    whole = of_digits(of_digits("one").heard)
    assert whole.unmatched == ()
    words = whole.transcript.words
    middle = of_digits(" ".join(w.word for w in words[10:16]), allow_gaps=True)
    assert [w.start_s for w in middle.transcript.words] == pytest.approx([w.start_s for w in words[10:16]], abs=0.05)
    assert [each.words for each in middle.unmatched] == [(), ()]
    ends = [w for i, w in enumerate(words) if not 10 <= i < 15]
    loose = of_digits(" ".join(w.word for w in ends), allow_gaps=True)
    assert [w.start_s for w in loose.transcript.words] == pytest.approx([w.start_s for w in ends], abs=0.05)
    (gap,) = loose.unmatched
    assert words[9].end_s <= gap.start_s < gap.end_s <= words[15].start_s + 0.05


def test_words_that_nobody_says_are_left_out_and_of_another_text_all():
    more = of_digits("five five five five one zero one nine one", allow_gaps=True)
    assert more.transcript.text == "one zero one nine one" and more.reference.startswith("five five")
    assert more.unmatched[0].words == ("five",) * 4
    assert more.transcript.words[0].start_s == pytest.approx(0.24, abs=0.05)
    with pytest.raises(DataError, match="nothing of the text fits the audio, in which the model hears 'one zero"):
        of_digits("ghosts wrote the horror of this", allow_gaps=True)


def test_a_wrong_word_costs_and_is_the_one_in_doubt():
    right, _ = aligned("HELLO WORLD YES", "HELLO WORLD YES")
    wrong, _ = aligned("HELLO COLD YES", "HELLO WORLD YES")
    assert wrong.score < right.score - 0.5 and wrong.heard == "HELLO WORLD YES"
    assert wrong.local_gap < -5 and wrong.gap_per_step < 0 and wrong.gap < 0
    assert wrong.weakest(1)[0].word == "COLD" and right.weakest(1)[0].confidence > 0.9
    assert (wrong.token_log_prob or 0) < (right.token_log_prob or 0) < 0


def test_a_word_of_an_utterance_is_at_the_time_of_its_steps_in_the_recording():
    clock = np.array([10.0, 10.04, 10.08, 95.0, 95.04]), np.array([10.04, 10.08, 10.12, 95.04, 95.08])
    tokenizer = CharTokenizer((" ", "A", "B"))
    logits_sv = np.zeros((5, 4))
    logits_sv[np.arange(5), [2, 0, 1, 0, 3]] = 9  # A, a space in the middle of a pause, B
    one = align_text("A B", log_softmax(logits_sv), clock, tokenizer, "none", id_="u", path="u", duration_s=100)
    assert [(w.word, w.start_s, w.end_s) for w in one.transcript.words] == [("A", 10.0, 10.04), ("B", 95.04, 95.08)]
    assert [segment.text for segment in one.transcript.segments] == ["A", "B"]


def test_an_utterance_without_text_is_aligned_with_silence():
    silent, _ = aligned("", "")
    assert silent.gap == 0.0 and silent.transcript.words == () and silent.token_log_prob is None
    noisy, _ = aligned(" ", "HELLO WORLD")
    assert noisy.gap < -1 and noisy.heard == "HELLO WORLD"


def test_a_letter_that_the_model_has_in_the_other_case_is_taken_in_that_case():
    upper = aligned("HELLO WORLD", "HELLO WORLD")[0]
    lower = aligned("hello World", "HELLO WORLD")[0]
    assert [(w.start_s, w.end_s) for w in lower.transcript.words] == [
        (w.start_s, w.end_s) for w in upper.transcript.words
    ]
    assert lower.transcript.text == "hello World" and lower.reference == "HELLO WORLD" and lower.gap == upper.gap
    both = CharTokenizer(tuple(" Helo"))  # a model of both cases: what it writes stays, the rest is folded
    assert spell_for(both, "Hello HELLO", "none").text == "Hello Hello"


@pytest.mark.parametrize(
    ("text", "profile", "parts"),
    [
        ("HELLO 5TH W&S", "none", ["'5' (U+0035) in the word '5TH'", "'&' (U+0026) in the word 'W&S'"]),
        ("hello 5th", "none", ["unknown character '5' (U+0035) in the word '5th'", "write it as it is spoken"]),
        ("hello, 5th", "none", ["use --normalization upper-nopunct (in Python", "and write '5' as it is spoken"]),
        ("hello, world", "none", ["--normalization upper-nopunct"]),
        ("HELLO " * 300, "none", ["the text needs 2,", "the audio has", "another recording"]),
    ],
)
def test_a_text_that_cannot_be_aligned_is_an_error_with_what_to_do(text, profile, parts):
    with pytest.raises(DataError) as error:
        aligned(text, "HELLO", profile)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


def test_the_local_gap_is_that_of_the_worst_place():
    log_probs_sv = np.log(np.tile(np.array([0.9, 0.1]), (20, 1)))
    path_s = np.zeros(20, np.int64)
    path_s[[2, 12, 13]] = 1  # one step, and two beside each other, in which the text is not the likeliest
    clock = np.arange(20) * 0.1, np.arange(1, 21) * 0.1
    gap, local_gap = _gaps(log_probs_sv, path_s, clock)
    assert (gap, local_gap) == (pytest.approx(3 * np.log(1 / 9)), pytest.approx(2 * np.log(1 / 9)))
