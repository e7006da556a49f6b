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
from itertools import accumulate, pairwise

import numpy as np

from asr.errors import ConfigError, DataError
from asr.lm.model import (
    BEGIN,
    END,
    LN10,
    MISSING_UNK_LOG10_PROB,
    UNK,
    Doubles,
    Floats,
    Ints,
    Longs,
    NgramArrays,
    NgramModel,
    advance_many,
    find_many,
)

logger = logging.getLogger(__name__)

#: a probability that is none, as ARPA files write it
_NEVER = 1e-99
#: float32 probabilities that sum to one do so to about this
_ROUNDING = 1e-6
#: of the smaller vocabulary; below it the models are probably not of one spelling
_LEAST_SHARED = 0.05
#: below it an unknown word's usual price is less than what such a model makes of a word
_LEAST_WEIGHT = 1e-4


def mix(models: Sequence[NgramModel], weights: Sequence[float]) -> NgramModel:
    """One model of several, each with its weight.

    A word that one of them does not know has probability 0 in that one. The order is the highest of theirs.

    Args:
        models: Two or more.
        weights: One a model, none below 0; they are scaled to sum to 1.

    Raises:
        ConfigError: the weights are no such numbers.
    """
    from asr.lm.automaton import assemble  # compiles

    weight_m = scaled(weights, len(models))
    # One of no weight has no say in which words there are, either.
    models = [model for model, weight in zip(models, weight_m, strict=True) if weight]
    weight_m = [weight for weight in weight_m if weight]
    if len(models) == 1:
        return models[0]
    words, own_ids, new_ids = _vocabularies(models)
    contexts_n, words_n, counts = _union(models, new_ids, len(words))
    log_probs_n = _interpolated(models, weight_m, own_ids, contexts_n, words_n, counts)
    arrays = assemble(
        len(words), len(counts), contexts_n, words_n, np.zeros(len(words_n), np.int32), log_probs_n,
        np.zeros(len(words_n), np.float32),
    )  # fmt: skip
    _link_suffixes(arrays, contexts_n, words_n, counts)
    _set_backoffs(arrays, contexts_n, words_n, counts)
    has_unk = any(model.has_unk for model in models)
    if not has_unk:
        arrays.log_probs[1 + NgramModel.unk_id] = MISSING_UNK_LOG10_PROB * LN10
    return NgramModel(words, arrays, counts, has_unk)


def scaled(weights: Sequence[float], num_models: int) -> list[float]:
    """Weights that sum to 1.

    Raises:
        ConfigError: they are not as many as the models, or no such numbers.
    """
    if len(weights) != num_models:
        raise ConfigError(f"{num_models} models need as many weights, got {len(weights)}", key="weights")
    total = sum(weights)
    if not (all(weight >= 0 for weight in weights) and 0 < total < math.inf):
        raise ConfigError(f"weights must be numbers of at least 0, not all 0, got {list(weights)}", key="weights")
    return [weight / total for weight in weights]


def _vocabularies(models: Sequence[NgramModel]) -> tuple[list[str], list[Longs], list[Longs]]:
    """The words of all; for each model its own id of each of them (-1: none), and the new id of each of its own."""
    ids = {word: i for i, word in enumerate((UNK, BEGIN, END))}
    for model in models:
        for word in model.words:
            ids.setdefault(word, len(ids))
    new_ids = [np.array([ids[word] for word in model.words], np.int64) for model in models]
    own_ids = []
    for new in new_ids:
        own = np.full(len(ids), -1, np.int64)
        own[new] = np.arange(len(new))
        own_ids.append(own)
    for number, own in enumerate(own_ids[1:], start=2):
        fewest = min(len(models[0].words), len(models[number - 1].words)) - 3
        shared = int(((own_ids[0] >= 0) & (own >= 0))[3:].sum())
        if shared < _LEAST_SHARED * fewest:
            logger.warning(
                "models 1 and %d share %s of the %s words of the smaller one: is one in another spelling or case?",
                number, f"{shared:,}", f"{fewest:,}",
            )  # fmt: skip
    return list(ids), own_ids, new_ids


def _union(models: Sequence[NgramModel], new_ids: Sequence[Longs], num_words: int) -> tuple[Ints, Ints, list[int]]:
    """The n-grams of all models as nodes: context and last word of each, and how many there are of each order."""
    made = [model.contexts_and_words() for model in models]
    places = [_by_order(model.counts) for model in models]
    node_of = [np.zeros(place[-1].stop, np.int64) for place in places]  # of a model's node in the mixture
    for nodes, new in zip(node_of, new_ids, strict=True):
        nodes[1 : 1 + len(new)] = 1 + new
    contexts = [np.zeros(1 + num_words, np.int64)]
    words = [np.concatenate([[0], np.arange(num_words)])]
    counts, first = [num_words], 1 + num_words
    for order in range(2, max(model.order for model in models) + 1):
        at_m = [place[order - 1] if order <= len(place) else slice(0) for place in places]
        keys_m = [
            nodes[own_contexts[at]] * num_words + new[own_words[at]]
            for (own_contexts, own_words), at, nodes, new in zip(made, at_m, node_of, new_ids, strict=True)
        ]
        keys = np.unique(np.concatenate(keys_m))
        for at, nodes, own_keys in zip(at_m, node_of, keys_m, strict=True):
            nodes[at] = first + np.searchsorted(keys, own_keys)
        context, word = np.divmod(keys, num_words)
        contexts.append(context)
        words.append(word)
        counts.append(len(keys))
        first += len(keys)
    return np.concatenate(contexts).astype(np.int32), np.concatenate(words).astype(np.int32), counts


