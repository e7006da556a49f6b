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
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

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


@dataclass
class Beam:
    """The prefixes kept, one entry each in every array."""

    node_b: Ints  # the prefix, as a node of the prefix tree
    parent_b: Ints  # the prefix without its last token
    last_b: Ints  # its last token; at the start the delimiter, as nothing else may follow for free
    blank_b: Floats  # mass of the paths that end in a blank
    token_b: Floats  # mass of the paths that end in the last token
    growth_b: Floats  # the factor by which scores changed the mass from the parent's to this prefix
    word_b: Ints  # the open word: node of the letter trie, 0 none, -1 no listed word begins so
    letters_b: Ints  # letters of the open word
    state_b: Ints  # the language model's state
    fusion_b: Floats  # score of all that is complete
    look_b: Floats  # score of the open word for the time being

    def take(self, rows_b: Any) -> Beam:
        return Beam(*(getattr(self, f.name)[rows_b] for f in fields(self)))

    def join(self, other: Beam) -> Beam:
        return Beam(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


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
        self.log_scale = 0.0  # natural log of what the masses were divided by in all
        self.scale = 1.0  # the best mass, by which the next step divides
        # the prefix tree: parent and last token of each node, its language model state, and the way down
        self.parents, self.tokens, self.states = [-1], [tables.delimiter], [tables.begin_state]
        self._children: dict[tuple[int, int], int] = {}
        self._slots = np.full(1024, -1, np.int32)  # node -> place in the beam
        self._word_ends: dict[int, tuple[float, int]] = {}
        self._token_scores: dict[tuple[int, int], tuple[float, int]] = {}
        one, zero, none = np.ones(1), np.zeros(1), np.zeros(1, np.int32)
        self.beam = Beam(none, none - 1, none + tables.delimiter, one, zero, one, none, none, none + tables.begin_state,
                         zero, zero)  # fmt: skip

    def feed(self, log_probs_sv: LogProbs) -> None:
        """Searches on through more steps."""
        allowed_sv = log_probs_sv >= self.floor
        allowed_sv[np.arange(len(log_probs_sv)), log_probs_sv.argmax(axis=1)] = True
        only_blank_s = np.logical_not(allowed_sv[:, BLANK_ID + 1 :].any(axis=1))
        for step, only_blank in enumerate(only_blank_s.tolist()):
            if only_blank:  # every mass changes by the same factor
                self.beam.blank_b = self.beam.blank_b + self.beam.token_b
                self.beam.token_b = np.zeros(len(self.beam.blank_b))
                self.log_scale += float(log_probs_sv[step, BLANK_ID])
            elif not any(self._step(_probs(log_probs_sv[step], allowed_v)) for allowed_v in (allowed_sv[step], True)):
                # a closed word list may forbid all that token pruning leaves; here even all tokens did not help
                self.beam = self.beam.take(slice(0, 0))

    def _step(self, probs_v: Floats) -> bool:
        """One step, given the probabilities of all tokens; False and nothing done when no prefix survives it."""
        beam = self.beam
        probs_v = probs_v * (1.0 / self.scale)
        tokens_k = np.flatnonzero(probs_v[1:] > 0) + 1
        total_b = beam.blank_b + beam.token_b
        at_space_b = (beam.last_b == self.tables.delimiter) & (beam.last_b >= 0)
        p_last_b = np.where(beam.last_b >= 0, probs_v[beam.last_b], 0.0)
        blank_b = total_b * probs_v[BLANK_ID]
        token_b = np.where(at_space_b, total_b, beam.token_b) * p_last_b
        repeats_bk = tokens_k == beam.last_b[:, None]
        mass_bk = np.where(repeats_bk, beam.blank_b[:, None], total_b[:, None]) * probs_v[tokens_k]
        mass_bk[repeats_bk & at_space_b[:, None]] = 0.0

        # a prefix that grows into one of the beam gives it its mass
        parent_slot_b = self._parent_slots(beam)
        child = np.flatnonzero((parent_slot_b >= 0) & (p_last_b > 0))
        place = parent_slot_b[child], np.searchsorted(tokens_k, beam.last_b[child])
        token_b[child] += mass_bk[place] * beam.growth_b[child]
        mass_bk[place] = 0.0

        row_c, column_c = np.nonzero(mass_bk)
        grown = self._grow(beam.take(row_c), tokens_k[column_c].astype(np.int32))
        grown.token_b = mass_bk[row_c, column_c] * grown.growth_b

        mass_c = np.concatenate([blank_b + token_b, grown.token_b])
        best = float(mass_c.max(initial=0.0))
        if best <= 0:
            return False
        kept = np.flatnonzero((mass_c >= best * self.prune) & (mass_c > 0))
        if len(kept) > self.beam_width:  # ties: the earlier candidate
            kept = np.sort(kept[np.argsort(-mass_c[kept], kind="stable")[: self.beam_width]])
        stays = kept[kept < len(total_b)]
        beam.blank_b, beam.token_b = blank_b, token_b
        self.beam = beam.take(stays).join(self._named(grown.take(kept[len(stays) :] - len(total_b))))
        self.log_scale += math.log(self.scale)
        self.scale = best
        return True

    def _parent_slots(self, beam: Beam) -> Ints:
        """Where in the beam each prefix's parent is, -1 where it is not."""
        if len(self._slots) < len(self.parents):
            self._slots = np.full(2 * len(self.parents), -1, np.int32)
        self._slots[beam.node_b] = np.arange(len(beam.node_b))
        slots_b = np.where(beam.parent_b >= 0, self._slots[beam.parent_b], -1)
        self._slots[beam.node_b] = -1
        return slots_b

    def _grow(self, grown: Beam, token_c: Ints) -> Beam:
        """Prefixes (given as their parents) with one more token each: words, states and scores; no masses yet."""
        tables = self.tables
        change_c = np.zeros(len(token_c))
        look_c = grown.look_b
        opens_c = tables.opens_v[token_c]
        for row in np.flatnonzero(opens_c & (grown.letters_b > 0)).tolist():
            change_c[row], grown.state_b[row] = self._word_end(grown, row)
        grown.word_b[opens_c] = 0
        grown.letters_b[opens_c] = 0
        grown.letters_b += tables.num_letters_v[token_c]
        if tables.listed:
            for letter_v in tables.letters_vl.T:
                grown.word_b = self._child_words(grown.word_b, letter_v[token_c])
            grown.look_b = self._look(grown.word_b, grown.letters_b)
        if tables.fusion == TOKEN_FUSION:
            for row, token in enumerate(token_c.tolist()):
                score, grown.state_b[row] = self._token_score(int(grown.state_b[row]), token)
                change_c[row] += score
        grown.fusion_b += change_c
        grown.growth_b = np.exp(change_c + grown.look_b - look_c)
        grown.parent_b = grown.node_b
        grown.last_b = token_c
        grown.blank_b = np.zeros(len(token_c))
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

    def _word_end(self, beam: Beam, row: int) -> tuple[float, int]:
        """The score of a prefix's open word as complete, and the language model's state after it."""
        node = int(beam.node_b[row])
        if node not in self._word_ends:
            state, word = int(beam.state_b[row]), int(beam.word_b[row])
            tables = self.tables
            lm_word = int(tables.word_n[word]) if word > 0 else -1
            score = float(tables.bonus_n[word]) if word > 0 else 0.0
            if tables.closed and lm_word == -1:
                score = -math.inf
            elif tables.fusion == WORD_FUSION:
                log_prob, state = self._lm(state, lm_word)
                score += tables.alpha * log_prob + tables.beta
                if word <= 0 or not tables.known_n[word]:
                    score += tables.unknown * max(1.0, int(beam.letters_b[row]) / tables.unknown_letters)
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
        for parent, token, state in zip(
            grown.parent_b.tolist(), grown.last_b.tolist(), grown.state_b.tolist(), strict=True
        ):
            node = self._children.setdefault((parent, token), len(self.parents))
            if node == len(self.parents):
                self.parents.append(parent)
                self.tokens.append(token)
                self.states.append(state)
            nodes.append(node)
        grown.node_b = np.array(nodes, np.int32)
        return grown

    def finals(self, limit: int | None) -> list[Final]:
        """The best texts in the beam, sentences ended; best first."""
        acoustic_b = np.log(self.beam.blank_b + self.beam.token_b) + self.log_scale
        acoustic_b -= self.beam.fusion_b + self.beam.look_b
        found: dict[int, Final] = {}
        rows = range(len(acoustic_b))
        cut = False
        ended = [(row, *self._ended(row)) for row in rows]
        if all(fusion == -math.inf for _, _, fusion in ended):
            cut = True  # no open word is a listed one: leave them out
            ended = [(row, *self._cut(row)) for row in rows]
        for row, node, fusion in ended:
            if fusion > -math.inf:
                acoustic = float(acoustic_b[row])
                whole = int(self.beam.node_b[row]) if cut else node
                if node in found:  # with and without a space at the end: one text
                    acoustic, whole = float(np.logaddexp(found[node][1], acoustic)), found[node][3]
                found[node] = node, acoustic, fusion, whole
        return sorted(found.values(), key=lambda final: -(final[1] + final[2]))[:limit]

    def _ended(self, row: int) -> tuple[int, float]:
        """A prefix without a space at its end, and its score with the open word and the sentence ended."""
        beam, tables = self.beam, self.tables
        node, state, score = int(beam.node_b[row]), int(beam.state_b[row]), float(beam.fusion_b[row])
        if beam.letters_b[row] > 0:
            end, after = self._word_end(beam, row)
            score += end
            state = after if tables.fusion == WORD_FUSION else state
        if node != ROOT and beam.last_b[row] == tables.delimiter:
            node = self.parents[node]
            if tables.fusion == TOKEN_FUSION:  # the space that does not count was scored
                state = self.states[node]
                score -= self._token_score(state, tables.delimiter)[0]
        return node, score + self._sentence_end(state)

    def _cut(self, row: int) -> tuple[int, float]:
        """A prefix without its open word, and its score."""
        node = int(self.beam.node_b[row])
        while node != ROOT and not self.tables.opens_v[self.tokens[node]]:
            node = self.parents[node]
        node = self.parents[node] if node != ROOT else node
        return node, float(self.beam.fusion_b[row]) + self._sentence_end(int(self.beam.state_b[row]))

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
