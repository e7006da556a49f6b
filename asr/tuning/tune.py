"""Decoder settings for a model and a language model, by the word error rate on a dev set.

First the weights alpha and beta are tried on a grid that grows while its best point lies on its edge, then on a finer
grid around that point. Of the weights whose error rate is not surely above the lowest one, those nearest to the
defaults are taken. The price of unknown words follows, then width and pruning. These are judged by the texts, which say
more than a few errors: the fastest search is taken that finds nearly the same words as the widest.

Axes: n utterances.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import Tokenizer
from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import greedy
from asr.decode.settings import BeamConfig
from asr.decode.types import LogProbs
from asr.errors import DataError
from asr.machine import usable_cores
from asr.scoring.bootstrap import bootstrap_interval
from asr.scoring.wer import Counts, word_counts

#: the first grid
ALPHA_STEP, BETA_STEP = 0.25, 0.75
ALPHAS = tuple(ALPHA_STEP * i for i in range(7))
BETAS = tuple(BETA_STEP * i for i in range(-1, 6))
#: how far it may grow; alpha above 4 lets the language model write the text alone
ALPHA_RANGE, BETA_RANGE = (0.0, 4.0), (-4.5, 12.0)
#: the share of the words of the widest search that a faster one may find differently
MOST_DIFFERENT = 0.001
#: a setting is surely better than another one when it saves more errors than this many standard deviations
SURE = 1.0
#: points of the finer grid that are not on the first one
_FINER_POINTS = 16
#: prices of an unknown word
UNKNOWNS = (-30.0, -20.0, -15.0, -10.0, -7.0, -5.0, -3.0)
#: (width, token floor, beam pruning); the first is the widest, with which the others are compared
SEARCHES: tuple[tuple[int, float | None, float | None], ...] = (
    (400, -9.0, -16.0),
    (200, -7.0, -13.0),
    (100, -7.0, -12.0),
    (100, -5.0, -10.0),
    (50, -5.0, -10.0),
    (50, -5.0, -8.0),
    (25, -5.0, -10.0),
    (25, -4.0, -7.0),
    (12, -4.0, -7.0),
    (8, -3.0, -5.0),
)
#: resamples for the interval of a point of the surface; the chosen one gets the scorer's own 10,000
RESAMPLES = 1000

Errors = npt.NDArray[np.int64]
#: the error rates by (alpha, beta)
Surface = dict[tuple[float, float], "Point"]


@dataclass(frozen=True)
class Point:
    """The result of a setting: word errors of each utterance, their rate with its 95 % interval, seconds of search."""

    config: BeamConfig
    errors_n: Errors
    rate: float
    low: float
    high: float
    seconds: float
    texts: Sequence[str] = ()
    #: the share of the widest search's words that this one writes differently; of searches only
    differs: float = 0.0

    @property
    def errors(self) -> int:
        return int(self.errors_n.sum())

    def to_json(self) -> dict[str, Any]:
        """Return the settings, the error rate, and the time."""
        keys = ("alpha", "beta", "unknown_log_prob", "beam_width", "min_token_log_prob", "beam_prune_log_prob")
        settings = {key: getattr(self.config, key) for key in keys}
        rates = {"wer": self.rate, "low": self.low, "high": self.high}
        return settings | rates | {"errors": self.errors, "seconds": round(self.seconds, 4)}


@dataclass(frozen=True)
class Tuning:
    """The result of a search over settings."""

    greedy: Point
    surface: Surface
    unknowns: list[Point]
    searches: list[Point]
    best: Point
    words: int
    utterances: int
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Return the best point, and all points that were measured."""
        return {
            "best": self.best.to_json(),
            "greedy": {"wer": self.greedy.rate, "low": self.greedy.low, "high": self.greedy.high},
            "surface": [self.surface[key].to_json() for key in sorted(self.surface)],
            "unknown_words": [point.to_json() for point in self.unknowns],
            "searches": [point.to_json() for point in self.searches],
            "utterances": self.utterances,
            "words": self.words,
            "threads": self.threads,
        }


