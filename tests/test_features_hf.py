"""Hidden values of a frozen published network as features: the values, and models that are trained on them.

``tests/data/hf`` holds small networks with random weights, and what ``transformers`` gives for them (make_hf_folders).
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.config import FeatureConfig, RunConfig, parse
from asr.errors import AsrError, CheckpointError, ConfigError
from asr.features.build import build_extractor
from asr.features.extractor import Extractor
from asr.features.hidden import HiddenExtractor
from asr.infer import log_probs
from asr.info import describe
from asr.model.checkpoint import load_trainable
from asr.model.prepared import prepared
from asr.train import train
from asr.training.feature_files import FeatureFiles
from asr.utterance import extract
from tests.builders import build_corpus, noise, tiny_config
from tests.pretend_cuda import pretended_cuda

STORED = Path(__file__).parent / "data" / "hf"


def extractor_of(place: Path | str = STORED / "large", layer: int | None = None, **more: object) -> Extractor:
    values = {"kind": "hf", "hf": f"hf:{place}", "hf_layer": layer, **more}
    return build_extractor(parse(FeatureConfig, values, "test"), 16_000)


def wave() -> np.ndarray:
    return np.load(STORED / "wave.npy").astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """A copy of a stored folder, to be changed."""
    return lambda name="large": Path(shutil.copytree(STORED / name, tmp_path / name))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("layer", [1, None])
@pytest.mark.parametrize("name", ["base", "large", "hubert", "wavlm", "mms#eng", "mms#deu"])
def test_a_layer_gives_what_transformers_gives(name, layer):
    with np.load(STORED / "hidden.npz") as stored:
        expected_th = stored[f"{name}_{layer or 'last'}"]
    features_th = extract(extractor_of(STORED / name, layer, normalization="none"), wave())
    assert features_th.shape == expected_th.shape
    np.testing.assert_allclose(features_th, expected_th, atol=2e-5)  # our mean of the samples is in float64


def test_the_last_layer_by_its_number_is_the_last_one():
    named_th, last_th = (extract(extractor_of(layer=layer), wave()) for layer in (2, None))
    assert np.array_equal(named_th, last_th)


def test_a_network_without_a_head_gives_the_same(folder):
    place = folder()
    tensors = load_file(place / "model.safetensors")
    bare = {name.removeprefix("wav2vec2."): t for name, t in tensors.items() if not name.startswith("lm_head.")}
    save_file(bare, place / "model.safetensors")
    change(place / "config.json", architectures=["Wav2Vec2Model"])
    (place / "vocab.json").unlink()
    assert np.array_equal(extract(extractor_of(place), wave()), extract(extractor_of(), wave()))


def test_frames_are_as_many_as_is_said_and_too_short_waves_have_none():
    extractor = extractor_of()
    waves = [wave(), wave()[:4500], noise(0.01)]
    assert [len(extract(extractor, wave_n)) for wave_n in waves] == [19, 13, 0]
    assert extractor.num_frames(np.array([len(wave_n) for wave_n in waves])).tolist() == [19, 13, 0]


def test_each_value_is_normalised_over_the_utterance():
    features_tf = extract(extractor_of(), wave())
    np.testing.assert_allclose(features_tf.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(features_tf.std(0), 1, atol=0.01)  # 0.001 is added to the deviation


def test_the_checksum_of_weights_does_not_depend_on_the_program():
    extractor = extractor_of()
    extract(extractor, wave())
    digest = extractor.statistics()["weights_sha256"].tobytes().hex()
    # Another one here would make every model that people have trained refuse its own network.
    assert digest == "f9a658094adc9725e2523668e269bcbfd226aaf2a1caf6b11f321dbdb597fa90"


def test_threads_that_begin_at_once_read_the_weights_once_and_get_the_same():
    extractor = extractor_of()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: extract(extractor, wave()), range(16)))
    assert all(np.array_equal(one, results[0]) for one in results)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_on_a_pretended_gpu_the_network_computes_there_before_and_after_its_first_use(is_loaded):
    expected_tf = extract(extractor_of(), wave())
    extractor = extractor_of()
    if is_loaded:
        extract(extractor, wave())
    with pretended_cuda():
        extractor.use_device("cuda")
        features_tf = extract(extractor, wave())
        assert extractor.device.type == "cuda"
        assert FeatureFiles(extractor, None)(wave()).shape == features_tf.shape
        assert extractor.fingerprint()
    np.testing.assert_allclose(features_tf, expected_tf, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "kind", "message"),
    [
        ({"layer": 3}, ConfigError, "hf_layer is 3, and .* has 2 layers"),
        ({"num_mels": 40}, ConfigError, "features.num_mels means nothing for kind: hf"),
        ({"dither": 0.1}, ConfigError, "features.dither means nothing"),
        ({"hf": str(STORED / "large")}, ConfigError, "must be hf:FOLDER_OR_NAME"),
        ({"place": "/nowhere/at-all"}, CheckpointError, "features.hf: /nowhere/at-all: no such folder"),
    ],
)
def test_what_cannot_be_is_one_line(setting, kind, message):
    with pytest.raises(kind, match=message) as caught:
        extractor_of(**setting)
    assert "\n" not in str(caught.value)


def test_another_sample_rate_names_the_key_to_set():
    with pytest.raises(ConfigError, match=r"set audio.sample_rate_hz=16000"):
        build_extractor(FeatureConfig(kind="hf", hf=f"hf:{STORED / 'large'}"), 8000)


def test_a_network_of_another_family_is_refused_with_what_can_be_used(folder):
    place = folder()
    change(place / "config.json", architectures=["SEWForCTC"], model_type="sew")
    with pytest.raises(ConfigError, match=r"SEWForCTC is no wav2vec 2\.0.* features can be those of"):
        extractor_of(place)


def test_a_damaged_network_names_the_tensor(folder):
    place = folder()
    tensors = load_file(place / "model.safetensors")
    del tensors["wav2vec2.encoder.layers.1.attention.k_proj.bias"]
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no tensor 'wav2vec2.encoder.layers.1.attention.k_proj.bias'"):
        extract(extractor_of(place), wave())
    extract(extractor_of(place, layer=1), wave())  # which needs no second layer


def config(place: Path, *settings: str) -> RunConfig:
    return tiny_config(
        "features.num_mels=80",
        "features.kind=hf",
        f"features.hf=hf:{place}",
        "model.conv=[]",
        "augment.spec.time_masks=1",
        "augment.spec.freq_masks=1",
        "train.epochs=1",
        *settings,
    )


@pytest.fixture
def data(tmp_path):
    build_corpus(tmp_path / "data", 8)
    build_corpus(tmp_path / "data", 3, seed=1, name="dev")
    return tmp_path / "data"


def test_a_model_is_trained_and_used_on_them_without_holding_their_weights(folder, data, tmp_path, monkeypatch):
    place = folder()
    monkeypatch.chdir(place.parent)
    report = train(config(Path(place.name)), data, tmp_path / "run")
    monkeypatch.chdir("/")  # the folder was named from another one

    best = report.run / "best"
    names = set(load_file(best / "model.safetensors"))
    assert {name for name in names if name.startswith("features.")} == {
        "features.mean_f",
        "features.std_f",
        "features.weights_sha256",
    }
    model = load_trainable(best)
    assert model.step_s == pytest.approx(0.02)
    features = [extract(model.extractor, one) for one in (wave(), wave()[:4500])]
    together = log_probs(prepared(model), features)
    for one_sv, features_tf in zip(together, features, strict=True):
        assert len(one_sv) == len(features_tf)
        assert np.array_equal(one_sv, log_probs(prepared(model), [features_tf])[0])

    _, facts = describe(str(best))
    assert facts["features"] == f"hf, 16 values every 20 ms, utterance normalization, from layer 2 of hf:{place}"

    # other weights in the same place, and then none
    shutil.copyfile(STORED / "large" / "model.safetensors", place / "model.safetensors")
    tensors = load_file(place / "model.safetensors")
    tensors["wav2vec2.feature_projection.projection.bias"] += 1
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(CheckpointError, match="not those that this model was trained on"):
        extract(load_trainable(best).extractor, wave())
    shutil.rmtree(place)
    with pytest.raises(AsrError, match=r"features.hf: .*no such folder"):
        load_trainable(best)


def test_features_in_a_folder_are_computed_once_for_all_epochs_and_runs(data, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    more = (f"batch.feature_folder={kept}", "batch.feature_cache_mib=0")
    first = train(config(STORED / "large", *more), data, tmp_path / "first")
    files = sorted(kept.rglob("*.npy"))
    assert len(files) == 8 + 3

    def unwanted(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(HiddenExtractor, "raw", unwanted)
    second = train(config(STORED / "large", *more), data, tmp_path / "second")
    assert sorted(kept.rglob("*")) == sorted({*files, *(path.parent for path in files)})
    weights = [load_file(one.run / "best" / "model.safetensors") for one in (first, second)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())

    monkeypatch.undo()
    third = train(config(STORED / "large"), data, tmp_path / "third")
    for name, tensor in load_file(third.run / "best" / "model.safetensors").items():
        assert torch.equal(weights[0][name], tensor)


def test_a_kept_file_is_of_one_layer_normalisation_and_network(folder, tmp_path):
    place = folder("base")
    extractors = [
        extractor_of(),
        extractor_of(layer=1),
        extractor_of(normalization="none"),
        extractor_of(place),
        extractor_of(STORED / "mms#eng"),
        extractor_of(STORED / "mms#deu"),
    ]
    for extractor in extractors:
        assert np.array_equal(FeatureFiles(extractor, str(tmp_path / "kept"))(wave()), extract(extractor, wave()))
    assert len(list(tmp_path.rglob("kept/*/*.npy"))) == len(extractors)

    moved = extractor_of(shutil.move(place, tmp_path / "elsewhere"))
    FeatureFiles(moved, str(tmp_path / "kept"))(wave())
    FeatureFiles(extractor_of(layer=2), str(tmp_path / "kept"))(wave())
    assert len(list(tmp_path.rglob("kept/*/*.npy"))) == len(extractors)


def archive() -> bytes:
    file = BytesIO()
    np.savez(file, np.zeros(3))
    return file.getvalue()


#: the beginning of an array's file: its description follows
ARRAY = b"\x93NUMPY\x01\x00v\x00"
HUGE = (b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 16), }" % 2**62).ljust(117) + b"\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", None, b"PK\x03\x04 no archive", archive(), ARRAY + HUGE, ARRAY + b"{".ljust(117) + b"\n"],
    ids=["empty", "text", "cut", "broken archive", "archive", "huge", "broken header"],
)
def test_a_damaged_kept_file_is_made_again(tmp_path, content):
    extractor = extractor_of()
    files = FeatureFiles(extractor, str(tmp_path))
    features_tf = files(wave())
    (path,) = tmp_path.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10] if content is None else content)
    assert np.array_equal(files(wave()), features_tf)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_said_once_and_features_are_computed(tmp_path, caplog):
    (tmp_path / "file").touch()
    files = FeatureFiles(extractor_of(), str(tmp_path / "file"))
    expected_tf = extract(extractor_of(), wave())
    assert np.array_equal(files(wave()), expected_tf)
    assert np.array_equal(files(wave()), expected_tf)
    (line,) = caplog.messages
    assert "not kept there" in line
