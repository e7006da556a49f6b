"""Conformers of ours in the format of the Hugging Face hub: read again here, and (slow) by ``transformers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.config import AudioConfig, FeatureConfig, ModelConfig, TextConfig
from asr.data.subwords import SubwordTokenizer
from asr.data.tokenizer import CharTokenizer, Tokenizer
from asr.model.checkpoint import build_model, load_model, load_trainable, model_tensors, save_model
from asr.model.hf.export import export_model
from asr.model.hf.export_tokenizer import parakeet_tokenizer_files
from asr.model.start import load_start
from asr.model.trainable import TrainableModel
from tests.make_parakeet import FOLDER, long_recording, recordings, spread
from tests.test_cli import command  # noqa: F401  # the fixture
from tests.test_export import TEXTS, TOKENIZERS, write_tokenizer

EXACT = {"atol": 1e-5, "rtol": 0}
SHAPES: dict[str, dict[str, Any]] = {
    "8": {},
    "4": {"subsampling": 4, "kernel": 3, "feed_forward": 2},
    "no biases": {"bias": False, "scale_input": False},
    "CTC in the middle": {"inter_layers": [1], "layer_drop": 0.2},
}


def saved(folder: Path, tokenizer: Tokenizer | None = None, features: dict[str, Any] | None = None, **own: Any) -> Path:
    """A model folder of a small Conformer with random weights."""
    torch.manual_seed(0)
    cfg = ModelConfig(
        encoder="conformer",
        layers=2,
        hidden=own.pop("hidden", 16),
        dropout=0.1,
        conformer={"subsampling_channels": 8, "heads": 2, "kernel": 5, **own},
    )
    tokenizer = tokenizer or CharTokenizer(tuple(" abcdefgh"))
    features = {"kind": "parakeet", **(features or {})}
    text = TextConfig(normalization="none")
    model = build_model(AudioConfig(), text, FeatureConfig(**features), cfg, tokenizer)
    spread(model.network)
    save_model(folder, model, model_tensors(model), {"dev": {"wer": {"rate": 0.125}}})
    return folder


def answers(model: TrainableModel, *waves: np.ndarray) -> list[np.ndarray]:
    """What a model answers to waves together. Shapes: (n,) each -> (s, v) each."""
    return model.network.each([model.extractor(wave_n) for wave_n in waves])


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exported_conformer_is_the_same_model(shape, tmp_path, command):  # noqa: F811
    folder = saved(tmp_path / "model", **SHAPES[shape])
    assert command("export", folder, tmp_path / "out", "--to", "hf").out == f"{tmp_path}/out\n"
    first, second = load_model(folder), load_model(f"hf:{tmp_path}/out")
    waves = [*recordings().values(), long_recording()]
    for one_sv, other_sv in zip(answers(first, *waves), answers(second, *waves), strict=True):
        np.testing.assert_array_equal(one_sv, other_sv)
    assert first.tokenizer == second.tokenizer
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| word error rate, dev | 12.50% |" in card and "`attention_mask`" in card and "group norm" not in card


def test_a_published_parakeet_comes_back_as_it_was(tmp_path):
    source = load_start(f"hf:{FOLDER / 'hf'}")
    save_model(tmp_path / "model", source, model_tensors(source), {})
    export_model(tmp_path / "model", tmp_path / "out")
    again = load_start(f"hf:{tmp_path / 'out'}")
    assert again.network.cfg.conformer == source.network.cfg.conformer and again.extractor.cfg == source.extractor.cfg
    assert again.tokenizer == source.tokenizer
    for key, tensor in source.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[key]), key


def test_other_features_sizes_are_kept(tmp_path):
    features = {"num_mels": 64, "window_s": 0.02, "fft_samples": 1024}
    export_model(saved(tmp_path / "model", features=features), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert [written[key] for key in ("feature_size", "win_length", "n_fft", "hop_length")] == [64, 320, 1024, 160]
    again = load_trainable(tmp_path / "model").extractor
    ours = load_start(f"hf:{tmp_path / 'out'}").extractor
    assert np.array_equal(again(long_recording()), ours(long_recording()))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"norm": "layer"}, "has model.conformer.norm: batch only, and this model layer"),
        ({"subsampling_kind": "full"}, "has model.conformer.subsampling_kind: depthwise only, and this model full"),
        (
            {"inter_layers": [1], "self_conditioning": True},
            "has model.conformer.self_conditioning: false only, and this model true",
        ),
        ({"features": {"kind": "log_mel"}}, "has features.kind: parakeet only, and this model log_mel"),
        ({"hidden": 9, "heads": 3}, "needs an even model.hidden, and this is 9"),
    ],
    ids=["norm", "subsampling", "conditioning", "features", "width"],
)
def test_what_parakeet_has_no_setting_for_is_one_line(settings, line, tmp_path, command):  # noqa: F811
    result = command("export", saved(tmp_path / "m", **settings), tmp_path / "out", "--to", "hf")
    assert result.code == 2 and line in result.err
    assert result.err.count("\n") == 1 and not (tmp_path / "out").exists()


# Beside transformers itself


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: it is the oracle here")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_answers_the_same_alone_and_padded(transformers, shape, tmp_path):
    folder = saved(tmp_path / "model", **SHAPES[shape])
    export_model(folder, tmp_path / "out")
    network, found = transformers.AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(network).__name__ == "ParakeetForCTC" and not any(found.values())
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor).__name__ == "ParakeetProcessor"
    ours = load_model(folder)
    assert len(processor.tokenizer) == ours.tokenizer.vocabulary_size

    waves = [long_recording(), long_recording()[:12_345], long_recording()[:1_700]]
    expected = answers(ours, *waves)
    for group in ([0], [1], [2], [0, 1, 2]):
        inputs = processor([waves[i] for i in group], sampling_rate=16_000)
        with torch.inference_mode():
            theirs_bsv = network.eval()(**inputs).logits.log_softmax(-1).numpy()
        for theirs_sv, i in zip(theirs_bsv, group, strict=True):
            np.testing.assert_allclose(theirs_sv[: len(expected[i])], expected[i], **EXACT)
        ids = torch.from_numpy(theirs_bsv[0][: len(expected[group[0]])].argmax(-1))
        kept = [int(b) for a, b in zip([0, *ids.tolist()], ids.tolist(), strict=False) if b != a and b]
        assert processor.batch_decode(ids[None]) == [ours.tokenizer.decode(kept)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*TOKENIZERS, "bpe"])
def test_transformers_writes_and_reads_the_same_tokens(transformers, kind, tmp_path):
    texts = ["the cats sat there", "all that hat"]
    tokenizer = SubwordTokenizer.train(texts, 16) if kind == "bpe" else TOKENIZERS[kind]
    text = texts[0] if kind == "bpe" else TEXTS[kind]
    write_tokenizer(tokenizer, tmp_path, parakeet_tokenizer_files(tokenizer))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(theirs(text).input_ids) == text
    # each token twice, with blanks between them: two of one in a row are two
    steps = [step for id_ in [*ids, ids[-1]] for step in (id_, id_, 0)]
    assert theirs.decode(steps) == tokenizer.decode([*ids, ids[-1]])
