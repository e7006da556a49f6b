"""The n-gram automaton in compiled code: look-up for the decoder, and the loops of reading and of estimation.

Nothing is compiled by importing this; the first call of a function compiles it, and the result is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from asr.lm.model import Doubles, Ints, Longs, NgramArrays

F = TypeVar("F", bound=Callable[..., Any])
_compile: Callable[[F], F] = numba.njit(cache=True, nogil=True, error_model="numpy")
#: an int of Python's or of numpy's: the compiler knows only its own
Int = Any
#: a node that is asked for and not there
MISSING = -1


@_compile
def first_slot(key: Int, num_slots: Int) -> Int:
    """Where the search for a key starts; ``num_slots`` is a power of two."""
    hashed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((hashed ^ (hashed >> np.uint64(32))) & np.uint64(num_slots - 1))


@_compile
def find(arrays: NgramArrays, node: Int, word: Int) -> Int:
    """The node of the n-gram that extends ``node`` by ``word``, or -1."""
    if node == 0:
        return np.int64(word) + 1
    key = np.int64(node) * arrays.vocabulary_size[0] + np.int64(word)
    mask = len(arrays.table_keys) - 1
    slot = first_slot(key, mask + 1)
    while True:
        there = arrays.table_keys[slot]
        if there == key:
            return np.int64(arrays.table_nodes[slot])
        if there == -1:
            return MISSING
        slot = (slot + 1) & mask


@_compile
def advance(arrays: NgramArrays, state: Int, word: Int) -> tuple[float, Int]:
    """The log-probability of a word after a state, and the state after it."""
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


@_compile
def score_ids(arrays: NgramArrays, ids_w: Ints, end_id: Int, begin_state: Int, log_probs_w: Doubles) -> None:
    """ln p of every word of sentences in a row, each of them closed by ``end_id``."""
    state = np.int64(begin_state)
    for i in range(len(ids_w)):
        log_probs_w[i], state = advance(arrays, state, np.int64(ids_w[i]))
        if ids_w[i] == end_id:
            state = np.int64(begin_state)


@_compile
def insert(table_keys: Longs, table_nodes: Ints, key: Int, node: Int) -> Int:
    """Puts a key into the table; the node that was there already, or -1."""
    mask = len(table_keys) - 1
    slot = first_slot(key, mask + 1)
    while table_keys[slot] != -1:
        if table_keys[slot] == key:
            return np.int64(table_nodes[slot])
        slot = (slot + 1) & mask
    table_keys[slot] = key
    table_nodes[slot] = node
    return MISSING


@_compile
def insert_all(table_keys: Longs, table_nodes: Ints, keys: Longs, nodes: Ints) -> None:
    """Puts distinct keys into the table."""
    for i in range(len(keys)):
        insert(table_keys, table_nodes, keys[i], nodes[i])


@_compile
def resolve_suffixes(suffixes: Ints, is_context: np.ndarray[Any, Any]) -> None:
    """Makes every suffix a state: one that is no context is replaced by its own suffix. Suffixes come before."""
    for node in range(1, len(suffixes)):
        if is_context[suffixes[node]] == 0:
            suffixes[node] = suffixes[suffixes[node]]


@_compile
def count_ngrams(
    tokens: Ints, position: Int, end_id: Int, order: Int, keys: Longs, nodes: Ints, counts: Longs, num_nodes: Int
) -> tuple[Int, Int]:
    """Counts the n-grams of every order that start at each token, until the text or the room ends.

    The table's keys are ``node << 32 | word``. Returns the token to go on with and the number of nodes.
    """
    limit = len(counts) - order
    mask = len(keys) - 1
    while position < len(tokens) and num_nodes <= limit:
        node: Int = 0
        for i in range(position, min(len(tokens), position + order)):
            key = (node << 32) | np.int64(tokens[i])
            slot = first_slot(key, mask + 1)
            while keys[slot] != -1 and keys[slot] != key:
                slot = (slot + 1) & mask
            if keys[slot] == -1:
                keys[slot] = key
                nodes[slot] = num_nodes
                num_nodes += 1
            node = np.int64(nodes[slot])
            counts[node] += 1
            if tokens[i] == end_id:
                break
        position += 1
    return position, num_nodes


@_compile
def link_counted(
    keys: Longs, nodes: Ints, contexts: Ints, words: Ints, suffixes: Ints, firsts: Ints, orders: np.ndarray[Any, Any]
) -> None:
    """Fills in, for the nodes that ``count_ngrams`` made, context, last and first word, order, and the n-gram
    less its first word."""
    for slot in range(len(keys)):
        if keys[slot] != -1:
            contexts[nodes[slot]] = keys[slot] >> 32
            words[nodes[slot]] = keys[slot] & 0xFFFFFFFF
    mask = len(keys) - 1
    for node in range(1, len(contexts)):
        context = contexts[node]
        orders[node] = orders[context] + 1
        firsts[node] = words[node] if context == 0 else firsts[context]
        if context == 0:
            continue
        key = (np.int64(suffixes[context]) << 32) | np.int64(words[node])
        slot = first_slot(key, mask + 1)
        while keys[slot] != key:
            slot = (slot + 1) & mask
        suffixes[node] = nodes[slot]
