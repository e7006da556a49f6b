"""What a thing is: facts about a model, a manifest, a language model or a training config, for ``asr info``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from asr.errors import AsrError, CheckpointError, ConfigError
from asr.tokenizer import FILE as TOKENIZER_FILE
from asr.tokenizer import Tokenizer, read_tokenizer


def describe(thing: str) -> tuple[str, dict[str, Any]]:
    """(kind, facts) of a model folder, run folder, manifest, n-gram model, config file or ``recipe/config`` name.

    Raises:
        AsrError: it is none of these, or damaged; the line says which and why.
    """
    path, near = Path(thing), ""
    if path.is_dir():
        return "model", _model(path)
    if path.name == TOKENIZER_FILE:
        return "tokenizer", {"path": str(path), "tokens": _tokens(read_tokenizer(path))}
    if path.suffix in (".jsonl", ".json"):
        return "manifest", _manifest(path)
    if path.suffix in (".yaml", ".yml") or (not path.exists() and thing.count("/") <= 1):
        try:
            return "config", _config(thing)
        except ConfigError as error:
            if path.suffix in (".yaml", ".yml") or "no config file" not in str(error):
                raise
            near = "".join(str(error).rpartition("; did you mean")[1:]) if "; did you mean" in str(error) else ""
    if path.is_file() and _is_language_model(path):
        return "language model", _language_model(path)
    what = "neither a model or run folder, a .jsonl manifest, a .yaml config, an n-gram model, nor recipe/config"
    raise AsrError(f"{thing}: {what if path.exists() else f'no such file, and {what}'}{near}")


def _model(path: Path) -> dict[str, Any]:
    from asr.checkpoint import find_model, load_model, read_json
    from asr.decode.choose import name_of
    from asr.decode.tuned import read_tuned
    from asr.model import describe as describe_network

    folder = find_model(path)
    model = load_model(folder)
    facts: dict[str, Any] = {
        "path": str(folder),
        "parameters": model.num_parameters,
        "network": [f"{name}: {shape}, {count:,} parameters" for name, shape, count in describe_network(model.network)],
        "features": f"{model.extractor.cfg.kind}, {model.extractor.num_bins} values every "
        f"{model.extractor.cfg.hop_s * 1000:g} ms, {model.extractor.cfg.normalization} normalization",
        "audio": f"{model.audio.sample_rate_hz} Hz",
        "step": f"{model.step_s * 1000:g} ms",
        "tokens": _tokens(model.tokenizer),
        "text normalization": model.text.normalization,
    }
    facts |= {f"training {key}": value for key, value in model.training.items()}
    if (folder / "results.json").exists():
        results = read_json(folder / "results.json")
        try:
            facts |= {f"{split} WER": _rate(result["wer"]) for split, result in results.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError("not results as evaluation writes them", folder / "results.json") from error
    tuned = read_tuned(folder)
    if tuned is not None:
        facts["decoder"] = f"{name_of(tuned.config, with_lm=tuned.lm is not None)}, LM {tuned.lm or 'none'}"
        facts |= {f"tuned {key}": value for key, value in tuned.tuning.items()}
    return facts


def _tokens(tokenizer: Tokenizer) -> str:
    size = f"{tokenizer.vocabulary_size} (blank first)"
    if tokenizer.kind == "char":
        return f"{size}: {''.join(tokenizer.symbols)!r}"
    longest = sorted(tokenizer.symbols, key=lambda s: (-len(s), s))[:10]
    return f"{size}, {tokenizer.kind}; the longest: {' '.join(longest)}"


def _rate(wer: dict[str, float | None]) -> str:
    # A rate over references without words is undefined: null
    rate, low, high = ("undefined" if x is None else f"{x:.2%}" for x in (wer["rate"], wer["low"], wer["high"]))
    return f"{rate} [{low}, {high}]"


def _is_language_model(path: Path) -> bool:
    """By content, as ``asr.lm.ngram.load`` goes by it; what is damaged further on says so itself."""
    from asr.lm.binary import MAGIC

    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith((MAGIC[:11], b"\x1f\x8b")) or b"\\data\\" in head


def _language_model(path: Path) -> dict[str, Any]:
    from asr.lm import ngram
    from asr.lm.binary import MAGIC

    model = ngram.load(path)
    with path.open("rb") as file:
        binary = file.read(len(MAGIC)).startswith(MAGIC[:11])
    words = [word for word in model.words if word not in ("<s>", "</s>", "<unk>", "<UNK>")]
    longest = sorted(words, key=lambda word: (-len(word), word))[:3]
    return {
        "path": str(path),
        "form": "binary, mapped" if binary else "ARPA",
        "bytes": path.stat().st_size,
        "order": len(model.counts),
        **{f"{n}-grams": count for n, count in enumerate(model.counts, start=1)},
        "words": len(words),
        "unknown words": "<unk> is listed" if model.has_unk else "no <unk>: probability 10^-100",
        "letters": "".join(sorted({letter for word in words for letter in word})),
        "longest words": ", ".join(longest),
    }


def _manifest(path: Path) -> dict[str, Any]:
    from asr import header as headers
    from asr import manifest as manifests

    rows = manifests.read(path)
    header = headers.read(path.parent)
    with_digits = headers.count_with_digits(rows)
    durations_s = sorted(u.duration_s for u in rows)
    characters = sorted({c for u in rows for c in u.text})
    facts: dict[str, Any] = {
        "path": str(path),
        "utterances": len(rows),
        "hours": round(rows.duration_s / 3600, 3),
        "speakers": len(rows.speakers),
        "words": sum(len(u.text.split()) for u in rows),
        "duration": f"{durations_s[0]:.2f} to {durations_s[-1]:.2f} s, median {statistics.median(durations_s):.2f} s",
        "characters": "".join(characters),
    }
    if with_digits:
        facts["texts with digits"] = with_digits
    if header is not None and path.stem in header.splits:
        facts["prepared"] = f"{header.title}, text normalization {header.normalization}, asr {header.asr_version}"
    return facts


def _config(thing: str) -> dict[str, Any]:
    from asr import config as configs
    from asr.features import FeatureExtractor
    from asr.model import DeepSpeech2
    from asr.model import describe as describe_network
    from asr.prepare import find_config

    path = find_config(thing)
    cfg = configs.load(path)
    extractor = FeatureExtractor(cfg.features, cfg.audio.sample_rate_hz)
    # The vocabulary comes with the data; 29 is blank, A-Z, apostrophe and space.
    network = DeepSpeech2(cfg.model, extractor.num_bins, vocabulary_size=29)
    return {
        "path": str(path),
        "parameters": sum(p.numel() for p in network.parameters()),
        "network": [f"{name}: {shape}, {count:,} parameters" for name, shape, count in describe_network(network)],
        "features": f"{cfg.features.kind}, {extractor.num_bins} values every {cfg.features.hop_s * 1000:g} ms",
        "steps a second": 1 / (network.stride * cfg.features.hop_s),
        "epochs": cfg.train.epochs,
        "note": "parameters for 29 tokens; training takes the tokens from the data",
    }
