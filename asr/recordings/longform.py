"""Take recordings of any length through a network trained on utterances: cut at pauses, joined as log-probabilities.

Axes: s steps, v vocabulary.

A recording no longer than the model's training utterances is one piece, and gives what evaluation gives. A longer one
is cut inside pauses (by ``pauses``). If there is none in reach, two pieces share audio, and their log-probabilities are
joined where both are surely blank. The decoder is given a passage at a time: all pieces up to a pause that ends a
sentence. So the state of the decoder and of its language model goes on across cuts, and memory does not grow with the
length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from asr.ahead import ahead_of_gpu
from asr.data.tokenizer import BLANK_ID, Tokenizer
from asr.decode.types import LogProbs
from asr.errors import DataError
from asr.infer import pipeline
from asr.model.contract import AcousticModel
from asr.recordings.media import Stream
from asr.recordings.pauses import Piece, cut
from asr.transcript import Seam
from asr.utterance import Features, extract

#: a pause as long as this ends a sentence: the decoder starts anew after it
PASSAGE_PAUSE_S = 1.5
#: a passage ends at the next cut inside a pause once it is this long
PASSAGE_S = 120.0
#: and at the next cut of any kind once it is this long
LONGEST_PASSAGE_S = 600.0
#: the longest piece of a model that states no limit, and the shortest of any model
DEFAULT_LONGEST_S, SHORTEST_S = 20.0, 0.5
#: the probability of the space (or of the blank) in the step that stands for a pause
_SURE = 0.999
#: what two parts must gain (in log-probability of blank) to meet where they differ in the token before, or after
_DISAGREE = 30.0

Times = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TimedLogProbs:
    """Hold log-probabilities of a recording or of a passage of it, with the time of each step.

    Shapes: (s, v), (s,), (s,); seconds in the recording, not uniform: long silence is left out. At a cut inside a pause
    one step is put in, in which only the space is probable (the blank, if the vocabulary has no space).
    """

    log_probs_sv: LogProbs
    start_s: Times
    end_s: Times
    seams: tuple[Seam, ...] = ()


def longest_piece_s(model: AcousticModel) -> float:
    """Return the longest audio that the network is given at a time: the longest utterance that it was trained on."""
    return max(float(model.training.get("longest_s", DEFAULT_LONGEST_S)), SHORTEST_S)


def log_probs_of_recording(model: AcousticModel, stream: Stream) -> TimedLogProbs:
    """Return the log-probabilities of a whole recording, for a text that is known to be in it.

    Raises:
        DataError: the recording cannot be read to its end, or a piece of it does not fit into the memory.
    """

    def with_features(piece: Piece) -> tuple[Piece, Features]:
        return piece.without_samples(), extract(model.extractor, piece.wave_n)

    joiner = Joiner(model, whole=True)
    pieces = cut(stream.blocks(), stream.rate_hz, longest_piece_s(model))
    jobs = ((len(piece.wave_n) / stream.rate_hz, partial(with_features, piece)) for piece in pieces)
    for piece, one_sv in pipeline(model, ahead_of_gpu(model.on_gpu, jobs), lambda one_sv: one_sv):
        if isinstance(one_sv, DataError):
            raise one_sv
        joiner.add(piece, one_sv)
    passages = joiner.finish()
    if not passages:  # nothing but silence
        none_s = np.zeros(0)
        return TimedLogProbs(np.zeros((0, model.tokenizer.vocabulary_size), np.float32), none_s, none_s)
    return passages[0]


class Joiner:
    """Join one recording's pieces, in order, to its passages.

    Args:
        whole: the recording is one passage, whatever its pauses.
        offset_s: where the recording begins in its file.
    """

    def __init__(self, model: AcousticModel, *, whole: bool = False, offset_s: float = 0.0) -> None:
        self._rate_hz = model.audio.sample_rate_hz
        self._step_s = model.step_s
        self._whole = whole
        self._offset_s = offset_s
        self._pause_v = pause_log_probs(model.tokenizer)
        self._parts: list[tuple[LogProbs, Times, Times]] = []
        self._seams: list[Seam] = []
        self._seconds = 0.0
        #: the last piece, if it shares audio with the next one
        self._waiting: tuple[Piece, LogProbs, Times] | None = None
        #: the length of the pause before the next piece
        self._pause_s: float | None = None

    def add(self, piece: Piece, log_probs_sv: LogProbs) -> list[TimedLogProbs]:
        """Add a piece, and return the passages that are complete now. Shapes: the piece's (s, v)."""
        start_s: Times = self._time_s(piece.start_n) + self._step_s * np.arange(len(log_probs_sv), dtype=np.float64)
        done: list[TimedLogProbs] = []
        if self._waiting is not None:
            last, last_sv, last_s = self._waiting
            middle_s = self._time_s(piece.keep_from_n)
            last_stop, first = join_at(last_sv, last_s, log_probs_sv, start_s, middle_s, self._step_s)
            self._take(last_sv[:last_stop], last_s[:last_stop], last)
            self._waiting = None
            log_probs_sv = log_probs_sv[first:]
            start_s = start_s[first:]
            if self._seconds > LONGEST_PASSAGE_S and not self._whole:
                done = self._close()
            joined_s = float(start_s[0]) if len(start_s) else middle_s
            self._seams.append(Seam(round(joined_s, 3), "overlap", last.length_s))
        elif self._pause_s is not None:
            done = self._add_pause(self._pause_s, self._time_s(piece.keep_from_n))
            self._pause_s = None

        if piece.ends == "overlap":
            self._waiting = piece, log_probs_sv, start_s
        else:
            self._take(log_probs_sv, start_s, piece)
            self._pause_s = piece.length_s if piece.ends == "pause" else None
        return done

    def finish(self) -> list[TimedLogProbs]:
        """Return what is left: a passage, or none."""
        if self._waiting is not None:
            piece, log_probs_sv, start_s = self._waiting
            self._take(log_probs_sv, start_s, piece)
            self._waiting = None
        return self._close()

    def _time_s(self, sample_n: int) -> float:
        return self._offset_s + sample_n / self._rate_hz

    def _take(self, log_probs_sv: LogProbs, start_s: Times, piece: Piece) -> None:
        # The last step may reach beyond the last sample by part of a step.
        end_s = np.minimum(start_s + self._step_s, self._time_s(piece.stop_n))
        self._parts.append((log_probs_sv, start_s, np.maximum(end_s, start_s)))
        self._seconds += len(start_s) * self._step_s

    def _add_pause(self, pause_s: float, next_s: float) -> list[TimedLogProbs]:
        """End the passage at a pause, or add the step that stands for it; ``next_s``: where the next piece counts."""
        self._seams.append(Seam(round(next_s, 3), "pause", pause_s))
        if not self._whole and (pause_s >= PASSAGE_PAUSE_S or self._seconds >= PASSAGE_S):
            return self._close()
        at_s = np.array([next_s])
        self._parts.append((self._pause_v[None], at_s, at_s))
        return []

    def _close(self) -> list[TimedLogProbs]:
        """Return the passage that ends here, if it has any steps."""
        parts = self._parts
        seams = tuple(self._seams)
        self._parts = []
        self._seams = []
        self._seconds = 0.0
        if not parts:
            return []
        log_probs_sv, start_s, end_s = (np.concatenate(column) for column in zip(*parts, strict=True))
        return [TimedLogProbs(log_probs_sv, start_s, end_s, seams)]


