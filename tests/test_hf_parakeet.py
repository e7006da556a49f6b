"""``hf:`` models that are FastConformers (``ParakeetForCTC``): the answers of transformers, by a network of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr.errors import CheckpointError
from asr.model.contract import AcousticModel
from asr.model.hf import published
from asr.model.hf.config import read_config
from tests.make_parakeet import ENCODER, FOLDER, PIECES, answer, long_recording, make_folder, recordings

#: sums of float32 in another order: of the features, quiet bins (the logarithm of next to nothing) differ by up to 1e-4
CLOSE = {"atol": 1e-4, "rtol": 0}
MODEL = f"hf:{FOLDER / 'hf'}"
#: <unk> is left out
COLUMNS = [len(PIECES), *range(1, len(PIECES))]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of a model of this person's own."""
    return shutil.copytree(FOLDER / "hf", tmp_path / "model")


def answers(model: AcousticModel, *waves: np.ndarray) -> list[np.ndarray]:
    """What a model answers to waves together. Shapes: (n,) each -> (s, v) each."""
    return model.network.each([model.extractor(wave_n) for wave_n in waves])


def change(path: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_encoder(folder: Path, **values: Any) -> None:
    change(folder / "config.json", encoder_config={**ENCODER, **values})


def test_every_token_has_the_log_probability_that_transformers_gives_it():
    logits, waves = np.load(FOLDER / "logits.npz"), recordings() | {"long": long_recording()}
    for load in (published.load, published.load_to_train):
        for what, ours_sv in zip(waves, answers(load(MODEL), *waves.values()), strict=True):
            theirs_sv = torch.from_numpy(logits[what][:, COLUMNS]).log_softmax(-1)
            np.testing.assert_allclose(ours_sv, theirs_sv.numpy(), **CLOSE)


def test_the_length_of_a_recording_is_known_without_computing_it():
    known, lengths = published.describe(MODEL), [0, 159, 160, 1280, 1439, 1440, 16_000]
    rows = answers(published.load(MODEL), *(np.ones(n, np.float32) for n in lengths))
    assert known.num_steps(torch.tensor(lengths)).tolist() == [len(row) for row in rows]
    assert known.stride == 1280


def test_it_needs_no_transformers():
    code = (
        "import sys\n"
        "sys.modules.update({'transformers': None, 'huggingface_hub': None, 'torchaudio': None})\n"
        "from asr.model.hf import published\n"
        "published.load(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, MODEL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_its_parts_and_tokens_are_described():
    known = published.describe(MODEL)
    rows = published.parts(MODEL)
    assert [name for name, _, _ in rows] == ["subsampling", "conformer 1", "conformer 2", "output"]
    assert sum(count for _, _, count in rows) == sum(p.numel() for p in published.load(MODEL).network.parameters())
    assert known.tokenizer.symbols == PIECES[1:]
    assert known.training["vocabulary"].endswith("outputs that write nothing, left out: 1")


def test_training_starts_from_its_network_and_its_input():
    stages, model = published.start_stages(MODEL), published.load_to_train(MODEL)
    assert (stages.model, stages.features, stages.audio) == (model.network.cfg, model.extractor.cfg, model.audio)
    assert stages.model.encoder == "conformer" and stages.features.kind == "parakeet"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"subsampling_conv_kernel_size": 5}, "subsampling_conv_kernel_size is 5"),
        ({"attention_bias": False}, "attention_bias is not convolution_bias"),
        ({"intermediate_size": 65}, "intermediate_size 65 is no multiple of hidden_size"),
        ({"hidden_size": 0}, "is no multiple of hidden_size"),
        ({"subsampling_factor": 2}, "subsampling_factor is 2, or num_mel_bins is not feature_size"),
        ({"num_mel_bins": 128}, "or num_mel_bins is not feature_size"),
    ],
    ids=str,
)
def test_a_network_that_ours_is_not_goes_through_transformers(folder, values, reason):
    change_encoder(folder, **values)
    config = read_config(folder)
    assert config.family == "other" and reason in config.why_other


def test_other_features_go_through_transformers(folder):
    change(folder / "preprocessor_config.json", feature_extractor_type="LasrFeatureExtractor")
    assert read_config(folder).why_other == "feature_extractor_type is 'LasrFeatureExtractor'"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, "model.layers"),
        ({"num_hidden_layers": 3}, "holds no tensor 'encoder.layers.2."),
        ({"conv_kernel_size": 4}, "must be odd, got 4"),
        ({"num_attention_heads": 3}, "no multiple of conformer.heads 3"),
        ({"hidden_size": 32}, "has shape"),
        ({"subsampling_conv_channels": 8000}, "values for each step, at most"),
    ],
    ids=str,
)
def test_absurd_settings_and_those_of_another_network_are_one_line(folder, values, message):
    change_encoder(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        published.load(f"hf:{folder}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_fft": 256}, "a window of 400 and a hop of 160 samples do not fit an FFT of 256"),
        ({"hop_length": "many"}, "features.hop_s"),
        ({"win_length": 10**9}, "features.window_s"),
    ],
    ids=str,
)
def test_absurd_settings_of_the_input_are_one_line(folder, values, message):
    change(folder / "preprocessor_config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        published.load(f"hf:{folder}")


@pytest.mark.parametrize("name", ["ctc_head.weight", "encoder.layers.0.conv.norm.running_var"])
def test_a_missing_tensor_is_named(folder, name):
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=name if "norm" in name else "expected a CTC head"):
        published.load(f"hf:{folder}")


# Beside transformers itself

SHAPES: dict[str, dict[str, Any]] = {
    "four frames a step": {"subsampling_factor": 4},
    "no biases": {"attention_bias": False, "convolution_bias": False},
    "no scale": {"scale_input": False},
    "many mels": {"num_mel_bins": 128},
    "a large network": {
        "hidden_size": 512,
        "num_hidden_layers": 17,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "subsampling_conv_channels": 256,
        "conv_kernel_size": 9,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_real_shapes_give_what_transformers_gives(tmp_path, name):
    pytest.importorskip("transformers", reason="transformers is not installed: it is the oracle here")
    make_folder(tmp_path, ENCODER | SHAPES[name])
    waves = [long_recording()[:n] * np.float32(a) for n, a in ((31_000, 1), (12_345, 0.003), (1_700, 1))]
    for wave_n, ours_sv in zip(waves, answers(published.load(f"hf:{tmp_path}"), *waves), strict=True):
        theirs_sv = torch.from_numpy(answer(tmp_path, wave_n)[:, COLUMNS]).log_softmax(-1)
        np.testing.assert_allclose(ours_sv, theirs_sv.numpy(), **CLOSE)
