"""The text with the fewest expected word errors, and confusion networks, against their definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decode.consensus import confusion_network, least_risk, shares_of
from asr.decode.decoder import BeamDecoder
from asr.decode.settings import BeamConfig
from asr.decode.types import TimedWord, WordSlot
from asr.outputs.whisper import document
from asr.scoring.wer import word_counts
from asr.transcript import Transcript, confusions_of
from tests.test_beam_settings import BACKENDS, LETTERS, spoken

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), min_size=1, max_size=8, unique=True)


@given(texts=TEXTS, seed=st.integers(0, 10_000))
def test_no_text_has_fewer_expected_errors(texts, seed):
    shares = shares_of(np.random.default_rng(seed).normal(0, 2, len(texts)).tolist())
    risks = [
        sum(share * counts.errors for share, counts in zip(shares, word_counts([(o, t) for o in texts]), strict=True))
        for t in texts
    ]
    assert risks[least_risk(texts, shares)] <= min(risks) + 2e-3 * 6  # texts of little share are left out


@given(texts=TEXTS, seed=st.integers(0, 10_000))
def test_a_network_has_every_text_word_by_word_and_its_slots_sum_to_one(texts, seed):
    shares = shares_of(np.random.default_rng(seed).normal(0, 1, len(texts)).tolist())
    text = texts[0]
    slots = confusion_network(text, texts, shares)
    assert [slot.place for slot in slots if not slot.between] == list(range(len(text.split())))
    assert all(dict(slot.words)[text.split()[slot.place]] > 0 for slot in slots if not slot.between)
    for slot in slots:
        assert sum(share for _, share in slot.words) == pytest.approx(1.0, abs=1e-3)
        assert [share for _, share in slot.words] == sorted((share for _, share in slot.words), reverse=True)
    # the words that are expected: those of the texts by their shares
    expected = sum(share * len(other.split()) for share, other in zip(shares, texts, strict=True))
    in_slots = sum(share for slot in slots for word, share in slot.words if word)
    assert in_slots == pytest.approx(expected, abs=1e-2)


def test_a_network_by_hand():
    shares = np.array([0.5, 0.3, 0.2])
    assert confusion_network("a b", ["a b", "a c b", "a d e b"], shares) == (
        WordSlot(0, False, (("a", 1.0),)),
        WordSlot(1, True, (("", 0.5), ("c", 0.3), ("d", 0.2))),
        WordSlot(1, True, (("", 0.8), ("e", 0.2))),
        WordSlot(1, False, (("b", 1.0),)),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decoder_takes_the_text_with_the_fewest_expected_errors(backend):
    rng = np.random.default_rng(5)
    for _ in range(5):
        log_probs_sv = spoken("cab a bac ab", LETTERS, rng, noise=2.5)
        plain = BeamDecoder(LETTERS, BeamConfig(nbest=100), backend=backend).decode(log_probs_sv)
        found = BeamDecoder(LETTERS, BeamConfig(nbest=100, mbr=True), backend=backend).decode(log_probs_sv)
        texts = [h.text for h in plain]
        shares = shares_of([h.score for h in plain])
        assert sorted(h.text for h in found) == sorted(texts)
        assert found[0].text == texts[least_risk(texts, shares)]
        assert found[0].slots == confusion_network(found[0].text, texts, shares)
        assert [h.slots for h in found[1:]] == [None] * (len(found) - 1)
        one = BeamDecoder(LETTERS, BeamConfig(mbr=True), backend=backend).decode(log_probs_sv)
        assert one == found[:1]


def test_a_network_in_json_has_times():
    words = (TimedWord("a", 1.0, 1.5), TimedWord("b", 2.0, 2.5))
    slots = confusion_network("a b", ["a b", "a c b", "b", "a b c"], np.array([0.4, 0.3, 0.2, 0.1]))
    confusions = confusions_of(slots, words)
    assert [(one.start_s, one.end_s) for one in confusions] == [(1.0, 1.5), (1.5, 2.0), (2.0, 2.5), (2.5, 2.5)]
    written = json.loads(json.dumps(document(Transcript("x.wav", "a b", 3.0, -1.0, confusions=confusions))))
    assert written["confusion_network"][0] == {
        "start": 1.0,
        "end": 1.5,
        "words": [{"word": "a", "probability": 0.8}, {"word": "", "probability": 0.2}],
    }
