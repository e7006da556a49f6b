from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.manifest import Manifest, Utterance
from asr.data.targets import PackedTargets, min_steps, targets_of
from asr.data.tokenizer import CharTokenizer
from asr.errors import DataError


def test_an_unknown_character_names_the_manifest_and_the_utterance():
    manifest = Manifest(Path("data/train.jsonl"), [Utterance("u-7", "a.wav", 1.0, "abé")])
    with pytest.raises(DataError) as caught:
        targets_of(manifest, CharTokenizer(tuple("ab")), "none")
    assert str(caught.value).startswith("data/train.jsonl: utt 'u-7': unknown character 'é' (U+00E9)")


def test_targets_are_of_the_normalised_text():
    manifest = Manifest(Path("t.jsonl"), [Utterance("u", "a.wav", 1.0, "  Ab  B ")])
    assert list(targets_of(manifest, CharTokenizer((" ", "a", "b")), "lower")) == [[2, 3, 1, 3]]


@given(st.lists(st.lists(st.integers(1, 3), max_size=8)), st.sampled_from([4, 300, 70_000]))
def test_packed_targets_are_the_lists_they_were_made_of(lists, vocabulary_size):
    packed = PackedTargets(lists, vocabulary_size)
    assert list(packed) == lists and len(packed) == len(lists)
    assert packed[1:] == lists[1:] and packed[-2:] == lists[-2:]
    assert packed.lengths().tolist() == list(map(len, lists))
    assert packed.min_steps().tolist() == list(map(min_steps, lists))
