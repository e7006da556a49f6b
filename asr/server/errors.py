"""Refuse requests with OpenAI's error object, and the status that makes a client try again or not.

Source: OpenAI's clients (openai-python 3.57, ``_base_client.py``) repeat 408, 409, 429 and 5xx, after the seconds in
``retry-after``, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from asr.errors import AsrError, printable

#: seconds after which a client that was refused for lack of room may try again
RETRY_S = 1
#: characters of a message: it may quote what a client sent
_LONGEST = 2000


class ApiError(Exception):
    """Say why a request is refused; ``param`` names the field at fault, ``code`` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = printable(message[:_LONGEST])
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = dict(headers or {})

    def document(self) -> dict[str, dict[str, str | None]]:
        """Return OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the whole response."""
        return JSONResponse(self.document(), self.status, headers=self.headers)


def busy(what: str) -> ApiError:
    """Return the refusal for lack of room, after which clients wait and try again."""
    return ApiError(
        429, what, code="rate_limit_exceeded", kind="rate_limit_error", headers={"retry-after": str(RETRY_S)}
    )


def invalid_hotwords(error: AsrError, name: str = "hotwords") -> ApiError:
    """Return the refusal of hotwords that are none, or that the model cannot write.

    Args:
        name: what the client calls them.
    """
    return ApiError(400, f"field '{name}': {error}", param=name)


def failed() -> ApiError:
    """Return what a client is told of a mistake of ours; the log has the rest."""
    return ApiError(500, "the server made a mistake; its log says more", code="internal_error", kind="server_error")


def stopping() -> ApiError:
    """Return what a client is told whose request the server has no time for any more."""
    return ApiError(
        503, "the server stops", code="stopping", kind="server_error", headers={"retry-after": str(RETRY_S)}
    )


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer an ``ApiError``."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what Starlette refuses: an unknown path, another method, a form that is none."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"unknown address: {request.method} {request.url.path}",
        405: f"{request.url.path} does not take {request.method}",
    }.get(error.status_code, error.detail)
    return ApiError(error.status_code, message, headers=error.headers).response()
