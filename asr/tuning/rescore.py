"""A neural language model over the best texts of a beam search: texts found fast, ranked anew by more.

    score = log_prob + lm_scale x lm_score + weight x ln P(text) + word_bonus x words

``log_prob`` and ``lm_score`` are the beam search's (``docs/decoding.md``), P is the neural model's, the end of the
sentence included. With weight 0, word bonus 0 and scale 1 nothing changes.

Axes: u utterances, k texts of an utterance.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.config import parse
from asr.data.tokenizer import WORD_START, Tokenizer
from asr.decode.choose import NO_LM, Decoder, decoder_for, short
from asr.decode.confidence import word_shares
from asr.decode.options import DecoderOptions
from asr.decode.settings import BeamConfig
from asr.decode.tuned import FILE, Rescore, read_tuned
from asr.decode.types import Hypothesis, LogProbs
from asr.errors import CheckpointError, ConfigError, DataError
from asr.lm.neural.folder import WEIGHTS, find_rnn, load_rnn
from asr.lm.neural.network import RnnModel
from asr.scoring.bootstrap import bootstrap_interval
from asr.scoring.wer import word_counts

log = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]

#: at least so wide a search, so that there are texts to choose from: width, token floor, beam pruning
SEARCH = {"beam_width": 200, "min_token_log_prob": -7.0, "beam_prune_log_prob": -13.0}
WEIGHTS_TRIED = tuple(0.1 * i for i in range(31))
BONUSES_TRIED = tuple(0.5 * i for i in range(-8, 17))
SCALES_TRIED = (1.0, 0.75, 0.5, 0.25, 0.0)
#: another number is taken when it saves more errors than this many deviations of the difference
SURE = 1.0
#: resamples for an interval
_RESAMPLES = 1000


def check_fits(model: RnnModel, tokenizer: Tokenizer, path: Path) -> None:
    """Refuses a language model that cannot write all that the acoustic model can.

    Raises:
        ConfigError: it cannot; the first character is shown.
    """
    written = "".join(tokenizer.symbols).replace(WORD_START, " ")
    unknown = model.tokenizer.unknown(written)
    if unknown:
        swapped = [
            c for c in unknown if c.swapcase() != c and c.swapcase() not in model.tokenizer.unknown(c.swapcase())
        ]
        known = "".join(s for s in model.tokenizer.symbols if len(s) == 1)
        hint = "the case is another" if swapped else "train it with --tokenizer and this acoustic model's folder"
        raise ConfigError(
            f"{path}: the language model cannot write {unknown[0]!r} (U+{ord(unknown[0]):04X}), which the acoustic "
            f"model can; it writes {known!r}: {hint}"
        )


def rescored(
    nbests: Sequence[Sequence[Hypothesis]], model: RnnModel, how: Rescore, keep: int = 1, confidence: bool = False
) -> list[list[Hypothesis]]:
    """The best texts of each utterance under the score of this module, best first; ties as they came.

    All texts of all utterances are scored together.

    Args:
        keep: texts an utterance, at most.
        confidence: whether words get the share of the list's probability that agrees on them.
    """
    texts = sorted({hypothesis.text for nbest in nbests for hypothesis in nbest})
    neural = dict(zip(texts, model.score_texts(texts).tolist(), strict=True))
    out = []
    for nbest in nbests:
        lm_scores = [
            how.lm_scale * h.lm_score + how.weight * neural[h.text] + how.word_bonus * len(h.text.split())
            for h in nbest
        ]
        scores = [h.log_prob + lm_score for h, lm_score in zip(nbest, lm_scores, strict=True)]
        best = sorted(range(len(nbest)), key=lambda k: -scores[k])[:keep]
        kept = [replace(nbest[k], lm_score=lm_scores[k]) for k in best]
        if confidence and max(scores) > -math.inf:
            texts_k = [h.text for h in nbest]
            kept = [replace(h, word_shares=word_shares(h.text, texts_k, scores)) for h in kept]
        out.append(kept)
    return out


def rescoring_decoder_for(folder: Path, tokenizer: Tokenizer, options: DecoderOptions | None = None) -> Decoder:
    """Make the decoder of a model folder as ``decoder_for`` does, its texts rescored where that was tuned or is asked.

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
    settings = dict(options.settings)
    keep = int(settings.get("nbest", beam.nbest))
    if rescore is None:
        rescore = Rescore(model=str(path))
        settings = wider(beam) | settings
    changes: dict[str, Any] = {"nbest": max(rescore.nbest, keep)}
    if options.rescore_weight is not None:
        changes["weight"] = options.rescore_weight
    how = parse(Rescore, rescore.model_dump() | changes, "rescoring")

    model = load_rnn(path)
    check_fits(model, tokenizer, path)
    beam_options = replace(options, name="beam", settings=settings | {"nbest": how.nbest}, confidence=False)
    inner = decoder_for(folder, tokenizer, beam_options)

    def decode(log_probs_sv: LogProbs) -> list[Hypothesis]:
        return rescored([inner.decode(log_probs_sv)], model, how, keep, options.confidence)[0]

    return Decoder(f"{inner.name}, {describe_rescoring(how, path)}", inner.lm, decode, inner.source)


