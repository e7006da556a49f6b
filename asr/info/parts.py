"""What several kinds of models have: error rates, training, decoder, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.data.tokenizer import WORD_START, Tokenizer
from asr.errors import CheckpointError
from asr.files import read_json

if TYPE_CHECKING:
    from asr.decode.tuned import Tuned

NO_RESULTS = "none on record: measure it with asr evaluate"


def result_facts(folder: Path) -> dict[str, Any]:
    """Return the error rates that evaluation wrote into a model folder."""
    from asr.model.model_files import read_json

    path = folder / "results.json"
    if not path.exists():
        return {"results": NO_RESULTS}
    facts: dict[str, Any] = {}
    try:
        for split, result in read_json(path).items():
            facts[f"{split} WER"] = rate_text(result["wer"])
            if "cer" in result:
                facts[f"{split} CER"] = rate_text(result["cer"])
            if "utterances" in result:
                facts[f"{split} utterances"] = result["utterances"]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError("not results as evaluation writes them", path) from error
    return facts


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def layer_rows(parts: Sequence[tuple[str, str, int]]) -> list[str]:
    """Return a line per part of a network; many that are alike in a row ("transformer 1" to "12") share one."""
    lines: list[str] = []
    for _, alike in groupby(parts, key=lambda part: (part[0].partition(" ")[0], part[1], part[2])):
        group = list(alike)
        if len(group) > 3:
            (name, shape, count), last = group[0], group[-1][0].rpartition(" ")[2]
            group = [(f"{name} to {last}", f"each {shape}", len(group) * count)]
        lines += [f"{name}: {shape}, {count:,} parameters" for name, shape, count in group]
    return lines


def training_facts(training: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a model's training, and what follows from it for long audio."""
    facts = {f"training {key}": value for key, value in training.items() if value not in (None, "")}
    longest_s = training.get("longest_s")
    if isinstance(longest_s, int | float):
        facts["long audio"] = f"is cut into pieces of at most {longest_s:g} s, the longest that it was trained on"
    return facts


def corpus_name(folder: Path) -> str:
    """Return the corpus that the run folder around a model names; an empty string if it is not known."""
    from asr.data import prepared as headers

    try:
        record = read_json(folder.parent / "data.json")
        return headers.corpus_title(Path(record["folder"]))
    except (OSError, ValueError, LookupError, TypeError):  # nothing that a model needs
        return ""


def decoder_facts(folder: Path, shipped: Tuned | None = None) -> dict[str, Any]:
    from asr.decode.choose import describe_search
    from asr.decode.tuned import read_tuned

    tuned = read_tuned(folder) or shipped
    if tuned is None:
        return {"decoder": "greedy: not tuned (asr tune)"}
    facts = {"decoder": f"{describe_search(tuned.config, with_lm=tuned.lm is not None)}, LM {tuned.lm or 'none'}"}
    return facts | {f"tuned {key}": value for key, value in tuned.tuning.items()}


def token_facts(tokenizer: Tokenizer) -> str:
    size = f"{tokenizer.vocabulary_size} (blank first)"
    if tokenizer.kind == "char":
        return f"{size}: {''.join(tokenizer.symbols)!r}"
    shown = [symbol.replace(" ", WORD_START) for symbol in tokenizer.symbols]
    if tokenizer.kind == "pieces":  # most of them may be single letters
        shown = [symbol for symbol in shown if len(symbol) > 1] or shown
    longest = sorted(shown, key=lambda s: (-len(s), s))[:10]
    return f"{size}, {tokenizer.kind}; the longest: {' '.join(longest)}"


def rate_text(wer: dict[str, float | None]) -> str:
    # A rate over references without words is undefined: null
    rate, low, high = ("undefined" if x is None else f"{x:.2%}" for x in (wer["rate"], wer["low"], wer["high"]))
    return f"{rate} [{low}, {high}]"
