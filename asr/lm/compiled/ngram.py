"""The n-gram automaton in compiled code: look-up for the decoder, and the loops of reading and of estimation.

Nothing is compiled by importing this; the first call of a function compiles it, and the result is kept on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.jit import choose_by_type, compiled
from asr.lm.arrays import Bytes, Doubles, HashedArrays, Ints, Longs, NgramArrays
from asr.lm.compiled.kenlm import advance_by_hash

#: an int of Python or of numpy: the compiler has types of its own
Int = Any
#: stands for a node that does not exist
MISSING = -1
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth, TAOCP 3, section 6.4


@compiled
def slot_of(keys: Longs, key: Int) -> Int:
    """Return the slot of a hash table that holds a key, or the empty one (-1) where it belongs.

    The number of slots is a power of two, and one at least is empty.
    """
    hashed = np.uint64(key) * _HASH
    mask = len(keys) - 1
    slot = np.int64(hashed ^ (hashed >> np.uint64(32))) & mask
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@compiled
def find(arrays: NgramArrays, node: Int, word: Int) -> Int:
    """Return the node of the n-gram that extends ``node`` by ``word``, or -1."""
    if node == 0:
        return np.int64(word) + 1

    key = np.int64(node) * arrays.vocabulary_size[0] + np.int64(word)
    slot = slot_of(arrays.table_keys, key)
    return np.int64(arrays.table_nodes[slot]) if arrays.table_keys[slot] == key else MISSING


def advance(arrays: NgramArrays | HashedArrays, state: Int, word: Int) -> tuple[float, Int]:
    """Return the log-probability of a word after a state, and the state after it. For compiled code only."""
    raise NotImplementedError


@compiled
def advance_by_node(arrays: NgramArrays, state: Int, word: Int) -> tuple[float, Int]:
    """Do what ``advance`` does, in an automaton."""
    log_prob: Any = 0.0
    node = find(arrays, state, word)
    while node < 0:
        log_prob += arrays.backoffs[state]
        state = np.int64(arrays.suffixes[state])
        node = find(arrays, state, word)

    log_prob += arrays.log_probs[node]
    if arrays.is_context[node] == 0:
        node = np.int64(arrays.suffixes[node])
    return log_prob, node


def _choose_advance(arrays: Any, state: Any, word: Any) -> Any:
    if arrays.instance_class is HashedArrays:
        return lambda arrays, state, word: advance_by_hash(arrays, state, word)
    return lambda arrays, state, word: advance_by_node(arrays, state, word)


choose_by_type(advance, _choose_advance)


@compiled
def advance_all(
    arrays: NgramArrays | HashedArrays, states_n: Longs, words_n: Longs, log_probs_n: Doubles, after_n: Longs
) -> None:
    """Write what ``advance`` returns for each state and word."""
    for i in range(len(states_n)):
        log_probs_n[i], after_n[i] = advance(arrays, states_n[i], words_n[i])


@compiled
def score_ids(
    arrays: NgramArrays | HashedArrays, ids_w: Ints, end_id: Int, begin_state: Int, log_probs_w: Doubles
) -> None:
    """Write ln p of every word of sentences in a row, each of them closed by ``end_id``."""
    state = np.int64(begin_state)
    for i in range(len(ids_w)):
        log_probs_w[i], state = advance(arrays, state, np.int64(ids_w[i]))
        if ids_w[i] == end_id:
            state = np.int64(begin_state)


@compiled
def insert_all(table_keys: Longs, table_nodes: Ints, keys: Longs, nodes: Ints) -> None:
    """Put distinct keys into the table."""
    for i in range(len(keys)):
        slot = slot_of(table_keys, keys[i])
        table_keys[slot] = keys[i]
        table_nodes[slot] = nodes[i]


@compiled
def enter_nodes(arrays: NgramArrays, contexts_n: Ints, words_n: Ints) -> None:
    """Put the n-grams of orders 2 and up into the table, and mark the states: contexts, and what has a weight."""
    num_words = arrays.vocabulary_size[0]
    for node in range(len(words_n)):
        if arrays.backoffs[node] != 0.0:
            arrays.is_context[node] = 1
    for node in range(1 + num_words, len(words_n)):
        key = np.int64(contexts_n[node]) * num_words + np.int64(words_n[node])
        slot = slot_of(arrays.table_keys, key)
        arrays.table_keys[slot] = key
        arrays.table_nodes[slot] = node
        arrays.is_context[contexts_n[node]] = 1


@compiled
def link_suffixes(arrays: NgramArrays, contexts: Any, words: Any, first_node: Int) -> None:
    """Write the longest proper suffix that exists of each of the n-grams from ``first_node`` on.

    Suffixes of shorter n-grams must be there. The nodes of the contexts and the last words describe the n-grams.
    """
    for i in range(len(contexts)):
        state = np.int64(arrays.suffixes[contexts[i]])
        suffix = find(arrays, state, words[i])
        while suffix < 0:
            state = np.int64(arrays.suffixes[state])
            suffix = find(arrays, state, words[i])
        arrays.suffixes[first_node + i] = suffix


@compiled
def resolve_suffixes(suffixes: Ints, is_context: Bytes) -> None:
    """Make every suffix a state: one that is no context is replaced by its own suffix, which comes before it."""
    for node in range(1, len(suffixes)):
        if is_context[suffixes[node]] == 0:
            suffixes[node] = suffixes[suffixes[node]]
