"""A back-off n-gram model as flat arrays: an automaton over contexts that numpy and numba walk alike.

A node is an n-gram: node 0 the empty one, node ``1 + word`` the unigram of a word, then the longer ones by order. A
state is a node that can be a context: it has longer n-grams or a back-off weight.

Axes: n nodes, or queries where a function says so; w words of a sentence. Units: natural logarithms throughout; ARPA
files have log10, which reading and writing convert.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

UNK, BEGIN, END = "<unk>", "<s>", "</s>"
MAX_ORDER = 6
LN10 = float(np.log(10.0))
#: what kenlm gives an unknown word where the file lists no <unk>
MISSING_UNK_LOG10_PROB = -100.0
#: SRILM's number for log(0), which it writes for what never is predicted; ``-inf`` is read as this
NEVER_LOG10_PROB = -99.0
#: larger back-off weights are damage: those of any text are near or below 1
MOST_BACKOFF_LOG10 = 30.0

_HASH = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Knuth, TAOCP 3, section 6.4
_UINT64 = 2**64 - 1


class NgramArrays(NamedTuple):
    """All that scoring needs, as arrays of fixed types that numba takes as they are.

    The table finds the node of an n-gram from its context's node and its last word: open addressing with linear
    probing, key ``node * vocabulary_size + word``, -1 where empty. Unigrams need no look-up: node ``1 + word``.
    """

    table_keys: Longs
    table_nodes: Ints
    #: ln p(last word | the words before it)
    log_probs: Floats
    #: ln of the back-off weight; 0 where there is none
    backoffs: Floats
    #: the longest proper suffix of a node that is a state: where back-off goes, and the state after a non-context
    suffixes: Ints
    #: whether a node is a state itself
    is_context: npt.NDArray[np.uint8]
    vocabulary_size: Longs
    order: Longs


def no_ngrams() -> NgramArrays:
    """Arrays of the right types without any n-gram: what a kernel is given where there is no language model."""
    return NgramArrays(
        np.full(1, -1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.float32),
        np.zeros(1, np.int32), np.ones(1, np.uint8), np.zeros(1, np.int64), np.zeros(1, np.int64),
    )  # fmt: skip


def table_slots(num_entries: int) -> int:
    """Slots of a table for so many entries: the power of two that leaves it at most three quarters full."""
    return 1 << max(3, (num_entries * 4 // 3).bit_length())


def find_many(arrays: NgramArrays, nodes_n: npt.ArrayLike, words_n: npt.ArrayLike) -> Longs:
    """The node of each n-gram ``(node, word)``, -1 where the model does not have it.

    Shapes: n queries.
    """
    nodes, words = np.broadcast_arrays(np.asarray(nodes_n, np.int64), np.asarray(words_n, np.int64))
    found_n = np.where(nodes == 0, words + 1, -1)
    active = np.flatnonzero(nodes != 0)
    keys = nodes[active] * arrays.vocabulary_size[0] + words[active]
    hashes = keys.astype(np.uint64) * np.uint64(_HASH)
    mask = len(arrays.table_keys) - 1
    slots = (hashes ^ (hashes >> np.uint64(32))).astype(np.int64) & mask
    while len(active):
        there = arrays.table_keys[slots]
        hit = there == keys
        found_n[active[hit]] = arrays.table_nodes[slots[hit]]
        on = ~hit & (there != -1)
        active, keys, slots = active[on], keys[on], (slots[on] + 1) & mask
    return found_n


def advance_many(arrays: NgramArrays, states_n: npt.ArrayLike, words_n: npt.ArrayLike) -> tuple[Doubles, Longs]:
    """The log-probability of each word after its state, and the state after it.

    Shapes: n queries; both results of n.
    """
    states, words = (a.copy() for a in np.broadcast_arrays(np.asarray(states_n, np.int64), np.asarray(words_n)))
    log_probs_n = np.zeros(states.shape)
    found_n = find_many(arrays, states, words)
    while len(missing := np.flatnonzero(found_n < 0)):
        log_probs_n[missing] += arrays.backoffs[states[missing]]
        states[missing] = arrays.suffixes[states[missing]]
        found_n[missing] = find_many(arrays, states[missing], words[missing])
    log_probs_n += arrays.log_probs[found_n]
    return log_probs_n, np.where(arrays.is_context[found_n] != 0, found_n, arrays.suffixes[found_n])


class NgramModel:
    """A back-off n-gram model: words, arrays, and how many n-grams of each order there are.

    ``has_unk`` says whether <unk> was in the file or the estimate; where it was not, an unknown word has log10
    probability -100, as in kenlm.
    """

    unk_id, begin_id, end_id = 0, 1, 2

    def __init__(
        self, vocabulary: bytes | Sequence[str], arrays: NgramArrays, counts: Sequence[int], has_unk: bool = True
    ) -> None:
        #: the words in UTF-8, a newline between; split on first use: a decoder may never ask
        self.vocabulary = vocabulary if isinstance(vocabulary, bytes) else "\n".join(vocabulary).encode()
        self.arrays = arrays
        self.counts = tuple(int(c) for c in counts)
        self.has_unk = has_unk

    def __repr__(self) -> str:
        return f"NgramModel(order={self.order}, ngrams={'+'.join(map(str, self.counts))})"

    @property
    def order(self) -> int:
        return len(self.counts)

    @property
    def vocabulary_size(self) -> int:
        """Words with an id: <unk>, <s> and </s> included."""
        return int(self.arrays.vocabulary_size[0])

    @cached_property
    def words(self) -> list[str]:
        """The words by id: <unk>, <s>, </s>, then the others."""
        return self.vocabulary.decode().split("\n")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def word_id(self, word: str) -> int:
        """The id of a word; <unk>'s where the model does not know it."""
        return self._ids.get(word, self.unk_id)

    @property
    def begin_state(self) -> int:
        """The state at the start of a sentence, after <s>."""
        node = 1 + self.begin_id
        return node if self.arrays.is_context[node] else 0

    def advance(self, state: int, word: int) -> tuple[float, int]:
        """The log-probability of a word after a state, and the state after it."""
        arrays, log_prob = self.arrays, 0.0
        node = self._find(state, word)
        while node < 0:
            log_prob += float(arrays.backoffs[state])
            state = int(arrays.suffixes[state])
            node = self._find(state, word)
        log_prob += float(arrays.log_probs[node])
        return log_prob, node if arrays.is_context[node] else int(arrays.suffixes[node])

    def _find(self, node: int, word: int) -> int:
        if node == 0:
            return 1 + word
        keys = self.arrays.table_keys
        key = node * self.vocabulary_size + word
        hashed = key * _HASH & _UINT64
        slot = (hashed ^ hashed >> 32) & len(keys) - 1
        while (there := int(keys[slot])) != key:
            if there == -1:
                return -1
            slot = slot + 1 & len(keys) - 1
        return int(self.arrays.table_nodes[slot])

    def advance_many(self, states_n: npt.ArrayLike, words_n: npt.ArrayLike) -> tuple[Doubles, Longs]:
        """``advance`` for n states and n words at once."""
        return advance_many(self.arrays, states_n, words_n)

    def score_words(self, words: Sequence[str], bos: bool = True, eos: bool = True) -> Doubles:
        """ln p of each word after the words before it; with ``eos`` that of the sentence's end comes last.

        Shapes: w, or w + 1.
        """
        state = self.begin_state if bos else 0
        log_probs_w = np.empty(len(words) + eos)
        for i, word in enumerate([self.word_id(w) for w in words] + [self.end_id] * eos):
            log_probs_w[i], state = self.advance(state, word)
        return log_probs_w

    def score(self, words: Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """ln p of a sentence, its end included: what kenlm calls score, in natural log."""
        return float(self.score_words(words, bos, eos).sum())

    def contexts_and_words(self) -> tuple[Ints, Ints]:
        """What each node is made of: the node of its context and its last word. Node 0 has neither.

        Shapes: n nodes, both.
        """
        arrays = self.arrays
        contexts_n, words_n = (np.zeros(len(arrays.log_probs), np.int32) for _ in range(2))
        words_n[1 : 1 + self.vocabulary_size] = np.arange(self.vocabulary_size)
        keys, nodes = arrays.table_keys[used := arrays.table_keys >= 0], arrays.table_nodes[used]
        contexts_n[nodes], words_n[nodes] = np.divmod(keys, self.vocabulary_size)
        return contexts_n, words_n
