"""The prefixes of a beam search, and what words and language model say of them (the scores of ``docs/decoding.md``).

A prefix is a token sequence. All prefixes are one tree, in which each is a child of the one without its last token.
Nothing here knows the probabilities of sounds.

Axes: v vocabulary, n nodes of the letter trie (``asr.decode.tables``).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from asr.decode.phrases import Phrases
from asr.decode.tables import MOST_LETTERS, NO_FUSION, TOKEN_FUSION, WORD_FUSION, SearchTables
from asr.lm.model import advance_many


@dataclass(eq=False)
class Prefix:
    """Hold a token sequence and its scores. Equal sequences are the same object."""

    #: the prefix without its last token; None: this is the empty one
    parent: Prefix | None
    #: the last token; that of the empty prefix is the space, as a space at the start of a text changes nothing
    token: int
    #: the open word: a node of the letter trie; 0: no letter yet; -1: no listed word begins so
    word: int
    #: number of letters of the open word
    letters: int
    #: the longest beginning of a hotword that the text ends with: a node of ``Phrases``; -1: none
    phrase: int
    #: the language model's state after all that is complete
    state: int
    #: score of all that is complete
    score: float
    #: score of what is open until it is complete, and e to it
    look: float
    gain: float
    #: factor by which the scores change the mass from the parent's to this prefix
    growth: float
    children: dict[int, Prefix] = field(default_factory=dict)
    #: score of the open word as complete, and the language model's state and the hotword after it; None: not asked yet
    end: tuple[float, int, int] | None = None

    def tokens(self) -> list[int]:
        """Return the tokens in order."""
        tokens = []
        prefix = self
        while prefix.parent is not None:
            tokens.append(prefix.token)
            prefix = prefix.parent
        return tokens[::-1]


class Scorer:
    """Make prefixes, and score their ends."""

    def __init__(self, tables: SearchTables) -> None:
        self.tables = tables
        self.empty = Prefix(
            parent=None,
            token=tables.delimiter,
            word=0,
            letters=0,
            phrase=0,
            state=tables.begin_state,
            score=0.0,
            look=0.0,
            gain=1.0,
            growth=1.0,
        )

    def child(self, prefix: Prefix, token: int) -> Prefix:
        """Return the prefix with one more token."""
        if token not in prefix.children:
            prefix.children[token] = self._grow(prefix, token)
        return prefix.children[token]

    def _grow(self, prefix: Prefix, token: int) -> Prefix:
        tables = self.tables
        word = prefix.word
        letters = prefix.letters
        phrase = prefix.phrase
        state = prefix.state
        score = prefix.score
        growth = 1.0 / prefix.gain

        # A token that opens a word ends the word before it.
        if tables.opens_v[token]:
            if letters > 0:
                end_score, state, phrase = self._word_end(prefix)
                score += end_score
                growth = math.exp(end_score - prefix.look)
            word = 0
            letters = 0

        if tables.fusion == TOKEN_FUSION:
            token_score, state = self._token_score(prefix.state, token)
            score += token_score
            growth *= math.exp(token_score)

        letters += int(tables.num_letters_v[token])
        look, gain = 0.0, 1.0
        if tables.listed:
            word = self._spell(word, token)
            look, gain = self._look(word, letters)
        if tables.phrases.present:
            for letter in tables.letters_vl[token, : tables.num_letters_v[token]]:
                phrase = self._phrase_after(phrase, int(letter))
            if phrase >= 0:
                if tables.phrases.new_n[phrase] and look < tables.new_look:
                    look, gain = tables.new_look, tables.new_gain
                look += float(tables.phrases.hope_n[phrase])
                gain *= float(tables.phrases.gain_n[phrase])
        return Prefix(prefix, token, word, letters, phrase, state, score, look, gain, growth * gain)

    def future(self, prefix: Prefix, ends_in_token: bool) -> tuple[int, int, int, int, int]:
        """Return all that the growth of a prefix depends on; its last token counts if a path ends in it."""
        token = prefix.token if ends_in_token else -1
        if not (self.tables.listed or self.tables.phrases.present) and self.tables.fusion == NO_FUSION:
            return 0, 0, 0, 0, token
        letters = min(prefix.letters, MOST_LETTERS) if prefix.word < 0 else int(prefix.letters > 0)
        return prefix.state, prefix.word, letters, prefix.phrase, token

    def finish(self, prefix: Prefix) -> tuple[Prefix, float]:
        """Return a prefix without a space at its end, and its score with the open word and the sentence complete."""
        tables = self.tables
        score, state = prefix.score, prefix.state
        if prefix.letters > 0:
            end_score, end_state, _ = self._word_end(prefix)
            score += end_score
            if tables.fusion == WORD_FUSION:
                state = end_state

        if prefix.parent is not None and prefix.token == tables.delimiter:
            prefix = prefix.parent
            if tables.fusion == TOKEN_FUSION:  # the space that does not count was scored
                state = prefix.state
                score -= self._token_score(state, tables.delimiter)[0]

        return prefix, score + self._sentence_end(state)

    def without_open_word(self, prefix: Prefix) -> tuple[Prefix, float]:
        """Return a prefix without its open word, and its score with the sentence complete."""
        cut = prefix
        while cut.parent is not None and not self.tables.opens_v[cut.token]:
            cut = cut.parent
        if cut.parent is not None:
            cut = cut.parent
        if self.tables.fusion == TOKEN_FUSION:  # the tokens that are left out were scored
            return self.finish(cut)
        return cut, prefix.score + self._sentence_end(prefix.state)

    def _word_end(self, prefix: Prefix) -> tuple[float, int, int]:
        """Return the score of the open word as complete, and the language model's state and the hotword after it."""
        if prefix.end is not None:
            return prefix.end
        tables = self.tables
        word = prefix.word
        state = prefix.state
        lm_word = int(tables.word_n[word]) if word > 0 else -1
        score, phrase = 0.0, prefix.phrase
        known = word > 0 and bool(tables.known_n[word])
        if tables.phrases.present:
            if phrase >= 0:
                score = float(tables.phrases.bonus_n[phrase])
                known = known or bool(tables.phrases.known_n[phrase])
            phrase = self._phrase_after(phrase, tables.phrases.space)

        if tables.closed and lm_word == -1:
            score = -math.inf
        elif tables.fusion == WORD_FUSION:
            log_prob, state = self._lm(state, lm_word)
            score += tables.alpha * log_prob + tables.beta
            if not known:
                score += tables.unknown

        prefix.end = score, state, phrase
        return prefix.end

    def _token_score(self, state: int, token: int) -> tuple[float, int]:
        """Return what a token adds where the language model is one of tokens, and the state after it."""
        lm_word = int(self.tables.lm_token_v[token])
        log_prob, after = self._lm(state, lm_word)
        unknown = self.tables.unknown if lm_word < 0 else 0.0
        return self.tables.alpha * log_prob + self.tables.beta + unknown, after

    def _sentence_end(self, state: int) -> float:
        if self.tables.fusion == NO_FUSION:
            return 0.0
        return self.tables.alpha * self._lm(state, self.tables.end_id)[0]

    def _lm(self, state: int, lm_word: int) -> tuple[float, int]:
        """Return the log-probability of a word (below 0: unknown) after a state, and the state after it."""
        word = lm_word if lm_word >= 0 else self.tables.unk_id
        log_probs, states = advance_many(self.tables.lm, [state], [word])
        return float(log_probs[0]), int(states[0])

    def _spell(self, word: int, token: int) -> int:
        """Return the letter trie's node after a token's letters; -1: no listed word begins so."""
        tables = self.tables
        for letter in tables.letters_vl[token, : tables.num_letters_v[token]]:
            if word < 0:
                break
            word = _below(tables, word, int(letter))
        return word

    def _phrase_after(self, phrase: int, letter: int) -> int:
        """Return the longest beginning of a hotword after one more letter; -1: there is none."""
        phrases = self.tables.phrases
        while phrase >= 0:
            below = _below(phrases, phrase, letter)
            if below >= 0:
                return below
            phrase = int(phrases.shorter_n[phrase])
        return 0 if letter == phrases.space else -1

    def _look(self, word: int, letters: int) -> tuple[float, float]:
        """Return the score of an open word for the time being, and e to it."""
        tables = self.tables
        if word >= 0:
            return float(tables.look_n[word]), float(tables.gain_n[word])
        letters = min(letters, MOST_LETTERS)
        return float(tables.off_look_l[letters]), float(tables.off_gain_l[letters])


def _below(trie: SearchTables | Phrases, node: int, letter: int) -> int:
    """Return the node of a trie one letter further; -1: there is none."""
    first, end = int(trie.first_edge_n[node]), int(trie.first_edge_n[node + 1])
    edge = bisect_left(trie.edge_letters_e, letter, first, end)
    return edge + 1 if edge < end and trie.edge_letters_e[edge] == letter else -1
