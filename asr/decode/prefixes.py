"""The prefixes that a beam search in numpy has met: what they are made of, and what scores say of them.

All prefixes are one tree, each the child of the one without its last token. Nothing here knows of probabilities of
sounds, nor of the beam.

Axes: b prefixes, c prefixes that may come into the beam, v vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.tables import NO_FUSION, TOKEN_FUSION, WORD_FUSION, Floats, Ints, SearchTables
from asr.lm.model import advance_many

#: a prefix that is or was in the beam: a node of the prefix tree
NODE = np.dtype(
    [
        ("parent", np.int32),  # the prefix without its last token; -1: this is the empty one
        ("child", np.int32),  # the newest prefix that is this one and one more token, else -1
        ("sibling", np.int32),  # the child of the same parent made before this one, else -1
        ("last", np.int32),  # its last token; at the start the delimiter, as nothing else may follow for free
        ("word", np.int32),  # the open word: node of the letter trie, 0 none, -1 no listed word begins so
        ("letters", np.int32),  # letters of the open word
        ("state", np.int32),  # the language model's state
        ("end_state", np.int32),  # the same with the open word complete, where end_score is known
        ("row", np.int32),  # its place in the beam while that is asked for, else -1
        ("growth", np.float64),  # the factor by which scores changed the mass from the parent's to this prefix
        ("fusion", np.float64),  # score of all that is complete
        ("look", np.float64),  # score of the open word for the time being
        ("end_score", np.float64),  # score of the open word as complete; not a number: not asked yet
    ],
    align=True,
)
Nodes = npt.NDArray[np.void]
Places = npt.NDArray[np.int64]


class PrefixTree:
    """Prefixes by number, from the first ``roots`` on, which are empty."""

    def __init__(self, tables: SearchTables, roots: int) -> None:
        self.tables = tables
        start = (-1, -1, -1, tables.delimiter, 0, 0, tables.begin_state, 0, -1, 1.0, 0.0, 0.0, math.nan)
        self.nodes: Nodes = np.array([start] * roots, NODE)  # and room for more
        self.num_nodes = roots
        self._edge_keys = np.append(tables.edge_keys_e, np.iinfo(np.int64).max)

    def rows_of_parents(self, node_b: Places) -> Ints:
        """Where among some prefixes each one's parent is, -1 where it is not."""
        parent_b = self.nodes["parent"][node_b]
        self.nodes["row"][node_b] = np.arange(len(node_b))
        row_b = np.where(parent_b >= 0, self.nodes["row"][parent_b], -1)
        self.nodes["row"][node_b] = -1
        return row_b

    def grow(self, node_c: Places, token_c: Ints) -> Nodes:
        """Prefixes with one more token each: words, states and scores."""
        tables = self.tables
        grown = self.nodes.take(node_c)  # many times as fast as nodes[node_c]
        change_c = np.zeros(len(token_c))
        opens_c = tables.opens_v[token_c]
        ends = np.flatnonzero(opens_c & (grown["letters"] > 0))
        change_c[ends], grown["state"][ends] = self._word_ends(node_c[ends])
        grown["word"][opens_c] = 0
        grown["letters"][opens_c] = 0
        grown["letters"] += tables.num_letters_v[token_c]
        if tables.fusion == TOKEN_FUSION:
            score_c, grown["state"] = self._token_scores(grown["state"], token_c)
            change_c += score_c
        grown["fusion"] += change_c
        if tables.listed:
            grown["word"] = self._spelled(grown["word"], token_c)
            change_c -= grown["look"]
            grown["look"] = self._look(grown["word"], grown["letters"])
            change_c += grown["look"]
        grown["growth"] = np.exp(change_c)
        grown["parent"] = node_c
        grown["last"] = token_c
        grown["child"] = -1
        grown["end_score"] = math.nan
        return grown

    def _spelled(self, word_c: Ints, token_c: Ints) -> Ints:
        """The letter trie's nodes after the letters of a token, -1 where no listed word goes on so."""
        word_c = word_c.copy()
        for letter_v in self.tables.letters_vl.T:
            letter_c = letter_v[token_c]
            on = np.flatnonzero((letter_c >= 0) & (word_c >= 0))
            key = word_c[on].astype(np.int64) * self.tables.num_letters + letter_c[on]
            edge = np.searchsorted(self._edge_keys, key)
            word_c[on] = np.where(self._edge_keys[edge] == key, edge + 1, -1)
        return word_c

    def _look(self, word_c: Ints, letters_c: Ints) -> Floats:
        """The score of open words for the time being: hope for a hotword, or the price of an unknown word so far."""
        return np.where(word_c >= 0, self.tables.look_n[word_c], self.tables.off * self._lengths(letters_c))

    def _lengths(self, letters_c: Ints) -> Floats:
        """How many times the price of an unknown word is paid."""
        return np.maximum(1.0, letters_c / self.tables.unknown_letters)

    def _word_ends(self, node_c: Places) -> tuple[Floats, Ints]:
        """The scores of open words as complete, and the language model's states after them; asked once a prefix."""
        asked = node_c[np.isnan(self.nodes["end_score"][node_c])]
        if len(asked):
            tables, prefix = self.tables, self.nodes.take(asked)
            word, state = prefix["word"], prefix["state"]
            lm_word = np.where(word > 0, tables.word_n[word], -1)
            score = np.where(word > 0, tables.bonus_n[word], 0.0)
            if tables.fusion == WORD_FUSION:
                log_prob, state = self._lm(state, lm_word)
                score += tables.alpha * log_prob + tables.beta
                unknown = (word <= 0) | ~tables.known_n[word]
                score += np.where(unknown, tables.unknown * self._lengths(prefix["letters"]), 0.0)
            if tables.closed:
                score[lm_word == -1] = -math.inf
            self.nodes["end_score"][asked], self.nodes["end_state"][asked] = score, state
        return self.nodes["end_score"][node_c], self.nodes["end_state"][node_c]

    def _token_scores(self, state_c: Ints, token_c: Ints) -> tuple[Floats, Any]:
        """The same for tokens, where the language model is one of tokens."""
        lm_word_c = self.tables.lm_token_v[token_c]
        log_prob_c, after_c = self._lm(state_c, lm_word_c)
        unknown_c = np.where(lm_word_c < 0, self.tables.unknown, 0.0)
        return self.tables.alpha * log_prob_c + self.tables.beta + unknown_c, after_c

    def _lm(self, state_c: Ints, lm_word_c: Ints) -> tuple[Floats, Any]:
        return advance_many(self.tables.lm, state_c, np.where(lm_word_c >= 0, lm_word_c, self.tables.unk_id))

    def add(self, grown: Nodes) -> Places:
        """Puts new prefixes into the tree: their nodes. One that was in the beam before has its old one."""
        parent_c, last_c = grown["parent"].astype(np.int64), grown["last"]
        node_c = self.nodes["child"][parent_c].astype(np.int64)
        seek = np.arange(len(grown))
        while len(seek := seek[node_c[seek] >= 0]):  # one child on wherever it is another one
            seek = seek[self.nodes["last"][node_c[seek]] != last_c[seek]]
            node_c[seek] = self.nodes["sibling"][node_c[seek]]
        new = np.flatnonzero(node_c < 0)
        first, self.num_nodes = self.num_nodes, self.num_nodes + len(new)
        if self.num_nodes > len(self.nodes):
            self.nodes = np.concatenate([self.nodes, np.empty(max(self.num_nodes, 1024), NODE)])
        node_c[new] = np.arange(first, self.num_nodes)
        # children of one parent come one after the other
        after_sibling = np.append(False, np.diff(parent_c[new]) == 0)[: len(new)]
        grown["sibling"][new] = np.where(after_sibling, node_c[new] - 1, self.nodes["child"][parent_c[new]])
        np.take(grown, new, out=self.nodes[first : self.num_nodes], mode="clip")
        self.nodes["child"][parent_c[new]] = node_c[new]  # what is assigned last stays
        return node_c

    def tokens_of(self, node: int) -> list[int]:
        """The tokens of a prefix, in order."""
        parents, lasts, tokens = self.nodes["parent"], self.nodes["last"], []
        while parents[node] >= 0:
            tokens.append(int(lasts[node]))
            node = int(parents[node])
        return tokens[::-1]

    def end(self, node_b: Places) -> tuple[Places, Floats]:
        """Prefixes without a space at their end, and their scores with the open word and the sentence ended."""
        tables, nodes = self.tables, self.nodes
        node_b, prefix_b = node_b.copy(), nodes.take(node_b)
        state_b, score_b = prefix_b["state"], prefix_b["fusion"]
        opened = np.flatnonzero(prefix_b["letters"] > 0)
        end, after = self._word_ends(node_b[opened])
        score_b[opened] += end
        if tables.fusion == WORD_FUSION:
            state_b[opened] = after
        spaced = np.flatnonzero((prefix_b["parent"] >= 0) & (prefix_b["last"] == tables.delimiter))
        node_b[spaced] = prefix_b["parent"][spaced]
        if tables.fusion == TOKEN_FUSION:  # the space that does not count was scored
            state_b[spaced] = nodes["state"][node_b[spaced]]
            score_b[spaced] -= self._token_scores(state_b[spaced], prefix_b["last"][spaced])[0]
        return node_b, score_b + self._sentence_ends(state_b)

    def cut(self, node_b: Places) -> tuple[Places, Floats]:
        """Prefixes without their open words, and their scores."""
        parents, lasts = self.nodes["parent"], self.nodes["last"]
        cut_b = node_b.copy()
        while len(inside := np.flatnonzero((parents[cut_b] >= 0) & ~self.tables.opens_v[lasts[cut_b]])):
            cut_b[inside] = parents[cut_b[inside]]
        cut_b = np.where(parents[cut_b] >= 0, parents[cut_b], cut_b)
        if self.tables.fusion == TOKEN_FUSION:  # the tokens that are cut off were scored
            return self.end(cut_b)
        return cut_b, self.nodes["fusion"][node_b] + self._sentence_ends(self.nodes["state"][node_b])

    def _sentence_ends(self, state_b: Ints) -> Floats:
        if self.tables.fusion == NO_FUSION:
            return np.zeros(len(state_b))
        return self.tables.alpha * advance_many(self.tables.lm, state_b, self.tables.end_id)[0]
