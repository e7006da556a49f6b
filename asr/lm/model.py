"""A back-off n-gram model: an automaton over contexts, held in flat arrays (``asr.lm.arrays``).

Axes: n nodes, or queries where a function says so; w words of a sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from asr.errors import DataError
from asr.lm.arrays import BEGIN, END, Doubles, HashedArrays, Ints, Longs, NgramArrays, nodes_by_order

logger = logging.getLogger(__name__)


def enter_ngrams(arrays: NgramArrays, contexts_n: Ints, words_n: Ints) -> None:
    """Put the n-grams into the table and mark the states. Back-off weights must be there already.

    Args:
        contexts_n: For each node, the node of its context.
        words_n: For each node, its last word.
    """
    from asr.lm.compiled.ngram import enter_nodes  # compiles

    enter_nodes(arrays, contexts_n, words_n)


def advance_many(
    arrays: NgramArrays | HashedArrays, states_n: npt.ArrayLike, words_n: npt.ArrayLike
) -> tuple[Doubles, Longs]:
    """Return the log-probability of each word after its state, and the state after it.

    Shapes: n queries, or one state or word for all; both results of n.
    """
    from asr.lm.compiled.ngram import advance_all  # compiles

    states_n, words_n = np.broadcast_arrays(np.asarray(states_n, np.int64), np.asarray(words_n, np.int64))
    log_probs_n = np.empty(states_n.shape)
    after_n = np.empty(states_n.shape, np.int64)
    advance_all(arrays, np.array(states_n), np.array(words_n), log_probs_n, after_n)
    return log_probs_n, after_n


class NgramModel:
    """A back-off n-gram model: words, arrays, and how many n-grams of each order there are.

    ``has_unk`` says whether <unk> was in the file or the estimate; where it was not, an unknown word has log10
    probability -100, as in kenlm.
    """

    unk_id, begin_id, end_id = 0, 1, 2

    def __init__(
        self, vocabulary: bytes | Sequence[str], arrays: NgramArrays, counts: Sequence[int], has_unk: bool = True
    ) -> None:
        #: the words in UTF-8, a newline between; split on first use: a decoder may never ask
        self.vocabulary = vocabulary if isinstance(vocabulary, bytes) else "\n".join(vocabulary).encode()
        self.arrays = arrays
        self.counts = tuple(int(c) for c in counts)
        self.has_unk = has_unk
        #: the only words that count as known in a beam search; None: all of them do
        self.known_words: frozenset[str] | None = None
        #: what ``contexts_and_words`` returns, where whoever made the model had it
        self.parts: tuple[Ints, Ints] | None = None

    @property
    def order(self) -> int:
        return len(self.counts)

    @property
    def vocabulary_size(self) -> int:
        """Words with an id: <unk>, <s> and </s> included."""
        return int(self.arrays.vocabulary_size[0])

    @cached_property
    def words(self) -> list[str]:
        """The words by id: <unk>, <s>, </s>, then the others."""
        return self.vocabulary.decode().split("\n")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def word_id(self, word: str) -> int:
        """Return the id of a word; <unk>'s where the model does not know it."""
        return self._ids.get(word, self.unk_id)

    def sentence_ids(self, words: Sequence[str]) -> list[int]:
        """Return the ids of a text's words and of the sentence's end; ``<s>`` and ``</s>`` in a text are unknown."""
        ids = [self._ids.get(word, self.unk_id) for word in words]
        special = (self.begin_id, self.end_id)
        return [*(self.unk_id if i in special else i for i in ids), self.end_id]

    def keep_known(self, words: Iterable[str], source: str) -> None:
        """Let only these of the model's words count as known in a beam search; all do, if none of these is one."""
        known = frozenset(word.strip() for word in words if word.strip() in self._ids)
        ordinary = len(self.words) - len((self.unk_id, self.begin_id, self.end_id))
        if not known:
            logger.warning("%s: none of the language model's %d words is in it; it is not used", source, ordinary)
            return
        self.known_words = known
        if len(known) < ordinary:
            logger.info("%s: %d of the language model's %d words count as known", source, len(known), ordinary)

    def check_listable(self) -> None:
        """Refuse a model whose n-grams cannot be listed.

        Raises:
            DataError: the n-grams are known by hashes only.
        """

    @property
    def begin_state(self) -> int:
        """The state at the start of a sentence, after <s>."""
        node = 1 + self.begin_id
        return node if self.arrays.is_context[node] else 0

    def advance(self, state: int, word: int) -> tuple[float, int]:
        """Return the log-probability of a word after a state, and the state after it."""
        log_probs_1, states_1 = self.advance_many([state], [word])
        return float(log_probs_1[0]), int(states_1[0])

    def advance_many(self, states_n: npt.ArrayLike, words_n: npt.ArrayLike) -> tuple[Doubles, Longs]:
        """Do what ``advance`` does for n states and n words at once."""
        return advance_many(self.arrays, states_n, words_n)

    def score_words(self, words: Sequence[str], bos: bool = True, eos: bool = True) -> Doubles:
        """Return ln p of each word after the words before it; with ``eos`` that of the sentence's end comes last.

        Shapes: w, or w + 1.
        """
        state = self.begin_state if bos else 0
        log_probs_w = np.empty(len(words) + eos)
        for i, word in enumerate([self.word_id(w) for w in words] + [self.end_id] * eos):
            log_probs_w[i], state = self.advance(state, word)
        return log_probs_w

    def score_ids(self, ids_w: Ints) -> Doubles:
        """Return ln p of each token of whole sentences, as ``sentence_ids`` gives them. Shapes: w -> w."""
        from asr.lm.compiled.ngram import score_ids  # compiles

        log_probs_w = np.empty(len(ids_w))
        score_ids(self.arrays, ids_w, self.end_id, self.begin_state, log_probs_w)
        return log_probs_w

    def score(self, words: Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """Return ln p of a sentence, its end included: what kenlm calls score, in natural log."""
        return float(self.score_words(words, bos, eos).sum())

    def contexts_and_words(self) -> tuple[Ints, Ints]:
        """Return what each node is made of: the node of its context and its last word. Node 0 has neither.

        Shapes: n nodes, both.

        Raises:
            DataError: the context of an n-gram is none of those that are shorter by one word: the file is damaged; or
                the n-grams are known by hashes only.
        """
        self.check_listable()
        if self.parts is not None:
            return self.parts
        arrays = self.arrays
        contexts_n = np.zeros(len(arrays.log_probs), np.int32)
        words_n = np.zeros(len(arrays.log_probs), np.int32)
        words_n[1 : 1 + self.vocabulary_size] = np.arange(self.vocabulary_size)

        used = arrays.table_keys >= 0
        nodes = arrays.table_nodes[used]
        contexts_n[nodes], words_n[nodes] = np.divmod(arrays.table_keys[used], self.vocabulary_size)

        for below, at in pairwise(nodes_by_order(self.counts)):
            contexts = contexts_n[at]
            if len(contexts) and not below.start <= contexts.min() <= contexts.max() < below.stop:
                raise DataError("the n-gram model has n-grams without their contexts; build it again")
        return contexts_n, words_n


class HashedModel(NgramModel):
    """A model whose n-grams are known by hashes of their words only, as in most binary files of KenLM."""

    def __init__(self, vocabulary: bytes, arrays: HashedArrays, counts: Sequence[int], has_unk: bool) -> None:
        super().__init__(vocabulary, cast(Any, arrays), counts, has_unk)
        #: wherever they stood in the ARPA file
        self.begin_id, self.end_id = self._ids[BEGIN], self._ids[END]

    @property
    def begin_state(self) -> int:
        return 1 + self.begin_id

    def check_listable(self) -> None:
        raise DataError(
            "a binary file of KenLM has hashes in place of its n-grams: it can be used and measured, but not mixed or "
            "written in another form; give the ARPA file that it was built from"
        )
