"""The arrays of a model from its n-grams: what estimation and mixing end with.

Axes: n nodes.
"""

from __future__ import annotations

import numpy as np

from asr.lm.compiled.ngram import insert_all
from asr.lm.model import Floats, Ints, NgramArrays, table_slots


def assemble(
    num_words: int, order: int, contexts_n: Ints, words_n: Ints, suffixes_n: Ints, log_probs_n: Floats,
    backoffs_n: Floats,
) -> NgramArrays:  # fmt: skip
    """The arrays of the n-grams whose nodes are given: the empty one, the unigrams by word, then order by order.

    Suffixes are taken as they are: ``resolve_suffixes`` makes them states.

    Shapes: n nodes, all.
    """
    first = 1 + num_words
    slots = table_slots(len(words_n) - first)
    arrays = NgramArrays(
        np.full(slots, -1, np.int64), np.zeros(slots, np.int32), log_probs_n, backoffs_n, suffixes_n,
        (backoffs_n != 0).astype(np.uint8),
        np.array([num_words]), np.array([order]),
    )  # fmt: skip
    contexts = contexts_n[first:]
    keys = contexts.astype(np.int64) * num_words + words_n[first:]
    insert_all(arrays.table_keys, arrays.table_nodes, keys, np.arange(first, len(words_n), dtype=np.int32))
    arrays.is_context[contexts] = 1
    arrays.is_context[0] = 1
    return arrays