def join_at(
    before_sv: LogProbs, before_s: Times, after_sv: LogProbs, after_s: Times, middle_s: float, step_s: float
) -> tuple[int, int]:
    """Return where two pieces that share audio meet: the first one's steps end, and the second one's begin, there.

    They meet where both are most surely blank for three steps, the nearer to the middle the better, so that no token is
    taken twice or lost when its spike lies a step apart in the two. The outer quarters of what they share are left to
    the piece that has more context there.

    Shapes: (s, v), (s,) of each.
    """
    shared_from_s = float(after_s[0]) if len(after_s) else middle_s
    shared_to_s = float(before_s[-1]) + step_s
    reach_s = max(step_s, (shared_to_s - shared_from_s) / 4)
    first, last = np.searchsorted(before_s, [middle_s - reach_s, middle_s + reach_s])
    last_token_before, next_token_before = _tokens_around(before_sv)
    last_token_after, next_token_after = _tokens_around(after_sv)

    best = -np.inf
    meeting = int(np.searchsorted(before_s, middle_s)), int(np.searchsorted(after_s, middle_s))
    for at in range(int(first), min(int(last), len(before_s) - 1) + 1):
        at_after = int(np.rint((before_s[at] - after_s[0]) / step_s)) if len(after_s) else 0
        if not (1 <= at < len(before_s) - 1 and 1 <= at_after < len(after_s) - 1):
            continue
        blanks = (*before_sv[at - 1 : at + 2, BLANK_ID], *after_sv[at_after - 1 : at_after + 2, BLANK_ID])
        score = float(min(blanks)) - 0.01 * abs(float(before_s[at]) - middle_s) / reach_s
        # A space can be anywhere between two words: not after the place in one part and before it in the other.
        disagreements = int(last_token_before[at] != last_token_after[at_after])
        disagreements += int(next_token_before[at] != next_token_after[at_after])
        score -= _DISAGREE * disagreements
        if score > best:
            best = score
            meeting = at, at_after
    return meeting


def _tokens_around(log_probs_sv: LogProbs) -> tuple[Ints, Ints]:
    """Return for each step the most probable token that came last before it, and the next from it on; 0: none.

    Shapes: (s, v) -> (s,), (s,).
    """
    best_s = log_probs_sv.argmax(axis=1)
    token_s = np.flatnonzero(best_s != BLANK_ID)
    tokens = np.concatenate([[BLANK_ID], best_s[token_s], [BLANK_ID]])
    index_s = np.searchsorted(token_s, np.arange(len(best_s)))
    return tokens[index_s], tokens[index_s + 1]


def pause_log_probs(tokenizer: Tokenizer) -> LogProbs:
    """Return the step that stands for a pause: surely a space; surely blank if there is no space. Shapes: (v,)."""
    probs_v = np.full(tokenizer.vocabulary_size, 1e-9)
    probs_v[BLANK_ID] = 1.0
    if " " in tokenizer.symbols:
        probs_v[BLANK_ID] = 1 - _SURE
        probs_v[1 + tokenizer.symbols.index(" ")] = _SURE
    log_probs_v: LogProbs = np.log(probs_v / probs_v.sum()).astype(np.float32)
    return log_probs_v
