"""Many live streams through one model, a tick at a time.

Every stream gets the results that it would get alone, to the last bit, however its samples are cut into pieces.

Axes: n samples.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from asr.data.audio import Wave
from asr.decode.choose import Decoder
from asr.decode.types import LogProbs
from asr.machine import num_threads, pool_of
from asr.recordings.arrays import check_rate
from asr.streaming.contract import AnyRecognizer
from asr.streaming.engines import engine_of, why_not
from asr.streaming.passage import After, Passage, Setup
from asr.streaming.pieces import PiecePool
from asr.streaming.queued import Mark, QueuedStream
from asr.streaming.results import Result, Rules
from asr.utterance import Features

#: audio of one stream in one tick, at most: others wait for it
_TICK_S = 1.0
#: streams that are worth a thread
_SHARE = 8


class PoolStream(QueuedStream):
    """One stream of a ``StreamPool``."""

    def __init__(self, pool: StreamPool, rate_hz: int, rules: Rules, decoder: Decoder | None) -> None:
        super().__init__()
        self._pool = pool
        self._setup = pool.setup if decoder is None else replace(pool.setup, decoder=decoder)
        self._rules = rules
        self._rate_hz = rate_hz
        self._model_hz = self._setup.model.audio.sample_rate_hz
        self._resampler: Any = None
        #: samples that were taken from the queue, at the stream's own rate
        self._taken_n = 0
        #: samples of the model's rate that go through the network next
        self._next_n = np.zeros(0, np.float32)
        self._begin(0)

    def close(self) -> None:
        """Leave the pool, with whatever is queued."""
        self._pool.forget(self)

    def _begin(self, start_n: int, context: list[int] | None = None) -> None:
        self._passage = Passage(self._setup, self._rules, start_n, context or [])
        self._state, self._front_end = self._pool.engine.begin()
        #: steps of a network that has begun anew which the passage has heard from the one before
        self._known_steps = 0

    @property
    def has_work(self) -> bool:
        """Return true if something is queued."""
        return bool(self._queue or len(self._next_n))

    def take(self) -> tuple[object, Features, bool]:
        """Take what goes through the network in this tick; also return whether it is the last of the passage."""
        most = round(_TICK_S * self._model_hz)
        while len(self._next_n) < most and self._queue and not isinstance(self._queue[0], Mark):
            queued: Any = self._queue.popleft()
            self._taken_n += len(queued)
            self._next_n = np.concatenate([self._next_n, self._at_model_rate(queued)])
        wave_n = self._next_n[:most]
        self._next_n = self._next_n[most:]

        is_last = not len(self._next_n) and bool(self._queue) and isinstance(self._queue[0], Mark)
        if is_last and self._resampler is not None:
            wave_n = np.concatenate([wave_n, self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)])
            self._resampler = None
        self._passage.hold(wave_n)
        piece = self._front_end.feed(wave_n)
        if is_last:
            piece = np.concatenate([piece, self._front_end.finish()])
        return self._state, piece, is_last

    def hear(self, log_probs_sv: LogProbs, is_last: bool) -> list[Result]:
        """Return what is new with these steps."""
        known, self._known_steps = self._known_steps, max(0, self._known_steps - len(log_probs_sv))
        after = self._passage.hear(log_probs_sv[known:])
        if after is After.END:
            result, rest_n, cut_n = self._passage.cut()
            self._next_n = np.concatenate([rest_n, self._next_n])
            self._begin(cut_n, self._passage.context)
            return [result]
        if after is After.NOTHING and is_last:
            # Each resampled passage has a whole number of samples: what is rounded must not add up.
            end_n = round(self._taken_n * self._model_hz / self._rate_hz)
            result = self._passage.finish(end_n)
            self.is_done = self._queue.popleft() is Mark.FINISH
            if self.is_done:
                self._pool.forget(self)
            else:
                self._begin(end_n)
            return [result]
        if after is After.FRESH:
            rest_n, self._known_steps = self._passage.refresh()
            self._next_n = np.concatenate([rest_n, self._next_n])
            self._state, self._front_end = self._pool.engine.begin()
        partial = self._passage.partial()
        return [] if partial is None else [partial]

    def _at_model_rate(self, samples: Any) -> Wave:
        if self._rate_hz == self._model_hz:
            wave_n: Wave = samples
            return wave_n
        if self._resampler is None:
            import soxr

            self._resampler = soxr.ResampleStream(self._rate_hz, self._model_hz, 1, dtype="float32", quality="HQ")
        resampled_n: Wave = self._resampler.resample_chunk(samples)
        return resampled_n


class StreamPool:
    """Streams of one model that can take them (``why_not``)."""

    #: results come while somebody speaks
    partials = True

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.engine = engine_of(setup.model)
        self._streams: list[PoolStream] = []
        self._lock = threading.Lock()

    def open(self, rate_hz: int, rules: Rules = Rules(), decoder: Decoder | None = None) -> PoolStream:
        """Begin a stream of samples at a rate.

        Args:
            decoder: for this stream alone, as ``Decoder.with_hotwords`` makes one; default: the recognizer's.

        Raises:
            DataError: no speech has that rate.
        """
        stream = PoolStream(self, check_rate(rate_hz), rules, decoder)
        with self._lock:
            self._streams.append(stream)
        return stream

    def forget(self, stream: PoolStream) -> None:
        """Take a stream out; do nothing if it is out."""
        with self._lock:
            if stream in self._streams:
                self._streams.remove(stream)

    def __len__(self) -> int:
        return len(self._streams)

    def tick(self) -> Iterator[tuple[PoolStream, list[Result]]]:
        """Do all that is queued, and yield what is new of each stream, oldest first; also each stream that is done."""
        while True:
            with self._lock:
                working = [stream for stream in self._streams if stream.has_work]
            if not working:
                return
            threads = min(num_threads(), len(working) // _SHARE)
            if threads <= 1:
                yield from self._advance(working)
                continue
            with pool_of(threads, "asr-streams") as pool:
                for news in pool.map(self._advance, [working[i::threads] for i in range(threads)]):
                    yield from news

    def _advance(self, streams: Sequence[PoolStream]) -> list[tuple[PoolStream, list[Result]]]:
        """Take some streams through the network together."""
        states, pieces, is_last = zip(*(stream.take() for stream in streams), strict=True)
        answers = self.engine.tick(states, pieces, is_last)
        news = []
        for stream, log_probs_sv, last in zip(streams, answers, is_last, strict=True):
            results = stream.hear(log_probs_sv, last)
            if results or stream.is_done:
                news.append((stream, results))
        return news


def open_pool(recognizer: AnyRecognizer) -> StreamPool | PiecePool:
    """Make a pool for the streams of a model: one that gives no partial results, if the model cannot take streams."""
    model = recognizer.model
    if why_not(model):
        return PiecePool(recognizer)
    return StreamPool(Setup(model, recognizer.decoder, recognizer.no_speech_threshold))
