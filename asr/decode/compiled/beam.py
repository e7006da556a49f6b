"""The beam search of ``asr.decode.beam``, compiled: the same arithmetic in the same order, one prefix at a time.

What makes it fast: nodes of the prefix tree are made only for prefixes that survive a step; a step in which only the
blank is possible costs one pass over the beam, and nothing when it follows another; a candidate is dropped before its
letters are looked up when its mass alone is too small; the score of a word's end is asked once a prefix; scores are
touched only where there are any; arrays are taken without counting references. It holds no GIL, so utterances run in
parallel threads.

Axes: s steps, v vocabulary, b prefixes in the beam, k tokens possible in a step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.scores import (
    LOG_SCALE,
    NODES,
    NOW,
    PREFIXES,
    SCALE,
    Work,
    best_token,
    end_word,
    look_of,
    make_node,
    make_scores,
    only_blank,
    score_token,
    spell,
    weights_of,
)
from asr.decode.tables import LEAST_SCALE, NO_FUSION, TOKEN_FUSION, Limits, SearchTables
from asr.decode.types import Flags, Floats, Ints, LogProbs, Longs
from asr.jit import compiled


@compiled
def _choose_tokens(
    log_probs_v: LogProbs, floor: float, shrink: float, chosen_v: Floats, tokens_k: Ints, place_v: Ints
) -> int:
    """Fills in the probabilities of the tokens that are possible in a step, and their list; how many."""
    best = best_token(log_probs_v, floor)
    num_tokens = 0
    for token in range(len(log_probs_v)):
        chosen_v[token] = 0.0
        if (log_probs_v[token] >= floor or token == best) and log_probs_v[token] > -math.inf:
            chosen_v[token] = math.exp(np.float64(log_probs_v[token])) * shrink  # float() would stay float32
            if token > 0:
                tokens_k[num_tokens] = token
                place_v[token] = num_tokens
                num_tokens += 1
    return num_tokens


@compiled
def _stay(
    nodes: Any, scores: Any, scored: bool, node_b: Ints, old_blank_b: Floats, old_token_b: Floats, blank_b: Floats,
    token_b: Floats, merged_bk: Flags, place_v: Ints, chosen_v: Floats, num_prefixes: int, num_tokens: int,
    delimiter: int,
) -> float:  # fmt: skip
    """Masses of the prefixes that stay, with what their parents in the beam add; the best of them."""
    p_blank, best = chosen_v[0], 0.0
    for row in range(num_prefixes):
        n = node_b[row]
        last = nodes[n].token
        total = old_blank_b[row] + old_token_b[row]
        blank_b[row] = total * p_blank
        mass = 0.0
        p_last = chosen_v[last] if last >= 0 else 0.0
        if p_last > 0.0:
            mass = (total if last == delimiter else old_token_b[row]) * p_last
            parent = nodes[n].parent
            slot = nodes[parent].slot if parent >= 0 else -1
            if slot >= 0:
                source = old_blank_b[slot]
                if nodes[parent].token != last:
                    source += old_token_b[slot]
                mass += source * p_last * (scores[n].growth if scored else 1.0)
                merged_bk[slot * num_tokens + place_v[last]] = True
        token_b[row] = mass
        best = max(best, blank_b[row] + mass)
    return best


@compiled
def _grow(
    tables: SearchTables, nodes: Any, scores: Any, candidates: Any, node_b: Ints, old_blank_b: Floats,
    old_token_b: Floats, merged_bk: Flags, tokens_k: Ints, chosen_v: Floats, fall_l: Floats, num_prefixes: int,
    num_tokens: int, limits: Limits, best: float,
) -> tuple[int, float]:  # fmt: skip
    """Fills in the candidates: prefixes with one more token. Returns how many, and the best mass of all."""
    opens_v, num_letters_v, letters_vl = tables.opens_v, tables.num_letters_v, tables.letters_vl
    first_edge_n, edge_letters_e, look_n = tables.first_edge_n, tables.edge_letters_e, tables.look_n
    word_n, known_n, bonus_n, lm_token_v = tables.word_n, tables.known_n, tables.bonus_n, tables.lm_token_v
    edge_mask_n = tables.edge_mask_n
    lm, weights = tables.lm, weights_of(tables)
    by_token = tables.fusion == TOKEN_FUSION
    off, unknown_letters, listed, delimiter = tables.off, tables.unknown_letters, tables.listed, tables.delimiter
    prune, most_growth = limits.prune, limits.most_growth
    count, least = 0, best * prune
    for row in range(num_prefixes):
        n = node_b[row]
        last = nodes[n].token
        blank = old_blank_b[row]
        total = blank + old_token_b[row]
        own_word, own_letters, look = nodes[n].word, nodes[n].letters, scores[n].look
        for k in range(num_tokens):
            if merged_bk[row * num_tokens + k]:
                merged_bk[row * num_tokens + k] = False
                continue
            token = tokens_k[k]
            if token == last and token == delimiter:
                continue
            mass = (blank if token == last else total) * chosen_v[token]
            opens, num_letters = opens_v[token], num_letters_v[token]
            if mass == 0.0 or (not opens and mass * most_growth < least):
                continue
            word, letters = own_word, own_letters
            change, growth = 0.0, 1.0
            if opens:
                if letters > 0:
                    if math.isnan(scores[n].end_score):
                        end_word(weights, lm, word_n, known_n, bonus_n, nodes, scores, n)
                    change, growth = scores[n].end_score, scores[n].end_growth
                word, letters = 0, 0
            if listed and num_letters > 0:
                word = spell(letters_vl, first_edge_n, edge_letters_e, edge_mask_n, word, token, num_letters)
            if by_token:
                score, _ = score_token(weights, lm, lm_token_v, nodes[n].state, token)
                change += score
            if by_token or (listed and num_letters > 0):
                after = look_of(look_n, off, unknown_letters, word, letters + num_letters) if listed else 0.0
                if change == 0.0 and after == look:
                    growth = 1.0
                elif change == 0.0 and look == 0.0 and word < 0 and letters + num_letters < len(fall_l):
                    growth = fall_l[letters + num_letters]
                else:
                    growth = math.exp(change + after - look)
            mass *= growth
            if mass < least or mass == 0.0:
                continue
            if mass > best:
                best = mass
                least = best * prune
            candidates[count].row, candidates[count].token, candidates[count].word = row, token, word
            candidates[count].mass, candidates[count].growth = mass, growth
            count += 1
    return count, best


@compiled
def _grow_unscored(
    nodes: Any, candidates: Any, node_b: Ints, old_blank_b: Floats, old_token_b: Floats, merged_bk: Flags,
    tokens_k: Ints, chosen_v: Floats, num_prefixes: int, num_tokens: int, delimiter: int, prune: float, best: float,
) -> tuple[int, float]:  # fmt: skip
    """``_grow`` where there is neither a language model nor a list of words: a mass is a probability."""
    count, least = 0, best * prune
    for row in range(num_prefixes):
        last = nodes[node_b[row]].token
        blank = old_blank_b[row]
        total = blank + old_token_b[row]
        for k in range(num_tokens):
            token, merged = tokens_k[k], merged_bk[row * num_tokens + k]
            merged_bk[row * num_tokens + k] = False
            mass = (blank if token == last else total) * chosen_v[token]
            if merged or mass < least or mass == 0.0 or (token == last and token == delimiter):
                continue
            if mass > best:
                best = mass
                least = best * prune
            candidates[count].row, candidates[count].token, candidates[count].mass = row, token, mass
            count += 1
    return count, best


@compiled
def _nth_largest(values: Floats, count: int, n: int) -> float:
    """The n-th largest (from 1) of the first ``count`` values, which are reordered.

    Source: Hoare 1961, algorithm 65 (find).
    """
    low, high, place = 0, count - 1, n - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return float(values[place])


@compiled
def _least_kept(masses: Floats, bits: Longs, buckets: Longs, count: int, n: int, best: float) -> tuple[float, int]:
    """The n-th largest (from 1) of the first ``count`` masses, and how many as small as it are among the n largest.

    They are counted by exponent and first four bits of the mantissa, which needs no comparison that a processor could
    guess wrong; only one bucket is searched. ``bits`` is ``masses`` as integers. The masses are spent.
    """
    most = len(buckets) - 1
    masses[count] = best
    top = bits[count] >> 48
    buckets[:] = 0
    for i in range(count):
        buckets[min(top - (bits[i] >> 48), most)] += 1
    bucket, above = 0, 0
    while above + buckets[bucket] < n:
        above += buckets[bucket]
        bucket += 1
    inside = 0
    for i in range(count):
        here = min(top - (bits[i] >> 48), most) == bucket
        masses[inside] = masses[i]
        inside += here
    least = _nth_largest(masses, inside, n - above)
    for i in range(inside):
        above += masses[i] > least
    return least, n - above


@compiled
def _keep(
    tables: SearchTables, scored: bool, nodes: Any, scores: Any, candidates: Any, masses: Floats, bits: Longs,
    buckets: Longs, node_b: Ints, next_b: Ints, blank_b: Floats, token_b: Floats, num_prefixes: int,
    count: int, limits: Limits, best: float,
    num_nodes: int,
) -> tuple[int, int]:  # fmt: skip
    """Writes the next beam: the best candidates in their order, ties to the earlier. Its size, and how many nodes."""
    opens_v, num_letters_v, look_n = tables.opens_v, tables.num_letters_v, tables.look_n
    off, unknown_letters, listed = tables.off, tables.unknown_letters, tables.listed
    lm, weights, lm_token_v = tables.lm, weights_of(tables), tables.lm_token_v
    by_token = tables.fusion == TOKEN_FUSION
    least, alive = best * limits.prune, 0
    for row in range(num_prefixes):
        mass = blank_b[row] + token_b[row]
        masses[alive] = mass
        alive += mass >= least and mass > 0.0
        nodes[node_b[row]].slot = -1
    for c in range(count):
        masses[alive] = candidates[c].mass
        alive += candidates[c].mass >= least
    ties = alive  # how many of exactly the least mass are kept
    if alive > limits.beam_width:
        least, ties = _least_kept(masses, bits, buckets, alive, limits.beam_width, best)
    kept = 0
    for row in range(num_prefixes):
        mass = blank_b[row] + token_b[row]
        if mass < least or mass == 0.0:
            continue
        if mass == least:
            ties -= 1
            if ties < 0:
                continue
        next_b[kept], blank_b[kept], token_b[kept] = node_b[row], blank_b[row], token_b[row]
        nodes[node_b[row]].slot = kept
        kept += 1
    for c in range(count):
        mass = candidates[c].mass
        # The second can only be with masses that are no numbers: then nothing is written beyond the beam at least.
        if mass < least or kept == limits.beam_width:
            continue
        if mass == least:
            ties -= 1
            if ties < 0:
                continue
        parent, token = node_b[candidates[c].row], candidates[c].token
        n = nodes[parent].child
        while n >= 0 and nodes[n].token != token:
            n = nodes[n].sibling
        if n < 0:  # the prefix was never in the beam before
            n = num_nodes
            num_nodes += 1
            word = candidates[c].word if scored else 0
            make_node(nodes, n, parent, token, opens_v[token], num_letters_v[token], word)
            if scored:
                make_scores(nodes, scores, n, parent, opens_v[token])
                scores[n].look = look_of(look_n, off, unknown_letters, word, nodes[n].letters) if listed else 0.0
                scores[n].growth = candidates[c].growth
            if by_token:
                score, nodes[n].state = score_token(weights, lm, lm_token_v, nodes[parent].state, token)
                scores[n].fusion += score
        next_b[kept], blank_b[kept], token_b[kept] = n, 0.0, mass
        nodes[n].slot = kept
        kept += 1
    return kept, num_nodes


@compiled
def search_steps(own_tables: SearchTables, limits: Limits, own_work: Work, first: int, own_sv: LogProbs) -> int:
    """Searches on from step ``first``; the step at which the memory for nodes may not do, or the end."""
    tables, work, log_probs_sv = borrowed(own_tables), borrowed(own_work), borrowed(own_sv)
    nodes, scores, candidates = work.nodes, work.scores, work.candidates
    masses, merged_bk = work.masses, work.merged_bk
    scored = tables.listed or tables.fusion != NO_FUSION
    tokens_k, place_v, chosen_v = work.tokens_k, work.place_v, work.chosen_v
    num_nodes, num_prefixes, now = work.counts[NODES], work.counts[PREFIXES], work.counts[NOW]
    bits, buckets = masses.view(np.int64), work.buckets
    log_scale, scale = work.scales[LOG_SCALE], work.scales[SCALE]
    fall_l = work.fall_l  # growth when letters become a word that is not listed
    for letters in range(len(fall_l)):
        fall_l[letters] = math.exp(tables.off * max(1.0, letters / tables.unknown_letters))
    after_blank, step = False, first
    while step < len(log_probs_sv) and num_prefixes > 0:
        log_probs_v = log_probs_sv[step]
        node_b, old_blank_b, old_token_b = work.node_2b[now], work.blank_2b[now], work.token_2b[now]
        if only_blank(log_probs_v, limits.floor):
            if not after_blank:
                for row in range(num_prefixes):
                    old_blank_b[row] += old_token_b[row]
                    old_token_b[row] = 0.0
            after_blank = True
            log_scale += float(log_probs_v[0])
            step += 1
            continue
        if num_nodes + limits.beam_width > len(nodes):
            break
        after_blank = False
        next_b, blank_b, token_b = work.node_2b[1 - now], work.blank_2b[1 - now], work.token_2b[1 - now]
        count, best, floor = 0, 0.0, limits.floor
        for _ in range(2):  # once more with all tokens: a closed word list may forbid all that token pruning leaves
            k = _choose_tokens(log_probs_v, floor, 1.0 / scale, chosen_v, tokens_k, place_v)
            best = _stay(
                nodes, scores, scored, node_b, old_blank_b, old_token_b, blank_b, token_b, merged_bk, place_v, chosen_v,
                num_prefixes, k, tables.delimiter,
            )  # fmt: skip
            if scored:
                count, best = _grow(
                    tables, nodes, scores, candidates, node_b, old_blank_b, old_token_b, merged_bk, tokens_k, chosen_v,
                    fall_l, num_prefixes, k, limits, best,
                )  # fmt: skip
            else:
                count, best = _grow_unscored(
                    nodes, candidates, node_b, old_blank_b, old_token_b, merged_bk, tokens_k, chosen_v, num_prefixes, k,
                    tables.delimiter, limits.prune, best,
                )  # fmt: skip
            if best > 0.0:
                break
            floor = -math.inf
        if best > 0.0:
            num_prefixes, num_nodes = _keep(
                tables, scored, nodes, scores, candidates, masses, bits, buckets, node_b, next_b, blank_b, token_b,
                num_prefixes, count, limits, best, num_nodes,
            )  # fmt: skip
            log_scale += math.log(scale)
            scale = max(best, LEAST_SCALE)
        else:
            num_prefixes = 0
        now = 1 - now
        step += 1
    work.counts[NODES], work.counts[PREFIXES], work.counts[NOW] = num_nodes, num_prefixes, now
    work.scales[LOG_SCALE], work.scales[SCALE] = log_scale, scale
    return step if num_prefixes > 0 else len(log_probs_sv)
