"""Describe a model, a manifest, a language model or a training config, for ``asr info``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.data.tokenizer import WORD_START, Tokenizer
from asr.data.tokenizer_file import FILE as TOKENIZER_FILE
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import AsrError, CheckpointError, ConfigError, command
from asr.files import read_json
from asr.lm.binary import MAGIC
from asr.lm.kenlm import MAGIC as KENLM_MAGIC
from asr.model.foreign import kind_of_file
from asr.model.hf.names import is_hf
from asr.model.nemo.names import is_nemo, parse

if TYPE_CHECKING:
    from asr.decode.tuned import Tuned
    from asr.model.contract import AnyExtractor
    from asr.model.folder import ModelFolderConfig
    from asr.model.onnx.card import ExportFacts
    from asr.model.parts import Part
    from asr.model.published import Published

NO_RESULTS = "none on record: measure it with asr evaluate"
#: how a binary n-gram model begins, whatever its version; and how gzip does
_BINARY = MAGIC[:11]
_GZIP = b"\x1f\x8b"


def describe(thing: str) -> tuple[str, dict[str, Any]]:
    """Return kind and facts of a model or run folder, a published model, a manifest, n-gram model or config.

    Raises:
        AsrError: it is none of these, or damaged; the line says which and why.
    """
    path = Path(thing)
    if thing.startswith("torchaudio:"):
        return "bundle", _bundle(thing)
    if is_hf(thing):
        return "model of Hugging Face", _hugging_face(thing)
    if is_nemo(thing):
        return "model of NeMo", _nemo(thing)
    if path.is_dir():
        from asr.lm.neural.place import is_rnn

        if is_rnn(path):
            from asr.lm.neural import folder as rnn_folder

            return "neural language model", rnn_folder.describe(path)
        return "model", _model(path)
    if path.name == TOKENIZER_FILE:
        return "tokenizer", {"path": str(path), "tokens": _tokens(read_tokenizer(path))}
    if path.suffix in (".jsonl", ".json"):
        return "manifest", _manifest(path)

    near = ""
    if path.suffix in (".yaml", ".yml") or (not path.exists() and thing.count("/") <= 1):
        try:
            return "config", _config(thing)
        except ConfigError as error:
            if path.suffix in (".yaml", ".yml") or "no config file" not in str(error):
                raise
            near = "".join(str(error).rpartition("; did you mean")[1:]) if "; did you mean" in str(error) else ""
    if path.is_file() and _is_language_model(path):
        return "language model", _language_model(path)

    what = "neither a model or run folder, a .jsonl manifest, a .yaml config, an n-gram model, torchaudio:NAME, hf:NAME"
    what += ", nemo:FILE, nor recipe/config"
    if not path.exists():
        what = f"no such file, and {what}"
    kind = kind_of_file(path) if path.is_file() else ""
    raise AsrError(f"{thing}: {what}{near}" + (f"; it seems to be {kind}" if kind else ""))


def _model(path: Path) -> dict[str, Any]:
    from asr.model.folder import find_model, read_model_config

    folder = find_model(path)
    config = read_model_config(folder)
    if config.export is not None:
        rows, extractor, tokenizer = _exported(folder, config, config.export)
    else:
        rows, extractor, tokenizer = _recurrent(folder) if config.model.encoder == "recurrent" else _of_torch(folder)
    frames = math.prod(config.model.time_strides)
    facts: dict[str, Any] = {
        "path": str(folder),
        "parameters": sum(parameters for _, _, parameters in rows),
        "bytes": _bytes_in(folder),
        "network": _rows(rows),
        "features": extractor.describe(),
        "audio": f"{config.audio.sample_rate_hz} Hz",
        "step": f"{frames * extractor.hop / config.audio.sample_rate_hz * 1000:g} ms",
        "tokens": _tokens(tokenizer),
        "text normalization": config.text.normalization,
    }
    if config.export is not None:
        facts |= _export(config.export)
    training = dict(config.training)
    facts |= _training(training | {"corpus": training.get("corpus") or _corpus(folder)})
    return facts | _results(folder) | _decoder(folder)


def _recurrent(folder: Path) -> tuple[list[Part], AnyExtractor, Tokenizer]:
    """Read what a model folder of a recurrent network holds, without torch."""
    from asr.model.parts import parts_of
    from asr.model.use import open_folder

    opened = open_folder(folder)
    extractor, tokenizer = opened.extractor, opened.tokenizer
    return parts_of(opened.config.model, extractor.num_bins, tokenizer.vocabulary_size), extractor, tokenizer


def _exported(
    folder: Path, config: ModelFolderConfig, export: ExportFacts
) -> tuple[list[Part], AnyExtractor, Tokenizer]:
    """Read what an exported folder says of its network; the graph itself is not loaded."""
    from asr.data.tokenizer_file import read_tokenizer
    from asr.features.build import build_extractor
    from asr.model.parts import parts_of

    tokenizer = read_tokenizer(folder / "tokenizer.json")
    extractor = build_extractor(config.features, config.audio.sample_rate_hz)
    parts: list[Part] = [(config.model.encoder, f"{config.model.layers} layers", export.parameters)]
    if config.model.encoder == "recurrent":
        parts = parts_of(config.model, extractor.num_bins, tokenizer.vocabulary_size)
    return parts, extractor, tokenizer


def _export(export: ExportFacts) -> dict[str, Any]:
    """Return what is known of a graph."""
    takes = "samples" if export.features_in_graph else "features"
    pieces = ", a piece at a time" if export.streaming else ""
    return {
        "graph": f"ONNX, takes {takes}{pieces}, weights in {export.weights}, written by asr {export.asr}",
        "graph differs": f"by at most {export.max_difference:.1e} in a log-probability",
        "cannot": "be trained: give the model that it was exported from",
    }


def _of_torch(folder: Path) -> tuple[list[Part], AnyExtractor, Tokenizer]:
    """Read what a model folder of another network holds."""
    from asr.model.checkpoint import load_trainable
    from asr.model.trainable import describe as describe_network

    model = load_trainable(folder)
    return describe_network(model.network), model.extractor, model.tokenizer


def _results(folder: Path) -> dict[str, Any]:
    """Return the error rates that evaluation wrote into a model folder."""
    from asr.model.model_files import read_json

    path = folder / "results.json"
    if not path.exists():
        return {"results": NO_RESULTS}
    facts: dict[str, Any] = {}
    try:
        for split, result in read_json(path).items():
            facts[f"{split} WER"] = _rate(result["wer"])
            if "cer" in result:
                facts[f"{split} CER"] = _rate(result["cer"])
            if "utterances" in result:
                facts[f"{split} utterances"] = result["utterances"]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError("not results as evaluation writes them", path) from error
    return facts


def _bundle(thing: str) -> dict[str, Any]:
    """Return what is known without the weights, which are not downloaded for this."""
    from asr.model import bundles

    known = bundles.describe(thing)
    is_here = known.weights.is_file()
    facts = {
        "path": str(known.weights) if is_here else f"not here: downloaded to {known.weights} when it is first used",
        "bytes": known.weights.stat().st_size if is_here else None,
    }
    return facts | _published(thing, bundles)


def _hugging_face(thing: str) -> dict[str, Any]:
    """Return what a folder says of its model; of its weights only names and shapes are read."""
    from asr.model.hf import published
    from asr.model.hf.config import read_config
    from asr.model.hf.folder import locate
    from asr.model.hf.names import parse as parse_hf

    folder = locate(parse_hf(thing))
    if read_config(folder, any_head=True).only_pretrained:
        return _pretrained(thing, folder)
    known = published.describe(thing)
    facts: dict[str, Any] = {
        "path": str(known.folder),
        "bytes": _bytes_in(known.folder),
    }
    facts |= _published(thing, published)
    if known.config.why_other:
        facts["features"] = f"by transformers: {known.config.why_other}"
        facts["cannot"] = "be trained: it can be used as it is"
    return facts


def _pretrained(thing: str, folder: Path) -> dict[str, Any]:
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
        "bytes": _bytes_in(folder),
        "parameters": sum(count for _, _, count in rows),
        "network": _rows(rows),
        "features": build_extractor(stages.features, rate_hz).describe(),
        "audio": f"{rate_hz} Hz",
        "step": f"{1000 * network.stride / rate_hz:g} ms",
        "tokens": "none: it has no output for text",
        **_training(read_card(folder)),
        "cannot": f"write text before it is trained: {command('train', 'finetune/wav2vec2', '--init', thing)}",
    }


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _nemo(thing: str) -> dict[str, Any]:
    """Return what a file says of its model; of its weights only names and shapes are read."""
    from asr.model.nemo import published

    path = parse(thing)
    facts = _published(thing, published)  # which says what is wrong with the file
    return {"path": str(path), "bytes": path.stat().st_size} | facts


def _published(thing: str, kind: Published) -> dict[str, Any]:
    """Return what is known of any published model."""
    known = kind.describe(thing)
    rows = kind.parts(thing)
    rate_hz = known.audio.sample_rate_hz
    facts: dict[str, Any] = {
        "parameters": sum(count for _, _, count in rows),
        "network": _rows(rows),
        "features": known.extractor.describe(),
        "audio": f"{rate_hz} Hz",
        "step": f"{1000 * known.stride / rate_hz:g} ms",
        "tokens": _tokens(known.tokenizer),
        "text normalization": known.text.normalization,
    }
    facts |= _training(known.training) | {"results": NO_RESULTS}
    return facts | _decoder(kind.settings_folder(thing), kind.shipped_settings(thing))


def _rows(parts: Sequence[tuple[str, str, int]]) -> list[str]:
    """Return a line per part of a network; many that are alike in a row ("transformer 1" to "12") share one."""
    lines: list[str] = []
    for _, alike in groupby(parts, key=lambda part: (part[0].partition(" ")[0], part[1], part[2])):
        group = list(alike)
        if len(group) > 3:
            (name, shape, count), last = group[0], group[-1][0].rpartition(" ")[2]
            group = [(f"{name} to {last}", f"each {shape}", len(group) * count)]
        lines += [f"{name}: {shape}, {count:,} parameters" for name, shape, count in group]
    return lines


def _training(training: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a model's training, and what follows from it for long audio."""
    facts = {f"training {key}": value for key, value in training.items() if value not in (None, "")}
    longest_s = training.get("longest_s")
    if isinstance(longest_s, int | float):
        facts["long audio"] = f"is cut into pieces of at most {longest_s:g} s, the longest that it was trained on"
    return facts


