"""The model card: what the author of a model says of its licence, language and data, in README.md's front matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from asr.config.reading import read_yaml
from asr.files import open_regular

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
