"""Binary files of KenLM: read without KenLM, with its scores.

KenLM (github.com/kpu/kenlm at 4cb443e) made ``tests/data/kenlm`` from the ARPA files there, by ``build_binary probing
four.arpa four.bin``, ``build_binary trie four.arpa four-trie.bin``, ``build_binary -q 5 -b 4 -a 6 trie four.arpa
four-quantised.bin``, and
the same for ``odd`` (with ``-q 3 -b 3 -a 2``). ``scores.json`` has, for each text, the log10 probability of each word
and of the end, from KenLM's own ``BaseFullScore``.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.tokenizer import CharTokenizer
from asr.decode.decoder import BeamDecoder
from asr.decode.settings import BeamConfig
from asr.decode.tuned import keep_lm
from asr.errors import AsrError, DataError
from asr.info import describe
from asr.lm import mix, ngram
from asr.lm.arrays import LN10
from tests.test_beam import log_softmax
from tests.test_cli import command  # noqa: F401  # the fixture

DATA = Path(__file__).parent / "data" / "kenlm"
SCORES = json.loads((DATA / "scores.json").read_text())
PROBING = ["four.bin", "odd.bin"]
#: those with the weights of the ARPA file
EXACT = [*PROBING, "four-trie.bin", "odd-trie.bin"]
#: of log10 of a word: KenLM adds float32
CLOSE = 1e-6


def arpa_of(name: str) -> ngram.NgramModel:
    return ngram.load(DATA / f"{name.split('.')[0].split('-')[0]}.arpa")


@pytest.mark.parametrize("name", [*EXACT, "four-quantised.bin", "odd-quantised.bin"])
def test_words_cost_what_they_cost_in_kenlm(name):
    model = ngram.load(DATA / name)
    for text, expected in SCORES[name].items():
        np.testing.assert_allclose(model.score_words(text.split()) / LN10, expected, atol=CLOSE)
        ids_w = np.array(model.sentence_ids(text.split()), np.int32)
        np.testing.assert_allclose(model.score_ids(ids_w) / LN10, expected, atol=CLOSE)


@pytest.mark.parametrize("name", EXACT)
def test_a_file_of_kenlm_and_its_arpa_file_score_the_same(name):
    model, arpa = ngram.load(DATA / name), arpa_of(name)
    assert sorted(model.words) == sorted(arpa.words) and model.has_unk == arpa.has_unk
    for text in SCORES[name]:
        for bos in (True, False):
            mine, other = model.score_words(text.split(), bos=bos), arpa.score_words(text.split(), bos=bos)
            np.testing.assert_allclose(mine, other, atol=1e-5)  # float32 in other units
    mine, other = ngram.perplexity(model, SCORES[name]), ngram.perplexity(arpa, SCORES[name])
    assert mine.unknown_words == other.unknown_words and mine.log_prob == pytest.approx(other.log_prob)


@pytest.mark.parametrize("name", PROBING)
@given(seed=st.integers(0, 2**32 - 1))
def test_both_searches_find_what_they_find_with_the_arpa_file(name, seed):
    models = [ngram.load(DATA / name), arpa_of(name)]
    letters = sorted(set("".join(models[1].words)) - set("<>/"))
    tokenizer = CharTokenizer((" ", *letters))
    logits_sv = np.random.default_rng(seed).normal(0, 2, (12, 2 + len(letters))).astype(np.float32)
    config = BeamConfig(beam_width=20, alpha=0.7, beta=0.5, nbest=3)
    found = [
        BeamDecoder(tokenizer, config, model, backend).decode(log_softmax(logits_sv).astype(np.float32))
        for model in models
        for backend in ("numpy", "numba")
    ]
    for hypotheses in found[1:]:
        assert [h.text for h in hypotheses] == [h.text for h in found[0]]
        np.testing.assert_allclose([h.lm_score for h in hypotheses], [h.lm_score for h in found[0]], atol=1e-4)


def test_words_that_do_not_count_as_known_cost_as_unknown_but_keep_their_probability():
    tokenizer = CharTokenizer((" ", "a", "b", "c"))
    log_probs_sv = np.log(np.full((3, 5), 1e-9, np.float32) + np.eye(5, dtype=np.float32)[[2, 1, 3]])
    log_probs_sv = log_softmax(log_probs_sv).astype(np.float32)
    scores = []
    for known in (["a", "b", "not in it"], ["b"], ["not in it"]):
        model = ngram.load(DATA / "odd.bin")
        model.keep_known(known, "unigrams.txt")
        config = BeamConfig(unknown_log_prob=-3)
        scores.append([BeamDecoder(tokenizer, config, model, b).decode(log_probs_sv)[0] for b in ("numpy", "numba")])
    assert [h.text for pair in scores for h in pair] == ["a b"] * 6
    (one, _), (other, _), (none, _) = scores
    assert other.lm_score == pytest.approx(one.lm_score - 3) and none.lm_score == one.lm_score
    assert [a.lm_score for a, _ in scores] == pytest.approx([b.lm_score for _, b in scores])


def test_what_needs_the_n_grams_themselves_is_one_line(tmp_path, command):  # noqa: F811
    model, arpa = ngram.load(DATA / "odd.bin"), ngram.load(DATA / "odd.arpa")
    for name in ("out.arpa", "out.bin"):
        with pytest.raises(DataError, match=r"hashes in place of its n-grams.*ARPA file"):
            ngram.write(model, tmp_path / name)
    with pytest.raises(DataError, match="hashes in place of its n-grams"):
        mix.mix([arpa, model], [0.5, 0.5])
    result = command("lm", "build", DATA / "odd.bin", "--out", tmp_path / "x.bin")
    assert result.code == 2 and "hashes in place" in result.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["four-trie.bin", "four-quantised.bin"])
def test_a_trie_becomes_a_model_that_can_be_written_and_mixed(name, tmp_path):
    model, arpa = ngram.load(DATA / name), arpa_of(name)
    ngram.write(model, tmp_path / "m.arpa")
    again = ngram.load(tmp_path / "m.arpa")
    assert again.counts == arpa.counts and again.words[:3] == ["<unk>", "<s>", "</s>"]
    mixed = mix.mix([model, arpa], [0.5, 0.5])
    for text in SCORES[name]:
        np.testing.assert_allclose(again.score_words(text.split()), model.score_words(text.split()), atol=1e-5)
        assert np.isfinite(mixed.score(text.split()))


def test_perplexity_and_info_take_a_file_of_kenlm(tmp_path, command):  # noqa: F811
    (tmp_path / "text.txt").write_text("a b c\nc a\n")
    results = [command("lm", "perplexity", DATA / name, tmp_path / "text.txt") for name in ("odd.bin", "odd.arpa")]
    assert results[0].code == 0 and results[0].out == results[1].out
    facts = describe(str(DATA / "odd.bin"))[1]
    assert facts["form"] == "binary of KenLM, hash tables, mapped"
    assert describe(str(DATA / "odd-trie.bin"))[1]["form"] == "binary of KenLM, a trie"
    assert command("info", DATA / "odd-trie.bin", "--json").code == 0
    assert (facts["order"], facts["2-grams"], facts["words"]) == (3, 4, 3)


def test_tuning_keeps_a_copy_of_the_file(tmp_path):
    path = DATA / "four.bin"
    assert keep_lm(tmp_path, ngram.load(path), path) == ("lm.bin", path.stat().st_size)
    assert (tmp_path / "lm.bin").read_bytes() == path.read_bytes()


# --- files of strangers -----------------------------------------------------------------------------------------------


def damaged(tmp_path: Path, content: bytes | bytearray) -> Path:
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("at", "new", "reason"),
    [
        (49, b"4", "of another version than 5"),
        (88, b"\x07", "order 7, expected 2 to 6"),
        (92, struct.pack("<f", 0.5), "the header has impossible numbers"),
        (92, struct.pack("<f", float("nan")), "the header has impossible numbers"),
        (92, struct.pack("<f", 50.0), "bytes, and its header promises"),
        (96, b"\x01", "kind 'probing with rest costs'"),
        (96, b"\x09", "the header has impossible numbers"),
        (100, b"\0", "without its words"),
        (108, struct.pack("<Q", 2**63), "bytes, and its header promises"),
        (116, struct.pack("<Q", 2**40), "bytes, and its header promises"),
    ],
)
def test_a_header_that_does_not_fit_is_one_line(tmp_path, at, new, reason):
    content = bytearray((DATA / "odd.bin").read_bytes())
    content[at : at + len(new)] = new
    with pytest.raises(DataError, match=f"m.bin: .*{reason}"):
        ngram.load(damaged(tmp_path, content))


def test_a_build_that_was_stopped_is_one_line(tmp_path):
    with pytest.raises(DataError, match="did not finish this file"):
        ngram.load(damaged(tmp_path, b"mmap lm http://kheafield.com/code incomplete\n" + bytes(200)))


@pytest.mark.parametrize("name", ["odd.bin", "odd-trie.bin", "four-quantised.bin"])
@given(data=st.data())
def test_a_file_that_is_cut_off_is_one_line(name, data, tmp_path_factory):
    content = (DATA / name).read_bytes()
    path = damaged(tmp_path_factory.mktemp("cut"), content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(AsrError):
        ngram.load(path)


def test_a_full_table_and_impossible_weights_are_one_line(tmp_path):
    whole = (DATA / "odd.bin").read_bytes()
    items = np.frombuffer(whole[: len(whole) // 4 * 4], np.int32)
    layout_o = ngram.load(DATA / "odd.bin").arrays.layout_o
    for value, reason in (
        (np.nan, "weight that is out of range"),
        (np.inf, "out of range"),
        (None, "table of 2-grams"),
    ):
        changed = items.copy()
        start, buckets = layout_o[1, :2]
        table = changed[start : start + 4 * buckets].reshape(-1, 4)
        if value is None:
            table[:, 0] = 7
        else:
            table[np.flatnonzero(table[:, 0])[0], 2] = np.float32(value).view(np.int32)
        with pytest.raises(DataError, match=reason):
            ngram.load(damaged(tmp_path, changed.tobytes() + whole[len(whole) // 4 * 4 :]))
