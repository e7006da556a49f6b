"""Write a model of ours as a folder that ``transformers`` loads, for the Hugging Face hub.

Source: what ``Wav2Vec2ForCTC``, ``HubertForCTC``, ``WavLMForCTC`` and ``Wav2Vec2Processor`` of transformers 5.24 read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from asr.config.networks import Wav2Vec2Shape
from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer
from asr.errors import ConfigError
from asr.files import replace_folder, write_json, write_text
from asr.model.checkpoint import TrainableModel, find_model, load_trainable, model_tensors
from asr.model.hf.card import write_card
from asr.model.tensor_files import read_object, write_tensors, writing

#: the class of ``transformers`` for each family
_ARCHITECTURES = {"wav2vec2": "Wav2Vec2ForCTC", "hubert": "HubertForCTC", "wavlm": "WavLMForCTC"}
#: names for the blank: the first that is no token of the model is taken
_BLANKS = ("<pad>", "[PAD]", "<blank>", "[BLANK]")
_SPACE = "|"
_MASK = "body.masked_spec_embed"


def export_model(path: str | Path, out: Path) -> None:
    """Write the model in a folder, or in a run's ``best``, to a new folder in the format of Hugging Face.

    Raises:
        CheckpointError: there is no whole model, or the folder cannot be written.
        ConfigError: ``transformers`` has no network of its kind; or the folder is not empty.
    """
    model = load_trainable(path)
    encoder, shape = model.network.cfg.encoder, model.network.cfg.wav2vec2.shape
    if encoder != "wav2vec2" or shape is None:
        raise ConfigError(
            f"{path}: transformers has no network like ours with model.encoder: {encoder}; what can be exported was "
            "fine-tuned from wav2vec 2.0, HuBERT or WavLM (model.encoder: wav2vec2)"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; choose another folder, or remove it")

    measured = find_model(path) / "results.json"
    results = read_object(measured) if measured.is_file() else {}
    config = _config(model, shape)
    with writing(out), replace_folder(out) as part:
        write_tensors(part / "model.safetensors", _tensors(model, config), {"format": "pt"})
        write_json(part / "config.json", config)
        write_json(part / "preprocessor_config.json", _preprocessor(model, shape))
        for name, content in tokenizer_files(model.tokenizer).items():
            write_json(part / name, content)
        write_text(part / "README.md", write_card(model, results))


def _tensors(model: TrainableModel, config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights by the names of ``transformers``, which has none for masks where nothing is masked."""
    own = {name.removeprefix("network."): tensor for name, tensor in model_tensors(model).items()}
    if not config["mask_time_prob"] and not config["mask_feature_prob"]:
        del own[_MASK]
    family = config["model_type"]
    return {
        name.replace("body.", f"{family}.", 1)
        if name.startswith("body.")
        else name.replace("output.", "lm_head.", 1): t
        for name, t in own.items()
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


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the files of a tokenizer whose ids are ours, by name."""
    blank = next(name for name in _BLANKS if name not in tokenizer.symbols)
    settings = {
        "pad_token": blank,
        # None: with names, transformers would give them ids above the network's outputs.
        "bos_token": None,
        "eos_token": None,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "processor_class": "Wav2Vec2Processor",
    }
    # Wav2Vec2CTCTokenizer loses the spaces beside tokens of several letters, and knows no other sign for them than "|".
    if any(len(symbol) > 1 or symbol == _SPACE for symbol in tokenizer.symbols):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        return {"tokenizer.json": _pieces(tokenizer, blank), "tokenizer_config.json": settings}

    tokens = [blank, *(_SPACE if symbol == " " else symbol for symbol in tokenizer.symbols)]
    settings |= {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": _SPACE, "do_lower_case": False}
    return {
        "vocab.json": {token: i for i, token in enumerate(tokens)},
        "tokenizer_config.json": settings | {"replace_word_delimiter_char": " "},
    }


def _pieces(tokenizer: Tokenizer, blank: str) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of pieces of words, in the format of the library ``tokenizers``.

    All pieces have one score, so that a text is written with the fewest of them.
    """
    words = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": True}
    has_words = any(symbol[0] == WORD_START for symbol in tokenizer.symbols)
    merge = {"type": "CTC", "pad_token": blank, "word_delimiter_token": WORD_START, "cleanup": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": BLANK_ID,
                "content": blank,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": words if has_words else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [merge, words] if has_words else [merge]},
        "model": {
            "type": "Unigram",
            "unk_id": None,
            "vocab": [[blank, 0.0], *([symbol, -1.0] for symbol in tokenizer.symbols)],
            "byte_fallback": False,
        },
    }
