"""Make ``tests/data/parakeet``: what ``transformers`` answers for NeMo's features and for a small FastConformer.

``python -m tests.make_parakeet`` needs torch and ``transformers`` (5.24 made what is stored). The weights are random,
from a fixed seed. The tests read what is stored and need no ``transformers``.

    features.npz   features of ``hf/wave.npy`` at two amplitudes, of its beginning, and for another rate and mels
    hf/            ParakeetForCTC: a folder of the hub
    logits.npz     its logits at the valid steps, for the same recordings

Axes: n samples, t frames, f bins, s steps, c columns of the head.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.make_hf_folders import AMPLITUDES, SHORT
from tests.make_hf_folders import FOLDER as HF

FOLDER = Path(__file__).parent / "data" / "parakeet"
RATE_HZ = 16_000
#: pieces of words, as a tokenizer of NeMo has them; the blank follows
PIECES = ("<unk>", "▁t", "he", "▁", "e", "t", "a", "o", "n", "▁a", "h", "'")
#: settings of the features -> of the extractor of transformers
FEATURES: dict[str, dict[str, Any]] = {
    "16 kHz": {},
    "8 kHz": {"sampling_rate": 8000, "hop_length": 80, "win_length": 200, "n_fft": 256, "feature_size": 64},
}
ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 80,
    "conv_kernel_size": 5,
}


def make_all() -> None:
    """Write the folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    waves = recordings()
    features = {f"{name}, {what}": _features(**kind)[what] for name, kind in FEATURES.items() for what in waves}
    np.savez_compressed(FOLDER / "features.npz", **features)
    make_folder(FOLDER / "hf", ENCODER)
    waves["long"] = long_recording()
    np.savez_compressed(FOLDER / "logits.npz", **{what: answer(FOLDER / "hf", wave) for what, wave in waves.items()})


def recordings() -> dict[str, np.ndarray]:
    """Return the recordings: the stored wave, quiet, and its beginning. Shapes: (n,) each."""
    wave_n = np.load(HF / "wave.npy")
    loud = {str(amplitude): wave_n * np.float32(amplitude) for amplitude in AMPLITUDES}
    return loud | {"short": wave_n[:SHORT]}


def long_recording() -> np.ndarray:
    """Return the stored wave five times. Shapes: (n,)."""
    return np.tile(np.load(HF / "wave.npy"), 5)


def make_folder(folder: Path, encoder: dict[str, Any]) -> None:
    """Write a folder of the hub with random weights."""
    from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

    torch.manual_seed(0)
    sizes = {"vocab_size": len(PIECES) + 1, "pad_token_id": len(PIECES)}
    model = spread(ParakeetForCTC(ParakeetCTCConfig(**sizes, encoder_config=encoder)))
    model.save_pretrained(folder)
    ParakeetFeatureExtractor(feature_size=encoder["num_mel_bins"]).save_pretrained(folder)
    special = [{"id": 0, "content": "<unk>", "special": True}, {"id": len(PIECES), "content": "<pad>", "special": True}]
    document = {
        "added_tokens": special,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {p: i for i, p in enumerate(PIECES)}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "ParakeetTokenizer", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def spread(model: Any) -> Any:
    """Draw a model's weights wider than its own start, the running statistics too, so that all of them matter."""
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            tensor.copy_(torch.randn_like(tensor) * (1.5 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def answer(folder: Path, wave_n: np.ndarray) -> np.ndarray:
    """Return the logits of transformers for one recording alone, at its valid steps. Shapes: (n,) -> (s, c)."""
    from transformers import AutoFeatureExtractor, ParakeetForCTC

    model = ParakeetForCTC.from_pretrained(folder).eval()
    inputs = AutoFeatureExtractor.from_pretrained(folder)(wave_n, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        logits_sc = model(**inputs).logits[0].numpy()
    steps = int(model._get_subsampling_output_length(inputs["attention_mask"].sum(-1))[0])
    return logits_sc[:steps]


def _features(**settings: Any) -> dict[str, np.ndarray]:
    """Compute the features of the recordings as transformers does, each alone. Shapes: -> (t, f) each."""
    from transformers import ParakeetFeatureExtractor

    extractor = ParakeetFeatureExtractor(**settings)
    out = {}
    for what, wave_n in recordings().items():
        made = extractor(wave_n, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        out[what] = made["input_features"][0, : int(made["attention_mask"].sum())].numpy()
    return out


if __name__ == "__main__":
    make_all()
