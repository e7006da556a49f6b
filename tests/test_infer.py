"""The forward path of use: every utterance as if alone, in the caller's order, in batches of bounded length."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.checkpoint import AcousticModel, build_model
from asr.config import AudioConfig, ConvConfig, FeatureConfig, ModelConfig, TextConfig
from asr.infer import all_log_probs, batched, log_probs
from asr.tokenizer import CharTokenizer

BINS = 8


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    torch.manual_seed(0)
    conv = (ConvConfig(channels=2, kernel_tf=(5, 3), stride_tf=(2, 2)),)
    # Frames of half a second: a few of them fill a batch.
    features = FeatureConfig(num_mels=BINS, window_s=0.5, hop_s=0.5)
    return build_model(
        AudioConfig(), TextConfig(), features, ModelConfig(conv=conv, layers=1, hidden=6),
        CharTokenizer.from_texts(["abc"]),
    )  # fmt: skip


def utterances(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(size=(n, BINS)).astype(np.float32) for i, n in enumerate(lengths)]


def test_every_utterance_gets_its_own_log_probs_in_order(model):
    features = utterances(30, 3, 12, 1, 70, 90, 12, 25)
    all_sv = all_log_probs(model, features)
    assert len(list(batched([len(f) * model.extractor.cfg.hop_s for f in features]))) == 3, (
        "several batches, and one of one"
    )
    for one_tf, one_sv in zip(features, all_sv, strict=True):
        assert one_sv.shape == (int(model.network.num_steps(torch.tensor([len(one_tf)]))[0]), 4)
        assert one_sv.dtype == np.float32
        # float32, products over other batch shapes: observed below 1e-6
        np.testing.assert_allclose(one_sv, log_probs(model, [one_tf])[0], atol=1e-5)


def test_a_model_left_in_training_mode_is_used_in_evaluation_mode(model):
    features = utterances(20)
    expected = log_probs(model, features)[0]
    model.network.train()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    np.testing.assert_array_equal(log_probs(model, features)[0], expected)
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items()), "statistics untouched"


def test_no_utterances_give_no_log_probs(model):
    assert all_log_probs(model, []) == []


def test_utterances_without_frames_get_no_steps(model):
    assert [one.shape for one in all_log_probs(model, utterances(0, 9))] == [(0, 4), (5, 4)]
    assert [one.shape for one in all_log_probs(model, utterances(0))] == [(0, 4)]


@given(st.lists(st.integers(0, 50), max_size=20), st.floats(0.05, 2.0))
def test_batches_hold_every_utterance_once_and_keep_to_the_limit(lengths, batch_s):
    batches = list(batched([n * 0.01 for n in lengths], batch_s))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        padded_s = len(batch) * max(lengths[i] for i in batch) * 0.01
        assert len(batch) == 1 or padded_s <= batch_s


@given(st.lists(st.integers(1, 50), min_size=2, max_size=20), st.floats(0.05, 2.0))
def test_batches_are_of_like_length_and_as_full_as_the_limit_allows(lengths, batch_s):
    batches = list(batched([n * 0.01 for n in lengths], batch_s))
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(lengths)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * lengths[following[0]] * 0.01 > batch_s
