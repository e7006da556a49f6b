"""``asr.decode.prefixes``, compiled: the prefixes as nodes of a tree, and their scores.

Functions that run for every candidate are put into their callers: handing on a tuple of arrays costs more than what
they do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.compiled.memory import Work
from asr.decode.phrases import Phrases
from asr.decode.tables import MOST_LETTERS, NO_FUSION, TOKEN_FUSION, WORD_FUSION, SearchTables
from asr.decode.types import Ints
from asr.jit import compiled, inlined
from asr.lm.compiled.ngram import advance


@compiled
def begin(tables: SearchTables, work: Work) -> None:
    """Put the empty prefix, and nothing else, into the beam."""
    root = work.nodes[0]
    root.parent = -1
    root.token = tables.delimiter
    root.child = -1
    root.sibling = -1
    root.slot = 0
    root.word = 0
    root.letters = 0
    root.state = tables.begin_state
    scores = work.scores[0]
    scores.score = 0.0
    scores.look = 0.0
    scores.gain = 1.0
    scores.growth = 1.0
    scores.end_score = np.nan
    scores.phrase = 0
    work.node_2b[0, 0] = 0
    work.blank_2b[0, 0] = 1.0
    work.token_2b[0, 0] = 0.0
    state = work.state[0]
    state.num_nodes = 1
    state.num_prefixes = 1
    state.now = 0
    state.log_scale, state.scale = 0.0, 1.0


@inlined
def has_scores(tables: SearchTables) -> bool:
    """Return true if prefixes have scores: there is a list of words, a language model or a hotword."""
    return tables.listed or tables.fusion != NO_FUSION or tables.phrases.present


@compiled
def _count_bits(bits: np.uint64) -> np.int64:
    """Return how many bits are set.

    Source: Warren, Hacker's Delight, section 5-1; compilers know it and use the processor's instruction.
    """
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@inlined
def spell(tables: SearchTables, word: int, token: int) -> int:
    """Return the letter trie's node after a token's letters, -1 where no listed word begins so."""
    for place in range(tables.num_letters_v[token]):
        if word < 0:
            continue
        letter = tables.letters_vl[token, place]
        word = below(tables.edge_letters_e, tables.first_edge_n, tables.edge_mask_n, word, letter)

    return word


@inlined
def below(edge_letters_e: Ints, first_edge_n: Ints, edge_mask_n: npt.NDArray[np.uint64], node: Any, letter: Any) -> Any:
    """Return the node of a trie one letter further, -1 where there is none."""
    if len(edge_mask_n) > 0:  # a letter is a bit: no search
        bit = np.uint64(1) << np.uint64(letter)
        mask = edge_mask_n[node]
        further = first_edge_n[node] + 1 + _count_bits(mask & (bit - np.uint64(1))) if mask & bit else -1
    else:
        low, end = first_edge_n[node], first_edge_n[node + 1]
        high = end
        while low < high:
            middle = (low + high) >> 1
            if edge_letters_e[middle] < letter:
                low = middle + 1
            else:
                high = middle
        further = low + 1 if low < end and edge_letters_e[low] == letter else -1
    return further


@inlined
def phrase_after(phrases: Phrases, phrase: int, letter: int) -> Any:
    """Return the longest beginning of a hotword after one more letter, -1 where there is none."""
    further: Any = np.int64(-1)
    node: Any = np.int64(phrase)
    while node >= 0 and further < 0:
        further = np.int64(
            below(phrases.edge_letters_e, phrases.first_edge_n, phrases.edge_mask_n, node, np.int64(letter))
        )
        node = np.int64(phrases.shorter_n[node])
    if further < 0 and letter == phrases.space:
        further = np.int64(0)
    return further


@inlined
def phrase_of(tables: SearchTables, phrase: int, token: int) -> Any:
    """Return the longest beginning of a hotword after a token's letters, -1 where there is none."""
    node: Any = np.int64(phrase)
    for place in range(tables.num_letters_v[token]):
        if node >= 0:  # a token's letters hold no space
            node = phrase_after(tables.phrases, node, tables.letters_vl[token, place])
    return node


@inlined
def look_of(tables: SearchTables, word: int, letters: int) -> float:
    """Return the score of an open word for the time being."""
    return float(tables.look_n[word] if word >= 0 else tables.off_look_l[min(letters, MOST_LETTERS)])


@inlined
def gain_of(tables: SearchTables, word: int, letters: int) -> float:
    """Return e to the score of an open word for the time being."""
    return float(tables.gain_n[word] if word >= 0 else tables.off_gain_l[min(letters, MOST_LETTERS)])


