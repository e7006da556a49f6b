"""Speak OpenAI's Realtime API for transcription: ``WS /v1/realtime?intent=transcription``.

Audio comes as base64. Each item is what is said up to a commit: the client's, or, with ``server_vad``, one after each
pause. Text is sent as it becomes certain, with the item's id; then the whole.

Source: the events of openai 3.57 (``openai/types/realtime``), and OpenAI's public reference of its API.
"""

from __future__ import annotations

import binascii
import secrets
from base64 import b64decode
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from asr.decode.choose import Decoder
from asr.decode.types import TimedWord
from asr.server.errors import ApiError
from asr.server.formats import logprobs
from asr.server.host import find_host
from asr.server.live import Update
from asr.server.realtime_session import KEYWORDS, Config, document, read_update
from asr.server.samples import Samples
from asr.server.sockets import Conversation, check_room, decoder_expecting
from asr.streaming.results import Result

#: closing because the server stops (RFC 6455)
_GOING = 1001
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


async def realtime(socket: WebSocket) -> None:
    """Take a session of transcription."""
    query = socket.query_params
    if query.get("intent") != "transcription":
        raise ApiError(400, "only ?intent=transcription is supported here", param="intent")
    host = find_host(socket.app.state.hosts, query.get("model"))
    check_room(socket.app.state.hosts, socket.app.state.settings)
    await _Realtime(socket, Config(model=host.name, language=host.language)).talk()


@dataclass
class _Item:
    """Keep what is known of an item."""

    previous: str | None
    id: str = field(default_factory=lambda: f"item_{secrets.token_hex(10)}")
    is_started: bool = False
    #: the text of the passages that have ended in it, and how much of the text was sent
    text: str = ""
    sent: int = 0
    words: tuple[TimedWord, ...] = ()
    seconds: float = 0.0


class _Realtime(Conversation):
    """Hold one session."""

    def __init__(self, socket: WebSocket, config: Config) -> None:
        super().__init__(socket)
        self._config = config
        self._id = f"sess_{secrets.token_hex(10)}"
        #: that expects the session's words
        self._decoder: Decoder | None = None
        self._samples: Samples | None = None
        self._item = _Item(None)
        #: audio came since the last commit
        self._has_audio = False
        #: for each flush that is not done: its results are an item, and not to be dropped
        self._flushes: deque[bool] = deque()
        #: the id of the client's event that is answered
        self._event_id: str | None = None

    async def on_begin(self) -> None:
        await self._event("session.created", session=document(self._config, self._id))

    async def on_text(self, message: dict[str, Any]) -> None:
        event_id = message.get("event_id")
        self._event_id = event_id if isinstance(event_id, str) else None
        kind = message.get("type")
        if kind == "input_audio_buffer.append":
            await self._append(message.get("audio"))
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            await self._clear()
        elif kind == "session.update":
            await self._update(message.get("session"))
        else:
            known = "session.update and input_audio_buffer.append, .commit, .clear"
            raise ApiError(400, f"'{kind}' is not supported here; there is {known}", param="type")

    async def on_bytes(self, content: bytes) -> None:
        raise ApiError(400, "binary messages are not supported here: audio comes in input_audio_buffer.append")

    async def on_refused(self, error: ApiError) -> None:
        details = error.document()["error"] | {"event_id": self._event_id}
        await self._event("error", error=details)

    async def on_update(self, update: Update) -> None:
        for results, is_flushed in update.parts():
            is_commit = not is_flushed or self._flushes.popleft()
            for result in results if is_commit else self._turns(results):
                await self._take(result)
            if is_flushed and is_commit:
                await self._complete()
            elif is_flushed:
                self._item = _Item(self._item.previous)
        if not update.is_last:
            return
        if update.failure:
            await self.on_refused(ApiError(500, update.failure, kind="server_error", code="transcription_failed"))
        elif self._item.text:
            await self._complete()
        await self.close(_GOING, "the server stops")

    def _turns(self, results: list[Result]) -> list[Result]:
        """Return the results of turns that had ended when the client cleared what followed: all but the last."""
        finals = [result for result in results if result.final]
        return finals[:-1] if self._config.has_turns else []

    async def _update(self, session: Any) -> None:
        config = read_update(session, self._config, self.hosts, has_begun=bool(self.session))
        host = find_host(self.hosts, config.model)
        self._decoder = await decoder_expecting(host, config.keywords, KEYWORDS)
        self._config = config
        await self._event("session.updated", session=document(config, self._id))

    async def _append(self, audio: Any) -> None:
        try:
            content = b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise ApiError(400, f"'audio' is not base64: {error}", param="audio") from error
        if self.session is None:
            host = find_host(self.hosts, self._config.model)
            self.open(host, self._config.rate_hz, self._config.rules, self._decoder)
            self._samples = Samples(self._config.encoding)
        assert self.session is not None and self._samples is not None
        if content:
            self._has_audio = True
            await self.session.push(self._samples.feed(content))

    async def _commit(self) -> None:
        if self.session is None or not self._has_audio:
            raise ApiError(400, "nothing is there to commit: no audio came", code="input_audio_buffer_commit_empty")
        self._has_audio = False
        self._flushes.append(True)
        await self.session.flush()

    async def _clear(self) -> None:
        if self.session is not None and self._has_audio:
            self._has_audio = False
            self._flushes.append(False)
            await self.session.flush()
        await self._event("input_audio_buffer.cleared")

    async def _take(self, result: Result) -> None:
        """Send what is new in the item."""
        item = self._item
        if result.words and self._config.has_turns and not item.is_started:
            started_ms = round(1000 * result.words[0].start_s)
            await self._event("input_audio_buffer.speech_started", item_id=item.id, audio_start_ms=started_ms)
            item.is_started = True

        text = " ".join(filter(None, (item.text, result.text)))
        unsure = 0 if result.final else max(0, len(result.text) - result.stable)
        certain = len(text) - unsure
        if result.text and certain > item.sent:
            delta = text[item.sent : certain]
            await self._event(f"{_TRANSCRIPTION}.delta", item_id=item.id, content_index=0, delta=delta)
            item.sent = certain
        if not result.final:
            return

        item.text = text
        item.words += result.words
        item.seconds += result.end_s - result.start_s
        if self._config.has_turns and item.text:
            stopped_ms = round(1000 * result.end_s)
            await self._event("input_audio_buffer.speech_stopped", item_id=item.id, audio_end_ms=stopped_ms)
            await self._complete()

    async def _complete(self) -> None:
        """Commit and complete the item, and begin the next one."""
        item = self._item
        self._item = _Item(item.id)
        await self._event("input_audio_buffer.committed", item_id=item.id, previous_item_id=item.previous)
        extra = {"logprobs": logprobs(item.words)} if self._config.logprobs else {}
        await self._event(
            f"{_TRANSCRIPTION}.completed",
            item_id=item.id,
            content_index=0,
            transcript=item.text,
            usage={"type": "duration", "seconds": round(item.seconds, 3)},
            **extra,
        )

    async def _event(self, kind: str, **fields: Any) -> None:
        await self.send({"type": kind, "event_id": f"event_{secrets.token_hex(10)}", **fields})


ROUTES = [WebSocketRoute("/v1/realtime", realtime)]
