"""Hold a conversation over a WebSocket: what comes is read in one task, and results are sent in another."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from asr.decode.choose import Decoder
from asr.errors import AsrError
from asr.server.errors import ApiError, busy, invalid_hotwords
from asr.server.guard import subprotocol
from asr.server.host import Host, read_hotwords
from asr.server.live import Session, Update
from asr.server.settings import Settings
from asr.streaming.results import Rules

#: a socket on which nothing comes for so long is closed
_IDLE_S = 600.0
#: bytes of the reason of closing, which RFC 6455 limits to 123
_REASON = 120
#: codes of closing (RFC 6455): all is done; no room
DONE, TRY_LATER = 1000, 1013


class Conversation(ABC):
    """Hold one client's socket. Subclasses speak a protocol."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.hosts: dict[str, Host] = socket.app.state.hosts
        self.settings: Settings = socket.app.state.settings
        self.session: Session | None = None
        self._writer: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._is_closed = False

    @abstractmethod
    async def on_begin(self) -> None:
        """Answer a client that has come."""

    @abstractmethod
    async def on_text(self, message: dict[str, Any]) -> None:
        """Take a message, a JSON object.

        Raises:
            ApiError: it is refused; the conversation goes on if ``on_refused`` does not end it.
        """

    @abstractmethod
    async def on_bytes(self, content: bytes) -> None:
        """Take audio. Raises as ``on_text``."""

    @abstractmethod
    async def on_update(self, update: Update) -> None:
        """Send what is new."""

    @abstractmethod
    async def on_refused(self, error: ApiError) -> None:
        """Say that a message was refused."""

    async def talk(self) -> None:
        """Hold the conversation until one side ends it."""
        await self.socket.accept(subprotocol=subprotocol(self.socket.scope))
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._over.wait())}
        try:
            await self.on_begin()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except WebSocketDisconnect:
            pass
        finally:
            if self.session is not None:
                self.session.close()
                self.socket.app.state.metrics.count_audio(self.session.model, self.session.heard_s)
            if self._writer is not None:
                tasks.add(self._writer)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect):
                raise outcome

    def open(self, host: Host, rate_hz: int, rules: Rules = Rules(), decoder: Decoder | None = None) -> Session:
        """Begin the stream.

        Raises:
            ApiError: there are too many, or no speech has that rate.
        """
        check_room(self.hosts, self.settings)
        try:
            self.session = host.live.open(rate_hz, rules, decoder)
        except AsrError as error:
            raise ApiError(400, str(error), param="sample_rate") from error
        self._writer = asyncio.create_task(self._write(self.session))
        return self.session

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message; nothing is sent after the end."""
        if not self._is_closed:
            await self.socket.send_text(json.dumps(message))  # in ASCII: what is echoed may be no text

    async def close(self, code: int = DONE, reason: str = "") -> None:
        """End the conversation; what comes later is not read."""
        self._is_closed = True
        with suppress(WebSocketDisconnect, RuntimeError):  # the client was faster
            await self.socket.close(code, reason.encode(errors="replace")[:_REASON].decode(errors="ignore"))
        self._over.set()

    async def _read(self) -> None:
        while not self._is_closed:
            try:
                async with asyncio.timeout(_IDLE_S):
                    message = await self.socket.receive()
            except TimeoutError:
                await self.on_refused(ApiError(408, f"nothing came for {_IDLE_S:g} seconds", code="timeout"))
                await self.close(reason="timeout")
                return
            if message["type"] == "websocket.disconnect":
                return
            try:
                if message.get("text") is not None:
                    await self.on_text(_object(message["text"]))
                else:
                    await self.on_bytes(message["bytes"])
            except ApiError as error:
                await self.on_refused(error)

    async def _write(self, session: Session) -> None:
        try:
            async for update in session:
                await self.on_update(update)
        finally:
            self._over.set()


async def decoder_expecting(host: Host, given: Sequence[str], name: str) -> Decoder | None:
    """Return a decoder for a stream that expects these words (``read_hotwords``); None: there are none.

    Raises:
        ApiError: they are refused.
    """
    hotwords = read_hotwords(given, host, name)
    if not hotwords:
        return None
    try:
        return await run_in_threadpool(host.expecting, hotwords)
    except AsrError as error:
        raise invalid_hotwords(error, name) from error


def check_room(hosts: dict[str, Host], settings: Settings) -> None:
    """Refuse one stream too many.

    Raises:
        ApiError: it is.
    """
    streams = sum(len(host.live) for host in hosts.values())
    if streams >= settings.max_streams:
        raise busy(f"{streams} live streams are under way, which is the limit here; try again later")


def _object(text: str) -> dict[str, Any]:
    """Return a message as a JSON object.

    Raises:
        ApiError: it is none.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the message is no JSON: {error}", code="invalid_json") from error
    if not isinstance(document, dict):
        raise ApiError(400, "the message is no JSON object", code="invalid_json")
    return document
