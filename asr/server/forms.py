"""Read the form of a transcription request: what it asks for, checked; what cannot be honoured is refused by name.

Source: openai-python 3.57, ``types/audio/transcription_create_params.py``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from asr.errors import nearest, printable
from asr.server.errors import ApiError
from asr.sound.reader import SUFFIXES

FORMATS = ("json", "text", "srt", "vtt", "verbose_json", "diarized_json")
#: formats that can come as events
_STREAMED = ("json", "text", "diarized_json")
#: fields of one value, and of several; a client writes the second kind with or without brackets behind the name
_SINGLE = ("model", "response_format", "language", "prompt", "temperature", "stream", "chunking_strategy")
_SEVERAL = ("languages", "keywords", "hotwords", "timestamp_granularities", "include")
#: what the protocol has, and a recogniser that does not tell speakers apart cannot do
_SPEAKERS = ("known_speaker_names", "known_speaker_references")
#: fields of a form, and bytes of one; a thousand hotwords are plenty
_FIELDS = 1100
_FIELD_BYTES = 64 << 10
#: bytes of an upload that Starlette keeps in memory
_IN_MEMORY = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """Hold what a request asks for, apart from the audio."""

    model: str | None = None
    format: str = "json"
    words: bool = False
    segments: bool = True
    logprobs: bool = False
    stream: bool = False
    #: as they were written: PHRASE or PHRASE:weight
    hotwords: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """Read a form; its file is in memory, or, from 1 MB on, in a file without a name, until the block ends.

    Raises:
        ApiError: it is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(400, f"expected multipart/form-data with the field 'file', got '{kind or 'no content-type'}'")
    try:
        form = await request.form(max_files=1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    except FormParserError as error:  # Starlette 0.47 lets it through
        raise ApiError(400, f"the form cannot be read: {error}") from error
    try:
        yield form
    finally:
        await form.close()


def wanted(form: FormData) -> Wanted:
    """Return what a form asks for.

    Raises:
        ApiError: a field is unknown, has a value that is none of its own, or cannot be honoured.
    """
    for name in form:
        _check_known(name)
    single = {name: _one(form, name) for name in _SINGLE}
    several = {name: tuple(map(str, [*form.getlist(name), *form.getlist(f"{name}[]")])) for name in _SEVERAL}

    format = single["response_format"] or "json"
    _check_choice("response_format", format, FORMATS)
    is_streamed = _flag("stream", single["stream"])
    if is_streamed and format not in _STREAMED:
        raise _refused("stream", f"is for {', '.join(_STREAMED)}; {format} is written at the end")

    granularities = several["timestamp_granularities"]
    for each in granularities:
        _check_choice("timestamp_granularities", each, ("word", "segment"))
    if granularities and format != "verbose_json":
        raise _refused("timestamp_granularities", f"is for response_format verbose_json, not {format}")

    for each in several["include"]:
        _check_choice("include", each, ("logprobs",))
    if several["include"] and format != "json":
        raise _refused("include", f"is for response_format json, not {format}")

    _check_fixed(single)
    return Wanted(
        model=single["model"],
        format=format,
        words="word" in granularities,
        segments=not granularities or "segment" in granularities,
        logprobs=bool(several["include"]),
        stream=is_streamed,
        hotwords=several["keywords"] + several["hotwords"],
        languages=tuple(filter(None, [single["language"] or "", *several["languages"]])),
    )


def _check_known(name: str) -> None:
    plain = name.removesuffix("[]")
    if plain in _SPEAKERS:
        raise _refused(plain, "cannot be honoured: speakers are not told apart by their voices here")
    if plain.startswith("chunking_strategy["):
        raise _refused("chunking_strategy", "can be 'auto' only: recordings are cut at their pauses")
    if plain != "file" and name not in _SINGLE and plain not in _SEVERAL:
        raise _refused(name, f"is unknown{nearest(plain, ['file', *_SINGLE, *_SEVERAL])}")


def _check_fixed(single: dict[str, str | None]) -> None:
    """Refuse other values of fields than the one that describes what is done anyway."""
    if single["prompt"]:
        raise _refused("prompt", "cannot be honoured: a CTC model takes none; keywords[] names words to expect")
    if single["chunking_strategy"] not in (None, "", "auto"):
        raise _refused("chunking_strategy", "can be 'auto' only: recordings are cut at their pauses")
    try:
        temperature = float(single["temperature"] or 0)
    except ValueError:
        raise _refused("temperature", f"expected a number, got '{single['temperature']}'") from None
    if temperature != 0:
        raise _refused("temperature", "can be 0 only: nothing is drawn by chance here")


def check_language(languages: Sequence[str], known: str) -> None:
    """Refuse another language than the model's, and any if the model's was not stated.

    Raises:
        ApiError: it is refused.
    """
    if not languages:
        return
    if not known:
        raise _refused(
            "language", "cannot be honoured: nobody told this server its model's (--language en, when it starts)"
        )
    if all(_primary(each) != _primary(known) for each in languages):
        raise _refused("language", f"'{languages[0]}' cannot be honoured: this model's is '{known}'")


def _primary(language: str) -> str:
    """Return a language without its region: en of en-GB."""
    return language.lower().replace("_", "-").partition("-")[0]


def _one(form: FormData, name: str) -> str | None:
    values = form.getlist(name)
    if len(values) > 1:
        raise _refused(name, f"is there {len(values)} times; expected once")
    if values and not isinstance(values[0], str):
        raise _refused(name, "is a file; expected a text")
    return str(values[0]) if values else None


def _flag(name: str, value: str | None) -> bool:
    if value is not None and value.lower() not in ("true", "false", "1", "0", ""):
        raise _refused(name, f"expected true or false, got '{value}'")
    return (value or "").lower() in ("true", "1")


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise _refused(name, f"expected {', '.join(known)}; got '{value}'{nearest(value, known)}")


def _refused(name: str, why: str) -> ApiError:
    return ApiError(400, f"field '{name}' {why}", param=name)


@asynccontextmanager
async def saved(form: FormData) -> AsyncIterator[tuple[Path, str]]:
    """Write the form's audio to a file that is gone when the block ends; also yield its name, for messages.

    Raises:
        ApiError: there is no audio.
    """
    upload = form.get("file")
    if upload is None:
        raise ApiError(400, "field 'file' is missing", param="file")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "field 'file' is a text; expected a file, with a file's name", param="file")
    if not upload.size:
        raise ApiError(400, "field 'file' is empty (0 bytes)", param="file", code="invalid_audio")

    # The client's name is for messages. Of ours, only the suffix is the client's, if it is one of sound: for a few
    # kinds it says how to read them.
    name = printable(upload.filename or "upload")[-200:]
    suffix = PurePosixPath(name).suffix.lower()
    handle, path = tempfile.mkstemp(prefix="upload-", suffix=suffix if suffix in SUFFIXES else "")
    try:
        with os.fdopen(handle, "wb") as file:
            if upload.size <= _IN_MEMORY:  # written in less time than a thread takes to start
                _copy(upload.file, file)
            else:
                await run_in_threadpool(_copy, upload.file, file)
        yield Path(path), name
    finally:
        Path(path).unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    shutil.copyfileobj(source, target, 1 << 20)
