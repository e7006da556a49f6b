"""The most probable path of a text through the steps, with or without gaps between its words.

The states of a text are blank, token, blank, …, token, blank. A step costs a path the difference between the greatest
log-probability of the step and that of the path's own token, so what a path has cost only grows. A first pass looks
only at states that are nearly as good as the best of their step, and finds a path. A second pass drops the states into
which every path has already cost more than that whole path: none of them can be on a better one, so the path is the
best of all. Without a path of the first pass nothing is dropped. With gaps no state is dropped either.

A pass keeps the scores at the start of each block of steps, and no way back. The way back is found block by block from
the end: each block is computed again, now with its moves, or in smaller blocks if it is long.

Axes: s steps, v vocabulary, k states, j tokens, p positions (a blank and the token before it), i places between words.

Source: Graves et al. 2006, section 4.1 (the states); Grice, Hughey and Speck 1997 (paths by checkpoints).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from asr.alignment.compiled.best_path import Scores, TextStates, advance, walk_back
from asr.decode.types import Ints, LogProbs, Moves

#: steps times states that are done as one block: a byte each
_ONE_BLOCK = 1 << 18
#: steps of a block
_BLOCK = 256
#: how often a pass keeps scores at most; bytes of all that it keeps, or scores of so many steps if that is more
_PARTS, _KEPT_BYTES, _KEPT_ROWS = 64, 1 << 19, 4
#: what the first pass keeps of a step: positions down to so many nats below the best, and at most so many
_BEAM, _WIDEST = 100.0, 512
_NO_MOVES = np.empty((2, 0, 0), np.int8)


class BestPath(NamedTuple):
    """The most probable path: at each step its state, or -1 in a gap, and its place there.

    The place is the one after the words that the gap leaves out in this step. Shapes: (s,), (s,), or (0,) without gaps.
    """

    state_s: Ints
    place_s: Ints
    #: -inf: there is no path
    log_prob: float


def text_states(labels_k: Ints, delimiter: int) -> TextStates:
    """Return the states of a text without gaps.

    Args:
        labels_k: the token of each state, as ``asr.decode.viterbi.states_of`` has them.
        delimiter: the token of the space, of which paths may have more than the text; -1: none.
    """
    label_j = labels_k[1::2].copy()
    starts = 1 if delimiter < 0 else 2  # the delimiters at both ends may be left out
    nothing = np.zeros(0, np.int32)
    return TextStates(
        label_j=label_j,
        delimiter=delimiter,
        starts=starts,
        ends=min(2 * starts, len(labels_k)),
        first_i=nothing,
        entrance_i=nothing,
        entrance_end_i=nothing,
        word_cost_i=np.zeros(0),
        gap_cost=0.0,
    )


def best_path(log_probs_sv: LogProbs, text: TextStates) -> BestPath:
    """Find the most probable path of a text; there is at least one step."""
    return _Search(log_probs_sv, text).run()


class _Point(NamedTuple):
    """Hold where a path is after a step (its state, or -1 in a gap and its place there) and its score so far."""

    state: int
    place: int
    log_prob: float


class _Search:
    """The search for one path, and what is found of it so far."""

    def __init__(self, log_probs_sv: LogProbs, text: TextStates) -> None:
        self.log_probs_sv = log_probs_sv
        self.heard_s = log_probs_sv.max(axis=1)
        self.text = text
        self.tokens, self.places = len(text.label_j), len(text.entrance_i)
        steps, states = len(log_probs_sv), 2 * self.tokens + 1 + self.places
        self.state_s = np.empty(steps, np.int32)
        self.place_s = np.empty(steps if self.places else 0, np.int32)
        self.block = _block_steps(steps, states, self.places > 0)
        # With gaps, what is computed again takes as long as the first time: it is not done twice.
        self.kept_bytes = math.inf if self.places else max(_KEPT_BYTES, _KEPT_ROWS * 8 * states)

    def run(self) -> BestPath:
        """Find the path."""
        whole = slice(0, len(self.state_s))
        gap_i = np.full(self.places, -np.inf)
        gap_i[:1] = -self.text.gap_cost
        # before the first step: as if in a blank
        start = Scores(0, np.zeros(self.text.starts), np.full(self.text.starts, -np.inf), gap_i)

        if self.block >= whole.stop:
            end, _ = self._block_back(whole, start, None)
        else:
            kept, scores = self._pass(whole, start, None, self._some_path(whole, start))
            end = self._end(scores)
            if end.log_prob > -math.inf:
                self._way_back(kept, whole.stop, end)
        return BestPath(self.state_s, self.place_s, end.log_prob)

    def _some_path(self, whole: slice, start: Scores) -> float:
        """Return the log-probability of a path; -inf: none was found."""
        if self.places:
            return -math.inf
        return self._end(self._pass(whole, start, None, -math.inf, _BEAM)[1]).log_prob

    def _pass(
        self, part: slice, scores: Scores, goal: _Point | None, least: float, beam: float = math.inf
    ) -> tuple[list[tuple[int, Scores]], Scores]:
        """Take scores through a part; return some of those on the way, each with its step, and those at the end.

        Args:
            goal: where the path is after the part; None: at the end of the text.
            least: a path is there with no less.
            beam: with one, no scores are returned but those at the end.
        """
        kept = [(part.start, scores)]
        every = self.block if self.places else self.block * math.ceil((part.stop - part.start) / self.block / _PARTS)
        held = 2 * scores.blank_p.nbytes
        limit = self._limit(part, least)
        for step in range(part.start, part.stop, self.block):
            block = slice(step, min(step + self.block, part.stop))
            if step > part.start and (step - part.start) % every == 0 and beam == math.inf:
                kept.append((step, scores))
                held += 2 * scores.blank_p.nbytes
                if held > self.kept_bytes and len(kept) > 2:  # so that each part is shorter than the whole
                    kept, every = kept[::2], 2 * every
                    held = sum(2 * each.blank_p.nbytes for _, each in kept)
            scores = self._advance(block, scores, goal, part.stop - block.stop, limit, beam, _NO_MOVES, _NO_MOVES[0])
            limit += float(self.heard_s[block].sum(dtype=np.float64))
        return kept, scores

    def _way_back(self, kept: list[tuple[int, Scores]], stop: int, point: _Point) -> _Point:
        """Find the path back from where it is before step ``stop``; return where it is before the first step kept."""
        while kept:
            start, scores = kept.pop()
            part = slice(start, stop)
            if stop - start <= self.block:
                _, point = self._block_back(part, scores, point)
            else:
                point = self._way_back(self._pass(part, scores, point, point.log_prob)[0], stop, point)
            stop = start
        return point

    def _block_back(self, part: slice, scores: Scores, end: _Point | None) -> tuple[_Point, _Point]:
        """Compute a part with its moves, and find the path in it; return where it is after and before the part.

        Args:
            end: where the path is after the part; None: at the end of the text.
        """
        rows, places = part.stop - part.start, self.places
        columns = self._highest(end) + 1
        if not places and end is not None:
            columns = min(columns, rows + 1)  # a step goes on by one position at most
        moves_2sp = np.empty((2, rows, columns), np.int8)
        gap_moves_si = np.empty((rows, places), np.int8)
        limit = -math.inf if end is None else self._limit(part, end.log_prob)
        after = self._advance(part, scores, end, 0, limit, math.inf, moves_2sp, gap_moves_si)

        end_ = self._end(after) if end is None else end
        if end_.log_prob == -math.inf:
            return end_, end_
        state, place = walk_back(
            self.text,
            end_.state,
            end_.place,
            moves_2sp,
            gap_moves_si,
            self._highest(end) + 1 - columns,
            self.state_s[part],
            self.place_s[part],
        )
        return end_, _Point(state, place, _score(scores, state, place))

    def _advance(
        self,
        part: slice,
        scores: Scores,
        goal: _Point | None,
        left: int,
        limit: float,
        beam: float,
        moves_2sp: Moves,
        gap_moves_si: Moves,
    ) -> Scores:
        """Take scores through a part; ``left`` steps later the path is at its goal."""
        highest = self._highest(goal)
        lowest = highest if goal is not None else self.tokens - self.text.ends // 2
        return advance(
            self.log_probs_sv[part],
            self.heard_s[part],
            self.text,
            scores,
            limit,
            beam,
            _WIDEST,
            0 if self.places else lowest - left,
            highest,
            moves_2sp,
            gap_moves_si,
        )

    def _highest(self, goal: _Point | None) -> int:
        """Return the last position that a path to its goal is in; None: the end of the text."""
        if goal is None:
            return self.tokens
        if goal.state >= 0:
            return (goal.state + 1) // 2
        return int(self.text.first_i[goal.place]) if goal.place < self.places - 1 else self.tokens

    def _limit(self, part: slice, least: float) -> float:
        """Return the score before a part with which a path can at best have the least after it, less for rounding."""
        best = float(self.heard_s[part].sum(dtype=np.float64))
        # what a sum of so many numbers can be off by, twice; Higham 2002, section 4.2
        rounding = 4 * len(self.heard_s) * np.finfo(np.float64).eps * (abs(best) + abs(least))
        return least - best - rounding if least > -math.inf else -math.inf

    def _end(self, scores: Scores) -> _Point:
        """Return where the best path ends."""
        best = _Point(0, -1, -math.inf)
        for state in range(2 * self.tokens + 1 - self.text.ends, 2 * self.tokens + 1):
            log_prob = _score(scores, state, -1)
            if log_prob > best.log_prob:
                best = _Point(state, -1, log_prob)
        if self.places and scores.gap_i[-1] > best.log_prob:
            best = _Point(-1, self.places - 1, float(scores.gap_i[-1]))
        return best


def _block_steps(steps: int, states: int, has_gaps: bool) -> int:
    """Return how many steps are a block."""
    if steps * states <= _ONE_BLOCK:
        return steps
    # With gaps: the scores that are kept and a block's moves take the least memory then.
    return math.ceil(math.sqrt(8 * steps)) if has_gaps else _BLOCK


def _score(scores: Scores, state: int, place: int) -> float:
    """Return the score of a state, or, if it is -1, of a gap."""
    if state < 0:
        return float(scores.gap_i[place])
    at = (state + 1) // 2 - scores.first
    score_p = scores.token_p if state % 2 else scores.blank_p
    return float(score_p[at]) if 0 <= at < len(score_p) else -math.inf
