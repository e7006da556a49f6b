"""Take live streams through a model: one thread, whose tick does what all streams have brought since the last one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asr.errors import AsrError
from asr.recordings.arrays import check_rate
from asr.server.errors import busy
from asr.sound.recording import Wave
from asr.streaming.queued import Mark
from asr.streaming.results import Result, Rules

if TYPE_CHECKING:
    from asr.decode.choose import Decoder
    from asr.transcribe import Recognizer

log = logging.getLogger(__name__)

#: audio of one stream in one tick, at most: the others wait for it
_TICK_S = 1.0
#: audio of one stream that waits; its client is read no further until some of it is done
_AHEAD_S = 10.0
#: pieces of sound and flushes of one stream that wait, in the same way: all are done in one tick
_ITEMS_AHEAD = 200
#: times of results are rounded to a millisecond, and samples to those of the model's rate
_ROUNDING_S = 0.002
#: updates of one stream that its client has not taken
_UPDATES_AHEAD = 1000


@dataclass(frozen=True)
class Update:
    """Hold what a tick has done for a stream: all audio before ``heard_s``, and flushes at ``flushed_s``.

    After the last update nothing follows; ``failure`` is the reason if that is not because the stream was finished.
    """

    results: tuple[Result, ...]
    heard_s: float
    flushed_s: tuple[float, ...] = ()
    is_last: bool = False
    failure: str = ""

    def parts(self) -> Iterator[tuple[list[Result], bool]]:
        """Yield the results up to each flush, and those after the last; also whether a flush ends the part."""
        left = deque(self.results)
        for end_s in self.flushed_s:
            part = []
            while left and left[0].start_s < end_s - _ROUNDING_S:
                part.append(left.popleft())
            yield part, True
        yield list(left), False


class Session:
    """Hold one client's stream, in the client's event loop."""

    def __init__(self, live: Live, rate_hz: int, rules: Rules, decoder: Decoder | None) -> None:
        self.rate_hz = rate_hz
        self.rules = rules
        self.decoder = decoder
        #: what was pushed, in seconds of the stream
        self.pushed_s = 0.0
        self._live = live
        self._loop = asyncio.get_running_loop()
        self._pushed_n = 0
        self._updates: deque[Update] = deque()
        self._delivered = asyncio.Event()
        self._moved = asyncio.Event()
        #: what the thread has not taken yet, and what it has; guarded by the lock of ``live``
        self.queue: deque[Wave | Mark] = deque()
        self.queued_n = 0
        self.heard_n = 0
        self.is_over = False

    @property
    def model(self) -> str:
        """Return the name of the model."""
        return self._live.name

    @property
    def heard_s(self) -> float:
        """Return how much of the stream was done."""
        return self.heard_n / self.rate_hz

    async def push(self, wave_n: Wave) -> None:
        """Queue samples; wait first while much is queued, so that the client is slowed down. Shapes: (n,)."""
        await self._room()
        self._pushed_n += len(wave_n)
        self.pushed_s = self._pushed_n / self.rate_hz
        step = round(_TICK_S * self.rate_hz)
        self._live.queue(self, *(wave_n[i : i + step] for i in range(0, len(wave_n), step)))

    async def flush(self) -> None:
        """End the passage here, as if the audio ended; an update says when that is done. Waits as ``push`` does."""
        await self._room()
        self._live.queue(self, Mark.FLUSH)

    def finish(self) -> None:
        """End the stream; the last update follows."""
        self._live.queue(self, Mark.FINISH)

    def close(self) -> None:
        """Leave; nothing more is done for the stream. Further calls do nothing."""
        self._live.leave(self)

    async def _room(self) -> None:
        """Wait while much is queued, or many updates were not taken."""
        while self._has_no_room():
            self._moved.clear()
            await self._moved.wait()

    def _has_no_room(self) -> bool:
        is_full = self.queued_n > _AHEAD_S * self.rate_hz or len(self.queue) > _ITEMS_AHEAD
        return is_full or len(self._updates) > _UPDATES_AHEAD

    async def __aiter__(self) -> AsyncIterator[Update]:
        while True:
            while not self._updates:
                self._delivered.clear()
                await self._delivered.wait()
            update = self._updates.popleft()
            self._moved.set()
            yield update
            if update.is_last:
                return

    def deliver(self, update: Update) -> None:
        """Hand an update over, from the thread."""

        def add() -> None:
            self._updates.append(update)
            self._delivered.set()
            self._moved.set()

        try:
            self._loop.call_soon_threadsafe(add)
        except RuntimeError:  # the loop has ended, and its clients are gone
            self.close()


class Live:
    """Hold the live streams of one model, and the thread that alone runs their pool."""

    def __init__(self, name: str, recognizer: Recognizer) -> None:
        self.name = name
        self._recognizer = recognizer
        self._sessions: dict[Session, Any] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def partials(self) -> bool:
        """Return whether text comes while somebody speaks, and not only after a pause."""
        from asr.streaming.engines import why_not

        return not why_not(self._recognizer.model)

    def open(self, rate_hz: int, rules: Rules = Rules(), decoder: Decoder | None = None) -> Session:
        """Begin a stream of samples at a rate.

        Args:
            decoder: for this stream alone (``Host.expecting``); default: the model's.

        Raises:
            DataError: no speech has that rate.
            ApiError: the server is about to stop.
        """
        session = Session(self, check_rate(rate_hz), rules, decoder)
        with self._changed:
            if self._stopping:
                raise busy("the server is about to stop")
            self._sessions[session] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="asr-live", daemon=True)
                self._thread.start()
        return session

    def queue(self, session: Session, *items: Wave | Mark) -> None:
        """Queue for the next tick."""
        with self._changed:
            if session.is_over:
                return
            for item in items:
                session.queue.append(item)
                if not isinstance(item, Mark):
                    session.queued_n += len(item)
            self._changed.notify()

    def leave(self, session: Session) -> None:
        """Forget a session; nothing is done if it is not there."""
        with self._changed:
            self._sessions.pop(session, None)
            self._changed.notify()

    def finish_all(self) -> None:
        """Finish all streams, and begin none: clients get their last results, and leave."""
        with self._changed:
            self._stopping = True
            sessions = list(self._sessions)
        for session in sessions:
            session.finish()

    def stop(self) -> None:
        """End the thread after its tick."""
        with self._changed:
            self._stopping = True
            self._sessions.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        from asr.streaming.pool import open_pool

        pool = open_pool(self._recognizer)
        streams: dict[Session, Any] = {}
        while self._wait(streams):
            try:
                self._tick(pool, streams)
            except Exception as error:
                # A mistake of ours, or a broken model: no state of the pool can be relied on.
                log.exception("live streams failed")
                why = str(error) if isinstance(error, AsrError) else "the server made a mistake; its log says more"
                self._fail(why)
                streams.clear()
                pool = open_pool(self._recognizer)

    def _wait(self, streams: dict[Session, Any]) -> bool:
        """Wait for something to do; return false if there will be nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_work(streams) or (self._stopping and not self._sessions))
            return bool(self._sessions) or not self._stopping

    def _has_work(self, streams: dict[Session, Any]) -> bool:
        return any(session.queue for session in self._sessions) or any(s not in self._sessions for s in streams)

    def _take(self, session: Session) -> list[Wave | Mark]:
        """Take what one tick does of a session's queue."""
        taken: list[Wave | Mark] = []
        left_n = round(_TICK_S * session.rate_hz)
        while session.queue and (left_n > 0 or isinstance(session.queue[0], Mark)):
            item = session.queue.popleft()
            taken.append(item)
            if item is Mark.FINISH:  # what follows belongs to no stream
                break
            if not isinstance(item, Mark):
                left_n -= len(item)
                session.queued_n -= len(item)
        return taken

    def _tick(self, pool: Any, streams: dict[Session, Any]) -> None:
        """Do what is queued, and deliver it."""
        with self._changed:
            working = {session: self._take(session) for session in self._sessions if session.queue}
            gone = [session for session in streams if session not in self._sessions]
        for session in gone:
            streams.pop(session).close()

        flushed: dict[Session, list[float]] = {session: [] for session in working}
        for session, items in working.items():
            if session not in streams:
                streams[session] = pool.open(session.rate_hz, session.rules, session.decoder)
            stream = streams[session]
            for item in items:
                if item is Mark.FLUSH:
                    stream.flush()
                    flushed[session].append(session.heard_s)
                elif item is Mark.FINISH:
                    stream.finish()
                else:
                    stream.push(item)
                    session.heard_n += len(item)

        results: dict[Any, list[Result]] = {}
        for stream, new in pool.tick():
            results.setdefault(stream, []).extend(new)
        for session in working:
            stream = streams[session]
            update = Update(
                tuple(results.get(stream, ())),
                session.heard_s,
                tuple(flushed[session]),
                stream.is_done,
                stream.failure,
            )
            if update.is_last:
                self._end(session)
                del streams[session]
            session.deliver(update)

    def _fail(self, why: str) -> None:
        """End all sessions."""
        for session in list(self._sessions):
            self._end(session)
            session.deliver(Update((), session.pushed_s, is_last=True, failure=why))

    def _end(self, session: Session) -> None:
        """Take nothing more for a session; it counts until its client has left."""
        with self._changed:
            session.is_over = True
            session.queue.clear()
            session.queued_n = 0
