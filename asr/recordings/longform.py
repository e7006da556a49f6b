"""Recordings of any length through a network trained on utterances: cut at pauses, joined as log-probabilities.

Axes: s steps, v vocabulary.

A recording no longer than the model's training utterances is one piece, and gives what evaluation gives. A longer one
is cut inside pauses (by ``pauses``); where none is in reach, two pieces share audio, and their log-probabilities are
joined where both are surely blank. What is decoded at a time is a passage: all pieces up to a pause that ends a
sentence. So the state of the decoder and of its language model goes on across cuts, and memory does not grow with the
length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from asr.batch import Features, extract
from asr.data.audio import Wave
from asr.data.tokenizer import BLANK_ID, Tokenizer
from asr.decode.types import LogProbs
from asr.infer import pipeline
from asr.model.checkpoint import AcousticModel
from asr.recordings.media import Stream
from asr.recordings.pauses import Piece, cut
from asr.recordings.speech import no_speech_prob
from asr.transcript import Seam

#: a pause as long as this ends a sentence: what follows is decoded anew
PASSAGE_PAUSE_S = 1.5
#: a passage ends at the next cut inside a pause once it is this long
PASSAGE_S = 120.0
#: and at the next cut of any kind once it is this long
LONGEST_PASSAGE_S = 600.0
#: what a model without a stated limit is given at a time
DEFAULT_LONGEST_S = 20.0
#: what a model may say of it
SHORTEST_S, LONGEST_S = 0.5, 3600.0
#: the probability of the space (or of the blank) in the step that stands for a pause
_SURE = 0.999
#: what two parts must gain (in log-probability of blank) to meet where they differ in the token before, or after
_DISAGREE = 30.0

Times = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """Where a piece lies: a ``Piece`` without its samples. In samples of the recording at the model's rate.

    ``no_speech_prob``: how probable it is that nobody speaks in it.
    """

    start_n: int
    num_samples: int
    keep_from_n: int
    keep_to_n: int
    ends: Literal["pause", "overlap", "end"]
    length_s: float
    no_speech_prob: float = 0.0

    @classmethod
    def of(cls, piece: Piece, no_speech_prob: float) -> Place:
        return cls(
            piece.start_n,
            len(piece.wave_n),
            piece.keep_from_n,
            piece.keep_to_n,
            piece.ends,
            piece.length_s,
            no_speech_prob,
        )


@dataclass(frozen=True)
class Emissions:
    """Log-probabilities of a recording or of a passage of it, with when each step is.

    Shapes: (s, v), (s,), (s,); seconds in the recording, not uniform: long silence is left out. At a cut inside a pause
    one step is put in, in which only the space is probable (the blank, where the vocabulary has no space).
    """

    log_probs_sv: LogProbs
    start_s: Times
    end_s: Times
    seams: tuple[Seam, ...] = ()


def longest_piece_s(model: AcousticModel) -> float:
    """What the network is given at most at a time: the longest utterance that it was trained on, within reason."""
    longest = model.training.get("longest_s")
    if not isinstance(longest, int | float) or not 0 < longest < math.inf:
        return DEFAULT_LONGEST_S
    return min(max(float(longest), SHORTEST_S), LONGEST_S)


def pieces_of(
    model: AcousticModel, blocks: Iterable[Wave], longest_s: float | None = None, *, any_sound: bool = False
) -> Iterator[tuple[Place, Features]]:
    """Yield a recording's pieces with the features of each, as its blocks are read.

    Args:
        any_sound: do not judge the pieces: all count as speech.
    """
    rate_hz = model.audio.sample_rate_hz
    for piece in cut(blocks, rate_hz, longest_s or longest_piece_s(model)):
        silence = 0.0 if any_sound else no_speech_prob(piece.wave_n, rate_hz)
        yield Place.of(piece, silence), extract(model.extractor, piece.wave_n)


def emissions_of(model: AcousticModel, stream: Stream, longest_s: float | None = None) -> Emissions:
    """Log-probabilities of a whole recording, for a text that is known to be in it.

    Raises:
        DataError: the recording cannot be read to its end.
    """
    joiner = Joiner(model, whole=True)
    pieces = pieces_of(model, stream.blocks(), longest_s, any_sound=True)
    found = [
        passage
        for place, one_sv in pipeline(model, pieces, lambda one_sv: one_sv)
        for passage in joiner.add(place, one_sv)
    ]
    found += joiner.finish()
    if not found:  # nothing but silence
        none_s = np.zeros(0)
        return Emissions(np.zeros((0, model.tokenizer.vocabulary_size), np.float32), none_s, none_s)
    return found[0]


class Joiner:
    """One recording's pieces, in order, to its passages."""

    def __init__(self, model: AcousticModel, *, whole: bool = False, offset_s: float = 0.0) -> None:
        """``whole``: the recording is one passage, whatever its pauses. ``offset_s``: where it begins in its file."""
        self._rate, self._step_s, self._whole = model.audio.sample_rate_hz, model.step_s, whole
        self._offset_s = offset_s
        self._pause_v = pause_log_probs(model.tokenizer)
        self._parts: list[tuple[LogProbs, Times, Times]] = []
        self._seams: list[Seam] = []
        self._seconds = 0.0
        #: the piece before, when it shares audio with the one to come
        self._waiting: tuple[Place, LogProbs, Times] | None = None
        #: the pause before the next piece, and where it begins
        self._pause_s: float | None = None

    def add(self, place: Place, log_probs_sv: LogProbs) -> list[Emissions]:
        """The passages that are whole now. Shapes: the piece's (s, v)."""
        start_s: Times = self._at(place.start_n) + self._step_s * np.arange(len(log_probs_sv), dtype=np.float64)
        done: list[Emissions] = []
        if self._waiting is not None:
            place_before, before_sv, before_s = self._waiting
            at_before, at = join_at(
                before_sv, before_s, log_probs_sv, start_s, self._at(place.keep_from_n), self._step_s
            )
            self._take(before_sv[:at_before], before_s[:at_before], place_before)
            log_probs_sv, start_s = log_probs_sv[at:], start_s[at:]
            self._waiting = None
            if self._seconds > LONGEST_PASSAGE_S and not self._whole:
                done = self._close()
            joined_s = float(start_s[0]) if len(start_s) else self._at(place.keep_from_n)
            self._seams.append(Seam(round(joined_s, 3), "overlap", place_before.length_s))
        elif self._pause_s is not None:
            done = self._pause(place)
        if place.ends == "overlap":
            self._waiting = place, log_probs_sv, start_s
        else:
            self._take(log_probs_sv, start_s, place)
            self._pause_s = place.length_s if place.ends == "pause" else None
        return done

    def finish(self) -> list[Emissions]:
        """What is left: a passage, or none."""
        if self._waiting is not None:
            place, log_probs_sv, start_s = self._waiting
            self._take(log_probs_sv, start_s, place)
            self._waiting = None
        return self._close()

    def _at(self, sample_n: int) -> float:
        return self._offset_s + sample_n / self._rate

    def _take(self, log_probs_sv: LogProbs, start_s: Times, place: Place) -> None:
        # The last step may reach beyond the last sample by part of a step.
        end_s = np.minimum(start_s + self._step_s, self._at(place.start_n + place.num_samples))
        self._parts.append((log_probs_sv, start_s, np.maximum(end_s, start_s)))
        self._seconds += len(start_s) * self._step_s

    def _pause(self, place: Place) -> list[Emissions]:
        """Ends the passage at a pause, or puts the step in that stands for it."""
        pause_s, begins_s = self._pause_s or 0.0, self._at(place.keep_from_n)
        self._pause_s = None
        self._seams.append(Seam(round(begins_s, 3), "pause", pause_s))
        if not self._whole and (pause_s >= PASSAGE_PAUSE_S or self._seconds >= PASSAGE_S):
            return self._close()
        at_s = np.array([begins_s])
        self._parts.append((self._pause_v[None], at_s, at_s))
        return []

    def _close(self) -> list[Emissions]:
        parts, seams = self._parts, tuple(self._seams)
        self._parts, self._seams, self._seconds = [], [], 0.0
        if not parts:
            return []
        log_probs_sv, start_s, end_s = (np.concatenate(column) for column in zip(*parts, strict=True))
        return [Emissions(log_probs_sv, start_s, end_s, seams)]


