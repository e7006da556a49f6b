"""Put the server together: routes, guard and hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asr.server import deepgram, deepgram_files, openai, realtime, vosk
from asr.server.errors import ApiError, on_api_error, on_http_error
from asr.server.guard import Guard
from asr.server.host import Host
from asr.server.metrics import Metrics
from asr.server.page import page_route
from asr.server.settings import Settings


def make_app(hosts: Mapping[str, Host], settings: Settings = Settings()) -> Starlette:
    """Return the server as an ASGI application; it starts and stops the hosts.

    Endpoints find ``hosts``, ``settings`` and ``metrics`` in ``request.app.state``.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        for host in hosts.values():
            host.start()
        try:
            yield
        finally:
            for host in hosts.values():
                host.stop()

    routes: list[Route | WebSocketRoute] = [
        page_route(),
        Route("/health", health),
        Route("/metrics", metrics),
        *openai.ROUTES,
        *deepgram.ROUTES,
        *deepgram_files.ROUTES,
        *realtime.ROUTES,
        *vosk.ROUTES,
    ]
    elsewhere = WebSocketRoute("/{path:path}", no_socket)
    measured = Metrics(route.path for route in routes)
    measured.gauges["asr_waiting"] = (
        "Requests that wait for a model.",
        "model",
        lambda: {name: host.waiting for name, host in hosts.items()},
    )
    measured.gauges["asr_streams"] = (
        "Live streams.",
        "model",
        lambda: {name: len(host.live) for name, host in hosts.items()},
    )
    app = Starlette(
        routes=[*routes, elsewhere],
        middleware=[Middleware(Guard, settings=settings, ended=measured.count_request)],
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error},
        lifespan=lifespan,
    )
    app.state.hosts = dict(hosts)
    app.state.settings = settings
    app.state.metrics = measured
    #: whether the server was asked to stop; what runs the application sets it
    app.state.is_stopping = lambda: False
    return app


async def health(request: Request) -> Response:
    """Say that the server runs, and which models it has; open to all, so that monitors need no key."""
    return JSONResponse({"status": "ok", "models": list(request.app.state.hosts)})


async def no_socket(socket: WebSocket) -> None:
    """Refuse a socket at any other address."""
    raise ApiError(404, f"unknown address: {socket.url.path}")


async def metrics(request: Request) -> Response:
    """Show the counters to Prometheus."""
    return PlainTextResponse(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")
