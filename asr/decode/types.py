"""The input and the results of decoders.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LogProbs = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Moves = npt.NDArray[np.int8]

#: log-probabilities that are checked at once: the check needs several times their memory, and they stay in the cache
_CHECKED_AT_ONCE = 1 << 15


class Span(NamedTuple):
    """A token, and the steps at which it was emitted: ``start`` to ``end``, the end not included.

    ``log_prob`` is the token's log-probability at its strongest step, if the decoder gives it.
    """

    token: int
    start: int
    end: int
    log_prob: float | None = None


#: what ``Span._make`` does, without its check, in half the time
_new_span = partial(tuple.__new__, Span)


class WordSlot(NamedTuple):
    """A place in a text, and the words that the texts of a beam have there, the most probable first.

    ``words`` has each word with its probability; "" stands for no word.
    """

    #: of the text's words, the one that is here; or, between words, the one that follows
    place: int
    between: bool
    words: tuple[tuple[str, float], ...]


class SpanColumns(NamedTuple):
    """Spans as arrays. Shapes: u tokens each."""

    token_u: npt.NDArray[np.int32]
    start_u: npt.NDArray[np.int32]
    end_u: npt.NDArray[np.int32]
    log_prob_u: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hypothesis:
    """A transcript: its text, its scores (natural log), and where its tokens are.

    ``log_prob`` is acoustic: of the path (greedy) or of all paths in the beam that write the text. ``lm_score`` is what
    language model, word bonus and hotwords add, weights included.
    """

    text: str
    log_prob: float
    spans: tuple[Span, ...]
    lm_score: float = 0.0
    #: for each word of the text, the share of the beam's probability that agrees on it; None: not asked for
    word_shares: tuple[float, ...] | None = None
    #: the words of all texts in the beam beside those of this one; None: not asked for
    slots: tuple[WordSlot, ...] | None = None

    @classmethod
    def of_columns(cls, text: str, log_prob: float, lm_score: float, columns: SpanColumns) -> Hypothesis:
        """Make a hypothesis whose spans are made when they are first asked for: most never are."""
        hypothesis = object.__new__(cls)
        hypothesis.__dict__.update(
            text=text, log_prob=log_prob, lm_score=lm_score, word_shares=None, slots=None, _columns=columns
        )
        return hypothesis

    def __getattr__(self, name: str) -> Any:  # called only for attributes that are missing
        columns = self.__dict__.get("_columns")
        if name == "spans" and columns is not None:
            # set before the columns go: another thread that asks finds one or the other
            self.__dict__["spans"] = tuple(map(_new_span, zip(*(each_u.tolist() for each_u in columns), strict=True)))
            self.__dict__.pop("_columns", None)
        if name != "spans" or name not in self.__dict__:
            raise AttributeError(f"a hypothesis has no '{name}'")
        return self.__dict__[name]

    @property
    def score(self) -> float:
        """The score by which hypotheses are ranked."""
        return self.log_prob + self.lm_score

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids, in order."""
        return tuple(span.token for span in self.spans)


@dataclass(frozen=True)
class TimedWord:
    """A word with its times in seconds from the start of the audio, and its confidence if the decoder gives one."""

    word: str
    start_s: float
    end_s: float
    confidence: float | None = None


def check_log_probs(log_probs_sv: LogProbs, vocabulary_size: int | None = None) -> None:
    """Refuse what is not log-probabilities, and say what it looks like.

    Raises:
        ValueError: the shape is not (steps, vocabulary), a value is not a number, or a row does not sum to 1.
    """
    if log_probs_sv.ndim != 2:
        raise ValueError(f"log_probs must have the shape (steps, vocabulary), got {log_probs_sv.shape}")
    steps, tokens = log_probs_sv.shape
    if vocabulary_size is not None and tokens != vocabulary_size:
        raise ValueError(f"log_probs has {tokens} tokens, the tokenizer {vocabulary_size} (blank included)")
    rows = max(1, _CHECKED_AT_ONCE // max(1, tokens))
    for first in range(0, steps, rows):
        _check_rows(log_probs_sv[first : first + rows], first)


def _check_rows(log_probs_sv: LogProbs, first: int) -> None:
    with np.errstate(over="ignore"):
        sums_s = np.exp(log_probs_sv.astype(np.float64)).sum(axis=1)
    no_number = np.isnan(sums_s)
    if no_number.any():
        raise ValueError(f"log_probs has a value that is not a number in step {first + int(no_number.argmax())}")
    # 1e-3: float32 log-softmax over 10,000 tokens stays within 1e-4; bf16 emissions within 1e-2 are refused on purpose
    wrong = np.abs(sums_s - 1) > 1e-3
    if wrong.any():
        step = int(wrong.argmax())
        hint = "did you pass probabilities?" if (log_probs_sv >= 0).all() else "did you pass logits?"
        raise ValueError(f"log_probs rows must sum to 1 (got {sums_s[step]:.4g} in step {first + step}): {hint}")
