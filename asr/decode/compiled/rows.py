"""Questions to the log-probabilities of a step: do they sum to 1, and which tokens are possible.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import math

import numpy as np

from asr.decode.types import LogProbs
from asr.jit import compiled, summing


@compiled
def only_blank(log_probs_v: LogProbs, floor: float) -> bool:
    """Return true if token pruning leaves nothing but the blank."""
    least, blank = np.float32(floor), log_probs_v[0]
    others = 0
    for token in range(1, len(log_probs_v)):  # to the end: without a way out, several are compared at once
        others += (log_probs_v[token] >= least) | (log_probs_v[token] > blank)
    return others == 0


@compiled
def best_token(log_probs_v: LogProbs, floor: float) -> int:
    """Return the most probable token where all may be below the floor; else -1: it is above the floor itself."""
    if floor < -math.log(len(log_probs_v)) - 0.01:  # probabilities of a row sum to 1 within a thousandth
        return -1
    best = 0
    for token in range(1, len(log_probs_v)):
        if log_probs_v[token] > log_probs_v[best]:
            best = token
    return best


@summing
def sum_to_one(log_probs_sv: LogProbs) -> bool:
    """Return true if each row is log-probabilities: none above 0 or no number, the sum of their exponentials 1.

    e^x is 2^n (1 + y + ...), of which n is put into the exponent bits; good to 1e-5, at several values at once. What is
    near the limit is looked at again by ``check_log_probs``.
    """
    wrong = np.int64(0)

    for step in range(len(log_probs_sv)):
        total = np.float32(0)
        for token in range(log_probs_sv.shape[1]):
            x = log_probs_sv[step, token]
            wrong += not x <= np.float32(1e-3)
            scaled = max(x, np.float32(-80)) * np.float32(1.4426950408889634)  # log2(e); e^-80 is nothing here
            whole = np.floor(scaled)
            y = (scaled - whole) * np.float32(0.6931471805599453)  # ln(2)
            power = np.float32(1 / 720)
            for factor in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
                power = power * y + np.float32(factor)
            total += power * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
        wrong += abs(total - np.float32(1)) > np.float32(0.9e-3)

    return bool(wrong == 0)
