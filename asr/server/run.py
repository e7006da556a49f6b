"""Run the server on an address, until it is asked to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import SecurityError

from asr.errors import ConfigError, os_reason
from asr.server.app import make_app
from asr.server.host import Host
from asr.server.settings import Settings

#: bytes of one message on a socket: a minute of audio at 24 kHz and 16 bits, as base64
MESSAGE = 4 << 20
#: a client that has sent much has its answer to a ping behind all of that: so long it is waited for
PONG_S = 600.0
#: connections that wait to be accepted
_BACKLOG = 256
#: between two looks whether all live streams have ended
_POLL_S = 0.02


def bind(host: str, port: int) -> socket.socket:
    """Take an address, so that a mistake in it is found before models are loaded. Port 0 is any that is free.

    Raises:
        ConfigError: the address is taken, or is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host}: {os_reason(error)}") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        option = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise ConfigError(
            f"cannot listen at {host} port {port}: {os_reason(error)}; choose another {option}"
        ) from error
    return taken


def address_of(listening: socket.socket) -> str:
    """Return where a browser finds the server."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(hosts: Mapping[str, Host], settings: Settings, ready: Callable[[], None]) -> uvicorn.Server:
    """Return the server, to be run on a socket that is bound.

    Args:
        ready: called when the first request may come.
    """
    app = make_app(hosts, settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws=_Sockets,
        ws_max_size=MESSAGE,
        ws_ping_timeout=PONG_S,
        ws_per_message_deflate=False,
        backlog=_BACKLOG,
    )
    server = _Server(config, ready, hosts, settings.grace_s)
    app.state.is_stopping = lambda: server.should_exit
    return server


def serve(hosts: Mapping[str, Host], settings: Settings, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; then take no more, and finish what is under way.

    Uploads lie in a private temporary folder, which is gone afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="asr-serve-") as folder:
        before = tempfile.tempdir, signal.getsignal(signal.SIGTERM)
        tempfile.tempdir = folder
        # it warns of forms that are none, which their clients are told of, and quotes bytes of them
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        logging.getLogger("uvicorn.error").addFilter(_is_no_refusal)
        # uvicorn raises the signal again once it has stopped; by default that would end the process at once, before
        # the folder is gone
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            make_server(hosts, settings, ready).run(sockets=[listening])
        finally:
            tempfile.tempdir = before[0]
            signal.signal(signal.SIGTERM, before[1])


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """Return false for what uvicorn logs of a socket that was refused by a response, as ASGI allows."""
    return "without completing handshake" not in record.getMessage()


class _Sockets(WebSocketsSansIOProtocol):
    """Answer a handshake of too long lines as websockets does; uvicorn 0.54 leaves its client without an answer."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if isinstance(self.conn.handshake_exc, SecurityError):
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()


class _Server(uvicorn.Server):
    """Say when the server is ready, and finish live streams when it ends."""

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], hosts: Mapping[str, Host], grace_s: float
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._hosts = hosts
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn waits for requests, but closes sockets at once
        lives = [host.live for host in self._hosts.values()]
        for live in lives:
            live.finish_all()
        began_s = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while any(map(len, lives)):
                    await asyncio.sleep(_POLL_S)
        left_s = self._grace_s - (time.monotonic() - began_s)
        self.config.timeout_graceful_shutdown = max(0, round(left_s))
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves the rest to asyncio, which logs a traceback
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()
