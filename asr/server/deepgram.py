"""Speak Deepgram's protocol for live audio: ``WS /v1/listen``.

Source: the messages and parameters of deepgram-sdk 7.17 (``listen/v1``), and Deepgram's public reference of its API.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from asr.decode.choose import Decoder
from asr.decode.types import TimedWord
from asr.server.deepgram_query import Wishes, read_wishes, refusal
from asr.server.errors import ApiError
from asr.server.forms import check_language
from asr.server.host import Host, find_host
from asr.server.live import Session, Update
from asr.server.samples import Samples
from asr.server.sockets import Conversation, check_room, decoder_expecting
from asr.streaming.results import Result


async def listen(socket: WebSocket) -> None:
    """Take a live stream; what cannot be honoured is refused before it begins, by name."""
    try:
        wishes = read_wishes(socket.query_params)
        host = find_host(socket.app.state.hosts, wishes.model)
        check_language([wishes.language] if wishes.language else [], host.language)
        check_room(socket.app.state.hosts, socket.app.state.settings)
        decoder = await decoder_expecting(host, wishes.keyterms, "keyterm")
    except ApiError as error:
        await socket.send_denial_response(refusal(error, socket.scope["state"]["request_id"]))
        return
    await _Listening(socket, host, wishes, decoder).talk()


def model_info(host: Host) -> dict[str, Any]:
    """Return what is known of a model; ``streams``: whether text comes while somebody speaks."""
    return {"name": host.name, "arch": "ctc", "streams": host.live.partials}


def model_id(host: Host) -> str:
    """Return an identifier of a model that stays the same while its name does."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"asr:{host.name}"))


def metadata(host: Host, request: HTTPConnection, sha256: str, duration_s: float) -> dict[str, Any]:
    """Return what is said of the audio of a request."""
    return {
        "transaction_key": "deprecated",
        "request_id": request.scope["state"]["request_id"],
        "sha256": sha256,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "duration": round(duration_s, 3),
        "channels": 1,
        "models": [model_id(host)],
        "model_info": {model_id(host): model_info(host)},
    }


def alternative(text: str, words: tuple[TimedWord, ...]) -> dict[str, Any]:
    """Return a text with its words; its confidence is the mean of theirs, 0 if there are none."""
    sure = [word.confidence for word in words if word.confidence is not None]
    return {
        "transcript": text,
        "confidence": round(sum(sure) / len(sure), 4) if sure else 0.0,
        "words": [_word(word) for word in words],
    }


def _word(word: TimedWord) -> dict[str, Any]:
    row: dict[str, Any] = {"word": word.word, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
    if word.confidence is not None:
        row["confidence"] = round(word.confidence, 4)
    return row


class _Listening(Conversation):
    """Hold one live stream."""

    def __init__(self, socket: WebSocket, host: Host, wishes: Wishes, decoder: Decoder | None) -> None:
        super().__init__(socket)
        self._host = host
        self._wishes = wishes
        self._decoder = decoder
        self._request_id: str = socket.scope["state"]["request_id"]
        self._samples = Samples(wishes.encoding)
        self._sha256 = hashlib.sha256()
        self._closing = False
        #: where the last passage ended
        self._end_s = 0.0
        #: when the last word ended, if its utterance has not; whether the passage has a word
        self._last_word_s: float | None = None
        self._has_word = False

    async def on_begin(self) -> None:
        self._live: Session = self.open(self._host, self._wishes.rate_hz, self._wishes.rules, self._decoder)

    async def on_bytes(self, content: bytes) -> None:
        if not content:  # an older way to close the stream
            await self.on_text({"type": "CloseStream"})
            return
        self._sha256.update(content)
        await self._live.push(self._samples.feed(content))

    async def on_text(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "Finalize":
            await self._live.flush()
        elif kind == "CloseStream" and not self._closing:
            self._closing = True
            self._live.finish()
        elif kind not in ("KeepAlive", "CloseStream"):
            raise ApiError(400, f"'{kind}' is not supported here; there is KeepAlive, Finalize and CloseStream")

    async def on_refused(self, error: ApiError) -> None:
        await self.send({"type": "Error", "variant": "SchemaError", "description": error.message})

    async def on_update(self, update: Update) -> None:
        for results, is_flushed in update.parts():
            finals = [result for result in results if result.final]
            # The last one ended because the client said so.
            asked = finals[-1] if finals and (is_flushed or update.is_last) else None
            for result in results:
                await self._send_result(result, is_asked=result is asked, from_finalize=is_flushed and result is asked)
            if is_flushed and not finals:
                # Nothing was left to say, but the client may wait for an answer.
                nothing = Result("", True, self._end_s, max(self._end_s, update.heard_s))
                await self._send_result(nothing, is_asked=True, from_finalize=True)

        gap_s = self._wishes.utterance_end_s
        if gap_s is not None and self._last_word_s is not None and update.heard_s - self._last_word_s >= gap_s:
            await self.send({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": round(self._last_word_s, 3)})
            self._last_word_s = None
        if update.is_last:
            await self._end(update)

    async def _send_result(self, result: Result, *, is_asked: bool, from_finalize: bool) -> None:
        if result.words:
            if self._wishes.vad_events and not self._has_word:
                started_s = round(result.words[0].start_s, 3)
                await self.send({"type": "SpeechStarted", "channel": [0, 1], "timestamp": started_s})
            self._last_word_s = result.words[-1].end_s
        self._has_word = bool(result.words) and not result.final

        if result.final:
            self._end_s = result.end_s
            if result.text or from_finalize or result.end_s > result.start_s:
                await self.send(self._row(result, is_end_point=not is_asked, from_finalize=from_finalize))
        elif self._wishes.interim and result.text:
            await self.send(self._row(result))

    def _row(self, result: Result, *, is_end_point: bool = False, from_finalize: bool = False) -> dict[str, Any]:
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "start": round(result.start_s, 3),
            "duration": round(result.end_s - result.start_s, 3),
            "is_final": result.final,
            "speech_final": is_end_point and bool(result.text),
            "from_finalize": from_finalize,
            "channel": {"alternatives": [alternative(result.text, result.words)]},
            "metadata": {
                "request_id": self._request_id,
                "model_info": model_info(self._host),
                "model_uuid": model_id(self._host),
            },
        }

    async def _end(self, update: Update) -> None:
        if update.failure:
            await self.send({"type": "Error", "variant": "ServerError", "description": update.failure})
            await self.close(1011, update.failure)
            return
        known = metadata(self._host, self.socket, self._sha256.hexdigest(), update.heard_s)
        await self.send({"type": "Metadata", **known})
        await self.close()


ROUTES = [WebSocketRoute("/v1/listen", listen)]
