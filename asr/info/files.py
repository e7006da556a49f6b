"""What is known of a manifest, a language model or a training config."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.info.parts import layer_rows
from asr.lm.binary import MAGIC
from asr.lm.kenlm import MAGIC as KENLM_MAGIC
from asr.machine import needing_torch

if TYPE_CHECKING:
    pass

#: how a binary n-gram model begins, whatever its version; and how gzip does
_BINARY = MAGIC[:11]
_GZIP = b"\x1f\x8b"


def is_language_model(path: Path) -> bool:
    """Check the content, as ``asr.lm.ngram.load`` does; damage further on is found when the model is loaded."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith((_BINARY, _GZIP, KENLM_MAGIC)) or b"\\data\\" in head


def language_model_facts(path: Path) -> dict[str, Any]:
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


def manifest_facts(path: Path) -> dict[str, Any]:
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


def config_facts(thing: str) -> dict[str, Any]:
    from asr import config as configs
    from asr.corpora.catalogue import find_config
    from asr.features.build import build_extractor

    path = find_config(thing)
    cfg = configs.load(path)
    with needing_torch(f"{path}: to describe a config"):
        from asr.model.build import build_network
        from asr.model.tensor_files import planned
        from asr.model.trainable import describe as describe_network

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
        "network": layer_rows(describe_network(network)),
        "features": extractor.describe(),
        "steps per second": 1 / (network.stride * extractor.hop_s),
        "epochs": cfg.train.epochs,
        "note": "parameters for 29 tokens; training takes the tokens from the data",
    }
