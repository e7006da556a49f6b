"""Speak the protocol of Vosk's WebSocket server: ``WS /`` and ``WS /vosk``.

The client sends a JSON object with ``config``, then messages of 16-bit PCM, and at the end ``{"eof": 1}``. Every
message but ``config`` is answered by exactly one, which clients wait for before they send the next.

Source: vosk-server's ``websocket/asr_server.py`` and ``test.py``, and Vosk's API (``Result``, ``PartialResult``).
"""

from __future__ import annotations

from collections import deque
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from asr.decode.types import TimedWord
from asr.errors import nearest
from asr.server.errors import ApiError
from asr.server.host import find_host
from asr.server.live import Session, Update
from asr.server.samples import Samples
from asr.server.sockets import TRY_LATER, Conversation, check_room
from asr.streaming.results import Result

#: where the client says nothing else, as in vosk-server
_RATE_HZ = 8000
_CONFIG = ("sample_rate", "words", "model", "phrase_list", "max_alternatives")
#: of times in floating point
_ROUNDING_S = 1e-6
#: closing because the client sent what cannot be taken (RFC 6455)
_REFUSED = 1008


async def vosk(socket: WebSocket) -> None:
    """Take a live stream."""
    check_room(socket.app.state.hosts, socket.app.state.settings)
    await _Vosk(socket).talk()


class _Vosk(Conversation):
    """Answer each message by the text of the passage that has ended in it, or by the text so far."""

    def __init__(self, socket: WebSocket) -> None:
        super().__init__(socket)
        self._rate_hz = _RATE_HZ
        self._words = True
        self._model: str | None = None
        self._samples = Samples("linear16")
        self._partial = ""
        #: answers that are owed: up to which second of the stream, or, None, up to the next flush
        self._owed: deque[float | None] = deque()
        self._finals: list[Result] = []

    async def on_begin(self) -> None:
        """Wait: the client begins."""

    async def on_text(self, message: dict[str, Any]) -> None:
        if "config" in message:
            self._configure(message["config"])
        elif "eof" in message:
            self._stream().finish()
        elif "reset" in message:
            self._owed.append(None)
            await self._stream().flush()
        else:
            raise ApiError(400, f"unknown message with {', '.join(message) or 'nothing'}; there is config, eof, reset")

    async def on_bytes(self, content: bytes) -> None:
        stream = self._stream()
        wave_n = self._samples.feed(content)
        if not len(wave_n):
            await self._answer()
            return
        self._owed.append(stream.pushed_s + len(wave_n) / stream.rate_hz)
        await stream.push(wave_n)

    async def on_refused(self, error: ApiError) -> None:
        """End the conversation: the protocol has no message for mistakes."""
        await self.send({"error": error.message})
        await self.close(TRY_LATER if error.status == 429 else _REFUSED, error.message)

    async def on_update(self, update: Update) -> None:
        for results, is_flushed in update.parts():
            for result in results:
                if result.final:
                    self._finals.append(result)
                    self._partial = ""
                else:
                    self._partial = result.text
            while self._owed and self._owed[0] is not None and self._owed[0] <= update.heard_s + _ROUNDING_S:
                self._owed.popleft()
                await self._answer()
            if is_flushed and self._owed:
                self._owed.popleft()
                await self._answer(is_final=True)
        if update.is_last:
            if update.failure:
                await self.send({"error": update.failure})
            else:
                await self._answer(is_final=True)
            await self.close()

    async def _answer(self, *, is_final: bool = False) -> None:
        """Send one answer: all that has ended, or what was said so far."""
        if self._finals or is_final:
            finals, self._finals = self._finals, []
            await self.send(_document(finals, self._words))
        else:
            await self.send({"partial": self._partial})

    def _stream(self) -> Session:
        if self.session is None:
            self.session = self.open(find_host(self.hosts, self._model), self._rate_hz)
        return self.session

    def _configure(self, config: Any) -> None:
        """Take the configuration.

        Raises:
            ApiError: a field is unknown, or cannot be honoured.
        """
        if not isinstance(config, dict):
            raise ApiError(400, "config is no object", param="config")
        for name in config:
            if name not in _CONFIG:
                raise ApiError(400, f"unknown field '{name}' of config{nearest(name, _CONFIG)}", param=name)
        if config.get("phrase_list"):
            raise ApiError(
                400,
                "'phrase_list' allows no other words, which is not supported here; leave it out",
                param="phrase_list",
            )
        if config.get("max_alternatives"):
            raise ApiError(
                400, "'max_alternatives' is not supported here: a stream has one text", param="max_alternatives"
            )
        rate_hz = config.get("sample_rate", self._rate_hz)
        if not isinstance(rate_hz, int | float) or rate_hz != rate_hz // 1:
            raise ApiError(400, f"'sample_rate' is {rate_hz}; expected a rate in Hz", param="sample_rate")
        model = config.get("model", self._model)
        if self.session is not None and (rate_hz != self._rate_hz or model != self._model):
            raise ApiError(400, "sample_rate and model cannot change after the first audio", param="config")
        self._rate_hz = int(rate_hz)
        self._words = bool(config.get("words", self._words))
        if model is not None:
            self._model = find_host(self.hosts, str(model)).name


def _document(finals: list[Result], with_words: bool) -> dict[str, Any]:
    """Return the message of passages that have ended."""
    document: dict[str, Any] = {}
    words = [_word(word) for result in finals for word in result.words]
    if with_words and words:
        document["result"] = words
    document["text"] = " ".join(result.text for result in finals if result.text)
    return document


def _word(word: TimedWord) -> dict[str, Any]:
    row: dict[str, Any] = {} if word.confidence is None else {"conf": round(word.confidence, 6)}
    return row | {"end": round(word.end_s, 3), "start": round(word.start_s, 3), "word": word.word}


ROUTES = [WebSocketRoute("/", vosk), WebSocketRoute("/vosk", vosk)]
