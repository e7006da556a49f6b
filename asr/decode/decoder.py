"""Beam search as a person uses it: whole utterances, many in parallel threads, or chunk by chunk.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np

from asr.data.tokenizer import Tokenizer
from asr.decode.beam import Final, NumpySearch
from asr.decode.confidence import word_shares
from asr.decode.fusion import FusionSearch, TokenModel
from asr.decode.settings import BeamConfig
from asr.decode.tables import TOKEN_FUSION, LanguageModel, build_tables, fusion_of, pieces_of, reweighted
from asr.decode.types import Hypothesis, LogProbs, Span, SpanColumns, check_log_probs
from asr.errors import ConfigError, nearest

#: utterances that a thread decodes at a time; numpy's are searched in lockstep
_BLOCK = {"numba": 8, "numpy": 32}
Backend = Literal["auto", "numpy", "numba"]
BACKENDS = ("auto", "numpy", "numba")


class Search(Protocol):
    """One utterance being searched (``asr.decode.beam.NumpySearch`` defines each method)."""

    def feed(self, log_probs_sv: LogProbs, /) -> None: ...
    def finals(self, limit: int | None, /) -> list[Final]: ...
    def tokens_of(self, node: int, /) -> list[int]: ...
    def spans_of(self, log_probs_sv: LogProbs, tokens: list[int], /) -> tuple[Span, ...]: ...
    def close(self) -> None: ...


def _check_tokens(model: TokenModel, tokenizer: Tokenizer) -> None:
    """Refuses a neural model of other tokens than the acoustic model's.

    Raises:
        ConfigError: their number differs, or where the model knows its symbols, one of them does.
    """
    size = np.shape(model.begin()[0])[-1]
    theirs = getattr(model, "symbols", tokenizer.symbols)
    if size != tokenizer.vocabulary_size or theirs != tokenizer.symbols:
        what = f"{size - 1:,}, not {tokenizer.vocabulary_size - 1:,}" if size != tokenizer.vocabulary_size else "others"
        raise ConfigError(f"a neural model inside the search needs the acoustic model's own tokens; it has {what}")


class BeamDecoder:
    """A CTC prefix beam search with its tables built once; used for any number of utterances, from any thread.

    >>> from asr.data.tokenizer import CharTokenizer
    >>> decoder = BeamDecoder(CharTokenizer(("a", "b")), backend="numpy")
    >>> decoder.decode(np.log(np.array([[0.4, 0.6, 0.0], [0.5, 0.3, 0.2]], np.float32).clip(1e-30)))[0].text
    'a'
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: BeamConfig | None = None,
        lm: LanguageModel | None = None,
        backend: Backend = "auto",
        fused: tuple[TokenModel, float] | None = None,
    ) -> None:
        """
        Args:
            fused: a neural language model of the tokenizer's tokens, and its weight; in numpy only (``fusion.py``).

        Raises:
            ConfigError: the backend is unknown, or tokenizer, language model, hotwords and lexicon do not fit together.
        """
        if backend not in BACKENDS:
            raise ConfigError(
                f"unknown decoder backend {backend!r} (known: {', '.join(BACKENDS)}){nearest(backend, BACKENDS)}",
                key="backend",
            )
        if fused is not None and (backend == "numba" or fused[1] < 0):
            raise ConfigError("a neural model inside the search needs the numpy backend and a weight of at least 0")
        config = config or BeamConfig()
        self.config = config.model_copy(update={"fusion": fusion_of(tokenizer, config, lm)})
        if fused is not None:
            _check_tokens(fused[0], tokenizer)
        self.fused = fused
        self.backend: Literal["numpy", "numba"] = "numpy" if backend == "numpy" or fused is not None else "numba"
        self.pieces = pieces_of(tokenizer)
        #: whether tokens can write one text in two ways: only those of several letters can
        self.ambiguous = any(len(piece) != 1 for piece in self.pieces[1:])
        self.tables = build_tables(tokenizer, self.config, lm)
        self._set_searches()

    def _set_searches(self) -> None:
        self._new_search: Callable[[], Search]
        #: whole utterances at once, where it is compiled and nothing but the best texts of the beam is asked for
        self._whole: Callable[[Sequence[LogProbs], int], list[Any]] | None = None
        if self.backend == "numba":
            from asr.decode.compiled.search import NumbaSearches

            searches = NumbaSearches(self.tables, self.config)
            self._new_search = searches
            if not (self.ambiguous or self.config.confidence):
                self._whole = searches.decode_whole
        else:
            self._new_search = self._lockstep

    def _lockstep(self, utterances: int = 1) -> NumpySearch:
        if self.fused is not None:
            return FusionSearch(self.tables, self.config, *self.fused, utterances)
        return NumpySearch(self.tables, self.config, utterances)

    def with_config(self, config: BeamConfig) -> BeamDecoder:
        """A decoder with other weights, widths or prunings over the same tables: made at once, however many words.

        Raises:
            ConfigError: hotwords, lexicon or fusion differ; those need a decoder of their own.
        """
        if config.fusion == "auto":
            config = config.model_copy(update={"fusion": self.config.fusion})
        other = copy.copy(self)
        other.tables, other.config = reweighted(self.tables, self.config, config), config
        other._set_searches()
        return other

    def start(self) -> BeamStream:
        """A new utterance, to be fed chunk by chunk."""
        return BeamStream(self)

    def decode(self, log_probs_sv: LogProbs) -> list[Hypothesis]:
        """The best texts of an utterance, best first: at least one, at most ``config.nbest``, no two alike.

        Raises:
            ValueError: the input is not log-probabilities over the tokenizer's vocabulary.
        """
        return self._decode_block([log_probs_sv])[0]

    def decode_all(self, log_probs: Sequence[LogProbs], threads: int | None = None) -> list[list[Hypothesis]]:
        """``decode`` of each utterance, in order, on parallel threads (default: one a core).

        Raises:
            ValueError: as ``decode``, for the first utterance that is at fault.
        """
        size = _BLOCK[self.backend]
        blocks = [list(log_probs[start : start + size]) for start in range(0, len(log_probs), size)]
        workers = min(threads or cores(), len(blocks))
        if workers <= 1:
            return [nbest for block in blocks for nbest in self._decode_block(block)]
        with ThreadPoolExecutor(workers) as pool:
            return [nbest for block in pool.map(self._decode_block, blocks) for nbest in block]

    def _decode_block(self, log_probs: Sequence[LogProbs]) -> list[list[Hypothesis]]:
        block = [_plain(one_sv) for one_sv in log_probs]
        if self.backend == "numpy":
            return self._decode_lockstep(block)
        alike = all(one_sv.ndim == 2 and one_sv.shape[1] == len(self.pieces) for one_sv in block)
        if not (block and alike and self._whole):
            return [self._decode_stream(one_sv) for one_sv in block]
        most = min(self.config.nbest, self.config.beam_width)  # room for more would never be filled
        return [
            self._decode_stream(one_sv) if found is None else self._hypotheses(found)
            for one_sv, found in zip(block, self._whole(block, most), strict=True)
        ]

    def _decode_lockstep(self, block: Sequence[LogProbs]) -> list[list[Hypothesis]]:
        for one_sv in block:
            _check(one_sv, len(self.pieces))
        search = self._lockstep(len(block))
        search.feed_all(block)
        found = search.finals_of_all(self.finals_asked)
        return [self._finish(search, finals, one_sv) for finals, one_sv in zip(found, block, strict=True)]

    def _decode_stream(self, log_probs_sv: LogProbs) -> list[Hypothesis]:
        stream = self.start()
        _check(log_probs_sv, len(self.pieces))
        stream._feed_own(log_probs_sv)
        hypotheses = stream.finish()
        stream.close()
        return hypotheses

    def _hypotheses(self, found: Sequence[tuple[float, float, SpanColumns]]) -> list[Hypothesis]:
        return [
            Hypothesis.of_columns(self.text(spans.token_u.tolist()), acoustic, fusion, spans)
            for acoustic, fusion, spans in found
        ] or [Hypothesis("", -math.inf, ())]

    @property
    def finals_asked(self) -> int | None:
        """How many of the best texts in the beam an answer needs; None: all."""
        return None if self.ambiguous or self.config.confidence else self.config.nbest

    def _finish(self, search: Search, finals: list[Final], log_probs_sv: LogProbs) -> list[Hypothesis]:
        """The hypotheses that an utterance's search has ended in."""
        if self.ambiguous:
            finals = self._merge_equal_texts(search, finals)
        if not finals:
            return [Hypothesis("", -math.inf, ())]
        hypotheses = []
        for node, acoustic, fusion, whole in finals[: self.config.nbest]:
            tokens = search.tokens_of(node)
            aligned = tokens if whole == node else search.tokens_of(whole)
            spans = search.spans_of(log_probs_sv, aligned)[: len(tokens)]
            hypotheses.append(Hypothesis(self.text(tokens), acoustic, spans, fusion))
        if self.config.confidence:
            texts = [self.text(search.tokens_of(final[0])) for final in finals]
            scores = [final[1] + final[2] for final in finals]
            return [replace(h, word_shares=word_shares(h.text, texts, scores)) for h in hypotheses]
        return hypotheses

    def _merge_equal_texts(self, search: Search, finals: list[Final]) -> list[Final]:
        """One entry a text: its most probable tokens, and the probability of all (token fusion: of these tokens)."""
        merged: dict[str, Final] = {}
        for final in finals:
            text = self.text(search.tokens_of(final[0]))
            if text not in merged:
                merged[text] = final
            elif self.tables.fusion != TOKEN_FUSION:
                node, acoustic, fusion, whole = merged[text]
                merged[text] = node, float(np.logaddexp(acoustic, final[1])), fusion, whole
        return sorted(merged.values(), key=lambda final: -(final[1] + final[2]))

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens write: words with single spaces between."""
        text = "".join(map(self.pieces.__getitem__, tokens))
        return " ".join([word for word in text.split(" ") if word]) if "  " in text else text.strip(" ")


class BeamStream:
    """One utterance: ``feed`` it in any chunks; the answer is that of the whole at once."""

    def __init__(self, decoder: BeamDecoder) -> None:
        self._decoder = decoder
        self._search = decoder._new_search()
        self._chunks: list[LogProbs] = []

    def feed(self, log_probs_sv: LogProbs) -> None:
        """Searches on through more steps.

        Raises:
            ValueError: the input is not log-probabilities over the tokenizer's vocabulary; nothing is taken of it.
        """
        # A copy: the caller may fill its buffer again. Row by row: for columns the search would be compiled once more.
        log_probs_sv = np.array(log_probs_sv, np.float32, order="C")
        _check(log_probs_sv, len(self._decoder.pieces))
        self._feed_own(log_probs_sv)

    def _feed_own(self, log_probs_sv: LogProbs) -> None:
        """Feeds an array that is checked, and that nobody changes any more."""
        self._chunks.append(log_probs_sv)
        self._search.feed(log_probs_sv)

    def finish(self) -> list[Hypothesis]:
        """The best texts of all that was fed, best first. Feeding may go on afterwards.

        When nothing that is allowed has a positive probability: the empty text with log-probability -inf.
        """
        decoder = self._decoder
        log_probs_sv = self._chunks[0] if len(self._chunks) == 1 else np.concatenate(
            [np.zeros((0, len(decoder.pieces)), np.float32), *self._chunks]
        )  # fmt: skip
        return decoder._finish(self._search, self._search.finals(decoder.finals_asked), log_probs_sv)

    def close(self) -> None:
        """Ends the utterance and gives its memory to the next one; optional, and nothing can be done after it."""
        self._search.close()


def _plain(log_probs_sv: LogProbs) -> LogProbs:
    """The array as the compiled search takes it; for one that is read-only it would be compiled once more."""
    plain_sv = np.ascontiguousarray(log_probs_sv, np.float32)
    return plain_sv if plain_sv.flags.writeable else plain_sv.copy()


def _check(log_probs_sv: LogProbs, vocabulary_size: int) -> None:
    """Refuses what is not log-probabilities over the vocabulary, at the cost of two fast sweeps where they are."""
    if log_probs_sv.ndim == 2 and log_probs_sv.shape[1] == vocabulary_size:
        with np.errstate(over="ignore"):
            sums_s = np.einsum("sv->s", np.exp(log_probs_sv))  # three times as fast as sum(axis=1) on short rows
        # what float32 cannot tell from the limit is looked at in float64 below
        if (np.abs(sums_s - 1) <= 0.9e-3).all():
            return
    check_log_probs(log_probs_sv)
    if log_probs_sv.shape[1] != vocabulary_size:
        raise ValueError(
            f"log_probs has {log_probs_sv.shape[1]} tokens, the tokenizer {vocabulary_size} (blank included)"
        )


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