@inlined
def end_word(tables: SearchTables, work: Work, n: int) -> None:
    """Note at a prefix, once, what its open word is worth as complete."""
    if math.isnan(work.scores[n].end_score):
        word, state = work.nodes[n].word, np.int64(work.nodes[n].state)
        lm_word = tables.word_n[word] if word > 0 else -1
        score, known = 0.0, word > 0 and tables.known_n[word]
        if tables.phrases.present:
            phrase = work.scores[n].phrase
            if phrase >= 0:
                score = tables.phrases.bonus_n[phrase]
                known = known or tables.phrases.known_n[phrase]
            work.scores[n].end_phrase = phrase_after(tables.phrases, phrase, tables.phrases.space)
        if tables.closed and lm_word == -1:
            score = -math.inf
        elif tables.fusion == WORD_FUSION:
            log_prob, state = advance(tables.lm, state, np.int64(lm_word if lm_word >= 0 else tables.unk_id))
            score += tables.alpha * log_prob + tables.beta
            if not known:
                score += tables.unknown
        work.scores[n].end_score = score
        work.scores[n].end_state = state
        work.scores[n].end_growth = math.exp(score - work.scores[n].look)


@inlined
def score_token(tables: SearchTables, state: int, token: int) -> tuple[float, int]:
    """Return what a token adds where the language model is one of tokens, and the state after it."""
    lm_word = tables.lm_token_v[token]
    log_prob, after = advance(tables.lm, np.int64(state), np.int64(lm_word if lm_word >= 0 else tables.unk_id))
    unknown = tables.unknown if lm_word < 0 else 0.0
    return tables.alpha * log_prob + tables.beta + unknown, after


@inlined
def make_node(tables: SearchTables, work: Work, n: int, parent: int, token: int) -> None:
    """Fill in the node of a new prefix, and hang it under its parent."""
    nodes = work.nodes
    num_letters = tables.num_letters_v[token]
    nodes[n].parent = parent
    nodes[n].token = token
    nodes[n].child = -1
    nodes[n].sibling = nodes[parent].child
    nodes[parent].child = n
    nodes[n].letters = num_letters if tables.opens_v[token] else nodes[parent].letters + num_letters


@inlined
def make_scores(tables: SearchTables, work: Work, n: int, c: int) -> None:
    """Fill in what a new prefix takes from its candidate: its open word, the language model's state, its scores."""
    nodes, scores, candidates = work.nodes, work.scores, work.candidates
    nodes[n].word, nodes[n].state = candidates[c].word, candidates[c].state
    scores[n].score, scores[n].growth = candidates[c].score, candidates[c].growth
    scores[n].end_score = math.nan
    scores[n].look, scores[n].gain = 0.0, 1.0
    if tables.listed:
        scores[n].look = look_of(tables, nodes[n].word, nodes[n].letters)
        scores[n].gain = gain_of(tables, nodes[n].word, nodes[n].letters)
    if tables.phrases.present:
        phrase = candidates[c].phrase
        scores[n].phrase = phrase
        if phrase >= 0:
            if tables.phrases.new_n[phrase] and scores[n].look < tables.new_look:
                scores[n].look, scores[n].gain = tables.new_look, tables.new_gain
            scores[n].look += tables.phrases.hope_n[phrase]
            scores[n].gain *= tables.phrases.gain_n[phrase]


@compiled
def tokens_of(nodes: Any, node: int) -> Ints:
    """Return the tokens of a prefix, in order."""
    count = 0
    n = node
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
def finish(tables: SearchTables, work: Work, n: int) -> tuple[int, float]:
    """Return a prefix without a space at its end, and its score with the open word and the sentence complete."""
    nodes, scores = work.nodes, work.scores
    if not has_scores(tables):
        node = nodes[n].parent if n != 0 and nodes[n].token == tables.delimiter else n
        return node, 0.0

    score = scores[n].score
    state = nodes[n].state
    node = n
    if nodes[n].letters > 0:
        end_word(tables, work, n)
        score += scores[n].end_score
        if tables.fusion == WORD_FUSION:
            state = scores[n].end_state
    if n != 0 and nodes[n].token == tables.delimiter:
        node = nodes[n].parent
        if tables.fusion == TOKEN_FUSION:  # the space that does not count was scored
            state = nodes[node].state
            space, _ = score_token(tables, state, tables.delimiter)
            score -= space

    return node, score + _sentence_end(tables, state)


@compiled
def without_open_word(tables: SearchTables, work: Work, n: int) -> tuple[int, float]:
    """Return a prefix without its open word, and its score with the sentence complete."""
    nodes, node = work.nodes, n
    while node != 0 and not tables.opens_v[nodes[node].token]:
        node = nodes[node].parent
    if node != 0:
        node = nodes[node].parent
    if tables.fusion == TOKEN_FUSION:  # the tokens that are left out were scored
        return finish(tables, work, node)
    return node, work.scores[n].score + _sentence_end(tables, nodes[n].state)


@inlined
def _sentence_end(tables: SearchTables, state: int) -> float:
    log_prob = 0.0
    if tables.fusion != NO_FUSION:
        log_prob, _ = advance(tables.lm, np.int64(state), np.int64(tables.end_id))
    return tables.alpha * log_prob
