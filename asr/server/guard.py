"""Guard the server: keys, origins, limits and the access log, around every request and socket.

The log has one line of JSON per request: never contents, queries or keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr.commands.console import say
from asr.server.errors import ApiError, busy, failed, stopping
from asr.server.settings import Settings, is_loopback

log = logging.getLogger(__name__)

#: paths that need no key: the page itself, and what monitors ask
_OPEN = ("/", "/health")
#: what is read of a refused body, at most, so that its client gets to read the answer: bytes, and seconds
_DRAINED = 8 << 20
_DRAINING_S = 2.0
#: what the log says of a client that has gone before it had an answer, as nginx does
_GONE = 499
#: how browsers, which can set no header of a socket, send a key among the subprotocols: OpenAI's way; and Deepgram's,
#: where it follows one of these words
_KEY_PREFIX = "openai-insecure-api-key."
_KEY_WORDS = ("token", "bearer")


def subprotocol(scope: Scope) -> str | None:
    """Return the subprotocol to accept a socket with: browsers give up if theirs is not answered."""
    offered = scope.get("subprotocols", [])
    return next((name for name in offered if name in ("realtime", *_KEY_WORDS)), None)


class Guard:
    """Let requests through that have a key, come from a page that may use the server, and find room."""

    def __init__(
        self, app: ASGIApp, settings: Settings, ended: Callable[[str, str, int, int, float], None] = lambda *facts: None
    ) -> None:
        """
        Args:
            ended: is told the method, path, status, bytes and seconds of each request that has ended.
        """
        self.app = app
        self._ended = ended
        self.settings = settings
        self._key_digests = [_digest(key) for key in settings.keys]
        self._allowed_hosts = {urlsplit(origin).netloc.lower() for origin in settings.origins}
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        exchange = _Exchange(scope, receive, send, self.settings)
        self._under_way += 1
        try:
            self._check(scope, Headers(scope=scope))
            await self.app(scope, exchange.receive, exchange.send)
        except ApiError as error:
            await exchange.refuse(error)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:  # the time for what is under way when the server stops is over
            await exchange.refuse(stopping())
        except Exception:
            log.exception("%s %s failed", scope.get("method", "WEBSOCKET"), scope["path"])
            await exchange.refuse(failed())
        finally:
            self._under_way -= 1
            self._ended(*exchange.finish())

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Refuse what can be refused before the body is read.

        Raises:
            ApiError: it has no key, comes from elsewhere, is too large, or finds no room.
        """
        self._check_origin(scope, headers)
        is_open = scope["type"] == "http" and scope["path"] in _OPEN
        if self._key_digests and not is_open:
            self._check_key(scope, headers)

        if self._under_way > self.settings.max_clients and scope["path"] != "/health":
            raise busy(f"{self.settings.max_clients} requests are under way; try again later")
        if headers.get("content-length", "0").isdigit():
            check_size(int(headers.get("content-length", "0")), self.settings.max_upload)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        given = _digest(_given_key(scope, headers))
        # All keys are compared, in constant time each: how long it takes says nothing about any of them.
        matches = [hmac.compare_digest(given, known) for known in self._key_digests]
        if not any(matches):
            raise ApiError(
                401,
                "this server needs an API key: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse pages of other sites: a browser would send their requests to this machine, too."""
        host = headers.get("host", "").lower()
        is_known = host in self._allowed_hosts
        if self.settings.is_local and host and not is_known and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            # A name elsewhere that was turned to this address ("DNS rebinding") would make any page one of ours.
            raise ApiError(403, f"the name '{host}' is not known here; start with --origin https://{host}", code="host")

        origin = headers.get("origin")
        if origin is None or scope.get("method") in ("GET", "HEAD"):
            return
        if origin not in self.settings.origins and urlsplit(origin).netloc.lower() != host:
            message = f"pages of '{origin}' may not use this server; start it with --origin {origin}"
            raise ApiError(403, message, code="origin")


def check_size(num_bytes: int, limit: int) -> None:
    """Refuse a body that is too large, also while it comes.

    Raises:
        ApiError: it is.
    """
    if num_bytes > limit:
        message = f"the request has more than {limit:,} bytes, which is the limit here (--max-upload)"
        raise ApiError(413, message, param="file", code="file_too_large", headers={"connection": "close"})


def _given_key(scope: Scope, headers: Headers) -> str:
    """Return the key in the header, or among the subprotocols of a socket; empty: none."""
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if key and scheme.lower() in _KEY_WORDS:
        return key.strip()

    for name, following in pairwise([*scope.get("subprotocols", []), ""]):
        if name.startswith(_KEY_PREFIX):
            return str(name.removeprefix(_KEY_PREFIX))
        if name in _KEY_WORDS:
            return str(following)
    return ""


def _digest(key: str) -> bytes:
    """Return a digest of a key: of one length, whatever is sent."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class _Exchange:
    """Count what comes and goes of one request or socket, and end it in order."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: Settings) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._settings = settings
        self._is_socket = scope["type"] == "websocket"
        self._id = f"req_{secrets.token_hex(12)}"
        self._began_s = time.monotonic()
        self._num_bytes = 0
        self._status = 0
        headers = Headers(scope=scope)
        self._body_done = self._is_socket or not (
            "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        )
        scope.setdefault("state", {})["request_id"] = self._id

    async def receive(self) -> Message:
        """Receive, count, and give up on a client that stays silent in the middle of a body.

        Raises:
            ApiError: the body is too large, or does not come.
        """
        if self._body_done:
            message = await self._receive()
        else:
            try:
                message = await asyncio.wait_for(self._receive(), self._settings.patience_s)
            except TimeoutError:
                headers = {"connection": "close"}
                raise ApiError(408, "the request's body does not come", code="timeout", headers=headers) from None

        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self._body_done = not message.get("more_body", False)
            check_size(self._num_bytes, self._settings.max_upload)
        elif message["type"] == "websocket.receive":
            self._num_bytes += len(message.get("bytes") or message.get("text") or "")
        elif message["type"] == "http.disconnect":
            self._body_done = True
            self._status = self._status or _GONE
        return message

    async def send(self, message: Message) -> None:
        """Send, note the status, and read on a little where the body was refused."""
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            if self.scope["app"].state.is_stopping():
                headers["connection"] = "close"  # else the client may send its next request to a socket that closes
        elif kind == "websocket.accept":
            self._status = 101
        elif kind == "websocket.http.response.start":
            self._status = message["status"]
        elif kind == "websocket.close" and not self._status:
            self._status = 403

        if kind == "http.response.body" and not message.get("more_body") and not self._body_done:
            # A connection that is closed on unread data is reset, and the client may never see the answer.
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": kind, "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        drained = 0
        try:
            async with asyncio.timeout(_DRAINING_S):
                while drained < _DRAINED:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    self._num_bytes += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return
        except TimeoutError:
            pass

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error, if nothing was answered yet."""
        if self._is_socket:
            if not self._status:
                await self._refuse_socket(error)
            elif self._status == 101:
                await self._send({"type": "websocket.close", "code": 1011, "reason": error.message[:100]})
        elif not self._status:
            await error.response()(self.scope, self.receive, self.send)

    async def _refuse_socket(self, error: ApiError) -> None:
        """Refuse a socket with a status and a reason, where the server can; else it is a plain 403."""
        if "websocket.http.response" not in self.scope.get("extensions", {}):
            await self.send({"type": "websocket.close"})
            return
        response = error.response()
        start = {"type": "websocket.http.response.start", "status": error.status, "headers": response.raw_headers}
        await self.send(start)
        await self.send({"type": "websocket.http.response.body", "body": response.body})

    def finish(self) -> tuple[str, str, int, int, float]:
        """Write the line of the access log; return the method, path, status, bytes and seconds."""
        method = "WEBSOCKET" if self._is_socket else self.scope["method"]
        path = self.scope["path"]
        status = self._status or _GONE
        seconds = round(time.monotonic() - self._began_s, 3)
        client = self.scope.get("client")
        row = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": self._id,
            "client": client[0] if client else None,
            "method": method,
            "path": path,
            "status": status,
            "bytes": self._num_bytes,
            "seconds": seconds,
        }
        say(json.dumps(row))
        return method, path, status, self._num_bytes, seconds
