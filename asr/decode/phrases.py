"""Hotwords, words or phrases, as an automaton over letters that a beam search follows beside its words.

A node is a beginning of a hotword; the space between two words of a phrase is one of its letters. A prefix of the
search is at the node of the longest beginning of a hotword that its text ends with and that begins where a word begins;
-1: there is none before the next word. Where a text goes on otherwise than the hotword, the search falls back to the
next shorter such beginning, so overlapping hotwords are found, too.

Axes: p hotwords, n nodes, e edges.

Source: Aho & Corasick 1975, "Efficient string matching: an aid to bibliographic search".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.decode.trie import build_trie, edges_of
from asr.decode.types import Flags, Floats, Ints
from asr.errors import ConfigError

logger = logging.getLogger(__name__)

#: stands for the space, behind all letters
_SPACE = "\U0010ffff"


class Phrases(NamedTuple):
    """The automaton of the hotwords; numba takes it as it is. Node 0 is the beginning of any."""

    #: whether there are any
    present: bool
    #: the letter id of the space
    space: int
    #: edges as in ``SearchTables``
    edge_letters_e: Ints
    first_edge_n: Ints
    edge_mask_n: npt.NDArray[np.uint64]
    #: the node of the next shorter beginning that a node's text ends with; -1: none
    shorter_n: Ints
    #: what a text gains that has a node's last word as its last
    bonus_n: Floats
    #: what an open hotword is worth so far, and e to it
    hope_n: Floats
    gain_n: Floats
    #: whether a node's last word counts as known once it is complete
    known_n: Flags
    #: whether a node's open word may become one of a hotword that the language model does not know
    new_n: Flags


def no_phrases() -> Phrases:
    """Return the automaton of no hotwords."""
    zeros = np.zeros(1)
    flags = np.zeros(1, np.bool_)
    return Phrases(
        present=False,
        space=0,
        edge_letters_e=np.zeros(0, np.int32),
        first_edge_n=np.zeros(2, np.int32),
        edge_mask_n=np.zeros(1, np.uint64),
        shorter_n=np.full(1, -1, np.int32),
        bonus_n=zeros,
        hope_n=zeros,
        gain_n=np.ones(1),
        known_n=flags,
        new_n=flags,
    )


def build_phrases(letters: Sequence[str], hotwords: Mapping[str, float], lm_words: Set[str] | None) -> Phrases:
    """Make the automaton of hotwords with their weights.

    A hotword's worth is its share of letters until it is complete, so that it is not pruned before; of several hotwords
    that begin so, the most. What a text gains is the sum over all hotwords in it, overlapping or not.

    Args:
        letters: what the tokenizer writes, sorted, without the space.
        lm_words: the words of the language model; ``None``: there is no model of words.

    Raises:
        ConfigError: a hotword has a letter that the tokenizer cannot write.
    """
    if not hotwords:
        return no_phrases()
    check_writable(letters, hotwords)
    alphabet = [*letters, _SPACE]
    space = len(letters)

    # Each word of a phrase by itself, too: it counts as known wherever it stands.
    words = {word for phrase in hotwords for word in phrase.split(" ")}
    texts = list(dict.fromkeys([*hotwords, *words]))
    node_t, edge_keys, num_nodes = build_trie([text.replace(" ", _SPACE) for text in texts], alphabet)
    parent_n = np.append(-1, edge_keys // len(alphabet))
    letter_n = np.append(-1, edge_keys % len(alphabet))
    levels = _levels(parent_n)
    depth_n = np.repeat(np.arange(len(levels)), np.array([level.stop - level.start for level in levels]))

    shorter_n = _shorter(parent_n, letter_n, levels, edge_keys, len(alphabet))
    node_p, weight_p = node_t[: len(hotwords)], np.array(list(hotwords.values()), np.float64)
    bonus_n = np.zeros(num_nodes)
    bonus_n[node_p] = weight_p
    known_n = np.zeros(num_nodes, np.bool_)
    known_n[node_t] = True
    new_n = np.zeros(num_nodes, np.bool_)
    if lm_words is not None:
        new_n[node_t[[i for i, text in enumerate(texts) if text in words and text not in lm_words]]] = True
    hope_n = _hopes(node_p, weight_p, parent_n, depth_n)
    _pass_up(new_n, parent_n)

    # What is true of the next shorter beginning is true of a node. Shorter ones are nearer to the root.
    for level in levels:
        here = level.start + np.flatnonzero(shorter_n[level] >= 0)
        shorter = shorter_n[here]
        bonus_n[here] += bonus_n[shorter]
        known_n[here] |= known_n[shorter]
        new_n[here] |= new_n[shorter]
        hope_n[here] = np.maximum(hope_n[here], hope_n[shorter])

    edge_letters_e, first_edge_n, edge_mask_n = edges_of(edge_keys, num_nodes, len(alphabet))
    return Phrases(
        present=True,
        space=space,
        edge_letters_e=edge_letters_e,
        first_edge_n=first_edge_n,
        edge_mask_n=edge_mask_n,
        shorter_n=shorter_n.astype(np.int32),
        bonus_n=bonus_n,
        hope_n=hope_n,
        gain_n=np.exp(hope_n),
        known_n=known_n,
        new_n=new_n,
    )


def check_writable(letters: Sequence[str], hotwords: Mapping[str, float]) -> None:
    """Refuse hotwords with letters that the tokenizer cannot write.

    Raises:
        ConfigError: there is one.
    """
    known = {*letters, " "}
    for hotword in hotwords:
        unknown = sorted(set(hotword) - known)
        if unknown:
            raise ConfigError(f"hotword {hotword!r}: the tokenizer cannot write {unknown[0]!r}", key="hotwords")


def _levels(parent_n: npt.NDArray[np.int64]) -> list[slice]:
    """Return the nodes of each number of letters, which follow each other."""
    levels = [slice(0, 1)]
    while levels[-1].stop < len(parent_n):
        levels.append(slice(levels[-1].stop, int(np.searchsorted(parent_n, levels[-1].stop))))
    return levels


def _shorter(
    parent_n: npt.NDArray[np.int64],
    letter_n: npt.NDArray[np.int64],
    levels: Sequence[slice],
    edge_keys: npt.NDArray[np.int64],
    num_letters: int,
) -> npt.NDArray[np.int64]:
    """Return the node of the next shorter beginning of each node, -1 where there is none."""
    space = num_letters - 1
    shorter_n = np.full(len(parent_n), -1, np.int64)

    for level in levels[2:]:
        nodes = np.arange(level.start, level.stop)
        from_n = shorter_n[parent_n[nodes]]
        while len(nodes):
            # Where nothing is left, only a new word begins again.
            lost = from_n < 0
            shorter_n[nodes[lost & (letter_n[nodes] == space)]] = 0
            nodes, from_n = nodes[~lost], from_n[~lost]
            key = from_n * num_letters + letter_n[nodes]
            edge = np.minimum(np.searchsorted(edge_keys, key), len(edge_keys) - 1)
            found = edge_keys[edge] == key
            shorter_n[nodes[found]] = edge[found] + 1
            nodes, from_n = nodes[~found], shorter_n[from_n[~found]]

    return shorter_n


def _hopes(
    node_p: npt.NDArray[np.int64],
    weight_p: Floats,
    parent_n: npt.NDArray[np.int64],
    depth_n: npt.NDArray[np.int64],
) -> Floats:
    """Return the most that a hotword which begins with a node is worth there: its share of letters. Shapes: (n,)."""
    hope_n = np.zeros(len(parent_n))
    letters_p = depth_n[node_p]
    nodes = node_p.copy()
    while len(nodes):
        np.maximum.at(hope_n, nodes, weight_p * depth_n[nodes] / letters_p)
        nodes = parent_n[nodes]
        left = nodes > 0
        nodes, weight_p, letters_p = nodes[left], weight_p[left], letters_p[left]
    return hope_n


def _pass_up(new_n: Flags, parent_n: npt.NDArray[np.int64]) -> None:
    """Note at all beginnings of words what was noted at their ends."""
    nodes = np.flatnonzero(new_n)
    while len(nodes):
        nodes = np.unique(parent_n[nodes])
        nodes = nodes[nodes > 0]
        new_n[nodes] = True
