"""The trie form of KenLM's binary files, with or without quantised weights and compressed pointers.

Its n-grams can be listed, so it becomes a model like any other. An entry of the trie is the first word of an n-gram,
its weights, and where its children begin, which have one word more in front. Written from the format; no code of KenLM
is used.

Axes: n entries of an order.

Source: github.com/kpu/kenlm at 4cb443e: lm/trie.hh, lm/trie.cc, lm/quantize.hh, lm/bhiksha.cc, util/bit_packing.hh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.lm.arrays import BEGIN, END, LN10, MOST_BACKOFF_LOG10, UNK, Floats, Longs, new_arrays, nodes_by_order
from asr.lm.model import NgramModel, enter_ngrams

#: bits of weights that are not quantised: a probability without its sign, a back-off weight
_PROB_BITS, _BACKOFF_BITS = 31, 32
_UNIGRAM = np.dtype([("prob", "<f4"), ("backoff", "<f4"), ("next", "<u8")])
#: the versions that are read, the most bits of a quantised weight, and of any field
_ARRAY_VERSION, _QUANTISED_VERSION, _MOST_QUANTISED, _MOST_BITS = 0, 2, 25, 57
#: bytes behind bit-packed entries, so that eight can be read at the last one
_SLACK = 8
#: weights are kept as float32
_MOST = float(np.finfo(np.float32).max)

Bytes = npt.NDArray[np.uint8]


class Entries(NamedTuple):
    """The entries of an order: first words, weights (log10), and where the children of each begin, and of the last end.

    The longest n-grams have no back-off weights and no children.
    """

    words_n: Longs
    probs_n: Floats
    backoffs_n: Floats
    next_n: Longs


class Reader:
    """Reads the parts of a file one after the other."""

    def __init__(self, data: Bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> Bytes:
        """Return the next bytes.

        Raises:
            ValueError: there are not so many.
        """
        if self.at + size > len(self.data):
            raise ValueError(f"it has {len(self.data):,} bytes, and its header promises over {self.at + size:,}")
        self.at += size
        return self.data[self.at - size : self.at]


def read_entries(reader: Reader, counts: Sequence[int], quantised: bool, with_arrays: bool) -> list[Entries]:
    """Read the n-grams of every order; a reader stands behind the header.

    Raises:
        ValueError: the file is damaged, or of another version; the message is its reason.
    """
    reader.take(8 + 8 * counts[0])  # hashes of the words
    bins = _read_bins(reader, len(counts)) if quantised else None
    unigrams = reader.take((counts[0] + 2) * _UNIGRAM.itemsize).view(_UNIGRAM)
    entries = [
        Entries(
            np.arange(counts[0]),
            unigrams["prob"][:-2],
            unigrams["backoff"][:-2],
            unigrams["next"][:-1].astype(np.int64),
        )
    ]
    for order in range(2, len(counts) + 1):
        table = None if bins is None else bins[order - 2]
        below = counts[order] if order < len(counts) else None
        entries.append(_read_order(reader, counts[0], counts[order - 1], below, table, with_arrays))
    return entries


def _read_bins(reader: Reader, order: int) -> list[list[Floats]]:
    """Return, for each order from 2, the values of quantised probabilities, and but for the highest of back-offs."""
    version, *bits = reader.take(8)[:3].tolist()
    if version != _QUANTISED_VERSION or not all(1 <= b <= _MOST_QUANTISED for b in bits):
        raise ValueError("its quantised weights are of another version")
    bins = [[reader.take(4 << b).view(np.float32) for b in bits] for _ in range(order - 2)]
    return [*bins, [reader.take(4 << bits[0]).view(np.float32)]]


def _read_order(
    reader: Reader, num_words: int, count: int, below: int | None, bins: list[Floats] | None, with_arrays: bool
) -> Entries:
    """Read the entries of an order above 1; ``below``: how many n-grams are longer by one, None for the highest."""
    from asr.lm.compiled.kenlm import read_bits  # compiles

    word_bits = num_words.bit_length()
    prob_bits, backoff_bits = _PROB_BITS, _BACKOFF_BITS
    if bins is not None:
        prob_bits, backoff_bits = (len(bins[0]) - 1).bit_length(), (len(bins[-1]) - 1).bit_length()
    next_bits, high_at = 0, np.zeros(1, np.int64)
    if below is None:
        backoff_bits = 0
    elif with_arrays:
        next_bits, high_at = _read_array(reader, count + 1, below)
    else:
        next_bits = below.bit_length()

    size = word_bits + prob_bits + backoff_bits + next_bits
    if max(word_bits, next_bits) > _MOST_BITS:
        raise ValueError("the header has impossible numbers")
    packed = reader.take(((1 + count) * size + 7) // 8 + _SLACK)
    words_n = read_bits(packed, 0, size, word_bits, count)
    # Quantised back-off weights stand in front of the probability, others behind it.
    prob_at = word_bits + (backoff_bits if bins is not None else 0)
    backoff_at = word_bits + (prob_bits if bins is None else 0)
    prob_n = read_bits(packed, prob_at, size, prob_bits, count)
    backoff_n = read_bits(packed, backoff_at, size, backoff_bits, count)
    high_n = np.searchsorted(high_at, np.arange(count + 1), "right") - 1
    next_n = read_bits(packed, size - next_bits, size, next_bits, count + 1) | (high_n << next_bits)

    if bins is not None:
        probs_n = bins[0][prob_n]
        backoffs_n = bins[-1][backoff_n] if below is not None else np.zeros(count, np.float32)
    else:
        probs_n = prob_n.astype(np.uint32).view(np.float32)
        backoffs_n = backoff_n.astype(np.uint32).view(np.float32)
    return Entries(words_n, probs_n, backoffs_n, next_n if below is not None else np.zeros(0, np.int64))


def _read_array(reader: Reader, count: int, below: int) -> tuple[int, Longs]:
    """Read the high bits of the pointers to children: how many bits are left in the entries, and from which entry on
    the others are 0, 1, 2 and so on.

    KenLM takes away as many bits as saves most: 64 bits are stored for each value that the high ones have.
    """
    version, configured = (*reader.data[reader.at : reader.at + 2].tolist(), 0, 0)[:2]
    required = below.bit_length()
    if version != _ARRAY_VERSION:
        raise ValueError("its pointers are of another version")
    costs = [(below >> (required - chop)) * 64 - count * chop for chop in range(min(required, configured) + 1)]
    left = required - costs.index(min(costs))

    values = (below >> left) + 1
    padding = -reader.at % 8
    table = reader.take(8 * (1 + values) + 7)[padding : padding + 8 * (1 + values)].view(np.int64)[1:]
    return left, table


def build_model(entries: list[Entries], words: list[str], has_unk: bool) -> NgramModel:
    """Make a model of the n-grams of a trie.

    Raises:
        ValueError: they do not fit each other; the message is the reason.
    """
    from asr.lm.compiled.ngram import resolve_suffixes  # compiles

    counts = [len(each.words_n) for each in entries]
    special = [words.index(word) for word in (UNK, BEGIN, END)]
    old_ids = np.array([*special, *np.setdiff1d(np.arange(len(words)), special)])
    new_ids = np.empty(len(words), np.int64)
    new_ids[old_ids] = np.arange(len(words))
    arrays = new_arrays(len(words), len(counts), 1 + sum(counts))
    contexts_n, words_n = np.zeros(1 + sum(counts), np.int32), np.zeros(1 + sum(counts), np.int32)

    keys = np.zeros(0, np.int64)
    for order, (at, each) in enumerate(zip(nodes_by_order(counts), entries, strict=True), start=1):
        with np.errstate(invalid="ignore"):
            log_probs_n = -np.abs(each.probs_n.astype(np.float64)) * LN10
            backoffs_n = each.backoffs_n.astype(np.float64) * LN10
        # not-a-number is in no range
        if not (
            log_probs_n.min(initial=0) > -_MOST
            and backoffs_n.min(initial=0) > -_MOST
            and backoffs_n.max(initial=0) <= MOST_BACKOFF_LOG10 * LN10
        ):
            raise ValueError(f"a {order}-gram has a weight that is out of range")
        if order == 1:
            place = 1 + new_ids
            words_n[place] = new_ids
        else:
            place = np.arange(at.start, at.stop)
            keys = _place_longer(order, entries, at, keys, new_ids, arrays.suffixes, contexts_n, words_n)
        arrays.log_probs[place] = log_probs_n
        arrays.backoffs[place] = backoffs_n

    enter_ngrams(arrays, contexts_n, words_n)
    resolve_suffixes(arrays.suffixes, arrays.is_context)
    return NgramModel([words[i] for i in old_ids.tolist()], arrays, counts, has_unk)


def _place_longer(
    order: int,
    entries: list[Entries],
    at: slice,
    keys: Longs,
    new_ids: Longs,
    suffixes: npt.NDArray[np.int32],
    contexts_n: npt.NDArray[np.int32],
    words_n: npt.NDArray[np.int32],
) -> Longs:
    """Write suffix, context and last word of each n-gram of an order above 1.

    ``keys`` are those of the order below, ascending: suffix x number of words + first word, in the file's own numbers.
    Returns those of this order.
    """
    first_n, above = entries[order - 1].words_n, entries[order - 2].next_n
    num_words = len(new_ids)
    if above[0] != 0 or above[-1] != len(first_n) or (np.diff(above) < 0).any() or (first_n >= num_words).any():
        raise ValueError(f"its {order}-grams do not fit the shorter ones")
    parent_n = np.repeat(np.arange(len(above) - 1), np.diff(above))
    below = at.start - len(above) + 1  # the node of the first n-gram that is shorter by one
    suffix_n = 1 + new_ids[parent_n] if order == 2 else below + parent_n
    suffixes[at] = suffix_n
    words_n[at] = words_n[suffix_n]

    if order == 2:
        contexts_n[at] = 1 + new_ids[first_n]
    else:  # the context of "a b c" is the child of the context of "b c" with the first word "a"
        wanted = _own_number(contexts_n[suffix_n], order - 2, at, entries, new_ids) * num_words + first_n
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        if not len(keys) or (keys[found] != wanted).any():
            raise ValueError(f"a {order}-gram is without its context")
        contexts_n[at] = below + found
    keys = parent_n * num_words + first_n
    if (np.diff(keys) <= 0).any():
        raise ValueError(f"its {order}-grams are not in order")
    return keys


def _own_number(nodes_n: npt.NDArray[np.int32], order: int, at: slice, entries: list[Entries], new_ids: Longs) -> Longs:
    """Return the places in the file of nodes of an order."""
    if order == 1:
        old_ids = np.empty(len(new_ids), np.int64)
        old_ids[new_ids] = np.arange(len(new_ids))
        return old_ids[nodes_n - 1]
    return nodes_n.astype(np.int64) - (1 + sum(len(each.words_n) for each in entries[: order - 1]))
