"""Beam search with a neural language model of tokens inside: each prefix is weighed by it as soon as it is met.

    score = log_prob + lm_score,  lm_score = that of ``docs/decoding.md`` + weight x ln P(tokens and end of sentence)

In numpy only, with or without the n-gram model at word ends. The compiled search cannot have it: a state is hundreds of
numbers that come out of another library's matrix products, where an n-gram's is one number from a table.

A state is computed once for each prefix that stays in the beam and grows, all of a step in one call, for all utterances
of a batch. Only states of the last few steps are kept; one that is asked for again later is computed from what is left.

Axes: b prefixes in the beam, c prefixes that may come into it, n states, s numbers of a state, v vocabulary.

Source: Gulcehre et al. 2015, "On Using Monolingual Corpora in Neural Machine Translation" (shallow fusion); Hwang &
Sung 2016, "Character-Level Incremental Speech Recognition with Recurrent Neural Networks".
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from asr.data.tokenizer import BLANK_ID
from asr.decode.beam import NumpySearch
from asr.decode.prefixes import Nodes, Places, PrefixTree
from asr.decode.settings import BeamConfig
from asr.decode.tables import TOKEN_FUSION, Floats, Ints, SearchTables

#: the end of a sentence among a token model's ids: the blank's, which no text has
END = BLANK_ID
#: steps for which a state is kept that nobody asks for
_KEPT = 4


class TokenModel(Protocol):
    """What the search needs of a neural language model; its token ids are the acoustic model's."""

    def begin(self) -> tuple[Any, Any]:
        """Log-probabilities of the first token of a sentence, and the state before it. Shapes: (1, v), (1, s)."""

    def advance(self, states_ns: Any, tokens_n: npt.NDArray[np.int64], /) -> tuple[Any, Any]:
        """Log-probabilities of the next token after one more, and the states. Shapes: (n, s), (n) -> (n, v), (n, s)."""


class FusionSearch(NumpySearch):
    """The search in numpy over prefixes that a token model weighs too."""

    def __init__(
        self, tables: SearchTables, config: BeamConfig, model: TokenModel, weight: float, utterances: int = 1
    ) -> None:
        super().__init__(tables, config, utterances)
        self.tree = FusionTree(tables, utterances, model, weight)


class FusionTree(PrefixTree):
    """Prefixes with the token model's log-probability in their scores."""

    def __init__(self, tables: SearchTables, roots: int, model: TokenModel, weight: float) -> None:
        super().__init__(tables, roots)
        self.model, self.weight = model, weight
        #: node -> weight x ln P of its tokens
        self.neural = np.zeros(roots)
        #: node -> its place among the kept states, -1: none
        self._place = np.zeros(roots, np.int64)
        self._age = 0
        log_probs_1v, states_1s = (np.asarray(each, np.float32) for each in model.begin())
        # all empty prefixes have the same state, the first; it is never given up
        self._log_probs_nv, self._states_ns = log_probs_1v, states_1s
        self._used_n = np.array([np.iinfo(np.int64).max])
        self._node_n = np.array([-1], np.int64)

    def grow(self, node_c: Places, token_c: Ints) -> Nodes:
        grown = super().grow(node_c, token_c)
        change_c = self._next(node_c, token_c)
        grown["fusion"] += change_c
        grown["growth"] *= np.exp(change_c)
        self._forget()
        return grown

    def add(self, grown: Nodes) -> Places:
        node_c = super().add(grown)
        if self.num_nodes > len(self.neural):
            more = np.zeros(self.num_nodes)  # twice as many, at least
            self.neural = np.concatenate([self.neural, more])
            self._place = np.concatenate([self._place, np.full(len(more), -1, np.int64)])
        parent_c = grown["parent"].astype(np.int64)
        self.neural[node_c] = self.neural[parent_c] + self._next(parent_c, grown["last"])
        return node_c

    def end(self, node_b: Places) -> tuple[Places, Floats]:
        return self._ended(node_b, *super().end(node_b))

    def cut(self, node_b: Places) -> tuple[Places, Floats]:
        if self.tables.fusion == TOKEN_FUSION:
            return super().cut(node_b)  # by ``end``, from what is left
        return self._ended(node_b, *super().cut(node_b))

    def _ended(self, node_b: Places, after_b: Places, score_b: Floats) -> tuple[Places, Floats]:
        """What ``after_b`` leaves out of the prefixes does not count; the end of the sentence does."""
        left_out_b = self.neural[node_b] - self.neural[after_b]
        return after_b, score_b - left_out_b + self._next(after_b, np.full(len(after_b), END))

    def _next(self, node_c: Places, token_c: npt.NDArray[Any]) -> Floats:
        """weight x ln P(token | prefix)."""
        if not len(node_c):
            return np.zeros(0)
        place_c = self._places(node_c)
        log_prob_c: Floats = self._log_probs_nv[place_c, token_c].astype(np.float64)
        return self.weight * log_prob_c

    def _places(self, node_c: Places) -> npt.NDArray[np.int64]:
        """Where the states of prefixes are; those that are not known are computed, shortest prefixes first."""
        levels = []
        missing = np.unique(node_c[self._place[node_c] < 0])
        while len(missing):
            levels.append(missing)
            parents = np.unique(self.nodes["parent"][missing].astype(np.int64))
            missing = parents[self._place[parents] < 0]
        for level in reversed(levels):
            level = level[self._place[level] < 0]
            self._compute(level)
        place_c = self._place[node_c]
        self._used_n[place_c] = np.maximum(self._used_n[place_c], self._age)
        return place_c

    def _compute(self, nodes: Places) -> None:
        parent_places = self._place[self.nodes["parent"][nodes]]
        tokens = self.nodes["last"][nodes].astype(np.int64)
        log_probs_nv, states_ns = self.model.advance(self._states_ns[parent_places], tokens)
        self._place[nodes] = len(self._node_n) + np.arange(len(nodes))
        self._log_probs_nv = np.concatenate([self._log_probs_nv, np.asarray(log_probs_nv, np.float32)])
        self._states_ns = np.concatenate([self._states_ns, np.asarray(states_ns, np.float32)])
        self._used_n = np.concatenate([self._used_n, np.full(len(nodes), self._age)])
        self._node_n = np.concatenate([self._node_n, nodes])

    def _forget(self) -> None:
        """Gives up the states that nobody has asked for lately."""
        self._age += 1
        kept = self._used_n >= self._age - _KEPT
        if kept.sum() * 2 > len(kept):
            return
        self._place[self._node_n[~kept]] = -1
        at = np.flatnonzero(kept)
        self._node_n, self._used_n = self._node_n[at], self._used_n[at]
        self._log_probs_nv, self._states_ns = self._log_probs_nv[at], self._states_ns[at]
        self._place[self._node_n[1:]] = np.arange(1, len(at))
