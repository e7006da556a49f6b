"""Serve the page at ``/``: one HTML file with its style and script, and a policy that lets nothing else run.

The policy names style and script by their hashes, which are computed from the file when the server starts.

Source: W3C, Content Security Policy Level 3, section 2.3.1 (sources by hash).
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_PAGE = Path(__file__).with_name("page.html")


def page_route() -> Route:
    """Return the route of the page, which is read once."""
    html = _PAGE.read_text(encoding="utf-8")
    headers = {
        "content-security-policy": policy(html),
        "permissions-policy": "microphone=(self)",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",  # another version of the server may be there by now
    }
    content = html.encode()

    async def page(request: Request) -> Response:
        return Response(content, media_type="text/html", headers=headers)

    return Route("/", page, methods=["GET"])


def policy(html: str) -> str:
    """Return the content security policy under which a page runs its own script and style, and nothing else.

    >>> policy("<style>p {}</style>").split("; ")[2]
    "style-src 'sha256-nQX7kkaBvVIcn3j7hC7YXNLqCHHZN8UijQFoyOsNz8c='"
    """
    rules = {
        "default-src": ["'none'"],
        # blob: the part of the script that runs on the audio thread
        "script-src": [*_hashes(html, "script"), "blob:"],
        "style-src": _hashes(html, "style"),
        "img-src": ["data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
        # no text becomes HTML or a script
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["'none'"],
    }
    return "; ".join(" ".join([name, *sources]) for name, sources in rules.items())


def _hashes(html: str, element: str) -> list[str]:
    contents = re.findall(f"<{element}[^>]*>(.*?)</{element}>", html, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in contents]
