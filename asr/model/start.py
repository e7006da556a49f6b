"""The model that a training starts from (``train.init``): one of ours, or a published one."""

from __future__ import annotations

import logging
from pathlib import Path

from asr.config import ModelConfig, RunConfig, parse
from asr.data.prepared import tokenizer_of
from asr.data.tokenizer import Tokenizer
from asr.errors import CheckpointError, ConfigError
from asr.model.checkpoint import load_trainable
from asr.model.folder import find_model, published, read_model_config, refuse_exported
from asr.model.trainable import ModelStages, TrainableModel

log = logging.getLogger(__name__)

#: keys that say how a network is disturbed in training, not what it computes: they stay as the config has them
TRAINING_KEYS = {
    "conformer": ("layer_drop", "inter_layers", "self_conditioning"),
    "wav2vec2": (
        "attention_dropout",
        "activation_dropout",
        "layer_drop",
        "mask_time_probability",
        "mask_time_steps",
        "mask_channel_probability",
        "mask_channel_width",
    ),
}
#: where a config for a kind of network is
_EXAMPLES = {"wav2vec2": " (as finetune/wav2vec2 has them)", "conformer": " (as finetune/parakeet has them)"}


def load_start(init: str) -> TrainableModel:
    """Load the model that a training starts from.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: it is one that cannot be trained.
    """
    known = published(init)
    return load_trainable(init) if known is None else known.load_to_train(init)


def start_tokenizer(init: str) -> Tokenizer:
    """Return the tokens of the model that a training starts from.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: there is no such folder.
    """
    known = published(init)
    if known is None:
        return tokenizer_of(init)
    try:
        return known.describe(init).tokenizer
    except CheckpointError as error:  # it was only pretrained, or its vocabulary is damaged
        raise CheckpointError(
            f"{error}; its tokens are asked for by text.tokenizer: to take those of the training texts, set it to char"
        ) from error


def origin_of(init: str) -> str:
    """Return the name of the model that a training starts from, without the place where this machine has it.

    >>> origin_of("hf:facebook/wav2vec2-base"), origin_of("/home/me/runs/1/best"), origin_of("hf:/home/me/models/big")
    ('hf:facebook/wav2vec2-base', '1/best', 'models/big')
    """
    kind, colon, place = init.partition(":")
    path = Path(place if colon and kind.isalnum() else init)
    return "/".join(path.parts[-2:]) if path.is_absolute() else init


def resolve_start(cfg: RunConfig) -> RunConfig:
    """Return the config with the network of ``train.init``, where that decides it: then a run stands alone.

    It does so if it is a published one, or if ``model.wav2vec2`` has no shape.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: its network is of another kind than the config's, or cannot be trained.
    """
    init, encoder = cfg.train.init, cfg.model.encoder
    has_no_shape = encoder == "wav2vec2" and cfg.model.wav2vec2.shape is None
    if init is None:
        if has_no_shape:
            raise ConfigError(
                "model.encoder is wav2vec2, which is as large as the model that training starts from: name it with "
                "--init hf:FOLDER_OR_NAME (or --set train.init=hf:FOLDER_OR_NAME), or set model.wav2vec2.shape",
                key="train.init",
            )
        return cfg

    known = published(init)
    if known is None and not has_no_shape:
        return cfg
    stages = _own_stages(init) if known is None else known.start_stages(init)
    if stages.model.encoder != encoder:
        raise ConfigError(
            f"train.init: the network of {init} is of the kind {stages.model.encoder}, and model.encoder is {encoder}: "
            f"set model.encoder={stages.model.encoder} and features.kind={stages.features.kind}"
            f"{_EXAMPLES.get(stages.model.encoder, '')}",
            key="model.encoder",
        )
    data = cfg.model_dump(mode="json")
    data["model"] = _with_training_keys(stages.model, cfg.model).model_dump(mode="json")
    data["features"] = stages.features.model_copy(update={"dither": cfg.features.dither}).model_dump(mode="json")
    data["audio"]["sample_rate_hz"] = stages.audio.sample_rate_hz
    resolved = parse(RunConfig, data, init)
    _say_what_differs(cfg, resolved, init)
    return resolved


def _own_stages(init: str) -> ModelStages:
    folder = find_model(init)
    refuse_exported(folder)
    config = read_model_config(folder)
    return ModelStages(config.audio, config.features, config.model)


def _with_training_keys(network: ModelConfig, cfg: ModelConfig) -> ModelConfig:
    """Return a network's config with the keys of the run's that only training knows."""
    kind = network.encoder
    stage = getattr(network, kind, None)
    update = {"dropout": cfg.dropout}
    if kind not in TRAINING_KEYS or stage is None:
        return network.model_copy(update=update)
    keys = {key: getattr(getattr(cfg, kind), key) for key in TRAINING_KEYS[kind]}
    return network.model_copy(update={**update, kind: stage.model_copy(update=keys)})


def _say_what_differs(cfg: RunConfig, own: RunConfig, init: str) -> None:
    """Log the keys in which the input of a network is not what the config asks for."""
    stages = {"audio": (cfg.audio, own.audio), "features": (cfg.features, own.features)}
    differing = [
        f"{stage}.{key}={value}"
        for stage, (asked, taken) in stages.items()
        for key, value in taken.model_dump().items()
        if getattr(asked, key) != value
    ]
    if differing:
        log.info("%s takes its own input: %s", init, ", ".join(differing))
