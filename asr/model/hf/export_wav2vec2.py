"""A wav2vec 2.0, HuBERT or WavLM of ours in the files of ``transformers``.

Source: what ``Wav2Vec2ForCTC``, ``HubertForCTC``, ``WavLMForCTC`` and ``Wav2Vec2Processor`` of transformers 5.24 read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from asr.config.networks import Wav2Vec2Shape
from asr.data.tokenizer import BLANK_ID
from asr.model.hf.export_tokenizer import tokenizer_files
from asr.model.trainable import TrainableModel

#: the class of ``transformers`` for each family
_ARCHITECTURES = {"wav2vec2": "Wav2Vec2ForCTC", "hubert": "HubertForCTC", "wavlm": "WavLMForCTC"}
_MASK = "body.masked_spec_embed"
#: for the card
USAGE = (
    "Give the network one recording at a time, or recordings of one length: with group norm, padding would "
    "change what it answers. Merge repeats before blanks are dropped: "
    "`processor.decode(ids, skip_special_tokens=False)`."
)


def json_files(model: TrainableModel) -> dict[str, Any]:
    """Return the content of all files but the weights, by name."""
    shape = model.network.cfg.wav2vec2.shape
    assert shape is not None
    config = {"config.json": _config(model, shape), "preprocessor_config.json": _preprocessor(model, shape)}
    return config | tokenizer_files(model.tokenizer)


def hub_tensors(own: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Return our weights by the names of ``transformers``, which has none for masks where nothing is masked."""
    is_masked = config["mask_time_prob"] or config["mask_feature_prob"]
    family = config["model_type"]
    return {
        name.replace("body.", f"{family}.", 1)
        if name.startswith("body.")
        else name.replace("output.", "lm_head.", 1): t
        for name, t in own.items()
        if is_masked or name != _MASK
    }


def _config(model: TrainableModel, shape: Wav2Vec2Shape) -> dict[str, Any]:
    """Return ``config.json``: the sizes, and how training disturbs the network, should somebody train on."""
    cfg = model.network.cfg
    train = cfg.wav2vec2
    sizes = shape.model_dump(mode="json", exclude={"family", "convs"})
    # WavLM alone has buckets, HuBERT the switch of a norm, and wav2vec 2.0 adapters.
    foreign = {
        "wav2vec2": ("num_buckets", "max_bucket_distance", "feat_proj_layer_norm"),
        "hubert": ("num_buckets", "max_bucket_distance"),
        "wavlm": ("feat_proj_layer_norm", "adapter_attn_dim"),
    }
    for key in foreign[shape.family]:
        del sizes[key]
    return {
        "architectures": [_ARCHITECTURES[shape.family]],
        "model_type": shape.family,
        "conv_dim": [conv.channels for conv in shape.convs],
        "conv_kernel": [conv.kernel for conv in shape.convs],
        "conv_stride": [conv.stride for conv in shape.convs],
        **sizes,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "vocab_size": model.tokenizer.vocabulary_size,
        "pad_token_id": BLANK_ID,
        "bos_token_id": None,
        "eos_token_id": None,
        "hidden_dropout": cfg.dropout,
        "feat_proj_dropout": cfg.dropout,
        "final_dropout": cfg.dropout,
        "attention_dropout": train.attention_dropout,
        "activation_dropout": train.activation_dropout,
        "layerdrop": train.layer_drop,
        # the share of a mask's beginnings here, of what masks would cover without overlaps there
        "mask_time_prob": min(1.0, train.mask_time_probability * train.mask_time_steps),
        "mask_time_length": train.mask_time_steps,
        "mask_feature_prob": min(1.0, train.mask_channel_probability * train.mask_channel_width),
        "mask_feature_length": train.mask_channel_width,
        "ctc_loss_reduction": "sum",
        "torch_dtype": "float32",
    }


def _preprocessor(model: TrainableModel, shape: Wav2Vec2Shape) -> dict[str, Any]:
    """Return ``preprocessor_config.json``: how the network takes sound."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": model.audio.sample_rate_hz,
        "do_normalize": model.extractor.cfg.normalization == "utterance",
        "padding_side": "right",
        "padding_value": 0.0,
        # transformers has no masks for networks with group norm
        "return_attention_mask": shape.feat_extract_norm == "layer",
        "processor_class": "Wav2Vec2Processor",
    }
