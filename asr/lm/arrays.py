"""The flat arrays of a back-off n-gram model, which numpy and compiled code take as they are.

A node is an n-gram: node 0 the empty one, node ``1 + word`` the unigram of a word, then the longer ones by order. A
state is a node that can be a context: it has longer n-grams or a back-off weight.

Units: natural logarithms throughout; ARPA files have log10, which reading and writing convert.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

UNK, BEGIN, END = "<unk>", "<s>", "</s>"
MAX_ORDER = 6
LN10 = float(np.log(10.0))
#: what kenlm gives an unknown word where the file lists no <unk>
MISSING_UNK_LOG10_PROB = -100.0
#: SRILM's number for log(0), which it writes for what is never predicted; ``-inf`` is read as this
NEVER_LOG10_PROB = -99.0
#: larger back-off weights are damage: those of any text are near or below 1
MOST_BACKOFF_LOG10 = 30.0


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
    is_context: Bytes
    vocabulary_size: Longs
    order: Longs


class HashedArrays(NamedTuple):
    """The tables of a KenLM file, whose n-grams are found by hashes of their words and cannot be listed.

    A node is a place in the tables: 0 the empty n-gram, ``1 + word`` a unigram, then every bucket of the tables of
    orders 2 to the highest but one. Axes: o orders, n nodes from the first bucket on.
    """

    #: the file as 32-bit numbers; those of probabilities are float32, log10
    items: Ints
    #: of each order, from 1: the columns that ``asr.lm.compiled.kenlm`` names
    layout_o: npt.NDArray[np.int64]
    #: of each bucket that was a state: the node of its n-gram without the first word, and this word. What a search has
    #: passed is written here, always with the same numbers, so threads may share it
    links_n: npt.NDArray[np.int32]
    vocabulary_size: Longs


def new_arrays(num_words: int, order: int, num_nodes: int) -> NgramArrays:
    """Return arrays with room for this many nodes; only the empty n-gram is in them."""
    slots = table_slots(num_nodes - 1 - num_words)
    arrays = NgramArrays(
        table_keys=np.full(slots, -1, np.int64),
        table_nodes=np.zeros(slots, np.int32),
        log_probs=np.zeros(num_nodes, np.float32),
        backoffs=np.zeros(num_nodes, np.float32),
        suffixes=np.zeros(num_nodes, np.int32),
        is_context=np.zeros(num_nodes, np.uint8),
        vocabulary_size=np.array([num_words]),
        order=np.array([order]),
    )
    arrays.is_context[0] = 1
    return arrays


def no_ngrams() -> NgramArrays:
    """Return arrays of the right types without any n-gram, for a kernel where there is no language model."""
    return new_arrays(num_words=0, order=0, num_nodes=1)


def table_slots(num_entries: int) -> int:
    """Return the slots of a table: the power of two that leaves it at most three quarters full."""
    return 1 << max(3, (num_entries * 4 // 3).bit_length())


def nodes_by_order(counts: Sequence[int]) -> list[slice]:
    """Return the nodes of the n-grams of each order, from 1."""
    return [slice(start, end) for start, end in pairwise(accumulate(counts, initial=1))]
