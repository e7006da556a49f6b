"""Whole utterances in one compiled call: search, end, tokens and times, with nothing of Python in between.

A call costs Python some microseconds and the GIL a handing over, so short utterances are decoded several at a time.

Axes: s steps of all utterances one after the other, n utterances, h hypotheses, u tokens of all hypotheses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from asr.decode.compiled.beam import search_steps
from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.ends import end_all, tokens_of
from asr.decode.compiled.scores import LOG_SCALE, NODES, NOW, PREFIXES, SCALE, Work
from asr.decode.compiled.viterbi import find_spans
from asr.decode.tables import Limits, SearchTables
from asr.decode.types import Floats, Ints, LogProbs, Longs
from asr.jit import compiled, summing


class Found(NamedTuple):
    """Room for the hypotheses of some utterances, ``limit`` each."""

    #: how many there are; -1: a word had to be left out, or the input looks wrong, which is done and said elsewhere
    count_n: Ints
    acoustic_h: Floats
    fusion_h: Floats
    #: where the tokens of a hypothesis end
    end_h: Longs
    token_u: Ints
    first_u: Ints
    last_u: Ints
    peak_u: Floats


@compiled
def begin(tables: SearchTables, work: Work) -> None:
    """Puts the empty prefix, and nothing else, into the beam."""
    root, scores = work.nodes[0], work.scores[0]
    root.parent, root.token, root.child, root.sibling = -1, tables.delimiter, -1, -1
    root.slot, root.word, root.letters, root.state = 0, 0, 0, tables.begin_state
    scores.fusion, scores.look, scores.growth, scores.end_score = 0.0, 0.0, 1.0, np.nan
    work.node_2b[0, 0], work.blank_2b[0, 0], work.token_2b[0, 0] = 0, 1.0, 0.0
    work.counts[NODES], work.counts[PREFIXES], work.counts[NOW] = 1, 1, 0
    work.scales[LOG_SCALE], work.scales[SCALE] = 0.0, 1.0


@compiled
def decode_whole(
    tables: SearchTables, limits: Limits, work: Work, own_sv: LogProbs, end_n: Longs, first: int, limit: int,
    own_found: Found,
) -> int:  # fmt: skip
    """Decodes utterances from ``first`` on; the one for which the memory for nodes does not do, or their number."""
    log_probs_sv, found = borrowed(own_sv), borrowed(own_found)
    filled = found.end_h[first * limit - 1] if first > 0 else 0
    for n in range(first, len(end_n)):
        rows_sv = log_probs_sv[end_n[n - 1] if n > 0 else 0 : end_n[n]]
        if not _sum_to_one(rows_sv):
            found.count_n[n] = -1
            found.end_h[n * limit : (n + 1) * limit] = filled
            continue
        begin(tables, work)
        start: Any = np.int64(0)  # a plain 0 would be a type of its own, and everything compiled once more
        if search_steps(tables, limits, work, start, rows_sv) < len(rows_sv):
            return n
        node_b, acoustic_b, fusion_b, whole_b = end_all(tables, work)
        count = min(limit, len(node_b))
        found.count_n[n] = count
        for place in range(limit):
            h = n * limit + place
            found.end_h[h] = filled
            if place >= count:
                continue
            best = -1
            for row in range(len(node_b)):
                if node_b[row] >= 0 and (
                    best < 0 or acoustic_b[row] + fusion_b[row] > acoustic_b[best] + fusion_b[best]
                ):
                    best = row
            if node_b[best] != whole_b[best]:
                found.count_n[n] = -1
                continue
            found.acoustic_h[h], found.fusion_h[h] = acoustic_b[best], fusion_b[best]
            token_u = tokens_of(work.nodes, node_b[best])
            node_b[best] = whole_b[best] = -1  # taken
            first_u, last_u, peak_u = find_spans(
                rows_sv, _labels(token_u, tables.delimiter), tables.delimiter, limits.floor
            )
            if len(first_u) < len(token_u):
                found.count_n[n] = -1
                continue
            for u in range(len(token_u)):
                found.token_u[filled], found.first_u[filled] = token_u[u], first_u[u]
                found.last_u[filled], found.peak_u[filled] = last_u[u], peak_u[u]
                filled += 1
            found.end_h[h] = filled
    return len(end_n)


@summing
def _sum_to_one(log_probs_sv: LogProbs) -> bool:
    """Whether each row is log-probabilities: none above 0, none not a number, the sum of their exponentials 1.

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


@compiled
def _labels(token_u: Ints, delimiter: int) -> Ints:
    """The token of each state of a text, as ``asr.decode.viterbi.states_of`` has them."""
    lead = 1 if delimiter >= 0 else 0
    labels_k = np.zeros(2 * (len(token_u) + 2 * lead) + 1, np.int32)
    if lead:
        labels_k[1] = labels_k[-2] = delimiter
    for u in range(len(token_u)):
        labels_k[2 * (u + lead) + 1] = token_u[u]
    return labels_k
