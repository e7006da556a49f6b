"""CTC prefix beam search in plain numpy: the definition that the compiled search is held against.

A prefix is a token sequence so far. Its mass is the probability of all paths that write it, kept in two parts: paths
that end in a blank, and paths that end in its last token. Each step every prefix stays (blank, or its last token
repeated) or grows by a token; what reaches the same prefix is added; the best prefixes are kept. The language model's
factor is part of the mass, so that one number ranks a prefix. A space after a space (or at the start) changes nothing:
texts differ by their words.

Axes: s steps, v vocabulary, b prefixes in the beam, c candidates, k tokens possible in a step.

Source: Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs", algorithm 1 (prefix beam search with a language model at word ends).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decode.settings import BeamConfig
from asr.decode.tables import NO_FUSION, TOKEN_FUSION, WORD_FUSION, Floats, Ints, SearchTables
from asr.decode.types import LogProbs, Span
from asr.decode.viterbi import spans_of
from asr.tokenizer import BLANK_ID

ROOT = 0
Advance = Callable[[int, int], tuple[float, int]]
#: a text in the beam: its prefix, acoustic log-probability, score of everything else, and the prefix to align, which is
#: longer where an open word was left out
Final = tuple[int, float, float, int]


#: a prefix in the beam; an array of these is a beam
PREFIX = np.dtype(
    [
        ("node", np.int32),  # the prefix, as a node of the prefix tree
        ("parent", np.int32),  # the prefix without its last token
        ("last", np.int32),  # its last token; at the start the delimiter, as nothing else may follow for free
        ("word", np.int32),  # the open word: node of the letter trie, 0 none, -1 no listed word begins so
        ("letters", np.int32),  # letters of the open word
        ("state", np.int32),  # the language model's state
        ("blank", np.float64),  # mass of the paths that end in a blank
        ("token", np.float64),  # mass of the paths that end in the last token
        ("growth", np.float64),  # the factor by which scores changed the mass from the parent's to this prefix
        ("fusion", np.float64),  # score of all that is complete
        ("look", np.float64),  # score of the open word for the time being
    ]
)
Beam = npt.NDArray[np.void]


class NumpySearch:
    """A search over one utterance: ``feed`` it steps, then ask for its ``finals`` and their ``tokens``.

    ``advance(state, word)`` is the language model: the word's log-probability and the next state.
    """

    def __init__(self, tables: SearchTables, config: BeamConfig, advance: Advance | None = None) -> None:
        self.tables, self.advance = tables, advance
        self.beam_width = config.beam_width
        floor, prune = config.min_token_log_prob, config.beam_prune_log_prob
        self.floor = -math.inf if floor is None else float(np.float32(floor))
        self.prune = 0.0 if prune is None else math.exp(prune)
        #: no letter multiplies a mass by more; a token with a score of its own may
        hope = math.inf if tables.fusion == TOKEN_FUSION else float(tables.look_n.max())
        self.most_growth = math.exp(hope)
        self.log_scale = 0.0  # natural log of what the masses were divided by in all
        self.scale = 1.0  # the best mass, by which the next step divides
        # the prefix tree: parent and last token of each node, its language model state, and the way down
        self.parents, self.tokens, self.states = [-1], [tables.delimiter], [tables.begin_state]
        self._children: dict[tuple[int, int], int] = {}
        self._slots = np.full(1024, -1, np.int32)  # node -> place in the beam
        self._word_ends: dict[int, tuple[float, int]] = {}
        self._token_scores: dict[tuple[int, int], tuple[float, int]] = {}
        start = (ROOT, -1, tables.delimiter, 0, 0, tables.begin_state, 1.0, 0.0, 1.0, 0.0, 0.0)
        self.beam: Beam = np.array([start], PREFIX)

    def feed(self, log_probs_sv: LogProbs) -> None:
        """Searches on through more steps."""
        allowed_sv = log_probs_sv >= self.floor
        allowed_sv[np.arange(len(log_probs_sv)), log_probs_sv.argmax(axis=1)] = True
        only_blank_s = np.logical_not(allowed_sv[:, BLANK_ID + 1 :].any(axis=1))
        after_blank = False
        for step, only_blank in enumerate(only_blank_s.tolist()):
            if only_blank:  # every mass changes by the same factor
                if not after_blank:
                    self.beam["blank"] += self.beam["token"]
                    self.beam["token"] = 0.0
                self.log_scale += float(log_probs_sv[step, BLANK_ID])
            elif not any(self._step(_probs(log_probs_sv[step], allowed_v)) for allowed_v in (allowed_sv[step], True)):
                # a closed word list may forbid all that token pruning leaves; here even all tokens did not help
                self.beam = self.beam[:0]
            after_blank = only_blank

    def _step(self, probs_v: Floats) -> bool:
        """One step, given the probabilities of all tokens; False and nothing done when no prefix survives it."""
        beam, delimiter = self.beam, self.tables.delimiter
        probs_v = probs_v * (1.0 / self.scale)
        tokens_k = np.flatnonzero(probs_v[1:] > 0) + 1
        last_b, old_blank_b, old_token_b = beam["last"], beam["blank"], beam["token"]
        total_b = old_blank_b + old_token_b
        at_space_b = (last_b == delimiter) & (last_b >= 0)
        p_last_b = np.where(last_b >= 0, probs_v[last_b], 0.0)
        blank_b = total_b * probs_v[BLANK_ID]
        token_b = np.where(at_space_b, total_b, old_token_b) * p_last_b
        repeats_bk = tokens_k == last_b[:, None]
        mass_bk = np.where(repeats_bk, old_blank_b[:, None], total_b[:, None]) * probs_v[tokens_k]
        mass_bk[repeats_bk & at_space_b[:, None]] = 0.0

        # a prefix that grows into one of the beam gives it its mass
        parent_slot_b = self._parent_slots(beam)
        child = np.flatnonzero((parent_slot_b >= 0) & (p_last_b > 0))
        if len(child):
            place = parent_slot_b[child], np.searchsorted(tokens_k, last_b[child])
            token_b[child] += mass_bk[place] * beam["growth"][child]
            mass_bk[place] = 0.0

        # what a letter adds is not asked for prefixes that it cannot save
        mass_b = blank_b + token_b
        best = float(mass_b.max(initial=0.0))
        hopeless_bk = mass_bk < best * self.prune / self.most_growth
        mass_bk[hopeless_bk & np.logical_not(self.tables.opens_v[tokens_k])] = 0.0
        row_c, column_c = np.nonzero(mass_bk)
        grown = self._grow(beam[row_c], tokens_k[column_c].astype(np.int32))
        grown["token"] = mass_bk[row_c, column_c] * grown["growth"]

        mass_c = np.concatenate([mass_b, grown["token"]])
        best = float(mass_c.max(initial=0.0))
        if best <= 0:
            return False
        kept = np.flatnonzero((mass_c >= best * self.prune) & (mass_c > 0))
        if len(kept) > self.beam_width:  # ties: the earlier candidate
            kept = np.sort(kept[np.argsort(-mass_c[kept], kind="stable")[: self.beam_width]])
        stays = kept[kept < len(total_b)]
        stayed = beam[stays]
        stayed["blank"], stayed["token"] = blank_b[stays], token_b[stays]
        self.beam = np.concatenate([stayed, self._named(grown[kept[len(stays) :] - len(total_b)])])
        self.log_scale += math.log(self.scale)
        self.scale = best
        return True

    def _parent_slots(self, beam: Beam) -> Ints:
        """Where in the beam each prefix's parent is, -1 where it is not."""
        if len(self._slots) < len(self.parents):
            self._slots = np.full(2 * len(self.parents), -1, np.int32)
        self._slots[beam["node"]] = np.arange(len(beam))
        slots_b = np.where(beam["parent"] >= 0, self._slots[beam["parent"]], -1)
        self._slots[beam["node"]] = -1
        return slots_b

    def _grow(self, grown: Beam, token_c: Ints) -> Beam:
        """Prefixes (given as their parents) with one more token each: words, states and scores; no masses yet."""
        tables = self.tables
        change_c = np.zeros(len(token_c))
        opens_c = tables.opens_v[token_c]
        for row in np.flatnonzero(opens_c & (grown["letters"] > 0)).tolist():
            change_c[row], grown["state"][row] = self._word_end(grown[row])
        grown["word"][opens_c] = 0
        grown["letters"][opens_c] = 0
        grown["letters"] += tables.num_letters_v[token_c]
        if tables.fusion == TOKEN_FUSION:
            for row, token in enumerate(token_c.tolist()):
                score, grown["state"][row] = self._token_score(int(grown["state"][row]), token)
                change_c[row] += score
        grown["fusion"] += change_c
        if tables.listed:
            for letter_v in tables.letters_vl.T:
                grown["word"] = self._child_words(grown["word"], letter_v[token_c])
            change_c -= grown["look"]
            grown["look"] = self._look(grown["word"], grown["letters"])
            change_c += grown["look"]
        grown["growth"] = np.exp(change_c)
        grown["parent"] = grown["node"]
        grown["last"] = token_c
        grown["blank"] = 0.0
        return grown

    def _child_words(self, word_c: Ints, letter_c: Ints) -> Ints:
        """The letter trie's nodes after one more letter (-1: none written), -1 where no listed word goes on so."""
        keys_e = self.tables.edge_keys_e
        key_c = word_c.astype(np.int64) * self.tables.num_letters + letter_c
        edge_c = np.searchsorted(keys_e, key_c)
        found_c = np.append(keys_e, -1)[edge_c] == key_c
        child_c = np.where(found_c & (word_c >= 0), edge_c + 1, -1)
        return np.where(letter_c < 0, word_c, child_c).astype(np.int32)

    def _look(self, word_c: Ints, letters_c: Ints) -> Floats:
        """The score of open words for the time being: hope for a hotword, or the price of an unknown word so far."""
        tables = self.tables
        price_c = tables.off * np.maximum(1.0, letters_c / tables.unknown_letters)
        return np.where(word_c >= 0, tables.look_n[word_c], price_c)

    def _word_end(self, prefix: Any) -> tuple[float, int]:
        """The score of a prefix's open word as complete, and the language model's state after it."""
        node, word = int(prefix["node"]), int(prefix["word"])
        if node not in self._word_ends:
            state, tables = int(prefix["state"]), self.tables
            lm_word = int(tables.word_n[word]) if word > 0 else -1
            score = float(tables.bonus_n[word]) if word > 0 else 0.0
            if tables.closed and lm_word == -1:
                score = -math.inf
            elif tables.fusion == WORD_FUSION:
                log_prob, state = self._lm(state, lm_word)
                score += tables.alpha * log_prob + tables.beta
                if word <= 0 or not tables.known_n[word]:
                    score += tables.unknown * max(1.0, int(prefix["letters"]) / tables.unknown_letters)
            self._word_ends[node] = score, state
        return self._word_ends[node]

    def _token_score(self, state: int, token: int) -> tuple[float, int]:
        """The same for a token, where the language model is one of tokens."""
        if (state, token) not in self._token_scores:
            lm_word = int(self.tables.lm_token_v[token])
            log_prob, after = self._lm(state, lm_word)
            score = self.tables.alpha * log_prob + self.tables.beta + (self.tables.unknown if lm_word < 0 else 0.0)
            self._token_scores[state, token] = score, after
        return self._token_scores[state, token]

    def _lm(self, state: int, lm_word: int) -> tuple[float, int]:
        assert self.advance is not None
        return self.advance(state, lm_word if lm_word >= 0 else self.tables.unk_id)

    def _named(self, grown: Beam) -> Beam:
        """Gives new prefixes their nodes; one that was in the beam before gets its old one."""
        nodes = []
        columns = (grown["parent"].tolist(), grown["last"].tolist(), grown["state"].tolist())
        for parent, token, state in zip(*columns, strict=True):
            node = self._children.setdefault((parent, token), len(self.parents))
            if node == len(self.parents):
                self.parents.append(parent)
                self.tokens.append(token)
                self.states.append(state)
            nodes.append(node)
        grown["node"] = nodes
        return grown

    def finals(self, limit: int | None) -> list[Final]:
        """The best texts in the beam, sentences ended; best first."""
        beam = self.beam
        acoustic_b = np.log(beam["blank"] + beam["token"]) + self.log_scale - (beam["fusion"] + beam["look"])
        found: dict[int, Final] = {}
        cut = False
        ended = [(row, *self._ended(prefix)) for row, prefix in enumerate(beam)]
        if all(fusion == -math.inf for _, _, fusion in ended):
            cut = True  # no open word is a listed one: leave them out
            ended = [(row, *self._cut(prefix)) for row, prefix in enumerate(beam)]
        for row, node, fusion in ended:
            if fusion > -math.inf:
                acoustic = float(acoustic_b[row])
                whole = int(beam["node"][row]) if cut else node
                if node in found:  # with and without a space at the end: one text
                    acoustic, whole = float(np.logaddexp(found[node][1], acoustic)), found[node][3]
                found[node] = node, acoustic, fusion, whole
        return sorted(found.values(), key=lambda final: -(final[1] + final[2]))[:limit]

    def _ended(self, prefix: Any) -> tuple[int, float]:
        """A prefix without a space at its end, and its score with the open word and the sentence ended."""
        tables = self.tables
        node, state, score = int(prefix["node"]), int(prefix["state"]), float(prefix["fusion"])
        if prefix["letters"] > 0:
            end, after = self._word_end(prefix)
            score += end
            state = after if tables.fusion == WORD_FUSION else state
        if node != ROOT and prefix["last"] == tables.delimiter:
            node = self.parents[node]
            if tables.fusion == TOKEN_FUSION:  # the space that does not count was scored
                state = self.states[node]
                score -= self._token_score(state, tables.delimiter)[0]
        return node, score + self._sentence_end(state)

    def _cut(self, prefix: Any) -> tuple[int, float]:
        """A prefix without its open word, and its score."""
        node = int(prefix["node"])
        while node != ROOT and not self.tables.opens_v[self.tokens[node]]:
            node = self.parents[node]
        node = self.parents[node] if node != ROOT else node
        return node, float(prefix["fusion"]) + self._sentence_end(int(prefix["state"]))

    def _sentence_end(self, state: int) -> float:
        if self.tables.fusion == NO_FUSION:
            return 0.0
        return self.tables.alpha * self._lm(state, self.tables.end_id)[0]

    def tokens_of(self, node: int) -> list[int]:
        """The tokens of a prefix, in order."""
        tokens = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def spans_of(self, log_probs_sv: LogProbs, tokens: list[int]) -> tuple[Span, ...]:
        return spans_of(log_probs_sv, tokens, self.tables.delimiter, self.floor)

    def close(self) -> None:
        """Nothing to give back."""


def _probs(log_probs_v: LogProbs, allowed_v: Any) -> Floats:
    """The probabilities of the tokens that are allowed, 0 for others.

    By ``math.exp``, which compiled code calls too: numpy's differs in the last bit, and then ties are not ties.
    """
    probs_v = np.zeros(len(log_probs_v))
    for token in np.flatnonzero(allowed_v & (log_probs_v > -np.inf)).tolist():
        probs_v[token] = math.exp(float(log_probs_v[token]))
    return probs_v
