from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import asr.training.data
from asr.batch import Batch
from asr.config import RunConfig
from asr.data import manifest as manifests
from asr.data.manifest import Manifest, Utterance
from asr.data.targets import min_steps
from asr.data.tokenizer import CharTokenizer
from asr.errors import ConfigError, DataError
from asr.model.checkpoint import build_model
from asr.model.contract import AcousticModel
from asr.training.data import TrainingData
from asr.training.plan import BatchPlan, Row
from asr.utterance import extract
from tests.builders import ALPHABET, build_corpus, noise, tiny_config, write_wav


def _model(cfg: RunConfig, alphabet: str = ALPHABET) -> AcousticModel:
    torch.manual_seed(0)
    return build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(tuple(sorted(alphabet))))


def _data(manifest: Manifest, cfg: RunConfig) -> TrainingData:
    model = _model(cfg)
    return TrainingData(manifest, model.tokenizer, model.extractor, model.network, cfg)


def _paper(durations_s: list[float], text: str = "a") -> Manifest:
    """A manifest without audio: enough to plan with."""
    rows = [Utterance(f"u{i:06d}", f"{i}.wav", d, text) for i, d in enumerate(durations_s)]
    return Manifest(Path("paper/train.jsonl"), rows)


def _durations_s(count: int, seed: int = 0) -> list[float]:
    """Like AN4's: most utterances near 2.5 s, all between 0.5 and 6 s."""
    drawn = np.random.default_rng(seed).lognormal(np.log(2.5), 0.5, count)
    return [float(d) for d in np.clip(drawn, 0.5, 6.0)]


def _lengths_s(planned: BatchPlan, manifest: Manifest) -> list[float]:
    return [manifest.utterances[i].duration_s / speed for i, speed in planned.items]


def _ids(plan: list[BatchPlan], manifest: Manifest) -> list[str]:
    return [manifest.utterances[i].id for planned in plan for i, _ in planned.items]


def _within(limit_s: float, work: Callable[[], Any]) -> Any:
    """What the work returns or raises; a failure when it hangs."""
    done: dict[str, Any] = {}

    def run() -> None:
        try:
            done["value"] = work()
        except BaseException as error:
            done["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    assert not thread.is_alive(), f"still running after {limit_s} s"
    if "error" in done:
        raise done["error"]
    return done["value"]


def _data_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("asr-ahead")]


