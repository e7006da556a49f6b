"""The beam search of ``asr.decode.beam``, compiled: the same arithmetic in the same order, one prefix at a time.

What makes it fast: nodes of the prefix tree are made only for prefixes that survive a step; a step in which only the
blank is possible costs one pass over the beam, and nothing when it follows another; a candidate is dropped before its
letters are looked up when its mass alone is too small; the score of a word's end is asked once per prefix; scores are
touched only where there are any; arrays are taken without counting references. It holds no GIL, so utterances run in
parallel threads.

Axes: s steps, v vocabulary, b prefixes in the beam, k tokens possible in a step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from asr.decode.compiled.borrowed import borrowed
from asr.decode.compiled.memory import Work
from asr.decode.compiled.prefixes import (
    end_word,
    gain_of,
    has_scores,
    make_node,
    make_scores,
    phrase_of,
    score_token,
    spell,
)
from asr.decode.compiled.recombination import recombine
from asr.decode.compiled.rows import best_token, only_blank
from asr.decode.compiled.selection import least_kept
from asr.decode.tables import LEAST_SCALE, TOKEN_FUSION, Limits, SearchTables
from asr.decode.types import LogProbs
from asr.jit import compiled, inlined


@compiled
def search_steps(own_tables: SearchTables, limits: Limits, own_work: Work, first: int, own_sv: LogProbs) -> int:
    """Search on from step ``first``; return the step at which there may be too few nodes, or the end."""
    tables = borrowed(own_tables)
    work = borrowed(own_work)
    log_probs_sv = borrowed(own_sv)
    state = work.state[0]
    after_blank = False
    step = first

    while step < len(log_probs_sv) and state.num_prefixes > 0:
        log_probs_v = log_probs_sv[step]
        if only_blank(log_probs_v, limits.floor):
            if not after_blank:
                _rest(work)
            after_blank = True
            state.log_scale += float(log_probs_v[0])
            step += 1
            continue
        if state.num_nodes + limits.beam_width > len(work.nodes):
            return step
        after_blank = False

        count = 0
        best = 0.0
        floor = limits.floor
        for _ in range(2):  # once more with all tokens: a closed word list may forbid all that token pruning leaves
            _choose_tokens(work, log_probs_v, floor)
            best = _stay(tables, work)
            if has_scores(tables):
                count, best = _grow(tables, limits, work, best)
            else:
                count, best = _grow_unscored(tables, limits, work, best)
            if best > 0.0:
                break
            floor = -math.inf

        if best > 0.0:
            _keep(tables, limits, work, count, best)
            state.log_scale += math.log(state.scale)
            state.scale = max(best, LEAST_SCALE)
        else:
            state.num_prefixes = 0
        state.now = 1 - state.now
        step += 1

    return len(log_probs_sv)


@inlined
def _rest(work: Work) -> None:
    """Let every path end in a blank."""
    now = work.state[0].now
    for row in range(work.state[0].num_prefixes):
        work.blank_2b[now, row] += work.token_2b[now, row]
        work.token_2b[now, row] = 0.0


@inlined
def _choose_tokens(work: Work, log_probs_v: LogProbs, floor: float) -> None:
    """Fill in the probabilities of the tokens that are possible in a step, and their list."""
    prob_v = work.prob_v
    tokens_k = work.tokens_k
    least = np.float32(floor)
    if least == -math.inf:
        least = np.float32(-np.finfo(np.float32).max)
    shrink = 1.0 / work.state[0].scale
    num_tokens = 0
    prob_v[0] = 0.0
    for k in range(work.state[0].num_tokens):
        prob_v[tokens_k[k]] = 0.0
    for token in range(len(log_probs_v)):  # without branches
        tokens_k[num_tokens] = token
        num_tokens += (log_probs_v[token] >= least) & (token > 0)
    best = best_token(log_probs_v, floor)
    if best > 0 and log_probs_v[best] < least:
        tokens_k[num_tokens] = best
        num_tokens += 1

    for k in range(num_tokens):
        token = tokens_k[k]
        prob_v[token] = math.exp(np.float64(log_probs_v[token])) * shrink  # float() would stay float32
        work.place_v[token] = k
    if log_probs_v[0] >= least or (best == 0 and log_probs_v[0] > -math.inf):
        prob_v[0] = math.exp(np.float64(log_probs_v[0])) * shrink

    work.state[0].num_tokens = num_tokens


@inlined
def _stay(tables: SearchTables, work: Work) -> float:
    """Fill in the masses of the prefixes that stay, with what their parents in the beam add; return the best."""
    state = work.state[0]
    nodes = work.nodes
    prob_v = work.prob_v
    node_b, old_blank_b, old_token_b = work.node_2b[state.now], work.blank_2b[state.now], work.token_2b[state.now]
    blank_b, token_b = work.blank_2b[1 - state.now], work.token_2b[1 - state.now]
    scored = has_scores(tables)
    delimiter = tables.delimiter
    num_tokens = state.num_tokens
    p_blank = prob_v[0]
    best = 0.0

    for row in range(state.num_prefixes):
        n = node_b[row]
        last = nodes[n].token
        total = old_blank_b[row] + old_token_b[row]
        blank_b[row] = total * p_blank
        mass = 0.0
        p_last = prob_v[last] if last >= 0 else 0.0
        if p_last > 0.0:
            mass = (total if last == delimiter else old_token_b[row]) * p_last
            parent = nodes[n].parent
            slot = nodes[parent].slot if parent >= 0 else -1
            if slot >= 0:
                source = old_blank_b[slot]
                if nodes[parent].token != last:
                    source += old_token_b[slot]
                mass += source * p_last * (work.scores[n].growth if scored else 1.0)
                work.merged_bk[slot * num_tokens + work.place_v[last]] = True
        token_b[row] = mass
        best = max(best, blank_b[row] + mass)

    return best


@inlined
def _grow(tables: SearchTables, limits: Limits, work: Work, best: float) -> tuple[int, float]:
    """Fill in the candidates: prefixes with one more token. Return how many, and the best mass of all."""
    state = work.state[0]
    nodes = work.nodes
    scores = work.scores
    candidates = work.candidates
    node_b, old_blank_b, old_token_b = work.node_2b[state.now], work.blank_2b[state.now], work.token_2b[state.now]
    merged_bk = work.merged_bk
    tokens_k = work.tokens_k
    prob_v = work.prob_v
    num_tokens = state.num_tokens
    listed = tables.listed
    has_phrases = tables.phrases.present
    by_token = tables.fusion == TOKEN_FUSION
    count = 0
    least = best * limits.prune

    for row in range(state.num_prefixes):
        n = node_b[row]
        last = nodes[n].token
        blank = old_blank_b[row]
        total = blank + old_token_b[row]
        own_word = nodes[n].word
        own_letters = nodes[n].letters
        own_state = nodes[n].state
        own_score = scores[n].score
        own_phrase: Any = np.int64(scores[n].phrase) if has_phrases else np.int64(-1)
        shrink = 1.0 / scores[n].gain
        for k in range(num_tokens):
            if merged_bk[row * num_tokens + k]:  # it is in the beam and has its mass already
                merged_bk[row * num_tokens + k] = False
                continue
            token = tokens_k[k]
            if token == last and token == tables.delimiter:
                continue
            mass = (blank if token == last else total) * prob_v[token]
            opens, num_letters = tables.opens_v[token], tables.num_letters_v[token]
            if mass == 0.0 or (not opens and mass * limits.most_growth < least):
                continue

            # the word that ends, the letters that are added, and what they change
            word, letters, state_after, score = own_word, own_letters, own_state, own_score
            phrase = own_phrase
            growth = shrink
            if opens:
                if letters > 0:
                    end_word(tables, work, n)
                    growth = scores[n].end_growth
                    score += scores[n].end_score
                    state_after = scores[n].end_state
                    phrase = np.int64(scores[n].end_phrase)
                word, letters = 0, 0
            if by_token:
                token_score, state_after = score_token(tables, own_state, token)
                score += token_score
                growth *= math.exp(token_score)
            gain = 1.0
            if listed and num_letters > 0:
                word = spell(tables, word, token)
                gain = gain_of(tables, word, letters + num_letters)
            if has_phrases:
                phrase = phrase_of(tables, phrase, token)
                if phrase >= 0:
                    if tables.phrases.new_n[phrase]:
                        gain = max(gain, tables.new_gain)
                    gain *= tables.phrases.gain_n[phrase]
            growth *= gain

            mass *= growth
            if mass < least or mass == 0.0:
                continue
            if mass > best:
                best = mass
                least = best * limits.prune
            candidates[count].row = row
            candidates[count].token = token
            candidates[count].word, candidates[count].state = word, state_after
            candidates[count].phrase = phrase
            candidates[count].mass, candidates[count].growth, candidates[count].score = mass, growth, score
            count += 1

    return count, best


@inlined
def _grow_unscored(tables: SearchTables, limits: Limits, work: Work, best: float) -> tuple[int, float]:
    """``_grow`` where there is neither a language model nor a list of words: a mass is a probability."""
    state = work.state[0]
    nodes = work.nodes
    candidates = work.candidates
    node_b, old_blank_b, old_token_b = work.node_2b[state.now], work.blank_2b[state.now], work.token_2b[state.now]
    merged_bk = work.merged_bk
    tokens_k = work.tokens_k
    prob_v = work.prob_v
    num_tokens = state.num_tokens
    delimiter = tables.delimiter
    prune = limits.prune
    count = 0
    least = best * prune

    for row in range(state.num_prefixes):
        last = nodes[node_b[row]].token
        blank = old_blank_b[row]
        total = blank + old_token_b[row]
        for k in range(num_tokens):
            token, merged = tokens_k[k], merged_bk[row * num_tokens + k]
            merged_bk[row * num_tokens + k] = False
            mass = (blank if token == last else total) * prob_v[token]
            if merged or mass < least or mass == 0.0 or (token == last and token == delimiter):
                continue
            if mass > best:
                best = mass
                least = best * prune
            candidates[count].row = row
            candidates[count].token = token
            candidates[count].mass = mass
            count += 1

    return count, best


@inlined
def _keep(tables: SearchTables, limits: Limits, work: Work, count: int, best: float) -> None:
    """Write the next beam: the best candidates in their order, ties to the earlier."""
    state = work.state[0]
    nodes = work.nodes
    candidates = work.candidates
    masses = work.masses
    node_b, next_b = work.node_2b[state.now], work.node_2b[1 - state.now]
    blank_b, token_b = work.blank_2b[1 - state.now], work.token_2b[1 - state.now]
    num_prefixes, scored = state.num_prefixes, has_scores(tables)

    # the least mass that is kept, and how many of exactly this mass are
    least = best * limits.prune
    alive = 0

    for row in range(num_prefixes):
        mass = blank_b[row] + token_b[row]
        masses[alive] = mass
        alive += mass >= least and mass > 0.0
        nodes[node_b[row]].slot = -1

    for c in range(count):
        masses[alive] = candidates[c].mass
        alive += candidates[c].mass >= least
    if alive > limits.beam_width and limits.recombine:
        alive = recombine(tables, work, count, least)
    ties = alive
    if alive > limits.beam_width:
        least, ties = least_kept(masses, work.mass_bits, work.buckets, alive, limits.beam_width, best)

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
        # The last can only be with masses that are no numbers: then nothing is written beyond the beam at least.
        if mass < least or mass == 0.0 or kept == limits.beam_width:
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
            n = state.num_nodes
            state.num_nodes += 1
            make_node(tables, work, n, parent, token)
            if scored:
                make_scores(tables, work, n, c)
        next_b[kept], blank_b[kept], token_b[kept] = n, 0.0, mass
        nodes[n].slot = kept
        kept += 1

    state.num_prefixes = kept
