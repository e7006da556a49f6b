"""Recombination: of prefixes with the same future only the best stays.

Axes: b prefixes in the beam, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.decode.compiled.memory import Work
from asr.decode.compiled.prefixes import has_scores
from asr.decode.tables import MOST_LETTERS, SearchTables
from asr.jit import inlined

_HASH, _OTHER_HASH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@inlined
def recombine(tables: SearchTables, work: Work, count: int, least: float) -> int:
    """Take their mass from all prefixes but the best of each future; return how many have one, and list theirs.

    Of equally good ones the earlier stays. A future is ``asr.decode.prefixes.Scorer.future`` in two numbers.
    """
    state = work.state[0]
    nodes = work.nodes
    scores = work.scores
    candidates = work.candidates
    masses = work.masses
    node_b = work.node_2b[state.now]
    blank_b, token_b = work.blank_2b[1 - state.now], work.token_2b[1 - state.now]
    opens_v, num_letters_v = tables.opens_v, tables.num_letters_v
    scored, has_phrases = has_scores(tables), tables.phrases.present
    num_prefixes = state.num_prefixes
    places, first, second = work.future_places, work.future_2[0], work.future_2[1]
    size = 4
    if scored:
        while size < 2 * (num_prefixes + count):
            size *= 2
        places[:size] = -1
    else:  # by the last token alone
        places[0] = -1
        for row in range(num_prefixes):
            places[nodes[node_b[row]].token + 1] = -1
        for k in range(state.num_tokens):
            places[work.tokens_k[k] + 1] = -1

    for i in range(num_prefixes + count):
        c = i - num_prefixes
        mass = candidates[c].mass if c >= 0 else blank_b[i] + token_b[i]
        if mass < least or mass == 0.0:
            continue

        n = node_b[i] if c < 0 else node_b[candidates[c].row]
        token = np.int64(nodes[n].token if token_b[i] > 0.0 else -1) if c < 0 else np.int64(candidates[c].token)
        place = token + 1
        if scored:
            word, lm_state = np.int64(nodes[n].word), np.int64(nodes[n].state)
            letters = np.int64(nodes[n].letters)
            if c >= 0:
                word, lm_state = np.int64(candidates[c].word), np.int64(candidates[c].state)
                letters = (np.int64(0) if opens_v[token] else letters) + num_letters_v[token]
            letters = min(letters, np.int64(MOST_LETTERS if word < 0 else 1))
            phrase: Any = np.int64(-1)
            if has_phrases:
                phrase = np.int64(scores[n].phrase) if c < 0 else np.int64(candidates[c].phrase)
            one, two = lm_state << 32 | (word + 1), (phrase + 1) << 32 | letters << 26 | (token + 1)
            hashed = (np.uint64(one) * _HASH) ^ (np.uint64(two) * _OTHER_HASH)
            place = np.int64(hashed >> np.uint64(32)) & (size - 1)
            while places[place] >= 0 and not (first[place] == one and second[place] == two):
                place = (place + 1) & (size - 1)
            first[place], second[place] = one, two

        other = places[place]
        loser = other
        if other >= 0:
            d = other - num_prefixes
            best = candidates[d].mass if d >= 0 else blank_b[other] + token_b[other]
            loser = i if mass <= best else other
        if loser != i:
            places[place] = i
        if loser >= num_prefixes:
            candidates[loser - num_prefixes].mass = 0.0
        elif loser >= 0:
            blank_b[loser] = token_b[loser] = 0.0

    alive = 0
    for row in range(num_prefixes):
        masses[alive] = blank_b[row] + token_b[row]
        alive += masses[alive] >= least and masses[alive] > 0.0
    for c in range(count):
        masses[alive] = candidates[c].mass
        alive += candidates[c].mass >= least and candidates[c].mass > 0.0
    return alive
