"""Pruning of n-gram models by relative entropy, and to a list of words.

Axes: n nodes; k n-grams of one order; c contexts of one order.

Source: Stolcke 1998, "Entropy-based Pruning of Backoff Language Models", section 3; SRILM's ``ngram -prune`` does the
same, from the highest order down, with the weights of the model that it reads.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from asr.errors import ConfigError, DataError
from asr.lm.arrays import Bytes, Doubles, Ints, Longs, new_arrays, nodes_by_order
from asr.lm.mix import set_backoffs
from asr.lm.model import NgramModel, advance_many, enter_ngrams


def prune(
    model: NgramModel, threshold: float = 0.0, *, min_order: int = 2, vocab: Collection[str] | None = None
) -> NgramModel:
    """Leave out the n-grams without which perplexity grows by less than a threshold, and compute new back-off weights.

    N-grams that longer ones extend stay, and words stay unless ``vocab`` says otherwise. The probabilities of what
    stays are not changed; new back-off weights make every context sum to one.

    Args:
        threshold: Relative growth of perplexity, 0 to below 1; 0 prunes nothing. 1e-9 to 1e-6 are usual.
        min_order: Prune n-grams of this order and above.
        vocab: N-grams with other words are left out first. The probability of words that are left out goes to the
            rest, <unk> among them, in proportion.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the n-grams of the model are known by hashes only, or ``vocab`` has none of its words.
    """
    if not 0 <= threshold < 1:
        raise ConfigError(f"threshold must be at least 0 and below 1, got {threshold:g}", key="threshold")
    if min_order < 2:
        raise ConfigError(f"min_order must be 2 or more: words are not pruned, got {min_order}", key="min_order")

    if vocab is not None:
        model = _limited(model, vocab)
    contexts_n, words_n = model.contexts_and_words()
    kept_n = np.ones(len(words_n), np.uint8)
    if threshold > 0:
        _prune_orders(model, contexts_n, words_n, kept_n, threshold, min_order)
    return _without(model, contexts_n, words_n, kept_n, np.arange(model.vocabulary_size))


def _prune_orders(
    model: NgramModel, contexts_n: Ints, words_n: Ints, kept_n: Bytes, threshold: float, min_order: int
) -> None:
    from asr.lm.compiled.pruning import find_prunable  # compiles

    arrays = model.arrays
    levels = nodes_by_order(model.counts)
    history_n = _history_log_probs(model, contexts_n, words_n)
    needed_n = np.zeros(len(words_n), np.uint8)
    for order in range(model.order, min_order - 1, -1):
        at, below = levels[order - 1], levels[order - 2]
        nodes_k = np.arange(at.start, at.stop)
        nodes_k = nodes_k[words_n[nodes_k] != model.begin_id]  # never predicted
        nodes_k = nodes_k[np.argsort(contexts_n[nodes_k], kind="stable")]
        contexts_k = contexts_n[nodes_k]
        lower_k, _ = advance_many(arrays, arrays.suffixes[contexts_k], words_n[nodes_k])
        find_prunable(
            nodes_k,
            contexts_k,
            arrays.log_probs[nodes_k].astype(np.float64),
            lower_k,
            history_n[below],
            arrays.backoffs[below].astype(np.float64),
            below.start,
            kept_n,
            needed_n,
            threshold,
        )
        needed_n[contexts_n[at][kept_n[at] == 1]] = 1


def _history_log_probs(model: NgramModel, contexts_n: Ints, words_n: Ints) -> Doubles:
    """Return ln of the probability of each n-gram's words, <s> taken to be as probable as </s>, as in SRILM."""
    history_n = np.zeros(len(words_n))
    for at in nodes_by_order(model.counts)[:-1]:
        history_n[at] = history_n[contexts_n[at]] + model.arrays.log_probs[at]
        if at.start == 1:
            history_n[1 + model.begin_id] = model.arrays.log_probs[1 + model.end_id]
    return history_n


def _limited(model: NgramModel, vocab: Collection[str]) -> NgramModel:
    """Return the model without the n-grams that have other words; the unigrams that stay sum to one again."""
    vocab = frozenset(vocab)
    kept_w = np.array([word in vocab for word in model.words])
    if not kept_w[3:].any():
        some, others = " ".join(model.words[3:8]), " ".join(sorted(vocab)[:5])
        raise DataError(
            f"no word of the model is among the {len(vocab):,} words of the vocabulary: is the case the same? "
            f"The model has '{some}', the vocabulary '{others}'"
        )
    kept_w[:3] = True
    contexts_n, words_n = model.contexts_and_words()
    kept_n = kept_w[words_n].astype(np.uint8)
    kept_n[0] = 1
    for at in nodes_by_order(model.counts)[1:]:
        kept_n[at] &= kept_n[contexts_n[at]]
    return _without(model, contexts_n, words_n, kept_n, np.flatnonzero(kept_w))


def _without(model: NgramModel, contexts_n: Ints, words_n: Ints, kept_n: Bytes, kept_words: Longs) -> NgramModel:
    """Return the model of the n-grams that stay."""
    from asr.lm.compiled.ngram import link_suffixes, resolve_suffixes  # compiles

    new_word = np.zeros(model.vocabulary_size, np.int32)
    new_word[kept_words] = np.arange(len(kept_words))
    kept = np.flatnonzero(kept_n)
    new_node = np.cumsum(kept_n, dtype=np.int32) - 1
    counts = [int(kept_n[at].sum()) for at in nodes_by_order(model.counts)]
    while len(counts) > 1 and counts[-1] == 0:
        counts.pop()

    arrays = new_arrays(len(kept_words), len(counts), len(kept))
    arrays.log_probs[:] = model.arrays.log_probs[kept]
    lost = len(kept_words) < model.vocabulary_size
    if lost:
        words = arrays.log_probs[1 : 1 + len(kept_words)]
        predicted = np.arange(len(words)) != model.begin_id
        words[predicted] -= np.log(np.exp(words[predicted].astype(np.float64)).sum())
    contexts, last = new_node[contexts_n[kept]], new_word[words_n[kept]]
    contexts[0] = last[0] = 0
    enter_ngrams(arrays, contexts, last)
    first = 1 + len(kept_words)
    link_suffixes(arrays, contexts[first:], last[first:], first)
    resolve_suffixes(arrays.suffixes, arrays.is_context)
    set_backoffs(arrays, contexts, last, counts)
    pruned = NgramModel([model.words[i] for i in kept_words.tolist()], arrays, counts, model.has_unk)
    pruned.parts = contexts, last
    return pruned
