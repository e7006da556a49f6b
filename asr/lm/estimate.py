"""Estimation of interpolated modified Kneser-Ney models from lines of text.

The n-grams of every order are counted in one trie (node = n-gram, context = parent, suffix = the n-gram less its first
word); all the rest is arithmetic over arrays of nodes.

Axes: n nodes (node 0 is the empty n-gram); d orders.

Source: Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", TR-10-98, section 4.1.6
and equation 26; Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model Estimation", section 3, whose lmplz
gives the same numbers.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr.errors import ConfigError, DataError
from asr.lm.arrays import BEGIN, END, MAX_ORDER, UNK, Doubles, Ints, Longs, new_arrays
from asr.lm.model import NgramModel, enter_ngrams

logger = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]

#: lmplz's --discount_fallback, for counts 1, 2, and 3 or more
_FALLBACK_DISCOUNTS = [0.5, 1.0, 1.5]
#: words that a text may not have; readers of ARPA files take the last for <unk>
_SYMBOLS = frozenset((UNK, BEGIN, END, "<UNK>"))
#: tokens counted at a time
_CHUNK = 400_000

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
    log_probs_n, backoffs_n, unk_log_prob = _smooth(trie, order, pruned_n, discount_fallback)
    return _assemble(words, trie, order, pruned_n, log_probs_n, backoffs_n, unk_log_prob)


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
    """The counted n-grams. Shapes: n nodes."""

    contexts: Ints
    words: Ints
    suffixes: Ints
    firsts: Ints
    orders: npt.NDArray[np.int8]
    counts: Longs


class _Ids(dict[str, int]):
    """The id of every word; a new word gets the next."""

    def __missing__(self, word: str) -> int:
        self[word] = new = len(self)
        return new


def _count(lines: Iterable[str], order: int, skip_symbols: bool, progress: Progress | None) -> tuple[list[str], _Trie]:
    """Return the words by id, and how often every n-gram up to ``order`` occurs."""
    from asr.lm.compiled.ngram import count_ngrams, insert_all, link_counted  # compiles

    ids = _Ids({UNK: 0, BEGIN: 1, END: 2})
    keys = np.full(1 << 16, -1, np.int64)
    nodes = np.zeros(1 << 16, np.int32)
    counts = np.zeros(len(keys) // 4 * 3, np.int64)
    num_nodes = 1
    for tokens in _token_blocks(lines, ids, skip_symbols, progress):
        position = 0
        while True:
            position, num_nodes = count_ngrams(tokens, position, ids[END], order, keys, nodes, counts, num_nodes)
            if position == len(tokens):
                break

            # The table is full: continue in one of twice the size.
            used = keys >= 0
            old_keys, old_nodes = keys[used], nodes[used]
            keys = np.full(2 * len(keys), -1, np.int64)
            nodes = np.zeros(2 * len(nodes), np.int32)
            insert_all(keys, nodes, old_keys, old_nodes)
            counts = np.concatenate([counts, np.zeros(len(keys) // 4 * 3 - len(counts), np.int64)])
    if num_nodes == 1:
        raise DataError("no text to estimate a language model from: there is not one line")

    contexts, last, suffixes, first = (np.zeros(num_nodes, np.int32) for _ in range(4))
    orders = np.zeros(num_nodes, np.int8)
    link_counted(keys, nodes, contexts, last, suffixes, first, orders)
    return list(ids), _Trie(contexts, last, suffixes, first, orders, counts[:num_nodes])


def _token_blocks(lines: Iterable[str], ids: _Ids, skip_symbols: bool, progress: Progress | None) -> Iterator[Ints]:
    """Yield the text as ids, some at a time, whole sentences between <s> and </s>."""
    block = array("i")
    num_lines = num_words = 0
    for line in lines:
        num_lines += 1
        words = line.split()
        if not _SYMBOLS.isdisjoint(words):
            words = _without_symbols(words, num_lines, skip_symbols)
        num_words += len(words)
        block.append(ids[BEGIN])
        block.extend(map(ids.__getitem__, words))
        block.append(ids[END])

        if len(block) >= _CHUNK:
            yield np.array(block, np.int32)
            block = array("i")
            if progress:
                progress(num_lines, num_words)
    yield np.array(block, np.int32)
    if progress:
        progress(num_lines, num_words)


def _without_symbols(words: Sequence[str], line: int, skip_symbols: bool) -> list[str]:
    if not skip_symbols:
        symbol = next(word for word in words if word in _SYMBOLS)
        raise DataError(
            f"line {line:,} of the text has the word {symbol}, which the model keeps for itself; "
            "remove it, or leave it out with skip_symbols"
        )
    return [word for word in words if word not in _SYMBOLS]


# --- pruning ----------------------------------------------------------------------------------------------------------


def _pruned(words: list[str], trie: _Trie, thresholds: Longs, vocab: Collection[str] | None) -> Bools:
    """Return which n-grams are left out; never the special words."""
    pruned_n = trie.counts <= thresholds[trie.orders]
    if vocab is not None:
        vocab = frozenset(vocab)
        foreign = np.array([word not in vocab for word in words])
        foreign[:3] = False
        pruned_n |= foreign[trie.words]
        for n in range(2, int(trie.orders.max()) + 1):
            at = np.flatnonzero(trie.orders == n)
            pruned_n[at] |= pruned_n[trie.contexts[at]]
    pruned_n[(trie.orders == 1) & (trie.words < 3)] = False
    pruned_n[0] = False
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

    is_word_n = (trie.orders == 1) & (trie.words > 2)
    unknown_n = is_word_n & pruned_n
    num_words, num_unknown = int(is_word_n.sum()), int(unknown_n.sum())
    if num_unknown == num_words:
        raise DataError(
            f"pruning leaves no word: of the {num_words:,} different words of the text the most frequent occurs "
            f"{trie.counts[is_word_n].max():,} times; prune with 0 for 1-grams (0,1 for pairs and longer)"
        )
    if num_unknown:
        share = trie.counts[unknown_n].sum() / trie.counts[is_word_n].sum()
        logger.info(
            "%s of %s different words are left out by pruning or the vocabulary and are unknown to the model: %.2f %% "
            "of the text's words",
            f"{num_unknown:,}",
            f"{num_words:,}",
            100 * share,
        )


# --- smoothing --------------------------------------------------------------------------------------------------------


def _smooth(trie: _Trie, order: int, pruned_n: Bools, fallback: bool) -> tuple[Doubles, Doubles, float]:
    """Return ln of the probabilities and of the back-off weights, and ln of the probability of <unk>."""
    num_nodes = len(trie.counts)
    adjusted_n = _adjusted_counts(trie, order)
    discounts = np.array([[0.0] * 4, *_discounts(trie, adjusted_n, order, fallback)])
    discount_n = discounts[trie.orders, np.minimum(adjusted_n, 3)]

    # What discounts and pruning leave of a context's probability for its suffix; 1 where nothing extends it.
    total_n = np.bincount(trie.contexts[1:], adjusted_n[1:], num_nodes)
    given_up_n = np.where(pruned_n, adjusted_n, discount_n)
    gamma_n: Doubles = np.bincount(trie.contexts[1:], given_up_n[1:], num_nodes).astype(np.float64, copy=False)
    np.divide(gamma_n, total_n, out=gamma_n, where=total_n > 0)
    gamma_n[total_n == 0] = 1.0

    # Shorter n-grams come first: each needs the probability of its suffix.
    probs_n = np.zeros(num_nodes)
    probs_n[0] = 1.0 / (len(_kept_words(trie, pruned_n)) - 1)  # uniform, <unk> and </s> included, <s> not
    for n in range(1, order + 1):
        at = np.flatnonzero((trie.orders == n) & ~pruned_n)
        context = trie.contexts[at]
        own = (adjusted_n[at] - discount_n[at]) / total_n[context]
        probs_n[at] = own + gamma_n[context] * probs_n[trie.suffixes[at]]
    unk_prob = gamma_n[0] * probs_n[0]
    probs_n[(trie.orders == 1) & (trie.words == 1)] = 1.0  # <s>, as lmplz has it: it is always there

    with np.errstate(divide="ignore"):  # what was pruned has none
        log_probs_n = np.minimum(np.log(probs_n), 0.0)
    # Computed discounts can be 0: nothing is given up, and ARPA has no -inf; 10^-99 is its usual word for never.
    return log_probs_n, np.log(np.maximum(gamma_n, 1e-99)), float(np.log(unk_prob))


def _adjusted_counts(trie: _Trie, order: int) -> Longs:
    """Return the counts of Kneser-Ney: the number of different words before an n-gram.

    What begins with <s> or is of the highest order keeps the number of its occurrences. <s> itself is never
    predicted: 0.
    """
    longer = trie.orders >= 2
    adjusted_n = np.bincount(trie.suffixes[longer], minlength=len(trie.orders)).astype(np.int64)
    raw = (trie.orders == order) | (longer & (trie.firsts == 1))
    adjusted_n[raw] = trie.counts[raw]
    adjusted_n[(trie.orders == 1) & (trie.words == 1)] = 0
    adjusted_n[0] = 0
    return adjusted_n


def _discounts(trie: _Trie, adjusted_n: Longs, order: int, fallback: bool) -> list[list[float]]:
    """Return for each order what is taken from counts 0, 1, 2, and 3 or more. Chen & Goodman, equation 26."""
    rows = []
    last = 0
    for n in range(1, order + 1):
        at = np.flatnonzero(trie.orders == n)
        seen = np.bincount(np.minimum(adjusted_n[at], 5), minlength=6).astype(float)
        # lmplz (adjust_counts.cc, the loop at the end of AdjustCounts::Run) enters the n-gram that is last by its last
        # word, then the one before it, and so on, with its occurrences. In a small text that one n-gram shows.
        if n < order and len(at := at[trie.suffixes[at] == last]):
            last = int(at[trie.firsts[at].argmax()])
            seen[min(adjusted_n[last], 5)] -= 1
            seen[min(trie.counts[last], 5)] += 1

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
    seen = trie.words[(trie.orders == 1) & ~pruned_n]
    return np.union1d(seen, np.arange(3)).astype(np.int64)


def _assemble(
    words: list[str],
    trie: _Trie,
    order: int,
    pruned_n: Bools,
    log_probs_n: Doubles,
    backoffs_n: Doubles,
    unk_log_prob: float,
) -> NgramModel:
    """Return the model of the n-grams that stay, renumbered: unigrams by word, then order by order as they came."""
    from asr.lm.compiled.ngram import resolve_suffixes  # compiles

    kept_words = _kept_words(trie, pruned_n)
    new_word = np.zeros(len(words), np.int64)
    new_word[kept_words] = np.arange(len(kept_words))

    kept = np.flatnonzero(~pruned_n[1:]) + 1
    kept = kept[np.argsort(trie.orders[kept], kind="stable")]
    unigrams, longer = np.split(kept, [np.searchsorted(trie.orders[kept], 2)])
    new_node = np.zeros(len(pruned_n), np.int32)
    new_node[unigrams] = 1 + new_word[trie.words[unigrams]]
    new_node[longer] = 1 + len(kept_words) + np.arange(len(longer))

    arrays = new_arrays(len(kept_words), order, 1 + len(kept_words) + len(longer))
    to = new_node[kept]
    arrays.log_probs[1] = unk_log_prob
    arrays.log_probs[to] = log_probs_n[kept]
    arrays.backoffs[to] = backoffs_n[kept]
    arrays.suffixes[to] = new_node[trie.suffixes[kept]]
    contexts, last = np.zeros_like(arrays.suffixes), np.zeros_like(arrays.suffixes)
    contexts[to] = new_node[trie.contexts[kept]]
    last[to] = new_word[trie.words[kept]]
    enter_ngrams(arrays, contexts, last)
    resolve_suffixes(arrays.suffixes, arrays.is_context)

    counts = np.bincount(trie.orders[longer], minlength=order + 1)[2:]
    return NgramModel([words[i] for i in kept_words.tolist()], arrays, [len(kept_words), *counts.tolist()])
