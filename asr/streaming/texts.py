"""The text of a passage while it grows: by the best path, by beam search, or at its end only.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from asr.data.tokenizer import BLANK_ID, WORD_START, Tokenizer
from asr.decode.choose import Decoder
from asr.decode.decoder import BeamDecoder
from asr.decode.greedy import best_path, of_path
from asr.decode.types import Hypothesis, LogProbs, Longs

#: a language model that goes on in the next passage sees at most so many words of this one
_CONTEXT_WORDS = 10


class Text(Protocol):
    """The text of a passage."""

    def feed(self, log_probs_sv: LogProbs, /) -> None:
        """Take the next steps."""

    def partial(self) -> tuple[Hypothesis, str] | None:
        """Return the text so far, and the part of it that does not change any more; None: there is nothing new."""

    def final(self) -> Hypothesis:
        """Return the text of all that was fed; nothing is fed after it."""


def begin_text(decoder: Decoder, tokenizer: Tokenizer, context: Sequence[int] = ()) -> Text:
    """Begin a passage.

    Args:
        context: the last tokens of the passage before, if the language model goes on.
    """
    if decoder.is_greedy:
        return _Greedy(tokenizer)
    if decoder.search is not None:
        return _Searched(decoder.search, context)
    return _AtItsEnd(decoder)


def context_of(hypothesis: Hypothesis, tokenizer: Tokenizer) -> list[int]:
    """Return the last words of a passage as tokens, and the space after them."""
    tokens = list(hypothesis.tokens)
    starts = [i for i, token in enumerate(tokens) if tokenizer.symbols[token - 1][:1] in (" ", WORD_START)]
    if len(starts) >= _CONTEXT_WORDS:
        tokens = tokens[starts[-_CONTEXT_WORDS] :]
    if tokens and " " in tokenizer.symbols:
        space = 1 + tokenizer.symbols.index(" ")
        if tokens[-1] != space:
            tokens.append(space)
    return tokens


class _Greedy:
    """The best path; its text only grows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._paths: list[Longs] = []
        self._bests: list[LogProbs] = []
        self._last = BLANK_ID
        self._tokens = 0
        self._tokens_shown = 0

    def feed(self, log_probs_sv: LogProbs) -> None:
        path_s, best_s = best_path(log_probs_sv)
        self._paths.append(path_s)
        self._bests.append(best_s)
        for token in path_s.tolist():
            self._tokens += token not in (BLANK_ID, self._last)
            self._last = token

    def partial(self) -> tuple[Hypothesis, str] | None:
        if self._tokens == self._tokens_shown:
            return None
        self._tokens_shown = self._tokens
        hypothesis = self.final()
        return hypothesis, hypothesis.text

    def final(self) -> Hypothesis:
        if not self._paths:
            return Hypothesis("", 0.0, ())
        return of_path(np.concatenate(self._paths), np.concatenate(self._bests), self._tokenizer)


class _Searched:
    """A beam search, whose best text may change; what all texts in the beam begin with does not."""

    def __init__(self, decoder: BeamDecoder, context: Sequence[int]) -> None:
        self._stream = decoder.start(context)
        self._has_news = False

    def feed(self, log_probs_sv: LogProbs) -> None:
        self._stream.feed(log_probs_sv)
        self._has_news = True

    def partial(self) -> tuple[Hypothesis, str] | None:
        if not self._has_news:
            return None
        self._has_news = False
        return self._stream.partial()

    def final(self) -> Hypothesis:
        best = self._stream.finish()[0]
        self._stream.close()
        return best


class _AtItsEnd:
    """A decoder that needs the whole passage, as one that rescores does."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._chunks: list[LogProbs] = []

    def feed(self, log_probs_sv: LogProbs) -> None:
        self._chunks.append(log_probs_sv)

    def partial(self) -> tuple[Hypothesis, str] | None:
        return None

    def final(self) -> Hypothesis:
        if not self._chunks:
            return Hypothesis("", 0.0, ())
        return self._decoder.decode(np.concatenate(self._chunks))[0]
