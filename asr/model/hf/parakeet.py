"""``ParakeetForCTC``, a FastConformer of the hub, as a network of ours: its config, its network, its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.config import FeatureConfig, ModelConfig
from asr.errors import CheckpointError, ConfigError
from asr.features.parakeet import ParakeetExtractor
from asr.model.parakeet import check_weights, fill_network, plan_network
from asr.model.trainable import TrainableNetwork

ARCHITECTURE = "ParakeetForCTC"
INPUT = "ParakeetFeatureExtractor"
PREEMPHASIS = 0.97
#: what our network and our features do not have, and the one value that they stand for
_ENCODER = {"hidden_act": "silu", "subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}
_SOUND = {"preemphasis": PREEMPHASIS, "feature_extractor_type": INPUT}


def unusual(data: Mapping[str, Any], sound: Mapping[str, Any]) -> str:
    """Name the first setting for which ``transformers`` is needed; empty: there is none."""
    encoder = _encoder(data)
    for values, only in ((encoder, _ENCODER), (sound, _SOUND)):
        for key, usual in only.items():
            if values.get(key, usual) != usual:
                return f"{key} is {values[key]!r:.40}"
    width, inside = encoder.get("hidden_size", 1024), encoder.get("intermediate_size", 4096)
    if not isinstance(width, int) or not isinstance(inside, int) or width < 1 or inside % width:
        return f"intermediate_size {inside!r:.40} is no multiple of hidden_size"
    if encoder.get("attention_bias", True) != encoder.get("convolution_bias", True):
        return "attention_bias is not convolution_bias"
    factor = encoder.get("subsampling_factor", 8)
    if factor not in (4, 8) or sound.get("feature_size", 80) != encoder.get("num_mel_bins", 80):
        return f"subsampling_factor is {factor!r:.40}, or num_mel_bins is not feature_size"
    return ""


def stages(data: Mapping[str, Any], sound: Mapping[str, Any], rate_hz: int) -> dict[str, Any]:
    """Return features and network in our words, where nothing is given those of ``transformers``' own configs."""
    encoder = _encoder(data)
    width = encoder.get("hidden_size", 1024)
    features = {
        "kind": "parakeet",
        "window_s": _seconds(sound.get("win_length", 400), rate_hz),
        "hop_s": _seconds(sound.get("hop_length", 160), rate_hz),
        "fft_samples": sound.get("n_fft", 512),
        "num_mels": sound.get("feature_size", 80),
    }
    conformer = {
        "subsampling": encoder.get("subsampling_factor", 8),
        "subsampling_channels": encoder.get("subsampling_conv_channels", 256),
        "heads": encoder.get("num_attention_heads", 8),
        "feed_forward": encoder.get("intermediate_size", 4096) // width,
        "kernel": encoder.get("conv_kernel_size", 9),
        "bias": encoder.get("attention_bias", True),
        "scale_input": encoder.get("scale_input", True),
    }
    layers = encoder.get("num_hidden_layers", 24)
    model = {"encoder": "conformer", "layers": layers, "hidden": width, "conformer": conformer}
    return {"features": features, "model": model}


def build_extractor(cfg: FeatureConfig, rate_hz: int, folder: Path) -> ParakeetExtractor:
    """Build what makes the network's input.

    Raises:
        CheckpointError: its settings do not fit together.
    """
    try:
        return ParakeetExtractor(cfg, rate_hz)
    except ConfigError as error:
        raise CheckpointError(str(error), folder) from error


def plan(cfg: ModelConfig, features: FeatureConfig, tokens: int, folder: Path) -> TrainableNetwork:
    """Build the network without memory for its weights.

    Raises:
        CheckpointError: its sizes do not fit together.
    """
    try:
        return plan_network(cfg, features.num_mels, tokens)
    except ConfigError as error:
        raise CheckpointError(str(error), folder / "config.json") from error


def fill(network: TrainableNetwork, tensors: Mapping[str, Tensor], path: Path, columns: Sequence[int]) -> None:
    """Give a planned network the weights of a folder; outputs that are not among the columns are left out.

    Raises:
        CheckpointError: they are not those that ``config.json`` asks for.
    """
    check_weights(network, tensors, path, "config.json")
    fill_network(network, tensors, columns)
    network.eval()


def _encoder(data: Mapping[str, Any]) -> Mapping[str, Any]:
    encoder = data.get("encoder_config")
    return encoder if isinstance(encoder, Mapping) else {}


def _seconds(samples: Any, rate_hz: int) -> Any:
    is_number = isinstance(samples, int) and not isinstance(samples, bool)
    return samples / rate_hz if is_number else samples
