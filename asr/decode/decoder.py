"""Beam search as a person uses it: whole utterances, many in parallel threads, or chunk by chunk.

Axes: s steps, v vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np

from asr.data.tokenizer import BLANK_ID, Tokenizer
from asr.decode.beam import Final, PlainSearch
from asr.decode.confidence import word_shares
from asr.decode.consensus import confusion_network, least_risk, shares_of
from asr.decode.settings import BeamConfig
from asr.decode.tables import (
    TOKEN_FUSION,
    LanguageModel,
    ambiguous,
    build_tables,
    fusion_of,
    limits_of,
    reweighted,
    spellings,
    with_hotwords,
)
from asr.decode.types import Hypothesis, Ints, LogProbs, Span, check_log_probs
from asr.errors import ConfigError, nearest
from asr.machine import usable_cores

if TYPE_CHECKING:
    from asr.decode.compiled.search import CompiledSearches

#: utterances that a thread decodes at a time, and log-probabilities, as a block is copied
_BLOCK, _BLOCK_VALUES = 32, 1 << 20
T = TypeVar("T")
Backend = Literal["auto", "numpy", "numba"]
BACKENDS = ("auto", "numpy", "numba")
#: the answer where nothing that is allowed has a positive probability
_NOTHING = Hypothesis("", -math.inf, ())


class Search(Protocol):
    """One utterance being searched (``asr.decode.beam.PlainSearch`` defines each method)."""

    def feed(self, log_probs_sv: LogProbs, /) -> None: ...
    def finals(self, limit: int | None, /) -> list[Final]: ...
    def common(self, /) -> list[int]: ...
    def spans_of(self, log_probs_sv: LogProbs, tokens: Sequence[int], /) -> tuple[Span, ...]: ...
    def close(self) -> None: ...


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
    ) -> None:
        """
        Args:
            backend: ``numba`` (the same as ``auto``) is compiled; ``numpy`` is the plain and slow definition of it.

        Raises:
            ConfigError: the backend is unknown, or tokenizer, language model, hotwords and lexicon do not fit together.
        """
        if backend not in BACKENDS:
            raise ConfigError(
                f"unknown decoder backend {backend!r} (known: {', '.join(BACKENDS)}){nearest(backend, BACKENDS)}",
                key="backend",
            )

        config = config or BeamConfig()
        self.config = config.model_copy(update={"fusion": fusion_of(tokenizer, config, lm)})
        self.backend = backend
        self.pieces = spellings(tokenizer)
        self.tables = build_tables(tokenizer, self.config, lm)
        self._tokenizer, self._lm = tokenizer, lm
        #: whether tokens can write one text in two ways
        self.ambiguous = ambiguous(self.tables)
        #: the character that a token writes, where that is all it writes
        self.codes_v = np.array([ord(piece) if len(piece) == 1 else 0 for piece in self.pieces], np.uint32)
        self._set_searches()

    def _set_searches(self) -> None:
        self.limits = limits_of(self.config, self.tables)
        self._compiled: CompiledSearches | None = None
        if self.backend != "numpy":
            from asr.decode.compiled.search import CompiledSearches  # numba takes a while to load

            self._compiled = CompiledSearches(self.tables, self.limits)

    def _new_search(self) -> Search:
        if self._compiled is None:
            return PlainSearch(self.tables, self.limits)
        return self._compiled.start()

    def with_config(self, config: BeamConfig) -> BeamDecoder:
        """Return a decoder with other weights, widths, prunings or hotwords over the same words: at once.

        Raises:
            ConfigError: lexicon or fusion differ, which need a decoder of their own; or a hotword cannot be written.
        """
        if config.fusion == "auto":
            config = config.model_copy(update={"fusion": self.config.fusion})
        other = copy.copy(self)
        tables = self.tables
        if config.hotwords != self.config.hotwords:
            tables = with_hotwords(tables, self._tokenizer, config.hotwords, self._lm)
        other.tables = reweighted(tables, self.config, config)
        other.config = config
        other._set_searches()
        return other

    def start(self, context: Sequence[int] = ()) -> BeamStream:
        """Start a new utterance, to be fed chunk by chunk.

        Args:
            context: tokens that were said just before, for the language model; they are no part of the answers.
        """
        return BeamStream(self, context)

    def decode(self, log_probs_sv: LogProbs) -> list[Hypothesis]:
        """Return the best texts of an utterance, best first: at least one, at most ``config.nbest``, no two alike.

        Raises:
            ValueError: the input is not log-probabilities over the tokenizer's vocabulary.
        """
        return self._decode_block([log_probs_sv])[0]

    def decode_all(self, log_probs: Sequence[LogProbs], threads: int | None = None) -> list[list[Hypothesis]]:
        """``decode`` each utterance, in order, on parallel threads (default: one per core).

        Raises:
            ValueError: as ``decode``, for the first utterance that is at fault.
        """
        return _in_blocks(self._decode_block, log_probs, threads)

    def texts(self, log_probs: Sequence[LogProbs], threads: int | None = None) -> list[str]:
        """Return the best text of each utterance as ``decode_all`` does, without times: in half its time or less.

        Raises:
            ValueError: as ``decode``, for the first utterance that is at fault.
        """
        return _in_blocks(self._texts_of_block, log_probs, threads)

    def _texts_of_block(self, log_probs: Sequence[LogProbs]) -> list[str]:
        if self._compiled is None or not self._fits(log_probs):
            return [self._decode_alone(_plain(one_sv))[0].text for one_sv in log_probs]
        token_u, ends, counts = self._compiled.best_tokens(log_probs)
        letters = self._letters(token_u)
        texts = [letters[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if -1 in counts:
            for i, one_sv in enumerate(log_probs):
                if counts[i] < 0:
                    texts[i] = self._decode_alone(_plain(one_sv))[0].text
        return texts

    def _letters(self, token_u: Ints) -> str:
        """Return what tokens write where each writes one character."""
        return self.codes_v[token_u].tobytes().decode("utf-32-le", "surrogatepass")

    def _fits(self, block: Sequence[LogProbs]) -> bool:
        """Return true if these can be decoded in one compiled call."""
        shapes = {one_sv.shape[1:] for one_sv in block}
        return shapes == {(len(self.pieces),)} and not self._needs_all_texts

    def _decode_block(self, log_probs: Sequence[LogProbs]) -> list[list[Hypothesis]]:
        block = [_plain(one_sv) for one_sv in log_probs]
        if self._compiled is None or not self._fits(block):
            return [self._decode_alone(one_sv) for one_sv in block]

        most = min(self.config.nbest, self.config.beam_width)  # room for more would never be filled
        hypotheses = []

        for one_sv, found in zip(block, self._compiled.decode_whole(block, most), strict=True):
            if found is None:
                hypotheses.append(self._decode_alone(one_sv))
                continue
            nbest = [
                Hypothesis.of_columns(self._letters(spans.token_u), log_prob, lm_score, spans)
                for log_prob, lm_score, spans in found
            ]
            hypotheses.append(nbest or [_NOTHING])

        return hypotheses

    def _decode_alone(self, log_probs_sv: LogProbs) -> list[Hypothesis]:
        check_log_probs(log_probs_sv, len(self.pieces))
        search = self._new_search()
        search.feed(log_probs_sv)
        hypotheses = self._finish(search, log_probs_sv)
        search.close()
        return hypotheses

    @property
    def _needs_all_texts(self) -> bool:
        """Return true if an answer needs all texts in the beam, not only the best ones."""
        return self.ambiguous or self.config.confidence or self.config.mbr

    def _finish(self, search: Search, log_probs_sv: LogProbs) -> list[Hypothesis]:
        """Return the hypotheses that an utterance's search has ended in."""
        finals = search.finals(None if self._needs_all_texts else self.config.nbest)
        texts = [self.text(final.tokens) for final in finals]
        if self.ambiguous:
            best = self._one_per_text(texts, finals)
        else:
            best = dict(zip(texts, finals, strict=True))

        ranked = list(best.items())
        shares = shares_of([final.score for final in best.values()]) if self.config.mbr else np.zeros(0)
        if self.config.mbr and ranked:
            ranked.insert(0, ranked.pop(least_risk(list(best), shares)))
        hypotheses: list[Hypothesis] = []

        for text, final in ranked[: self.config.nbest]:
            spans = search.spans_of(log_probs_sv, final.heard)[: len(final.tokens)]
            hypothesis = Hypothesis(text, final.log_prob, spans, final.lm_score)
            if self.config.confidence:
                agreed = word_shares(text, list(best), [final.score for final in best.values()])
                hypothesis = replace(hypothesis, word_shares=agreed)
            if self.config.mbr and not hypotheses:
                hypothesis = replace(hypothesis, slots=confusion_network(text, list(best), shares))
            hypotheses.append(hypothesis)

        return hypotheses or [_NOTHING]

    def _one_per_text(self, texts: Sequence[str], finals: Sequence[Final]) -> dict[str, Final]:
        """Return each text with its most probable tokens, and with the probability of all that write it, best first.

        With a language model of tokens the probability is that of these tokens alone.
        """
        merged: dict[str, Final] = {}

        for text, final in zip(texts, finals, strict=True):
            if text not in merged:
                merged[text] = final
            elif self.tables.fusion != TOKEN_FUSION:
                log_prob = float(np.logaddexp(merged[text].log_prob, final.log_prob))
                merged[text] = merged[text]._replace(log_prob=log_prob)

        return dict(sorted(merged.items(), key=lambda item: -item[1].score))

    def text(self, tokens: Sequence[int]) -> str:
        """Return what tokens write: words with single spaces between."""
        text = "".join(map(self.pieces.__getitem__, tokens))
        return " ".join([word for word in text.split(" ") if word]) if "  " in text else text.strip(" ")


