"""A Conformer of ours in the files of ``transformers``.

Source: what ``ParakeetForCTC``, ``ParakeetFeatureExtractor`` and ``ParakeetTokenizer`` of transformers 5.24 read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from asr.config import ConformerConfig
from asr.data.tokenizer import BLANK_ID
from asr.features.parakeet import ParakeetExtractor
from asr.model.hf.export_tokenizer import parakeet_tokenizer_files
from asr.model.hf.parakeet import ARCHITECTURE, INPUT, PREEMPHASIS
from asr.model.parakeet import HEAD
from asr.model.trainable import TrainableModel

_OUTPUT = "output."
#: for the card
USAGE = (
    "Recordings may be given together: `processor.feature_extractor(recordings, sampling_rate=...)` makes the "
    "`attention_mask` that keeps padding out (`processor` itself takes 16 kHz alone). `processor.batch_decode(ids)` "
    "merges repeats and drops blanks."
)


def unfit(model: TrainableModel) -> str:
    """Say what ``ParakeetForCTC`` has no setting for; empty: it has one for everything."""
    cfg = model.network.cfg
    own = cfg.conformer
    for key, value, usual in (
        ("features.kind", model.extractor.cfg.kind, "parakeet"),
        ("model.conformer.subsampling_kind", own.subsampling_kind, "depthwise"),
        ("model.conformer.norm", own.norm, "batch"),
        ("model.conformer.self_conditioning", own.self_conditioning, False),
    ):
        if value != usual:
            return f"{ARCHITECTURE} of transformers has {key}: {_yaml(usual)} only, and this model {_yaml(value)}"
    # Its code of distances has a cosine for each sine.
    return f"{ARCHITECTURE} of transformers needs an even model.hidden, and this is {cfg.hidden}" * (cfg.hidden % 2)


def json_files(model: TrainableModel) -> dict[str, Any]:
    """Return the content of all files but the weights, by name."""
    extractor = model.extractor
    assert isinstance(extractor, ParakeetExtractor)
    config = {"config.json": _config(model), "preprocessor_config.json": _preprocessor(extractor, model)}
    return config | parakeet_tokenizer_files(model.tokenizer)


def hub_tensors(own: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Return our weights by the names of ``transformers``, whose head is a convolution of one tap."""
    head = {
        name.replace(_OUTPUT, HEAD, 1): tensor[:, :, None] if tensor.ndim == 2 else tensor
        for name, tensor in own.items()
        if name.startswith(_OUTPUT)
    }
    return head | {name: tensor for name, tensor in own.items() if not name.startswith(_OUTPUT)}


def _config(model: TrainableModel) -> dict[str, Any]:
    """Return ``config.json``: the sizes, and how training disturbs the network, should somebody train on."""
    cfg, bins = model.network.cfg, model.extractor.num_bins
    encoder = {
        "model_type": "parakeet_encoder",
        "hidden_size": cfg.hidden,
        "num_hidden_layers": cfg.layers,
        "num_mel_bins": bins,
        **_sizes(cfg.conformer, cfg.hidden),
        "hidden_act": "silu",
        "dropout": cfg.dropout,
        "activation_dropout": cfg.dropout,
        "attention_dropout": cfg.dropout,
        "dropout_positions": 0.0,
        # the same for all layers there; here it rises to this at the last one
        "layerdrop": cfg.conformer.layer_drop / 2,
    }
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "parakeet_ctc",
        "encoder_config": encoder,
        "vocab_size": model.tokenizer.vocabulary_size,
        "pad_token_id": BLANK_ID,
        "ctc_loss_reduction": "sum",
        "torch_dtype": "float32",
    }


def _sizes(own: ConformerConfig, hidden: int) -> dict[str, Any]:
    return {
        "num_attention_heads": own.heads,
        "intermediate_size": own.feed_forward * hidden,
        "attention_bias": own.bias,
        "convolution_bias": own.bias,
        "conv_kernel_size": own.kernel,
        "subsampling_factor": own.subsampling,
        "subsampling_conv_channels": own.subsampling_channels,
        "subsampling_conv_kernel_size": 3,
        "subsampling_conv_stride": 2,
        "scale_input": own.scale_input,
    }


def _preprocessor(extractor: ParakeetExtractor, model: TrainableModel) -> dict[str, Any]:
    """Return ``preprocessor_config.json``: how the network takes sound."""
    return {
        "feature_extractor_type": INPUT,
        "feature_size": extractor.num_bins,
        "sampling_rate": model.audio.sample_rate_hz,
        "hop_length": extractor.hop,
        "n_fft": extractor.fft,
        "win_length": len(extractor.window_n),
        "preemphasis": PREEMPHASIS,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "processor_class": "ParakeetProcessor",
    }


def _yaml(value: str | bool) -> str:
    return str(value).lower()
