"""Host a loaded model: one thread that transcribes, and the queue of the requests that wait for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr.decode.choose import Decoder
from asr.decode.settings import parse_hotword
from asr.errors import AsrError
from asr.recordings.inputs import Input, Part
from asr.server.errors import ApiError, busy, invalid_hotwords
from asr.server.live import Live
from asr.server.settings import Settings
from asr.transcribe import Failure, Recognizer
from asr.transcript import Transcript

log = logging.getLogger(__name__)

#: requests that are transcribed together, at most: the last one's client waits for all of them
_TOGETHER = 16
#: decoders with a request's hotwords that are kept: dictated letters come in rows with the same names
_EXPECTING = 8
#: hotwords of one request or stream, at most
_MOST_HOTWORDS = 1000

#: words to expect, with their weights
Hotwords = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Upload:
    """Hold what is to be transcribed: a file of ours, and the name that the client gave it."""

    path: Path
    name: str
    #: from 1; None: all channels mixed down
    channel: int | None = None
    hotwords: Hotwords = ()


@dataclass(eq=False)
class _Job:
    """Keep a request until its result is there."""

    upload: Upload
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Transcript | Failure] = field(repr=False)
    #: is told, in the loop, the passages of a long recording while it is transcribed
    tell: Callable[[Transcript], None] | None = None

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


class _GivenUpError(Exception):
    """Nobody waits any more for the recording that is being transcribed."""


class Host:
    """Hold one loaded model, and the thread that alone runs it."""

    def __init__(
        self,
        name: str,
        recognizer: Recognizer,
        settings: Settings = Settings(),
        *,
        language: str = "",
        created: int = 0,
    ) -> None:
        """
        Args:
            name: what requests call the model.
            language: of the model, if it is known, as clients name it: ``en``.
            created: when the model was made, in seconds since 1970.
        """
        self.name = name
        self.recognizer = recognizer
        self.settings = settings
        self.language = language
        self.created = created
        #: live streams
        self.live = Live(name, recognizer)
        #: decoders that expect the hotwords of a request or a stream; the last one used is the last here
        self._expecting: OrderedDict[Hotwords, Decoder] = OrderedDict()
        self._expecting_lock = threading.Lock()
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
        self.live.stop()

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return len(self._jobs)

    async def transcribe(
        self, upload: Upload, tell: Callable[[Transcript], None] | None = None
    ) -> Transcript | Failure:
        """Wait in the queue, and return the result. Cancelling it gives the place up.

        Args:
            tell: is told the passages of a long recording while it is transcribed; the result has them, too.

        Raises:
            ApiError: the queue is full.
        """
        loop = asyncio.get_running_loop()
        job = _Job(upload, loop, loop.create_future(), tell)
        with self._changed:
            if len(self._jobs) >= self.settings.max_waiting:
                raise busy(f"{len(self._jobs)} requests wait for the model '{self.name}'; try again later")
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await job.future
        finally:
            with self._changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return
                jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), _TOGETHER))]
            alike: dict[Hotwords, list[_Job]] = {}
            for job in jobs:
                if not job.future.cancelled():
                    alike.setdefault(job.upload.hotwords, []).append(job)
            for together in alike.values():
                self._transcribe(together)

    def _transcribe(self, jobs: list[_Job]) -> None:
        """Resolve each job; all have the same hotwords.

        A mistake of ours fails the request that meets it, not those beside it.
        """
        recognizer = self.recognizer
        try:
            if hotwords := jobs[0].upload.hotwords:
                recognizer = recognizer.with_decoder(self.expecting(hotwords))
        except AsrError as error:
            for job in jobs:
                job.resolve(invalid_hotwords(error))
            return
        except Exception as error:
            log.exception("a request's hotwords failed")
            for job in jobs:
                job.resolve(error)
            return

        sources = [Input(job.upload.name, job.upload.path, Part(job.upload.channel)) for job in jobs]
        done = 0

        def tell(number: int, passage: Transcript) -> None:
            job = jobs[number]
            if job.tell is not None:
                job.loop.call_soon_threadsafe(job.tell, passage)

        def advance(seconds: float) -> None:
            if jobs[done].future.cancelled():
                raise _GivenUpError

        try:
            results = recognizer.transcribe_all(sources, most_s=self.settings.max_audio_s, advance=advance, tell=tell)
            for job, result in zip(jobs, results, strict=True):
                job.resolve(_named(result, job.upload))
                done += 1
        except _GivenUpError:
            if left := [job for job in jobs[done:] if not job.future.cancelled()]:
                self._transcribe(left)
        except Exception as error:
            if len(jobs) == 1:
                log.exception("a request failed")
                jobs[0].resolve(error)
                return
            for job in jobs[done:]:
                job.tell = None  # once is enough
                self._transcribe([job])

    def expecting(self, hotwords: Hotwords) -> Decoder:
        """Return a decoder that expects these words; from any thread. It may take a while.

        Raises:
            AsrError: the model cannot write one of them.
        """
        with self._expecting_lock:
            if hotwords not in self._expecting:
                with_hotwords = self.recognizer.decoder.with_hotwords
                assert with_hotwords is not None  # the request would have been refused
                self._expecting[hotwords] = with_hotwords(dict(hotwords))
                if len(self._expecting) > _EXPECTING:
                    self._expecting.popitem(last=False)
            self._expecting.move_to_end(hotwords)
            return self._expecting[hotwords]


def _named(result: Transcript | Failure, upload: Upload) -> Transcript | Failure:
    """Return a result that calls the recording as the client does."""
    if isinstance(result, Failure):
        return Failure(upload.name, result.why.replace(str(upload.path), upload.name))
    return replace(result, path=upload.name)


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


def read_hotwords(given: Sequence[str], host: Host, name: str = "hotwords") -> Hotwords:
    """Return words to expect with their weights, in one order whatever the client's.

    Args:
        given: each as PHRASE or PHRASE:weight.
        name: what the client calls them.

    Raises:
        ApiError: one is none, there are too many, or the host's decoder can expect none.
    """
    if not given:
        return ()
    if host.recognizer.decoder.with_hotwords is None:
        raise ApiError(400, f"field '{name}' needs the beam search, and this server was started without", param=name)
    if len(given) > _MOST_HOTWORDS:
        raise ApiError(400, f"field '{name}' has {len(given):,} words; at most {_MOST_HOTWORDS:,} fit", param=name)
    try:
        return tuple(sorted(dict(map(parse_hotword, given)).items()))
    except AsrError as error:
        raise invalid_hotwords(error, name) from error
