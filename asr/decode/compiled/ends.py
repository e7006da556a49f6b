"""The end of the compiled search: texts and their scores, as ``asr.decode.beam`` defines them.

Axes: b prefixes in the beam, u tokens of a text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.scores import LOG_SCALE, NOW, PREFIXES, Weights, Work, end_word, score_token, weights_of
from asr.decode.tables import NO_FUSION, TOKEN_FUSION, WORD_FUSION, SearchTables
from asr.decode.types import Flags, Floats, Ints
from asr.jit import compiled
from asr.lm.compiled.ngram import advance


@compiled
def end_all(own_tables: SearchTables, own_work: Work) -> tuple[Ints, Floats, Floats, Ints]:
    """The columns of ``asr.decode.beam.Final``, unsorted; a text of which a word was cut may come more than once."""
    tables, work = borrowed(own_tables), borrowed(own_work)
    rows, now, nodes, scores = work.counts[PREFIXES], work.counts[NOW], work.nodes, work.scores
    scored = tables.listed or tables.fusion != NO_FUSION
    node_b, acoustic_b, fusion_b = np.empty(rows, np.int32), np.empty(rows), np.empty(rows)
    whole_b = np.empty(rows, np.int32)
    lm, weights, lm_token_v, opens_v = tables.lm, weights_of(tables), tables.lm_token_v, tables.opens_v
    word_n, known_n, bonus_n = tables.word_n, tables.known_n, tables.bonus_n
    place_b = np.full(rows, -1, np.int32)  # where the text is of the prefix in a row
    for cut in (False, True):
        count = 0
        for row in range(rows):
            n = work.node_2b[now, row]
            if scored and nodes[n].letters > 0 and math.isnan(scores[n].end_score):
                end_word(weights, lm, word_n, known_n, bonus_n, nodes, scores, n)
            if cut:
                node = cut_to(opens_v, nodes, n)
                if weights.fusion == TOKEN_FUSION:  # the tokens that are cut off were scored
                    if nodes[node].letters > 0 and math.isnan(scores[node].end_score):
                        end_word(weights, lm, word_n, known_n, bonus_n, nodes, scores, node)
                    node, fusion = end_prefix(weights, lm, lm_token_v, nodes, scores, node)
                else:
                    fusion = scores[n].fusion + _sentence_end(weights, lm, nodes[n].state)
            elif scored:
                node, fusion = end_prefix(weights, lm, lm_token_v, nodes, scores, n)
            else:
                node, fusion = nodes[n].parent if n != 0 and nodes[n].token == weights.delimiter else n, 0.0
            if fusion == -math.inf:
                continue
            mass = work.blank_2b[now, row] + work.token_2b[now, row]
            acoustic = math.log(mass) + work.scales[LOG_SCALE]
            if scored:
                acoustic -= scores[n].fusion + scores[n].look
            slot = -1 if cut else nodes[node].slot
            place = place_b[slot] if slot >= 0 else -1
            if place >= 0:  # with and without a space at the end: one text
                low, high = min(acoustic, acoustic_b[place]), max(acoustic, acoustic_b[place])
                acoustic_b[place] = high + math.log1p(math.exp(low - high))
                continue
            if slot >= 0:
                place_b[slot] = count
            node_b[count], acoustic_b[count], fusion_b[count] = node, acoustic, fusion
            whole_b[count] = n if cut else node
            count += 1
        if count > 0 or rows == 0:
            break
    return node_b[:count], acoustic_b[:count], fusion_b[:count], whole_b[:count]


@compiled
def tokens_of(nodes: Any, node: int) -> Ints:
    """The tokens of a prefix, in order."""
    count, n = 0, node
    while n != 0:
        count += 1
        n = nodes[n].parent
    tokens_u = np.empty(count, np.int32)
    while node != 0:
        count -= 1
        tokens_u[count] = nodes[node].token
        node = nodes[node].parent
    return tokens_u


@compiled
def _sentence_end(weights: Weights, lm: Any, state: int) -> float:
    if weights.fusion == NO_FUSION:
        return 0.0
    log_prob, _ = advance(lm, np.int64(state), np.int64(weights.end_id))
    return weights.alpha * log_prob


@compiled
def end_prefix(weights: Weights, lm: Any, lm_token_v: Ints, nodes: Any, scores: Any, n: int) -> tuple[int, float]:
    """A prefix, its word ended, without a space at its end, and its score with the sentence ended."""
    score, state, node = scores[n].fusion, nodes[n].state, n
    if nodes[n].letters > 0:
        score += scores[n].end_score
        if weights.fusion == WORD_FUSION:
            state = scores[n].end_state
    if n != 0 and nodes[n].token == weights.delimiter:
        node = nodes[n].parent
        if weights.fusion == TOKEN_FUSION:  # the space that does not count was scored
            state = nodes[node].state
            space, _ = score_token(weights, lm, lm_token_v, state, weights.delimiter)
            score -= space
    return node, score + _sentence_end(weights, lm, state)


@compiled
def cut_to(opens_v: Flags, nodes: Any, n: int) -> int:
    """A prefix without its open word."""
    node = n
    while node != 0 and not opens_v[nodes[node].token]:
        node = nodes[node].parent
    return nodes[node].parent if node != 0 else node
