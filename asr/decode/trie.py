"""The letter trie of the words that a beam search lists: those of a lexicon or a language model.

Axes: w words of a list, n nodes of the trie, e its edges.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.settings import BeamConfig
from asr.decode.types import Floats, Ints
from asr.errors import ConfigError
from asr.lm.model import advance_many

logger = logging.getLogger(__name__)


def letter_trie(
    letters: Sequence[str], config: BeamConfig, lm_words: Mapping[str, int] | None, known_words: Set[str] | None = None
) -> dict[str, Any]:
    """Return the letter trie of the lexicon, or else of the language model's words.

    Args:
        lm_words: the id of each word that the language model knows; None: there is no model of words.
        known_words: those of them that count as known; None: all.

    Raises:
        ConfigError: every word has letters that the tokenizer cannot write.
    """
    lm_ids = lm_words or {}
    if config.lexicon is not None:
        words = list(dict.fromkeys(config.lexicon))
        source = "lexicon"
    else:
        words = list(lm_ids)
        source = "language model"

    node_w, edge_keys, num_nodes = build_trie(words, letters)
    _report_unwritable(int((node_w < 0).sum()), words, source, letters)

    written = np.flatnonzero(node_w >= 0)
    ids_w = np.array([lm_ids.get(word, -2) for word in words], np.int32)
    word_n = np.full(num_nodes, -1, np.int32)
    word_n[node_w[written]] = ids_w[written]
    known_n = np.zeros(num_nodes, np.bool_)
    known_n[node_w[written]] = (ids_w[written] >= 0) | (lm_words is None)
    if known_words is not None:
        known_n[node_w[[i for i in written.tolist() if words[i] not in known_words]]] = False

    edge_letters_e, first_edge_n, edge_mask_n = edges_of(edge_keys, num_nodes, len(letters))
    return {
        "edge_letters_e": edge_letters_e,
        "first_edge_n": first_edge_n,
        "edge_mask_n": edge_mask_n,
        "word_n": word_n,
        "known_n": known_n,
    }


def edges_of(
    edge_keys: npt.NDArray[np.int64], num_nodes: int, num_letters: int
) -> tuple[Ints, Ints, npt.NDArray[np.uint64]]:
    """Return the letters of a trie's edges, the first edge of each node, and the letters of its edges as bits.

    There are no bits for more than 64 letters. Shapes: (e,), (n + 1,), (n,) or (0,).
    """
    num_letters = max(num_letters, 1)
    edge_letters_e = (edge_keys % num_letters).astype(np.int32)
    edge_mask_n = np.zeros(num_nodes if num_letters <= 64 else 0, np.uint64)
    if len(edge_mask_n):
        bits_e = np.left_shift(np.uint64(1), edge_letters_e.astype(np.uint64))
        np.bitwise_or.at(edge_mask_n, edge_keys // num_letters, bits_e)
    first_edge_n = np.searchsorted(edge_keys, np.arange(num_nodes + 1) * num_letters).astype(np.int32)
    return edge_letters_e, first_edge_n, edge_mask_n


def best_words(trie: Mapping[str, Any], lm_arrays: Any, unk_id: int) -> dict[str, Floats]:
    """Return the highest ln P without context of the words below each node: of known words, and of the others.

    Args:
        lm_arrays: of the language model; ``None``: there is no model of words, and all known words have 0.
    """
    word_n, known_n, first_edge_n = trie["word_n"], trie["known_n"], trie["first_edge_n"]
    if lm_arrays is None:
        return {"best_known_n": np.zeros(len(word_n)), "best_unknown_n": np.full(len(word_n), -np.inf)}
    ends = np.flatnonzero(word_n != -1)
    log_probs, _ = advance_many(lm_arrays, 0, np.where(word_n[ends] >= 0, word_n[ends], unk_id))
    best_2n = np.full((2, len(word_n)), -np.inf)
    best_2n[np.where(known_n[ends], 0, 1), ends] = log_probs

    # Breadth first: the nodes of a level follow each other, and so do all of their children, which are the next level.
    levels = [0, 1]
    while levels[-1] < len(word_n):
        levels.append(int(first_edge_n[levels[-1]]) + 1)
    for first, end, below in zip(levels[-3::-1], levels[-2::-1], levels[:1:-1], strict=False):
        parents = first + np.flatnonzero(np.diff(first_edge_n[first : end + 1]))
        children = first_edge_n[parents] + 1 - end
        below_2n = np.maximum.reduceat(best_2n[:, end:below], children, axis=1)
        best_2n[:, parents] = np.maximum(best_2n[:, parents], below_2n)
    return {"best_known_n": best_2n[0], "best_unknown_n": best_2n[1]}


def _report_unwritable(lost: int, words: Sequence[str], source: str, letters: Sequence[str]) -> None:
    """Log how many words have letters that the tokenizer cannot write; raise an error if all of them have."""
    if lost and lost == len(words):
        raise ConfigError(
            f"the tokenizer can write none of the {len(words)} words of the {source} (first: {words[0]!r}); "
            f"it writes {''.join(letters)!r}: is the case right?"
        )
    if lost:
        logger.info(
            "kept %d of %d words of the %s (%d have letters that the tokenizer cannot write)",
            len(words) - lost,
            len(words),
            source,
            lost,
        )


def build_trie(
    words: Sequence[str], letters: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return the node of each word (-1: it has other letters), the edges' keys, and the number of nodes.

    Node 0 is the root. A key is node x number of letters + letter; keys ascend.

    >>> nodes, keys, count = build_trie(["b", "ab", "c"], "ab")
    >>> nodes.tolist(), keys.tolist(), count
    ([2, 3, -1], [0, 1, 3], 4)
    """
    # All words as one array of characters: a language model has hundreds of thousands.
    codes = np.frombuffer("\n".join([*words, ""]).encode("utf-32-le"), np.uint32)
    alphabet = np.array([ord(c) for c in letters] or [0], np.uint32)
    ids = np.minimum(np.searchsorted(alphabet, codes), len(alphabet) - 1)
    ends_w = np.flatnonzero(codes == ord("\n"))
    starts_w = np.append(0, ends_w[:-1] + 1)[: len(ends_w)]
    foreign = np.append(0, np.cumsum((alphabet[ids] != codes) & (codes != ord("\n"))))
    usable = (foreign[ends_w] == foreign[starts_w]) if len(words) else np.zeros(0, np.bool_)
    lengths_w = np.where(usable, ends_w - starts_w, 0)

    # One level of the trie per round: the words that are long enough go on to the node of their next letter.
    node_w = np.zeros(len(words), np.int64)
    keys = [np.zeros(0, np.int64)]
    num_nodes = 1

    for level in range(int(lengths_w.max(initial=0))):
        active = np.flatnonzero(lengths_w > level)
        key = node_w[active] * len(alphabet) + ids[starts_w[active] + level]
        distinct, inverse = np.unique(key, return_inverse=True)
        node_w[active] = num_nodes + inverse
        keys.append(distinct)
        num_nodes += len(distinct)

    node_w[~usable] = -1
    return node_w, np.concatenate(keys), num_nodes
