"""Samples as features: what a network of waves takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr.config import FeatureConfig, RunConfig, override, parse
from asr.data import manifest as manifests
from asr.data.tokenizer import CharTokenizer
from asr.errors import ConfigError
from asr.features.build import build_extractor
from asr.features.samples import NORMALIZE_EPS
from asr.model.trainable import TrainableNetwork
from asr.training.data import TrainingData
from asr.training.feature_loader import FeatureLoader
from asr.utterance import extract
from tests.builders import ALPHABET, build_corpus, noise

_SHAPE = {
    "family": "wav2vec2",
    "convs": [{"channels": 8, "kernel": 10, "stride": 5}, {"channels": 8, "kernel": 3, "stride": 2}],
    "conv_bias": False,
    "feat_extract_norm": "group",
    "feat_proj_layer_norm": True,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "do_stable_layer_norm": False,
    "layer_norm_eps": 1e-5,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "adapter_attn_dim": None,
    "num_buckets": 320,
    "max_bucket_distance": 800,
}


def _config(*settings: str) -> RunConfig:
    values = {"features": {"kind": "wave"}, "model": {"encoder": "wav2vec2", "wav2vec2": {"shape": _SHAPE}}}
    return override(parse(RunConfig, values, "test"), list(settings))


@pytest.mark.parametrize("amplitude", [1.0, 0.003])
def test_an_utterance_has_mean_0_and_the_deviation_of_the_papers_eps(amplitude):
    wave_n = noise(0.3) * amplitude / 0.1
    frames_n1 = extract(build_extractor(FeatureConfig(kind="wave"), 16_000), wave_n)
    assert frames_n1.shape == (len(wave_n), 1)
    double_n = wave_n.astype(np.float64)
    expected_n = (double_n - double_n.mean()) / np.sqrt(double_n.var() + NORMALIZE_EPS)
    np.testing.assert_allclose(frames_n1[:, 0], expected_n, atol=1e-5)


def test_without_normalisation_the_samples_stay_as_they_are():
    wave_n = noise(0.1)
    frames_n1 = extract(build_extractor(FeatureConfig(kind="wave", normalization="none"), 16_000), wave_n)
    assert np.array_equal(frames_n1[:, 0], wave_n)


def test_dither_is_drawn_by_its_seed_and_never_in_use():
    extractor = build_extractor(FeatureConfig(kind="wave", normalization="none", dither=0.01), 16_000)
    wave_n = noise(0.1)
    assert np.array_equal(extract(extractor, wave_n)[:, 0], wave_n)
    first_n1, again_n1, other_n1 = (extract(extractor, wave_n, seed) for seed in (1, 1, 2))
    assert np.array_equal(first_n1, again_n1)
    assert not np.array_equal(first_n1, other_n1)
    assert (first_n1[:, 0] - wave_n).std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_mels": 40}, "features.num_mels means nothing for kind: wave"),
        ({"preemphasis": 0.97}, "features.preemphasis means nothing for kind: wave"),
        ({"normalization": "corpus"}, "use utterance or none"),
    ],
)
def test_a_setting_that_means_nothing_for_samples_is_one_line(setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_extractor(FeatureConfig(kind="wave", **setting), 16_000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("augment.spec.time_masks=2", "mask inside the network"),
        ("augment.warp=0.1", "not features with wave"),
    ],
)
def test_masks_and_warps_of_frames_are_refused_for_samples(tmp_path, setting, message):
    manifest = manifests.read(build_corpus(tmp_path, 2))
    cfg = _config(setting)
    with pytest.raises(ConfigError, match=message):
        FeatureLoader(manifest, build_extractor(cfg.features, 16_000), cfg)


def test_a_batch_of_the_training_set_holds_samples_and_counts_the_networks_steps(tmp_path: Path):
    cfg = _config("augment.gain_db=[-6, 6]", "batch.workers=0")
    manifest = manifests.read(build_corpus(tmp_path, 4))
    extractor = build_extractor(cfg.features, cfg.audio.sample_rate_hz)
    network = TrainableNetwork(cfg.model, extractor.num_bins, 29)
    data = TrainingData(manifest, CharTokenizer(tuple(sorted(ALPHABET))), extractor, network, cfg)

    batch = next(data.batches(data.plan(0)))

    assert batch.features_btf.shape == (4, int(batch.num_frames_b.max()), 1)
    assert sorted(batch.num_frames_b.tolist()) == sorted(round(u.duration_s * 16_000) for u in manifest)
    assert not data.dropped
    for row, length in enumerate(batch.num_frames_b.tolist()):
        assert batch.features_btf[row, :length].std() == pytest.approx(1.0, abs=1e-3)
