"""Answer OpenAI's transcription API, as its official clients call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, closing
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from asr.errors import AsrError
from asr.server import formats
from asr.server.errors import ApiError
from asr.server.forms import Wanted, check_language, form_of, saved, wanted
from asr.server.host import Host, Upload, find_host, read_hotwords
from asr.server.metrics import Metrics
from asr.transcribe import Failure
from asr.transcript import Transcript

T = TypeVar("T")

#: channels that diarized_json tells apart, at most
_SPEAKERS = 8


async def transcriptions(request: Request) -> Response:
    """Transcribe an upload: ``POST /v1/audio/transcriptions``."""
    state = request.app.state
    async with AsyncExitStack() as held:
        form = await held.enter_async_context(form_of(request))
        asked = wanted(form)
        host = find_host(state.hosts, asked.model)
        check_language(asked.languages, host.language)
        hotwords = read_hotwords(asked.hotwords, host)
        path, name = await held.enter_async_context(saved(form))
        await form.close()
        channels = [None] if asked.format != "diarized_json" else await _channels(path, name)
        uploads = [Upload(path, name, channel, hotwords) for channel in channels]

        if not asked.stream:
            transcripts = await unless_gone(request, asyncio.ensure_future(_transcripts(host, uploads)))
            state.metrics.count_audio(host.name, transcripts[0].duration_s)
            return formats.response(transcripts, asked, host.language)

        # The first event is waited for: until then, a failure has a status of its own.
        events = await held.enter_async_context(aclosing(_events(host, uploads, asked, state.metrics)))
        first = await unless_gone(request, asyncio.ensure_future(anext(events)))
        return _EventResponse(first, events, held.pop_all())
    raise AssertionError("not reached")  # the stack hides no error


async def models(request: Request) -> Response:
    """List the models: ``GET /v1/models``."""
    hosts = request.app.state.hosts.values()
    return JSONResponse({"object": "list", "data": [_described(host) for host in hosts]})


async def model(request: Request) -> Response:
    """Describe a model: ``GET /v1/models/{id}``."""
    return JSONResponse(_described(find_host(request.app.state.hosts, request.path_params["id"])))


ROUTES = (
    Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{id:path}", model),
)


def _described(host: Host) -> dict[str, Any]:
    """Describe a model with OpenAI's fields, and what it can do here."""
    decoder = host.recognizer.decoder
    own = {
        "sample_rate_hz": host.recognizer.model.audio.sample_rate_hz,
        "decoder": decoder.name,
        "language_model": Path(decoder.lm).name if decoder.lm else None,
        "hotwords": decoder.with_hotwords is not None,
        "streams": host.live.partials,
    }
    if host.language:
        own["language"] = host.language
    return {"id": host.name, "object": "model", "created": host.created, "owned_by": "asr", **own}


async def _channels(path: Path, name: str) -> list[int | None]:
    """Return the channels of a recording, from 1.

    Raises:
        ApiError: it cannot be read, or has more than speakers have names.
    """
    from asr.sound.reader import open_recording

    def count() -> int:
        with closing(open_recording(path)) as recording:
            return recording.channels

    try:
        number = await run_in_threadpool(count)
    except AsrError as error:
        raise invalid_audio(str(error).replace(str(path), name)) from error
    if number > _SPEAKERS:
        raise invalid_audio(f"{name}: {number} channels; diarized_json tells at most {_SPEAKERS} apart")
    return [channel + 1 for channel in range(number)]


async def _transcripts(host: Host, uploads: Sequence[Upload]) -> list[Transcript]:
    """Return the transcripts of uploads.

    Raises:
        ApiError: one of them cannot be used.
    """
    return [_checked(result) for result in await asyncio.gather(*map(host.transcribe, uploads))]


def _checked(result: Transcript | Failure) -> Transcript:
    if isinstance(result, Failure):
        raise invalid_audio(result.why)
    return result


def invalid_audio(why: str) -> ApiError:
    """Return the refusal of a recording that cannot be used."""
    return ApiError(400, why, param="file", code="invalid_audio")


async def _events(
    host: Host, uploads: Sequence[Upload], asked: Wanted, metrics: Metrics
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of a streamed answer; those of a long recording come while it is transcribed.

    Raises:
        ApiError: the recording cannot be used, and no event was there yet; later, the error is an event.
    """
    if len(uploads) > 1 or asked.format == "diarized_json":
        transcripts = await _transcripts(host, uploads)
        metrics.count_audio(host.name, transcripts[0].duration_s)
        for event in formats.diarized_events(transcripts):
            yield event
        return

    passages: asyncio.Queue[Transcript | None] = asyncio.Queue()
    work = asyncio.ensure_future(host.transcribe(uploads[0], passages.put_nowait))
    work.add_done_callback(lambda _: passages.put_nowait(None))
    told = 0
    try:
        while (passage := await passages.get()) is not None:
            for event in formats.deltas(passage.segments, asked, is_first=not told):
                yield event
            told += len(passage.segments)
        transcript = _checked(await work)
    except ApiError as error:
        if not told:
            raise
        yield error.document()
        return
    finally:
        work.cancel()
    metrics.count_audio(host.name, transcript.duration_s)
    for event in formats.deltas(transcript.segments[told:], asked, is_first=not told):
        yield event
    yield formats.done(transcript, asked)


class _EventResponse(StreamingResponse):
    """Send events, and keep what they need until they are sent or the client has gone."""

    def __init__(self, first: dict[str, Any], following: AsyncIterator[dict[str, Any]], held: AsyncExitStack) -> None:
        # proxies, nginx's among them, keep events back otherwise
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_sent(first, following), headers=headers, media_type="text/event-stream")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _sent(first: dict[str, Any], following: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Yield events as server-sent ones."""
    yield _written(first)
    async for event in following:
        yield _written(event)


def _written(event: dict[str, Any]) -> str:
    return f"event: {event.get('type', 'error')}\ndata: {json.dumps(event)}\n\n"


async def unless_gone(request: Request, work: asyncio.Future[T]) -> T:
    """Wait for the result; give it up when the client goes away.

    Raises:
        ClientDisconnect: it has.
    """
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