def _assert_same_batches(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.ids == b.ids
        assert a.duration_s == b.duration_s
        for name in ("features_btf", "num_frames_b", "targets_bu", "num_targets_b"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return manifests.read(build_corpus(tmp_path_factory.mktemp("corpus"), 14))


AUGMENTED = ("augment.speeds=[0.9, 1.0, 1.1]", "augment.spec={freq_masks: 1, time_masks: 1, freq_width_bins: 4}")

# Plans


@settings(max_examples=40)
@given(
    durations_s=st.lists(st.floats(0.2, 30.0), max_size=60),
    max_utterances=st.integers(1, 9),
    max_batch_s=st.floats(5.0, 100.0),
    epoch=st.integers(0, 3),
    sortagrad=st.booleans(),
)
def test_a_plan_holds_every_kept_utterance_once_and_keeps_the_limits(
    durations_s, max_utterances, max_batch_s, epoch, sortagrad
):
    cfg = tiny_config(
        f"batch.max_utterances={max_utterances}",
        f"batch.max_batch_s={max_batch_s}",
        f"train.sortagrad={str(sortagrad).lower()}",
        "augment.speeds=[0.9, 1.0, 1.1]",
    )
    manifest = _paper([1.0, *durations_s])
    data = _data(manifest, cfg)
    plan = data.plan(epoch)
    kept = [u.id for u in manifest if u.duration_s <= 20.0]
    assert sorted(_ids(plan, manifest)) == sorted(kept)
    assert {d.id for d in data.dropped} == {u.id for u in manifest} - set(kept)
    for planned in plan:
        lengths_s = _lengths_s(planned, manifest)
        assert len(lengths_s) <= max_utterances
        assert len(lengths_s) == 1 or len(lengths_s) * max(lengths_s) <= max_batch_s


def test_a_sortagrad_first_epoch_rises_in_duration():
    manifest = _paper(_durations_s(200))
    plan = _data(manifest, tiny_config("augment.speeds=[0.9, 1.0, 1.1]")).plan(0)
    lengths_s = [d for planned in plan for d in _lengths_s(planned, manifest)]
    assert lengths_s == sorted(lengths_s)


def test_without_sortagrad_the_first_epoch_is_shuffled():
    manifest = _paper(_durations_s(200))
    plan = _data(manifest, tiny_config("train.sortagrad=false")).plan(0)
    longest_s = [max(_lengths_s(planned, manifest)) for planned in plan]
    assert longest_s != sorted(longest_s)


def test_later_epochs_are_shuffled_and_differ_in_order_and_in_batches():
    manifest = _paper(_durations_s(200))
    data = _data(manifest, tiny_config())
    first, second = data.plan(1), data.plan(2)
    longest_s = [max(_lengths_s(planned, manifest)) for planned in first]
    assert longest_s != sorted(longest_s)
    assert first != second
    # not only the order of the batches: who shares a batch differs too
    assert {frozenset(p.items) for p in first} != {frozenset(p.items) for p in second}


def test_a_plan_depends_on_seed_and_epoch_alone():
    manifest = _paper(_durations_s(100))
    settings_ = ("augment.speeds=[0.9, 1.0, 1.1]",)
    data = _data(manifest, tiny_config(*settings_))
    data.plan(7)  # what was planned before must not matter
    assert data.plan(3) == _data(manifest, tiny_config(*settings_)).plan(3)
    assert data.plan(3) != _data(manifest, tiny_config(*settings_, "train.seed=2")).plan(3)


def test_an_utterance_keeps_its_speed_whatever_else_is_in_the_corpus():
    cfg = tiny_config("augment.speeds=[0.9, 1.0, 1.1]")
    whole = _paper(_durations_s(60))
    half = Manifest(whole.path, whole.utterances[::2])

    def speeds(manifest: Manifest) -> dict[str, float]:
        return {manifest.utterances[i].id: s for planned in _data(manifest, cfg).plan(2) for i, s in planned.items}

    all_speeds = speeds(whole)
    assert speeds(half) == {u.id: all_speeds[u.id] for u in half}


def test_every_speed_is_drawn_and_about_as_often():
    cfg = tiny_config("augment.speeds=[0.9, 1.0, 1.1]")
    data = _data(_paper(_durations_s(900)), cfg)
    drawn = Counter(s for planned in data.plan(1) for _, s in planned.items)
    assert set(drawn) == {0.9, 1.0, 1.1}
    # 300 expected; 5 standard deviations of a binomial count are 71
    assert all(230 < count < 370 for count in drawn.values())


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_padding_is_under_a_tenth_on_durations_like_those_of_an4(epoch):
    manifest = _paper(_durations_s(900))
    cfg = tiny_config("batch.max_utterances=16", "augment.speeds=[0.9, 1.0, 1.1]")
    data = _data(manifest, cfg)
    assert 0 < data.padding_fraction(data.plan(epoch)) < 0.10


def test_padding_fraction_counts_the_frames_beyond_each_end():
    manifest = _paper([1.0, 2.0, 3.0])
    plan = [BatchPlan.alone(((0, 1.0), (1, 1.0)), 0), BatchPlan.alone(((2, 1.5),), 0)]
    # 1 + 2 of 4 s, and 2 of 2 s
    assert _data(manifest, tiny_config()).padding_fraction(plan) == pytest.approx(1 - 5 / 6)


def test_planning_an_epoch_of_librispeech_takes_seconds():
    # 281,241 utterances: the 960 hours
    manifest = _paper(_durations_s(281_241))
    data = _data(manifest, tiny_config("batch.max_utterances=16", "augment.speeds=[0.9, 1.0, 1.1]"))
    began = time.perf_counter()
    plan = data.plan(1)
    seconds = time.perf_counter() - began
    assert sum(len(p.items) for p in plan) == 281_241
    assert seconds < 5, f"{seconds:.1f} s"


# What is trained on, and what is not


def test_what_cannot_be_trained_on_is_dropped_by_name_with_its_reason():
    # 0.1 s: 11 frames, 6 steps after the stride of 2
    rows = [
        Utterance("good", "a.wav", 1.0, "abc"),
        Utterance("empty", "b.wav", 1.0, "  "),
        Utterance("long", "c.wav", 20.5, "a"),
        Utterance("short", "d.wav", 0.1, "abcdabc"),
        Utterance("repeats", "e.wav", 0.1, "aaaa"),
        Utterance("just", "f.wav", 0.1, "abcdab"),
    ]
    data = _data(Manifest(Path("train.jsonl"), rows), tiny_config())
    assert {d.id: d.why for d in data.dropped} == {
        "empty": "empty text",
        "long": "20.5 s, longer than 20 s",
        "short": "its 7 label steps do not fit the 6 steps the model makes of its audio",
        "repeats": "its 7 label steps do not fit the 6 steps the model makes of its audio",
    }
    assert [rows[i].id for i in data.kept] == ["good", "just"]
    lines = data.summary()
    assert lines[0] == "training on 2 of 6 utterances, 0.00 h"
    assert sum(line.startswith("left out ") for line in lines) == 4
    assert "left out repeats: its 7 label steps do not fit the 6 steps the model makes of its audio" in lines


def test_a_summary_counts_the_dropped_beyond_the_first_ten():
    manifest = _paper([1.0] * 3 + [30.0] * 14)
    lines = _data(manifest, tiny_config()).summary()
    assert lines[0].startswith("training on 3 of 17 utterances")
    assert sum(line.startswith("left out ") for line in lines) == 10
    assert "… and 4 more left out (dropped.jsonl has all)" in lines


def test_no_limit_on_duration_keeps_the_longest():
    data = _data(_paper([1.0, 300.0]), tiny_config("batch.max_utterance_s=null"))
    assert data.dropped == []
    assert {len(p.items) for p in data.plan(1)} == {1}


def test_a_corpus_of_which_nothing_is_left_is_an_error_with_the_first_reason():
    with pytest.raises(
        DataError, match=r"train\.jsonl: none of 2 utterances can be trained on; the first: u000000: 30"
    ):
        _data(_paper([30.0, 40.0]), tiny_config())


def test_what_only_fits_at_its_own_speed_is_never_sped_up():
    # 0.1 s: 6 steps; at twice the speed 0.05 s: 6 frames, 3 steps
    rows = [Utterance(f"tight{i}", "a.wav", 0.1, "abcd") for i in range(20)]
    rows += [Utterance(f"loose{i}", "b.wav", 0.1, "abc") for i in range(20)]
    data = _data(Manifest(Path("train.jsonl"), rows), tiny_config("augment.speeds=[1.0, 2.0]"))
    assert data.dropped == []
    speeds: dict[str, set[float]] = {"tight": set(), "loose": set()}
    for epoch in range(3):
        for planned in data.plan(epoch):
            for index, speed in planned.items:
                speeds[rows[index].id.rstrip("0123456789")].add(speed)
    assert speeds == {"tight": {1.0}, "loose": {1.0, 2.0}}
    assert any(line.startswith("20 never sped up") and "tight0" in line for line in data.summary())


def test_a_single_speed_above_one_spares_what_would_not_fit():
    rows = [Utterance("tight", "a.wav", 0.1, "abcd"), Utterance("loose", "b.wav", 0.1, "abc")]
    data = _data(Manifest(Path("train.jsonl"), rows), tiny_config("augment.speeds=[2.0]"))
    assert sorted(item for p in data.plan(0) for item in p.items) == [(0, 1.0), (1, 2.0)]


@settings(max_examples=30)
@given(num_samples=st.integers(800, 40_000), speed=st.sampled_from([0.8, 0.9, 1.0, 1.1, 1.25]))
def test_the_filter_never_counts_on_more_steps_than_the_audio_gives(num_samples, speed):
    # Otherwise a pair that "fits" would have an infinite loss.
    from asr.data import audio

    cfg = tiny_config(f"augment.speeds=[{speed}]")
    data = _data(_paper([num_samples / 16000]), cfg)
    wave_n = noise(num_samples / 16000)
    assert len(wave_n) == num_samples
    frames = len(extract(data.extractor, audio.change_speed(wave_n, speed, 16000)))
    promised = data._step_counts()[0 if speed > 1 else 1][0]
    given_ = int(_model(cfg).network.front_end.num_steps(torch.tensor([frames]))[0])
    assert promised <= given_


# Batches


def test_a_batch_holds_what_was_planned(corpus):
    cfg = tiny_config("augment.speeds=[0.9, 1.1]")
    data = _data(corpus, cfg)
    planned = data.plan(1)[0]
    batch = data.load(planned)
    rows = [corpus.utterances[i] for i, _ in planned.items]
    assert batch.ids == tuple(u.id for u in rows)
    assert batch.duration_s == pytest.approx(sum(_lengths_s(planned, corpus)))
    tokenizer = CharTokenizer(tuple(sorted(ALPHABET)))
    for i, row in enumerate(rows):
        length = int(batch.num_targets_b[i])
        assert batch.targets_bu[i, :length].tolist() == tokenizer.encode(row.text)
        assert (batch.targets_bu[i, length:] == 0).all()
        assert (batch.features_btf[i, int(batch.num_frames_b[i]) :] == 0).all()


def test_the_second_view_has_other_masks_of_the_same_utterances_and_the_first_is_as_without(corpus):
    masks = "augment.spec={freq_masks: 2, freq_width_bins: 16, time_masks: 1, time_width_s: 0.1}"
    one, two = (_data(corpus, tiny_config(masks, "augment.warp=0.1", *more)) for more in ((), ("train.consistency=1",)))
    bare = _data(corpus, tiny_config())
    for a, b, c in zip(*(data.batches(data.plan(1)) for data in (one, two, bare)), strict=True):
        assert a.twin_btf is None and b.twin_btf is not None
        assert a.ids == b.ids and torch.equal(a.features_btf, b.features_btf)
        assert b.twin_btf.shape == b.features_btf.shape
        assert not torch.equal(b.twin_btf, b.features_btf) and not torch.equal(b.twin_btf, c.features_btf)
        part = b.rows(0, 1)
        assert part.twin_btf is not None and torch.equal(part.twin_btf[0], b.twin_btf[0, : part.twin_btf.shape[1]])
    epoch = [batch.twin_btf for batch in two.batches(two.plan(2))]
    assert not torch.equal(epoch[0], next(two.batches(two.plan(3))).twin_btf)


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.0, 1.1, 1.5])
def test_a_speed_divides_the_length(corpus, speed):
    data = _data(corpus, tiny_config(f"augment.speeds=[{speed}]"))
    plan = data.plan(1)
    for planned, batch in zip(plan, data.batches(plan), strict=True):
        # one frame each 10 ms, and one more; the resampler may round a sample up or down
        expected = [1 + int(d / 0.010) for d in _lengths_s(planned, corpus)]
        assert np.abs(batch.num_frames_b.numpy() - np.array(expected)).max() <= 1