def _by_order(counts: Sequence[int]) -> list[slice]:
    """The nodes of each order, from 1."""
    return [slice(start, end) for start, end in pairwise([1, *(1 + total for total in accumulate(counts))])]


def _interpolated(
    models: Sequence[NgramModel], weight_m: Sequence[float], own_ids: Sequence[Longs], contexts_n: Ints, words_n: Ints,
    counts: Sequence[int],
) -> Floats:  # fmt: skip
    """ln of the interpolated probability of every n-gram of the mixture."""
    probs_n = np.zeros(len(words_n))
    for model, weight, own in zip(models, weight_m, own_ids, strict=True):
        states_n = np.zeros(len(words_n), np.int64)  # this model's state after each of the mixture's n-grams
        for at in _by_order(counts):
            word = own[words_n[at]]
            log_probs, states_n[at] = advance_many(model.arrays, states_n[contexts_n[at]], np.maximum(word, 0))
            probs_n[at] += weight * np.where(word < 0, 0.0, np.exp(log_probs))
    log_probs_n: Floats = np.log(np.clip(probs_n, _NEVER, 1.0)).astype(np.float32)
    return log_probs_n


def _link_suffixes(arrays: NgramArrays, contexts_n: Ints, words_n: Ints, counts: Sequence[int]) -> None:
    """The longest proper suffix of each n-gram that there is; then the longest that is a state."""
    from asr.lm.compiled.ngram import resolve_suffixes

    for at in _by_order(counts)[1:]:
        suffixes, words = arrays.suffixes[contexts_n[at]].astype(np.int64), words_n[at]
        found = find_many(arrays, suffixes, words)
        while len(missing := np.flatnonzero(found < 0)):
            suffixes[missing] = arrays.suffixes[suffixes[missing]]
            found[missing] = find_many(arrays, suffixes[missing], words[missing])
        arrays.suffixes[at] = found
    resolve_suffixes(arrays.suffixes, arrays.is_context)


def _set_backoffs(arrays: NgramArrays, contexts_n: Ints, words_n: Ints, counts: Sequence[int]) -> None:
    """For each context, what its n-grams leave over, by what is left of its suffix without their last words."""
    for at in _by_order(counts)[1:]:
        predicted = words_n[at] != NgramModel.begin_id
        contexts, words = contexts_n[at][predicted], words_n[at][predicted]
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
    """The weights with which the interpolated models find a text likeliest; by expectation maximisation.

    Words that no model knows have no say; many of them are a warning.

    Raises:
        DataError: the text has no sentence, or no word that any of the models knows.
    """
    probs_mt = _token_probs(models, lines)
    weight_m = np.full(len(models), 1.0 / len(models))
    for _ in range(10_000):
        shares_mt = weight_m[:, None] * probs_mt
        shares_mt /= shares_mt.sum(0)
        before, weight_m = weight_m, shares_mt.mean(1)
        if np.abs(weight_m - before).max() < 1e-7:
            break
    for number, weight in enumerate(weight_m.tolist(), start=1):
        if weight < _LEAST_WEIGHT:
            logger.warning(
                "model %d gets a weight of %.1g by this text: what only it knows counts as known, but as next to "
                "impossible; is it of use, and has the text been trained on?", number, weight,
            )  # fmt: skip
    return [float(weight) for weight in weight_m]


def _token_probs(models: Sequence[NgramModel], lines: Iterable[str]) -> Doubles:
    """The probability of each token of a text, ends of sentences included, under each model; 0 where it is unknown.
    Tokens unknown to all are left out. Shapes: m x t."""
    from asr.lm.compiled.ngram import score_ids

    ids_m: list[list[int]] = [[] for _ in models]
    for line in lines:
        words = line.split()
        for model, ids in zip(models, ids_m, strict=True):
            known = (model.word_id(word) for word in words)
            ids += [*(i if i > NgramModel.end_id else NgramModel.unk_id for i in known), NgramModel.end_id]
    if not ids_m[0]:
        raise DataError("no text to choose weights by: there is not one line")
    ids_mt = np.array(ids_m)
    total = int((ids_mt[0] != NgramModel.end_id).sum())
    strange = int((ids_mt == NgramModel.unk_id).all(0).sum())
    hint = "is it in the models' case, and in tokens where they are models of tokens (--tokenizer)?"
    if total and strange == total:
        raise DataError(f"none of the models knows a word of the text to choose weights by; {hint}")
    if strange > total / 2:
        logger.warning("%d of the %d words of the text are unknown to all models; %s", strange, total, hint)
    probs_mt = np.zeros((len(models), len(ids_m[0])))
    for model, ids, probs_t in zip(models, ids_m, probs_mt, strict=True):
        ids_t = np.array(ids, np.int32)
        score_ids(model.arrays, ids_t, model.end_id, model.begin_state, probs_t)
        probs_t[:] = np.where(ids_t == model.unk_id, 0.0, np.exp(probs_t))
    return probs_mt[:, probs_mt.sum(0) > 0]