def _corpus(folder: Path) -> str:
    """Return the corpus that the run folder around a model names; an empty string if it is not known."""
    from asr.data import prepared as headers

    try:
        record = read_json(folder.parent / "data.json")
        return headers.corpus_title(Path(record["folder"]))
    except (OSError, ValueError, LookupError, TypeError):  # nothing that a model needs
        return ""


def _decoder(folder: Path, shipped: Tuned | None = None) -> dict[str, Any]:
    from asr.decode.choose import describe_search
    from asr.decode.tuned import read_tuned

    tuned = read_tuned(folder) or shipped
    if tuned is None:
        return {"decoder": "greedy: not tuned (asr tune)"}
    facts = {"decoder": f"{describe_search(tuned.config, with_lm=tuned.lm is not None)}, LM {tuned.lm or 'none'}"}
    return facts | {f"tuned {key}": value for key, value in tuned.tuning.items()}


def _tokens(tokenizer: Tokenizer) -> str:
    size = f"{tokenizer.vocabulary_size} (blank first)"
    if tokenizer.kind == "char":
        return f"{size}: {''.join(tokenizer.symbols)!r}"
    shown = [symbol.replace(" ", WORD_START) for symbol in tokenizer.symbols]
    if tokenizer.kind == "pieces":  # most of them may be single letters
        shown = [symbol for symbol in shown if len(symbol) > 1] or shown
    longest = sorted(shown, key=lambda s: (-len(s), s))[:10]
    return f"{size}, {tokenizer.kind}; the longest: {' '.join(longest)}"


