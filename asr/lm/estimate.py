"""Estimation of interpolated modified Kneser-Ney models from lines of text.

The n-grams of the highest order are sorted; that gives one trie of the n-grams of every order (node = n-gram, context =
parent, suffix = the n-gram less its first word). All the rest is arithmetic over arrays of nodes.

Axes: n nodes (node 0 is the empty n-gram); d orders.

Source: Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", TR-10-98, section 4.1.6
and equation 26; Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model Estimation", section 3, whose lmplz
gives the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.errors import ConfigError, DataError
from asr.lm.arrays import MAX_ORDER, Floats, Ints, Longs, new_arrays
from asr.lm.model import NgramModel, enter_ngrams
from asr.lm.words import BEGIN_ID, END_ID, TextWords

logger = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]

#: lmplz's --discount_fallback, for counts 1, 2, and 3 or more
_FALLBACK_DISCOUNTS = [0.5, 1.0, 1.5]
#: tokens sorted at a time
_CHUNK = 1 << 23

#: called with the numbers of lines and words so far
Progress = Callable[[int, int], None]


def train(
    lines: Iterable[str],
    order: int,
    *,
    prune: Sequence[int] = (0,),
    vocab: Collection[str] | None = None,
    discount_fallback: bool = True,
    skip_symbols: bool = False,
    progress: Progress | None = None,
) -> NgramModel:
    """Estimate the interpolated modified Kneser-Ney model of a text, a sentence per line, as lmplz does.

    Memory is taken by the distinct n-grams, not by the text.

    Args:
        lines: Sentences; words are what spaces and tabs separate.
        order: 1 to 6.
        prune: A threshold per order, from 1-grams up, the last for all higher ones: n-grams that occur that often or
            less are left out, and their probability goes to the back-off.
        vocab: N-grams with other words are left out in the same way.
        discount_fallback: Use 0.5, 1 and 1.5 as discounts for counts 1, 2 and more where a text is too small or too
            regular to compute them, and log a warning; otherwise that is an error.
        skip_symbols: Leave out <s>, </s> and <unk> in the text, which are an error otherwise.

    Raises:
        DataError: there is no text, or not one word; it contains <s>, </s> or <unk>; pruning or ``vocab`` leave no
            word; or discounts cannot be computed.
        ConfigError: order or prune are out of range.
    """
    thresholds = _thresholds(prune, order)
    words, trie = _count(lines, order, skip_symbols, progress)
    pruned_n = _pruned(words, trie, thresholds, vocab)
    _check_words(words, trie, pruned_n, vocab)
    log_probs_n, backoffs_n, unk_log_prob = _smooth(trie, pruned_n, discount_fallback)
    return _assemble(words, trie, pruned_n, log_probs_n, backoffs_n, unk_log_prob)


def _thresholds(prune: Sequence[int], order: int) -> Longs:
    """Return the count up to which n-grams are left out, for each order from 0."""
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"order must be 1 to {MAX_ORDER}, got {order}", key="order")
    prune = tuple(prune) or (0,)
    if len(prune) > order or min(prune) < 0 or list(prune) != sorted(prune):
        raise ConfigError(
            f"prune must be at most {order} numbers that never fall, each 0 or more, got {prune}", key="prune"
        )
    return np.array([0, *prune, *[prune[-1]] * (order - len(prune))], np.int64)


# --- counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trie:
    """The counted n-grams. Shapes: n nodes; ``children_n`` n + 1."""

    #: the first node of each order from 1, and where the last one ends
    starts: list[int]
    words_n: Ints
    contexts_n: Ints
    counts_n: Longs
    #: the first node that extends this one
    children_n: Ints
    #: the n-gram without its first word
    suffixes_n: Ints

    @property
    def order(self) -> int:
        return len(self.starts) - 1

    def level(self, order: int) -> slice:
        """Return the nodes of an order."""
        return slice(self.starts[order - 1], self.starts[order])


def _count(lines: Iterable[str], order: int, skip_symbols: bool, progress: Progress | None) -> tuple[list[str], _Trie]:
    """Return the words by id, and how often every n-gram up to ``order`` occurs."""
    words = TextWords(skip_symbols)
    runs: list[_Run] = []
    for tokens in _token_blocks(lines, words, progress):
        runs.append(_sorted_windows(tokens, order, len(words.words)))
        # Runs of about the same size are merged, so that each window is copied a few times only.
        while len(runs) > 1 and len(runs[-2][1]) < 2 * len(runs[-1][1]):
            runs[-2:] = [_merged(*runs[-2:])]
    while len(runs) > 1:
        runs[-2:] = [_merged(*runs[-2:])]
    if not runs:
        raise DataError("no text to estimate a language model from: there is not one line")
    return words.words, _trie_of(*runs.pop())


#: different windows, sorted, and how often each occurs
_Run = tuple[Ints, Longs]


def _sorted_windows(tokens: Ints, order: int, num_words: int) -> _Run:
    """Return the different n-grams of the highest order that start at each token, sorted, and their counts.

    As many words as 63 bits hold are sorted at a time; then those whose words were all equal, by the next words.
    """
    from asr.lm.compiled.counting import pack_words, take_windows, unpack_windows  # compiles

    bits = int(num_words - 1).bit_length()
    size = len(tokens)
    keys_w = np.empty(size, np.int64)
    positions_w = np.arange(size)
    last = min(order, 63 // bits)
    pack_words(tokens, positions_w, np.zeros(size, np.int64), 0, last, bits, END_ID, keys_w)

    if last == order:
        keys_w.sort()
        firsts = np.flatnonzero(np.diff(keys_w, prepend=-1))
        windows_wu = np.empty((len(firsts), order), np.int32)
        unpack_windows(keys_w[firsts], bits, windows_wu)
        return windows_wu, np.diff(firsts, append=size)

    positions_w = np.argsort(keys_w)
    keys_w = keys_w[positions_w]
    is_first_w = np.diff(keys_w, prepend=-1) != 0
    del keys_w
    while last < order:
        alone_w = is_first_w & np.append(is_first_w[1:], True)
        at = np.flatnonzero(~alone_w)
        ranks = np.cumsum(is_first_w[at])
        first, last = last, min(order, last + (63 - len(at).bit_length()) // bits)
        keys = np.empty(len(at), np.int64)
        pack_words(tokens, positions_w[at], ranks, first, last, bits, END_ID, keys)
        by_key = np.argsort(keys)
        positions_w[at] = positions_w[at][by_key]
        is_first_w[at] |= np.diff(keys[by_key], prepend=-1) != 0
    firsts = np.flatnonzero(is_first_w)
    windows_wu = np.empty((len(firsts), order), np.int32)
    take_windows(tokens, positions_w[firsts], END_ID, windows_wu)
    return windows_wu, np.diff(firsts, append=size)


def _merged(left: _Run, right: _Run) -> _Run:
    from asr.lm.compiled.counting import merge_windows  # compiles

    size = len(left[1]) + len(right[1])
    windows_wu, counts_w = np.empty((size, left[0].shape[1]), np.int32), np.empty(size, np.int64)
    done = merge_windows(*left, *right, windows_wu, counts_w)
    return windows_wu[:done], counts_w[:done]


def _trie_of(windows_wu: Ints, counts_w: Longs) -> _Trie:
    from asr.lm.compiled.counting import count_nodes, fill_trie, link_sorted  # compiles

    order = windows_wu.shape[1]
    sizes_u = np.zeros(order, np.int64)
    count_nodes(windows_wu, sizes_u)
    starts_u = np.cumsum([1, *sizes_u])
    num_nodes = int(starts_u[-1])
    words_n, contexts_n, suffixes_n = (np.zeros(num_nodes, np.int32) for _ in range(3))
    counts_n = np.zeros(num_nodes, np.int64)
    children_n = np.zeros(num_nodes + 1, np.int32)
    fill_trie(windows_wu, counts_w, starts_u, words_n, contexts_n, counts_n, children_n)
    link_sorted(words_n, children_n, int(starts_u[-2]), suffixes_n)
    return _Trie(starts_u.tolist(), words_n, contexts_n, counts_n, children_n, suffixes_n)


def _token_blocks(lines: Iterable[str], words: TextWords, progress: Progress | None) -> Iterator[Ints]:
    """Yield the text as ids, some at a time, whole sentences between <s> and </s>."""
    blocks: list[Ints] = []
    size = num_lines = num_words = 0
    for block in words.blocks(lines):
        blocks.append(block.tokens)
        size += len(block.tokens)
        num_lines += block.num_lines
        num_words += len(block.tokens) - 2 * block.num_lines
        if progress:
            progress(num_lines, num_words)
        if size >= _CHUNK:
            yield np.concatenate(blocks)
            blocks = []
            size = 0
    if blocks:
        yield np.concatenate(blocks)


# --- pruning ----------------------------------------------------------------------------------------------------------


def _pruned(words: list[str], trie: _Trie, thresholds: Longs, vocab: Collection[str] | None) -> Bools:
    """Return which n-grams are left out; never the special words."""
    pruned_n = np.zeros(len(trie.counts_n), np.bool_)
    for order in range(1, trie.order + 1):
        pruned_n[trie.level(order)] = trie.counts_n[trie.level(order)] <= thresholds[order]
    if vocab is not None:
        vocab = frozenset(vocab)
        foreign = np.array([word not in vocab for word in words])
        foreign[:3] = False
        pruned_n |= foreign[trie.words_n]
        for order in range(2, trie.order + 1):
            at = trie.level(order)
            pruned_n[at] |= pruned_n[trie.contexts_n[at]]
    pruned_n[:3] = False  # nothing, <s> and </s>
    return pruned_n


def _check_words(words: list[str], trie: _Trie, pruned_n: Bools, vocab: Collection[str] | None) -> None:
    """Refuse a model without words, and count the words of the text that will be unknown to it."""
    if len(words) == 3:
        raise DataError("no text to estimate a language model from: all lines are blank")
    if vocab is not None and not any(word in vocab for word in words[3:]):
        some, others = " ".join(words[3:8]), " ".join(sorted(vocab)[:5])
        raise DataError(
            f"no word of the text is among the {len(vocab):,} words of the vocabulary: is the case the same? The text "
            f"has '{some}', the vocabulary '{others}'"
        )

    counts_w = trie.counts_n[3 : trie.starts[1]]
    unknown_w = pruned_n[3 : trie.starts[1]]
    num_words, num_unknown = len(counts_w), int(unknown_w.sum())
    if num_unknown == num_words:
        raise DataError(
            f"pruning leaves no word: of the {num_words:,} different words of the text the most frequent occurs "
            f"{counts_w.max():,} times; prune with 0 for 1-grams (0,1 for pairs and longer)"
        )
    if num_unknown:
        share = counts_w[unknown_w].sum() / counts_w.sum()
        logger.info(
            "%s of %s different words are left out by pruning or the vocabulary and are unknown to the model: %.2f %% "
            "of the text's words",
            f"{num_unknown:,}",
            f"{num_words:,}",
            100 * share,
        )


# --- smoothing --------------------------------------------------------------------------------------------------------


def _smooth(trie: _Trie, pruned_n: Bools, fallback: bool) -> tuple[Floats, Floats, float]:
    """Return ln of the probabilities and of the back-off weights, and ln of the probability of <unk>."""
    from asr.lm.compiled.counting import smooth_contexts  # compiles

    adjusted_n = _adjusted_counts(trie)
    discounts = _discounts(trie, adjusted_n, fallback)
    gammas_n = np.ones(len(adjusted_n))  # 1 where nothing extends it
    probs_n = np.zeros(len(adjusted_n))
    probs_n[0] = 1.0 / (len(_kept_words(trie, pruned_n)) - 1)  # uniform, <unk> and </s> included, <s> not
    # Shorter n-grams come first: each needs the probability of its suffix.
    starts = [0, *trie.starts]
    for n in range(trie.order):
        smooth_contexts(
            starts[n],
            starts[n + 1],
            trie.children_n,
            trie.suffixes_n,
            adjusted_n,
            pruned_n.view(np.uint8),
            np.array(discounts[n]),
            gammas_n,
            probs_n,
        )
    unk_prob = gammas_n[0] * probs_n[0]
    probs_n[BEGIN_ID] = 1.0  # <s>, as lmplz has it: it is always there

    with np.errstate(divide="ignore"):  # what was pruned has none
        np.log(probs_n, out=probs_n)
    np.minimum(probs_n, 0.0, out=probs_n)
    # Computed discounts can be 0: nothing is given up, and ARPA has no -inf; 10^-99 is its usual word for never.
    np.log(np.maximum(gammas_n, 1e-99, out=gammas_n), out=gammas_n)
    return probs_n.astype(np.float32), gammas_n.astype(np.float32), float(np.log(unk_prob))


def _adjusted_counts(trie: _Trie) -> Longs:
    """Return the counts of Kneser-Ney: the number of different words before an n-gram.

    What begins with <s> or is of the highest order keeps the number of its occurrences. <s> itself is never
    predicted: 0.
    """
    adjusted_n = np.zeros(len(trie.counts_n), np.int64)
    for n in range(1, trie.order):
        at = trie.level(n)
        adjusted_n[at] = np.bincount(trie.suffixes_n[trie.level(n + 1)] - at.start, minlength=at.stop - at.start)
        begun = _begun(trie, n)
        adjusted_n[begun] = trie.counts_n[begun]
    highest = trie.level(trie.order)
    adjusted_n[highest] = trie.counts_n[highest]
    adjusted_n[BEGIN_ID] = 0
    return adjusted_n


def _begun(trie: _Trie, order: int) -> slice:
    """Return the nodes of an order that begin with <s>; no word has a lower id."""
    first, last = BEGIN_ID, BEGIN_ID + 1
    for _ in range(order - 1):
        first, last = int(trie.children_n[first]), int(trie.children_n[last])
    return slice(first, last)


def _discounts(trie: _Trie, adjusted_n: Longs, fallback: bool) -> list[list[float]]:
    """Return for each order what is taken from counts 0, 1, 2, and 3 or more. Chen & Goodman, equation 26."""
    rows = []
    last = 0
    for n in range(1, trie.order + 1):
        level = trie.level(n)
        seen = np.bincount(np.minimum(adjusted_n[level], 5), minlength=6).astype(float)
        # lmplz (adjust_counts.cc, the loop at the end of AdjustCounts::Run) enters the n-gram that is last by its last
        # word, then the one before it, and so on, with its occurrences. In a small text that one n-gram shows.
        if n < trie.order and len(at := np.flatnonzero(trie.suffixes_n[level] == last)):
            last = level.start + int(at[-1])
            seen[min(adjusted_n[last], 5)] -= 1
            seen[min(trie.counts_n[last], 5)] += 1

        row = [-1.0]
        if seen[1:4].all():
            y = seen[1] / (seen[1] + 2 * seen[2])
            row = [j - (j + 1) * y * seen[j + 1] / seen[j] for j in (1, 2, 3)]
        if not all(0 <= discount <= count for count, discount in enumerate(row, start=1)):
            why = (
                f"discounts of {n}-grams cannot be computed: {seen[1]:.0f}, {seen[2]:.0f}, {seen[3]:.0f} and "
                f"{seen[4]:.0f} of them have the counts 1, 2, 3 and 4; is the text small or artificial?"
            )
            if not fallback:
                raise DataError(f"{why} Fixed discounts would help (discount_fallback)")
            row = _FALLBACK_DISCOUNTS
            logger.warning("%s Using %g, %g, %g", why, *row)
        rows.append([0.0, *row])
    return rows


# --- the model --------------------------------------------------------------------------------------------------------


def _kept_words(trie: _Trie, pruned_n: Bools) -> Longs:
    """Return the ids of the words whose unigrams stay, in order; the three special ones have one, seen or not."""
    seen = trie.words_n[trie.level(1)][~pruned_n[trie.level(1)]]
    return np.concatenate([[0], seen]).astype(np.int64)


def _assemble(
    words: list[str], trie: _Trie, pruned_n: Bools, log_probs_n: Floats, backoffs_n: Floats, unk_log_prob: float
) -> NgramModel:
    """Return the model of the n-grams that stay, renumbered in their order, behind <unk>."""
    from asr.lm.compiled.ngram import resolve_suffixes  # compiles

    kept_words = _kept_words(trie, pruned_n)
    new_word = np.zeros(len(words), np.int32)
    new_word[kept_words] = np.arange(len(kept_words))
    kept_n = ~pruned_n
    new_node = np.cumsum(kept_n, dtype=np.int32)  # the empty n-gram counts for <unk>, which has no node in the trie
    new_node[0] = 0
    counts = [int(kept_n[trie.level(n)].sum()) for n in range(1, trie.order + 1)]
    counts[0] += 1

    kept_n[0] = False
    arrays = new_arrays(len(kept_words), trie.order, 1 + sum(counts))
    arrays.log_probs[1] = unk_log_prob
    arrays.log_probs[2:] = log_probs_n[kept_n]
    arrays.backoffs[2:] = backoffs_n[kept_n]
    arrays.suffixes[2:] = new_node[trie.suffixes_n[kept_n]]
    contexts, last = np.zeros_like(arrays.suffixes), np.zeros_like(arrays.suffixes)
    contexts[2:] = new_node[trie.contexts_n[kept_n]]
    last[2:] = new_word[trie.words_n[kept_n]]
    enter_ngrams(arrays, contexts, last)
    resolve_suffixes(arrays.suffixes, arrays.is_context)
    model = NgramModel([words[i] for i in kept_words.tolist()], arrays, counts)
    model.parts = contexts, last
    return model
