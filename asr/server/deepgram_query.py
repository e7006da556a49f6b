"""Read the parameters of Deepgram's API; what cannot be honoured is refused by its name, in Deepgram's form.

Source: the parameters of deepgram-sdk 7.17 (``listen/v1``), and Deepgram's public reference of its API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse

from asr.errors import ConfigError, DataError, nearest
from asr.recordings.arrays import check_rate
from asr.server.errors import ApiError
from asr.server.samples import ENCODINGS
from asr.streaming.results import Rules

#: parameters that ask for what a recogniser of this toolkit does not do, unless they are false
_REFUSED = (
    *("callback", "callback_method", "custom_intent", "custom_topic", "detect_entities", "detect_language", "diarize"),
    *("diarize_model", "dictation", "filler_words", "intents", "language_hint"),
    *("measurements", "multichannel", "numerals", "paragraphs", "profanity_filter", "punctuate", "redact", "replace"),
    *("search", "sentiment", "smart_format", "summarize", "topics"),
)
#: parameters without effect on what is recognised: nothing is kept here, and nothing is counted
_WITHOUT_EFFECT = ("mip_opt_out", "tag", "extra")
_COMMON = ("model", "version", "language", "keyterm", "keywords", *_REFUSED, *_WITHOUT_EFFECT)
_LIVE = ("encoding", "sample_rate", "channels", "interim_results", "endpointing", "utterance_end_ms", "vad_events")
_FILES = ("utterances",)
#: shorter pauses than this end no passage, whatever ``endpointing`` asks for
_SHORTEST_PAUSE_MS = 200
#: the rules where ``endpointing`` is false: passages end because of their length only
_NO_END_POINTS = Rules(silence_s=3600.0, pause_s=3600.0)


@dataclass(frozen=True)
class Wishes:
    """Hold the parameters of a live stream."""

    model: str = ""
    language: str = ""
    encoding: str = "linear16"
    rate_hz: int = 0
    rules: Rules = field(default_factory=Rules)
    interim: bool = False
    utterance_end_s: float | None = None
    vad_events: bool = False
    #: words to expect, as they were written
    keyterms: tuple[str, ...] = ()


def refusal(error: ApiError, request_id: str) -> JSONResponse:
    """Return Deepgram's form of a refusal."""
    document = {"err_code": error.code or "INVALID_QUERY_PARAMETER", "err_msg": error.message, "request_id": request_id}
    return JSONResponse(document, error.status, headers={**error.headers, "dg-request-id": request_id})


def read_wishes(query: QueryParams) -> Wishes:
    """Return the parameters of a live stream.

    Raises:
        ApiError: one is unknown, cannot be honoured, or has a value that it cannot have.
    """
    _check_names(query, _LIVE)
    encoding = query.get("encoding", "")
    if encoding not in ENCODINGS:
        raise _wrong("encoding", encoding or "nothing", f"{', '.join(ENCODINGS)}; files go to POST /v1/listen")
    if query.get("channels", "1") != "1":
        raise _wrong("channels", query["channels"], "1: send one stream per channel")
    endpointing = query.get("endpointing", "").lower()
    rules = Rules()
    if endpointing == "false":
        rules = _NO_END_POINTS
    elif endpointing not in ("", "true"):
        pause_ms = max(_SHORTEST_PAUSE_MS, _number(query, "endpointing", "milliseconds, true or false"))
        try:
            rules = Rules(pause_s=pause_ms / 1000)
        except ConfigError as error:
            raise _wrong("endpointing", endpointing, str(error)) from error
    end_ms = _number(query, "utterance_end_ms", "milliseconds, at least 1000") if "utterance_end_ms" in query else None
    if end_ms is not None and end_ms < 1000:
        raise _wrong("utterance_end_ms", query["utterance_end_ms"], "milliseconds, at least 1000")
    return Wishes(
        query.get("model", ""),
        query.get("language", ""),
        encoding,
        _rate_hz(query),
        rules,
        is_true(query, "interim_results"),
        None if end_ms is None else end_ms / 1000,
        is_true(query, "vad_events"),
        keyterms(query),
    )


def check_file_query(query: Mapping[str, str]) -> None:
    """Check the parameters of a file.

    Raises:
        ApiError: one is unknown, or cannot be honoured.
    """
    if "encoding" in query:
        raise ApiError(400, "'encoding' is not supported for files here, which say what they are", param="encoding")
    _check_names(query, _FILES)


def _check_names(query: Mapping[str, str], own: tuple[str, ...]) -> None:
    for name, value in query.items():
        if name not in (*_COMMON, *own):
            raise ApiError(400, f"unknown parameter '{name}'{nearest(name, (*_COMMON, *own))}", param=name)
        if name in _REFUSED and value.lower() not in ("false", ""):
            raise ApiError(400, f"'{name}' is not supported here; leave it out", param=name)


def keyterms(query: QueryParams) -> tuple[str, ...]:
    """Return the words to expect, as they were written; ``keywords`` is the older name."""
    return (*query.getlist("keyterm"), *query.getlist("keywords"))


def is_true(query: Mapping[str, str], name: str) -> bool:
    """Return a parameter that is true or false; some clients write it with a capital.

    Raises:
        ApiError: it is something else.
    """
    value = query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise _wrong(name, query[name], "true or false")
    return value == "true"


def _number(query: Mapping[str, str], name: str, expected: str) -> int:
    value = query.get(name, "")
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise _wrong(name, value or "nothing", expected)
    return int(value)


def _rate_hz(query: Mapping[str, str]) -> int:
    rate_hz = _number(query, "sample_rate", "the rate of the audio in Hz")
    try:
        return check_rate(rate_hz)
    except DataError as error:
        raise _wrong("sample_rate", str(rate_hz), str(error)) from error


def _wrong(name: str, value: str, expected: str) -> ApiError:
    return ApiError(400, f"'{name}' is {value}; expected {expected}", param=name)
