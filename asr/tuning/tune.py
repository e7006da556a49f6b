"""Decoder settings for a model and a language model, by the word error rate on a dev set.

The order: the weights alpha and beta on a grid that grows while its best point lies on its edge, then on a finer grid
around that point; the price of unknown words; then width and pruning. Of the weights whose error rate is not surely
above the lowest one, those nearest to the usual ones are taken. Width and pruning are judged by the texts, which say
more than a few errors: the fastest search is taken that finds nearly the same words as the widest.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import Tokenizer
from asr.decode.decoder import BeamDecoder, cores
from asr.decode.greedy import greedy
from asr.decode.settings import BeamConfig
from asr.decode.types import LogProbs
from asr.errors import DataError
from asr.scoring.bootstrap import bootstrap_interval
from asr.scoring.wer import Counts, word_counts

#: the first grid
ALPHA_STEP, BETA_STEP = 0.25, 0.75
ALPHAS = tuple(ALPHA_STEP * i for i in range(7))
BETAS = tuple(BETA_STEP * i for i in range(-1, 6))
#: how far it may grow; alpha above 4 lets the language model write the text alone
ALPHA_RANGE, BETA_RANGE = (0.0, 4.0), (-4.5, 12.0)
#: of the words that the widest search finds, as many may be others
MOST_DIFFERENT = 0.001
#: a setting is surely better than another one when it saves more errors than this many deviations of the difference
SURE = 1.0
UNKNOWNS = (-30.0, -20.0, -15.0, -10.0, -7.0, -5.0, -3.0)
#: (width, token floor, beam pruning); the first is the widest, against which the others are held
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
_RESAMPLES = 1000


@dataclass(frozen=True)
class Point:
    """What a setting gives: word errors, their rate with its 95 % interval, and the seconds of searching.

    Shapes: ``errors_n`` holds the errors of each utterance.
    """

    config: BeamConfig
    errors_n: npt.NDArray[np.int64]
    rate: float
    low: float
    high: float
    seconds: float
    #: of the widest search's words, how many this one writes otherwise; a fraction, of searches only
    differs: float = 0.0

    @property
    def errors(self) -> int:
        return int(self.errors_n.sum())

    def to_json(self) -> dict[str, Any]:
        keys = ("alpha", "beta", "unknown_log_prob", "beam_width", "min_token_log_prob", "beam_prune_log_prob")
        settings = {key: getattr(self.config, key) for key in keys}
        rates = {"wer": self.rate, "low": self.low, "high": self.high}
        return settings | rates | {"errors": self.errors, "seconds": round(self.seconds, 4)}


@dataclass
class Tuning:
    """What a search over settings found."""

    greedy: Point
    #: (alpha, beta) -> what it gives
    surface: dict[tuple[float, float], Point] = field(default_factory=dict)
    unknowns: list[Point] = field(default_factory=list)
    searches: list[Point] = field(default_factory=list)
    best: Point | None = None
    words: int = 0
    utterances: int = 0
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        assert self.best is not None  # set before anybody gets to see it
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


def decoder_to_tune(
    tokenizer: Tokenizer, references: Sequence[str], lm: Any, base: BeamConfig | None = None
) -> BeamDecoder:
    """The decoder whose settings are searched; made before the forward pass, it refuses what ``tune`` would after it.

    Raises:
        DataError: the references have no words, so there is no error rate.
        ConfigError: tokenizer and language model do not fit together.
    """
    if not any(text.split() for text in references):
        raise DataError("the references have no words: no error rate can be tuned")
    return BeamDecoder(tokenizer, base or BeamConfig(), lm)


def tune(
    tokenizer: Tokenizer,
    log_probs: Sequence[LogProbs],
    references: Sequence[str],
    lm: Any,
    base: BeamConfig | None = None,
    threads: int | None = None,
    decoder: BeamDecoder | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """The best settings for these utterances, and every point that was looked at.

    Args:
        references: the texts, normalised as the model's are.
        lm: an n-gram model.
        base: what is not tuned (hotwords, lexicon, fusion).
        decoder: of ``decoder_to_tune`` with the same arguments, where it is made already.
        progress: told the points that are done, and how many there will be at least.

    Raises:
        DataError: the references have no words, so there is no error rate.
        ConfigError: tokenizer and language model do not fit together.
    """
    words = sum(len(text.split()) for text in references)
    base = base or BeamConfig()
    if decoder is None or not words:
        decoder = decoder_to_tune(tokenizer, references, lm, base)
    measure = _Measure(decoder, log_probs, references, threads, progress)
    tuning = Tuning(measure.greedy(tokenizer), words=words, utterances=len(references), threads=measure.threads)
    alpha, beta = _tune_weights(tuning.surface, measure, base)
    config = base.model_copy(update={"alpha": alpha, "beta": beta})
    chosen = measure(config)
    prices = {base.unknown_log_prob: chosen}
    for price in UNKNOWNS:
        if price not in prices:
            prices[price] = measure(config.model_copy(update={"unknown_log_prob": price}))
    tuning.unknowns = [prices[price] for price in sorted(prices)]
    # Few words of a dev set are unknown: the usual price stands unless another one is surely better.
    better = [point for point in tuning.unknowns if _deviations(chosen, point) > SURE]
    config = min(better, key=lambda point: point.errors, default=chosen).config
    tuning.searches, texts = [], []
    for width, floor, prune in SEARCHES:
        search = {"beam_width": width, "min_token_log_prob": floor, "beam_prune_log_prob": prune}
        texts.append(measure.texts(config.model_copy(update=search)))
        tuning.searches.append(measure.last(differs=_different(texts[0], texts[-1])))
    same = [i for i, point in enumerate(tuning.searches) if point.differs <= MOST_DIFFERENT]
    place = min(same, key=lambda i: tuning.searches[i].seconds)
    tuning.best = tuning.searches[place] = measure.closer(tuning.searches[place])
    return tuning


def _different(texts: Sequence[str], others: Sequence[str]) -> float:
    counts = sum(word_counts(zip(texts, others, strict=True)), Counts())
    return counts.errors / max(counts.reference_length, 1)


def _deviations(worse: Point, better: Point) -> float:
    """By how many standard deviations of the summed difference over utterances one point has fewer errors."""
    difference_n = worse.errors_n - better.errors_n
    return float(difference_n.sum()) / math.sqrt(max(float((difference_n**2).sum()), 1.0))


def _tune_weights(
    surface: dict[tuple[float, float], Point], measure: _Measure, base: BeamConfig
) -> tuple[float, float]:
    """Fills the surface; the point of it that is taken."""

    def look(alphas: Sequence[float], betas: Sequence[float]) -> None:
        for alpha, beta in itertools.product(alphas, betas):
            if (alpha, beta) not in surface:
                surface[alpha, beta] = measure(base.model_copy(update={"alpha": alpha, "beta": beta}))

    alphas, betas = list(ALPHAS), list(BETAS)
    while True:
        look(alphas, betas)
        alpha, beta = lowest(surface, ALPHA_STEP, BETA_STEP)
        grown = [_grow(alphas, alpha, ALPHA_STEP, ALPHA_RANGE), _grow(betas, beta, BETA_STEP, BETA_RANGE)]
        if not any(grown):
            break
    near = [alpha + i * ALPHA_STEP / 2 for i in range(-2, 3)]
    look([a for a in near if a >= ALPHA_RANGE[0]], [beta + i * BETA_STEP / 2 for i in range(-2, 3)])
    return nearest_usual(surface, lowest(surface, ALPHA_STEP / 2, BETA_STEP / 2))


def _grow(values: list[float], best: float, step: float, limits: tuple[float, float]) -> bool:
    """Adds a value beyond the edge on which the best one lies."""
    if best == values[-1] and best + step <= limits[1]:
        values.append(best + step)
        return True
    if best == values[0] and best - step >= limits[0]:
        values.insert(0, best - step)
        return True
    return False


def lowest(surface: dict[tuple[float, float], Point], alpha_step: float, beta_step: float) -> tuple[float, float]:
    """The point with the fewest errors; of several, the one with the fewest in its neighbourhood, then the smallest."""

    def judged(key: tuple[float, float]) -> tuple[int, float, float, float]:
        alpha, beta = key
        around = [(alpha + i * alpha_step, beta + j * beta_step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        errors = [surface[near].errors for near in around if near in surface]
        return surface[key].errors, sum(errors) / len(errors), alpha, abs(beta)

    return min(surface, key=judged)


def nearest_usual(surface: Mapping[tuple[float, float], Point], best: tuple[float, float]) -> tuple[float, float]:
    """Of the points that are not surely worse than the best, the nearest to the usual weights, in steps of the grid.

    On few words the lowest point is partly luck; on many, few others are as good. What else was tried: ``docs/log.md``.

    Source: Breiman et al. 1984, "Classification and regression trees", section 3.4.3, the one-standard-error rule.
    """
    usual = BeamConfig()

    def far(key: tuple[float, float]) -> tuple[float, int]:
        alpha_steps, beta_steps = (key[0] - usual.alpha) / ALPHA_STEP, (key[1] - usual.beta) / BETA_STEP
        return alpha_steps**2 + beta_steps**2, surface[key].errors

    return min((key for key in surface if _deviations(surface[key], surface[best]) <= SURE), key=far)


class _Measure:
    """A setting's point on the dev set."""

    def __init__(
        self,
        decoder: BeamDecoder,
        log_probs: Sequence[LogProbs],
        references: Sequence[str],
        threads: int | None,
        progress: Callable[[int, int], None],
    ) -> None:
        self.decoder, self.log_probs, self.references = decoder, log_probs, references
        self.threads = threads or cores()
        self._words_n = np.array([len(text.split()) for text in references], np.int64)
        self._progress = progress
        self._done = 0
        # the first decoding may compile: no point's seconds should have that in them
        decoder.decode(log_probs[0][:1])

    def __call__(self, config: BeamConfig) -> Point:
        self.texts(config)
        return self.last()

    def texts(self, config: BeamConfig) -> list[str]:
        """The texts under a setting; ``last`` is then its point."""
        decoder = self.decoder.with_config(config)
        began = time.perf_counter()
        texts = [nbest[0].text for nbest in decoder.decode_all(self.log_probs, self.threads)]
        seconds = time.perf_counter() - began
        self._done += 1
        self._progress(self._done, len(ALPHAS) * len(BETAS) + 17 + len(UNKNOWNS) + len(SEARCHES))
        self._last = config, texts, seconds
        return texts

    def last(self, differs: float = 0.0) -> Point:
        return replace(self._point(*self._last), differs=differs)

    def greedy(self, tokenizer: Tokenizer) -> Point:
        began = time.perf_counter()
        texts = [greedy(one_sv, tokenizer).text for one_sv in self.log_probs]
        return self._point(self.decoder.config, texts, time.perf_counter() - began)

    def closer(self, point: Point) -> Point:
        """The same with as many resamples as the scorer takes."""
        low, high = bootstrap_interval(point.errors_n, self._words_n)
        assert low is not None and high is not None  # there are reference words
        return replace(point, low=low, high=high)

    def _point(self, config: BeamConfig, texts: Sequence[str], seconds: float) -> Point:
        counts = word_counts(zip(self.references, texts, strict=True))
        errors_n = np.array([c.errors for c in counts], np.int64)
        low, high = bootstrap_interval(errors_n, self._words_n, resamples=_RESAMPLES)
        assert low is not None and high is not None  # there are reference words
        return Point(config, errors_n, float(errors_n.sum() / self._words_n.sum()), low, high, seconds)
