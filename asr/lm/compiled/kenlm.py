"""Look-up in the hash tables of a KenLM file (its "probing" form), compiled. ``asr.lm.kenlm`` reads the file.

The tables say of a hash of words whether there is such an n-gram, and its weights; the words are not in them. A hash
begins with the last word and takes in the others from last to first, so a state has to know its words: each bucket that
a search passes is linked to the bucket without its first word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.jit import compiled
from asr.lm.arrays import LN10, MOST_BACKOFF_LOG10, HashedArrays, Ints

#: an int of Python or of numpy: the compiler has types of its own
Int = Any
#: columns of ``HashedArrays.layout_o``: where an order's table starts in the items, how many buckets it has, the node
#: of the first one, and how many buckets a look-up passes at most
START, BUCKETS, FIRST_NODE, MOST_PROBES = range(4)
#: items of a bucket: a hash of 64 bits, a probability, and but for the longest n-grams a back-off weight
LONGEST_ITEMS, BUCKET_ITEMS = 3, 4
#: items of a unigram: probability, back-off weight
UNIGRAM_ITEMS = 2
#: a back-off weight of -0.0: no n-gram is longer, so this one is no state
_NO_EXTENSION = np.int32(-(2**31))

# KenLM, lm/search_hashed.hh, CombineWordHash
_CURRENT, _NEXT = np.uint64(8978948897894561157), np.uint64(17894857484156487943)
_ONE, _HALF = np.uint64(1), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@compiled
def key_at(items: Ints, at: Int) -> Any:
    """Return the hash of 64 bits in two items."""
    return (np.uint64(items[at]) & _LOW) | (np.uint64(items[at + 1]) << _HALF)


@compiled
def weight_at(items: Ints, at: Int) -> float:
    """Return the float32 in an item."""
    return np.float64(np.int32(items[at]).view(np.float32))


@compiled
def find_bucket(hashed: HashedArrays, order: Int, key: Any) -> Int:
    """Return the bucket of an n-gram of an order, or -1. Linear probing; a hash of 0 is an empty bucket."""
    table = hashed.layout_o[order - 1]
    buckets = table[BUCKETS]
    size = LONGEST_ITEMS if order == len(hashed.layout_o) else BUCKET_ITEMS
    bucket: Int = np.int64(key % np.uint64(buckets))

    for _ in range(table[MOST_PROBES]):
        found = key_at(hashed.items, table[START] + size * bucket)
        if found == 0:
            break
        if found == key:
            return bucket
        bucket = bucket + 1 if bucket + 1 < buckets else 0
    return np.int64(-1)


@compiled
def num_words(hashed: HashedArrays, node: Int) -> Int:
    """Return how many words a node has."""
    words = 0
    while words < len(hashed.layout_o) - 1 and node >= hashed.layout_o[words, FIRST_NODE]:
        words += 1
    return words


@compiled
def shortened(hashed: HashedArrays, node: Int, without: Int) -> Int:
    """Return the node of the same words without so many of the first ones; at least one is left."""
    for _ in range(without):
        node = np.int64(hashed.links_n[node - hashed.layout_o[1, FIRST_NODE], 0])
    return node


@compiled
def first_word(hashed: HashedArrays, node: Int) -> Int:
    """Return the first word of a node."""
    if node < hashed.layout_o[1, FIRST_NODE]:
        return node - 1
    return np.int64(hashed.links_n[node - hashed.layout_o[1, FIRST_NODE], 1])


@compiled
def weights_of(hashed: HashedArrays, node: Int) -> Int:
    """Return the item of a node's probability; its back-off weight is behind it."""
    order = num_words(hashed, node)
    table = hashed.layout_o[order - 1]
    if order == 1:
        return table[START] + UNIGRAM_ITEMS * (node - 1)
    return table[START] + BUCKET_ITEMS * (node - table[FIRST_NODE]) + 2


@compiled
def advance_by_hash(hashed: HashedArrays, state: Int, word: Int) -> tuple[float, Int]:
    """Return the log-probability (natural) of a word after a state, and the state after it."""
    items = hashed.items
    order = len(hashed.layout_o)
    known = num_words(hashed, state)
    node = np.int64(word) + 1
    at = weights_of(hashed, node)
    prob = items[at]
    matched = 1
    after = node if items[at + 1] != _NO_EXTENSION else 0
    key = np.uint64(word)

    # Take in one word of the context after the other, while there are such n-grams. A probability with a plus sign says
    # that there are longer ones.
    while matched <= known and prob >= 0:
        oldest = first_word(hashed, shortened(hashed, state, known - matched))
        key = (key * _CURRENT) ^ ((_ONE + np.uint64(oldest)) * _NEXT)
        bucket = find_bucket(hashed, matched + 1, key)
        if bucket < 0:
            break
        matched += 1
        if matched == order:
            prob = items[hashed.layout_o[order - 1, START] + LONGEST_ITEMS * bucket + 2]
            break

        longer = hashed.layout_o[matched - 1, FIRST_NODE] + bucket
        link = hashed.links_n[longer - hashed.layout_o[1, FIRST_NODE]]
        if link[0] != node or link[1] != oldest:
            link[0] = node
            link[1] = oldest
        node = longer
        at = weights_of(hashed, node)
        prob = items[at]
        if items[at + 1] != _NO_EXTENSION:
            after = node

    log10_prob = -abs(np.float64(np.int32(prob).view(np.float32)))
    for words in range(matched, known + 1):
        log10_prob += weight_at(items, weights_of(hashed, shortened(hashed, state, known - words)) + 1)
    return log10_prob * LN10, after


@compiled
def check_weights(items: Ints, start: Int, count: Int, size: Int, first: Int, with_backoff: bool) -> Int:
    """Return the first of ``count`` entries whose weights are no numbers that a text gives, or -1.

    Args:
        size, first: items of an entry, and which of them is the probability. Entries with a hash of 0 are empty.
    """
    for entry in range(count):
        at = start + entry * size
        if first > 0 and key_at(items, at) == 0:
            continue
        if not abs(weight_at(items, at + first)) < np.inf:
            return entry
        if with_backoff and not -np.inf < weight_at(items, at + first + 1) <= MOST_BACKOFF_LOG10:
            return entry
    return -1


@compiled
def longest_run(items: Ints, start: Int, buckets: Int, size: Int) -> Int:
    """Return the most full buckets in a row, where the first follows the last; all of them, if none is empty."""
    longest = 0
    run = 0
    for step in range(2 * buckets):
        bucket = step if step < buckets else step - buckets
        if key_at(items, start + bucket * size) == 0:
            run = 0
            if step >= buckets:  # what follows was seen in the first round
                break
        else:
            run += 1
            longest = max(longest, run)
    return min(longest, buckets)


@compiled
def read_bits(data: Any, first: Int, size: Int, bits: Int, count: Int) -> Any:
    """Return the field of so many bits, at most 57, that begins at bit ``first`` of each entry of ``size`` bits.

    Eight bytes more than the entries must be there. Shapes: one int64 per entry.
    """
    found = np.zeros(count, np.int64)
    mask = (_ONE << np.uint64(bits)) - _ONE
    for entry in range(count):
        at = first + entry * size
        value = np.uint64(0)
        for byte in range(8):
            value |= np.uint64(data[(at >> 3) + byte]) << np.uint64(8 * byte)
        found[entry] = np.int64((value >> np.uint64(at & 7)) & mask)
    return found
