"""Linear interpolation of back-off n-gram models into one: p(w|h) = sum of weight x p of each model.

The mixture has the n-grams of all. Those keep the interpolated probability exactly; for all others new back-off weights
make every context sum to one, so it is a model like any other and costs nothing more in use.

Axes: n nodes of the mixture, m models, t tokens of a text.

Source: Stolcke 2002, "SRILM - An Extensible Language Modeling Toolkit", section 3 (``ngram -mix-lm``); Jelinek & Mercer
1980, "Interpolated Estimation of Markov Source Parameters from Sparse Data" (weights by expectation maximisation).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import numpy as np

from asr.errors import ConfigError, DataError
from asr.lm.arrays import (
    BEGIN,
    END,
    LN10,
    MISSING_UNK_LOG10_PROB,
    UNK,
    Doubles,
    Ints,
    Longs,
    NgramArrays,
    new_arrays,
    nodes_by_order,
)
from asr.lm.model import NgramModel, advance_many, enter_ngrams

logger = logging.getLogger(__name__)

#: stands for a probability of 0, which ARPA files cannot write
_NEVER = 1e-99
#: float32 probabilities that sum to one do so to about this
_ROUNDING = 1e-6
#: share of the smaller vocabulary; below it the models are probably not of one spelling
_LEAST_SHARED = 0.05
#: below it an unknown word's usual price is less than what such a model makes of a word
_LEAST_WEIGHT = 1e-4


def mix(models: Sequence[NgramModel], weights: Sequence[float]) -> NgramModel:
    """Interpolate several models, each with its weight, into one.

    A word that one of them does not know has probability 0 in that one. The order is the highest of theirs.

    Args:
        models: Two or more.
        weights: One per model, none below 0; they are scaled to sum to 1.

    Raises:
        ConfigError: the weights are no such numbers.
    """
    from asr.lm.compiled.ngram import link_suffixes, resolve_suffixes  # compiles

    weighted = list(zip(models, scaled(weights, len(models)), strict=True))
    # A model of no weight has no say in which words there are, either.
    models = [model for model, weight in weighted if weight]
    weight_m = [weight for _, weight in weighted if weight]
    if len(models) == 1:
        return models[0]

    words, new_ids = _merge_vocabularies(models)
    contexts_n, words_n, counts = _merge_ngrams(models, new_ids, len(words))
    arrays = new_arrays(len(words), len(counts), len(words_n))
    enter_ngrams(arrays, contexts_n, words_n)
    arrays.log_probs[:] = _interpolate(models, weight_m, new_ids, contexts_n, words_n, counts)

    first_longer = 1 + len(words)
    link_suffixes(arrays, contexts_n[first_longer:], words_n[first_longer:], first_longer)
    resolve_suffixes(arrays.suffixes, arrays.is_context)
    set_backoffs(arrays, contexts_n, words_n, counts)

    has_unk = any(model.has_unk for model in models)
    if not has_unk:
        arrays.log_probs[1 + NgramModel.unk_id] = MISSING_UNK_LOG10_PROB * LN10
    return NgramModel(words, arrays, counts, has_unk)


def scaled(weights: Sequence[float], num_models: int) -> list[float]:
    """Scale weights to sum to 1.

    Raises:
        ConfigError: they are not as many as the models, or no such numbers.
    """
    if len(weights) != num_models:
        raise ConfigError(f"{num_models} models need as many weights, got {len(weights)}", key="weights")
    total = sum(weights)
    if not (all(weight >= 0 for weight in weights) and 0 < total < math.inf):
        raise ConfigError(f"weights must be numbers of at least 0, not all 0, got {list(weights)}", key="weights")
    return [weight / total for weight in weights]


def _merge_vocabularies(models: Sequence[NgramModel]) -> tuple[list[str], list[Longs]]:
    """Return the words of all models, and for each model the new ids of its own words."""
    ids = {word: i for i, word in enumerate((UNK, BEGIN, END))}
    for model in models:
        for word in model.words:
            ids.setdefault(word, len(ids))
    new_ids = [np.array([ids[word] for word in model.words], np.int64) for model in models]

    for number, own in enumerate(new_ids[1:], start=2):
        fewest = min(len(new_ids[0]), len(own)) - 3
        shared = len(np.intersect1d(new_ids[0], own)) - 3
        if shared < _LEAST_SHARED * fewest:
            logger.warning(
                "models 1 and %d share %s of the %s words of the smaller one: is one in another spelling or case?",
                number,
                f"{shared:,}",
                f"{fewest:,}",
            )
    return list(ids), new_ids


def _merge_ngrams(
    models: Sequence[NgramModel], new_ids: Sequence[Longs], num_words: int
) -> tuple[Ints, Ints, list[int]]:
    """Return the n-grams of all models as nodes: context and last word of each, and their number by order."""
    contexts = [np.zeros(1 + num_words, np.int64)]
    words = [np.concatenate([[0], np.arange(num_words)])]
    counts = [num_words]
    first = 1 + num_words

    orders_m = [nodes_by_order(model.counts) for model in models]
    parts_m = [model.contexts_and_words() for model in models]
    # For each node of a model its node in the mixture; longer n-grams follow, order by order.
    nodes_m = [np.zeros(1 + sum(model.counts), np.int64) for model in models]
    for nodes, new in zip(nodes_m, new_ids, strict=True):
        nodes[1 : 1 + len(new)] = 1 + new

    for order in range(2, max(model.order for model in models) + 1):
        keys_m = []
        for (own_contexts, own_words), orders, nodes, new in zip(parts_m, orders_m, nodes_m, new_ids, strict=True):
            at = orders[order - 1] if order <= len(orders) else slice(0)
            keys_m.append(nodes[own_contexts[at]] * num_words + new[own_words[at]])
        keys = np.unique(np.concatenate(keys_m))
        for orders, nodes, own_keys in zip(orders_m, nodes_m, keys_m, strict=True):
            if order <= len(orders):
                nodes[orders[order - 1]] = first + np.searchsorted(keys, own_keys)

        context, word = np.divmod(keys, num_words)
        contexts.append(context)
        words.append(word)
        counts.append(len(keys))
        first += len(keys)
    return np.concatenate(contexts).astype(np.int32), np.concatenate(words).astype(np.int32), counts


def _interpolate(
    models: Sequence[NgramModel],
    weight_m: Sequence[float],
    new_ids: Sequence[Longs],
    contexts_n: Ints,
    words_n: Ints,
    counts: Sequence[int],
) -> Doubles:
    """Return ln of the interpolated probability of every n-gram of the mixture."""
    probs_n = np.zeros(len(words_n))
    for model, weight, new in zip(models, weight_m, new_ids, strict=True):
        own_ids = np.full(counts[0], -1, np.int64)  # -1: this model does not know the word
        own_ids[new] = np.arange(len(new))
        states_n = np.zeros(len(words_n), np.int64)  # this model's state after each of the mixture's n-grams
        for at in nodes_by_order(counts):
            word = own_ids[words_n[at]]
            log_probs, states_n[at] = advance_many(model.arrays, states_n[contexts_n[at]], np.maximum(word, 0))
            probs_n[at] += weight * np.where(word < 0, 0.0, np.exp(log_probs))
    log_probs_n: Doubles = np.log(np.clip(probs_n, _NEVER, 1.0))
    return log_probs_n


def set_backoffs(arrays: NgramArrays, contexts_n: Ints, words_n: Ints, counts: Sequence[int]) -> None:
    """Give each context what its n-grams leave over, divided by what its suffix leaves without their last words."""
    for at in nodes_by_order(counts)[1:]:
        predicted = words_n[at] != NgramModel.begin_id
        contexts = contexts_n[at][predicted]
        words = words_n[at][predicted]
        if not len(contexts):
            continue

        base = int(contexts.min())
        below, _ = advance_many(arrays, arrays.suffixes[contexts], words)
        own = np.bincount(contexts - base, np.exp(arrays.log_probs[at][predicted].astype(np.float64)))
        lower = np.bincount(contexts - base, np.exp(below))
        left = np.maximum(1.0 - own, _NEVER) / np.maximum(1.0 - lower, _ROUNDING)
        used = np.unique(contexts)
        arrays.backoffs[used] = np.log(left[used - base])


def best_weights(models: Sequence[NgramModel], lines: Iterable[str]) -> list[float]:
    """Return the weights with which the interpolated models give a text the highest probability.

    By expectation maximisation. Words that no model knows have no say; if they are many, a warning is logged.

    Raises:
        DataError: the text has no sentence, or no word that any of the models knows.
    """
    probs_mt = _token_probs(models, lines)
    weight_m = np.full(len(models), 1.0 / len(models))
    for _ in range(10_000):
        shares_mt = weight_m[:, None] * probs_mt
        shares_mt /= shares_mt.sum(0)
        before = weight_m
        weight_m = shares_mt.mean(1)
        if np.abs(weight_m - before).max() < 1e-7:
            break

    for number, weight in enumerate(weight_m.tolist(), start=1):
        if weight < _LEAST_WEIGHT:
            logger.warning(
                "model %d gets a weight of %.1g by this text: what only it knows counts as known, but as next to "
                "impossible; is it of use, and has the text been trained on?",
                number,
                weight,
            )
    return [float(weight) for weight in weight_m]


def _token_probs(models: Sequence[NgramModel], lines: Iterable[str]) -> Doubles:
    """Return the probability of each token of a text, ends of sentences included, under each model.

    It is 0 where a model does not know the word. Tokens unknown to all are left out.

    Shapes: m x t.
    """
    ids_m: list[list[int]] = [[] for _ in models]
    for line in lines:
        words = line.split()
        for model, ids in zip(models, ids_m, strict=True):
            ids += model.sentence_ids(words)
    if not ids_m[0]:
        raise DataError("no text to choose weights by: there is not one line")

    ids_mt = np.array(ids_m, np.int32)
    num_words = int((ids_mt[0] != models[0].end_id).sum())
    unknown = int((ids_mt == NgramModel.unk_id).all(0).sum())
    hint = "is it in the models' case, and in tokens where they are models of tokens (--tokenizer)?"
    if num_words and unknown == num_words:
        raise DataError(f"none of the models knows a word of the text to choose weights by; {hint}")
    if unknown > num_words / 2:
        logger.warning("%d of the %d words of the text are unknown to all models; %s", unknown, num_words, hint)

    log_probs_mt = np.stack([model.score_ids(ids_t) for model, ids_t in zip(models, ids_mt, strict=True)])
    probs_mt: Doubles = np.where(ids_mt == NgramModel.unk_id, 0.0, np.exp(log_probs_mt))
    return probs_mt[:, probs_mt.sum(0) > 0]
