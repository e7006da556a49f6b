"""What is known of a published model, as far as its weights need not be fetched for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import command
from asr.info.parts import NO_RESULTS, bytes_in, decoder_facts, layer_rows, token_facts, training_facts
from asr.model.nemo.names import parse

if TYPE_CHECKING:
    from asr.model.published import Published


def bundle_facts(thing: str) -> dict[str, Any]:
    """Return what is known without the weights, which are not downloaded for this."""
    from asr.model import bundles

    known = bundles.describe(thing)
    is_here = known.weights.is_file()
    facts = {
        "path": str(known.weights) if is_here else f"not here: downloaded to {known.weights} when it is first used",
        "bytes": known.weights.stat().st_size if is_here else None,
    }
    return facts | published_facts(thing, bundles)


def hugging_face_facts(thing: str) -> dict[str, Any]:
    """Return what a folder says of its model; of its weights only names and shapes are read."""
    from asr.model.hf import published
    from asr.model.hf.config import read_config
    from asr.model.hf.folder import locate
    from asr.model.hf.names import parse as parse_hf

    folder = locate(parse_hf(thing))
    if read_config(folder, any_head=True).only_pretrained:
        return pretrained_facts(thing, folder)
    known = published.describe(thing)
    facts: dict[str, Any] = {
        "path": str(known.folder),
        "bytes": bytes_in(known.folder),
    }
    facts |= published_facts(thing, published)
    if known.config.why_other:
        facts["features"] = f"by transformers: {known.config.why_other}"
        facts["cannot"] = "be trained: it can be used as it is"
    return facts


def pretrained_facts(thing: str, folder: Path) -> dict[str, Any]:
    """Return what a folder says of a network without an output for text; its weights are not read."""
    from asr.features.build import build_extractor
    from asr.model.build import build_network
    from asr.model.hf.card import read_card
    from asr.model.hf.start import start_stages
    from asr.model.tensor_files import planned

    stages = start_stages(thing)
    rate_hz = stages.audio.sample_rate_hz
    network = planned(lambda: build_network(stages.model, 1, vocabulary_size=1))
    rows = list(network.part_rows())
    return {
        "path": str(folder),
        "bytes": bytes_in(folder),
        "parameters": sum(count for _, _, count in rows),
        "network": layer_rows(rows),
        "features": build_extractor(stages.features, rate_hz).describe(),
        "audio": f"{rate_hz} Hz",
        "step": f"{1000 * network.stride / rate_hz:g} ms",
        "tokens": "none: it has no output for text",
        **training_facts(read_card(folder)),
        "cannot": f"write text before it is trained: {command('train', 'finetune/wav2vec2', '--init', thing)}",
    }


def nemo_facts(thing: str) -> dict[str, Any]:
    """Return what a file says of its model; of its weights only names and shapes are read."""
    from asr.model.nemo import published

    path = parse(thing)
    facts = published_facts(thing, published)  # which says what is wrong with the file
    return {"path": str(path), "bytes": path.stat().st_size} | facts


def published_facts(thing: str, kind: Published) -> dict[str, Any]:
    """Return what is known of any published model."""
    known = kind.describe(thing)
    rows = kind.parts(thing)
    rate_hz = known.audio.sample_rate_hz
    facts: dict[str, Any] = {
        "parameters": sum(count for _, _, count in rows),
        "network": layer_rows(rows),
        "features": known.extractor.describe(),
        "audio": f"{rate_hz} Hz",
        "step": f"{1000 * known.stride / rate_hz:g} ms",
        "tokens": token_facts(known.tokenizer),
        "text normalization": known.text.normalization,
    }
    facts |= training_facts(known.training) | {"results": NO_RESULTS}
    return facts | decoder_facts(kind.settings_folder(thing), kind.shipped_settings(thing))
