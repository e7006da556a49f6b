"""What the compiled search asks of a prefix: its scores (``asr.decode.beam`` defines them), and its node.

Functions that run for every candidate take their arrays one by one and are put into their callers: taking an array out
of a tuple counts a reference, which costs more than the look-up.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.decode.tables import WORD_FUSION, SearchTables
from asr.decode.types import Flags, Floats, Ints, LogProbs, Longs
from asr.jit import compiled, inlined
from asr.lm.compiled.ngram import advance

Masks = npt.NDArray[np.uint64]

#: a prefix (``asr.decode.beam.Beam``); ``slot`` is its place in the beam, -1 outside
NODE = np.dtype(
    [(name, np.int32) for name in ("parent", "token", "child", "sibling", "slot", "word", "letters", "state")]
)
#: the scores of a prefix, which nobody touches when there are none; ``end_score`` (not a number: not asked yet),
#: ``end_growth`` and ``end_state`` are for its open word as complete
SCORES = np.dtype(
    [(name, np.float64) for name in ("fusion", "look", "growth", "end_score", "end_growth")]
    + [("end_state", np.int32), ("unused", np.int32)]
)


CANDIDATE = np.dtype(
    [(name, np.int32) for name in ("row", "token", "word", "unused")]
    + [(name, np.float64) for name in ("mass", "growth")]
)
#: places in ``Work.counts`` and in ``Work.scales``
NODES, PREFIXES, NOW = 0, 1, 2
LOG_SCALE, SCALE = 0, 1


class Work(NamedTuple):
    """The memory of one search; arrays with a leading 2 are the beam and the next one's, by turns."""

    nodes: Any
    scores: Any
    node_2b: Ints
    blank_2b: Floats
    token_2b: Floats
    candidates: Any
    masses: Floats
    buckets: Longs
    merged_bk: Flags
    tokens_k: Ints
    place_v: Ints
    chosen_v: Floats
    fall_l: Floats
    counts: Longs
    scales: Floats
    #: several utterances one after the other
    rows_sv: LogProbs


class Weights(NamedTuple):
    """The numbers of ``SearchTables``: a tuple without arrays costs nothing to hand on."""

    closed: bool
    fusion: int
    alpha: float
    beta: float
    unknown: float
    unknown_letters: float
    end_id: int
    unk_id: int
    delimiter: int


@compiled
def only_blank(log_probs_v: LogProbs, floor: float) -> bool:
    """Whether token pruning leaves nothing but the blank."""
    least, blank = np.float32(floor), log_probs_v[0]
    others = 0
    for token in range(1, len(log_probs_v)):  # to the end: without a way out, several are compared at once
        others += (log_probs_v[token] >= least) | (log_probs_v[token] > blank)
    return others == 0


@compiled
def best_token(log_probs_v: LogProbs, floor: float) -> int:
    """The most probable token where all may be below the floor, else -1: it is above the floor itself."""
    if floor < -math.log(len(log_probs_v)) - 0.01:  # probabilities of a row sum to 1 within a thousandth
        return -1
    best = 0
    for token in range(1, len(log_probs_v)):
        if log_probs_v[token] > log_probs_v[best]:
            best = token
    return best


@compiled
def _count_bits(bits: np.uint64) -> np.int64:
    """How many bits are set.

    Source: Warren, Hacker's Delight, section 5-1; compilers know it and use the processor's instruction.
    """
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@inlined
def spell(
    letters_vl: Ints,
    first_edge_n: Ints,
    edge_letters_e: Ints,
    edge_mask_n: Masks,
    word: int,
    token: int,
    num_letters: int,
) -> int:  # fmt: skip
    """The letter trie's node after a token's letters, -1 where no listed word goes on so."""
    for place in range(num_letters):
        if word < 0:
            continue
        letter = letters_vl[token, place]
        if len(edge_mask_n) > 0:  # a letter is a bit: no search
            bit = np.uint64(1) << np.uint64(letter)
            mask = edge_mask_n[word]
            word = first_edge_n[word] + 1 + _count_bits(mask & (bit - np.uint64(1))) if mask & bit else -1
        else:
            low, end = first_edge_n[word], first_edge_n[word + 1]
            high = end
            while low < high:
                middle = (low + high) >> 1
                if edge_letters_e[middle] < letter:
                    low = middle + 1
                else:
                    high = middle
            word = low + 1 if low < end and edge_letters_e[low] == letter else -1
    return word


@inlined
def look_of(look_n: Floats, off: float, unknown_letters: float, word: int, letters: int) -> float:
    """The score of an open word for the time being."""
    return look_n[word] if word >= 0 else off * max(1.0, letters / unknown_letters)


@inlined
def weights_of(tables: SearchTables) -> Weights:
    return Weights(
        tables.closed, tables.fusion, tables.alpha, tables.beta, tables.unknown, tables.unknown_letters, tables.end_id,
        tables.unk_id, tables.delimiter,
    )  # fmt: skip


@compiled
def end_word(
    weights: Weights, lm: Any, word_n: Ints, known_n: Flags, bonus_n: Floats, nodes: Any, scores: Any, n: int
) -> None:
    """Notes at a prefix what its open word is worth as complete."""
    word, state = nodes[n].word, np.int64(nodes[n].state)
    lm_word = word_n[word] if word > 0 else -1
    score = bonus_n[word] if word > 0 else 0.0
    if weights.closed and lm_word == -1:
        score = -math.inf
    elif weights.fusion == WORD_FUSION:
        log_prob, state = advance(lm, state, np.int64(lm_word if lm_word >= 0 else weights.unk_id))
        score += weights.alpha * log_prob + weights.beta
        if word <= 0 or not known_n[word]:
            score += weights.unknown * max(1.0, nodes[n].letters / weights.unknown_letters)
    scores[n].end_score = score
    scores[n].end_state = state
    scores[n].end_growth = math.exp(score - scores[n].look)


@compiled
def score_token(weights: Weights, lm: Any, lm_token_v: Ints, state: int, token: int) -> tuple[float, int]:
    """What a token adds where the language model is one of tokens, and the state after it."""
    lm_word = lm_token_v[token]
    log_prob, after = advance(lm, np.int64(state), np.int64(lm_word if lm_word >= 0 else weights.unk_id))
    return weights.alpha * log_prob + weights.beta + (weights.unknown if lm_word < 0 else 0.0), after


@inlined
def make_node(nodes: Any, n: int, parent: int, token: int, opens: bool, num_letters: int, word: int) -> None:
    """Fills in the node of a new prefix and hangs it under its parent."""
    nodes[n].parent, nodes[n].token, nodes[n].child = parent, token, -1
    nodes[n].sibling = nodes[parent].child
    nodes[parent].child = n
    nodes[n].word, nodes[n].state = word, nodes[parent].state
    nodes[n].letters = num_letters if opens else nodes[parent].letters + num_letters


@inlined
def make_scores(nodes: Any, scores: Any, n: int, parent: int, opens: bool) -> None:
    """The scores and the state that a new prefix has from its parent; ``look`` and ``growth`` are the caller's."""
    scores[n].fusion, scores[n].end_score = scores[parent].fusion, math.nan
    if opens and nodes[parent].letters > 0:
        nodes[n].state = scores[parent].end_state
        scores[n].fusion = scores[parent].fusion + scores[parent].end_score