def _rate(wer: dict[str, float | None]) -> str:
    # A rate over references without words is undefined: null
    rate, low, high = ("undefined" if x is None else f"{x:.2%}" for x in (wer["rate"], wer["low"], wer["high"]))
    return f"{rate} [{low}, {high}]"


def _is_language_model(path: Path) -> bool:
    """Check the content, as ``asr.lm.ngram.load`` does; damage further on is found when the model is loaded."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith((_BINARY, _GZIP, KENLM_MAGIC)) or b"\\data\\" in head


def _language_model(path: Path) -> dict[str, Any]:
    from asr.lm import ngram
    from asr.lm.model import HashedModel

    model = ngram.load(path)
    with path.open("rb") as file:
        head = file.read(len(KENLM_MAGIC))
    form = "binary, mapped" if head.startswith(_BINARY) else "ARPA"
    if head == KENLM_MAGIC:
        form = f"binary of KenLM, {'hash tables, mapped' if isinstance(model, HashedModel) else 'a trie'}"
    words = [word for word in model.words if word not in ("<s>", "</s>", "<unk>", "<UNK>")]
    longest = sorted(words, key=lambda word: (-len(word), word))[:3]
    return {
        "path": str(path),
        "form": form,
        "bytes": path.stat().st_size,
        "order": len(model.counts),
        **{f"{n}-grams": count for n, count in enumerate(model.counts, start=1)},
        "words": len(words),
        "unknown words": "<unk> is listed" if model.has_unk else "no <unk>: probability 10^-100",
        "letters": "".join(sorted({letter for word in words for letter in word})),
        "longest words": ", ".join(longest),
    }


def _manifest(path: Path) -> dict[str, Any]:
    from asr.data import manifest as manifests
    from asr.data import prepared as headers

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
    from asr.corpora.catalogue import find_config
    from asr.features.build import build_extractor
    from asr.model.build import build_network
    from asr.model.tensor_files import planned
    from asr.model.trainable import describe as describe_network

    path = find_config(thing)
    cfg = configs.load(path)
    extractor = build_extractor(cfg.features, cfg.audio.sample_rate_hz)
    if cfg.model.encoder == "wav2vec2" and cfg.model.wav2vec2.shape is None:
        return {
            "path": str(path),
            "features": extractor.describe(),
            "epochs": cfg.train.epochs,
            "note": "the network is that of the model that training starts from, which --init names",
        }
    # The vocabulary comes with the data; 29 is blank, A-Z, apostrophe and space.
    network = planned(lambda: build_network(cfg.model, extractor.num_bins, vocabulary_size=29))
    return {
        "path": str(path),
        "parameters": sum(p.numel() for p in network.parameters()),
        "network": _rows(describe_network(network)),
        "features": extractor.describe(),
        "steps per second": 1 / (network.stride * extractor.hop_s),
        "epochs": cfg.train.epochs,
        "note": "parameters for 29 tokens; training takes the tokens from the data",
    }
