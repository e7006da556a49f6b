"""Host a loaded model: one thread that transcribes, and the queue of the requests that wait for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asr.recordings.inputs import Input, Part
from asr.server.errors import ApiError, busy
from asr.transcribe import Failure, Recognizer
from asr.transcript import Transcript

log = logging.getLogger(__name__)

#: requests that are transcribed together, at most: the last one's client waits for all of them
_TOGETHER = 16


@dataclass(frozen=True)
class Upload:
    """Hold what is to be transcribed: a file of ours, and the name that the client gave it."""

    path: Path
    name: str
    #: from 1; None: all channels mixed down
    channel: int | None = None


@dataclass(eq=False)
class _Job:
    """Keep a request until its result is there."""

    upload: Upload
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Transcript | Failure] = field(repr=False)

    def resolve(self, result: Transcript | Failure | Exception) -> None:
        """Hand the result to the request's own loop; nobody may wait for it any more."""

        def settle() -> None:
            if self.future.done():
                return
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        self.loop.call_soon_threadsafe(settle)


class Host:
    """Hold one loaded model, and the thread that alone runs it."""

    def __init__(self, name: str, recognizer: Recognizer, *, max_waiting: int = 64, created: int = 0) -> None:
        """
        Args:
            name: what requests call the model.
            created: when the model was made, in seconds since 1970.
        """
        self.name = name
        self.recognizer = recognizer
        self.created = created
        self.max_waiting = max_waiting
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"asr-{name}", daemon=True)

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is under way, and end the thread; what still waits is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return len(self._jobs)

    async def transcribe(self, upload: Upload) -> Transcript | Failure:
        """Wait for a place in the queue's order, and return the result. Cancelling it gives the place up.

        Raises:
            ApiError: the queue is full.
        """
        loop = asyncio.get_running_loop()
        job = _Job(upload, loop, loop.create_future())
        with self._changed:
            if len(self._jobs) >= self.max_waiting:
                raise busy(f"{len(self._jobs)} requests wait for the model '{self.name}'; try again later")
            self._jobs.append(job)
            self._changed.notify()
        return await job.future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return
                jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), _TOGETHER))]
            self._transcribe([job for job in jobs if not job.future.cancelled()])

    def _transcribe(self, jobs: list[_Job]) -> None:
        """Resolve each job. A mistake of ours fails the request that meets it, not those beside it."""
        done = 0
        try:
            sources = [Input(job.upload.name, job.upload.path, Part(job.upload.channel)) for job in jobs]
            for job, result in zip(jobs, self.recognizer.transcribe_all(sources), strict=True):
                job.resolve(result)
                done += 1
        except Exception as error:
            if len(jobs) == 1:
                log.exception("a request failed")
                jobs[0].resolve(error)
                return
            for job in jobs[done:]:
                self._transcribe([job])


def find_host(hosts: Mapping[str, Host], name: str | None) -> Host:
    """Return the host of a model; if none is named, the first.

    Raises:
        ApiError: no model has that name.
    """
    if not name:
        return next(iter(hosts.values()))
    if name not in hosts:
        raise ApiError(
            404,
            f"the model '{name}' is not served here; there is {', '.join(hosts)}",
            param="model",
            code="model_not_found",
        )
    return hosts[name]
