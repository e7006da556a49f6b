"""The loops of estimation, in compiled code: sorted windows of words become a trie, level by level.

A window is the words of an n-gram of the highest order; what follows the end of a sentence is 0. Sorted windows give
every shorter n-gram in sorted order too, so nodes are numbered as they come, and the n-grams that extend a node follow
each other.

Axes: w windows; u words of a window; n nodes (0 is the empty n-gram, then order by order, sorted by their words).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.jit import compiled
from asr.lm.arrays import Doubles, Ints, Longs

Int = Any


@compiled
def pack_words(
    tokens: Ints, positions_w: Longs, ranks_w: Longs, first: Int, last: Int, bits: Int, end_id: Int, keys_w: Longs
) -> None:
    """Write a key for each window that starts at a position: its rank, then its words from ``first`` to ``last``."""
    for w in range(len(positions_w)):
        key = ranks_w[w]
        ended = False
        for u in range(last):
            word: Int = 0
            if not ended:
                word = np.int64(tokens[positions_w[w] + u])
                ended = word == end_id
            if u >= first:
                key = (key << bits) | word
        keys_w[w] = key


@compiled
def take_windows(tokens: Ints, positions_w: Longs, end_id: Int, windows_wu: Ints) -> None:
    """Write the words of the windows that start at these positions."""
    for w in range(len(positions_w)):
        ended = False
        for u in range(windows_wu.shape[1]):
            word: Int = 0
            if not ended:
                word = np.int64(tokens[positions_w[w] + u])
                ended = word == end_id
            windows_wu[w, u] = word


@compiled
def unpack_windows(keys_w: Longs, bits: Int, windows_wu: Ints) -> None:
    """Write the words of windows that one key holds whole."""
    order = windows_wu.shape[1]
    mask = (np.int64(1) << bits) - 1
    for w in range(len(keys_w)):
        key = keys_w[w]
        for back in range(order):
            windows_wu[w, order - 1 - back] = key & mask
            key >>= bits


@compiled
def merge_windows(
    left_wu: Ints, left_counts_w: Longs, right_wu: Ints, right_counts_w: Longs, windows_wu: Ints, counts_w: Longs
) -> Int:
    """Merge two sorted lists of windows, equal ones into one; return how many there are."""
    order = left_wu.shape[1]
    i = j = done = 0
    while i < len(left_wu) or j < len(right_wu):
        difference: Int = 0
        if i == len(left_wu):
            difference = 1
        elif j == len(right_wu):
            difference = -1
        else:
            for u in range(order):
                difference = np.int64(left_wu[i, u]) - np.int64(right_wu[j, u])
                if difference != 0:
                    break

        count = np.int64(0)
        if difference <= 0:
            for u in range(order):
                windows_wu[done, u] = left_wu[i, u]
            count += left_counts_w[i]
            i += 1
        if difference >= 0:
            for u in range(order):
                windows_wu[done, u] = right_wu[j, u]
            count += right_counts_w[j]
            j += 1
        counts_w[done] = count
        done += 1
    return done


@compiled
def count_nodes(windows_wu: Ints, sizes_u: Longs) -> None:
    """Add up how many different n-grams of each order the sorted windows begin with."""
    for w in range(len(windows_wu)):
        same = w > 0
        for u in range(len(sizes_u)):
            if windows_wu[w, u] == 0:
                break
            same = same and windows_wu[w, u] == windows_wu[w - 1, u]
            sizes_u[u] += not same


@compiled
def fill_trie(
    windows_wu: Ints,
    counts_w: Longs,
    starts_u: Longs,
    words_n: Ints,
    contexts_n: Ints,
    counts_n: Longs,
    children_n: Ints,
) -> None:
    """Write the nodes of sorted windows: last word, context, occurrences and the first node that extends it.

    Args:
        starts_u: The first node of each order; one more entry says where the last order ends.
        children_n: One more than the nodes: the nodes that extend n end where those of n + 1 begin.
    """
    order = windows_wu.shape[1]
    nexts_u = starts_u[:order].copy()
    path_u = np.zeros(order + 1, np.int64)
    children_n[0] = 1
    for w in range(len(windows_wu)):
        same = w > 0
        for u in range(order):
            word = windows_wu[w, u]
            if word == 0:
                break
            same = same and word == windows_wu[w - 1, u]
            if not same:
                node = nexts_u[u]
                nexts_u[u] += 1
                path_u[u + 1] = node
                words_n[node] = word
                contexts_n[node] = path_u[u]
                children_n[node] = nexts_u[u + 1] if u + 1 < order else starts_u[order]
            counts_n[path_u[u + 1]] += counts_w[w]
    children_n[starts_u[order]] = starts_u[order]


@compiled
def link_sorted(words_n: Ints, children_n: Ints, num_contexts: Int, suffixes_n: Ints) -> None:
    """Write the suffix of every node: the n-gram without its first word.

    The words that extend a node are sorted, and its suffix has all of them, so each search begins behind the last.
    """
    for context in range(1, num_contexts):
        suffix = suffixes_n[context]
        low = np.int64(children_n[suffix])
        end = np.int64(children_n[suffix + 1])
        for node in range(children_n[context], children_n[context + 1]):
            word = words_n[node]
            high = end
            while low < high:
                middle = (low + high) >> 1
                if words_n[middle] < word:
                    low = middle + 1
                else:
                    high = middle
            suffixes_n[node] = low
            low += 1


@compiled
def smooth_contexts(
    first: Int,
    last: Int,
    children_n: Ints,
    suffixes_n: Ints,
    adjusted_n: Longs,
    pruned_n: Any,
    discounts: Doubles,
    gammas_n: Doubles,
    probs_n: Doubles,
) -> None:
    """Write what the contexts from ``first`` to ``last`` leave for their suffixes, and the probabilities in them.

    Args:
        discounts: Of the counts 0, 1, 2, and 3 or more.
        pruned_n: Nodes without a probability of their own: all of it is left.
    """
    for context in range(first, last):
        begin, end = children_n[context], children_n[context + 1]
        total = 0.0
        given_up = 0.0
        for node in range(begin, end):
            total += adjusted_n[node]
            given_up += adjusted_n[node] if pruned_n[node] else discounts[min(adjusted_n[node], 3)]
        gamma = given_up / total if total > 0 else 1.0
        gammas_n[context] = gamma
        for node in range(begin, end):
            if not pruned_n[node]:
                own = (adjusted_n[node] - discounts[min(adjusted_n[node], 3)]) / total
                probs_n[node] = own + gamma * probs_n[suffixes_n[node]]