def wider(config: BeamConfig) -> dict[str, Any]:
    """The prunings of a search that leaves texts to choose from, where a config's leaves fewer."""
    return {
        "beam_width": max(config.beam_width, int(SEARCH["beam_width"])),
        "min_token_log_prob": None if config.min_token_log_prob is None
        else min(config.min_token_log_prob, SEARCH["min_token_log_prob"]),
        "beam_prune_log_prob": None if config.beam_prune_log_prob is None
        else min(config.beam_prune_log_prob, SEARCH["beam_prune_log_prob"]),
    }  # fmt: skip


def describe_rescoring(how: Rescore, path: Path) -> str:
    """Return what a record calls it."""
    parts = [f"{how.nbest} best rescored by {short(path)} x {how.weight:g}"]
    if how.word_bonus:
        parts.append(f"words {how.word_bonus:+g}")
    if how.lm_scale != 1:
        parts.append(f"beam's scores x {how.lm_scale:g}")
    return ", ".join(parts)


def _tuned_path(folder: Path, how: Rescore | None) -> Path:
    """Where the tuned model is.

    Raises:
        CheckpointError: it is gone; without it there would be other texts than were measured.
    """
    assert how is not None  # the caller has looked
    path = folder / how.model
    try:
        found = find_rnn(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"the settings were tuned with the neural language model {path}, which cannot be used ({error}); "
            "give its new place with --rescore, or --rescore none",
            folder / FILE,
        ) from error
    size = (found / WEIGHTS).stat().st_size
    if size != how.model_bytes:
        log.warning("%s: %s had %s bytes when it was tuned and has %d now: tune again",
                    folder / FILE, path, how.model_bytes, size)  # fmt: skip
    return path


@dataclass(frozen=True)
class Rescoring:
    """What rescoring was found to give on a dev set: word error rates, and the weights."""

    how: Rescore
    rate: float
    low: float
    high: float
    #: of the beam search's own best texts, and of the best text in each list, which no weights can beat
    before: float
    oracle: float
    #: texts an utterance on average
    texts: float
    #: (weight, word bonus, scale) -> errors
    surface: dict[tuple[float, float, float], int]
    #: whether it is surely better than the beam search by itself
    helps: bool

    def to_json(self) -> dict[str, Any]:
        weights = {key: getattr(self.how, key) for key in ("weight", "word_bonus", "lm_scale", "nbest")}
        return {"wer": self.rate, "low": self.low, "high": self.high, "before": self.before, "oracle": self.oracle,
                "texts": round(self.texts, 2), "helps": self.helps, **weights}  # fmt: skip


