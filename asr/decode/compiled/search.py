"""The compiled beam search as an object: its memory, used again for the next utterance, and its compilation.

Axes: s steps, v vocabulary, n utterances, b prefixes in the beam, h hypotheses, u tokens of a text.
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
from asr.decode.compiled import beam, prefixes, viterbi, whole
from asr.decode.compiled.memory import Found, Work, new_found, new_work, with_more_nodes
from asr.decode.tables import Limits, SearchTables
from asr.decode.types import Ints, LogProbs, Span, SpanColumns

logger = logging.getLogger(__name__)

#: log-probability, other score, spans
Decoded = tuple[float, float, SpanColumns]
#: modules of compiled code, and those whose code is put into it
_PARTS = ("whole", "beam", "borrowed", "memory", "prefixes", "recombination", "rows", "selection", "viterbi")
_INCLUDED = (
    "asr.lm.compiled.ngram",
    "asr.lm.compiled.kenlm",
    "asr.lm.arrays",
    "asr.decode.tables",
    "asr.decode.phrases",
)
_compiling = threading.RLock()
#: the kinds of language model that the search was compiled for
_ready: set[type] = set()


class CompiledSearches:
    """Make searches over one set of tables, and keep their memory for the next ones."""

    def __init__(self, tables: SearchTables, limits: Limits) -> None:
        self.tables = tables
        self.limits = limits
        self.free: list[Work] = []

    def start(self) -> CompiledSearch:
        """Start the search of one utterance."""
        compile_once(self)
        return CompiledSearch(self)

    def take_work(self) -> Work:
        """Return the memory of a search that is over, or new memory."""
        try:
            return self.free.pop()
        except IndexError:  # another thread may have taken the last one
            return new_work(self.limits.beam_width, len(self.tables.opens_v))

    def decode_whole(self, log_probs: Sequence[LogProbs], limit: int) -> list[list[Decoded] | None]:
        """Return the best texts of whole utterances, best first; ``None`` where a ``CompiledSearch`` has to do it."""
        return _decoded(self._find(log_probs, limit, times=True), limit)

    def best_tokens(self, log_probs: Sequence[LogProbs]) -> tuple[Ints, list[int], list[int]]:
        """Return the tokens of the best texts one after the other, where those of each end, and how many texts.

        There is one text of an utterance or none, or -1: a ``CompiledSearch`` has to do it.
        """
        found = self._find(log_probs, 1, times=False)
        ends = found.end_h.tolist()
        return found.token_u[: ends[-1]], ends, found.count_n.tolist()

    def _find(self, log_probs: Sequence[LogProbs], limit: int, times: bool) -> Found:
        compile_once(self)
        work = self.take_work()
        end_n = np.cumsum([len(one_sv) for one_sv in log_probs])
        steps = int(end_n[-1])
        if len(log_probs) == 1 and times:
            all_sv = log_probs[0]
        else:  # into memory that is kept: new pages cost more than the search of a short utterance
            if steps > len(work.rows_sv):
                work = work._replace(rows_sv=np.empty((steps, len(self.tables.opens_v)), np.float32))
            all_sv = np.concatenate(log_probs, out=work.rows_sv[:steps])

        found = new_found(len(log_probs), limit, steps)
        done = 0

        while True:
            done = whole.decode_whole(self.tables, self.limits, work, all_sv, end_n, done, limit, times, found)
            if done == len(log_probs):
                break
            work = with_more_nodes(work)

        self.free.append(work)
        return found


class CompiledSearch:
    """Search one utterance; the methods are those of ``asr.decode.beam.PlainSearch``."""

    def __init__(self, searches: CompiledSearches) -> None:
        self._searches = searches
        self._tables = searches.tables
        self._limits = searches.limits
        self._work = searches.take_work()
        prefixes.begin(self._tables, self._work)

    def feed(self, log_probs_sv: LogProbs) -> None:
        step = 0
        while True:
            step = beam.search_steps(self._tables, self._limits, self._work, step, log_probs_sv)
            if step == len(log_probs_sv):
                return
            self._work = with_more_nodes(self._work)

    def finals(self, limit: int | None) -> list[Final]:
        node_b, log_prob_b, lm_score_b, heard_b = whole.end_utterance(self._tables, self._work)
        order = np.argsort(-(log_prob_b + lm_score_b), kind="stable")
        words_were_cut = bool((node_b != heard_b).any())
        if not words_were_cut:
            order = order[:limit]

        merged: dict[int, tuple[float, float, int]] = {}

        for row in order.tolist():
            node = int(node_b[row])
            log_prob = float(log_prob_b[row])
            heard = int(heard_b[row])
            if node in merged:  # they differ in the word that was cut
                log_prob = float(np.logaddexp(merged[node][0], log_prob))
                heard = merged[node][2]
            merged[node] = log_prob, float(lm_score_b[row]), heard

        finals = [
            Final(self._tokens_of(node), log_prob, lm_score, self._tokens_of(heard))
            for node, (log_prob, lm_score, heard) in merged.items()
        ]
        return sorted(finals, key=lambda final: -final.score)[:limit]

    def common(self) -> list[int]:
        state = self._work.state[0]
        parents = self._work.nodes["parent"]
        alive = self._work.node_2b[state["now"], : state["num_prefixes"]].tolist()
        if not alive:
            return []
        line = alive[:1]
        while parents[line[-1]] >= 0:
            line.append(int(parents[line[-1]]))
        line.reverse()  # from the empty prefix on
        place = {node: i for i, node in enumerate(line)}
        shared = len(line) - 1
        for node in alive[1:]:
            while place.get(node, len(line)) > shared:  # of a prefix that is not on the line, too
                node = int(parents[node])
            shared = place[node]
        return self._tokens_of(line[shared])

    def _tokens_of(self, node: int) -> list[int]:
        tokens: list[int] = prefixes.tokens_of(self._work.nodes, node).tolist()
        return tokens

    def spans_of(self, log_probs_sv: LogProbs, tokens: Sequence[int]) -> tuple[Span, ...]:
        token_u = np.array(tokens, np.int32)
        found = viterbi.find_spans(log_probs_sv, token_u, self._tables.delimiter, self._limits.floor)
        first_u, end_u, peak_u = (each_u.tolist() for each_u in found)
        return tuple(Span(*row) for row in zip(tokens, first_u, end_u, peak_u, strict=True))

    def close(self) -> None:
        """Give the memory back; the search is over."""
        self._searches.free.append(self._work)
        del self._work


def _decoded(found: Found, limit: int) -> list[list[Decoded] | None]:
    """Return the hypotheses of each utterance."""
    end_h = [0, *found.end_h.tolist()]
    # One copy of what is filled, for all: views of ``found`` would keep room for tokens in every step.
    token_u, start_u, end_u = (each_u[: end_h[-1]].copy() for each_u in (found.token_u, found.first_u, found.last_u))
    peak_u = found.peak_u[: end_h[-1]].copy()
    log_prob_h, lm_score_h = found.log_prob_h.tolist(), found.lm_score_h.tolist()
    utterances: list[list[Decoded] | None] = []

    for n, count in enumerate(found.count_n.tolist()):
        if count < 0:
            utterances.append(None)
            continue
        hypotheses = []
        for h in range(n * limit, n * limit + count):
            part = slice(end_h[h], end_h[h + 1])
            spans = SpanColumns(token_u[part], start_u[part], end_u[part], peak_u[part])
            hypotheses.append((log_prob_h[h], lm_score_h[h], spans))
        utterances.append(hypotheses)

    return utterances


def compile_once(searches: CompiledSearches) -> None:
    """Compile the search, or load it from disk, once per process and kind of model; log it when it takes long."""
    kind = type(searches.tables.lm)
    with _compiling:
        if kind in _ready:
            return
        _forget_outdated()
        if not _cached("search_steps-*.nbi"):
            logger.info("compiling the beam search; this happens once and takes about half a minute")
        start_s = time.perf_counter()
        search = CompiledSearch(searches)
        vocabulary_size = len(searches.tables.opens_v)
        log_probs_sv = np.full((1, vocabulary_size), -math.inf, np.float32)
        log_probs_sv[0, 0] = 0.0
        search.feed(log_probs_sv)
        for final in search.finals(1):
            search.spans_of(log_probs_sv, final.tokens)
        search.close()
        _ready.add(kind)
        searches.decode_whole([log_probs_sv], 1)
        took_s = time.perf_counter() - start_s
        if took_s > 2.0:
            logger.info("compiled the beam search in %.1f s; kept in %s", took_s, _cache_folder())


def _cache_folder() -> Path:
    return Path(beam.search_steps.stats.cache_path)  # type: ignore[attr-defined]


def _cached(pattern: str) -> list[Path]:
    return sorted(path for part in _PARTS for path in _cache_folder().glob(f"{part}.{pattern}"))


def _forget_outdated() -> None:
    """Remove compiled code that is older than what it was made of: numba looks only at a function's own file."""
    sources = [*(f"asr.decode.compiled.{part}" for part in _PARTS), *_INCLUDED]
    newest_s = max(Path(str(sys.modules[name].__file__)).stat().st_mtime for name in sources)
    if any(index.stat().st_mtime < newest_s for index in _cached("*.nbi")):
        for path in _cached("*"):
            path.unlink(missing_ok=True)
