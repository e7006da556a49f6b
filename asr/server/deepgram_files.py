"""Speak Deepgram's protocol for files: ``POST /v1/listen`` with the content of a sound file as the body.

Source: the request and response of deepgram-sdk 7.17 (``listen/v1/media``).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asr.server.deepgram import alternative, metadata
from asr.server.deepgram_query import check_file_query, is_true, keyterms, refusal
from asr.server.errors import ApiError
from asr.server.forms import check_language
from asr.server.host import Upload, find_host, read_hotwords
from asr.server.openai import unless_gone
from asr.transcript import Failure, Transcript


async def listen_to_file(request: Request) -> Response:
    """Transcribe a file."""
    try:
        return await _listen_to_file(request)
    except ApiError as error:
        return refusal(error, request.state.request_id)


async def _listen_to_file(request: Request) -> Response:
    query = request.query_params
    check_file_query(query)
    with_utterances = is_true(query, "utterances")
    state = request.app.state
    host = find_host(state.hosts, query.get("model"))
    check_language([query["language"]] if query.get("language") else [], host.language)
    hotwords = read_hotwords(keyterms(query), host, "keyterm")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        raise ApiError(400, "'url' is not supported here: send the content of the file as the body", param="url")

    async with _body(request) as (path, sha256):
        work = asyncio.ensure_future(host.transcribe(Upload(path, "body", None, hotwords)))
        transcript = await unless_gone(request, work)
    if isinstance(transcript, Failure):
        raise ApiError(400, transcript.why, code="Bad Request")
    state.metrics.count_audio(host.name, transcript.duration_s)
    return JSONResponse(
        {
            "metadata": metadata(host, request, sha256, transcript.duration_s),
            "results": _results(transcript, with_utterances=with_utterances),
        }
    )


@asynccontextmanager
async def _body(request: Request) -> AsyncIterator[tuple[Path, str]]:
    """Write the body to a file that is gone when the block ends; also yield its SHA-256.

    Raises:
        ApiError: there is none.
    """
    handle, name = tempfile.mkstemp(prefix="upload-")
    path = Path(name)
    sha256 = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file:
            async for part in request.stream():
                sha256.update(part)
                file.write(part)
        if not path.stat().st_size:
            raise ApiError(400, "the body is empty; expected the content of a sound file", code="Bad Request")
        yield path, sha256.hexdigest()
    finally:
        path.unlink(missing_ok=True)


def _results(transcript: Transcript, *, with_utterances: bool) -> dict[str, Any]:
    results: dict[str, Any] = {"channels": [{"alternatives": [alternative(transcript.text, transcript.words)]}]}
    if with_utterances:
        results["utterances"] = [
            {
                "start": round(segment.start_s, 3),
                "end": round(segment.end_s, 3),
                "channel": 0,
                **alternative(segment.text, segment.words),
            }
            for segment in transcript.segments
        ]
    return results


ROUTES = (Route("/v1/listen", listen_to_file, methods=["POST"]),)
