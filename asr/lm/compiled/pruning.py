"""The loop of entropy pruning, in compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.jit import compiled
from asr.lm.arrays import Bytes, Doubles, Ints, Longs

Int = Any


@compiled
def find_prunable(
    nodes_k: Longs,
    contexts_k: Ints,
    log_probs_k: Doubles,
    lower_k: Doubles,
    history_c: Doubles,
    backoffs_c: Doubles,
    first_context: Int,
    kept_n: Bytes,
    needed_n: Bytes,
    threshold: float,
) -> Int:
    """Clear ``kept_n`` of the n-grams of one order that the model hardly needs; return how many there are.

    Axes: k n-grams, sorted by context; c contexts from ``first_context`` on.

    Args:
        lower_k: ln p of the last word after the context's suffix.
        history_c: ln of the probability of the words of each context.
        needed_n: Nodes that longer n-grams extend; they stay.
        threshold: The growth of perplexity below which an n-gram is left out.
    """
    pruned = 0
    begin = 0
    while begin < len(nodes_k):
        context = contexts_k[begin]
        end = begin
        left, left_lower = 1.0, 1.0
        while end < len(nodes_k) and contexts_k[end] == context:
            left -= np.exp(log_probs_k[end])
            left_lower -= np.exp(lower_k[end])
            end += 1

        c = context - first_context
        for k in range(begin, end):
            if needed_n[nodes_k[k]]:
                continue
            prob, lower = np.exp(log_probs_k[k]), np.exp(lower_k[k])
            if left + prob <= 0.0 or left_lower + lower <= 0.0:
                continue
            backoff = np.log(left + prob) - np.log(left_lower + lower)
            change = lower_k[k] + backoff - log_probs_k[k]
            entropy = -np.exp(history_c[c]) * (prob * change + max(left, 0.0) * (backoff - backoffs_c[c]))
            if np.expm1(entropy) < threshold:
                kept_n[nodes_k[k]] = 0
                pruned += 1
        begin = end
    return pruned
