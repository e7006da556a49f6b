"""A real HTTP server on localhost, in a thread, that can be told to behave badly."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Host:
    """What a server serves and how; may be changed while it runs."""

    files: dict[str, bytes]
    #: it answers Range with 206; Python's own http.server never does
    ranges: bool = True
    etag: str = '"one"'
    date: str = ""
    #: says how long the file is
    length: bool = True
    #: bytes after which each of the next connections breaks
    cuts: list[int] = field(default_factory=list)
    #: codes that the next answers have in place of 200
    codes: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    #: seconds to wait after each 64 KiB
    pause_s: float = 0.0
    #: what Authorization must be; empty: anybody is served
    login: str = ""
    #: (path, Range, If-Range) of each request
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    #: Authorization of each request
    logins: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(files: dict[str, bytes], **settings: object) -> Iterator[Host]:
    """A host that serves files by their path, while the block runs."""
    host = Host(files, **settings)  # type: ignore[arg-type]

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range"), self.headers.get("If-Range")
            host.asked.append((self.path, *asked))
            host.logins.append(self.headers.get("Authorization"))
            if host.login and host.logins[-1] != host.login:
                self.send_error(401)
                return
            if self.path in host.redirects:
                self.send_response(302)
                self.send_header("Location", host.redirects[self.path])
                self.end_headers()
                return
            if host.codes:
                self.send_error(host.codes.pop(0))
                return
            if self.path not in host.files:
                self.send_error(404)
                return
            content = host.files[self.path]
            start, status = 0, 200
            if host.ranges and asked[0] and asked[1] in (None, host.etag, host.date):
                start, status = int(asked[0].removeprefix("bytes=").removesuffix("-")), 206
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
            self.send_response(status)
            if host.length:
                self.send_header("Content-Length", str(len(content) - start))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for name, value in {"ETag": host.etag, "Last-Modified": host.date, **host.headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            end = start + host.cuts.pop(0) if host.cuts else len(content)
            for position in range(start, min(end, len(content)), 1 << 16):
                try:
                    self.wfile.write(content[position : min(position + (1 << 16), end)])
                except OSError:  # the client has gone
                    return
                time.sleep(host.pause_s)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
