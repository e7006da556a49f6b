"""Tune a neural language model over the best texts of a beam search: its weights by error rate on a dev set.

Axes: u utterances, k texts of an utterance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from asr.decode.tuned import Rescore
from asr.decode.types import Hypothesis
from asr.errors import DataError
from asr.scoring.bootstrap import bootstrap_interval
from asr.scoring.wer import word_counts
from asr.tuning.rescore import score_texts
from asr.tuning.tune import RESAMPLES, SURE, Errors, deviations

if TYPE_CHECKING:
    from asr.lm.neural.network import RnnModel

WEIGHTS_TRIED = tuple(0.1 * i for i in range(31))
BONUSES_TRIED = tuple(0.5 * i for i in range(-8, 17))
SCALES_TRIED = (1.0, 0.75, 0.5, 0.25, 0.0)


@dataclass(frozen=True)
class Rescoring:
    """The result of tuning the rescoring on a dev set: word error rates, and the weights."""

    settings: Rescore
    rate: float
    low: float
    high: float
    #: of the beam search's own best texts, and of the best text in each list, which no weights can beat
    before: float
    oracle: float
    #: texts per utterance on average
    texts: float
    #: whether it is surely better than the beam search by itself
    helps: bool

    def to_json(self) -> dict[str, Any]:
        """Return the error rates before and after, and the weights."""
        rates = {"wer": self.rate, "low": self.low, "high": self.high, "before": self.before, "oracle": self.oracle}
        weights = {key: getattr(self.settings, key) for key in ("weight", "word_bonus", "lm_scale", "nbest")}
        return {**rates, "texts": round(self.texts, 2), "helps": self.helps, **weights}


class NbestLists:
    """The best texts of all utterances as arrays. Shapes: (u, k), with log-probability -inf where a list is shorter."""

    def __init__(self, nbests: Sequence[Sequence[Hypothesis]], references: Sequence[str], model: RnnModel) -> None:
        neural = score_texts(nbests, model)
        shape = len(nbests), max(map(len, nbests))
        self.acoustic_uk = np.full(shape, -np.inf)
        self.lm_uk = np.zeros(shape)
        self.neural_uk = np.zeros(shape)
        self.words_uk = np.zeros(shape)
        self.errors_uk = np.zeros(shape, np.int64)
        for u, (nbest, reference) in enumerate(zip(nbests, references, strict=True)):
            at = u, slice(len(nbest))
            self.acoustic_uk[at] = [h.log_prob for h in nbest]
            self.lm_uk[at] = [h.lm_score for h in nbest]
            self.neural_uk[at] = [neural[h.text] for h in nbest]
            self.words_uk[at] = [len(h.text.split()) for h in nbest]
            self.errors_uk[at] = [counts.errors for counts in word_counts([(reference, h.text) for h in nbest])]

    def errors_at(self, weight: float, bonus: float, scale: float) -> Errors:
        """Return the word errors of each utterance's best text under these weights."""
        scores_uk = self.acoustic_uk + scale * self.lm_uk + weight * self.neural_uk + bonus * self.words_uk
        errors_u: Errors = self.errors_uk[np.arange(len(scores_uk)), scores_uk.argmax(axis=1)]
        return errors_u

    def fewest_errors(self) -> Errors:
        """Return the word errors of the best text in each list."""
        possible_uk = np.isfinite(self.acoustic_uk)
        possible_uk[:, 0] = True
        errors_u: Errors = np.where(possible_uk, self.errors_uk, np.iinfo(np.int64).max).min(axis=1)
        return errors_u


def tune_rescoring(
    nbests: Sequence[Sequence[Hypothesis]], references: Sequence[str], model: RnnModel, settings: Rescore
) -> Rescoring:
    """Find the weights with the fewest word errors on these lists; ties go to the better neighbourhood.

    Another word bonus than 0, and then another scale than 1, is taken only when it is surely better: each is one more
    number to choose on few words.

    Raises:
        DataError: the references have no words.
    """
    words_u = np.array([len(text.split()) for text in references], np.int64)
    if not words_u.sum():
        raise DataError("the references have no words: no error rate can be tuned")

    lists = NbestLists(nbests, references, model)
    before_u = lists.errors_at(0.0, 0.0, 1.0)
    weight, bonus, scale = _best_weights(lists)
    errors_u = lists.errors_at(weight, bonus, scale)
    low, high = bootstrap_interval(errors_u, words_u, resamples=RESAMPLES)
    assert low is not None and high is not None  # there are reference words
    num_words = int(words_u.sum())
    return Rescoring(
        settings=settings.model_copy(update={"weight": round(weight, 6), "word_bonus": bonus, "lm_scale": scale}),
        rate=float(errors_u.sum() / num_words),
        low=low,
        high=high,
        before=float(before_u.sum() / num_words),
        oracle=float(lists.fewest_errors().sum() / num_words),
        texts=sum(map(len, nbests)) / len(nbests),
        helps=weight > 0 and deviations(before_u, errors_u) > SURE,
    )


def _best_weights(lists: NbestLists) -> tuple[float, float, float]:
    """Return weight, word bonus and scale."""

    def best(bonuses: Sequence[float], scale: float) -> tuple[float, float, float]:
        points = itertools.product(WEIGHTS_TRIED, bonuses)
        errors = [int(lists.errors_at(weight, bonus, scale).sum()) for weight, bonus in points]
        w, b = _lowest(np.reshape(errors, (len(WEIGHTS_TRIED), len(bonuses))), bonuses)
        return WEIGHTS_TRIED[w], bonuses[b], scale

    chosen = best((0.0,), 1.0)
    simpler_u = errors_u = lists.errors_at(*chosen)
    for scale in SCALES_TRIED:
        point = best(BONUSES_TRIED, scale)
        found_u = lists.errors_at(*point)
        if deviations(simpler_u, found_u) > SURE and found_u.sum() < errors_u.sum():
            chosen, errors_u = point, found_u
        if scale == 1:  # each other scale is compared with scale 1, not with the one before
            simpler_u = errors_u
    return chosen


def _lowest(surface: npt.NDArray[np.int64], bonuses: Sequence[float]) -> tuple[int, int]:
    """Return the point with the fewest errors; of several, that with the fewest around it, then the smallest weight."""
    padded = np.pad(surface.astype(np.float64), 1, mode="edge")
    rows, columns = surface.shape
    around = np.sum([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)
    points = itertools.product(range(rows), range(columns))
    return min(points, key=lambda at: (surface[at], around[at], at[0], abs(bonuses[at[1]])))
