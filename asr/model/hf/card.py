"""The model card, README.md: what its author says of licence, language and data, and one for a model of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from asr.config.documents import read_yaml
from asr.files import open_regular
from asr.model.contract import AcousticModel
from asr.model.hf.names import is_hf, parse

_FRONT_MATTER = re.compile(rb"\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
#: bytes: the longest front matters, with tables of results, have some 100 kB
_MOST = 256 << 10
#: characters of a value that is shown, and entries of a list: MMS names 1,130 languages
_LONGEST, _MOST_ENTRIES = 80, 8
#: keys of the card -> how they are called here
_KEYS = {"license": "licence", "license_name": "licence name", "language": "language", "datasets": "corpus"}
_KEYS |= {"base_model": "pretrained_on"}


def read_card(folder: Path) -> dict[str, str]:
    """Return licence, language, corpus and base model as far as the card names them; it is text of a stranger.

    A card that is missing or damaged says nothing: no model needs it.
    """
    try:
        with open_regular(folder / "README.md") as file:
            found = _FRONT_MATTER.match(file.read(_MOST))
        card = read_yaml(found[1].decode("utf-8")) if found else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(card, dict):
        return {}
    values = {ours: _shown(card.get(theirs)) for theirs, ours in _KEYS.items()}
    return {key: value for key, value in values.items() if value}


def _shown(value: Any) -> str:
    """Return a value of the card on one short line; empty for what is no text, number or list of them."""
    entries = value if isinstance(value, list) else [value]
    # YAML reads the language Norwegian, no, as false
    texts = ["no" if one is False else str(one) for one in entries if isinstance(one, str | int | float)]
    texts = [" ".join(text.split())[:_LONGEST] for text in texts]
    more = f" and {len(texts) - _MOST_ENTRIES:,} more" if len(texts) > _MOST_ENTRIES else ""
    return ", ".join(texts[:_MOST_ENTRIES]) + more


def write_card(model: AcousticModel, results: Mapping[str, Any], usage: str) -> str:
    """Return the card of a model of ours: what it was made of, what was measured, how it is used.

    Args:
        results: of its model folder: by split, the error rates.
        usage: what to know when the folder is used.
    """
    made = model.training
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["automatic-speech-recognition", "ctc"],
    }
    source = str(made.get("started_from", ""))
    if is_hf(source) and parse(source).folder is None:
        front["base_model"] = parse(source).place

    facts = {
        "started from": source,
        "corpus": made.get("corpus"),
        "hours of training data": made.get("train_hours"),
        "parameters": f"{model.num_parameters:,}",
        "sample rate": f"{model.audio.sample_rate_hz} Hz",
        "text": f"normalization {model.text.normalization}, {model.tokenizer.vocabulary_size - 1} tokens and the blank",
        "made with": f"asr {made.get('asr', '')}".strip(),
    }
    for split, result in results.items():
        if isinstance(result, dict) and isinstance(wer := result.get("wer"), dict) and "rate" in wer:
            facts[f"word error rate, {split}"] = f"{wer['rate']:.2%}"
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value not in (None, "")]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# Speech recognition: {_cell(made.get('corpus') or 'a fine-tuned model')}",
            "",
            "*Before you publish this: add the licence and the language to the lines above (`license:`, `language:`).*",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            usage,
            "",
        ]
    )


def _cell(value: Any) -> str:
    """Return a value on one line of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