class BeamStream:
    """One utterance: ``feed`` it in any chunks; the answer is that of the whole at once."""

    def __init__(self, decoder: BeamDecoder, context: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._search = decoder._new_search()
        self._context = list(context)
        given_sv = _certain(self._context, len(decoder.pieces))
        self._context_steps = len(given_sv)
        self._chunks = [given_sv]
        self._search.feed(given_sv)

    def feed(self, log_probs_sv: LogProbs) -> None:
        """Search on through more steps.

        Raises:
            ValueError: the input is not log-probabilities over the tokenizer's vocabulary; nothing is taken of it.
        """
        # A copy: the caller may fill its buffer again. Row by row: for columns the search would be compiled once more.
        log_probs_sv = np.array(log_probs_sv, np.float32, order="C")
        check_log_probs(log_probs_sv, len(self._decoder.pieces))
        self._chunks.append(log_probs_sv)
        self._search.feed(log_probs_sv)

    def finish(self) -> list[Hypothesis]:
        """Return the best texts of all that was fed, best first. Feeding may go on afterwards.

        When nothing that is allowed has a positive probability: the empty text with log-probability -inf.
        """
        hypotheses = self._decoder._finish(self._search, np.concatenate(self._chunks))
        if not self._context_steps:
            return hypotheses
        return [self._without_context(hypothesis) for hypothesis in hypotheses]

    def partial(self) -> tuple[Hypothesis, str]:
        """Return the best text so far, without shares, and the part of it that all texts in the beam begin with."""
        best = self._search.finals(1)
        if not best:
            return _NOTHING, ""
        spans = self._search.spans_of(np.concatenate(self._chunks), best[0].heard)[: len(best[0].tokens)]
        hypothesis = Hypothesis(self._decoder.text(best[0].tokens), best[0].log_prob, spans, best[0].lm_score)
        stable = self._decoder.text(self._search.common()[len(self._context) :])
        return self._without_context(hypothesis), stable

    def close(self) -> None:
        """Give the memory of the search back; the utterance is over."""
        self._search.close()

    def _without_context(self, hypothesis: Hypothesis) -> Hypothesis:
        first = self._context_steps
        if not first:
            return hypothesis
        spans = [span for span in hypothesis.spans if span.start >= first]
        own = tuple(span._replace(start=span.start - first, end=span.end - first) for span in spans)
        text = self._decoder.text([span.token for span in own])
        shares = hypothesis.word_shares
        if shares is not None:
            words = len(text.split(" ")) if text else 0
            shares = shares[len(shares) - words :]
        return replace(hypothesis, text=text, spans=own, word_shares=shares)


def _in_blocks(
    decode: Callable[[Sequence[LogProbs]], list[T]], log_probs: Sequence[LogProbs], threads: int | None
) -> list[T]:
    """Return what is decoded from utterances in order, some of them at a time on each of the threads."""
    blocks: list[list[LogProbs]] = []
    values = 0
    for one_sv in log_probs:
        size = one_sv.size
        if not blocks or len(blocks[-1]) == _BLOCK or values + size > _BLOCK_VALUES:
            blocks.append([])
            values = 0
        blocks[-1].append(one_sv)
        values += size
    workers = min(threads or usable_cores(), len(blocks))
    if workers <= 1:
        return [result for block in blocks for result in decode(block)]
    with ThreadPoolExecutor(workers) as pool:
        return [result for block in pool.map(decode, blocks) for result in block]


def _certain(tokens: Sequence[int], vocabulary_size: int) -> LogProbs:
    """Return steps in which these tokens are certain, each followed by a blank. Shapes: (s, v)."""
    path = [token for each in tokens for token in (each, BLANK_ID)]
    log_probs_sv = np.full((len(path), vocabulary_size), -np.inf, np.float32)
    log_probs_sv[np.arange(len(path)), path] = 0.0
    return log_probs_sv


def _plain(log_probs_sv: LogProbs) -> LogProbs:
    """Return the array as the compiled search takes it; for one that is read-only it would be compiled once more."""
    plain_sv = np.ascontiguousarray(log_probs_sv, np.float32)
    return plain_sv if plain_sv.flags.writeable else plain_sv.copy()
