"""The memory of the compiled search: one ``Work`` per utterance at a time, used again for the next.

Axes: s steps, v vocabulary, b prefixes in the beam, k tokens possible in a step, n utterances, h hypotheses, u tokens
of all hypotheses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from asr.decode.types import Flags, Floats, Ints, LogProbs, Longs
from asr.errors import ConfigError

#: a prefix (``asr.decode.prefixes.Prefix``): ``child`` is the newest one with one more token, ``sibling`` the one that
#: was made before this one under the same parent, ``slot`` the place in the beam; -1: none
NODE = np.dtype(
    [(name, np.int32) for name in ("parent", "token", "child", "sibling", "slot", "word", "letters", "state")]
)
#: the scores of a prefix, which nobody touches when there are none; ``end_score`` (not a number: not asked yet),
#: ``end_growth``, ``end_state`` and ``end_phrase`` are for its open word as complete
SCORES = np.dtype(
    [(name, np.float64) for name in ("score", "look", "gain", "growth", "end_score", "end_growth")]
    + [(name, np.int32) for name in ("end_state", "end_phrase", "phrase", "unused")]
)
#: a prefix with one more token, which may come into the beam; without scores only row, token and mass are filled in
CANDIDATE = np.dtype(
    [(name, np.int32) for name in ("row", "token", "word", "state", "phrase", "unused")]
    + [(name, np.float64) for name in ("mass", "growth", "score")]
)
#: where a search is: ``now`` is the half of the arrays with a leading 2 that holds the beam
STATE = np.dtype(
    [(name, np.int64) for name in ("num_nodes", "num_prefixes", "num_tokens", "now")]
    + [(name, np.float64) for name in ("log_scale", "scale")]
)


class Work(NamedTuple):
    """The memory of one search; arrays with a leading 2 are the beam and the next one's, by turns."""

    state: Any
    nodes: Any
    scores: Any
    node_2b: Ints
    blank_2b: Floats
    token_2b: Floats
    candidates: Any
    masses: Floats
    #: ``masses`` as integers
    mass_bits: Longs
    buckets: Longs
    merged_bk: Flags
    tokens_k: Ints
    place_v: Ints
    prob_v: Floats
    #: a table of futures (``asr.decode.prefixes.Scorer.future``): which prefix has it, and two numbers that hold it
    future_places: Ints
    future_2: Longs
    #: several utterances one after the other
    rows_sv: LogProbs


class Found(NamedTuple):
    """Room for the hypotheses of some utterances, ``limit`` each."""

    #: how many there are; -1: none are given, as a word had to be left out or the input looks wrong
    count_n: Ints
    log_prob_h: Floats
    lm_score_h: Floats
    #: where the tokens of a hypothesis end
    end_h: Longs
    token_u: Ints
    first_u: Ints
    last_u: Ints
    peak_u: Floats


def new_work(beam_width: int, vocabulary_size: int) -> Work:
    """Return memory for a search; pages that are never written cost nothing.

    Raises:
        ConfigError: there is not so much memory.
    """
    most = beam_width * max(vocabulary_size - 1, 1)
    try:
        masses = np.empty(most + beam_width + 1)
        futures = 2 << max(most + beam_width, vocabulary_size).bit_length()
        return Work(
            state=np.zeros(1, STATE),
            nodes=np.empty(max(4096, 4 * beam_width), NODE),
            scores=np.empty(max(4096, 4 * beam_width), SCORES),
            node_2b=np.empty((2, beam_width), np.int32),
            blank_2b=np.empty((2, beam_width)),
            token_2b=np.empty((2, beam_width)),
            candidates=np.empty(most, CANDIDATE),
            masses=masses,
            mass_bits=masses.view(np.int64),
            buckets=np.empty(256, np.int64),
            merged_bk=np.zeros(most, np.bool_),
            tokens_k=np.empty(vocabulary_size + 1, np.int32),
            place_v=np.empty(vocabulary_size, np.int32),
            prob_v=np.zeros(vocabulary_size),
            future_places=np.empty(futures, np.int32),
            future_2=np.empty((2, futures), np.int64),
            rows_sv=np.empty((0, vocabulary_size), np.float32),
        )
    except MemoryError as error:
        raise ConfigError(
            f"no memory for a beam of {beam_width:,} over {vocabulary_size:,} tokens; narrow it, or take the numpy "
            "backend",
            key="beam_width",
        ) from error


def with_more_nodes(work: Work) -> Work:
    """Return the memory of the same search with room for twice the nodes."""
    size = len(work.nodes)
    nodes, scores = np.empty(2 * size, NODE), np.empty(2 * size, SCORES)
    nodes[:size] = work.nodes
    scores[:size] = work.scores
    return work._replace(nodes=nodes, scores=scores)


def new_found(utterances: int, limit: int, steps: int) -> Found:
    """Return room for ``limit`` hypotheses of each utterance."""
    hypotheses = utterances * limit
    tokens = steps * limit  # a token takes at least one step
    return Found(
        count_n=np.zeros(utterances, np.int32),
        log_prob_h=np.empty(hypotheses),
        lm_score_h=np.empty(hypotheses),
        end_h=np.zeros(hypotheses, np.int64),
        token_u=np.empty(tokens, np.int32),
        first_u=np.empty(tokens, np.int32),
        last_u=np.empty(tokens, np.int32),
        peak_u=np.empty(tokens),
    )