def test_every_planned_pair_fits_the_steps_of_the_model(corpus):
    cfg = tiny_config("augment.speeds=[1.0, 1.9]")
    data = _data(corpus, cfg)
    front_end = _model(cfg).network.front_end
    for batch in data.batches(data.plan(1)):
        steps = front_end.num_steps(batch.num_frames_b).tolist()
        targets = [t[:n].tolist() for t, n in zip(batch.targets_bu, batch.num_targets_b, strict=True)]
        assert all(min_steps(t) <= s for t, s in zip(targets, steps, strict=True))


@pytest.fixture
def many_threads() -> Iterator[None]:
    """Four torch threads: with one, a difference in rounding between threads would not show."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dither", [0.0, 0.001])
def test_the_data_are_the_same_bit_for_bit_whatever_the_number_of_workers(tmp_path, many_threads, dither):
    corpus = manifests.read(build_corpus(tmp_path, 10, longest=60))
    # 40 mels: a product that does round otherwise on four threads
    runs, more = [], ("features.num_mels=40", f"features.dither={dither}")
    for workers in (0, 1, 3):
        data = _data(corpus, tiny_config(*AUGMENTED, *more, f"batch.workers={workers}"))
        runs.append([batch for epoch in (0, 1) for batch in data.batches(data.plan(epoch))])
        assert torch.get_num_threads() == 4  # the network keeps its cores
    _assert_same_batches(runs[0], runs[1])
    _assert_same_batches(runs[0], runs[2])


CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("setting", "device", "cores", "processes", "expected"),
    [
        ("null", "cuda", 16, 1, 16),
        ("null", "cuda", 16, 3, 5),
        ("null", "cuda", 4, 8, 1),
        ("null", "cuda", 256, 2, 64),
        ("null", "cpu", 16, 1, 1),
        ("3", "cuda", 16, 1, 3),
        ("0", "cuda", 16, 1, 0),
        ("3", "cpu", 16, 1, 3),
    ],
)
def test_a_gpu_is_fed_by_all_cores_and_a_cpu_by_one(corpus, monkeypatch, setting, device, cores, processes, expected):
    monkeypatch.setattr(asr.training.data, "usable_cores", lambda: cores)
    data = _data(corpus, tiny_config(f"batch.workers={setting}"))
    data.load_for(torch.device(device), processes)
    assert data.workers == expected
    assert data._num_ahead() == max(1, 2 * expected)


@pytest.mark.parametrize("workers", ["null", "0"])
def test_batches_for_a_gpu_are_pinned_where_they_are_loaded(corpus, monkeypatch, workers):
    settings = (*AUGMENTED, "train.consistency=0.1", f"batch.workers={workers}")
    cpu, gpu = _data(corpus, tiny_config(*settings)), _data(corpus, tiny_config(*settings))
    expected = list(cpu.batches(cpu.plan(1)))

    pinned: dict[int, torch.Tensor] = {}
    threads: set[str] = set()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned[id(copy)] = copy
        threads.add(threading.current_thread().name.partition("_")[0])
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    gpu.load_for(CUDA, 1)
    batches = list(gpu.batches(gpu.plan(1)))
    _assert_same_batches(batches, expected)
    for batch in batches:
        assert batch.twin_btf is not None
        assert all(id(one) in pinned for one in (batch.features_btf, batch.twin_btf, batch.targets_bu))
    assert threads == ({"MainThread"} if workers == "0" else {"asr-ahead"})
    list(cpu.batches(cpu.plan(1)))
    assert len(pinned) == 3 * len(batches), "on a CPU nothing is pinned"


@pytest.mark.parametrize("error", ["CUDA error: out of memory", "CUDA error: invalid argument"])
def test_memory_that_cannot_be_pinned_is_one_line(corpus, monkeypatch, error):
    def pin(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    data = _data(corpus, tiny_config("batch.workers=7"))
    data.load_for(CUDA, 1)
    kind, line = (ConfigError, "set batch.workers below 7") if "memory" in error else (RuntimeError, error)
    with pytest.raises(kind, match=line):
        list(data.batches(data.plan(1)))


def test_batches_that_are_loaded_ahead_take_a_bounded_part_of_the_memory(corpus, monkeypatch):
    data = _data(corpus, tiny_config("batch.workers=9", "batch.max_utterances=2"))
    (largest,) = {max(batch.features_btf.nbytes for batch in data.batches(data.plan(1)))}
    monkeypatch.setattr(asr.training.data, "_AHEAD_BYTES", 5.9 * largest)
    assert data._num_ahead() == 5
    monkeypatch.setattr(asr.training.data, "_AHEAD_BYTES", 1)
    assert data._num_ahead() == 1
    assert len(list(data.batches(data.plan(1)))) == 7


def test_the_data_are_the_same_bit_for_bit_from_the_cache_and_without_one(corpus):
    cached = _data(corpus, tiny_config(*AUGMENTED))
    uncached = _data(corpus, tiny_config(*AUGMENTED, "batch.feature_cache_mib=0"))
    plan = cached.plan(1)
    first, second = list(cached.batches(plan)), list(cached.batches(plan))
    assert len(cached.loader._cache) == 14 and not uncached.loader._cache
    _assert_same_batches(first, second)
    _assert_same_batches(first, list(uncached.batches(plan)))
    assert not uncached.loader._cache


def test_the_cache_keeps_to_its_size(corpus):
    data = _data(corpus, tiny_config("batch.feature_cache_mib=1"))
    data.loader._cache_left = 20_000
    list(data.batches(data.plan(0)))
    assert 0 < sum(f.nbytes for f in data.loader._cache.values()) <= 20_000


def test_masks_and_dither_differ_between_epochs_but_not_between_loads(corpus):
    for setting in ("augment.spec={time_masks: 2, time_width_fraction: 0.5}", "features.dither=0.001"):
        data = _data(corpus, tiny_config(setting))
        planned = data.plan(1)[0]
        later = replace(planned, epoch=2)
        assert torch.equal(data.load(planned).features_btf, data.load(planned).features_btf)
        assert not torch.equal(data.load(planned).features_btf, data.load(later).features_btf)


def test_a_mask_does_not_reach_the_cache(corpus):
    plain = _data(corpus, tiny_config())
    masked = _data(corpus, tiny_config("augment.spec={freq_masks: 2, freq_width_bins: 16}"))
    plan = plain.plan(1)
    list(plain.batches(plan))
    list(masked.batches(plan))
    assert all(np.array_equal(masked.loader._cache[key], f) for key, f in plain.loader._cache.items())


def test_normalisation_statistics_are_those_of_all_kept_frames(corpus):
    data = _data(corpus, tiny_config("features.normalization=corpus", "batch.max_utterance_s=0.9"))
    assert data.dropped, "the test needs an utterance that is left out"
    data.loader.fit_normalization(data.kept)
    frames = torch.cat([torch.from_numpy(data.loader.features(Row(((i, 1.0),)), 0)) for i in data.kept])
    assert frames.mean(0).abs().max() < 1e-3  # float32 features of up to 18 nats, deviations from 0.25 nats on
    assert (frames.std(0, correction=0) - 1).abs().max() < 1e-2  # the floor of 1e-3 is added to the deviation


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_in_a_worker_reaches_the_caller_and_nothing_hangs(tmp_path, workers):
    manifest = manifests.read(build_corpus(tmp_path, 12))
    data = _data(manifest, tiny_config(f"batch.workers={workers}", "batch.max_utterances=2"))
    plan = data.plan(1)
    victim = manifest.utterances[plan[2].items[0][0]]
    manifest.audio_path(victim).unlink()
    seen: list[Batch] = []

    def work() -> None:
        seen.extend(data.batches(plan))

    with pytest.raises(DataError, match=f"^utt '{victim.id}': .*no such file"):
        _within(20, work)
    assert len(seen) <= 2
    assert not _data_threads()


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_closed_early_leave_no_thread_and_do_not_hang(corpus, workers):
    data = _data(corpus, tiny_config(f"batch.workers={workers}", "batch.max_utterances=1"))

    def work() -> Batch:
        batches = data.batches(data.plan(1))
        first = next(batches)
        batches.close()
        return first

    assert _within(20, work).ids
    assert not _data_threads()


def test_labels_that_fit_the_manifest_but_not_the_audio_are_left_out_by_name(tmp_path, caplog):
    # 15 ms less than the manifest says is within its slack, but one output step less (2 frames a step).
    write_wav(tmp_path / "short.wav", noise(0.185))
    write_wav(tmp_path / "whole.wav", noise(0.2))
    rows = [Utterance(name, f"{name}.wav", 0.2, "abcd" * 2 + "abc") for name in ("short", "whole")]
    data = _data(Manifest(tmp_path / "train.jsonl", rows), tiny_config())
    assert min_steps(data.labels.alone[0]) == 11
    with caplog.at_level("WARNING"):
        (batch,) = [data.load(planned) for planned in data.plan(0)]
    assert batch.ids == ("whole",)
    assert "left out short: its 11 label steps do not fit its audio after all" in caplog.text
    assert data.load(BatchPlan.alone(((0, 1.0),), 0)).ids == ()
    assert [dropped.id for dropped in data.late] == ["short"]  # once, however often it is met


def test_labels_that_fit_the_audio_at_its_own_speed_alone_are_trained_on_at_that(tmp_path):
    # As above: by the manifest 10 labels fit at 1.1 times the speed, by the audio only at its own.
    write_wav(tmp_path / "short.wav", noise(0.185))
    rows = [Utterance("short", "short.wav", 0.2, "abcd" * 2 + "ab")]
    data = _data(Manifest(tmp_path / "train.jsonl", rows), tiny_config("augment.speeds=[1.1]"))
    assert not data.unhurried
    batch = data.load(BatchPlan.alone(((0, 1.1),), 0))
    own = data.load(BatchPlan.alone(((0, 1.0),), 0))
    assert batch.ids == ("short",) and not data.late
    assert torch.equal(batch.features_btf, own.features_btf) and batch.duration_s == own.duration_s


_PLAN = """
import sys, time
from asr.data import manifest
from asr.training.data import TrainingData
from asr.model.checkpoint import build_model
from asr.config import RunConfig, override
from asr.data.text import normalize
from asr.data.tokenizer import CharTokenizer

