"""The config of a folder of the Hugging Face hub: which network its weights are for, and what it takes as input."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from asr.config import FeatureConfig, ModelConfig, Stage, parse
from asr.config.networks import Wav2Vec2Shape
from asr.errors import CheckpointError, ConfigError
from asr.limits import check_attention
from asr.model.hf import parakeet
from asr.model.model_files import read_object
from asr.model.trainable import check_attention_of

#: the architectures that need no ``transformers``, and the name that their weights begin with
LEAN = {"Wav2Vec2ForCTC": "wav2vec2", "HubertForCTC": "hubert", "WavLMForCTC": "wavlm"}
_CTC = {family: architecture for architecture, family in LEAN.items()}
#: letters of a class of ``transformers``
_LONGEST_NAME = 64
#: of a network that was only pretrained
_HEADLESS = re.compile(r"(?:Wav2Vec2|Hubert|WavLM)(?:Model|ForPreTraining)")


class HfConfig(Stage):
    """Hold what the config files of a folder say."""

    #: a class of ``transformers``: Wav2Vec2ForCTC
    architecture: str
    model_type: str
    #: what weights are named by, or "other": a network for which ``transformers`` is needed
    family: Literal["wav2vec2", "hubert", "wavlm", "parakeet", "other"]
    #: why ``transformers`` is needed, in a few words; empty if it is not
    why_other: str = ""
    sample_rate_hz: int = Field(ge=1000, le=768_000)
    #: bring each utterance to mean 0 and variance 1
    normalize: bool
    #: it has no head for recognition
    only_pretrained: bool = False
    #: of a wav2vec 2.0, HuBERT or WavLM
    shape: Wav2Vec2Shape | None = None
    #: of a Parakeet
    features: FeatureConfig | None = None
    model: ModelConfig | None = None


def read_config(folder: Path, *, any_head: bool = False) -> HfConfig:
    """Read ``config.json``, and ``preprocessor_config.json`` or what stands for it, of a folder.

    Args:
        any_head: take networks of the lean families without a head for recognition, too: to train one.

    Raises:
        CheckpointError: a file is missing or not what it should be, the network writes no text with CTC, or a size is
            out of bounds.
    """
    path = folder / "config.json"
    data = read_object(path)
    architecture = _CTC.get(str(data.get("model_type"))) if any_head else None
    architecture = architecture or _architecture(data, path)
    sound, sound_path = _read_sound(folder)
    rate_hz = sound.get("sampling_rate", 16_000)
    if not isinstance(rate_hz, int) or isinstance(rate_hz, bool) or not 1000 <= rate_hz <= 768_000:
        raise CheckpointError(f"sampling_rate must be a number from 1000 to 768000, got {rate_hz!r:.40}", sound_path)

    values = {
        "architecture": architecture,
        "model_type": data.get("model_type", "unknown"),
        "sample_rate_hz": rate_hz,
        "normalize": sound.get("do_normalize", True),
        "only_pretrained": any_head and _is_without_head(data),
    }
    if why_other := _why_other(architecture, data, sound):
        values |= {"family": "other", "why_other": why_other}
    elif architecture == parakeet.ARCHITECTURE:
        values |= {"family": "parakeet", **parakeet.stages(data, sound, rate_hz)}
    else:
        values |= {"family": LEAN[architecture], "shape": _shape(data, LEAN[architecture], path)}
    try:
        config = parse(HfConfig, values, str(path))
        _check_attention(config)
        return config
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def _is_without_head(data: dict[str, Any]) -> bool:
    named = data.get("architectures")
    return isinstance(named, list) and len(named) == 1 and bool(_HEADLESS.fullmatch(str(named[0])))


def _check_attention(config: HfConfig) -> None:
    shape, frame_s = config.shape, 1 / config.sample_rate_hz
    if shape is not None:
        check_attention(shape.num_attention_heads, frame_s * math.prod(conv.stride for conv in shape.convs))
    elif config.model is not None and config.features is not None:
        check_attention_of(config.model, config.features.hop_s)


def _why_other(architecture: str, data: dict[str, Any], sound: dict[str, Any]) -> str:
    """Say why ``transformers`` is needed; empty if it is not."""
    if architecture == parakeet.ARCHITECTURE:
        return parakeet.unusual(data, sound)
    if architecture not in LEAN:
        return f"{architecture} is no wav2vec 2.0, HuBERT, WavLM or Parakeet"
    return _unusual(data, sound)


def _architecture(data: dict[str, Any], path: Path) -> str:
    """Return the class of a network that writes text with CTC."""
    named = data.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        got = str(named)[:80]
        raise CheckpointError(f"'architectures' must name one network, such as Wav2Vec2ForCTC; got {got}", path)
    architecture: str = named[0]
    if not architecture.endswith("ForCTC") or len(architecture) > _LONGEST_NAME:
        remedy = ""
        if str(data.get("model_type")) in _CTC:
            remedy = "; it can be trained to be one: 'asr train finetune/wav2vec2' takes it with --init"
        raise CheckpointError(
            f"{architecture[:_LONGEST_NAME]} is no network for recognition with CTC (Wav2Vec2ForCTC and the like)"
            f"{remedy}",
            path,
        )
    return architecture


def _read_sound(folder: Path) -> tuple[dict[str, Any], Path]:
    """Read the settings of the input and return their file, too; transformers 5 has another one than those before."""
    path = folder / "preprocessor_config.json"
    if path.exists():
        return read_object(path), path
    newer = folder / "processor_config.json"
    if newer.exists():
        sound = read_object(newer).get("feature_extractor")
        if isinstance(sound, dict):
            return sound, newer
    raise CheckpointError(
        "missing: it says at which rate and scale the network takes sound (or processor_config.json does)", path
    )


#: what the networks here do not have, and the one value that they stand for
_ONLY = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "conv_pos_batch_norm": False,
}


def _unusual(data: dict[str, Any], sound: dict[str, Any]) -> str:
    """Name the first setting for which ``transformers`` is needed."""
    for key, usual in _ONLY.items():
        if data.get(key, usual) != usual:
            return f"{key} is {data[key]!r:.40}"
    kind = sound.get("feature_extractor_type", "Wav2Vec2FeatureExtractor")
    if kind != "Wav2Vec2FeatureExtractor" or sound.get("feature_size", 1) != 1:
        return f"its input is made by {kind!s:.40}"
    return ""


def _shape(data: dict[str, Any], family: str, path: Path) -> dict[str, Any]:
    """Return the sizes, where they are not given those of ``transformers``' own configs."""
    lists = {
        "channels": data.get("conv_dim", [512] * 7),
        "kernel": data.get("conv_kernel", [10, 3, 3, 3, 3, 2, 2]),
        "stride": data.get("conv_stride", [5, 2, 2, 2, 2, 2, 2]),
    }
    if not all(isinstance(values, list) for values in lists.values()) or len(set(map(len, lists.values()))) != 1:
        raise CheckpointError("conv_dim, conv_kernel and conv_stride must be lists of one length", path)
    stable = data.get("do_stable_layer_norm", False)
    return {
        "family": family,
        "convs": [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)],
        "conv_bias": data.get("conv_bias", False),
        "feat_extract_norm": data.get("feat_extract_norm", "group"),
        # HuBERT alone has the switch.
        "feat_proj_layer_norm": data.get("feat_proj_layer_norm", True) if family == "hubert" else True,
        "hidden_size": data.get("hidden_size", 768),
        "num_hidden_layers": data.get("num_hidden_layers", 12),
        "num_attention_heads": data.get("num_attention_heads", 12),
        "intermediate_size": data.get("intermediate_size", 3072),
        "do_stable_layer_norm": stable,
        "layer_norm_eps": data.get("layer_norm_eps", 1e-5),
        "num_conv_pos_embeddings": data.get("num_conv_pos_embeddings", 128),
        "num_conv_pos_embedding_groups": data.get("num_conv_pos_embedding_groups", 16),
        # transformers has adapters in layers with norms first only, and none in WavLM.
        "adapter_attn_dim": data.get("adapter_attn_dim") if stable and family != "wavlm" else None,
        "num_buckets": data.get("num_buckets", 320),
        "max_bucket_distance": data.get("max_bucket_distance", 800),
    }
