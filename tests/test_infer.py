"""The forward path of use: every utterance as if alone, in the caller's order, in batches of bounded length."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.ahead import ahead_of_gpu
from asr.config import AudioConfig, ConvConfig, FeatureConfig, ModelConfig, TextConfig
from asr.data.tokenizer import CharTokenizer
from asr.errors import AsrError, ConfigError, DataError
from asr.infer import all_log_probs, batched, log_probs, pipeline
from asr.model.checkpoint import build_model
from asr.model.contract import AcousticModel
from asr.model.prepared import at_precision, prepared
from tests.pretend_cuda import PretendedCuda, pretended_cuda

BINS = 8


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    torch.manual_seed(0)
    conv = (ConvConfig(channels=2, kernel_tf=(5, 3), stride_tf=(2, 2)),)
    # Frames of half a second: a few of them fill a batch.
    features = FeatureConfig(num_mels=BINS, window_s=0.5, hop_s=0.5)
    tokenizer = CharTokenizer.from_texts(["abc"])
    return build_model(AudioConfig(), TextConfig(), features, ModelConfig(conv=conv, layers=1, hidden=6), tokenizer)


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
        padded_s = len(batch) * (max(lengths[i] for i in batch) * 0.01)  # rounded as the durations above
        assert len(batch) == 1 or padded_s <= batch_s


@given(st.lists(st.integers(1, 50), min_size=2, max_size=20), st.floats(0.05, 2.0))
def test_batches_are_of_like_length_and_as_full_as_the_limit_allows(lengths, batch_s):
    batches = list(batched([n * 0.01 for n in lengths], batch_s))
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(lengths)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * (lengths[following[0]] * 0.01) > batch_s


# --- the pipeline -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2])
def threads(request) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def names_of_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("asr-infer")}


@pytest.mark.parametrize(("batch_s", "ahead_s"), [(80.0, 320.0), (20.0, 30.0), (0.1, 0.1), (1e9, 1e9)])
def test_the_pipeline_gives_each_item_what_it_gets_alone_in_order(model, threads, batch_s, ahead_s, monkeypatch):
    used = prepared(model)
    features = utterances(30, 3, 0, 1, 70, 90, 12, 25, 4, 4, 31)
    items = ((f"u{i}", one_tf) for i, one_tf in enumerate(features))
    monkeypatch.setattr("asr.infer.AHEAD_S", ahead_s)
    found = list(pipeline(used, items, np.copy, batch_s=batch_s))
    assert [key for key, _ in found] == [f"u{i}" for i in range(len(features))]
    for one_tf, (_, one_sv) in zip(features, found, strict=True):
        np.testing.assert_allclose(one_sv, log_probs(used, [one_tf])[0], atol=1e-5)
    assert not names_of_threads()


def test_an_endless_stream_is_held_in_part_and_stopped_by_closing(model, threads, monkeypatch):
    monkeypatch.setattr("asr.infer.AHEAD_S", 20.0)
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn, utterances(drawn % 5)[0]  # some of them empty

    answers = pipeline(prepared(model), endless(), len, batch_s=10)
    first = [key for key, _ in itertools.islice(answers, 500)]
    assert first == list(range(1, 501))
    assert drawn < 500 + 2 * 200, "an utterance counts 0.1 s at least: no more than 2 windows of 200"
    answers.close()
    assert not names_of_threads()


def test_utterances_without_sound_do_not_fill_the_memory(model, threads, monkeypatch):
    monkeypatch.setattr("asr.infer.AHEAD_S", 2.0)
    drawn = 0

    def empty():
        nonlocal drawn
        for drawn in range(1, 10_001):
            yield drawn, utterances(0)[0]

    answers = pipeline(prepared(model), empty(), len, batch_s=1)
    assert next(answers) == (1, 0)
    assert drawn <= 10 + 20 + 20, "0.1 s each: a window of 1 s, then windows of 2 s"
    answers.close()


def test_the_first_answers_come_before_the_stream_has_given_a_whole_window(model, threads, monkeypatch):
    monkeypatch.setattr("asr.infer.AHEAD_S", 4000.0)
    drawn = []
    items = ((i, (drawn.append(i), utterances(20)[0])[1]) for i in range(1000))
    answers = pipeline(prepared(model), items, len, batch_s=20)
    next(answers)
    assert len(drawn) < 200
    answers.close()


def test_what_the_stream_raises_comes_out_after_the_answers_before_it(model, threads):
    def broken():
        yield from enumerate(utterances(5, 6, 7))
        raise DataError("no more")

    answers = pipeline(prepared(model), broken(), len, batch_s=4)
    assert [next(answers)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="no more"):
        next(answers)
    assert not names_of_threads()


def test_what_decoding_raises_comes_out_in_its_place(model, threads):
    def decode(one_sv):
        if len(one_sv) == 4:
            raise ValueError("seven frames")
        return len(one_sv)

    answers = pipeline(prepared(model), enumerate(utterances(30, 5, 7, 12)), decode)
    assert [next(answers) for _ in range(2)] == [(0, 15), (1, 3)]
    with pytest.raises(ValueError, match="seven frames"):
        next(answers)
    assert not names_of_threads()


def test_a_broken_model_is_named_by_the_pipeline(model, threads):
    conv = (ConvConfig(channels=2, kernel_tf=(5, 3), stride_tf=(2, 2)),)
    broken = build_model(
        model.audio, model.text, model.extractor.cfg, ModelConfig(conv=conv, layers=1, hidden=6), model.tokenizer
    )
    with torch.no_grad():
        broken.network.output.weight.fill_(float("nan"))
    with pytest.raises(AsrError, match="not numbers"):
        list(pipeline(prepared(broken), enumerate(utterances(30, 5)), len))


def test_decoding_goes_on_while_the_network_works(model):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        at_once, most, lock = 0, 0, threading.Lock()

        def slow(one_sv):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.01)
            with lock:
                at_once -= 1

        assert len(list(pipeline(prepared(model), enumerate(utterances(*[20] * 12)), slow, batch_s=10))) == 12
        assert most == 2
    finally:
        torch.set_num_threads(before)


# --- too little memory ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(model, monkeypatch) -> list[int]:
    """A network that takes at most 50 padded frames; the sizes of the batches that it was given."""
    network, sizes = type(model.network), list[int]()
    each = network.each

    def limited(self, features):
        sizes.append(len(features))
        if len(features) * max(map(len, features)) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return each(self, features)

    monkeypatch.setattr(network, "each", limited)
    return sizes


def test_a_batch_that_does_not_fit_into_the_memory_is_halved(model, small_memory):
    features = utterances(20, 20, 20, 20, 20)
    found = log_probs(model, features)
    assert small_memory == [5, 2, 3, 1, 2]
    for one_tf, one_sv in zip(features, found, strict=True):
        np.testing.assert_allclose(one_sv, log_probs(model, [one_tf])[0], atol=1e-5)


def test_an_utterance_that_does_not_fit_alone_is_an_error_of_its_own(model, small_memory, threads):
    with pytest.raises(DataError, match=r"^30\.0 s at once do not fit into the memory; cut them into shorter parts"):
        log_probs(model, utterances(10, 60))
    found = list(pipeline(model, enumerate(utterances(10, 60, 12)), len))
    assert [(key, type(answer)) for key, answer in found] == [(0, int), (1, DataError), (2, int)]


def test_another_failure_of_the_network_is_no_lack_of_memory(model, monkeypatch):
    monkeypatch.setattr(type(model.network), "each", mock.Mock(side_effect=RuntimeError("misaligned address")))
    with pytest.raises(RuntimeError, match="misaligned"):
        list(pipeline(model, enumerate(utterances(10, 12)), len))


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch) -> Iterator[PretendedCuda]:
    with pretended_cuda() as cuda:
        yield cuda


@pytest.fixture
def on_gpu(model, cuda) -> AcousticModel:
    return replace(model, network=deepcopy(model.network).to("cuda:0"))


@pytest.mark.parametrize(
    ("asked", "used"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16), ("auto", torch.bfloat16)],
)
def test_a_gpu_computes_in_the_precision_that_was_asked_for(model, on_gpu, cuda, asked, used):
    features = utterances(30, 3, 0, 12)
    expected = all_log_probs(model, features)
    found = all_log_probs(prepared(on_gpu, asked), features)
    assert {call.dtype for call in cuda.recurrent_calls} == {used}
    # bf16 keeps 8 bits; here it was seen to be within 0.02
    within = 2e-5 if used == torch.float32 else 0.05
    for one_sv, expected_sv in zip(found, expected, strict=True):
        np.testing.assert_allclose(one_sv, expected_sv, atol=within)
    assert used == torch.float32 or np.abs(found[0] - expected[0]).max() > 1e-5

    cuda.recurrent_calls.clear()
    log_probs(on_gpu, features)
    assert {call.dtype for call in cuda.recurrent_calls} == {torch.float32}, "the caller's model is as it was"


def test_a_model_at_a_precision_follows_the_weights_of_the_original(on_gpu):
    features = utterances(12)
    on_gpu.network.train()
    used = at_precision(on_gpu, "bf16")
    assert {layer.training for one in (used, on_gpu) for layer in one.network.modules()} == {False}
    before_sv = log_probs(used, features)[0]
    with torch.no_grad():
        on_gpu.network.output.bias.add_(torch.tensor([3.0, 0, 0, 0]).to("cuda:0"))
    assert log_probs(used, features)[0][:, 0].mean() > before_sv[:, 0].mean() + 0.5
    assert sum(p.numel() for p in used.network.parameters()) == on_gpu.num_parameters


def test_on_a_cpu_validation_has_no_other_precision_than_float32(model):
    assert at_precision(model, "bf16") is model


def test_a_precision_that_the_hardware_lacks_is_refused_in_one_line(model, on_gpu, monkeypatch):
    with pytest.raises(ConfigError, match=r"precision 'fp16' needs a CUDA device"):
        prepared(model, "fp16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ConfigError, match=r"precision 'bf16': pretended CUDA does not multiply bfloat16"):
        prepared(on_gpu, "bf16")
    assert prepared(on_gpu, "auto").network.precision == "fp16"


@pytest.mark.parametrize("batch_s", [None, 20.0, 0.1])
def test_a_gpu_gives_each_item_what_a_cpu_gives_in_order(model, on_gpu, cuda, threads, batch_s, monkeypatch):
    monkeypatch.setattr("asr.infer.GPU_AHEAD_S", 60.0)
    features = utterances(30, 3, 0, 1, 70, 90, 12, 25, 4, 4, 31)
    with cuda.counting() as waits:
        found = list(pipeline(on_gpu, enumerate(features), np.copy, batch_s=batch_s))
    assert [key for key, _ in found] == list(range(len(features)))
    for one_tf, (_, one_sv) in zip(features, found, strict=True):
        np.testing.assert_allclose(one_sv, log_probs(model, [one_tf])[0], atol=2e-5)
    assert not names_of_threads()
    if batch_s is None:
        assert waits.total() == 4, "one for the answers of each batch, as many as windows"


def test_a_gpu_has_one_thread_for_the_network_and_others_decode(on_gpu, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = threading.Barrier(3, timeout=20)
        network = type(on_gpu.network)
        each, feeding = network.each, set[str]()

        def watched(self, features):
            feeding.add(threading.current_thread().name)
            return each(self, features)

        def meet(one_sv):
            together.wait()
            return threading.current_thread().name

        monkeypatch.setattr(network, "each", watched)
        found = dict(pipeline(on_gpu, enumerate(utterances(*[20] * 12)), meet, batch_s=20))
        assert len(feeding) == 1 and len(set(found.values())) == 3 and not feeding & set(found.values())
    finally:
        torch.set_num_threads(before)
    assert not names_of_threads()


def test_batches_of_a_gpu_are_large_unless_a_size_is_asked_for(on_gpu, monkeypatch):
    network, sizes = type(on_gpu.network), list[int]()
    each = network.each
    monkeypatch.setattr(network, "each", lambda self, some: sizes.append(len(some)) or each(self, some))
    features = utterances(*[200] * 12)  # of 100 s each
    all_log_probs(on_gpu, features)
    assert sizes == [10, 2]
    sizes.clear()
    list(pipeline(on_gpu, enumerate(features), len))
    assert sizes == [10, 2]
    sizes.clear()
    list(pipeline(on_gpu, enumerate(features), len, batch_s=300))
    assert max(sizes) == 3


def test_errors_and_closing_stop_the_threads_of_a_gpu(on_gpu, monkeypatch):
    monkeypatch.setattr("asr.infer.GPU_AHEAD_S", 20.0)

    def decode(one_sv):
        if len(one_sv) == 4:
            raise ValueError("seven frames")
        return len(one_sv)

    answers = pipeline(on_gpu, enumerate(utterances(30, 5, 7, 12)), decode)
    assert [next(answers) for _ in range(2)] == [(0, 15), (1, 3)]
    with pytest.raises(ValueError, match="seven frames"):
        next(answers)
    assert not names_of_threads()

    answers = pipeline(on_gpu, ((i, utterances(9)[0]) for i in itertools.count()), len)
    assert [next(answers) for _ in range(50)] == [(i, 5) for i in range(50)]
    answers.close()
    assert not names_of_threads()


def test_an_error_stops_the_threads_that_work_for_the_stream(on_gpu, monkeypatch):
    monkeypatch.setattr("asr.infer.GPU_AHEAD_S", 20.0)
    (features_tf,) = utterances(9)
    endless = ahead_of_gpu(on_gpu.on_gpu, ((1.0, lambda: ("a", features_tf)) for _ in itertools.count()))
    with pytest.raises(ZeroDivisionError):  # whose traceback still holds the stream
        list(pipeline(on_gpu, endless, lambda one_sv: 1 / 0))
    assert not [t.name for t in threading.enumerate() if t.name.startswith("asr-")]


def test_a_gpu_halves_a_batch_that_runs_out_of_its_memory(model, on_gpu, small_memory):
    features = utterances(20, 20, 20, 200)
    found = list(pipeline(on_gpu, enumerate(features), np.copy))
    assert isinstance(found[3][1], DataError)
    for one_tf, (_, one_sv) in zip(features[:3], found, strict=False):
        np.testing.assert_allclose(one_sv, log_probs(model, [one_tf])[0], atol=2e-5)


def test_a_network_that_overflows_in_fp16_says_what_to_do(on_gpu):
    used = prepared(on_gpu, "fp16")
    with torch.no_grad():
        used.network.output.weight.fill_(float("inf"))
    with pytest.raises(AsrError, match=r"not numbers: .* too large for fp16: try --precision fp32"):
        log_probs(used, utterances(9))
