"""CTC prefix beam search for one utterance in plain Python: the definition that the compiled search is held against.

A prefix is a token sequence so far. Its mass is the probability of all paths that write it, kept in two parts: paths
that end in a blank, and paths that end in its last token. Each step every prefix stays (blank, or its last token
repeated) or grows by a token; what reaches the same prefix is added; the best prefixes are kept. The language model's
factor is part of the mass, so that one number ranks a prefix. A space after a space (or at the start) changes nothing:
texts differ by their words. What words and language model say of a prefix is in ``asr.decode.prefixes``.

The compiled search does the same sums in the same order, so both break ties alike.

Axes: s steps, v vocabulary.

Source: Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs", algorithm 1 (prefix beam search with a language model at word ends).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from asr.data.tokenizer import BLANK_ID
from asr.decode.prefixes import Prefix, Scorer
from asr.decode.tables import LEAST_SCALE, Limits, SearchTables
from asr.decode.types import LogProbs, Span
from asr.decode.viterbi import spans_of


class Final(NamedTuple):
    """Hold a text in the beam at the end of an utterance."""

    tokens: list[int]
    #: log-probability of all paths in the beam that write it
    log_prob: float
    #: score of language model, words and hotwords
    lm_score: float
    #: the tokens that were heard: longer than ``tokens`` where an open word was left out
    heard: list[int]

    @property
    def score(self) -> float:
        return self.log_prob + self.lm_score


class Mass(NamedTuple):
    """Hold the probability of all paths that write a prefix, times its scores: two parts by how the paths end."""

    #: of the paths that end in a blank
    blank: float
    #: of the paths that end in the prefix's last token
    token: float

    @property
    def total(self) -> float:
        return self.blank + self.token


class PlainSearch:
    """Search one utterance: ``feed`` it steps, then ask for its ``finals``."""

    def __init__(self, tables: SearchTables, limits: Limits) -> None:
        self.limits = limits
        self.delimiter = tables.delimiter
        self.scorer = Scorer(tables)
        self.beam = {self.scorer.empty: Mass(1.0, 0.0)}
        #: the best mass, by which the next step divides: the product over all steps is below what a float64 holds
        self.scale = 1.0
        #: natural log of everything that the masses were divided by
        self.log_scale = 0.0

    def feed(self, log_probs_sv: LogProbs) -> None:
        """Search on through more steps."""
        for log_probs_v in log_probs_sv.astype(np.float64).tolist():
            self._step(log_probs_v)

    def _step(self, log_probs_v: Sequence[float]) -> None:
        every_token = range(len(log_probs_v))
        best_token = max(every_token, key=log_probs_v.__getitem__)
        possible = [token for token in every_token if log_probs_v[token] >= self.limits.floor or token == best_token]
        if possible == [BLANK_ID]:  # every path goes on with a blank, and all masses change by the same factor
            self.beam = {prefix: Mass(mass.total, 0.0) for prefix, mass in self.beam.items()}
            self.log_scale += log_probs_v[BLANK_ID]
            return

        # A closed word list may forbid everything that token pruning leaves: then once more with all tokens.
        for tokens in (possible, every_token):
            after = self._extended(log_probs_v, tokens)
            best = max((mass.total for mass in after.values()), default=0.0)
            if best > 0:
                break

        self.beam = self._pruned(after, best)
        if best > 0:
            self.log_scale += math.log(self.scale)
            self.scale = max(best, LEAST_SCALE)

    def _extended(self, log_probs_v: Sequence[float], tokens: Iterable[int]) -> dict[Prefix, Mass]:
        """Return the masses of all prefixes one step later, if only these tokens are possible.

        The prefixes that stay come first, in their order.
        """
        shrink = 1.0 / self.scale
        probs = {token: math.exp(log_probs_v[token]) * shrink for token in tokens}
        p_blank = probs.pop(BLANK_ID, 0.0)
        after = {prefix: Mass(mass.total * p_blank, 0.0) for prefix, mass in self.beam.items()}

        def add(prefix: Prefix, mass: float) -> None:
            blank, token = after.get(prefix, (0.0, 0.0))
            after[prefix] = Mass(blank, token + mass)

        for prefix, mass in self.beam.items():
            for token, prob in probs.items():
                if token != prefix.token:
                    child = self.scorer.child(prefix, token)
                    add(child, mass.total * prob * child.growth)
                elif token == self.delimiter:
                    add(prefix, mass.total * prob)  # a second space changes nothing
                else:
                    add(prefix, mass.token * prob)
                    child = self.scorer.child(prefix, token)
                    add(child, mass.blank * prob * child.growth)  # the same token anew needs a blank between

        return after

    def _pruned(self, after: dict[Prefix, Mass], best: float) -> dict[Prefix, Mass]:
        """Return the prefixes that are kept, in their order: the best ``beam_width``, of equal ones the earlier.

        Where there are more, only the best of those with the same future stays: what follows changes all of them alike.
        """
        least = best * self.limits.prune
        alive = [prefix for prefix, mass in after.items() if mass.total >= least and mass.total > 0]
        ranked = sorted(alive, key=lambda prefix: -after[prefix].total)
        if self.limits.recombine and len(ranked) > self.limits.beam_width:
            best_of: dict[object, Prefix] = {}
            for prefix in ranked:
                best_of.setdefault(self.scorer.future(prefix, after[prefix].token > 0), prefix)
            ranked = list(best_of.values())
        kept = set(ranked[: self.limits.beam_width])
        return {prefix: after[prefix] for prefix in alive if prefix in kept}

    def finals(self, limit: int | None) -> list[Final]:
        """Return the best texts in the beam with their sentences complete, best first; ``None``: all of them."""
        finals = self._finals(cut=False)
        if not finals:  # no open word is a listed one: leave them out
            finals = self._finals(cut=True)
        return finals[:limit]

    def _finals(self, cut: bool) -> list[Final]:
        scored = []

        for prefix, mass in self.beam.items():
            text, lm_score = self.scorer.without_open_word(prefix) if cut else self.scorer.finish(prefix)
            log_prob = math.log(mass.total) + self.log_scale - (prefix.score + prefix.look)
            if lm_score > -math.inf:
                scored.append((text, log_prob, lm_score, prefix if cut else text))

        if cut:
            scored.sort(key=lambda final: -(final[1] + final[2]))

        # Prefixes with and without a space at the end are one text; so are those that differ in what was cut.
        merged: dict[Prefix, tuple[float, float, Prefix]] = {}

        for text, log_prob, lm_score, heard in scored:
            if text in merged:
                log_prob = float(np.logaddexp(merged[text][0], log_prob))
                heard = merged[text][2]
            merged[text] = log_prob, lm_score, heard

        finals = [
            Final(text.tokens(), log_prob, lm_score, heard.tokens())
            for text, (log_prob, lm_score, heard) in merged.items()
        ]
        return sorted(finals, key=lambda final: -final.score)

    def common(self) -> list[int]:
        """Return the tokens that all prefixes in the beam begin with."""
        all_tokens = [prefix.tokens() for prefix in self.beam]
        return [each[0] for each in takewhile(lambda each: len(set(each)) == 1, zip(*all_tokens, strict=False))]

    def spans_of(self, log_probs_sv: LogProbs, tokens: Sequence[int]) -> tuple[Span, ...]:
        """Return the spans of tokens on the most probable path that writes them."""
        return spans_of(log_probs_sv, tokens, self.delimiter, self.limits.floor)

    def close(self) -> None:
        """Do nothing: there is no memory to give back."""