def memory_kb(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

cfg = override(RunConfig(), ["model.layers=1", "model.hidden=32", "text.normalization=none"])
build_model(cfg.audio, cfg.text, cfg.features, cfg.model, CharTokenizer(("a",)))
before_kb, began = memory_kb("VmRSS"), time.process_time()
rows = manifest.read(sys.argv[1])
tokenizer = CharTokenizer.from_texts(normalize(u.text, "none") for u in rows)
model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
data = TrainingData(rows, tokenizer, model.extractor, model.network, cfg)
first = data.plan(0)[0]
print(len(data.kept), time.process_time() - began, memory_kb("VmHWM") - before_kb)
"""


def _librispeech_like(path: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    words = ["THE", "OF", "AND", "A", "TO", "IN", "HE", "WAS", "THAT", "HIS", "HER", "WITH", "HAD", "SHE", "NOT"]
    words = np.array([*words, "WHICH", "SOMETHING", "CONSIDERATION"])
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            speaker, chapter = rng.integers(2300), rng.integers(200_000)
            id_ = f"{speaker}-{chapter}-{i:06d}"
            duration_s = float(np.clip(rng.normal(12.3, 3.9), 1.3, 19.9))
            text = " ".join(words[rng.integers(len(words), size=round(duration_s * 14.6 / 5))])
            row = {
                "id": id_,
                "audio_path": f"LibriSpeech/train-other-500/{speaker}/{chapter}/{id_}.flac",
                "duration_s": round(duration_s, 4),
                "text": text,
                "speaker": str(speaker),
            }
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory peak from /proc")
@pytest.mark.parametrize(
    ("count", "seconds", "mb"), [(20_000, 1.0, 60), pytest.param(281_241, 5.0, 500, marks=pytest.mark.slow)]
)
def test_a_large_manifest_is_read_bucketed_and_planned_in_seconds_and_little_memory(tmp_path, count, seconds, mb):
    # LibriSpeech has 281,241 utterances. CPU seconds, as other work must not fail this; the memory is what is used
    # beyond torch and a model.
    path = _librispeech_like(tmp_path / "train.jsonl", count)
    done = subprocess.run([sys.executable, "-c", _PLAN, str(path)], capture_output=True, text=True, check=True)
    kept, took, grew_kb = done.stdout.split()
    assert int(kept) == count
    assert float(took) < seconds, f"{took} s, {grew_kb} kB"
    assert int(grew_kb) < mb * 1000, f"{took} s, {grew_kb} kB"


# Distorted waves and warped frequencies

NOISY = ("augment.noise.probability=0.7", "augment.reverb.probability=0.5", "augment.gain_db=[-6, 6]")


def test_noise_and_rooms_are_drawn_by_epoch_and_utterance_and_never_cached(corpus):
    data = _data(corpus, tiny_config(*NOISY, "augment.speeds=[0.9, 1.1]"))
    planned = data.plan(1)[0]
    later = BatchPlan.alone(planned.items, 2)
    first, again, other = data.load(planned), data.load(planned), data.load(later)
    assert torch.equal(first.features_btf, again.features_btf)
    assert not torch.equal(first.features_btf, other.features_btf)
    assert not data.loader._cache
    alone = data.load(BatchPlan.alone(planned.items[:1], 1))
    frames = int(alone.num_frames_b[0])
    assert torch.equal(alone.features_btf[0], first.features_btf[0, :frames])


def test_distorted_and_warped_data_are_the_same_whatever_the_number_of_workers(corpus):
    runs = []
    for workers in (0, 3):
        data = _data(corpus, tiny_config(*NOISY, "augment.warp=0.1", f"batch.workers={workers}"))
        runs.append(list(data.batches(data.plan(1))))
    _assert_same_batches(*runs)


def test_a_warp_moves_frequencies_but_leaves_the_cache_and_time_alone(corpus):
    plain, warped = (_data(corpus, tiny_config(f"augment.warp={warp}")) for warp in (0.0, 0.2))
    planned = plain.plan(1)[0]
    one, other = plain.load(planned), warped.load(planned)
    assert torch.equal(one.num_frames_b, other.num_frames_b)
    assert not torch.equal(one.features_btf, other.features_btf)
    assert all(np.array_equal(warped.loader._cache[key], features) for key, features in plain.loader._cache.items())
    assert not torch.equal(other.features_btf, warped.load(BatchPlan.alone(planned.items, 2)).features_btf)


def test_a_warp_comes_before_the_corpus_mean_is_taken_away(corpus):
    settings = ("augment.warp=0.2", "batch.workers=0")
    raw, normal = (_data(corpus, tiny_config(*settings, f"features.normalization={how}")) for how in ("none", "corpus"))
    normal.loader.fit_normalization(normal.kept)
    planned = raw.plan(1)[0]
    one, other = raw.load(planned), normal.load(planned)
    for b, frames in enumerate(one.num_frames_b.tolist()):
        expected = (one.features_btf[b, :frames].numpy() - normal.extractor.mean_f) / normal.extractor.std_f
        np.testing.assert_allclose(other.features_btf[b, :frames], expected, rtol=1e-3, atol=1e-3)


def test_masks_of_features_that_are_not_normalised_are_the_utterances_mean(corpus):
    masks = "augment.spec={freq_masks: 1, freq_width_bins: 16, time_masks: 1, time_width_s: 0.2}"
    plain, masked = (_data(corpus, tiny_config("features.normalization=none", one)) for one in ("train.seed=1", masks))
    hidden = 0
    for planned in plain.plan(1):
        one, other = plain.load(planned), masked.load(planned)
        for b, frames in enumerate(one.num_frames_b.tolist()):
            own, changed = one.features_btf[b, :frames], other.features_btf[b, :frames]
            at = changed != own
            hidden += int(at.sum())
            torch.testing.assert_close(changed[at], own.mean(0).expand_as(own)[at])
    assert hidden > 100


def test_a_band_is_hidden_in_derivatives_and_neighbours_of_the_features_of_training(corpus):
    settings = ("features.deltas=1", "features.context_frames=2")
    masks = "augment.spec={freq_masks: 1, freq_width_bins: 16}"
    plain, masked = (_data(corpus, tiny_config(*settings, *more)) for more in ((), (masks,)))
    hidden = 0
    for planned in plain.plan(1):
        one, other = plain.load(planned).features_btf, masked.load(planned).features_btf
        copies = (one != other).reshape(*one.shape[:2], 5, 2, 16).any(1)  # utterance, place, derivative, bin
        assert (copies == copies[:, :1, :1]).all()
        hidden += int(copies.sum())
    assert hidden


def test_an_utterance_that_fits_exactly_is_kept_whatever_its_duration_was_rounded_to():
    # 4.02 * 16000 is 64319.999…: a frame, and with it a step, would be missing
    data = _data(_paper([4.02], text="ab" * 101), tiny_config())
    assert data.dropped == [] and data._step_counts()[1][0] == 202


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("augment.warp=0.1", "features.kind=mfcc"), "mfcc"),
        (("augment.warp=0.1", "features.deltas=1"), "deltas"),
        (("augment.warp=0.1", "features.context_frames=2"), "context_frames"),
        (("augment.noise.probability=0.1", "augment.noise.folder=nowhere"), "no such folder"),
    ],
)
def test_what_cannot_be_augmented_is_said_before_training_starts(corpus, settings, said):
    with pytest.raises(ConfigError, match=said):
        _data(corpus, tiny_config(*settings))
