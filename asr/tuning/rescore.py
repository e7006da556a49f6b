"""A neural language model over the best texts of a beam search, which are ranked anew by its score.

    score = log_prob + lm_scale x lm_score + weight x ln P(text) + word_bonus x words

``log_prob`` and ``lm_score`` are the beam search's (``docs/decoding.md``), P is the neural model's, the end of the
sentence included. With weight 0, word bonus 0 and scale 1 nothing changes.

Axes: u utterances, k texts of an utterance.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.config import parse
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.decode.choose import NO_LM, Decoder, decoder_for, short
from asr.decode.confidence import word_shares
from asr.decode.options import DecoderOptions
from asr.decode.settings import BeamConfig
from asr.decode.tuned import FILE, Rescore, read_tuned
from asr.decode.types import Hypothesis, LogProbs
from asr.errors import CheckpointError, ConfigError
from asr.lm.neural.place import WEIGHTS, find_rnn
from asr.machine import needing_torch

if TYPE_CHECKING:
    from asr.lm.neural.network import RnnModel

log = logging.getLogger(__name__)

#: the narrowest search that leaves texts to choose from
SEARCH = {"beam_width": 200, "min_token_log_prob": -7.0, "beam_prune_log_prob": -13.0}


def check_fits(model: RnnModel, tokenizer: Tokenizer, path: Path) -> None:
    """Refuse a language model that cannot write all that the acoustic model can.

    Raises:
        ConfigError: it cannot; the first character is shown.
    """
    written = "".join(tokenizer.symbols).replace(WORD_START, " ")
    unknown = model.tokenizer.unknown(written)
    if not unknown:
        return

    other_case = [c.swapcase() for c in unknown if c.swapcase() != c]
    is_case = any(not model.tokenizer.unknown(c) for c in other_case)
    hint = "the case is another" if is_case else "train it with --tokenizer and this acoustic model's folder"
    known = "".join(s for s in model.tokenizer.symbols if len(s) == 1)
    raise ConfigError(
        f"{path}: the language model cannot write {unknown[0]!r} (U+{ord(unknown[0]):04X}), which the acoustic "
        f"model can; it writes {known!r}: {hint}"
    )


def rescored(
    nbests: Sequence[Sequence[Hypothesis]], model: RnnModel, settings: Rescore, keep: int = 1, confidence: bool = False
) -> list[list[Hypothesis]]:
    """Return the best texts of each utterance under the score of this module, best first; ties as they came.

    All texts of all utterances are scored together.

    Args:
        keep: Texts per utterance, at most.
        confidence: Whether words get the share of the list's probability that agrees on them.
    """
    neural = score_texts(nbests, model)
    out = []
    for nbest in nbests:
        ranked = []
        for h in nbest:
            words = len(h.text.split())
            lm_score = settings.lm_scale * h.lm_score + settings.weight * neural[h.text] + settings.word_bonus * words
            ranked.append(replace(h, lm_score=lm_score))
        scores = [h.score for h in ranked]
        kept = sorted(ranked, key=lambda h: -h.score)[:keep]
        if confidence and max(scores) > -math.inf:
            texts = [h.text for h in ranked]
            kept = [replace(h, word_shares=word_shares(h.text, texts, scores)) for h in kept]
        out.append(kept)
    return out


def score_texts(nbests: Sequence[Sequence[Hypothesis]], model: RnnModel) -> dict[str, float]:
    """Return ln P of each text of the lists, the end of the sentence included."""
    texts = sorted({h.text for nbest in nbests for h in nbest})
    return dict(zip(texts, model.score_texts(texts).tolist(), strict=True))


def rescoring_decoder_for(folder: Path, tokenizer: Tokenizer, options: DecoderOptions | None = None) -> Decoder:
    """Make the decoder of a model folder; it rescores where that was tuned or is asked for.

    Raises:
        CheckpointError: the tuned settings are damaged, or one of their language models is gone.
        DataError: the n-gram model cannot be read.
        ConfigError: a setting is wrong, or things do not fit together.
    """
    options = options or DecoderOptions()
    greedy = options.name == "greedy"
    asked_for = options.rescore not in (None, NO_LM)
    tuned = None if greedy else read_tuned(folder)  # greedy decoding works with damaged settings too
    rescore = tuned.rescore if tuned and options.rescore != NO_LM else None

    if greedy or not (rescore or asked_for):
        if options.rescore_weight is not None or asked_for:
            wants = "--rescore needs beam search" if greedy else "--rescore-weight needs --rescore"
            raise ConfigError(f"{wants}; there are no texts to choose from otherwise", key="rescore")
        return decoder_for(folder, tokenizer, options)

    path = options.rescore or _tuned_path(folder, rescore)
    beam = tuned.config if tuned else BeamConfig()
    beam_settings = dict(options.settings)
    keep = int(beam_settings.get("nbest", beam.nbest))
    if rescore is None:
        rescore = Rescore(model=str(path))
        beam_settings = wider(beam) | beam_settings
    changes: dict[str, Any] = {"nbest": max(rescore.nbest, keep)}
    if options.rescore_weight is not None:
        changes["weight"] = options.rescore_weight
    settings = parse(Rescore, rescore.model_dump() | changes, "rescoring")

    with needing_torch("rescoring by a neural language model"):
        from asr.lm.neural.folder import load_rnn
    model = load_rnn(path)
    check_fits(model, tokenizer, path)
    beam_settings["nbest"] = settings.nbest
    description = describe_rescoring(settings, path)

    def over(inner: Decoder) -> Decoder:
        def decode(log_probs_sv: LogProbs) -> list[Hypothesis]:
            return rescored([inner.decode(log_probs_sv)], model, settings, keep, options.confidence)[0]

        def with_hotwords(hotwords: Mapping[str, float]) -> Decoder:
            assert inner.with_hotwords is not None  # it is a beam search
            return over(inner.with_hotwords(hotwords))

        return Decoder(f"{inner.name}, {description}", inner.lm, decode, inner.source, with_hotwords=with_hotwords)

    return over(decoder_for(folder, tokenizer, replace(options, name="beam", settings=beam_settings, confidence=False)))


def wider(config: BeamConfig) -> dict[str, Any]:
    """Return the settings of a search that leaves texts to choose from, where a config's leaves fewer."""
    settings: dict[str, Any] = {"beam_width": max(config.beam_width, int(SEARCH["beam_width"]))}
    for key in ("min_token_log_prob", "beam_prune_log_prob"):
        value = getattr(config, key)
        settings[key] = None if value is None else min(value, SEARCH[key])
    return settings


def describe_rescoring(settings: Rescore, path: Path) -> str:
    """Return what a record calls it."""
    parts = [f"{settings.nbest} best rescored by {short(path)} x {settings.weight:g}"]
    if settings.word_bonus:
        parts.append(f"words {settings.word_bonus:+g}")
    if settings.lm_scale != 1:
        parts.append(f"beam's scores x {settings.lm_scale:g}")
    return ", ".join(parts)


def _tuned_path(folder: Path, settings: Rescore | None) -> Path:
    """Return where the tuned model is.

    Raises:
        CheckpointError: it is gone; without it there would be other texts than were measured.
    """
    assert settings is not None  # the caller has looked
    path = folder / settings.model
    try:
        found = find_rnn(path)
    except (CheckpointError, OSError) as error:  # the second: a name that no file system takes
        raise CheckpointError(
            f"the settings were tuned with the neural language model {path}, which cannot be used ({error}); "
            "give its new place with --rescore, or --rescore none",
            folder / FILE,
        ) from error

    size = (found / WEIGHTS).stat().st_size
    if size != settings.model_bytes:
        message = "%s: %s had %s bytes when it was tuned and has %d now: tune again"
        log.warning(message, folder / FILE, path, settings.model_bytes, size)
    return path
