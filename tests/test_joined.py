"""Training on utterances joined to longer ones: which, with what between them, under which text.

Axes: n samples, t frames.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import JoinedConfig
from asr.data import manifest as manifests
from asr.data.manifest import Manifest, Utterance
from asr.data.subwords import SubwordTokenizer
from asr.data.targets import min_steps
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.errors import ConfigError
from asr.model.checkpoint import build_model, load_model
from asr.train import train
from asr.training.data import TrainingData
from asr.training.joined import join_waves, pause_between, quiet_noise
from asr.training.plan import BatchPlan, Row, join_rows
from asr.utterance import extract
from tests.builders import build_corpus, sine, tiny_config

RATE_HZ = 16000
JOINED = ("augment.joined.share=0.5", "augment.joined.pause_s=[0.1, 0.3]")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return manifests.read(build_corpus(tmp_path_factory.mktemp("corpus"), 14))


def _data(manifest: Manifest, *sets: str, tokenizer: Tokenizer | None = None, part: int = 0, of: int = 1):
    cfg = tiny_config(*sets)
    torch.manual_seed(0)
    tokenizer = tokenizer or CharTokenizer(tuple(sorted("abcd ")))
    model = build_model(cfg.audio, cfg.text, cfg.features, cfg.model, tokenizer)
    return TrainingData(manifest, tokenizer, model.extractor, model.network, cfg, part, of)


def _joined(plans: list[BatchPlan]) -> list[Row]:
    return [row for planned in plans for row in planned.rows if len(row.parts) > 1]


def _level_db(wave_n: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wave_n).mean()))


# Plans


@settings(max_examples=60)
@given(
    seconds=st.lists(st.floats(0.2, 15.0), max_size=40),
    share=st.floats(0, 1),
    most=st.integers(2, 5),
    longest_s=st.floats(1.0, 40.0),
    seed=st.integers(0, 9),
)
def test_every_utterance_is_in_one_row_and_no_joined_row_is_too_long(seconds, share, most, longest_s, seed):
    rows = [Row(((i, 1.0),)) for i in range(len(seconds))]
    cfg = JoinedConfig(share=share, most=most)
    alone, joined = join_rows(rows, seconds, cfg, longest_s, np.random.default_rng(seed))
    assert sorted(part for row in alone + joined for part in row.parts) == [row.parts[0] for row in rows]
    assert alone == sorted(alone)
    assert sum(len(row.parts) for row in joined) <= round(share * len(rows))
    for row in joined:
        assert 2 <= len(row.parts) <= most and len(row.pauses_s) == len(row.parts) - 1
        assert all(0.1 <= pause_s <= 0.8 for pause_s in row.pauses_s)
        assert sum(seconds[i] for i, _ in row.parts) + sum(row.pauses_s) <= longest_s


def test_the_share_and_the_numbers_are_those_asked_for():
    rows = [Row(((i, 1.0),)) for i in range(3000)]
    cfg = JoinedConfig(share=0.33, most=3)
    _, joined = join_rows(rows, [2.0] * 3000, cfg, 20.0, np.random.default_rng(0))
    sizes = Counter(len(row.parts) for row in joined)
    assert sum(size * count for size, count in sizes.items()) in (989, 990)
    assert 0.8 < sizes[2] / sizes[3] < 1.25


def test_plans_depend_on_seed_and_epoch_and_each_has_joined_rows(corpus):
    first, again = _data(corpus, *JOINED), _data(corpus, *JOINED)
    assert first.plan(1) == again.plan(1)
    assert _joined(first.plan(1)) and _joined(first.plan(1)) != _joined(first.plan(2))
    assert _joined(_data(corpus, *JOINED, "train.seed=2").plan(1)) != _joined(first.plan(1))


def test_a_share_of_none_plans_as_if_there_were_no_joining(corpus):
    assert _data(corpus, "augment.joined.most=5").plan(1) == _data(corpus).plan(1)


def test_no_row_is_longer_than_the_memory_was_planned_for():
    rows = [Utterance(f"u{i}", f"{i}.wav", 1.0 + i % 7, "a") for i in range(70)]
    speeds = "augment.speeds=[0.9, 1.1]"
    for settings_ in ((), ("batch.max_utterance_s=9",), ("batch.max_utterance_s=null", "augment.joined.most=5")):
        data = _data(Manifest(Path("m.jsonl"), rows), *JOINED, speeds, *settings_)
        longest_s = max(data._row_s(row) for epoch in range(5) for p in data.plan(epoch) for row in p.rows)
        assert longest_s <= data.longest_s
        assert data.longest_of(1) == pytest.approx(max([7.0, *map(data._row_s, _joined(data.plan(1)))]))


def test_the_parts_of_several_processes_are_together_the_batch(corpus):
    shares = [_data(corpus, *JOINED, part=part, of=3) for part in range(3)]
    for planned in shares[0].plan(1):
        owned = [data.own_part(planned).rows for data in shares]
        assert sorted(row for rows in owned for row in rows) == sorted(planned.rows)


def test_utterances_whose_labels_do_not_fit_when_joined_stay_alone():
    # 0.1 s: 6 steps; six labels fill them, and without a pause no step is left for the space
    rows = [Utterance(f"u{i}", f"{i}.wav", 0.1, "abcdab") for i in range(20)]
    tight = _data(Manifest(Path("m.jsonl"), rows), "augment.joined={share: 1.0, pause_s: [0, 0]}")
    assert not _joined(tight.plan(1)) and len(tight.plan(1)) == 5
    assert _joined(_data(Manifest(Path("m.jsonl"), rows), "augment.joined={share: 1.0, pause_s: [0.2, 0.3]}").plan(1))


# What is loaded


def test_a_joined_batch_has_the_features_of_one_recording_and_a_space_between_the_texts(corpus):
    data = _data(corpus, *JOINED)
    rate_hz = data.extractor.sample_rate_hz
    plan = BatchPlan((Row(((0, 1.0), (3, 1.0), (5, 1.0)), (0.2, 0.25)), Row(((1, 1.0),))), 1)
    batch = data.load(plan)

    waves = [data.loader._wave(Row(((i, 1.0),)), 1) for i in (0, 3, 5)]
    wave_n = data.loader._wave(plan.rows[0], 1)
    assert len(wave_n) == sum(map(len, waves)) + round(0.45 * rate_hz)
    assert np.array_equal(wave_n[: len(waves[0])], waves[0]) and np.array_equal(wave_n[-len(waves[2]) :], waves[2])
    expected_tf = extract(data.extractor, wave_n)
    assert np.array_equal(batch.features_btf[0, : len(expected_tf)], expected_tf)
    assert batch.num_frames_b[0] == len(expected_tf)

    texts = [corpus.utterances[i].text for i in (0, 3, 5)]
    ids = data.labels.tokenizer.encode(" ".join(texts))
    assert batch.targets_bu[0, : batch.num_targets_b[0]].tolist() == ids
    assert batch.ids == ("train-0000+train-0003+train-0005", "train-0001")
    durations_s = [corpus.utterances[i].duration_s for i in (0, 3, 5, 1)]
    assert batch.duration_s == pytest.approx(sum(durations_s) + 0.45)


def test_loading_again_gives_the_same_bits_and_another_epoch_other_pauses(corpus):
    row = Row(((0, 1.0), (3, 1.1)), (0.2,))
    once, again, later = (_data(corpus, *JOINED).loader.features(row, epoch) for epoch in (1, 1, 2))
    assert np.array_equal(once, again) and once.shape == later.shape and not np.array_equal(once, later)


def test_subwords_of_joined_texts_are_those_of_the_whole_text(corpus):
    tokenizer = SubwordTokenizer.train([u.text for u in corpus], 12)
    data = _data(corpus, *JOINED, tokenizer=tokenizer)
    batch = data.load(BatchPlan((Row(((0, 1.0), (3, 1.0)), (0.2,)),), 0))
    text = f"{corpus.utterances[0].text} {corpus.utterances[3].text}"
    assert tokenizer.decode(batch.targets_bu[0].tolist()).strip() == text
    assert batch.targets_bu[0].tolist() == tokenizer.encode(text)


def test_a_space_that_the_vocabulary_lacks_is_refused_and_nothing_between_texts_is_possible():
    rows = [Utterance(f"u{i}", f"{i}.wav", 1.0, "ab") for i in range(8)]
    manifest, tokenizer = Manifest(Path("m.jsonl"), rows), CharTokenizer(("a", "b"))
    with pytest.raises(ConfigError, match=r"augment\.joined\.separator ' ' .* set it to '' if") as caught:
        _data(manifest, *JOINED, tokenizer=tokenizer)
    assert caught.value.key == "augment.joined.separator"
    data = _data(manifest, *JOINED, "augment.joined.separator=''", tokenizer=tokenizer)
    row = _joined(data.plan(1))[0]
    assert data.labels.of(row) == [1, 2] * len(row.parts)


def test_what_does_not_fit_into_memory_alone_is_left_out_of_joined_rows_too(corpus):
    data = _data(corpus, *JOINED)
    data.too_large = {"train-0003", "train-0001+train-0002"}
    rows = (Row(((0, 1.0), (3, 1.0), (5, 1.0)), (0.2, 0.3)), Row(((1, 1.0), (2, 1.0)), (0.2,)), Row(((3, 1.0),)))
    assert data.load(BatchPlan(rows, 0)).ids == ("train-0000+train-0005",)


def test_joined_utterances_have_as_many_masks_in_time_as_they_have_alone(corpus):
    masks = "augment.spec={time_masks: 3, time_width_s: 0.05, time_width_fraction: 1}"
    data = _data(corpus, *JOINED, masks)
    ones_tf = np.ones((4000, data.extractor.num_bins), np.float32)
    row, joined = Row(((0, 1.0),)), Row(((0, 1.0), (3, 1.0), (5, 1.0)), (0.2, 0.2))
    masked = [np.mean([(data.loader.augment(ones_tf, one, e) == 0).mean() for e in range(60)]) for one in (row, joined)]
    assert 2.4 < masked[1] / masked[0] < 3.6


def test_every_planned_label_fits_the_audio_that_is_loaded(corpus):
    data = _data(corpus, "augment.joined={share: 1.0, pause_s: [0, 0.1]}", "augment.speeds=[0.9, 1.0, 1.2]")
    for epoch in range(3):
        for planned in data.plan(epoch):
            batch = data.load(planned)
            steps_b = data._num_steps(batch.num_frames_b)
            for steps, targets_u, length in zip(steps_b, batch.targets_bu, batch.num_targets_b, strict=True):
                assert min_steps(targets_u[:length].tolist()) <= steps
    assert not data.late


def test_a_model_says_the_length_of_the_joined_utterances_it_was_trained_on(tmp_path):
    build_corpus(tmp_path, 10, seed=1)
    build_corpus(tmp_path, 4, seed=2, name="dev")
    train(tiny_config(*JOINED, "train.epochs=1"), tmp_path, tmp_path / "run")
    longest_s = load_model(tmp_path / "run").training["longest_s"]
    assert longest_s > max(u.duration_s for u in manifests.read_split(tmp_path, "train"))


# Pauses


def test_a_pause_has_the_level_and_the_spectrum_of_the_quiet_parts_around_it():
    random = np.random.default_rng(0)
    hiss_n = np.diff(random.standard_normal(40_001)).astype(np.float32) * 1e-3  # rises with frequency
    speech_n = hiss_n.copy()
    speech_n[8000:32_000] += sine(1.5, 300)
    noise_n = quiet_noise(speech_n, 16_000, RATE_HZ, random)
    # the quietest stretches are a little quieter than the mean
    assert _level_db(hiss_n) - 1.5 < _level_db(noise_n) < _level_db(hiss_n)
    power_f = np.square(np.abs(np.fft.rfft(noise_n)))
    assert 10 * np.log10(power_f[6000:].sum() / power_f[:2000].sum()) > 10


def test_a_pause_goes_over_from_one_level_to_the_next_without_a_dip():
    random = np.random.default_rng(0)
    left_n, right_n = ((random.standard_normal(16_000) * scale).astype(np.float32) for scale in (1e-2, 1e-4))
    pause_n = pause_between(left_n, right_n, 12_000, RATE_HZ, random)
    assert _level_db(pause_n[:1000]) == pytest.approx(-40, abs=2)
    assert _level_db(pause_n[-1000:]) < -48
    level_n = pause_between(left_n, left_n, 12_000, RATE_HZ, random)
    assert _level_db(level_n[5000:7000]) == pytest.approx(_level_db(level_n[:2000]), abs=1)


@pytest.mark.parametrize("wave_n", [np.zeros(16_000, np.float32), np.zeros(0, np.float32)])
def test_digital_silence_gives_digital_silence(wave_n):
    assert not quiet_noise(wave_n, 1000, RATE_HZ, np.random.default_rng(0)).any()


def test_digital_zeros_at_the_ends_are_not_the_quiet_of_an_utterance():
    random = np.random.default_rng(0)
    wave_n = np.concatenate([np.zeros(8000), random.standard_normal(16_000) * 1e-2, np.zeros(8000)]).astype(np.float32)
    # two of the quietest stretches are partly zeros
    assert _level_db(quiet_noise(wave_n, 8000, RATE_HZ, random)) == pytest.approx(-40, abs=3)


def test_waves_keep_their_samples_and_the_pauses_their_length():
    random = np.random.default_rng(0)
    waves = [random.standard_normal(size).astype(np.float32) for size in (700, 1, 900)]
    joined_n = join_waves(waves, [0.01, 0.0], RATE_HZ, random)
    assert joined_n.dtype == np.float32 and len(joined_n) == 700 + 160 + 1 + 0 + 900
    assert np.array_equal(joined_n[:700], waves[0]) and np.array_equal(joined_n[-900:], waves[2])
