"""The end of the compiled search, and whole utterances in one call: search, end, tokens and times.

A call costs Python some microseconds and the GIL a handing over, so short utterances are decoded several at a time.

Axes: s steps of all utterances one after the other, n utterances, b prefixes in the beam, h hypotheses, u tokens of all
hypotheses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from asr.decode.compiled.beam import search_steps
from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.memory import Found, Work
from asr.decode.compiled.prefixes import begin, finish, has_scores, tokens_of, without_open_word
from asr.decode.compiled.rows import sum_to_one
from asr.decode.compiled.viterbi import find_spans
from asr.decode.tables import Limits, SearchTables
from asr.decode.types import Floats, Ints, LogProbs, Longs
from asr.jit import compiled, inlined


@compiled
def end_utterance(own_tables: SearchTables, own_work: Work) -> tuple[Ints, Floats, Floats, Ints]:
    """Return the texts in the beam, unsorted; a text of which a word was left out may come more than once.

    Shapes: (b,) all four: the node of the text, its log-probability, its other score, the node of what was heard.
    """
    tables, work = borrowed(own_tables), borrowed(own_work)
    state, scores = work.state[0], work.scores
    rows, now = state.num_prefixes, state.now
    node_b, log_prob_b, lm_score_b = np.empty(rows, np.int32), np.empty(rows), np.empty(rows)
    heard_b = np.empty(rows, np.int32)
    place_b = np.full(rows, -1, np.int32)  # where the text is that is the prefix in a row

    for cut in (False, True):  # where no open word is a listed one, they are left out
        count = 0
        for row in range(rows):
            n = work.node_2b[now, row]
            node, lm_score = without_open_word(tables, work, n) if cut else finish(tables, work, n)
            if lm_score == -math.inf:
                continue
            log_prob = math.log(work.blank_2b[now, row] + work.token_2b[now, row]) + state.log_scale
            if has_scores(tables):
                log_prob -= scores[n].score + scores[n].look

            slot = -1 if cut else work.nodes[node].slot
            place = place_b[slot] if slot >= 0 else -1
            if place >= 0:  # with and without a space at the end: one text
                low, high = min(log_prob, log_prob_b[place]), max(log_prob, log_prob_b[place])
                log_prob_b[place] = high + math.log1p(math.exp(low - high))
                continue
            if slot >= 0:
                place_b[slot] = count
            node_b[count] = node
            log_prob_b[count] = log_prob
            lm_score_b[count] = lm_score
            heard_b[count] = n if cut else node
            count += 1
        if count > 0:
            break

    return node_b[:count], log_prob_b[:count], lm_score_b[:count], heard_b[:count]


@compiled
def decode_whole(
    own_tables: SearchTables,
    limits: Limits,
    own_work: Work,
    own_sv: LogProbs,
    end_n: Longs,
    first: int,
    limit: int,
    times: bool,
    own_found: Found,
) -> int:
    """Decode utterances from ``first`` on; return the one for which there are too few nodes, or their number.

    Without ``times`` tokens get none.
    """
    tables, work = borrowed(own_tables), borrowed(own_work)
    log_probs_sv, found = borrowed(own_sv), borrowed(own_found)

    for n in range(first, len(end_n)):
        rows_sv = log_probs_sv[end_n[n - 1] if n > 0 else 0 : end_n[n]]
        h = n * limit
        found.end_h[h : h + limit] = found.end_h[h - 1] if n > 0 else 0
        if not sum_to_one(rows_sv):
            found.count_n[n] = -1
            continue
        begin(tables, work)
        start: Any = np.int64(0)  # a plain 0 would be a type of its own, and everything compiled once more
        if search_steps(tables, limits, work, start, rows_sv) < len(rows_sv):
            return n
        found.count_n[n] = _put_best(tables, limits, work, rows_sv, h, limit, times, found)

    return len(end_n)


@inlined
def _put_best(
    tables: SearchTables, limits: Limits, work: Work, rows_sv: LogProbs, h: int, limit: int, times: bool, found: Found
) -> int:
    """Fill in the best texts in the beam from hypothesis ``h`` on; return how many, or -1 (``Found``)."""
    node_b, log_prob_b, lm_score_b, heard_b = end_utterance(tables, work)
    count = min(limit, len(node_b))
    filled = found.end_h[h]

    for place in range(count):
        best = -1
        for row in range(len(node_b)):
            taken = node_b[row] < 0
            if not taken and (best < 0 or log_prob_b[row] + lm_score_b[row] > log_prob_b[best] + lm_score_b[best]):
                best = row
        if node_b[best] != heard_b[best]:
            return -1

        token_u = tokens_of(work.nodes, node_b[best])
        end = filled + len(token_u)
        found.token_u[filled:end] = token_u
        if times:
            first_u, last_u, peak_u = find_spans(rows_sv, token_u, tables.delimiter, limits.floor)
            if len(first_u) < len(token_u):
                return -1
            found.first_u[filled:end], found.last_u[filled:end], found.peak_u[filled:end] = first_u, last_u, peak_u
        filled = end
        found.log_prob_h[h + place], found.lm_score_h[h + place] = log_prob_b[best], lm_score_b[best]
        found.end_h[h + place : h + limit] = filled
        node_b[best] = heard_b[best] = -1

    return count
