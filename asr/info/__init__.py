"""Describe a model, a manifest, a language model or a training config, for ``asr info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr.data.tokenizer_file import FILE as TOKENIZER_FILE
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import AsrError, ConfigError
from asr.info.files import config_facts, is_language_model, language_model_facts, manifest_facts
from asr.info.models import model_facts
from asr.info.parts import token_facts
from asr.info.published import bundle_facts, hugging_face_facts, nemo_facts
from asr.model.foreign import kind_of_file
from asr.model.hf.names import is_hf
from asr.model.nemo.names import is_nemo


def describe(thing: str) -> tuple[str, dict[str, Any]]:
    """Return kind and facts of a model or run folder, a published model, a manifest, n-gram model or config.

    Raises:
        AsrError: it is none of these, or damaged; the line says which and why.
    """
    path = Path(thing)
    if thing.startswith("torchaudio:"):
        return "bundle", bundle_facts(thing)
    if is_hf(thing):
        return "model of Hugging Face", hugging_face_facts(thing)
    if is_nemo(thing):
        return "model of NeMo", nemo_facts(thing)
    if path.is_dir():
        from asr.lm.neural.place import is_rnn

        if is_rnn(path):
            from asr.lm.neural import folder as rnn_folder

            return "neural language model", rnn_folder.describe(path)
        return "model", model_facts(path)
    if path.name == TOKENIZER_FILE:
        return "tokenizer", {"path": str(path), "tokens": token_facts(read_tokenizer(path))}
    if path.suffix in (".jsonl", ".json"):
        return "manifest", manifest_facts(path)

    near = ""
    if path.suffix in (".yaml", ".yml") or (not path.exists() and thing.count("/") <= 1):
        try:
            return "config", config_facts(thing)
        except ConfigError as error:
            if path.suffix in (".yaml", ".yml") or "no config file" not in str(error):
                raise
            near = "".join(str(error).rpartition("; did you mean")[1:]) if "; did you mean" in str(error) else ""
    if path.is_file() and is_language_model(path):
        return "language model", language_model_facts(path)

    what = "neither a model or run folder, a .jsonl manifest, a .yaml config, an n-gram model, torchaudio:NAME, hf:NAME"
    what += ", nemo:FILE, nor recipe/config"
    if not path.exists():
        what = f"no such file, and {what}"
    kind = kind_of_file(path) if path.is_file() else ""
    raise AsrError(f"{thing}: {what}{near}" + (f"; it seems to be {kind}" if kind else ""))