def join_at(
    before_sv: LogProbs, before_s: Times, after_sv: LogProbs, after_s: Times, middle_s: float, step_s: float
) -> tuple[int, int]:
    """Where two pieces that share audio meet: the first takes its steps before an index, the second those from one on.

    They meet where both are most surely blank for three steps, the nearer to the middle the better, so that no token is
    taken twice or lost when its spike lies a step apart in the two. The outer quarters of what they share are left to
    the piece that has more context there.

    Shapes: (s, v), (s,) of each.
    """
    shared_from_s, shared_to_s = float(after_s[0]) if len(after_s) else middle_s, float(before_s[-1]) + step_s
    reach_s = max(step_s, (shared_to_s - shared_from_s) / 4)
    first, last = np.searchsorted(before_s, [middle_s - reach_s, middle_s + reach_s])
    (said_before, next_before), (said_after, next_after) = _around(before_sv), _around(after_sv)
    best, meeting = -np.inf, (int(np.searchsorted(before_s, middle_s)), int(np.searchsorted(after_s, middle_s)))
    for at in range(int(first), min(int(last), len(before_s) - 1) + 1):
        at_after = int(np.rint((before_s[at] - after_s[0]) / step_s)) if len(after_s) else 0
        if not (1 <= at < len(before_s) - 1 and 1 <= at_after < len(after_s) - 1):
            continue
        blanks = (*before_sv[at - 1 : at + 2, BLANK_ID], *after_sv[at_after - 1 : at_after + 2, BLANK_ID])
        score = float(min(blanks)) - 0.01 * abs(float(before_s[at]) - middle_s) / reach_s
        # A space can be anywhere between two words: not after the place in one part and before it in the other.
        score -= _DISAGREE * (said_before[at] != said_after[at_after]) + _DISAGREE * (
            next_before[at] != next_after[at_after]
        )
        if score > best:
            best, meeting = score, (at, at_after)
    return meeting


def _around(log_probs_sv: LogProbs) -> tuple[Ints, Ints]:
    """The most probable token that was said last before each step, and the one that is said next from it on; 0: none.

    Shapes: (s, v) -> (s,), (s,).
    """
    best_s = log_probs_sv.argmax(axis=1)
    said_s = np.flatnonzero(best_s != BLANK_ID)
    tokens = np.concatenate([[BLANK_ID], best_s[said_s], [BLANK_ID]])
    index_s = np.searchsorted(said_s, np.arange(len(best_s)))
    return tokens[index_s], tokens[index_s + 1]


def pause_log_probs(tokenizer: Tokenizer) -> LogProbs:
    """The step that stands for a pause: surely a space; surely blank, where the vocabulary has none. Shapes: (v,)."""
    probs_v = np.full(tokenizer.vocabulary_size, 1e-9)
    probs_v[BLANK_ID] = 1.0
    if " " in tokenizer.symbols:
        probs_v[BLANK_ID], probs_v[1 + tokenizer.symbols.index(" ")] = 1 - _SURE, _SURE
    log_probs_v: LogProbs = np.log(probs_v / probs_v.sum()).astype(np.float32)
    return log_probs_v