def decoder_to_tune(tokenizer: Tokenizer, references: Sequence[str], lm: Any) -> BeamDecoder:
    """Make the decoder whose settings are searched; before the forward pass, so that errors come early.

    Raises:
        DataError: the references have no words, so there is no error rate.
        ConfigError: tokenizer and language model do not fit together.
    """
    if not any(text.split() for text in references):
        raise DataError("the references have no words: no error rate can be tuned")
    return BeamDecoder(tokenizer, BeamConfig(), lm)


def tune(
    tokenizer: Tokenizer,
    log_probs: Sequence[LogProbs],
    references: Sequence[str],
    lm: Any,
    threads: int | None = None,
    decoder: BeamDecoder | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Find the best settings for these utterances; every point that was tried is returned.

    Args:
        references: The texts, normalised as the model's are.
        lm: An n-gram model.
        decoder: The result of ``decoder_to_tune`` with the same arguments, where it is made already.
        progress: Called with the number of points that are done, and how many there will be at least.

    Raises:
        DataError: the references have no words, so there is no error rate.
        ConfigError: tokenizer and language model do not fit together.
    """
    decoder = decoder or decoder_to_tune(tokenizer, references, lm)
    measure = _Measure(decoder, log_probs, references, threads or usable_cores(), progress)
    greedy_point = measure.greedy(tokenizer)

    surface: Surface = {}
    alpha, beta = _tune_weights(surface, measure)
    unknowns, best_price = _tune_unknown(surface[alpha, beta], measure)
    searches = _try_searches(best_price.config, measure)
    same = [i for i, point in enumerate(searches) if point.differs <= MOST_DIFFERENT]
    place = min(same, key=lambda i: searches[i].seconds)
    searches[place] = measure.with_full_interval(searches[place])
    return Tuning(
        greedy=greedy_point,
        surface=surface,
        unknowns=unknowns,
        searches=searches,
        best=searches[place],
        words=int(measure.words_n.sum()),
        utterances=len(references),
        threads=measure.threads,
    )


def deviations(worse_n: Errors, better_n: Errors) -> float:
    """Return by how many standard deviations, of the summed difference over utterances, there are fewer errors."""
    difference_n = worse_n - better_n
    return float(difference_n.sum()) / math.sqrt(max(float((difference_n**2).sum()), 1.0))


# --- alpha and beta ---------------------------------------------------------------------------------------------------


def _tune_weights(surface: Surface, measure: _Measure) -> tuple[float, float]:
    """Fill the surface, and return the weights that are taken."""

    def look(alphas: Sequence[float], betas: Sequence[float]) -> None:
        for alpha, beta in itertools.product(alphas, betas):
            if (alpha, beta) not in surface:
                surface[alpha, beta] = measure(BeamConfig(alpha=alpha, beta=beta))

    alphas, betas = list(ALPHAS), list(BETAS)
    grown = True
    while grown:
        look(alphas, betas)
        alpha, beta = lowest(surface, ALPHA_STEP, BETA_STEP)
        alphas_grown = _grow(alphas, alpha, ALPHA_STEP, ALPHA_RANGE)
        betas_grown = _grow(betas, beta, BETA_STEP, BETA_RANGE)
        grown = alphas_grown or betas_grown

    near_alphas = [alpha + i * ALPHA_STEP / 2 for i in range(-2, 3)]
    near_betas = [beta + i * BETA_STEP / 2 for i in range(-2, 3)]
    look([a for a in near_alphas if a >= ALPHA_RANGE[0]], near_betas)
    return nearest_usual(surface, lowest(surface, ALPHA_STEP / 2, BETA_STEP / 2))


def _grow(values: list[float], best: float, step: float, limits: tuple[float, float]) -> bool:
    """Add a value beyond the edge on which the best one lies."""
    if best == values[-1] and best + step <= limits[1]:
        values.append(best + step)
        return True
    if best == values[0] and best - step >= limits[0]:
        values.insert(0, best - step)
        return True
    return False


def lowest(surface: Mapping[tuple[float, float], Point], alpha_step: float, beta_step: float) -> tuple[float, float]:
    """Return the point with the fewest errors; of several, that with the fewest around it, then the smallest."""

    def rank(key: tuple[float, float]) -> tuple[int, float, float, float]:
        alpha, beta = key
        around = [(alpha + i * alpha_step, beta + j * beta_step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        errors = [surface[near].errors for near in around if near in surface]
        return surface[key].errors, sum(errors) / len(errors), alpha, abs(beta)

    return min(surface, key=rank)


def nearest_usual(surface: Mapping[tuple[float, float], Point], best: tuple[float, float]) -> tuple[float, float]:
    """Return, of the points that are not surely worse than the best, the nearest to the defaults in steps of the grid.

    On few words the lowest point is partly luck; on many, few others are as good. What else was tried: ``docs/log.md``.

    Source: Breiman et al. 1984, "Classification and regression trees", section 3.4.3, the one-standard-error rule.
    """
    usual = BeamConfig()

    def distance(key: tuple[float, float]) -> tuple[float, int]:
        alpha_steps = (key[0] - usual.alpha) / ALPHA_STEP
        beta_steps = (key[1] - usual.beta) / BETA_STEP
        return alpha_steps**2 + beta_steps**2, surface[key].errors

    as_good = [key for key in surface if deviations(surface[key].errors_n, surface[best].errors_n) <= SURE]
    return min(as_good, key=distance)


# --- unknown words, width and pruning ---------------------------------------------------------------------------------


def _tune_unknown(usual: Point, measure: _Measure) -> tuple[list[Point], Point]:
    """Return a point per price of an unknown word, by price, and the one that is taken.

    Few words of a dev set are unknown: the default price stands unless another one is surely better.
    """
    points = {usual.config.unknown_log_prob: usual}
    for price in UNKNOWNS:
        if price not in points:
            points[price] = measure(usual.config.model_copy(update={"unknown_log_prob": price}))
    by_price = [points[price] for price in sorted(points)]
    better = [point for point in by_price if deviations(usual.errors_n, point.errors_n) > SURE]
    return by_price, min(better, key=lambda point: point.errors, default=usual)


def _try_searches(config: BeamConfig, measure: _Measure) -> list[Point]:
    points: list[Point] = []
    for width, floor, prune in SEARCHES:
        search = {"beam_width": width, "min_token_log_prob": floor, "beam_prune_log_prob": prune}
        point = measure(config.model_copy(update=search))
        widest = points[0] if points else point
        counts = sum(word_counts(zip(widest.texts, point.texts, strict=True)), Counts())
        points.append(replace(point, differs=counts.errors / max(counts.reference_length, 1)))
    return points


@dataclass
class _Measure:
    """Decodes the dev set under a setting, and returns its point."""

    decoder: BeamDecoder
    log_probs: Sequence[LogProbs]
    references: Sequence[str]
    threads: int
    progress: Callable[[int, int], None]
    done: int = 0

    def __post_init__(self) -> None:
        self.words_n = np.array([len(text.split()) for text in self.references], np.int64)
        # The first decoding may compile, which should not count in the seconds of a point.
        self.decoder.decode(self.log_probs[0][:1])

    def __call__(self, config: BeamConfig) -> Point:
        decoder = self.decoder.with_config(config)
        began = time.perf_counter()
        texts = decoder.texts(self.log_probs, self.threads)
        seconds = time.perf_counter() - began

        self.done += 1
        self.progress(self.done, len(ALPHAS) * len(BETAS) + _FINER_POINTS + len(UNKNOWNS) + len(SEARCHES))
        return self._point(config, texts, seconds)

    def greedy(self, tokenizer: Tokenizer) -> Point:
        began = time.perf_counter()
        texts = [greedy(log_probs_sv, tokenizer).text for log_probs_sv in self.log_probs]
        return self._point(self.decoder.config, texts, time.perf_counter() - began)

    def with_full_interval(self, point: Point) -> Point:
        """Return the point with an interval from as many resamples as the scorer takes."""
        low, high = bootstrap_interval(point.errors_n, self.words_n)
        assert low is not None and high is not None  # there are reference words
        return replace(point, low=low, high=high)

    def _point(self, config: BeamConfig, texts: Sequence[str], seconds: float) -> Point:
        counts = word_counts(zip(self.references, texts, strict=True))
        errors_n = np.array([c.errors for c in counts], np.int64)
        low, high = bootstrap_interval(errors_n, self.words_n, resamples=RESAMPLES)
        assert low is not None and high is not None  # there are reference words
        return Point(config, errors_n, float(errors_n.sum() / self.words_n.sum()), low, high, seconds, texts)
