"""Models of the hub beside ``transformers``: the same log-probabilities, letter by letter, without ``transformers``.

The fast part has stored what ``transformers`` answered (make_hf_folders.py); the slow part runs it, in real shapes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr.model.hf.load import describe, load_network
from tests.make_hf_folders import AMPLITUDES, FOLDER, SHORT, answer, spread

MODELS = ("base", "large", "hubert", "wavlm", "mms#eng", "mms#deu")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "[PAD]", "[UNK]")
#: sums of float32 in another order
EXACT = {"atol": 1e-5, "rtol": 0}


def ours(model: str, *waves: np.ndarray) -> list[np.ndarray]:
    """What a model answers to waves together."""
    known = describe(model)
    return load_network(known).each([known.extractor(wave_n) for wave_n in waves])


def in_our_order(model: str, theirs_sc: np.ndarray) -> np.ndarray:
    """Log-probabilities of the head in the order of our letters, found by name in ``vocab.json``."""
    folder, _, language = model.removeprefix("hf:").partition("#")
    vocabulary: dict[str, Any] = json.loads(Path(folder, "vocab.json").read_text())
    settings = json.loads(Path(folder, "tokenizer_config.json").read_text())
    columns = vocabulary[language] if language else vocabulary

    letters = []
    for symbol in describe(model).tokenizer.symbols:
        named = settings.get("word_delimiter_token", "|") if symbol == " " else symbol
        letters.append(columns[named.upper() if settings.get("do_lower_case") else named])
    silent = [columns[token] for token in SPECIAL if token in columns]
    assert sorted(letters + silent) == list(range(theirs_sc.shape[1]))

    blank_s1 = np.logaddexp.reduce(theirs_sc[:, silent].astype(np.float64), axis=1)[:, None]
    return np.concatenate([blank_s1, theirs_sc[:, letters]], axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_every_letter_has_the_log_probability_that_transformers_gives_it(name):
    model = f"hf:{FOLDER / name}"
    wave_n = np.load(FOLDER / "wave.npy")
    waves = [wave_n * np.float32(amplitude) for amplitude in AMPLITUDES]
    together = ours(model, *waves, wave_n[:SHORT])
    for what, ours_sv in zip([*map(str, AMPLITUDES), "short"], together, strict=True):
        theirs_sc = np.load(FOLDER / f"{name.replace('#', '-')}_{what}.npy")
        np.testing.assert_allclose(ours_sv, in_our_order(model, theirs_sc), **EXACT)


@pytest.mark.parametrize("name", ["large", "hubert"])
def test_a_quiet_recording_is_not_answered_as_a_loud_one(name):
    # The normaliser adds 1e-7 to the variance: with nothing, or with 1e-5, one of the two would be wrong.
    loud_sc, quiet_sc = (np.load(FOLDER / f"{name}_{amplitude}.npy") for amplitude in AMPLITUDES)
    assert 0.01 < np.abs(loud_sc - quiet_sc).max() < 3


def test_models_in_a_folder_need_neither_transformers_nor_the_hub_nor_torchaudio():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['transformers', 'huggingface_hub', 'torchaudio']))\n"
        "from asr.model.hf.load import describe, load_network\n"
        "for model in sys.argv[1:]:\n"
        "    load_network(describe(model))\n"
    )
    models = [f"hf:{FOLDER / name}" for name in MODELS]
    done = subprocess.run([sys.executable, "-c", code, *models], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Beside transformers itself

_BIG: dict[str, Any] = {"vocab_size": 40, "pad_token_id": 0, "num_hidden_layers": 4}
_MIDDLE = {**_BIG, "hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 200, "conv_dim": (48,) * 7}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 24}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2, group norm": ("Wav2Vec2", _MIDDLE),
    "wav2vec2, layer norm": ("Wav2Vec2", _MIDDLE | _STABLE),
    "wav2vec2, layer norm behind": ("Wav2Vec2", _MIDDLE | {"feat_extract_norm": "layer"}),
    "wav2vec2, an even kernel of positions": ("Wav2Vec2", _MIDDLE | {"num_conv_pos_embeddings": 32}),
    "wav2vec2, an odd kernel of positions": ("Wav2Vec2", _MIDDLE | {"num_conv_pos_embeddings": 33}),
    "wav2vec2, another eps": ("Wav2Vec2", _MIDDLE | _STABLE | {"layer_norm_eps": 1e-3}),
    "wav2vec2, another pace": ("Wav2Vec2", _MIDDLE | {"conv_stride": (5, 2, 2, 2, 2, 2, 1)}),
    "wav2vec2, adapters": ("Wav2Vec2", _MIDDLE | _STABLE | {"adapter_attn_dim": 16}),
    "hubert, group norm": ("Hubert", _MIDDLE),
    "hubert, layer norm": ("Hubert", _MIDDLE | _STABLE),
    "hubert, no norm before the projection": ("Hubert", _MIDDLE | {"feat_proj_layer_norm": False}),
    "wavlm, group norm": ("WavLM", _MIDDLE),
    "wavlm, layer norm": ("WavLM", _MIDDLE | _STABLE),
    "wavlm, few buckets": ("WavLM", _MIDDLE | {"num_buckets": 16, "max_bucket_distance": 20}),
    "wav2vec2-base": ("Wav2Vec2", {"vocab_size": 40}),
    "wav2vec2-large, XLS-R": ("Wav2Vec2", _LARGE | _STABLE | {"vocab_size": 40}),
    "hubert-large": ("Hubert", _LARGE | _STABLE | {"vocab_size": 40}),
    "wavlm-base": ("WavLM", {"vocab_size": 40}),
    "wavlm-large": ("WavLM", _LARGE | _STABLE | {"vocab_size": 40}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_real_shapes_give_what_transformers_gives(tmp_path, name):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is the oracle here")
    family, settings = SHAPES[name]
    network = getattr(transformers, f"{family}ForCTC")(getattr(transformers, f"{family}Config")(**settings))
    spread(network, 0).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask="feat_extract_norm" in settings).save_pretrained(
        tmp_path
    )
    tokens = ("<pad>", "<s>", "</s>", "<unk>", "|", *(chr(0x4E00 + i) for i in range(35)))
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer"}))

    model = f"hf:{tmp_path}"
    waves = [np.tile(np.load(FOLDER / "wave.npy"), 6)[:n] * np.float32(a) for n, a in ((31_000, 1), (12_345, 0.003))]
    for wave_n, ours_sv in zip(waves, ours(model, *waves), strict=True):
        np.testing.assert_allclose(ours_sv, in_our_order(model, answer(tmp_path, wave_n)[0]), **EXACT)
    (tmp_path / "model.safetensors").unlink()  # of a large one 1.2 GB
