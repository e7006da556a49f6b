"""What is known of a model folder, trained or exported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import read_tokenizer
from asr.info.parts import bytes_in, corpus_name, decoder_facts, layer_rows, result_facts, token_facts, training_facts
from asr.machine import needing_torch

if TYPE_CHECKING:
    from asr.model.contract import AnyExtractor
    from asr.model.folder import ModelFolderConfig
    from asr.model.onnx.card import ExportFacts
    from asr.model.parts import Part


def model_facts(path: Path) -> dict[str, Any]:
    from asr.model.folder import find_model, read_model_config

    folder = find_model(path)
    config = read_model_config(folder)
    if config.export is not None:
        rows, extractor, tokenizer = exported_parts(folder, config, config.export)
    else:
        rows, extractor, tokenizer = (
            recurrent_parts(folder) if config.model.encoder == "recurrent" else parts_by_torch(folder)
        )
    frames = math.prod(config.model.time_strides)
    facts: dict[str, Any] = {
        "path": str(folder),
        "parameters": sum(parameters for _, _, parameters in rows),
        "bytes": bytes_in(folder),
        "network": layer_rows(rows),
        "features": extractor.describe(),
        "audio": f"{config.audio.sample_rate_hz} Hz",
        "step": f"{frames * extractor.hop / config.audio.sample_rate_hz * 1000:g} ms",
        "tokens": token_facts(tokenizer),
        "text normalization": config.text.normalization,
        "streaming": streaming_fact(config, extractor),
    }
    if config.export is not None:
        facts |= export_facts(config.export)
    training = dict(config.training)
    facts |= training_facts(training | {"corpus": training.get("corpus") or corpus_name(folder)})
    return facts | result_facts(folder) | decoder_facts(folder)


def streaming_fact(config: ModelFolderConfig, extractor: AnyExtractor) -> str:
    """Say whether a model takes live streams, and how long after a sound its text can come."""
    from asr.features import stream
    from asr.features.frames import FeatureExtractor
    from asr.model.streamable import frames_ahead, why_not

    why = why_not(config.model) or stream.why_not(extractor)
    if not why and config.export is not None and not config.export.streaming:
        why = "it was exported without --streaming"
    if why or not isinstance(extractor, FeatureExtractor):
        return f"no: {why}"
    delay_s = stream.delay_s(extractor, frames_ahead(config.model))
    return f"yes, {delay_s * 1000:g} ms behind what is said (asr listen, asr serve)"


def recurrent_parts(folder: Path) -> tuple[list[Part], AnyExtractor, Tokenizer]:
    """Read what a model folder of a recurrent network holds, without torch."""
    from asr.model.parts import parts_of
    from asr.model.use import open_folder

    opened = open_folder(folder)
    extractor, tokenizer = opened.extractor, opened.tokenizer
    return parts_of(opened.config.model, extractor.num_bins, tokenizer.vocabulary_size), extractor, tokenizer


def exported_parts(
    folder: Path, config: ModelFolderConfig, export: ExportFacts
) -> tuple[list[Part], AnyExtractor, Tokenizer]:
    """Read what an exported folder says of its network; the graph itself is not loaded."""
    from asr.features.build import build_extractor
    from asr.model.parts import parts_of

    tokenizer = read_tokenizer(folder / "tokenizer.json")
    extractor = build_extractor(config.features, config.audio.sample_rate_hz)
    parts: list[Part] = [(config.model.encoder, f"{config.model.layers} layers", export.parameters)]
    if config.model.encoder == "recurrent":
        parts = parts_of(config.model, extractor.num_bins, tokenizer.vocabulary_size)
    return parts, extractor, tokenizer


def export_facts(export: ExportFacts) -> dict[str, Any]:
    """Return what is known of a graph."""
    takes = "samples" if export.features_in_graph else "features"
    pieces = ", a piece at a time" if export.streaming else ""
    return {
        "graph": f"ONNX, takes {takes}{pieces}, weights in {export.weights}, written by asr {export.asr}",
        "graph differs": f"by at most {export.max_difference:.1e} in a log-probability",
        "cannot": "be trained: give the model that it was exported from",
    }


def parts_by_torch(folder: Path) -> tuple[list[Part], AnyExtractor, Tokenizer]:
    """Read what a model folder of another network holds."""
    with needing_torch(f"{folder}: this kind of network"):
        from asr.model.checkpoint import load_trainable
        from asr.model.trainable import describe as describe_network

    model = load_trainable(folder)
    return describe_network(model.network), model.extractor, model.tokenizer
