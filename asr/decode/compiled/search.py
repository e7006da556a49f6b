"""The compiled beam search as an object: its memory, used again for the next utterance, and its compilation.

Axes: s steps, v vocabulary, b prefixes in the beam, u tokens of a text.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asr.decode.beam import Final
from asr.decode.compiled import beam, ends, viterbi, whole
from asr.decode.compiled.scores import CANDIDATE, NODE, SCORES, Work
from asr.decode.tables import Limits, SearchTables
from asr.decode.types import LogProbs, Span, SpanColumns
from asr.decode.viterbi import states_of
from asr.errors import ConfigError

logger = logging.getLogger(__name__)

#: acoustic log-probability, score of everything else, spans
Decoded = tuple[float, float, SpanColumns]
#: modules of compiled code, and those whose code is put into it
_PARTS = ("whole", "beam", "borrowed", "ends", "scores", "viterbi")
_INCLUDED = ("asr.lm.compiled.ngram", "asr.lm.model", "asr.decode.tables")
_compiling = threading.RLock()
_ready = False


class CompiledSearches:
    """Make searches over one set of tables. ``CompiledSearch.close`` gives the memory back for the next one."""

    def __init__(self, tables: SearchTables, limits: Limits) -> None:
        self.tables = tables
        self.limits = limits
        self.free: list[Work] = []

    def start(self) -> CompiledSearch:
        compile_once(self)
        return CompiledSearch(self)

    def take_work(self) -> Work:
        """The memory of a search that is over, or new."""
        try:
            return self.free.pop()
        except IndexError:
            return _new_work(self.limits.beam_width, len(self.tables.opens_v))

    def decode_whole(self, log_probs: Sequence[LogProbs], limit: int) -> list[list[Decoded] | None]:
        """The best texts of whole utterances, best first; ``None`` where a ``CompiledSearch`` has to do it."""
        compile_once(self)
        work = self.take_work()
        end_n = np.cumsum([len(one_sv) for one_sv in log_probs])
        if len(log_probs) == 1:
            all_sv = log_probs[0]
        else:  # into memory that is kept: new pages cost more than the search of a short utterance
            if end_n[-1] > len(work.rows_sv):
                work = work._replace(rows_sv=np.empty((end_n[-1], len(self.tables.opens_v)), np.float32))
            all_sv = np.concatenate(log_probs, out=work.rows_sv[: end_n[-1]])
        found = _new_found(len(log_probs), limit, int(end_n[-1]))
        done = 0
        while True:
            done = whole.decode_whole(self.tables, self.limits, work, all_sv, end_n, done, limit, found)
            if done == len(log_probs):
                break
            work = _longer(work)
        self.free.append(work)
        return _decoded(found, limit)


class CompiledSearch:
    """A search over one utterance; its methods are those of ``asr.decode.beam.PlainSearch``."""

    def __init__(self, searches: CompiledSearches) -> None:
        self._searches = searches
        self._work = searches.take_work()
        whole.begin(searches.tables, self._work)

    def feed(self, log_probs_sv: LogProbs) -> None:
        searches, step = self._searches, 0
        while True:
            step = beam.search_steps(searches.tables, searches.limits, self._work, step, log_probs_sv)
            if step == len(log_probs_sv):
                return
            self._work = _longer(self._work)

    def finals(self, limit: int | None) -> list[Final]:
        node_b, log_prob_b, lm_score_b, heard_b = ends.end_all(self._searches.tables, self._work)
        order = np.argsort(-(log_prob_b + lm_score_b), kind="stable")
        cut = len(order) > 0 and bool((node_b != heard_b).any())
        if not cut:
            order = order[:limit]
        found: dict[int, tuple[float, float, int]] = {}
        for row in order.tolist():
            node, log_prob, heard = int(node_b[row]), float(log_prob_b[row]), int(heard_b[row])
            if node in found:  # they differ in the word that was cut
                log_prob = float(np.logaddexp(found[node][0], log_prob))
                heard = found[node][2]
            found[node] = log_prob, float(lm_score_b[row]), heard
        finals = [
            Final(self._tokens_of(node), log_prob, lm_score, self._tokens_of(heard))
            for node, (log_prob, lm_score, heard) in found.items()
        ]
        return sorted(finals, key=lambda final: -final.score)[:limit]

    def _tokens_of(self, node: int) -> list[int]:
        tokens: list[int] = ends.tokens_of(self._work.nodes, node).tolist()
        return tokens

    def spans_of(self, log_probs_sv: LogProbs, tokens: Sequence[int]) -> tuple[Span, ...]:
        delimiter = self._searches.tables.delimiter
        labels_k = states_of(tokens, delimiter)
        found = viterbi.find_spans(log_probs_sv, labels_k, delimiter, self._searches.limits.floor)
        firsts, ends, peaks = (each_u.tolist() for each_u in found)
        return tuple(map(Span._make, zip(tokens, firsts, ends, peaks, strict=True)))

    def close(self) -> None:
        """Gives the memory back; the search is over."""
        self._searches.free.append(self._work)
        del self._work


def _longer(work: Work) -> Work:
    """The same search with room for twice the nodes."""
    nodes, scores = np.empty(2 * len(work.nodes), NODE), np.empty(2 * len(work.nodes), SCORES)
    nodes[: len(work.nodes)], scores[: len(work.nodes)] = work.nodes, work.scores
    return work._replace(nodes=nodes, scores=scores)


def _new_found(utterances: int, limit: int, steps: int) -> whole.Found:
    most, hypotheses = steps * limit, utterances * limit  # a token takes a step at least
    return whole.Found(
        np.zeros(utterances, np.int32), np.empty(hypotheses), np.empty(hypotheses), np.zeros(hypotheses, np.int64),
        np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most),
    )  # fmt: skip


def _decoded(found: whole.Found, limit: int) -> list[list[Decoded] | None]:
    end_h, acoustic_h, fusion_h = found.end_h.tolist(), found.acoustic_h.tolist(), found.fusion_h.tolist()
    token_u, first_u, last_u, peak_u = found.token_u, found.first_u, found.last_u, found.peak_u
    out: list[list[Decoded] | None] = []
    for n, count in enumerate(found.count_n.tolist()):
        if count < 0:
            out.append(None)
            continue
        utterance = []
        for h in range(n * limit, n * limit + count):
            part = slice(end_h[h - 1] if h else 0, end_h[h])
            # copies: a view would keep the whole block's memory
            spans = SpanColumns(token_u[part].copy(), first_u[part].copy(), last_u[part].copy(), peak_u[part].copy())
            utterance.append((acoustic_h[h], fusion_h[h], spans))
        out.append(utterance)
    return out


def _new_work(beam_width: int, vocabulary_size: int) -> Work:
    """Memory for a search; pages that are never written cost nothing."""
    most = beam_width * max(vocabulary_size - 1, 1)
    try:
        return Work(
            nodes=np.empty(max(4096, 4 * beam_width), NODE),
            scores=np.empty(max(4096, 4 * beam_width), SCORES),
            node_2b=np.empty((2, beam_width), np.int32),
            blank_2b=np.empty((2, beam_width)),
            token_2b=np.empty((2, beam_width)),
            candidates=np.empty(most, CANDIDATE),
            masses=np.empty(most + beam_width + 1),
            buckets=np.empty(256, np.int64),
            merged_bk=np.zeros(most, np.bool_),
            tokens_k=np.empty(vocabulary_size, np.int32),
            place_v=np.empty(vocabulary_size, np.int32),
            chosen_v=np.empty(vocabulary_size),
            fall_l=np.empty(32),
            counts=np.zeros(3, np.int64),
            scales=np.zeros(2),
            rows_sv=np.empty((0, vocabulary_size), np.float32),
        )
    except MemoryError as error:
        raise ConfigError(
            f"no memory for a beam of {beam_width:,} over {vocabulary_size:,} tokens; narrow it, or take the numpy "
            "backend",
            key="beam_width",
        ) from error


def compile_once(searches: CompiledSearches) -> None:
    """Compiles the search, or loads it from disk, once a process; says so when it takes its time."""
    global _ready
    with _compiling:
        if _ready:
            return
        _forget_outdated()
        if not _cached("search_steps-*.nbi"):
            logger.info("compiling the beam search; this happens once and takes about 15 s")
        start_s = time.perf_counter()
        search = CompiledSearch(searches)
        vocabulary_size = len(searches.tables.opens_v)
        log_probs_sv = np.full((1, vocabulary_size), -math.inf, np.float32)
        log_probs_sv[0, 0] = 0.0
        search.feed(log_probs_sv)
        for final in search.finals(1):
            search.spans_of(log_probs_sv, final.tokens)
        search.close()
        _ready = True
        searches.decode_whole([log_probs_sv], 1)
        took_s = time.perf_counter() - start_s
        if took_s > 2.0:
            logger.info("compiled the beam search in %.1f s; kept in %s", took_s, _cache_folder())


def _cache_folder() -> Path:
    return Path(beam.search_steps.stats.cache_path)  # type: ignore[attr-defined]


def _cached(pattern: str) -> list[Path]:
    return sorted(path for part in _PARTS for path in _cache_folder().glob(f"{part}.{pattern}"))


def _forget_outdated() -> None:
    """Removes compiled code that is older than what it was made of: numba looks only at a function's own file."""
    sources = [*(f"asr.decode.compiled.{part}" for part in _PARTS), *_INCLUDED]
    newest_s = max(Path(str(sys.modules[name].__file__)).stat().st_mtime for name in sources)
    if any(index.stat().st_mtime < newest_s for index in _cached("*.nbi")):
        for path in _cached("*"):
            path.unlink(missing_ok=True)
