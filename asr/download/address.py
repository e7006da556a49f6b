"""URLs: their user and password, which only their host is told, and where a host may send a download on to."""

from __future__ import annotations

import base64
import re
import urllib.error
import urllib.request
from http.client import HTTPMessage, HTTPResponse
from typing import IO
from urllib.parse import unquote, urlsplit

from asr import __version__

#: the scheme, and the user with the password
_LOGIN = re.compile(r"^([^/?#]*://)?([^/?#]*)@")


def without_login(url: str) -> str:
    """Return a URL without its user and password, as messages, logs and files show it.

    >>> without_login("https://user:secret@host/a@b")
    'https://host/a@b'
    """
    return _LOGIN.sub(lambda match: match[1] or "", url)


def login_of(url: str) -> str:
    """Return the header ``Authorization`` that a URL's user and password make (RFC 7617); empty: it has none.

    >>> login_of("https://user:p%40ss@host/a"), login_of("https://host/a")
    ('Basic dXNlcjpwQHNz', '')
    """
    match = _LOGIN.match(url)
    if match is None:
        return ""
    user, _, password = match[2].partition(":")
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def open_url(url: str, login: str, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    """Ask a host for a file, and return its answer.

    Args:
        url: http or https, without a login.
        login: the header ``Authorization``, or an empty string. It is not told to another host.

    Raises:
        ValueError: not such a URL.
        urllib.error.HTTPError: the host refuses, or sends the request on to where it may not.
        OSError, http.client.HTTPException: as ``urllib.request`` says.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("expected http:// or https://")
    own = {"User-Agent": f"asr-ctc/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=own | headers)
    if login:
        request.add_unredirected_header("Authorization", login)
    answer: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=timeout_s)
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects are followed to http and https only, never from https to http, and take no login to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is None:
            return None

        if new.type not in ("http", "https") or (req.type == "https" and new.type == "http"):
            problem = f"sent on to {without_login(newurl)}, which is not followed from {req.type}"
            raise urllib.error.HTTPError(req.full_url, code, problem, headers, fp)

        login = req.unredirected_hdrs.get("Authorization")
        if login and (new.type, new.host) == (req.type, req.host):
            new.add_unredirected_header("Authorization", login)
        return new
