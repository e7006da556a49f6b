"""``asr.alignment.forced``'s pass over the steps, compiled: the same scores and the same moves, bit for bit.

Axes: s steps, v vocabulary, j blanks and the token behind each.
"""

from __future__ import annotations

import math

import numpy as np

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.viterbi import _move_blanks, _move_tokens
from asr.decode.types import Floats, Ints, LogProbs, Moves
from asr.jit import compiled


@compiled
def advance(
    own_sv: LogProbs, label_j: Ints, skip_j: Floats, back_j: Floats, blank_j: Floats, token_j: Floats,
    low: int, high: int, blank_moves_sj: Moves, token_moves_sj: Moves,
) -> None:  # fmt: skip
    """``asr.alignment.forced._advance``."""
    log_probs_sv = borrowed(own_sv)
    tokens, keeps = len(label_j), len(blank_moves_sj) > 0
    labels_j = label_j.astype(np.uint32)  # never an index from the end: that is a question less for each
    old_blank_j, old_token_j, new_blank_j, new_token_j = blank_j.copy(), token_j.copy(), blank_j.copy(), token_j.copy()
    emit_j = np.full(tokens, -math.inf)
    blank_moves_j, token_moves_j = np.empty(tokens + 1, np.int8), np.empty(tokens, np.int8)
    for step in range(len(log_probs_sv)):
        log_probs_v = log_probs_sv[step]
        first, end = max(0, low + step), min(high + step, tokens) + 1
        last = min(end, tokens)
        for j in range(first, last):
            emit_j[j] = log_probs_v[labels_j[j]]
        _move_blanks(
            old_blank_j[first:end], old_token_j[first:end], np.float64(log_probs_v[0]), new_blank_j[first:end],
            blank_moves_sj[step, first:end] if keeps else blank_moves_j[first:end],
        )  # fmt: skip
        _move_tokens(
            old_blank_j[first : last + 1], old_token_j[first : last + 1], skip_j[first:last], back_j[first:last],
            emit_j[first:last], new_token_j[first + 1 : last + 1],
            token_moves_sj[step, first:last] if keeps else token_moves_j[first:last],
        )  # fmt: skip
        old_blank_j, new_blank_j = new_blank_j, old_blank_j
        old_token_j, new_token_j = new_token_j, old_token_j
    blank_j[:], token_j[:] = old_blank_j, old_token_j
