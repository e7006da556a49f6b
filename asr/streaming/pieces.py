"""Serve live streams with a model that does not stream: what is said between two pauses is transcribed when it ends.

Such a model reads an utterance as a whole, so there are no partial results. Pauses are found by energy, as in long
recordings. Where a passage ends depends on the samples of the stream, not on how they were pushed.

Axes: n samples, c cells of 10 ms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from asr.decode.choose import Decoder
from asr.recordings.arrays import check_rate
from asr.recordings.levels import CELLS_PER_S, Levels, LiveLevels, cell_samples
from asr.recordings.pauses import without_clicks
from asr.sound.recording import Wave
from asr.streaming.contract import AnyRecognizer
from asr.streaming.queued import Mark, QueuedStream
from asr.streaming.results import Result, Rules
from asr.transcript import Failure, Transcript

#: the shortest pause that ends a passage which is long enough
_SHORT_PAUSE_S = 0.2
#: of more quiet than the first at either end of a passage, the model is given the second, as in long recordings
_SILENCE_S, _MARGIN_S = 0.5, 0.15
#: a passage without any pause is cut when it has this many times the wanted length, at the quietest place of its end
_NO_PAUSE = 1.5
#: that place is the quietest over this many cells
_AROUND = 10


@dataclass(frozen=True)
class _Passage:
    """Hold what was said between two pauses: samples from ``given_n`` on, none if nothing was said."""

    start_n: int
    stop_n: int
    given_n: int
    wave_n: Wave


class PieceStream(QueuedStream):
    """One stream of a ``PiecePool``, with the passage that has begun."""

    def __init__(self, pool: PiecePool, rate_hz: int, rules: Rules, decoder: Decoder | None) -> None:
        super().__init__()
        self.rate_hz = rate_hz
        self.decoder = decoder
        self._pool = pool
        self._hop = cell_samples(rate_hz)
        self._levels = LiveLevels(rate_hz)
        self._silence = round(min(rules.silence_s, rules.longest_s) * CELLS_PER_S)
        self._pause = round(rules.pause_s * CELLS_PER_S)
        self._longest = round(rules.longest_s * CELLS_PER_S)
        #: the passage: where it begins, its samples, and the activity of those of its cells that are measured
        self._start_n = 0
        self._held: list[Wave] = []
        self._activity_c: Levels = np.zeros(0, np.float32)

    def close(self) -> None:
        """Forget the stream and what it holds; further calls do nothing."""
        self._pool.forget(self)

    def passages(self) -> Iterator[_Passage]:
        """Take all that is queued, and yield the passages that have ended."""
        while self._queue and not self.is_done:
            item = self._queue.popleft()
            if isinstance(item, Mark):
                yield from self._ended()
                self.is_done = item is Mark.FINISH
                continue
            self._held.append(item)
            for activity_c in self._levels.feed(item):
                self._activity_c = np.concatenate([self._activity_c, activity_c])
                stop = self._end_of_passage()
                if stop is not None:
                    yield self._cut(stop)

    def _ended(self) -> Iterator[_Passage]:
        """Yield the last passage before a flush or the end; none if there are no samples."""
        self._activity_c = np.concatenate([self._activity_c, self._levels.end()])
        if len(self._activity_c):
            yield self._cut(len(self._activity_c))

    def _end_of_passage(self) -> int | None:
        """Return the cell at which the passage ends, if it does."""
        cells = len(self._activity_c)
        loud = self._loud()
        if not len(loud):
            return cells - min(round(_SILENCE_S * CELLS_PER_S), cells // 2) if cells >= self._silence else None

        pause = cells - 1 - int(loud[-1])
        wanted = self._pause if cells < self._longest else min(self._pause, round(_SHORT_PAUSE_S * CELLS_PER_S))
        if pause >= wanted:
            return cells - pause // 2
        if cells < _NO_PAUSE * self._longest:
            return None
        total_c = np.concatenate([[0.0], np.cumsum(self._activity_c, dtype=np.float64)])
        level_c = total_c[_AROUND:] - total_c[:-_AROUND]
        return self._longest + int(np.argmin(level_c[self._longest - _AROUND // 2 :]))

    def _cut(self, stop: int) -> _Passage:
        """End the passage before a cell; the samples from there on begin the next one."""
        all_n = np.concatenate(self._held)
        stop_n = min(stop * self._hop, len(all_n))
        first_n, last_n = (min(cell * self._hop, stop_n) for cell in self._given(stop))
        start_n = self._start_n
        passage = _Passage(start_n, start_n + stop_n, start_n + first_n, all_n[first_n:last_n])

        self._start_n += stop_n
        self._held = [all_n[stop_n:].copy()]
        self._activity_c = self._activity_c[stop:]
        return passage

    def _given(self, stop: int) -> tuple[int, int]:
        """Return the cells of the passage that the model is given; none if nothing was said."""
        loud = self._loud()
        loud = loud[loud < stop]
        if not len(loud):
            return 0, 0
        silence, margin = round(_SILENCE_S * CELLS_PER_S), round(_MARGIN_S * CELLS_PER_S)
        first, last = int(loud[0]), int(loud[-1]) + 1
        return first - margin if first > silence else 0, last + margin if stop - last > silence else stop

    def _loud(self) -> npt.NDArray[np.int64]:
        """Return the cells of the passage that are loud, clicks left out."""
        return np.flatnonzero(~without_clicks(self._activity_c <= 1))


class PiecePool:
    """Hold many live streams of one model that does not stream.

    >>> pool = PiecePool(recognizer)                    # doctest: +SKIP
    >>> stream = pool.open(16000)                       # doctest: +SKIP
    >>> stream.push(samples)                            # doctest: +SKIP
    >>> for stream, results in pool.tick():             # doctest: +SKIP
    ...     print(results[0].text)
    """

    #: whether there are results before a passage ends
    partials = False

    def __init__(self, recognizer: AnyRecognizer) -> None:
        self._recognizer = recognizer
        self._streams: dict[PieceStream, None] = {}

    def open(self, rate_hz: int, rules: Rules = Rules(), decoder: Decoder | None = None) -> PieceStream:
        """Begin a stream of samples at a rate.

        Args:
            decoder: for this stream alone; default: the recognizer's.

        Raises:
            DataError: a rate that no speech has.
        """
        stream = PieceStream(self, check_rate(rate_hz), rules, decoder)
        self._streams[stream] = None
        return stream

    def forget(self, stream: PieceStream) -> None:
        """Drop a stream; nothing is done if it is not there."""
        self._streams.pop(stream, None)

    def tick(self) -> list[tuple[PieceStream, list[Result]]]:
        """Do all that is queued, and return the streams that have new results or are done, with those results.

        The passages of all streams that have one decoder are transcribed together. A stream of which one cannot be
        transcribed (it does not fit into the memory) is done, and its ``failure`` says why.

        Raises:
            AsrError: the model is broken.
        """
        active = {stream: list(stream.passages()) for stream in list(self._streams)}
        sources: dict[Decoder | None, list[tuple[Wave, int]]] = defaultdict(list)
        for stream, passages in active.items():
            sources[stream.decoder] += [(p.wave_n, stream.rate_hz) for p in passages if len(p.wave_n)]
        transcripts = {decoder: self._transcribe(decoder, waves) for decoder, waves in sources.items()}

        out = []
        for stream, passages in active.items():
            results: list[Result] = []
            for passage in passages:
                transcript = next(transcripts[stream.decoder]) if len(passage.wave_n) else None
                if isinstance(transcript, Failure):
                    stream.failure = transcript.why
                    stream.is_done = True
                else:
                    results.append(_result(passage, stream.rate_hz, transcript))
            if stream.is_done:
                self.forget(stream)
            if results or stream.is_done:
                out.append((stream, results))
        return out

    def _transcribe(self, decoder: Decoder | None, waves: list[tuple[Wave, int]]) -> Iterator[Transcript | Failure]:
        if not waves:
            return iter(())
        recognizer = self._recognizer if decoder is None else self._recognizer.with_decoder(decoder)
        return iter(list(recognizer.transcribe_all(waves)))


def _result(passage: _Passage, rate_hz: int, transcript: Transcript | None) -> Result:
    """Return the result of a passage; without a transcript: nothing was said."""
    start_s, end_s = passage.start_n / rate_hz, passage.stop_n / rate_hz
    if transcript is None:
        return Result("", True, start_s, end_s)

    given_s = passage.given_n / rate_hz
    words = tuple(
        replace(word, start_s=given_s + word.start_s, end_s=given_s + word.end_s) for word in transcript.words
    )
    text = transcript.text
    return Result(text, True, start_s, end_s, words, len(text), transcript.log_prob)