def tune_rescoring(
    nbests: Sequence[Sequence[Hypothesis]], references: Sequence[str], model: RnnModel, how: Rescore
) -> Rescoring:
    """The weights with the fewest word errors on these lists; ties go to the better neighbourhood.

    Another word bonus than 0, and then another scale than 1, is taken only when it is surely better: each is one more
    number to choose on few words.

    Raises:
        DataError: the references have no words.
    """
    words_u = np.array([len(text.split()) for text in references], np.int64)
    if not words_u.sum():
        raise DataError("the references have no words: no error rate can be tuned")
    texts = sorted({h.text for nbest in nbests for h in nbest})
    neural = dict(zip(texts, model.score_texts(texts).tolist(), strict=True))
    most = max(map(len, nbests))
    acoustic_uk, lm_uk, neural_uk, count_uk = (np.zeros((len(nbests), most)) for _ in range(4))
    acoustic_uk -= np.inf
    errors_uk = np.zeros((len(nbests), most), np.int64)
    for u, (nbest, reference) in enumerate(zip(nbests, references, strict=True)):
        counts = word_counts([(reference, h.text) for h in nbest])
        for k, (h, count) in enumerate(zip(nbest, counts, strict=True)):
            acoustic_uk[u, k], lm_uk[u, k], neural_uk[u, k] = h.log_prob, h.lm_score, neural[h.text]
            count_uk[u, k], errors_uk[u, k] = len(h.text.split()), count.errors

    def errors_at(weight: float, bonus: float, scale: float) -> npt.NDArray[np.int64]:
        scores_uk = acoustic_uk + scale * lm_uk + weight * neural_uk + bonus * count_uk
        return np.take_along_axis(errors_uk, scores_uk.argmax(axis=1)[:, None], axis=1)[:, 0]

    shape = len(SCALES_TRIED), len(WEIGHTS_TRIED), len(BONUSES_TRIED)
    surface = np.zeros(shape, np.int64)
    for s, w, b in itertools.product(*map(range, shape)):
        surface[s, w, b] = errors_at(WEIGHTS_TRIED[w], BONUSES_TRIED[b], SCALES_TRIED[s]).sum()
    none = BONUSES_TRIED.index(0.0)
    before_u = errors_at(0.0, 0.0, 1.0)
    weight, bonus, scale = WEIGHTS_TRIED[_lowest(surface[0, :, none : none + 1])[0]], 0.0, 1.0
    errors_u = errors_at(weight, bonus, scale)
    simpler_u = errors_u  # each scale is held against scale 1, not against the one before
    for s in range(shape[0]):
        w, b = _lowest(surface[s])
        point = WEIGHTS_TRIED[w], BONUSES_TRIED[b], SCALES_TRIED[s]
        found_u = errors_at(*point)
        if _deviations(simpler_u, found_u) > SURE and found_u.sum() < errors_u.sum():
            (weight, bonus, scale), errors_u = point, found_u
        simpler_u = errors_u if s == 0 else simpler_u
    low, high = bootstrap_interval(errors_u, words_u, resamples=_RESAMPLES)
    assert low is not None and high is not None  # there are reference words
    oracle_uk = np.where(np.isfinite(acoustic_uk) | (np.arange(most) == 0), errors_uk, np.iinfo(np.int64).max)
    points = {(WEIGHTS_TRIED[w], BONUSES_TRIED[b], SCALES_TRIED[s]): int(surface[s, w, b])
              for s, w, b in itertools.product(*map(range, shape))}  # fmt: skip
    return Rescoring(
        how.model_copy(update={"weight": round(weight, 6), "word_bonus": bonus, "lm_scale": scale}),
        float(errors_u.sum() / words_u.sum()), low, high,
        float(before_u.sum() / words_u.sum()),
        float(oracle_uk.min(axis=1).sum() / words_u.sum()),
        sum(map(len, nbests)) / len(nbests), points, weight > 0 and _deviations(before_u, errors_u) > SURE,
    )  # fmt: skip


def _deviations(worse_u: npt.NDArray[np.int64], better_u: npt.NDArray[np.int64]) -> float:
    """By how many standard deviations of the summed difference over utterances there are fewer errors."""
    difference_u = worse_u - better_u
    return float(difference_u.sum()) / math.sqrt(max(float((difference_u**2).sum()), 1.0))


def _lowest(surface: npt.NDArray[np.int64]) -> tuple[int, int]:
    """The point with the fewest errors; of several, the one with the fewest around it, then the smallest weight."""
    # beyond the edge: as on it
    padded = np.pad(surface.astype(np.float64), 1, mode="edge")
    rows, columns = surface.shape
    around = np.sum([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)
    points = itertools.product(*map(range, surface.shape))
    w, b = min(points, key=lambda at: (surface[at], around[at], at[0], abs(BONUSES_TRIED[at[1]])))
    return w, b
